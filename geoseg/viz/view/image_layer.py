"""The image as tiles on the map's grid, whatever its own grid and CRS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from geoseg.core.grid import Grid, Window, squares
from geoseg.core.lookup import look_up, nearest_pixels
from geoseg.viz.picture import Image, encode
from geoseg.viz.view.classes_layer import TILE, Background, tile_window

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FIRST = 2  # what is finer than a quarter is read from the raster itself
_REGION = 2048
_SMALLEST = 256


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    """The image at a fraction of its resolution, RGBA, in a file of its own."""

    grid: Grid
    pixels: NDArray[np.uint8]


@dataclass(slots=True, kw_only=True, eq=False)
class ImageLayer(Background):
    """A raster beside the masks; small copies of it are made in the background."""

    image: Image
    grid: Grid
    """The map's."""
    _levels: Sequence[_Level] = ()

    def tile(self, z: int, x: int, y: int) -> bytes:
        """Return a tile of the map's grid as PNG, clear where there is no image."""
        window = tile_window(z, x, y)
        if window.intersection(self.grid.window) is None:
            return encode(np.zeros((TILE, TILE, 4), np.uint8), "PNG")
        factor = window.width / TILE
        grid = self.grid[window].resampled(y_factor=factor, x_factor=factor)
        return encode(self._on(grid), "PNG")

    def _on(self, grid: Grid) -> NDArray[np.uint8]:
        own = self.image.source.grid
        span = nearest_pixels(grid, grid.window, own, only_span=True).span
        if span is None:
            return np.zeros((grid.height, grid.width, 4), np.uint8)
        ratio = math.sqrt(span.area / (grid.height * grid.width))
        depth = int(math.log2(max(ratio, 1))) - _FIRST
        if depth < 0 or not self._levels:
            return self.image.on(grid)
        level = self._levels[min(depth, len(self._levels) - 1)]
        return look_up(
            lambda part: level.pixels[part.slices], level.grid, grid, grid.window,
            nothing=0, dtype=np.uint8, pixel=(4,),
        )  # fmt: skip

    def start(self) -> None:
        """Begin to make small copies of a large image, in the background."""
        own = self.image.source.grid
        if max(own.height, own.width) > _SMALLEST << _FIRST:
            self.begin()

    def make(self) -> None:
        """Make small copies in a folder that goes with this."""
        with TemporaryDirectory(prefix="geoseg-image-") as folder:
            self._levels = _empty_levels(self.image.source.grid, Path(folder))
            parts = list(squares(self.image.source.grid, _REGION))
            for done, part in enumerate(self.followed(parts, seconds=1), start=1):
                self._fill_square(part)
                self.share = done / len(parts)
            self._ended.wait()
            self._levels = ()

    def _fill_square(self, square: Window) -> None:
        pixels = self.image.read(square)
        for depth in range(_FIRST + len(self._levels)):
            pixels = _halved(pixels)
            if depth + 1 >= _FIRST and depth + 1 - _FIRST < len(self._levels):
                y, x = square.y >> (depth + 1), square.x >> (depth + 1)
                level = self._levels[depth + 1 - _FIRST].pixels
                height, width = pixels.shape[:2]
                level[y : y + height, x : x + width] = pixels


def _empty_levels(grid: Grid, folder: Path) -> list[_Level]:
    levels: list[_Level] = []
    for depth in range(1, 12):
        grid = grid.resampled(y_factor=2, x_factor=2)
        if depth < _FIRST:
            continue
        pixels = np.memmap(
            folder / f"{2**depth}.rgba",
            np.uint8,
            mode="w+",
            shape=(grid.height, grid.width, 4),
        )
        levels.append(_Level(grid, pixels))
        if max(grid.height, grid.width) <= _SMALLEST:
            break
    return levels


def _halved(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the mean of the visible ones of every 2 x 2 pixels."""
    height, width = rgba.shape[:2]
    if height % 2 or width % 2:
        rgba = np.pad(rgba, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    quarters = [rgba[y::2, x::2].astype(np.uint16) for y in (0, 1) for x in (0, 1)]
    seen = [(q[..., 3:] > 0).astype(np.uint16) for q in quarters]
    count = sum(seen)
    total = sum(q * s for q, s in zip(quarters, seen, strict=True))
    return (total // np.maximum(count, 1)).astype(np.uint8)
