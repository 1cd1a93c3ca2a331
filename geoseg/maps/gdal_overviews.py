"""The overviews that a class raster's file has of its own, to be looked at."""

from __future__ import annotations

from dataclasses import replace

from geoseg.core.text import redact
from geoseg.maps.geotiff import ClassRaster
from geoseg.rasters.gdal import environment, open_dataset, reporting


def file_overviews(raster: ClassRaster) -> tuple[ClassRaster, ...]:
    """Return a file's overviews by halves, as far as they go on by halves."""
    path = raster.path
    levels = []
    grid = raster.grid
    with environment(path), reporting("open overviews of", redact(path), path):
        with open_dataset(path) as dataset:
            factors = dataset.overviews(1)
        for level, factor in enumerate(factors):
            grid = grid.resampled(y_factor=2, x_factor=2)
            with open_dataset(path, level) as dataset:
                shape, chunk = dataset.shape, dataset.block_shapes[0][0]
            if factor != 2 ** (level + 1) or shape != (grid.height, grid.width):
                break
            levels.append(replace(raster, overview=level, grid=grid, chunk=chunk))
    return tuple(levels)
