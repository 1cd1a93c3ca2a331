"""What files a raster is made of, all the way down, and whether each may be opened.

A VRT or a tile index names other files. Rasters are not trusted: such a file may lie
below the folder of the one that names it, or on the web server or in the bucket that
the user named, or where `--trust` says; nowhere else. What else VRTs can do (code, raw
bytes of any file, rasters written inside the XML) is refused.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urljoin
from urllib.request import urlopen

import numpy as np

from geoseg.core.text import redact
from geoseg.errors import RasterError
from geoseg.rasters.addresses import host_of as host_of  # noqa: PLC0414 - likewise
from geoseg.rasters.addresses import is_remote
from geoseg.rasters.gdal import environment, squeezed

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from numpy.typing import NDArray

    from geoseg.core.grid import Grid

_LARGEST_XML: Final = 64_000_000
_DEEPEST: Final = 8
# Rectangles of a mosaic that are told apart; of more, gaps count as what GDAL reads.
_MOST_RECTANGLES: Final = 1_000_000
# Elements of a VRT whose text names a file.
_NAMES: Final = frozenset({"SourceFilename", "SourceDataset", "IndexDataset"})
# What a VRT has no need of, and what reads or runs what it likes.
_REFUSED_CLASSES: Final = frozenset({"VRTRawRasterBand", "VRTProcessedDataset"})
_CURL_OPTIONS: Final = frozenset(
    {"url", "max_retry", "retry_delay", "connecttimeout", "empty_dir", "list_dir"}
)
_ARCHIVES: Final = ("/vsizip/", "/vsitar/", "/vsigzip/")
_BUCKETS: Final = {
    "/vsis3/": "s3://", "/vsigs/": "gs://", "/vsiaz/": "az://", "/vsiadls/": "az://",
}  # fmt: skip
# GDAL's names for a part of a file: NETCDF:"file":variable.
_PART_OF_FILE: Final = re.compile(
    r"(?P<driver>NETCDF|HDF5|ZARR|GPKG|GTI|SENTINEL2_L\w+|GRIB|HDF4_\w+):"
    r"(?:\"(?P<quoted>[^\"]+)\"|(?P<plain>(?:[A-Za-z]:[\\/])?[^:]+))(?P<rest>:.*)?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a VRT or a tile index is made of."""

    files: tuple[str, ...]
    """Paths that GDAL opens, as it opens them; no file twice."""
    covered: tuple[NDArray[np.float64], ...] | None = None
    """For each band, (file, 4) first and last row and column edges, in pixels, of what
    has a file; None where that is not known, or nothing is left uncovered."""
    footprints: NDArray[np.float64] | None = None
    """Of a tile index: (file, 4) left, bottom, right and top, in map coordinates."""


def is_vrt(path: str) -> bool:
    """Whether a path says that it is a VRT."""
    return _plain(path).lower().endswith(".vrt")


def is_index(path: str) -> bool:
    """Whether a path says that it is a tile index."""
    name = _plain(path).lower()
    return path.upper().startswith("GTI:") or bool(re.search(r"\.gti(\.\w+)?$", name))


def _plain(path: str) -> str:
    return path.split("?", maxsplit=1)[0] if is_remote(path) else path


def file_of(path: str) -> str:
    """Return the file that a name of GDAL's means: without its part, or its archive.

    >>> file_of('NETCDF:"a.nc":v'), file_of("/vsizip/x/a.zip/b.tif")
    ('a.nc', 'x/a.zip')
    >>> file_of("/vsis3/bucket/a.tif"), file_of("/vsicurl/http://host/a.tif")
    ('s3://bucket/a.tif', 'http://host/a.tif')
    """
    part = _PART_OF_FILE.fullmatch(path)
    if part:
        return file_of(part["quoted"] or part["plain"])
    for archive in _ARCHIVES:
        if path.startswith(archive):
            return file_of(_archive(path.removeprefix(archive)))
    for prefix, scheme in _BUCKETS.items():
        if path.startswith(prefix):
            return scheme + path.removeprefix(prefix)
    if path.startswith("/vsicurl?"):
        return parse_qs(path.removeprefix("/vsicurl?")).get("url", [""])[0]
    return path.removeprefix("/vsicurl/").removeprefix("file://")


