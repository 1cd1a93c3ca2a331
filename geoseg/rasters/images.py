"""A source's pixels as a file: a cloud-optimised GeoTIFF, or Zarr for xarray.

It is made beside and put in place when whole. Blocks are read by threads, kept until
then, and written as they come; the bytes do not depend on their order.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from geoseg._version import ANSWERS
from geoseg.core.files import replace, replacing
from geoseg.core.grid import Window, squares
from geoseg.errors import RasterError
from geoseg.execution.engine import unordered
from geoseg.execution.progress import reported
from geoseg.execution.resources import cores, return_freed_memory
from geoseg.rasters.cog import copy_as_cog
from geoseg.rasters.gdal import CACHE_BYTES, reporting_written
from geoseg.rasters.kept_blocks import KeptBlocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.rasters.time import Series

# What zarr was busy with when a write failed, asyncio would print on stderr.
logging.getLogger("asyncio").addHandler(logging.NullHandler())

Dtype = Literal["float32", "int16"]
Progress = Callable[[int, int], None]

NOTHING: Final = -32768
"""Nodata of int16."""
STEP: Final = 1e-4
"""What 1 of int16 is."""
_TILE: Final = 512
_AT_ONCE: Final = 1.1e9
"""Bytes that all blocks in work take at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBand:
    """A band as it is written."""

    name: str
    unit: str | None
    scale: float
    """What a stored number is multiplied by; 1 for float32."""
    tags: Mapping[str, str]


def blocks_of(series: Series) -> tuple[list[Window], int]:
    """Return in which windows a series is read, and by how many threads.

    So many that all of them together take bounded memory, whatever the machine.
    """
    side, threads = max(series.cell, _TILE), cores()
    while side > _TILE and threads * _bytes(series, side) > _AT_ONCE:
        side //= 2
    most = max(1, int(_AT_ONCE // _bytes(series, side)))
    return list(squares(series.grid, side)), min(threads, most)


def _bytes(series: Series, side: int) -> float:
    """Return what reading a block takes, with what is in work of it."""
    share = min(1.0, (side / series.cell) ** 2)
    return series.reading_bytes * share + side * side * 8 * len(series.bands)


def memory_of(series: Series) -> float:
    """Return how many bytes writing a series takes at most, beside the libraries."""
    blocks, threads = blocks_of(series)
    side = max(blocks[0].height, blocks[0].width)
    return (threads + 1) * _bytes(series, side)


def write_tif(
    series: Series,
    file: Path,
    bands: list[ImageBand],
    dtype: Dtype,
    tags: Mapping[str, str],
    progress: Progress,
) -> int:
    """Write a cloud-optimised GeoTIFF; return how many values int16 could not hold.

    It is read once more: GDAL says nothing of a disk that is full at the end.

    Raises:
        RasterError: It cannot be written, or a scene cannot be read.
    """
    import rasterio

    kept = _kept(series, file)
    with replacing(file) as part, reporting_written(file, RasterError):
        folder = part.with_name(f"{part.name}-work")
        folder.mkdir()
        tiles, whole = folder / "tiles.tif", folder / part.name
        with rasterio.Env(GDAL_NUM_THREADS="ALL_CPUS", GDAL_CACHEMAX=CACHE_BYTES):
            cut = _write_tiles(series, kept, tiles, bands, dtype, tags, progress)
        return_freed_memory()  # what many dates took, or the copy's comes on top
        copy_as_cog(
            tiles,
            whole,
            blocksize=_TILE,
            compress="deflate",
            level=1,
            predictor="yes",
            resampling="average",
        )
        replace(whole, part)
    kept.remove()
    return cut


def _kept(series: Series, product: Path) -> KeptBlocks:
    question = {
        "series": dict(series.facts),
        "bands": [(band.name, band.step) for band in series.bands],
        "nodata": series.reading.nodata,
        "cell": series.cell,
        "answers": ANSWERS,
    }
    return KeptBlocks.beside(product, question)


def _write_tiles(
    series: Series,
    kept: KeptBlocks,
    path: Path,
    bands: list[ImageBand],
    dtype: Dtype,
    tags: Mapping[str, str],
    progress: Progress,
) -> int:
    import rasterio

    grid, cut = series.grid, 0
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=grid.height,
        width=grid.width,
        count=len(bands),
        dtype=dtype,
        crs=grid.crs,
        transform=grid.transform,
        nodata=NOTHING if dtype == "int16" else np.nan,
        tiled=True,
        blockxsize=_TILE,
        blockysize=_TILE,
        interleave="band",
        compress="zstd",
        zstd_level=1,
        bigtiff="if_safer",
        sparse_ok=True,
    ) as out:
        out.update_tags(**tags)
        for i, band in enumerate(bands, 1):
            out.set_band_description(i, band.name)
            out.update_tags(i, **band.tags)
        out.scales = [band.scale for band in bands]
        out.units = [band.unit or "" for band in bands]
        for window, pixels in read_blocks(series, kept, progress):
            stored: NDArray[Any] = pixels
            if dtype == "int16":
                stored, beyond = as_int16(pixels, bands)
                cut += beyond
            out.write(stored, window=window.spans)
    return cut


def read_blocks(
    series: Series, kept: KeptBlocks, progress: Progress
) -> Iterator[tuple[Window, NDArray[np.float32]]]:
    """Yield blocks and their pixels as they come; Ctrl-C ends between two."""
    blocks, threads = blocks_of(series)
    found = unordered(partial(_read, series, kept), blocks, in_flight=threads)
    yield from reported(found, len(blocks), progress)


def _read(series: Series, kept: KeptBlocks, window: Window) -> NDArray[np.float32]:
    before = kept.get(window)
    if before is not None:
        return before
    pixels = np.asarray(series.read(window)[0], np.float32)
    kept.put(window, pixels)
    return pixels


def as_int16(
    pixels: NDArray[np.float32], bands: list[ImageBand]
) -> tuple[NDArray[np.int16], int]:
    """Return pixels (band, y, x) as they are stored, and how many did not fit."""
    out = np.empty(pixels.shape, np.int16)
    beyond = 0
    for values, stored, band in zip(pixels, out, bands, strict=True):
        number = np.rint(values.astype(np.float64) / band.scale)
        beyond += int(np.count_nonzero(np.abs(number) > -NOTHING - 1))
        stored[...] = np.where(
            np.isnan(number), NOTHING, np.clip(number, NOTHING + 1, -NOTHING - 1)
        )
    return out, beyond


def write_zarr(
    series: Series,
    folder: Path,
    template: Any,  # noqa: ANN401 - an xarray.Dataset
    fill: Callable[[Any, NDArray[np.float32]], tuple[Any, int]],
    progress: Progress,
) -> int:
    """Write Zarr that xarray opens; return how many values int16 could not hold.

    Args:
        series: What is written.
        folder: The store.
        template: The dataset, lazy, with its encoding.
        fill: Makes of a part of it and its pixels what is written there, and counts.
        progress: Told how many of how many blocks are done.

    Raises:
        RasterError: It cannot be written, or a scene cannot be read.
    """
    kept, cut = _kept(series, folder), 0
    with replacing(folder) as part, reporting_written(folder, RasterError):
        template.to_zarr(part, compute=False, zarr_format=2, consolidated=True)
        for window, pixels in read_blocks(series, kept, progress):
            y, x = window.slices
            one, beyond = fill(template.isel(y=y, x=x), pixels)
            cut += beyond
            one.to_zarr(part, region={"y": y, "x": x}, zarr_format=2)
        if folder.exists():
            shutil.rmtree(folder)
    kept.remove()
    return cut
