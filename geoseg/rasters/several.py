"""Which files a glob, a folder or a list means, and what they are to each other.

Single-band files that are named like bands (`…_B04.tif`, `…_B08.tif`, `…_red.tif`) of
more than one band are stacked; where there are several of a band, they are mosaicked
first. All others are a mosaic.
"""

from __future__ import annotations

import glob
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from geoseg.core.text import redact
from geoseg.errors import RasterError
from geoseg.rasters.bands import band_in_file_name
from geoseg.rasters.file import RasterFile, open_file
from geoseg.rasters.gdal import Handles, is_remote
from geoseg.rasters.mosaic import mosaic, stack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from geoseg.rasters.source import Source, SourceBand

RASTER_SUFFIXES: Final = frozenset(
    {".tif", ".tiff", ".jp2", ".img", ".png", ".jpg", ".jpeg", ".asc", ".dat", ".bil"}
)
# How many of a source's files one thread keeps open.
_OPEN: Final = 64


def files_meant(path: str) -> list[str] | None:
    """Return the files that a glob or folder stands for; None where it is one raster.

    Raises:
        RasterError: There are none.
    """
    if is_remote(path) or path.startswith("/vsi"):
        return None
    place = Path(path)
    if place.is_dir():
        return _in_folder(place)
    if glob.has_magic(path) and not place.exists():
        found = sorted(
            f
            for f in glob.glob(path, recursive=True)  # noqa: PTH207 - as typed
            if Path(f).is_file()
        )
        if not found:
            raise RasterError(f"no file matches {path}")
        return found
    return None


def _in_folder(folder: Path) -> list[str] | None:
    if folder.suffix == ".zarr":
        return None
    files = sorted(f for f in folder.iterdir() if f.is_file())
    found = [str(f) for f in files if f.suffix.lower() in RASTER_SUFFIXES]
    if not found and (folder / "hdr.adf").exists():
        return None  # an ESRI grid is a folder
    if not found:
        wanted = ", ".join(sorted(RASTER_SUFFIXES))
        raise RasterError(f"{folder} is a folder without rasters ({wanted}) in it")
    return found


def open_several(
    paths: Sequence[str],
    *,
    name: str,
    nodata: float | None = None,
    wanted: Sequence[str] | None = None,
) -> Source:
    """Return several files as one source.

    Raises:
        RasterError: One cannot be opened, or they do not go together.
    """
    if len(paths) == 1:
        return open_file(paths[0], nodata=nodata, wanted=wanted)
    opened = _shared(open_all(paths, nodata=nodata, wanted=wanted))
    of_band: dict[str, list[RasterFile]] = {}
    for source in opened:
        band = band_in_file_name(source.path) if len(source.bands) == 1 else None
        of_band.setdefault(band or "", []).append(source)
    if "" in of_band or len(of_band) == 1:
        return mosaic(opened, name)
    return stack([mosaic(group, redact(name)) for group in of_band.values()], name)


def open_all(
    paths: Sequence[str],
    *,
    nodata: float | None = None,
    wanted: Sequence[str] | None = None,
) -> list[RasterFile]:
    """Open many at once: of remote ones each is a wait, of local ones a seek."""
    handles = Handles(limit=_OPEN)
    probe = len(paths) <= _OPEN
    open_one = partial(
        open_file, nodata=nodata, wanted=wanted, handles=handles, probe=probe
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