def _archive(path: str) -> str:
    """Return the archive of `archive/member`, as GDAL writes it."""
    if path.startswith("{"):
        return path[1:].partition("}")[0]
    found = re.match(r".*?\.(?:zip|kmz|tar|tgz|tar\.gz|gz)(?=/|$)", path, re.IGNORECASE)
    return found[0] if found else path


def contents(path: str, trust: Sequence[str] = ()) -> Contents:
    """Return what a raster is made of, itself first.

    Args:
        path: What GDAL opens.
        trust: Folders, files and hosts that may be read although the raster itself,
            not the user, names them.

    Raises:
        RasterError: It names what it may not, or does what a raster need not.
    """
    return _Walk(tuple(trust), {}).contents(path, 0)


@dataclass(frozen=True, slots=True)
class _Walk:
    """One way down; a file that is named a thousand times is looked at once."""

    trust: tuple[str, ...]
    seen: dict[str, Contents]

    def contents(self, path: str, depth: int) -> Contents:
        """Return what is in a file, so many files below the user's own."""
        key = path if is_remote(path) else os.path.realpath(path)
        if key not in self.seen:
            self.seen[key] = _contents(path, self, depth)
        return self.seen[key]


def _contents(path: str, walk: _Walk, depth: int) -> Contents:
    if depth > _DEEPEST:
        raise RasterError(
            f"{redact(path)} is a VRT of VRTs more than {_DEEPEST} deep: build one of "
            "the rasters themselves"
        )
    if is_index(path):
        return _of_index(path, walk, depth)
    if is_vrt(path):
        return _of_vrt(path, walk, depth)
    if depth and _looks_like_text(path):
        raise RasterError(
            f"{redact(path)} is not the raster that its name promises but text that "
            "can name any file: it is not opened"
        )
    return Contents(files=(path,))


def _looks_like_text(path: str) -> bool:
    """Whether a local file begins like one that names other files."""
    try:
        with Path(path).open("rb") as file:
            start = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
            return start.startswith((b"<", b"DatasetHeader"))
    except OSError:
        return False


# --- VRTs ---


def _of_vrt(path: str, walk: _Walk, depth: int) -> Contents:
    root = _parsed(path)
    _check_harmless(root, path)
    named = {}
    for element in root.iter():
        if element.tag in _NAMES and (element.text or "").strip():
            text = (element.text or "").strip()
            key = (text, element.get("relativeToVRT", element.get("relativetoVRT")))
            if key not in named:
                child = allowed(text, path, walk.trust, beside=key[1] == "1")
                named[key] = child, walk.contents(child, depth + 1)
    files = {path: None}
    for _, inside in named.values():
        files.update(dict.fromkeys(inside.files))
    return Contents(files=tuple(files), covered=_covered(root, named))


def _parsed(path: str) -> Element:
    """Return the XML of a VRT or a tile index.

    No document type is read, so no entity can grow.
    """
    from xml.etree import ElementTree as ET

    text = read_bytes(path, most=_LARGEST_XML)
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise RasterError(f"{redact(path)} declares entities, which no VRT needs")
    try:
        return ET.fromstring(text)  # noqa: S314 - see above
    except (ET.ParseError, RecursionError, ValueError) as error:
        raise RasterError(
            f"cannot open {redact(path)}: it is not the XML of a VRT ({error})"
        ) from error


def read_bytes(path: str, most: int) -> bytes:
    """Return what is in a small file that GDAL could open, wherever it lies.

    Raises:
        RasterError: It cannot be read, or is larger than `most` bytes.
    """
    try:
        with _opened(path) as file:
            data = file.read(most + 1)
    except Exception as error:  # fsspec's are of many kinds
        raise RasterError(
            f"cannot open {redact(path)}: {squeezed(error, path)}"
        ) from error
    if len(data) > most:
        raise RasterError(f"{redact(path)} is larger than {most:,} bytes")
    return bytes(data)


