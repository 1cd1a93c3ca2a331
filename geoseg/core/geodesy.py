"""True areas and lengths of anything drawn on a grid, whatever its CRS.

The ground under a pixel is a smooth function of row and column. It is sampled on a few
points, through PROJ and the ellipsoid, and kept as low polynomials: metres per pixel
along and across, and their integral. An area is then a sum over a polygon's edges
(Green's theorem), exact for edges that are straight in the CRS: no projection of
polygons, no geodesic per edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.polynomial import chebyshev, polynomial

from geoseg.core.grid import Window
from geoseg.errors import RegionsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray
    from pyproj import CRS

    from geoseg.core.grid import Grid

_ENOUGH = 1e-10  # relative: what a polynomial may leave out
_BITS = 30  # the largest pixel has 2^30 units: nine digits
_SUM_BITS = 62
_AT_ONCE = 1 << 16  # pixels, which stay in a core's cache; at most 2^23, see below
_STEP_M = 1000.0  # for differences; their error is of order (step / Earth radius)^4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measure:
    """Polynomials table[i, j] v^i u^j in u, v: column and row, -1 … 1 over the grid."""

    density: NDArray[np.float64]
    """True m² per pixel."""
    east: NDArray[np.float64]
    """Metres per column, along a row."""
    south: NDArray[np.float64]
    """Metres per row, along a column."""
    skew: NDArray[np.float64]
    """Scalar product of both in m²; 0 where rows and columns are at right angles."""
    half_x: float
    """Half the grid's width in pixels."""
    half_y: float
    """Half its height."""

    @property
    def tables(self) -> tuple[object, ...]:
        """What the compiled loops take; the first is density integrated over rows."""
        integral = np.zeros((self.density.shape[0] + 1, self.density.shape[1]))
        over = np.arange(1, len(integral), dtype=float)[:, None]
        integral[1:] = self.density / over * self.half_y
        return (
            integral, self.east, self.south, self.skew,
            self.half_x, self.half_y, self.half_x, self.half_y,
        )  # fmt: skip

    def areas_of(self, window: Window) -> NDArray[np.float64]:
        """Return the true m² of a window's pixels.

        Either (y, x), or (y, 1) or (1, x) where they depend on row or column alone.
        """
        rows = window.bottom if self.density.shape[0] > 1 else window.y + 1
        v = (np.arange(window.y, rows) + 0.5) / self.half_y - 1
        if self.density.shape[1] == 1:
            return np.asarray(polynomial.polyval(v, self.density[:, 0]))[:, None]
        u = (np.arange(window.x, window.right) + 0.5) / self.half_x - 1
        return np.asarray(polynomial.polygrid2d(v, u, self.density))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PixelAreas:
    """True areas of a grid's pixels as whole numbers of a small unit.

    Whole numbers add up to the same in any order, so that an area summed block by block
    does not depend on the blocks. A pixel is rounded by 1e-9 of the largest, or by as
    much as keeps the sum of all pixels within 62 bits.
    """

    measure: Measure
    """Where pixels lie on the ground."""
    unit: float
    """True m² of one unit."""

    @staticmethod
    def of(grid: Grid) -> PixelAreas:
        """Return the areas of a grid's pixels.

        Raises:
            RegionsError: There is no CRS, or the grid is not on the Earth in it.
        """
        on_ground = measure(grid)
        places = np.linspace(-1, 1, 65)
        largest = polynomial.polygrid2d(places, places, on_ground.density).max()
        bits = min(_BITS, _SUM_BITS - grid.pixels.bit_length())
        return PixelAreas(measure=on_ground, unit=float(largest) / 2**bits)

    def of_window(self, window: Window) -> NDArray[np.float64]:
        """Return the areas of a window's pixels in units, as `Measure.areas_of`."""
        return np.asarray(np.rint(self.measure.areas_of(window) / self.unit))

    def of_pixels(
        self, rows: NDArray[np.int64], columns: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the areas of single pixels in units, (pixel,)."""
        m = self.measure
        v, u = (rows + 0.5) / m.half_y - 1, (columns + 0.5) / m.half_x - 1
        return np.asarray(np.rint(polynomial.polyval2d(v, u, m.density) / self.unit))

    def by_value(
        self, values: NDArray[np.integer[Any]], window: Window, size: int
    ) -> NDArray[np.int64]:
        """Return the area that each value has in a window, in units.

        Args:
            values: (y, x) whole numbers 0 … size - 1.
            window: Where they lie on the grid.
            size: How many values there may be.

        Returns:
            (size,) int64.
        """
        total = np.zeros(size, np.int64)
        # Float64, in which bincount adds, holds sums of 2^23 pixels of 2^30 units.
        rows = max(1, _AT_ONCE // window.width)
        for y in range(0, window.height, rows):
            some = values[y : y + rows]
            where = Window(
                y=window.y + y, x=window.x, height=len(some), width=window.width
            )
            areas = np.broadcast_to(self.of_window(where), some.shape)
            sums = np.bincount(some.ravel(), areas.ravel(), size)
            total += sums.astype(np.int64)
        return total

    def m2(self, units: ArrayLike) -> NDArray[np.float64]:
        """Return units as true m²."""
        return np.asarray(units, np.float64) * self.unit


def pixel_areas(grid: Grid) -> PixelAreas | None:
    """Return the areas of a grid's pixels; None where they have no place on Earth."""
    try:
        return PixelAreas.of(grid)
    except RegionsError:
        return None


def measure(grid: Grid) -> Measure:
    """Return how to measure on a grid.

    Raises:
        RegionsError: There is no CRS, or the grid is not on the Earth in it.
    """
    from pyproj import CRS
    from pyproj.exceptions import ProjError

    if grid.crs is None:
        raise RegionsError(
            "the masks have no CRS, so polygons would have no place on a map and no "
            "area in m²: give the raster one first, as with gdal_edit.py -a_srs; of a "
            "Zarr or an array, as with array.rio.write_crs"
        )
    try:
        crs = CRS.from_user_input(grid.crs)
        if crs.geodetic_crs is None or crs.ellipsoid is None:
            return _planar(grid, crs)
        for degree in (11, 23, 47):
            fitted = _fit(grid, crs, degree)
            if fitted is not None:
                return fitted
    except ProjError as error:
        raise RegionsError(f"PROJ cannot use the masks' CRS: {error}") from error
    raise RegionsError(
        f"the raster is not wholly on the Earth in its CRS {crs.name!r}: bounds "
        f"{grid.bounds}; crop it to where the CRS is defined"
    )


def _planar(grid: Grid, crs: CRS) -> Measure:
    """Measure in a CRS without an Earth (engineering, local): its own plane."""
    unit = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
    t = grid.transform
    flat = [
        abs(t.determinant) * unit**2,
        np.hypot(t.a, t.d) * unit,
        np.hypot(t.b, t.e) * unit,
        (t.a * t.b + t.d * t.e) * unit**2,
    ]
    density, east, south, skew = (np.array([[value]]) for value in flat)
    return Measure(
        density=density, east=east, south=south, skew=skew,
        half_x=grid.width / 2, half_y=grid.height / 2,
    )  # fmt: skip


def _geocentric(grid: Grid, crs: CRS) -> Callable[..., NDArray[np.float64]]:
    """Return a function from (columns, rows) to X, Y, Z in metres on the ellipsoid."""
    from pyproj import Transformer

    to_lonlat = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    ellipsoid = crs.ellipsoid
    assert ellipsoid is not None, "checked by the caller"
    a, b = ellipsoid.semi_major_metre, ellipsoid.semi_minor_metre
    squared = 1 - (b / a) ** 2
    geodetic = crs.geodetic_crs
    assert geodetic is not None, "checked by the caller"
    unit = geodetic.axis_info[0].unit_conversion_factor

    def place(
        columns: NDArray[np.float64], rows: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        x, y = grid.transform @ (columns, rows)
        lon, lat = to_lonlat.transform(x, y)
        lon, lat = np.asarray(lon) * unit, np.asarray(lat) * unit
        lat = np.where(np.isfinite(lat), lat, np.nan)
        lon = np.where(np.isfinite(lon), lon, np.nan)
        normal = a / np.sqrt(1 - squared * np.sin(lat) ** 2)
        around = normal * np.cos(lat)
        return np.stack(
            [
                around * np.cos(lon),
                around * np.sin(lon),
                normal * (1 - squared) * np.sin(lat),
            ]
        )

    return place


def _fit(grid: Grid, crs: CRS, degree: int) -> Measure | None:
    """Fit polynomials of up to a degree, or return None where that is not enough."""
    half_x, half_y = grid.width / 2, grid.height / 2
    nodes = np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
    u, v = np.meshgrid(nodes, nodes)
    columns, rows = half_x * (1 + u), half_y * (1 + v)
    place = _geocentric(grid, crs)
    middle = place(half_x + np.array([-0.5, 0.5]), np.array([half_y, half_y]))
    side = np.linalg.norm(middle[:, 1] - middle[:, 0])
    step = float(_STEP_M / side) if side > 0 else 1.0
    along = _derivative(lambda s: place(columns + s, rows), step)
    across = _derivative(lambda s: place(columns, rows + s), step)
    east, south = np.linalg.norm(along, axis=0), np.linalg.norm(across, axis=0)
    skew = (along * across).sum(axis=0)
    density = np.sqrt(np.maximum((east * south) ** 2 - skew**2, 0))
    if not np.isfinite(density).all() or not (density > 0).all():
        return None
    right_angle = bool(np.all(np.abs(skew) < _ENOUGH * density))
    fits = [
        _polynomial(density, density.max()),
        _polynomial(east, east.max()),
        _polynomial(south, south.max()),
        np.zeros((1, 1)) if right_angle else _polynomial(skew, density.max()),
    ]
    last = degree == 47
    if not last and any(max(fit.shape) > 2 * degree // 3 for fit in fits):
        return None
    return Measure(
        density=fits[0], east=fits[1], south=fits[2], skew=fits[3],
        half_x=half_x, half_y=half_y,
    )  # fmt: skip


def _derivative(
    at: Callable[[float], NDArray[np.float64]], step: float
) -> NDArray[np.float64]:
    """Return the derivative by the five-point rule."""
    near, far = at(step) - at(-step), at(2 * step) - at(-2 * step)
    return (8 * near - far) / (12 * step)


def _polynomial(values: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Return power series of samples on Chebyshev nodes, as short as precise enough."""
    n = len(values)
    nodes = np.cos(np.pi * (np.arange(n) + 0.5) / n)
    basis = chebyshev.chebvander(nodes, n - 1)
    weight = np.full(n, 2.0 / n)
    weight[0] = 1.0 / n
    series = (weight[:, None] * basis.T) @ values @ (basis * weight)
    small = np.abs(series) < _ENOUGH * scale
    rows, columns = ((~small).any(axis=1), (~small).any(axis=0))
    height = int(np.flatnonzero(rows)[-1]) + 1 if rows.any() else 1
    width = int(np.flatnonzero(columns)[-1]) + 1 if columns.any() else 1
    series = series[:height, :width]
    rows_power = np.array([_power(s) for s in series.T]).T
    return np.ascontiguousarray([_power(s) for s in rows_power])


def _power(series: NDArray[np.float64]) -> NDArray[np.float64]:
    power = np.zeros(len(series))
    converted = chebyshev.cheb2poly(series)
    power[: len(converted)] = converted
    return power
