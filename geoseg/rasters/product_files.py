"""Which files of a product, a folder or an archive are bands, and which are not."""

from __future__ import annotations

import re
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from geoseg.core.text import redact
from geoseg.errors import RasterError
from geoseg.rasters.bands import band_in_file_name, is_sensors

RASTER_SUFFIXES: Final = frozenset(
    {".tif", ".tiff", ".jp2", ".img", ".png", ".jpg", ".jpeg", ".asc", ".dat", ".bil"}
)
_ARCHIVES: Final = {
    ".zip": "/vsizip/", ".tar": "/vsitar/", ".tgz": "/vsitar/", ".tar.gz": "/vsitar/",
}  # fmt: skip
# Folders of a product that hold its files, at any depth.
_INSIDE: Final = re.compile(
    r"GRANULE|IMG_DATA|R[126]0m|measurement|.*\.SAFE|L[12][AC]_T\d{2}[A-Z]{3}_.*",
    re.IGNORECASE,
)
_METADATA: Final = re.compile(
    r"MTD_(?:MSIL1C|MSIL2A|TL)\.xml|manifest\.safe|.*_MTL\.(?:txt|xml|json)",
    re.IGNORECASE,
)
# Files of products that are no bands: pictures, classifications, quality, angles.
_NO_BAND: Final = re.compile(
    r"(?:^|[_\-. ])(?:TCI|AOT|WVP|SCL|PVI|CLD|SNW|DDV|CLDPRB|SNWPRB"
    r"|(?:S[RT]_)?QA(?:_\w+)?|BQA|Fmask|SAA|SZA|VAA|VZA|(?:DN_)?udm2?|preview|thumb(?:nail)?(?:_\w+)?|browse|quicklook"
    r"|ql|QL_\w+|panchromatic(?:_dn)?|analytic_dn|visual|overview|MSK_\w+|ATRAN|CDIST|DRAD|EMIS|EMSD|TRAD|URAD|inc_map|ls_map"
    r"|QAI|HOT|DST|OVV|VZN"  # of FORCE, beside its BOA
    r"|ndvi|ndre|gndvi|osavi|lci)(?:_[126]0m|_clip)?$",
    re.IGNORECASE,
)
_LETTERED: Final = re.compile(r"(?:^|[_\-. ])[AC]0?[1-9]\d?$")
_RESOLUTION: Final = re.compile(r"_([126]0)m$", re.IGNORECASE)
# Landsat's, twice as fine as all others.
_PAN: Final = re.compile(r"L[COTEM]0[4-9]_\w+_B8$")


def file_stem(path: str) -> str:
    """Return the last part of a path or URL without its ending."""
    name = re.split(r"[/\\]", path.split("?", maxsplit=1)[0])[-1]
    return name.rpartition(".")[0] or name


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The rasters of a folder, an archive, a glob or a list that are bands or tiles."""

    paths: tuple[str, ...]
    """What GDAL opens."""
    left_out: tuple[str, ...] = ()
    """Names of those that are no bands."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, in a line."""
        if not self.left_out:
            return ()
        names = list(dict.fromkeys(self.left_out))
        shown = ", ".join(names[:12])
        more = f" and {len(names) - 12} more" if len(names) > 12 else ""
        return (f"left out, as they are not bands: {shown}{more}",)


def product_of(path: str) -> str | None:
    """Return the folder or archive that a path means with all its files, or None.

    A product's own metadata file (`MTD_MSIL2A.xml`, `…_MTL.txt`) means its folder.
    """
    place = Path(path)
    if place.is_dir():
        return path
    if _METADATA.fullmatch(place.name) and place.is_file():
        return str(place.parent)
    return path if _archive(path) and place.is_file() else None


def _archive(path: str) -> str | None:
    return next((v for s, v in _ARCHIVES.items() if path.lower().endswith(s)), None)