def _opened(path: str) -> Any:  # noqa: ANN401 - a file to read, of three libraries
    target = file_of(path)
    if path.startswith(_ARCHIVES) or is_remote(target):
        if target == _for_fsspec(path) and target.lower().startswith("http"):
            return urlopen(target, timeout=20)  # noqa: S310 - http or https
        import fsspec

        return fsspec.open(_for_fsspec(path), "rb")
    return Path(path.removeprefix("file://")).open("rb")


def _for_fsspec(path: str) -> str:
    """Return GDAL's name of a file as fsspec writes it."""
    for archive, scheme in (("/vsizip/", "zip"), ("/vsitar/", "tar")):
        if path.startswith(archive):
            inner = path.removeprefix(archive)
            holder = _archive(inner)
            braces = 2 * inner.startswith("{")
            member = inner[len(holder) + braces :].lstrip("/")
            return f"{scheme}://{member}::{_for_fsspec(holder)}"
    return file_of(path)


def _check_harmless(root: Element, path: str) -> None:
    """Raise where a VRT does what can read or run what it likes."""
    for element in root.iter():
        kind = element.get("subClass", "")
        tag = element.tag
        if kind in _REFUSED_CLASSES or tag in {"OOI", "ProcessingSteps"}:
            what = kind or tag
        elif tag == "PixelFunctionLanguage" and (element.text or "").strip() != "C":
            what = f"a pixel function in {element.text}"
        elif tag == "PixelFunctionCode":
            what = "code of its own"
        else:
            continue
        raise RasterError(
            f"{redact(path)} is a VRT with {what}, which can read any file or run "
            "code: make a raster of it first, with gdal_translate"
        )


# --- where a named file lies ---


def allowed(
    named: str, by: str, trust: Sequence[str] = (), *, beside: bool = True
) -> str:
    """Return the path of a file that a raster, index or item names.

    Args:
        named: As it is written there.
        by: The file that names it.
        trust: Folders, files and hosts that may be read beside.
        beside: Whether a relative path is relative to the folder of `by`.

    Raises:
        RasterError: It lies neither below the folder of `by`, nor on its host, nor
            where `trust` says; or it is written in a way that can mean anything.
    """
    if named.lstrip().startswith("<") or "\n" in named:
        raise RasterError(
            f"{redact(by)} holds another raster as XML instead of a file's name: "
            "it is not opened"
        )
    if named.startswith("/vsicurl?"):
        extra = set(parse_qs(named.removeprefix("/vsicurl?"), keep_blank_values=True))
        if not extra <= _CURL_OPTIONS:
            raise _not_trusted(named, by, "it sets options of the transfer")
    elif named.startswith("/vsi") and not named.startswith(
        (*_ARCHIVES, *_BUCKETS, "/vsicurl/")
    ):
        raise _not_trusted(named, by, "it is a virtual file")
    target = file_of(named)
    if is_remote(target):
        return _allowed_remote(named, target, by, trust)
    home = file_of(by)
    if by != home or is_remote(home):  # in an archive or a bucket, or on a server
        return _sibling(by, named)
    if _PART_OF_FILE.fullmatch(target) or re.match(r"[A-Za-z][\w+.-]+:", target):
        raise _not_trusted(named, by, "it is not a plain path")
    folder = Path(home).parent
    place = folder / target if beside else Path(target)
    if not any(_below(place, root) for root in (folder, *map(Path, trust))):
        raise _not_trusted(named, by, "it is not below that file's folder")
    return named.replace(target, str(place))


