"""The image as tiles on the map's grid, whatever its own grid and CRS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.grid import Grid, Window, squares
from geoseg.core.lookup import nearest_pixels
from geoseg.viz.picture import Image, encode, stretch
from geoseg.viz.view.classes_layer import TILE, Background, tile_window

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FIRST = 2  # what is finer than a quarter is read from the raster itself
_REGION = 2048
_SMALLEST = 256
_KEPT = 3
"""Choices of bands whose small copies are kept; each takes room on the disk."""

Bands = tuple[int, ...]
Limits = tuple[tuple[float, ...], tuple[float, ...]]
"""What is black and what is white, by band."""


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    """The image at a fraction of its resolution, in files of its own."""

    grid: Grid
    pixels: NDArray[Any]
    """(y, x, band), not stretched yet."""
    valid: NDArray[np.bool_]

    def fill(
        self, y: int, x: int, pixels: NDArray[Any], valid: NDArray[np.bool_]
    ) -> None:
        """Write a part, which begins at y, x."""
        part = np.s_[y : y + valid.shape[0], x : x + valid.shape[1]]
        self.pixels[part], self.valid[part] = pixels, valid


@dataclass(slots=True, kw_only=True, eq=False)
class _Copies(Background):
    """Small copies of some bands, made while one looks, which go with this."""

    image: Image
    levels: Sequence[_Level] = ()

    def start(self) -> None:
        """Begin to make them, if the image is large."""
        own = self.image.source.grid
        if max(own.height, own.width) > _SMALLEST << _FIRST:
            self.begin()

    def make(self) -> None:
        """Make small copies in a folder that goes with this."""
        source = self.image.source
        with TemporaryDirectory(prefix="geoseg-image-") as folder:
            self.levels = _empty_levels(self.image, Path(folder))
            parts = list(squares(source.grid, _REGION))
            for done, part in enumerate(self.followed(parts, seconds=1), start=1):
                self._fill_square(part)
                self.share = done / len(parts)
            self._ended.wait()
            self.levels = ()

    def _fill_square(self, square: Window) -> None:
        read, valid = self.image.source.read(square)
        pixels = np.moveaxis(read, 0, -1).astype(_dtype(self.image), copy=False)
        for depth in range(1, _FIRST + len(self.levels)):
            pixels, valid = _halved(pixels, valid)
            if depth >= _FIRST:
                y, x = square.y >> depth, square.x >> depth
                self.levels[depth - _FIRST].fill(y, x, pixels, valid)


@dataclass(slots=True, kw_only=True, eq=False)
class ImageLayer:
    """A raster beside the masks, in any of its bands and any contrast."""

    image: Image
    """As it is shown at first."""
    grid: Grid
    """The map's."""
    _copies: dict[Bands, _Copies] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)
    _changes: int = 0
    """What copies that are gone have added to the version."""

    @property
    def share(self) -> float:
        """How much is made of the small copies."""
        return min((copies.share for copies in self._copies.values()), default=1.0)

    @property
    def version(self) -> int:
        """Grows whenever tiles may have changed."""
        return self._changes + sum(c.version for c in self._copies.values())

    @property
    def problem(self) -> str:
        """Why there are no small copies, where making them failed."""
        return next((c.problem for c in self._copies.values() if c.problem), "")

    def start(self) -> None:
        """Begin to make small copies of a large image, in the background."""
        self._of(self.image.bands)

    def close(self) -> None:
        """Stop making them."""
        for copies in self._copies.values():
            copies.close()

    def tile(
        self, z: int, x: int, y: int, bands: Bands | None, limits: Limits | None
    ) -> bytes:
        """Return a tile of the map's grid as PNG, clear where there is no image.

        Args:
            z: Halvings; 0 is full resolution.
            x: Which tile of the row.
            y: Which row of tiles.
            bands: Which are shown, from 0; None for those of the beginning.
            limits: What is black and white; None for what the whole image says.

        Raises:
            RasterError: There are no such bands.
        """
        window = tile_window(z, x, y)
        if window.intersection(self.grid.window) is None:
            return encode(np.zeros((TILE, TILE, 4), np.uint8), "PNG")
        factor = window.width / TILE
        grid = self.grid[window].resampled(y_factor=factor, x_factor=factor)
        copies = self._of(bands or self.image.bands)
        image = copies.image
        if limits is not None and all(len(v) == len(image.bands) for v in limits):
            image = replace(image, low=limits[0], high=limits[1])
        return encode(_on(grid, image, copies.levels), "PNG")

    def limits(self, bands: Bands | None, cut: float, seen: Window | None) -> Limits:
        """Return what is to be black and white in the whole image, or in what is seen.

        Args:
            bands: Which bands, from 0; None for those of the beginning.
            cut: So many percent are darker, and as many are lighter.
            seen: What is seen, in pixels of the map; None for all of the image.

        Raises:
            RasterError: There are no such bands.
        """
        source = self._of(bands or self.image.bands).image.source
        window: Window | None = source.grid.window
        if seen is not None:
            inside = seen.intersection(self.grid.window)
            window = (
                inside
                and nearest_pixels(self.grid, inside, source.grid, only_span=True).span
            )
        return stretch(source, window or source.grid.window, cut=cut)

    def _of(self, bands: Bands) -> _Copies:
        """Return the image in some bands; the one that was asked for first goes."""
        with self._lock:
            if bands not in self._copies:
                alike = bands == self.image.bands
                image = self.image if alike else self.image.showing(bands)
                while len(self._copies) >= _KEPT:
                    gone = self._copies.pop(next(iter(self._copies)))
                    self._changes += gone.version
                    gone.close()
                self._copies[bands] = _Copies(image=image)
                self._copies[bands].start()
            return self._copies[bands]


