"""What files a raster is made of, all the way down, and whether each may be opened.

A VRT or a tile index names other files. Rasters are not trusted: such a file may lie
below the folder of the one that names it, or on the web server or in the bucket that
the user named, or where `--trust` says; nowhere else. What else VRTs can do (code, raw
bytes of any file, rasters written inside the XML) is refused. Files of HDF name others
too, and so do overviews and masks beside a raster.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from geoseg.core.text import redact
from geoseg.errors import RasterError
from geoseg.rasters.addresses import is_remote
from geoseg.rasters.coverage import covered
from geoseg.rasters.gdal import environment, open_dataset, reporting
from geoseg.rasters.hdf import DRIVERS, named_in
from geoseg.rasters.index_xml import NAMES, file_in, read_index, read_vrt
from geoseg.rasters.named_files import (
    ARCHIVES,
    allowed,
    allowed_remote,
    file_of,
    is_below,
    not_trusted,
    open_bytes,
    without_query,
)
from geoseg.rasters.packages import is_computed
from geoseg.rasters.tiff_pages import TIFF, check_pages
from geoseg.rasters.vectors import ogr, open_vectors

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rasterio import DatasetReader

    from geoseg.rasters.vectors import VectorFile

_LARGEST_XML: Final = 64_000_000
_DEEPEST: Final = 8
_GDAL_METADATA: Final = 42112
"""The TIFF tag that GDAL keeps its metadata in."""
_MOST_TAGS: Final = 1000
_LOCATION: Final = "location"
"""The field of a tile index that names its rasters."""
# Files beside a raster that GDAL opens as rasters with whatever driver knows them.
_RASTERS_BESIDE: Final = (".ovr", ".msk", ".aux", ".rrd")


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
    return without_query(path).lower().endswith(".vrt")


def is_index(path: str) -> bool:
    """Whether a path says that it is a tile index."""
    name = without_query(path).lower()
    return path.upper().startswith("GTI:") or bool(re.search(r"\.gti(\.\w+)?$", name))


def contents(path: str, trust: Sequence[str] = ()) -> Contents:
    """Return what a raster is made of, itself first.

    Args:
        path: What GDAL opens.
        trust: Folders, files and hosts that may be read although the raster itself,
            not the user, names them.

    Raises:
        RasterError: It names what it may not, or does what a raster need not.
    """
    return _Walk(tuple(trust)).contents(path, 0)


def opened_with(
    dataset: DatasetReader, path: str, known: Contents, trust: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the files that were opened, or are to be, with an open raster.

    Args:
        dataset: What GDAL has opened.
        path: The name by which it did.
        known: What is in it by its own words.
        trust: As for `contents`.

    Raises:
        RasterError: One of them lies where it may not.
    """
    return _beside(dataset, path, _Walk(tuple(trust)), 0, known.files)


@dataclass(frozen=True, slots=True)
class _Walk:
    """One way down; a file that is named a thousand times is looked at once."""

    trust: tuple[str, ...]
    seen: dict[str, Contents] = field(default_factory=dict)
    listings: dict[str, frozenset[str]] = field(default_factory=dict)
    """By folder, what lies in it."""

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
    if Path(path).is_file():
        check_pages(path)
    if not depth:
        return Contents(files=(path,))
    start = _start(path)
    if _is_text(start):
        raise RasterError(
            f"{redact(path)} is not the raster that its name promises but text that "
            "can name any file: it is not opened"
        )
    alone = start is None or (
        start.startswith(TIFF)
        and _is_alone(path, walk)
        and not _may_name_overviews(path)
    )
    if alone:
        return Contents(files=(path,))
    # A VRT's files are opened with any driver. The first that knows this one must be
    # among those that we mean.
    with (
        reporting("open", redact(path), path),
        environment(path),
        open_dataset(path) as dataset,
    ):
        return Contents(files=(path, *_beside(dataset, path, walk, depth)))


def _start(path: str) -> bytes | None:
    """Return how a file begins; None where that would be asked over a network."""
    if is_remote(file_of(path)):
        return None
    try:
        with Path(path).open("rb") as file:
            return file.read(64)
    except OSError:  # in an archive, or not there: GDAL will say so
        return b"" if path.startswith(ARCHIVES) else None


def _is_text(start: bytes | None) -> bool:
    """Whether a file begins like one that names other files."""
    text = (start or b"").lstrip(b"\xef\xbb\xbf \t\r\n")
    return text.startswith((b"<", b"{", b"DatasetHeader"))