def absolute_href(href: str, by: str) -> str:
    """Return an address that a file of a server or bucket names, as its whole.

    Relative ones stay where the file is a local one: `allowed` knows its folder.

    >>> absolute_href("../b/x.tif", "https://host/a/c/item.json")
    'https://host/a/b/x.tif'
    >>> absolute_href("./x.tif", "s3://bucket/a/item.json")
    's3://bucket/a/x.tif'
    """
    home = host_of(by)
    if not home or is_remote(href) or href.startswith("/vsi"):
        return href
    scheme, _, rest = by.partition("://")
    if scheme.lower() in {"http", "https"}:
        return urljoin(by, href)
    bucket, _, key = rest.partition("/")
    joined = posixpath.normpath(posixpath.join("/", posixpath.dirname(key), href))
    return f"{scheme}://{bucket}{joined}"


def _allowed_remote(named: str, target: str, by: str, trust: Sequence[str]) -> str:
    host = host_of(target)
    if host == host_of(file_of(by)) or host in {host_of(t) or t for t in trust}:
        return named
    raise _not_trusted(named, by, f"it is on {host}", host)


def _sibling(by: str, named: str) -> str:
    """Return a file beside another one in a bucket or an archive."""
    place = PurePosixPath(named)
    if place.is_absolute() or ".." in place.parts or ":" in named:
        raise _not_trusted(named, by, "it is not below that file's folder")
    return f"{_plain(by).rpartition('/')[0]}/{named}"


def _below(place: Path, root: Path) -> bool:
    """Whether a file lies in a folder or is it, symbolic links followed."""
    try:
        return Path(os.path.realpath(place)).is_relative_to(os.path.realpath(root))
    except (OSError, ValueError):
        return False


def _not_trusted(named: str, by: str, why: str, what: str = "") -> RasterError:
    shown = redact(named)
    shown = shown if len(shown) <= 120 else f"{shown[:119]}…"
    return RasterError(
        f"{redact(by)} names {shown}, which is not opened: {why}; if you know it, add "
        f"--trust {what or redact(file_of(named))}"
    )


# --- what of a mosaic has a file ---


def _covered(
    root: Element, named: dict[tuple[str, str | None], tuple[str, Contents]]
) -> tuple[NDArray[np.float64], ...] | None:
    """Return, band by band, which pixels of a VRT have a file; None where all have.

    GDAL reads 0 where none is and calls it valid; a VRT with nodata reads that.
    """
    if root.get("subClass"):  # warped: GDAL knows itself
        return None
    try:
        size = float(root.get("rasterYSize", 0)), float(root.get("rasterXSize", 0))
        bands = [_rectangles(band, named) for band in root.findall("VRTRasterBand")]
    except (TypeError, ValueError):
        return None  # GDAL will say what is wrong with it
    if not bands or all(_is_whole(rectangles, size) for rectangles in bands):
        return None
    return tuple(bands)


def covered_by(
    inside: Contents, grid: Grid, bands: int
) -> tuple[NDArray[np.float64], ...] | None:
    """Return what of a raster has files, band by band; None where all has.

    Args:
        inside: What the raster is made of.
        grid: Where its pixels are.
        bands: How many it has.
    """
    if inside.footprints is None or not grid.is_rectilinear:
        return inside.covered
    x, y = inside.footprints[:, ::2], inside.footprints[:, 1::2]
    t = ~grid.transform
    columns = np.sort(t.a * x + t.c, axis=1)
    rows = np.sort(t.e * y + t.f, axis=1)
    rectangles = np.concatenate([rows, columns], axis=1)
    whole = _is_whole(rectangles, (float(grid.height), float(grid.width)))
    return None if whole else (rectangles,) * bands