def files_in(path: str) -> list[str]:
    """Return the rasters in a folder or an archive, in the order of their names.

    Folders in it are looked into where they are those of a product.

    Raises:
        RasterError: The archive cannot be read.
    """
    prefix = _archive(path)
    if prefix is None:
        return [str(f) for f in _below(Path(path), 6)]
    try:
        members = _members(path)
    except (OSError, zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise RasterError(f"cannot open {redact(path)}: {error}") from error
    rasters = [m for m in members if _is_raster(Path(m))]
    return [f"{prefix}{path}/{member}" for member in sorted(rasters)]


def _members(path: str) -> list[str]:
    if path.lower().endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    with tarfile.open(path) as tar:
        return [m.name for m in tar if m.isfile()]


def _is_raster(file: Path) -> bool:
    return file.suffix.lower() in RASTER_SUFFIXES and not file.name.startswith(".")


def _below(folder: Path, depth: int) -> Iterator[Path]:
    inside = sorted(folder.iterdir())
    rasters = [f for f in inside if _is_raster(f) and f.is_file()]
    yield from rasters
    for child in inside:
        if depth and child.is_dir() and _INSIDE.fullmatch(child.name):
            yield from _below(child, depth - 1)


def bands_and_tiles(paths: Sequence[str], wanted: Sequence[str] | None = None) -> Files:
    """Return which of several files are pixels for a model.

    Where files are named like bands, those that are not are left out; where none is,
    only the pictures, masks and quality files that come with products are. Of a band
    that a product has at several pixel sizes the finest counts; the panchromatic band
    of Landsat, twice as fine as all others, where it is asked for.
    """
    kept = [p for p in paths if not _NO_BAND.search(file_stem(p))] or list(paths)
    bands = {path: band_in_file_name(path) for path in kept}
    lettered = any(_LETTERED.search(file_stem(p)) for p in kept)  # B1 is beside A1
    several = len({b for b in bands.values() if b}) > 1
    if not lettered and (several or any(map(is_sensors, kept))):
        kept = [p for p in kept if bands[p]]
        flat = [p for p in kept if "_SRE_" not in file_stem(p)]
        kept = flat if any("_FRE_" in file_stem(p) for p in flat) else kept
        kept = _finest(kept)
        words = {w.strip().lower() for w in wanted or ()}
        if not words & {"pan", "b8"}:
            kept = [p for p in kept if not _is_pan(p)] or kept
    finer = {_without_resolution(p) for p in kept}
    out = [p for p in paths if p not in set(kept)]
    left = tuple(_called(p) for p in out if _without_resolution(p) not in finer)
    return Files(paths=tuple(kept), left_out=left)


def beside_pixels(path: str) -> str | None:
    """Return the name of a picture, mask or quality file without what it is.

    None where a file's name tells of nothing like that.

    >>> beside_pixels("T32TPS_20250503T101031_TCI_10m.tif")
    'T32TPS_20250503T101031'
    """
    found = _NO_BAND.search(file_stem(path))
    return None if found is None else file_stem(path)[: found.start()]


def _called(path: str) -> str:
    """Return what a file that is no band is called: `TCI`, or its name."""
    found = _NO_BAND.search(file_stem(path))
    return found[0].strip("_-. ") if found else Path(path).name


def _is_pan(path: str) -> bool:
    return _PAN.search(file_stem(path)) is not None


def _without_resolution(path: str) -> str:
    return _RESOLUTION.sub("", file_stem(path))


def _finest(paths: Sequence[str]) -> list[str]:
    """Return the paths without those of which there is a finer version."""
    best: dict[str, tuple[int, str]] = {}
    for path in paths:
        found = _RESOLUTION.search(file_stem(path))
        size = int(found[1]) if found else 0
        key = _without_resolution(path) if found else path
        if key not in best or size < best[key][0]:
            best[key] = size, path
    return sorted((path for _, path in best.values()), key=paths.index)