def _is_alone(path: str, walk: _Walk) -> bool:
    """Whether no file beside a local raster is opened with it."""
    folder, name = os.path.split(path)
    if folder not in walk.listings:
        there = Path(folder).iterdir()
        walk.listings[folder] = frozenset(each.name.lower() for each in there)
    stem = name.lower().rpartition(".")[0]
    ours = {f"{n}{end}" for n in (name.lower(), stem) for end in _RASTERS_BESIDE}
    return not (ours | {f"{name.lower()}.aux.xml"}) & walk.listings[folder]


def _beside(
    dataset: DatasetReader,
    path: str,
    walk: _Walk,
    depth: int,
    known: Sequence[str] = (),
) -> tuple[str, ...]:
    """Return the files that are opened with one that GDAL has opened."""
    # Before GDAL looks for overviews, which it does for the list of files.
    _check_overviews(path, dataset.tags(ns="OVERVIEWS").items())
    found: dict[str, None] = {}
    files = list(dataset.files)
    if is_remote(path) and files and not is_remote(files[0]):
        path = files[0]  # zip://a.zip!b.tif as GDAL writes it
    own = file_of(path)
    folders = (Path(own).parent, Path(os.path.realpath(own)).parent)
    for named in files:
        target = file_of(named)
        if named in known or target in {path, own}:
            continue
        if is_remote(target):
            allowed_remote(named, target, path, walk.trust)
        elif not any(
            is_below(Path(target), r) for r in (*folders, *map(Path, walk.trust))
        ):
            raise not_trusted(named, path, "it is not below that file's folder")
        elif named.lower().endswith(_RASTERS_BESIDE):
            found.update(dict.fromkeys(walk.contents(named, depth + 1).files))
    if dataset.driver in DRIVERS:
        with open_bytes(path if path.startswith(ARCHIVES) else own) as file:
            inside = named_in(file, path)
        for named in inside:
            child = allowed(named, path, walk.trust)
            found.update(dict.fromkeys(walk.contents(child, depth + 1).files))
    return tuple(found)


def _check_overviews(path: str, told: Iterable[tuple[str, str]]) -> None:
    """Raise where overviews are said to be in another file than one beside it."""
    for key, named in told:
        name = named.strip().removeprefix(":::BASE:::")
        folder, slash, _ = name.replace(os.sep, "/").rpartition("/")
        own = f":{path}".replace(os.sep, "/")  # told by GDAL's driver for Sentinel-2
        near = not slash or (folder != "" and f":{folder}/" in own)
        beside = near and name.lower().endswith(_RASTERS_BESIDE)
        if key.upper() == "OVERVIEW_FILE" and not beside:
            raise RasterError(
                f"{redact(path)} names {redact(named)} as overviews, which is not "
                "opened: remove that, or build overviews with gdaladdo"
            )


def _may_name_overviews(path: str) -> bool:
    """Whether GDAL's metadata in a local TIFF (tag 42112) may name a file of overviews.

    True also where they are written so that only GDAL can tell.
    """
    with Path(path).open("rb") as file:
        head = file.read(16)
        order = "<" if head[:2] == b"II" else ">"
        big = head[2:4] in (b"+\0", b"\0+")
        count, entry, at = ("Q", "HHQQ", head[8:]) if big else ("H", "HHII", head[4:8])
        try:
            file.seek(struct.unpack(order + count.replace("H", "I"), at)[0])
            (tags,) = struct.unpack(
                order + count, file.read(struct.calcsize(order + count))
            )
            size = struct.calcsize(order + entry) * min(tags, _MOST_TAGS)
            for tag, _, length, place in struct.iter_unpack(
                order + entry, file.read(size)
            ):
                if tag == _GDAL_METADATA:
                    file.seek(place)
                    told = file.read(min(length, _LARGEST_XML)).upper()
                    if length > _LARGEST_XML or b"OVERVIEW" in told or b"&#" in told:
                        return True
        except (struct.error, OSError, OverflowError):
            return True
    return bool(tags > _MOST_TAGS)


# --- VRTs ---


