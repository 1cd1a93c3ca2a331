"""The overviews that a class raster's file has of its own, to be looked at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from threading import get_ident
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.errors import RasterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.core.classes import Class
    from geoseg.core.grid import Grid, Window
    from geoseg.maps.geotiff import ClassRaster


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOverview:
    """A class raster at 1 / 2^(level + 1) of its resolution, as its file has it."""

    raster: ClassRaster
    level: int
    """GDAL's number of the overview: 0 is half the resolution."""
    grid: Grid
    chunk: int
    arrays: tuple[str, ...] = ("classes",)

    @property
    def classes(self) -> tuple[Class, ...]:
        """The class table."""
        return self.raster.classes

    @property
    def nodata(self) -> int | None:
        """The value that is no class, if any."""
        return self.raster.nodata

    def read(self, name: str, window: Window) -> NDArray[Any]:  # noqa: ARG002 - one
        """Return the class values in a window inside the grid."""
        from rasterio.errors import RasterioError
        from rasterio.windows import Window as RasterioWindow

        at = RasterioWindow(window.x, window.y, window.width, window.height)
        try:
            dataset = _dataset(self.raster.path, self.level, get_ident())
            return self.raster.narrowed(np.asarray(dataset.read(1, window=at)))
        except RasterioError as error:
            raise RasterError(
                f"{self.raster.path}: an overview cannot be read: {error}"
            ) from error


@lru_cache(maxsize=64)
def _dataset(path: str, level: int, thread: int) -> Any:  # noqa: ANN401, ARG001
    """Open an overview once per thread; GDAL's handles are not for sharing."""
    import rasterio

    return rasterio.open(path, overview_level=level)


def file_overviews(raster: ClassRaster) -> tuple[FileOverview, ...]:
    """Return a file's overviews by halves, as far as they go on by halves."""
    import rasterio

    with rasterio.open(raster.path) as dataset:
        factors = dataset.overviews(1)
    levels = []
    grid = raster.grid
    for level, factor in enumerate(factors):
        grid = grid.resampled(y_factor=2, x_factor=2)
        with rasterio.open(raster.path, overview_level=level) as dataset:
            shape, chunk = dataset.shape, dataset.block_shapes[0][0]
        if factor != 2 ** (level + 1) or shape != (grid.height, grid.width):
            break
        levels.append(FileOverview(raster=raster, level=level, grid=grid, chunk=chunk))
    return tuple(levels)
