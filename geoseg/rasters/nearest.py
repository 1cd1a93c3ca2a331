"""A source on other pixels by nearest neighbour: classes, and pixels kept as stored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from geoseg.core.grid import Grid, Window, same_crs
from geoseg.errors import RasterError
from geoseg.rasters.resample import OnGrid, axes_between
from geoseg.rasters.validity import is_all_valid
from geoseg.rasters.warp import Warped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from geoseg.rasters.resample import Axis

# Where a centre lies on an edge, the pixel right of or below it is taken, whichever
# side rounding puts it on.
_ON_EDGE: Final = 1e-6
_WHOLE: Final = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest(OnGrid):
    """A source on another grid: each pixel is the one that its centre lies in.

    Pixels whose centre is off the source are invalid.
    """

    @property
    def identity(self) -> Mapping[str, Any]:
        """The source's, and what was made of it."""
        return {"nearest": self.source.identity, "crs": self.target.crs, **self.place}

    def rows_at_once(self, window: Window) -> int:
        """Return how many rows of a window are placed at once."""
        return max(1, (1 << 20) // window.width)

    def fill(
        self, window: Window, pixels: NDArray[np.generic], valid: NDArray[np.bool_]
    ) -> None:
        """Write the source's pixels that the centres of ours lie in."""
        axes = _along(self.source.grid, self.target)
        if axes is not None:
            self._fill_along(axes, window, pixels, valid)
        else:
            self._fill_places(window, pixels, valid)

    def _fill_along(
        self,
        axes: tuple[Axis, Axis],
        window: Window,
        pixels: NDArray[np.generic],
        valid: NDArray[np.bool_],
    ) -> None:
        rows = _centres(axes[0], window.y, window.bottom)
        columns = _centres(axes[1], window.x, window.right)
        y, x = (np.flatnonzero(a >= 0) for a in (rows, columns))
        if not (len(y) and len(x)):
            return
        rows, columns = rows[y], columns[x]
        needed = Window.spanning(
            int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        )
        theirs, their_valid = self.source.read(needed)
        to = slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1)
        at = rows - needed.y, columns - needed.x
        for band, their_band in zip(pixels, theirs, strict=True):
            band[to] = _taken(their_band, *at)
        valid[to] = True if is_all_valid(their_valid) else _taken(their_valid, *at)

    def _fill_places(
        self, window: Window, pixels: NDArray[np.generic], valid: NDArray[np.bool_]
    ) -> None:
        warped = Warped(source=self.source, target=self.target)
        y, x = (np.floor(p + _ON_EDGE) for p in warped.places(window))
        theirs = self.source.grid
        with np.errstate(invalid="ignore"):
            inside = (y >= 0) & (y < theirs.height) & (x >= 0) & (x < theirs.width)
        if not inside.any():
            return
        rows, columns = y[inside].astype(np.int64), x[inside].astype(np.int64)
        needed = Window.spanning(
            int(rows.min()),
            int(rows.max()) + 1,
            int(columns.min()),
            int(columns.max()) + 1,
        )
        values, their_valid = self.source.read(needed)
        at = rows - needed.y, columns - needed.x
        for band, their_band in zip(pixels, values, strict=True):
            band[inside] = their_band[at]
        valid[inside] = their_valid[at]


def _taken(
    values: NDArray[Any], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[Any]:
    return values.take(columns, axis=1).take(rows, axis=0)


def _along(old: Grid, new: Grid) -> tuple[Axis, Axis] | None:
    """Return how rows and columns lie on each other, None where they do not."""
    if not same_crs(old.crs, new.crs):
        return None
    try:
        return axes_between(old, replace(new, crs=old.crs))
    except RasterError:
        return None


def _centres(axis: Axis, start: int, stop: int) -> NDArray[np.int64]:
    """Return which old pixel each new centre lies in; -1 where in none."""
    centre = axis.scale * (np.arange(start, stop) + 0.5) + axis.offset
    found = np.floor(centre + _ON_EDGE).astype(np.int64)
    return np.where((found >= 0) & (found < axis.size), found, -1)


def whole_factors(old: Grid, new: Grid) -> bool:
    """Whether pixels of two grids differ by whole factors, and share their edges.

    Then each new pixel lies within an old one, or an old one has its centre, as whole.
    """
    axes = _along(old, new)
    return axes is not None and all(_is_whole(axis) for axis in axes)


def _is_whole(axis: Axis) -> bool:
    if axis.scale >= 1:
        return _near(axis.scale) and _near(axis.offset)
    return _near(1 / axis.scale) and _near(axis.offset / axis.scale)


def _near(number: float) -> bool:
    return abs(number - round(number)) < _WHOLE
