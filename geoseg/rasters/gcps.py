"""Rasters that are placed by ground control points: brought onto a grid.

Points on rows and columns of the image come from a geolocation, such as Sentinel-1's,
and are met exactly, by a thin plate spline; others were set by hand, and are met as
nearly as GDAL's polynomial, of the order that gdalwarp chooses, does. Heights of the
ground take no part: hills stay where the image has them.

The grid is in the points' CRS where that is projected, else in the UTM zone of their
middle (near a pole in UPS), with the square pixels that GDAL suggests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from affine import Affine

from geoseg.core.grid import Grid, Window
from geoseg.errors import RasterError
from geoseg.rasters.warp import Warped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from rasterio.transform import GCPTransformer

    from geoseg.rasters.source import Source

_FEWEST: Final = 3  # points; and rows and columns of those that are a grid
_MISFIT: Final = 1.0  # pixels; beyond it is for the user to say how an image is bent
_NODES: Final = 16
"""Pixels between places that are transformed exactly. They are the same whatever window
is read; between them places are linear to a few thousandths of a pixel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPoints:
    """Where some places of an image lie; a value."""

    crs: str
    """WKT of a projected CRS."""
    points: tuple[tuple[float, float, float, float], ...]
    """Row, column (edges, not centres), x and y of each."""

    @property
    def are_a_grid(self) -> bool:
        """Whether they lie on rows and columns, at least three of each."""
        rows, columns = ({p[i] for p in self.points} for i in (0, 1))
        full = len(rows) * len(columns) == len(set(self.points)) == len(self.points)
        return full and min(len(rows), len(columns)) >= _FEWEST

    def places(
        self, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (row, column) of coordinates, of any one shape."""
        rows, columns = _transformer(self).rowcol(x.ravel(), y.ravel(), op=np.positive)
        return rows.reshape(x.shape), columns.reshape(x.shape)

    def misfit(self) -> float:
        """Return how far off the worst of the points is, in pixels."""
        row, column, x, y = np.array(self.points).T
        rows, columns = self.places(x, y)
        return float(np.hypot(rows - row, columns - column).max())

    def grid(self, height: int, width: int) -> Grid:
        """Return the grid that the image covers."""
        from rasterio.warp import calculate_default_transform

        transform, columns, rows = calculate_default_transform(
            self.crs, self.crs, width, height, gcps=_gdal_points(self)
        )
        return Grid(
            crs=self.crs, transform=Affine(*transform[:6]), height=rows, width=columns
        )


def control_points(points: Sequence[Any], crs: Any) -> ControlPoints:  # noqa: ANN401 - rasterio's
    """Return ground control points as rasterio has them, in a projected CRS.

    Raises:
        RasterError: They do not say where every pixel lies: what they lack follows
            "it is placed by ground control points only, ".
    """
    from pyproj import CRS, Transformer
    from rasterio._err import CPLE_BaseError  # what a transformer raises

    if len(points) < _FEWEST:
        raise RasterError(f"and {len(points)} of them do not fix its position")
    if not crs:
        raise RasterError("which have no CRS")
    own = CRS.from_user_input(crs.to_wkt())
    x, y = np.array([(p.x, p.y) for p in points]).T
    target = own if own.is_projected else CRS.from_epsg(_zone(x, y))
    x, y = Transformer.from_crs(own, target, always_xy=True).transform(x, y)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise RasterError("not all of which lie on the Earth")
    places = [(p.row, p.col) for p in points]
    control = ControlPoints(
        crs=target.to_wkt(),
        points=tuple(
            (float(row), float(column), float(east), float(north))
            for (row, column), east, north in zip(places, x, y, strict=True)
        ),
    )
    try:
        off = control.misfit()
    except CPLE_BaseError as error:
        raise RasterError(
            f"and its {len(points)} points, as they lie, do not fix its position"
        ) from error
    if not off <= _MISFIT:
        raise RasterError(
            f"{len(points)} of them, which GDAL's polynomial misses by {off:.2g} pixels"
        )
    return control


def _zone(longitude: NDArray[np.float64], latitude: NDArray[np.float64]) -> int:
    """Return the EPSG code of the UTM zone, or UPS, in the middle of some places."""
    turned = np.exp(1j * np.radians(longitude)).mean()  # also across the antimeridian
    middle = float(np.degrees(np.angle(turned)))
    north = float(latitude.mean())
    if not -80 <= north <= 84:
        return 5041 if north > 0 else 5042
    return (32600 if north >= 0 else 32700) + int((middle + 180) // 6) % 60 + 1


def _gdal_points(control: ControlPoints) -> list[Any]:
    from rasterio.control import GroundControlPoint

    return [
        GroundControlPoint(row=row, col=column, x=x, y=y, z=0.0)
        for row, column, x, y in control.points
    ]


@lru_cache(maxsize=256)
def _transformer(control: ControlPoints) -> GCPTransformer:
    from rasterio.transform import GCPTransformer

    return GCPTransformer(_gdal_points(control), tps=control.are_a_grid)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedByPoints(Warped):
    """A source on the grid that its ground control points span."""

    control: ControlPoints

    @property
    def identity(self) -> Mapping[str, Any]:
        """The source's, and what was made of it."""
        return {"placed": self.source.identity, "crs": self.target.crs, **self.place}

    @property
    def notes(self) -> tuple[str, ...]:
        """The source's, and how it was placed."""
        from pyproj import CRS

        count, size = len(self.control.points), self.target.transform.a
        how = "thin plate spline" if self.control.are_a_grid else "polynomial"
        off = self.control.misfit()
        name = CRS.from_wkt(self.control.crs).name
        told = (
            f"{self.name} is placed by {count} ground control points: brought to "
            f"{name}, pixels of {size:.4g} m, by a {how} that fits them to "
            f"{max(off, 0.01):.2g} pixels; terrain is not corrected"
        )
        return (*self.source.notes, told)

    def places(self, window: Window) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (y, x) of each pixel's centre in pixels of the source."""
        top, left = window.y // _NODES, window.x // _NODES
        down = np.arange(top, (window.bottom - 1) // _NODES + 2) * _NODES
        across = np.arange(left, (window.right - 1) // _NODES + 2) * _NODES
        columns, rows = np.meshgrid(across + 0.5, down + 0.5)
        nodes = self.control.places(*(self.target.transform @ (columns, rows)))
        y = np.arange(window.y, window.bottom) / _NODES
        x = np.arange(window.x, window.right) / _NODES
        return _between(nodes[0], y - top, x - left), _between(
            nodes[1], y - top, x - left
        )


def _between(
    nodes: NDArray[np.float64], y: NDArray[np.float64], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return values bilinearly between nodes.

    Args:
        nodes: (j, i) at whole numbers.
        y: (n,) rows between them.
        x: (m,) columns between them.
    """
    j, i = y.astype(np.intp), x.astype(np.intp)
    down, across = (y - j)[:, None], x - i
    above = nodes[:, i] * (1 - across) + nodes[:, i + 1] * across
    return np.asarray(above[j] * (1 - down) + above[j + 1] * down)


def on_control_points(source: Source, control: ControlPoints | None) -> Source:
    """Return a source on the grid of its control points; itself where it has none."""
    if control is None:
        return source
    grid = control.grid(source.grid.height, source.grid.width)
    return PlacedByPoints(source=source, target=grid, control=control)
