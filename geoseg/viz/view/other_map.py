"""Another class map, shown beside the first on the first one's grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.grid import Window
from geoseg.core.lookup import look_up, nearest_pixels
from geoseg.errors import MasksError
from geoseg.maps.overviews import Pyramid
from geoseg.maps.reader import dtype_of, read_plain
from geoseg.viz.picture import class_png
from geoseg.viz.view.classes_layer import TILE, ClassesLayer, tile_window

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.core.grid import Grid
    from geoseg.maps.reader import ClassReader


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OtherMap:
    """A class map on any grid, and the grid that it is shown on."""

    layer: ClassesLayer
    """The map on its own grid, with overviews that are made while one looks."""
    grid: Grid

    def tile(self, z: int, x: int, y: int) -> bytes:
        """Return a tile of the shown grid as PNG in class colours."""
        window = tile_window(z, x, y)
        factor = window.width / TILE
        grid = self.grid[window].resampled(y_factor=factor, x_factor=factor)
        return class_png(self._on(grid), self.layer.pyramid.classes)

    def at(self, row: int, column: int) -> dict[str, Any]:
        """Return the class at a pixel of the shown grid."""
        pixel = Window(y=row, x=column, height=1, width=1)
        return self.layer.named(int(self._on(self.grid[pixel])[0, 0]))

    def _on(self, grid: Grid) -> NDArray[Any]:
        """Return class values on a grid, from an overview that is about as fine."""
        pyramid = self.layer.pyramid
        dtype, blank = dtype_of(pyramid.classes), pyramid.nodata
        span = nearest_pixels(grid, grid.window, pyramid.grid, only_span=True).span
        ratio = 1.0 if span is None else math.sqrt(span.area / grid.pixels)
        depth = int(math.log2(max(ratio, 1)) + 1e-9)
        if span is None or not self.layer.is_readable(depth):
            return np.full((grid.height, grid.width), blank, dtype)
        reader = (pyramid.base, *pyramid.levels)[min(depth, len(pyramid.levels))]
        return look_up(
            lambda window: read_plain(reader, "classes", window), reader.grid,
            grid, grid.window, nothing=blank, dtype=dtype,
        )  # fmt: skip


def other_map(reader: ClassReader, grid: Grid) -> OtherMap:
    """Return another map to be shown on a grid.

    Raises:
        MasksError: They do not meet.
    """
    if nearest_pixels(grid, grid.window, reader.grid, only_span=True).span is None:
        raise MasksError(
            f"{reader.path} does not overlap the map that it is to be shown beside"
        )
    layer = ClassesLayer(reader=reader, pyramid=Pyramid(base=reader))
    return OtherMap(layer=layer, grid=grid)
