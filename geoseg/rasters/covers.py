"""What footprints of STAC items cover of a grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from geoseg.core.densify import densified
from geoseg.core.grid import Grid
from geoseg.rasters.places import footprint_of
from geoseg.rasters.shapes import into_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from shapely import Geometry

_LONLAT: Final = "OGC:CRS84"
# How far a footprint's edge may move when it is brought onto a grid, in pixels.
_NEAR: Final = 0.5
# Footprints are rounded, mostly to centimetres: less than this, in pixels, is no pixel.
_ROUNDED: Final = 0.05


def covers_of(items: Sequence[Mapping[str, Any]], grid: Grid) -> list[Geometry | None]:
    """Return what items' footprints cover of a grid, in pixels; None if all may be.

    Edges that are straight in degrees and those that are straight on the grid are both
    in it: producers draw footprints either way.
    """
    drawn = [footprint_of(item) for item in items]
    if grid.crs is None:
        return [None for _ in drawn]
    there, turns = into_pixels(grid, _LONLAT, "a footprint"), _turns(grid)
    return [None if d is None else _cover(d, there, turns) for d in drawn]


def _cover(
    drawn: Geometry,
    there: Callable[..., tuple[NDArray[np.float64], NDArray[np.float64]]],
    turns: Sequence[int],
) -> Geometry | None:
    import shapely

    parts = []
    for turn in turns:
        turned = shapely.transform(drawn, lambda p, turn=turn: p + np.array([turn, 0]))
        bent = densified(np.array([turned], object), there, _NEAR)[0]
        parts += [
            shapely.transform(g, there, interleaved=False) for g in (turned, bent)
        ]
    if not all(np.isfinite(shapely.get_coordinates(p)).all() for p in parts):
        # Out of the projection's reach, as a whole or in part.
        places = np.concatenate([shapely.get_coordinates(p) for p in parts])
        return None if np.isfinite(places).any() else shapely.Polygon()
    return shapely.union_all(shapely.make_valid(np.array(parts, object)))


def _turns(grid: Grid) -> tuple[int, ...]:
    """Return by how many degrees a footprint may have to be turned onto a grid."""
    from pyproj import CRS

    return (-360, 0, 360) if CRS.from_user_input(grid.crs).is_geographic else (0,)


def covering(
    covers: Sequence[Geometry | None], y: int, bottom: int, x: int, right: int
) -> list[int]:
    """Return which covers share pixels with a rectangle."""
    import shapely

    cell = shapely.box(x + _ROUNDED, y + _ROUNDED, right - _ROUNDED, bottom - _ROUNDED)
    known = [i for i, c in enumerate(covers) if c is not None]
    touch = shapely.intersects(np.array([covers[i] for i in known], object), cell)
    touching = {i for i, t in zip(known, np.atleast_1d(touch), strict=True) if t}
    return [i for i, c in enumerate(covers) if c is None or i in touching]
