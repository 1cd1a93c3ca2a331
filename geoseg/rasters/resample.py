"""A source on other pixels: another pixel size, other edges, the same axes.

A new pixel larger than the old ones is their average, weighted by the area they share;
a smaller one is interpolated bilinearly between the four centres around its own. All
weights come from the pixel's place in the grid and sums run in one fixed order, so that
a pixel's value, bit by bit, does not depend on the window that it was read in (GDAL's
warper approximates per chunk, and its chunks are the caller's windows).

Only valid pixels take part. The new pixel is valid where at least half of the weight
that falls on the raster falls on valid pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from geoseg.core.grid import Grid, Window
from geoseg.core.loops import compiled_late
from geoseg.errors import RasterError
from geoseg.rasters.source import Derived, Source, check_inside
from geoseg.rasters.time_steps import of_each_band
from geoseg.rasters.validity import all_valid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

# How much is held at once of the source, and of sums, in bytes.
_BYTES_AT_ONCE: Final = 64_000_000
# Grids written in decimal degrees miss each other by some 1e-9 pixels; nearer than this
# (in pixels, at the far end of the raster) they are meant to be the same.
_SNAP: Final = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class OnGrid(Derived):
    """A source on the pixels of another grid, filled by a few rows at a time."""

    target: Grid
    """Where its pixels are."""

    @property
    def grid(self) -> Grid:
        """Where its pixels are."""
        return self.target

    @property
    def place(self) -> dict[str, Any]:
        """What its identity says of the grid."""
        return {
            "transform": list(self.target.transform)[:6],
            "shape": [self.target.height, self.target.width],
        }

    def read(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read a window that lies inside the grid; see `Source.read`."""
        check_inside(self.name, self.target, window)
        pixels = np.zeros((len(self.bands), window.height, window.width), self.dtype)
        valid = np.zeros((window.height, window.width), np.bool_)
        step = self.rows_at_once(window)
        for y in range(window.y, window.bottom, step):
            bottom = min(y + step, window.bottom)
            at = slice(y - window.y, bottom - window.y)
            rows = Window.spanning(y, bottom, window.x, window.right)
            self.fill(rows, pixels[:, at], valid[at])
        return pixels, all_valid(valid.shape) if valid.all() else valid

    def rows_at_once(self, window: Window) -> int:
        """Return how many rows of a window take bounded memory."""
        raise NotImplementedError

    def fill(
        self, window: Window, pixels: NDArray[np.generic], valid: NDArray[np.bool_]
    ) -> None:
        """Write a window's pixels (band, y, x) and which are valid (y, x).

        Both are zero before.
        """
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampled(OnGrid):
    """A source on a grid whose rows and columns run along those of its own grid.

    Averages are rounded to the source's dtype, halves to even.
    """

    covering: bool = True
    """Whether a pixel that only partly lies on the source has a value; else those do
    whose centre lies on it, so that neighbours that abut share no pixel."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """The source's, and what was made of it."""
        return {"resampled": self.source.identity, **self.place}

    def rows_at_once(self, window: Window) -> int:
        """Return how many rows of a window take bounded memory on either side."""
        rows, columns = axes_between(self.source.grid, self.target)
        across = columns.taps(window.x, window.right, covering=self.covering)
        theirs = across.span * rows.scale * self.dtype.itemsize
        ours = window.width * np.dtype(np.float64).itemsize
        return max(1, int(_BYTES_AT_ONCE / len(self.bands) / max(theirs, ours)))

    def fill(
        self, window: Window, pixels: NDArray[np.generic], valid: NDArray[np.bool_]
    ) -> None:
        """Write the weighted means of the source's valid pixels."""
        rows, columns = axes_between(self.source.grid, self.target)
        across = columns.taps(window.x, window.right, covering=self.covering)
        down = rows.taps(window.y, window.bottom, covering=self.covering)
        if down.span == 0 or across.span == 0:
            return
        needed = Window(
            y=down.start, x=across.start, height=down.span, width=across.span
        )
        theirs, theirs_valid = self.source.read(needed)
        sums = np.zeros(pixels.shape, np.float64)
        places = (
            down.first - down.start,
            down.weights,
            across.first - across.start,
            across.weights,
        )
        of_each_band(self.bands, theirs, theirs_valid, sums, valid, _weigh, places)
        store(sums, pixels)


