"""The overviews that a class raster's file has of its own, to be looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geoseg.core.text import redact
from geoseg.maps.geotiff import ClassRaster, read_band
from geoseg.rasters.gdal import environment, open_dataset, reporting

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.core.classes import Class
    from geoseg.core.grid import Grid, Window


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
    def path(self) -> str:
        """The file."""
        return self.raster.path

    @property
    def classes(self) -> tuple[Class, ...]:
        """The class table."""
        return self.raster.classes

    @property
    def nodata(self) -> int | None:
        """The value that is no class, if any."""
        return self.raster.nodata

    def attributes(self) -> dict[str, Any]:
        """Return nothing: it is not geoseg's own."""
        return {}

    def read(self, name: str, window: Window) -> NDArray[Any]:  # noqa: ARG002 - one
        """Return the class values in a window inside the grid."""
        values = read_band(self.raster.path, window, overview=self.level)
        return self.raster.narrowed(values)


def file_overviews(raster: ClassRaster) -> tuple[FileOverview, ...]:
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
            levels.append(
                FileOverview(raster=raster, level=level, grid=grid, chunk=chunk)
            )
    return tuple(levels)
