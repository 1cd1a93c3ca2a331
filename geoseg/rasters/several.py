"""Which files a glob, a folder or a list means, and what they are to each other.

Single-band files that are named like bands (`…_B04.tif`, `…_B08.tif`, `…_red.tif`) of
more than one band are stacked; where there are several of a band, they are mosaicked
first. All others are a mosaic.
"""

from __future__ import annotations

import glob
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from geoseg.errors import RasterError
from geoseg.rasters.addresses import is_remote
from geoseg.rasters.bands import band_in_file_name
from geoseg.rasters.file import NOTHING_TOLD, FileHints, RasterFile, open_raster
from geoseg.rasters.gcps import on_control_points
from geoseg.rasters.gdal import Handles
from geoseg.rasters.mosaic import mosaic, stack
from geoseg.rasters.product_files import (
    RASTER_SUFFIXES,
    bands_and_tiles,
    files_in,
    product_of,
)
from geoseg.rasters.source import Source, SourceBand, noted
from geoseg.rasters.zarrs import is_zarr

if TYPE_CHECKING:
    from collections.abc import Iterable

# How many of a source's files one thread keeps open.
_OPEN: Final = 64


def files_meant(path: str) -> list[str] | None:
    """Return the files that a glob, folder or archive stands for; None for one raster.

    Raises:
        RasterError: There are none.
    """
    if is_remote(path) or path.startswith("/vsi"):
        return None
    product = product_of(path)
    if product is not None:
        return _in_product(Path(product))
    if glob.has_magic(path) and not Path(path).exists():
        found = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 - as typed
        files = [f for f in found if Path(f).is_file()]
        if not found:
            raise RasterError(f"no file matches {path}")
        return files or found  # folders, each of a product
    return None


def _in_product(place: Path) -> list[str] | None:
    if is_zarr(str(place)):
        return None
    found = files_in(str(place))
    if not found and (place / "hdr.adf").exists():
        return None  # an ESRI grid is a folder
    if not found:
        endings = ", ".join(sorted(RASTER_SUFFIXES))
        kind = "a folder" if place.is_dir() else "an archive"
        raise RasterError(
            f"{place} is {kind} without rasters ({endings}) in it{_instead(place)}"
        )
    return found


def _instead(place: Path) -> str:
    """Return what to give instead of a folder in which no rasters lie."""
    if place.suffix.lower() in {".gdb", ".crf"}:
        return "; it is Esri's: export its raster as a GeoTIFF (Copy Raster)"
    inside = sorted(f for f in place.iterdir() if f.is_dir()) if place.is_dir() else []
    below = next((f for f in inside if files_in(str(f))), None)
    return "" if below is None else f"; they lie deeper, as in {below}: name that"


def open_several(
    paths: Sequence[str], *, name: str, told: FileHints = NOTHING_TOLD
) -> Source:
    """Return several files as one source.

    Raises:
        RasterError: One cannot be opened, or they do not go together.
    """
    files = bands_and_tiles(paths, told.wanted)
    more = [f"{name}: {note}" for note in files.notes]
    if len(files.paths) == 1:
        only = open_raster(files.paths[0], told)
        return noted(on_control_points(only, only.control), *more)
    opened = _shared(open_all(files.paths, told))
    sources = [on_control_points(file, file.control) for file in opened]
    of_band: dict[str, list[Source]] = {}
    for file, source in zip(opened, sources, strict=True):
        of_band.setdefault(_band_of(file), []).append(source)
    if "" in of_band or len(of_band) == 1:
        return noted(mosaic(sources, name), *more)
    layers = [mosaic(group, name) for group in of_band.values()]
    return noted(stack(layers, name), *more)


def _band_of(file: RasterFile) -> str:
    """Return which band a file is by its name: B4 of two sensors is not the same."""
    if len(file.bands) != 1 or (named := band_in_file_name(file.path)) is None:
        return ""
    return file.bands[0].common_name or named


def open_all(paths: Iterable[str], told: FileHints = NOTHING_TOLD) -> list[RasterFile]:
    """Open many at once: of remote ones each is a wait, of local ones a seek."""
    paths = list(paths)
    handles = Handles(limit=_OPEN)
    open_one = partial(
        open_raster, told=told, handles=handles, probe=len(paths) <= _OPEN
    )
    with ThreadPoolExecutor(min(16, len(paths))) as pool:
        return list(pool.map(open_one, paths))


def _shared(sources: Sequence[RasterFile]) -> list[RasterFile]:
    """Return them with equal parts made one, so that thousands pickle to little."""
    bands: dict[tuple[SourceBand, ...], tuple[SourceBand, ...]] = {}
    return [
        replace(
            source,
            grid=replace(
                source.grid, crs=source.grid.crs and sys.intern(source.grid.crs)
            ),
            bands=bands.setdefault(source.bands, source.bands),
        )
        for source in sources
    ]
