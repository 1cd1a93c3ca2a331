"""What a GDAL dataset says of itself, and whether that can be segmented."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from geoseg.core.grid import Grid, wkt_of
from geoseg.core.text import redact
from geoseg.core.tiling import CHUNK
from geoseg.core.xarray_grid import GEOGRAPHIC
from geoseg.errors import RasterError
from geoseg.rasters.gcps import ControlPoints, control_points
from geoseg.rasters.hdf import DRIVERS
from geoseg.rasters.tiles import fits

if TYPE_CHECKING:
    from rasterio import DatasetReader

# GDAL decodes whole blocks. Larger ones are a mistake of whoever wrote the file, or an
# attack, and would break what the plan promises about memory.
MAX_BLOCK_BYTES: Final = 400_000_000
_MOST_PIXELS: Final = {"JPEG": 512, "PNG": 8 * 1032}
"""That a byte can hold: 64 of JPEG take two bits, 1032 bytes of deflate one byte."""
_MOST_BLOCKS: Final = 50_000_000
"""Of a band: GDAL keeps 16 bytes of each, all at once."""
_OF_BANDS: Final = re.compile(
    r"bands?|channels?|wavelengths?|spectral|variable|wl", re.IGNORECASE
)
"""Dims of netCDF whose steps are bands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a dataset says of itself.

    Each is asked for once: for any of these rasterio looks at every band.
    """

    count: int
    height: int
    width: int
    dtypes: tuple[str, ...]
    descriptions: tuple[str | None, ...]
    colours: tuple[str, ...]
    nodata: tuple[float | None, ...]
    flags: tuple[frozenset[int], ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    grid: Grid
    files: tuple[str, ...]
    tile: tuple[int, int]
    """Rows and columns of what GDAL decodes at once."""

    @classmethod
    def of(cls, dataset: DatasetReader) -> Self:
        """Return the header of an open dataset."""
        return cls(
            count=dataset.count,
            height=dataset.height,
            width=dataset.width,
            dtypes=tuple(dataset.dtypes),
            descriptions=tuple(dataset.descriptions),
            colours=_colours(dataset),
            nodata=tuple(None if n is None else float(n) for n in dataset.nodatavals),
            flags=tuple(
                frozenset(int(flag.value) for flag in flags)
                for flags in dataset.mask_flag_enums
            ),
            scales=tuple(dataset.scales),
            offsets=tuple(dataset.offsets),
            grid=_grid(dataset),
            files=tuple(dataset.files),
            tile=dataset.block_shapes[0] if dataset.count else (1, 1),
        )


def check_header(header: Header, dataset: DatasetReader, name: str) -> None:
    """Raise where the header says that it is nothing to segment."""
    if header.count == 0:
        inside = "; ".join(redact(s) for s in dataset.subdatasets[:3])
        raise RasterError(
            f"{name} has no bands of its own"
            + (
                f": open a part, or several as bands, such as {inside}"
                if inside
                else ""
            )
        )
    kinds = {d for d in header.dtypes if "complex" in d}
    if kinds:
        raise RasterError(
            f"{name} has complex pixels ({', '.join(sorted(kinds))}): models read real "
            "numbers, so make its amplitude or intensity first"
        )
    check_blocks(dataset, name)
    _check_size(header, dataset, name)
    unplaced = header.grid.transform.is_identity and not dataset.gcps[0]
    if unplaced and dataset.rpcs is not None:
        raise RasterError(
            f"{name} is placed by RPCs only, so its pixels have no regular grid: warp "
            "it first, gdalwarp -rpc IN OUT.tif"
        )
    if unplaced and header.grid.crs is not None:
        raise RasterError(
            f"{name} names a CRS, but not where its pixels lie in it: say so with "
            "gdal_edit.py -a_ullr LEFT TOP RIGHT BOTTOM, or open it with xarray, "
            "which reads coordinates that GDAL does not know"
        )


def check_blocks(dataset: DatasetReader, name: str) -> None:
    """Raise where a block, which is decoded whole, takes too much memory.

    Raises:
        RasterError: It does.
    """
    together = dataset.count if _is_pixel_interleaved(dataset) else 1
    height, width = max(dataset.block_shapes[:1], key=math.prod)
    blocks = -(-dataset.height // height) * -(-dataset.width // width)
    if blocks > _MOST_BLOCKS and dataset.driver in {"GTiff", "COG"}:
        raise RasterError(
            f"{name} is stored in {blocks:,} blocks of {height} x {width} pixels, "
            f"whose places alone take {16 * blocks / 1e9:.1f} GB: rewrite it in larger "
            "tiles, gdal_translate -co TILED=YES"
        )
    size = height * width * together * np.dtype(dataset.dtypes[0]).itemsize
    if size > MAX_BLOCK_BYTES:
        raise RasterError(
            f"{name} is stored in blocks of {height} x {width} pixels x {together} "
            f"band{'s' * (together > 1)}, {size:,} bytes each to decode (at most "
            f"{MAX_BLOCK_BYTES:,}): rewrite it in tiles, gdal_translate -co TILED=YES"
        )


def _check_size(header: Header, dataset: DatasetReader, name: str) -> None:
    """Raise where a picture says that it has more pixels than its bytes can hold.

    Its last pixel is decoded after all others, of which there are none.
    """
    file, most = Path(dataset.name), _MOST_PIXELS.get(dataset.driver)
    if most is None or not file.is_file():
        return
    size = file.stat().st_size
    if header.height * header.width > most * size:
        raise RasterError(
            f"{name} is cut off, or no picture: it says that it is {header.height} x "
            f"{header.width} pixels, which {size:,} bytes cannot hold"
        )


def control_of(dataset: DatasetReader, name: str) -> ControlPoints | None:
    """Return the points that place a dataset; None where it has a grid or no place."""
    points, crs = dataset.gcps
    if not points or not dataset.transform.is_identity:
        return None
    try:
        return control_points(points, crs)
    except RasterError as error:
        raise RasterError(
            f"{name} is placed by ground control points only, {error}: warp it first, "
            "gdalwarp IN OUT.tif"
        ) from error


def strips_note(header: Header, dataset: DatasetReader, name: str) -> tuple[str, ...]:
    """Return a note where every block of a row would decode the same strips again."""
    height, width = header.tile
    pixel = header.count * np.dtype(header.dtypes[0]).itemsize
    if (
        dataset.compression is None
        or width < header.width
        or fits(width * CHUNK, pixel)
    ):
        return ()
    told = (
        f"{name} is stored in strips of {height} x {width} pixels, which every block "
        "of a row decodes again: tiles are faster, gdal_translate -co TILED=YES"
    )
    return (told,)


def hdf_notes(dataset: DatasetReader, name: str) -> tuple[str, ...]:
    """Say what was guessed of a file of netCDF or HDF, and what GDAL did not grasp."""
    if dataset.driver not in DRIVERS:
        return ()
    notes = []
    if dataset.transform.is_identity and not dataset.gcps[0]:
        notes.append(
            f"{name}: GDAL does not know where its pixels lie, nor whether rows are "
            "rows: open it with xarray, which reads coordinates that GDAL has not"
        )
    elif dataset.crs is None and _in_degrees(dataset):
        notes.append(f"{name} has no CRS: its degrees are taken to be of EPSG:4326")
    extra = dataset.tags().get("NETCDF_DIM_EXTRA", "").strip("{}").split(",")
    steps = [dim for dim in extra if dim and not _OF_BANDS.fullmatch(dim)]
    if steps and dataset.count > 1:
        notes.append(
            f"{name}: its {dataset.count} bands are steps of {', '.join(steps)}, one "
            "after the other"
        )
    return tuple(notes)


def _in_degrees(dataset: DatasetReader) -> bool:
    """Whether a file of netCDF is placed by coordinates called latitude, longitude."""
    if dataset.driver != "netCDF" or dataset.transform.is_identity:
        return False
    called = {key.partition("#")[0].lower() for key in dataset.tags()}
    told = called & {"lat", "latitude"} and called & {"lon", "longitude"}
    left, bottom, right, top = dataset.bounds
    return bool(told) and -180 <= left <= right <= 360 and -91 <= bottom <= top <= 91


def _is_pixel_interleaved(dataset: DatasetReader) -> bool:
    return dataset.interleaving is not None and dataset.interleaving.value == "PIXEL"


def _grid(dataset: DatasetReader) -> Grid:
    try:
        crs = wkt_of(dataset.crs)
    except RasterError as error:
        raise RasterError(f"{redact(dataset.name)}: {error}") from error
    return Grid(
        crs=GEOGRAPHIC if crs is None and _in_degrees(dataset) else crs,
        transform=dataset.transform,
        height=dataset.height,
        width=dataset.width,
    )


def _colours(dataset: DatasetReader) -> tuple[str, ...]:
    try:
        return tuple(colour.name for colour in dataset.colorinterp)
    except (ValueError, KeyError):  # newer than this rasterio knows of
        return ("undefined",) * int(dataset.count)
