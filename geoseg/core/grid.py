"""Where pixels are: windows and grids, as values.

Nothing else in geoseg computes transforms. Rows grow with y, columns with x; arrays
are (band, y, x); a window is named fields, never a bare tuple.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine

from geoseg.errors import RasterError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyproj import CRS, Geod

Slices = tuple[slice, slice]
"""Rows and columns of an array."""
_GRID_FILE = re.compile(
    r"(?:grids|init|file|model)\s*=\s*[^\s,\"']*[/\\~]"
    r"|PARAMETERFILE\s*\[[^\]]*,\s*\"[^\"]*[/\\~]",
    re.IGNORECASE,
)
"""How a CRS or an operation names a file by its path, as PROJ string or as WKT."""
_MOST = 10**17
"""Pixels of a grid; whoever wants more has a header that was made up."""
_ALIGNED = 0.1
"""In pixels: neighbours of real tilings miss each other by some hundredths, and a value
as it was stored is worth more than such a shift."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A rectangle of pixels; it may reach outside of any raster."""

    y: int
    """First row."""
    x: int
    """First column."""
    height: int
    """Number of rows."""
    width: int
    """Number of columns."""

    @property
    def bottom(self) -> int:
        """The row after the last."""
        return self.y + self.height

    @property
    def right(self) -> int:
        """The column after the last."""
        return self.x + self.width

    @property
    def slices(self) -> Slices:
        """Index of an array whose first pixel is row 0, column 0."""
        return slice(self.y, self.bottom), slice(self.x, self.right)

    @property
    def spans(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """First and after-last row, first and after-last column: as rasterio asks."""
        return (self.y, self.bottom), (self.x, self.right)

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    def shift(self, *, y: int = 0, x: int = 0) -> Window:
        """Return the same rectangle elsewhere."""
        return Window(y=self.y + y, x=self.x + x, height=self.height, width=self.width)

    def relative_to(self, frame: Window) -> Window:
        """Return the same rectangle counted from the first pixel of `frame`."""
        return self.shift(y=-frame.y, x=-frame.x)

    def pad(self, margin: int) -> Window:
        """Return the rectangle grown by `margin` pixels on every side."""
        return Window(
            y=self.y - margin,
            x=self.x - margin,
            height=self.height + 2 * margin,
            width=self.width + 2 * margin,
        )

    def intersection(self, other: Window) -> Window | None:
        """Return what both share, or None."""
        y, x = max(self.y, other.y), max(self.x, other.x)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        if bottom <= y or right <= x:
            return None
        return Window(y=y, x=x, height=bottom - y, width=right - x)

    def overlap(self, other: Window) -> tuple[Slices, Slices] | None:
        """Return what both share, as slices of this one and of the other; or None."""
        shared = self.intersection(other)
        if shared is None:
            return None
        return shared.relative_to(self).slices, shared.relative_to(other).slices

    @staticmethod
    def spanning(y: int, bottom: int, x: int, right: int) -> Window:
        """Return the window from its first and after-last row and column."""
        return Window(y=y, x=x, height=bottom - y, width=right - x)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """CRS + affine transform + shape. A value: `grid[window]` is again a grid."""

    crs: str | None
    """WKT of the coordinate reference system, or None where unknown."""
    transform: Affine
    """Maps (column, row) of a pixel corner to (x, y) in the CRS."""
    height: int
    """Number of rows."""
    width: int
    """Number of columns."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise RasterError(
                f"a grid needs at least one pixel, got {self.height} x {self.width}"
            )
        if self.pixels > _MOST:
            raise RasterError(
                f"a grid of {self.width:,} x {self.height:,} pixels has more than the "
                "whole Earth at 10 cm: its size is not a raster's"
            )
        if self.transform.determinant == 0:
            raise RasterError(
                "the raster's geotransform "
                f"{tuple(self.transform)[:6]} has no inverse: pixels without area"
            )

    def __getitem__(self, window: Window) -> Grid:
        return Grid(
            crs=self.crs,
            transform=self.transform @ Affine.translation(window.x, window.y),
            height=window.height,
            width=window.width,
        )

    @property
    def window(self) -> Window:
        """The whole grid as a window."""
        return Window(y=0, x=0, height=self.height, width=self.width)

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    @property
    def is_rectilinear(self) -> bool:
        """Whether rows and columns run along the CRS's axes (not rotated)."""
        return bool(self.transform.b == 0 and self.transform.d == 0)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Smallest box around all corners: left, bottom, right, top."""
        corners = [
            self.transform @ (col, row)
            for col in (0, self.width)
            for row in (0, self.height)
        ]
        xs, ys = [c[0] for c in corners], [c[1] for c in corners]
        return min(xs), min(ys), max(xs), max(ys)

    def x_centres(self, start: int = 0, stop: int | None = None) -> NDArray[np.float64]:
        """Return the x of pixel centres along the first row, (width,) float64.

        Args:
            start: From which column on.
            stop: The column before which it ends; None is the width.
        """
        columns = np.arange(start, self.width if stop is None else stop) + 0.5
        return np.asarray(
            self.transform.c + columns * self.transform.a + 0.5 * self.transform.b
        )

    def y_centres(self, start: int = 0, stop: int | None = None) -> NDArray[np.float64]:
        """Return the y of pixel centres along the first column, (height,) float64.

        Args:
            start: From which row on.
            stop: The row before which it ends; None is the height.
        """
        rows = np.arange(start, self.height if stop is None else stop) + 0.5
        return np.asarray(
            self.transform.f + rows * self.transform.e + 0.5 * self.transform.d
        )

    @property
    def pixel_size_m(self) -> tuple[float, float] | None:
        """Ground size of the central pixel in metres as (height, width).

        Geodesic, so that EPSG:3857 gives true and not nominal metres; but where the
        projection keeps lengths within 1 % (UTM and the like), the nominal size, which
        is what people call "10 m". None where there is no CRS, or none on the ground.
        """
        return _pixel_size_m(self)

    def resampled(self, *, y_factor: float, x_factor: float) -> Grid:
        """Return the grid with pixels `factor` times as large, same upper-left corner.

        The shape is rounded up, so that the new grid covers the old one.
        """
        height = max(1, int(np.ceil(self.height / y_factor - 1e-9)))
        width = max(1, int(np.ceil(self.width / x_factor - 1e-9)))
        return Grid(
            crs=self.crs,
            transform=self.transform @ Affine.scale(x_factor, y_factor),
            height=height,
            width=width,
        )


@cache
def _geodesy(wkt: str) -> tuple[CRS, Geod | None]:
    from pyproj import CRS

    crs = CRS.from_user_input(wkt)
    return crs, crs.get_geod()


@cache
def _pixel_size_m(grid: Grid) -> tuple[float, float] | None:
    if grid.crs is None:
        return None
    from pyproj import Transformer
    from pyproj.exceptions import ProjError

    try:
        crs, geod = _geodesy(grid.crs)
        if geod is None or crs.geodetic_crs is None:
            return None
        to_lonlat = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    except ProjError:
        return None  # local and engineering CRSs have no place on the Earth
    row, col = (grid.height - 1) / 2, (grid.width - 1) / 2
    points = [
        (col, row + 0.5),
        (col + 1, row + 0.5),
        (col + 0.5, row),
        (col + 0.5, row + 1),
    ]
    xy = np.array([grid.transform @ p for p in points])
    lon, lat = to_lonlat.transform(xy[:, 0], xy[:, 1])
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        return None
    width = geod.inv(lon[0], lat[0], lon[1], lat[1])[2]
    height = geod.inv(lon[2], lat[2], lon[3], lat[3])[2]
    if not (width > 0 and height > 0):
        return None
    return _nominal(grid, crs, float(height), float(width))


def _nominal(grid: Grid, crs: CRS, height: float, width: float) -> tuple[float, float]:
    """Return the size in the CRS's own units, as metres, where that is within 1 %."""
    if not crs.is_projected:
        return height, width
    t, metres = grid.transform, crs.axis_info[0].unit_conversion_factor
    nominal = float(np.hypot(t.b, t.e)) * metres, float(np.hypot(t.a, t.d)) * metres
    near = all(
        abs(n / true - 1) <= 0.01
        for n, true in zip(nominal, (height, width), strict=True)
    )
    return nominal if near else (height, width)


@dataclass(frozen=True, slots=True)
class Squares:
    """Squares of a lattice that begins at (0, 0), cut to a window; none is kept."""

    whole: Window
    """What they cover."""
    side: int
    """Rows and columns of each."""

    def __len__(self) -> int:
        rows, columns = self._starts()
        return len(rows) * len(columns)

    def __iter__(self) -> Iterator[Window]:
        whole, side = self.whole, self.side
        rows, columns = self._starts()
        for y in rows:
            for x in columns:
                yield Window.spanning(
                    max(y, whole.y),
                    min(y + side, whole.bottom),
                    max(x, whole.x),
                    min(x + side, whole.right),
                )

    def _starts(self) -> tuple[range, range]:
        whole, side = self.whole, self.side
        return (
            range(whole.y // side * side, whole.bottom, side),
            range(whole.x // side * side, whole.right, side),
        )


def squares(within: Grid | Window, side: int) -> Squares:
    """Return the squares of a lattice that cover a grid or a window, row by row.

    The lattice begins at (0, 0), so squares of neighbouring windows are the same ones;
    those on the edge are cut to what they cover.
    """
    return Squares(within.window if isinstance(within, Grid) else within, side)


def aligned(grid: Grid, lattice: Grid) -> Window | None:
    """Return which pixels of `lattice`, unbounded, a grid's pixels are, or None."""
    if not same_crs(grid.crs, lattice.crs):
        return None
    place = ~lattice.transform @ grid.transform
    y, x = round(place.f), round(place.c)
    drift = max(
        abs(place.f - y) + abs(place.e - 1) * grid.height + abs(place.d) * grid.width,
        abs(place.c - x) + abs(place.a - 1) * grid.width + abs(place.b) * grid.height,
    )
    if drift > _ALIGNED:
        return None
    return Window(y=y, x=x, height=grid.height, width=grid.width)


def same_pixels(one: Grid, other: Grid) -> bool:
    """Whether grids have the same pixels but for rounding, whatever their CRS."""
    near = 1e-6 * abs(one.transform.a or one.transform.b)
    same = (one.height, one.width) == (other.height, other.width)
    return same and bool(one.transform.almost_equals(other.transform, near))


def same_crs(one: str | None, other: str | None) -> bool:
    """Whether two coordinate reference systems are the same, however written."""
    return one == other or (None not in (one, other) and _equal_crs(one, other))


@cache
def _equal_crs(one: str, other: str) -> bool:
    from pyproj import CRS

    ours, theirs = CRS.from_user_input(one), CRS.from_user_input(other)
    return bool(ours.equals(theirs, ignore_axis_order=True))


def names_a_file(crs: str) -> bool:
    """Whether a CRS names a grid of shifts by its path: PROJ would read that file.

    >>> names_a_file("+proj=longlat +nadgrids=/etc/a.gsb"), names_a_file("EPSG:4326")
    (True, False)
    """
    return _GRID_FILE.search(crs) is not None


def wkt_of(crs: Any) -> str | None:  # noqa: ANN401 - a rasterio CRS or None
    """Return a rasterio CRS as WKT, of 2019 where it can be said so; None if empty.

    Raises:
        RasterError: It names a file.
    """
    from rasterio.errors import CRSError

    if not crs:
        return None
    try:
        wkt = str(crs.to_wkt(version="WKT2_2019"))
    except CRSError:
        wkt = str(crs.to_wkt())
    if names_a_file(wkt):
        raise RasterError(
            "its coordinate reference system names a file by its path, which is not "
            "read: give it another, as with gdal_edit.py -a_srs"
        )
    return wkt