def _on(grid: Grid, image: Image, levels: Sequence[_Level]) -> NDArray[np.uint8]:
    """Return the image on another grid, RGBA (y, x, 4), from a copy that is near."""
    nothing = np.zeros((grid.height, grid.width, 4), np.uint8)
    own = image.source.grid
    span = nearest_pixels(grid, grid.window, own, only_span=True).span
    if span is None:
        return nothing
    ratio = math.sqrt(span.area / (grid.height * grid.width))
    depth = int(math.log2(max(ratio, 1))) - _FIRST
    if depth < 0 or not levels:
        return image.on(grid)
    level = levels[min(depth, len(levels) - 1)]
    found = nearest_pixels(grid, grid.window, level.grid)
    if found.span is None:
        return nothing
    part = found.span.slices
    pixels = found.take(level.pixels[part], nothing=0)
    valid = found.take(level.valid[part], nothing=0)
    return image.coloured(np.moveaxis(pixels, -1, 0), valid)


def _dtype(image: Image) -> np.dtype[Any]:
    """Return what copies are kept in: the raster's own type where that is small."""
    own = image.source.dtype
    return own if own.kind in "iu" and own.itemsize <= 2 else np.dtype(np.float32)


def _empty_levels(image: Image, folder: Path) -> list[_Level]:
    levels: list[_Level] = []
    grid, dtype, bands = image.source.grid, _dtype(image), len(image.bands)
    for depth in range(1, 12):
        grid = grid.resampled(y_factor=2, x_factor=2)
        if depth < _FIRST:
            continue
        shape = (grid.height, grid.width)
        file = str(folder / f"{2**depth}")
        pixels = np.memmap(f"{file}.pixels", dtype, "w+", shape=(*shape, bands))
        valid = np.memmap(f"{file}.valid", np.bool_, "w+", shape=shape)
        levels.append(_Level(grid, pixels, valid))
        if max(shape) <= _SMALLEST:
            break
    return levels


def _halved(
    pixels: NDArray[Any], valid: NDArray[np.bool_]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the mean of the valid ones of every 2 x 2 pixels (y, x, band)."""
    height, width = valid.shape
    if height % 2 or width % 2:
        odd = ((0, height % 2), (0, width % 2))
        pixels = np.pad(pixels, (*odd, (0, 0)), mode="edge")
        valid = np.pad(valid, odd, mode="edge")
    height, width = valid.shape
    seen = valid[..., None].astype(np.float32)
    total, count = (
        a.reshape(height // 2, 2, width // 2, 2, -1).sum(axis=(1, 3))
        for a in (np.where(valid[..., None], pixels, 0).astype(np.float32), seen)
    )
    mean = total / np.maximum(count, 1)
    if pixels.dtype.kind in "iu":
        mean = np.rint(mean)
    return mean.astype(pixels.dtype), np.asarray(count[..., 0] > 0)