def store(values: NDArray[np.float64], pixels: NDArray[np.generic]) -> None:
    """Write float64 values into pixels of any dtype, rounded, halves to even."""
    if pixels.dtype.kind != "f":
        np.rint(values, values)
    pixels[...] = values.astype(pixels.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taps:
    """Which pixels along one axis of the source a run of new pixels is made of."""

    first: NDArray[np.int64]
    """(n,) the first pixel that has a part in each."""
    weights: NDArray[np.float64]
    """(n, k) the parts of it and those after it; all 0 where there is no value."""

    @property
    def start(self) -> int:
        """The first pixel that any of them needs."""
        used = self._used
        return int(self.first[used].min()) if used.any() else 0

    @property
    def span(self) -> int:
        """How many pixels lie between the first and the last that any of them needs."""
        used = self._used
        if not used.any():
            return 0
        after = self.weights.shape[1] - np.argmax(
            self.weights[used][:, ::-1] != 0, axis=1
        )
        return int((self.first[used] + after).max()) - self.start

    @property
    def _used(self) -> NDArray[np.bool_]:
        used: NDArray[np.bool_] = np.any(self.weights != 0, axis=1)
        return used


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """How one axis of a grid lies on that of another: old = scale * new + offset."""

    scale: float
    """Size of a new pixel in old pixels."""
    offset: float
    """Where the edge of the new grid lies, in old pixels."""
    size: int
    """Number of old pixels."""

    @property
    def is_same(self) -> bool:
        """Whether new pixels are the old ones, counted from the same edge."""
        return self.scale == 1 and self.offset == 0

    def taps(self, start: int, stop: int, *, covering: bool) -> Taps:
        """Return what the new pixels `start` … `stop - 1` are made of."""
        index = np.arange(start, stop, dtype=np.float64)
        left = self.scale * index + self.offset
        right = self.scale * (index + 1) + self.offset
        centre = self.scale * (index + 0.5) + self.offset
        first, weights = (
            self._areas(left, right) if self.scale > 1 else self._between(centre)
        )
        inside = (
            (right > 0) & (left < self.size)
            if covering
            else (centre >= 0) & (centre < self.size)
        )
        weights[~inside] = 0
        return Taps(first=first, weights=weights)

    def _areas(
        self, left: NDArray[np.float64], right: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        first = np.floor(left)
        pixel = first[:, None] + np.arange(int(np.ceil(self.scale)) + 1)
        shared = np.minimum(right[:, None], pixel + 1) - np.maximum(
            left[:, None], pixel
        )
        weights = np.where((pixel >= 0) & (pixel < self.size), shared, 0).clip(min=0)
        return _led_by_weight(first.astype(np.int64), weights)

    def _between(
        self, centre: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Beyond the outermost centres the outermost pixel counts alone."""
        place = np.clip(centre - 0.5, 0, self.size - 1)
        first = np.minimum(np.floor(place), max(self.size - 2, 0))
        part = place - first
        weights = np.stack([1 - part, part], axis=1)
        return _led_by_weight(first.astype(np.int64), weights)


def _led_by_weight(
    first: NDArray[np.int64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the same taps, the first with a weight leading: none is off the raster."""
    lead = np.argmax(weights != 0, axis=1)
    columns = np.arange(weights.shape[1]) + lead[:, None]
    padded = np.pad(weights, ((0, 0), (0, weights.shape[1])))
    return first + lead, np.ascontiguousarray(
        np.take_along_axis(padded, columns, axis=1)
    )


def axes_between(old: Grid, new: Grid) -> tuple[Axis, Axis]:
    """Return how rows and columns of one grid lie on those of another.

    Raises:
        RasterError: They do not run along each other.
    """
    place = ~old.transform @ new.transform
    askew = max(abs(place.b) * new.height, abs(place.d) * new.width)
    if askew > _SNAP or place.a <= 0 or place.e <= 0:
        raise RasterError(
            "grids whose rows and columns do not run along each other cannot be "
            "resampled axis by axis"
        )
    return (
        _axis(place.e, place.f, new.height, old.height),
        _axis(place.a, place.c, new.width, old.width),
    )


def _axis(scale: float, offset: float, length: int, size: int) -> Axis:
    """Return the axis with what is all but whole made whole."""
    whole = round(scale) if scale >= 1 else 1 / round(1 / scale)
    if whole and abs(scale - whole) * length < _SNAP:
        scale = whole
    if abs(offset - round(offset)) < _SNAP:
        offset = round(offset)
    return Axis(scale=float(scale), offset=float(offset), size=size)


def resampled(source: Source, grid: Grid) -> Source:
    """Return the source on another grid of the same CRS, along the same axes.

    Raises:
        RasterError: The grid is turned, mirrored, or in another CRS.
    """
    rows, columns = axes_between(source.grid, grid)
    if source.grid.crs != grid.crs:
        raise RasterError(f"{source.name}: resampling keeps the CRS, gdalwarp does not")
    same_shape = (source.grid.height, source.grid.width) == (grid.height, grid.width)
    if rows.is_same and columns.is_same and same_shape:
        return source
    return Resampled(source=source, target=grid)


def at_resolution(source: Source, metres: float) -> Source:
    """Return the source with pixels of so many metres on the ground, in its own CRS.

    Unchanged where its pixels are within 1 % of that already. The ground size is that
    at the raster's centre (`Grid.pixel_size_m`), so EPSG:3857 counts at true scale.

    Raises:
        RasterError: The size is not above 0, or the source has no place on the ground.
    """
    if not (metres > 0 and np.isfinite(metres)):
        raise RasterError(f"a resolution of {metres} m is not above 0")
    size = source.grid.pixel_size_m
    if size is None:
        raise RasterError(
            f"{source.name} has no CRS that tells how large its pixels are: use "
            "--resolution native, or gdal_edit.py -a_srs first"
        )
    y_factor, x_factor = metres / size[0], metres / size[1]
    if max(abs(y_factor - 1), abs(x_factor - 1)) < 0.01:
        return source
    grid = source.grid.resampled(y_factor=y_factor, x_factor=x_factor)
    return resampled(source, grid)


@compiled_late
def _weigh(  # noqa: C901 - loops in loops, compiled
    pixels: NDArray[Any],
    valid: NDArray[Any],
    y_first: NDArray[Any],
    y_weights: NDArray[Any],
    x_first: NDArray[Any],
    x_weights: NDArray[Any],
    sums: NDArray[Any],
    out_valid: NDArray[Any],
) -> None:
    """Write the weighted mean of the valid pixels under each new pixel."""
    bands = pixels.shape[0]
    for y in range(sums.shape[1]):
        for x in range(sums.shape[2]):
            full = 0.0
            weight = 0.0
            for j in range(y_weights.shape[1]):
                for i in range(x_weights.shape[1]):
                    part = y_weights[y, j] * x_weights[x, i]
                    if part == 0.0:
                        continue
                    full += part
                    row, column = y_first[y] + j, x_first[x] + i
                    if valid[row, column]:
                        weight += part
                        for b in range(bands):
                            sums[b, y, x] += part * pixels[b, row, column]
            if weight > 0.0 and 2.0 * weight >= full:
                out_valid[y, x] = True
                for b in range(bands):
                    sums[b, y, x] /= weight
            else:
                for b in range(bands):
                    sums[b, y, x] = 0.0
