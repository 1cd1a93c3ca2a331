"""A source on a grid of another CRS, or one that is turned against its own.

Every pixel's centre is transformed exactly, on its own (no approximation along rows,
which would depend on where a row starts), and its value interpolated bilinearly between
the four centres around it, of which only the valid ones take part.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from geoseg.core.grid import Grid, Window, same_crs
from geoseg.core.loops import compiled_late
from geoseg.errors import RasterError
from geoseg.rasters.resample import OnGrid, Resampled, axes_between, store
from geoseg.rasters.time_steps import of_each_band

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from pyproj import Transformer

    from geoseg.rasters.source import Source

# How many pixels are transformed at once: 16 MB of coordinates.
_PIXELS_AT_ONCE: Final = 1 << 20
# Points along each side of a grid when its outline is brought into another CRS.
_DENSITY: Final = 129


@dataclass(frozen=True, slots=True, kw_only=True)
class Warped(OnGrid):
    """A source on another grid; pixels whose centre is off the source are invalid."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """The source's, and what was made of it."""
        return {
            "warped": self.source.identity,
            "crs": self.target.crs,
            **self.place,
        }

    def rows_at_once(self, window: Window) -> int:
        """Return how many rows of a window are transformed at once."""
        return max(1, _PIXELS_AT_ONCE // window.width)

    def fill(
        self, window: Window, pixels: NDArray[np.generic], valid: NDArray[np.bool_]
    ) -> None:
        """Write the values between the source's pixels at the centres of ours."""
        y, x = self.places(window)
        theirs = self.source.grid
        inside = (y >= 0) & (y < theirs.height) & (x >= 0) & (x < theirs.width)
        if not inside.any():
            return
        needed = _around(y[inside], x[inside], theirs)
        values, their_valid = self.source.read(needed)
        sums = np.zeros(pixels.shape, np.float64)
        places = (
            np.clip(np.where(inside, y, 0) - 0.5, 0, theirs.height - 1) - needed.y,
            np.clip(np.where(inside, x, 0) - 0.5, 0, theirs.width - 1) - needed.x,
            inside,
        )
        of_each_band(self.bands, values, their_valid, sums, valid, _interpolate, places)
        store(sums, pixels)

    def places(self, window: Window) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (y, x) of each pixel's centre in pixels of the source."""
        rows = np.arange(window.y, window.bottom)[:, None] + 0.5
        columns = np.arange(window.x, window.right)[None, :] + 0.5
        ys, xs = np.broadcast_arrays(rows, columns)
        columns, rows = _project(self.target, self.source.grid, xs, ys)
        return rows, columns


def onto(source: Source, grid: Grid) -> Source:
    """Return the source on another grid, whatever lies between the two.

    Grids along the same axes are resampled exactly by area or bilinearly; others are
    warped, after an average to about the new pixels' size where those are larger.

    Raises:
        RasterError: One of the two has no CRS, or the grid is out of its reach.
    """
    if same_crs(source.grid.crs, grid.crs):
        try:
            axes_between(source.grid, replace(grid, crs=source.grid.crs))
        except RasterError:
            pass  # turned against each other: warped below
        else:
            return Resampled(source=source, target=grid, covering=False)
    return Warped(source=_coarsened(source, grid), target=grid)


def _coarsened(source: Source, grid: Grid) -> Source:
    """Return the source averaged, where its pixels are at most half as large."""
    ys = np.array([grid.height, grid.height, grid.height + 2]) / 2
    xs = np.array([grid.width, grid.width + 2, grid.width]) / 2
    columns, rows = _project(grid, source.grid, xs, ys)
    steps = np.hypot(columns - columns[0], rows - rows[0])[1:]
    if not np.isfinite(steps).all() or steps.min() < 2:
        return source
    factor = float(np.floor(steps.min()))
    coarse = source.grid.resampled(y_factor=factor, x_factor=factor)
    return Resampled(source=source, target=coarse)


def footprint(source: Grid, grid: Grid) -> Window:
    """Return the pixels of `grid`, unbounded, whose centre a source's grid may hold."""
    along = np.linspace(0, 1, _DENSITY)
    zeros, ones = np.zeros_like(along), np.ones_like(along)
    ys = np.concatenate([zeros, ones, along, along]) * source.height
    xs = np.concatenate([along, along, zeros, ones]) * source.width
    columns, rows = _project(source, grid, xs, ys)
    if not (np.isfinite(columns).all() and np.isfinite(rows).all()):
        raise RasterError("its outline cannot be brought into the other's CRS")
    # Between the points that were transformed the outline may bulge a little.
    bulge = 0 if same_crs(source.crs, grid.crs) else 1
    y, x = np.floor(rows.min() + 1e-6) - bulge, np.floor(columns.min() + 1e-6) - bulge
    bottom, right = np.ceil(rows.max() - 1e-6), np.ceil(columns.max() - 1e-6)
    return Window.spanning(int(y), int(bottom) + bulge, int(x), int(right) + bulge)


@cache
def _transformer(a: str, b: str) -> Transformer:
    from pyproj import Transformer
    from pyproj.exceptions import ProjError

    try:
        return Transformer.from_crs(a, b, always_xy=True)
    except ProjError as error:
        raise RasterError(
            f"coordinates cannot be brought from one CRS into the other: {error}"
        ) from error


def _project(
    a: Grid, b: Grid, columns: NDArray[np.float64], rows: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (column, row) of places in grid `a`, counted in pixels of grid `b`."""
    x, y = a.transform @ (columns, rows)
    if not same_crs(a.crs, b.crs):
        if a.crs is None or b.crs is None:
            raise RasterError("one has a CRS and the other has none")
        x, y = _transformer(a.crs, b.crs).transform(x, y)
    x, y = ~b.transform @ (x, y)
    return x, y


def _around(y: NDArray[np.float64], x: NDArray[np.float64], grid: Grid) -> Window:
    """Return the pixels between whose centres all of the places lie."""
    top, left = max(int(y.min() - 0.5), 0), max(int(x.min() - 0.5), 0)
    bottom = min(int(y.max() + 0.5) + 1, grid.height)
    right = min(int(x.max() + 0.5) + 1, grid.width)
    return Window.spanning(top, bottom, left, right)


@compiled_late
def _interpolate(  # noqa: C901 - loops in loops, compiled
    pixels: NDArray[Any],
    valid: NDArray[Any],
    y: NDArray[Any],
    x: NDArray[Any],
    inside: NDArray[Any],
    out: NDArray[Any],
    out_valid: NDArray[Any],
) -> None:
    """Write the bilinear mean of the valid pixels around each place."""
    for row in range(out.shape[1]):
        for column in range(out.shape[2]):
            if not inside[row, column]:
                continue
            top, left = int(y[row, column]), int(x[row, column])
            down, across = y[row, column] - top, x[row, column] - left
            weight = 0.0
            for j in range(2):
                for i in range(2):
                    part = (down if j else 1 - down) * (across if i else 1 - across)
                    if part > 0.0 and valid[top + j, left + i]:
                        weight += part
                        for b in range(out.shape[0]):
                            out[b, row, column] += part * pixels[b, top + j, left + i]
            if weight >= 0.5:
                out_valid[row, column] = True
                for b in range(out.shape[0]):
                    out[b, row, column] /= weight
            else:
                for b in range(out.shape[0]):
                    out[b, row, column] = 0.0
