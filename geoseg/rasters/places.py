"""Where areas and items lie on Earth, in degrees, and how much of one is in another.

Geometries here are shapely's, in longitude and latitude, cut where they cross 180
degrees: each part lies between -180 and 180.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from geoseg.core.densify import densified
from geoseg.core.text import redact
from geoseg.errors import RasterError
from geoseg.rasters.aoi import valid_polygons

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyproj import CRS, Transformer
    from shapely import Geometry

    from geoseg.core.grid import Grid

_DEGREES: Final = "OGC:CRS84"
_MISMADE: Final = (ValueError, TypeError, LookupError, AttributeError)
"""What shapely raises where a geometry is not one."""
_TOLERANCE: Final = 1e-4
"""Degrees by which an edge may lie elsewhere than it is drawn: ten metres."""


def area_of(aoi: str | os.PathLike[str]) -> Geometry:
    """Return where the polygons of a vector file lie.

    Raises:
        RasterError: It has no polygons, no area, or does not say its CRS.
    """
    import shapely

    path = os.fspath(aoi)
    found = valid_polygons(path)
    if found.crs is None:
        raise RasterError(
            f"the area of interest {redact(path)} does not say its CRS, which a search "
            "needs: set it with ogr2ogr -a_srs"
        )
    placed = on_earth(shapely.union_all(found.geometries), found.crs, path)
    if not placed.area:
        raise RasterError(f"the area of interest {redact(path)} has no area")
    return placed


def area_of_grid(grid: Grid) -> Geometry:
    """Return where the pixels of a grid lie.

    Raises:
        RasterError: It has no CRS.
    """
    import shapely

    if grid.crs is None:
        raise RasterError("a grid without a CRS lies nowhere on Earth")
    corners = [(0, 0), (grid.width, 0), (grid.width, grid.height), (0, grid.height)]
    drawn = shapely.Polygon([grid.transform @ corner for corner in corners])
    return on_earth(drawn, grid.crs, "the grid")


def on_earth(drawn: Geometry, crs: str, name: str) -> Geometry:
    """Return where a geometry of some CRS lies.

    Raises:
        RasterError: It cannot be brought there.
    """
    import shapely
    from pyproj import CRS, Transformer
    from pyproj.exceptions import ProjError

    try:
        known = CRS.from_user_input(crs)
        there = Transformer.from_crs(known, _DEGREES, always_xy=True)
    except ProjError as error:
        raise RasterError(
            f"{redact(name)} cannot be placed on Earth: {error}"
        ) from error
    if not known.is_geographic and (cap := _around_pole(drawn, known, there)):
        drawn = cap
    elif not known.is_geographic:
        move = _Unbroken(there, *shapely.get_coordinates(drawn)[0])
        parts = densified(shapely.get_parts([drawn]), move, _TOLERANCE)
        drawn = shapely.transform(shapely.union_all(parts), move, interleaved=False)
    elif not known.equals(_DEGREES):
        drawn = shapely.transform(drawn, there.transform, interleaved=False)
    if not np.isfinite(shapely.get_coordinates(drawn)).all():
        raise RasterError(
            f"{redact(name)} cannot be placed on Earth: it leaves its CRS"
        )
    return wrapped(drawn)


def _around_pole(drawn: Geometry, crs: CRS, there: Transformer) -> Geometry | None:
    """Return all from the pole that lies in a geometry to its part farthest from it.

    Around a pole no outline in degrees closes. None where there is none in it.
    """
    import shapely
    from pyproj import Transformer

    back = Transformer.from_crs(_DEGREES, crs, always_xy=True)
    for pole in (90.0, -90.0):
        place = back.transform(0.0, pole)
        if not (np.isfinite(place).all() and drawn.contains(shapely.Point(place))):
            continue
        lat = there.transform(*shapely.get_coordinates(drawn).T)[1]
        if np.isfinite(lat).all():
            return shapely.box(-180, min(pole, *lat), 180, max(pole, *lat))
    return None


class _Unbroken:
    """Brings coordinates to degrees without a jump at 180."""

    def __init__(self, there: Transformer, x: float, y: float) -> None:
        self._there = there
        self._first = there.transform(x, y)[0]

    def __call__(
        self, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        lon, lat = self._there.transform(x, y)
        with np.errstate(invalid="ignore"):
            return (lon - self._first + 180) % 360 - 180 + self._first, lat


def wrapped(drawn: Geometry) -> Geometry:
    """Return a geometry that reaches beyond 180 degrees in parts that do not."""
    import shapely
    from shapely.affinity import translate

    drawn = shapely.make_valid(drawn)
    west, _, east, _ = drawn.bounds
    if west >= -180 and east <= 180:
        return drawn
    turns = range(math.floor((west + 180) / 360), math.ceil((east + 180) / 360))
    worlds = (shapely.box(-180 + 360 * t, -90, 180 + 360 * t, 90) for t in turns)
    parts = [translate(drawn & w, -360 * t) for t, w in zip(turns, worlds, strict=True)]
    return shapely.union_all(parts)


def footprint_of(item: Mapping[str, Any]) -> Geometry | None:
    """Return where a STAC item says that it lies; None where it does not.

    A footprint that is drawn around the other side of the Earth, from 179.9 to -179.8,
    is one across 180 degrees.

    Raises:
        RasterError: It is no geometry.
    """
    import shapely
    from shapely.geometry import shape

    told, bbox = item.get("geometry"), item.get("bbox")
    try:
        if isinstance(told, Mapping):
            drawn = shapely.force_2d(shape(told))
        elif isinstance(bbox, list) and len(bbox) in {4, 6}:
            half = len(bbox) // 2
            west, south, east, north = (float(bbox[i]) for i in (0, 1, half, half + 1))
            drawn = shapely.box(west, south, east + 360 * (east < west), north)
        else:
            return None
        if drawn.is_empty:
            return None
        west, _, east, _ = drawn.bounds
        if 180 < east - west < 360 and not _has_parts(drawn):
            drawn = shapely.transform(drawn, _eastwards)
        return wrapped(drawn)
    except (shapely.errors.ShapelyError, *_MISMADE) as error:
        raise RasterError(
            f"STAC item {item.get('id', '?')} does not say where it lies: {error}"
        ) from error


def _has_parts(drawn: Geometry) -> bool:
    import shapely

    return int(shapely.get_num_geometries(drawn)) > 1


def _eastwards(xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return coordinates with those west of 0 one turn further east."""
    out = xy.copy()
    out[:, 0] += 360 * (out[:, 0] < 0)
    return out


def overlap(one: Geometry, other: Geometry) -> bool:
    """Whether two areas have more in common than an edge."""
    return bool(one.intersects(other) and not one.touches(other))


def share_of(area: Geometry, covering: Geometry) -> float:
    """Return which part of an area, in true area, others cover: 0 … 1."""
    whole = _equal_area(area).area
    return min(1.0, _equal_area(area & covering).area / whole) if whole else 0.0


def _equal_area(drawn: Geometry) -> Geometry:
    """Return degrees as Lambert's cylindrical projection draws them, on a sphere."""
    import shapely

    return shapely.transform(
        drawn, lambda x, y: (np.radians(x), np.sin(np.radians(y))), interleaved=False
    )