def _rectangles(
    band: Element, named: dict[tuple[str, str | None], tuple[str, Contents]]
) -> NDArray[np.float64]:
    found: list[NDArray[np.float64]] = []
    everything = np.array([[-np.inf, np.inf, -np.inf, np.inf]])
    for source in band:
        name = source.find("SourceFilename")
        if not source.tag.endswith("Source") or name is None:
            continue
        there, here = _edges(source.find("DstRect")), _edges(source.find("SrcRect"))
        if there is None:
            return everything
        key = (name.text or "").strip(), name.get("relativeToVRT")
        inside = named[key][1].covered if key in named else None
        number = int(source.findtext("SourceBand", "1").removeprefix("mask,"))
        if inside is None or here is None or not 0 < number <= len(inside):
            found.append(there[None])
        else:
            found.append(_moved(inside[number - 1], here, there))
        if not np.isfinite(found[-1]).all() or sum(map(len, found)) > _MOST_RECTANGLES:
            return everything
    return np.concatenate(found) if found else np.zeros((0, 4))


def _moved(
    rectangles: NDArray[np.float64], here: NDArray[Any], there: NDArray[Any]
) -> NDArray[np.float64]:
    """Return rectangles of a source's pixels as they lie in the VRT's."""
    out = rectangles.copy()
    for low in (0, 2):
        size = float(here[low + 1] - here[low])
        scale = (there[low + 1] - there[low]) / size if size else np.nan
        edges = (rectangles[:, low : low + 2] - here[low]) * scale + there[low]
        out[:, low : low + 2] = edges.clip(there[low], there[low + 1])
    return out


def _edges(rectangle: Element | None) -> NDArray[np.float64] | None:
    """Return first and last row and column edge."""
    if rectangle is None:
        return None
    x, y, width, height = (
        float(rectangle.get(key, 0)) for key in ("xOff", "yOff", "xSize", "ySize")
    )
    return np.array([y, y + height, x, x + width])


def _is_whole(rectangles: NDArray[np.float64], size: tuple[float, float]) -> bool:
    """Whether one rectangle covers everything, the usual case of a stack."""
    y, bottom, x, right = rectangles.T
    whole = (y <= 0.5) & (x <= 0.5) & (bottom >= size[0] - 0.5)
    return bool((whole & (right >= size[1] - 0.5)).any())


# --- tile indexes ---


def _of_index(path: str, walk: _Walk, depth: int) -> Contents:
    index = path[4:] if path.upper().startswith("GTI:") else path
    if _looks_like_text(index):
        root = _parsed(index)
        _check_harmless(root, index)
        told = root.findtext("IndexDataset", "").strip()
        if root.findtext("LocationField", "location").strip() != "location" or not told:
            raise RasterError(
                f"{redact(path)} keeps its files in another field than `location`: "
                "build the index with gdaltindex"
            )
        beside = root.find("IndexDataset")
        relative = beside is None or beside.get("relativeToVRT", "1") == "1"
        inner = allowed(told, index, walk.trust, beside=relative)
        inside = _of_table(inner, walk, depth)
        return replace(inside, files=(path, *inside.files))
    return _of_table(index, walk, depth, shown=path)


def _of_table(
    index: str, walk: _Walk, depth: int, shown: str | None = None
) -> Contents:
    """Return the files of a table of footprints."""
    import pyogrio.raw
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        with environment(index):
            meta, _, shapes, fields = pyogrio.raw.read(index, columns=["location"])
    except (DataSourceError, DataLayerError, ValueError) as error:
        raise RasterError(f"cannot open {redact(index)}: {error}") from error
    if "location" not in meta["fields"]:
        raise RasterError(
            f"{redact(index)} has no field `location` that names its rasters: build "
            "the index with gdaltindex"
        )
    files = {shown or index: None}
    for named in _texts(fields[0]):
        child = allowed(named, index, walk.trust)
        files.update(dict.fromkeys(walk.contents(child, depth + 1).files))
    return Contents(files=tuple(files), footprints=_boxes(shapes))


def _boxes(shapes: NDArray[np.object_]) -> NDArray[np.float64] | None:
    """Return the bounds of footprints, None where one has none."""
    import shapely

    bounds = shapely.bounds(shapely.from_wkb(shapes))
    return bounds if np.isfinite(bounds).all() else None


def _texts(values: NDArray[np.object_]) -> Iterator[str]:
    for value in values:
        if value is not None:
            yield str(value)