def _of_vrt(path: str, walk: _Walk, depth: int) -> Contents:
    elements = read_vrt(path)
    items = ((e.get("key", ""), e.text or "") for e in elements if e.tag == "MDI")
    _check_overviews(path, items)
    named = {}
    for element in elements:
        if element.tag not in NAMES:
            continue
        key = file_in(element, path)
        if key[0] and key not in named:
            child = allowed(key[0], path, walk.trust, beside=key[1] == "1")
            named[key] = child, walk.contents(child, depth + 1)
    files = {path: None}
    for _, each in named.values():
        files.update(dict.fromkeys(each.files))
    inside = {key: each.covered for key, (_, each) in named.items()}
    return Contents(files=tuple(files), covered=covered(elements[0], inside))


# --- tile indexes ---


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """A layer of footprints."""

    file: str
    shown: str
    """What GDAL opens; the rasters lie beside it."""
    layer: str | None = None
    """The one that is meant of several."""

    @property
    def by(self) -> str:
        """The file that is opened."""
        return self.shown[4:] if self.shown.upper().startswith("GTI:") else self.shown


def _of_index(path: str, walk: _Walk, depth: int) -> Contents:
    table = _Table(file=path, shown=path)
    table = replace(table, file=table.by)
    if _is_text(_start(table.by)):
        root = read_index(table.by)
        told = root.find("IndexDataset")
        if root.findtext("LocationField", _LOCATION) != _LOCATION or told is None:
            raise _other_field(path)
        name, _ = file_in(told, table.by)
        if not (Path(name).is_absolute() or is_remote(name)):
            raise RasterError(
                f"{redact(path)} names the tile index {redact(name)}, which GDAL looks "
                "for in the working folder: write its whole path"
            )
        inner = allowed(name, table.by, walk.trust, beside=False)
        table = replace(table, file=inner, layer=root.findtext("IndexLayer"))
    return _of_table(table, walk, depth)


def _of_table(table: _Table, walk: _Walk, depth: int) -> Contents:
    """Return the files of a table of footprints."""
    opened = open_vectors(table.file, "the tile index", RasterError)
    if opened is None:
        raise RasterError(f"cannot open {redact(table.file)}: it holds no footprints")
    layer = _layer_of(table, opened)
    _check_table(table, layer)
    meta, _, shapes, fields = opened.read_raw(layer, columns=[_LOCATION])
    if _LOCATION not in meta["fields"]:
        raise _other_field(table.file)
    files = dict.fromkeys((table.shown, table.file))
    for named in _texts(fields[0]):
        child = allowed(named, table.by, walk.trust)
        files.update(dict.fromkeys(walk.contents(child, depth + 1).files))
    return Contents(files=tuple(files), footprints=_boxes(shapes))


def _layer_of(table: _Table, opened: VectorFile) -> str:
    """Return the layer that GDAL takes: the named one, or the only one."""
    layers = list(opened.layers)
    layer = table.layer or layers[0]
    if layer not in opened.layers or (table.layer is None and len(layers) > 1):
        raise RasterError(
            f"{redact(table.file)} has layers {', '.join(layers[:10])}: say in a .gti "
            "file which of them is the tile index (IndexLayer)"
        )
    return layer


def _check_table(table: _Table, layer: str) -> None:
    """Raise where GDAL may find other names in a table than we read.

    Its metadata name another column, layer or overviews. A view answers as it likes: by
    the version of SQLite, of which rasterio and pyogrio have their own.
    """
    about = ogr().read_info(table.file, layer=layer)
    told = {**(about["dataset_metadata"] or {}), **(about["layer_metadata"] or {})}
    settings = {key.upper(): value for key, value in told.items()}
    if settings.get("LOCATION_FIELD", _LOCATION) != _LOCATION:
        raise _other_field(table.file)
    if (
        settings.get("TILE_INDEX_LAYER", layer) != layer
        or any(key.startswith("OVERVIEW_") for key in settings)
        or is_computed(table.file, layer)
    ):
        raise RasterError(
            f"{redact(table.file)} names rasters otherwise than in the field location "
            f"of a table {layer}: build the index with gdaltindex"
        )


def _other_field(path: str) -> RasterError:
    return RasterError(
        f"{redact(path)} keeps its files in another field than `location`: build the "
        "index with gdaltindex"
    )


def _boxes(shapes: NDArray[np.object_]) -> NDArray[np.float64] | None:
    """Return the bounds of footprints, None where one has none."""
    import shapely

    bounds = shapely.bounds(shapely.from_wkb(shapes))
    return bounds if np.isfinite(bounds).all() else None


def _texts(values: NDArray[np.object_]) -> Iterator[str]:
    for value in values:
        if value is not None:
            yield str(value)
