"""What footprints of STAC items cover of a grid, and the grid that scenes lie on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from affine import Affine
from shapely.affinity import translate

from geoseg.core.densify import densified
from geoseg.core.grid import Grid, same_crs
from geoseg.errors import RasterError
from geoseg.rasters.places import footprint_of
from geoseg.rasters.shapes import into_pixels

if TYPE_CHECKING:
    from shapely import Geometry

_LONLAT: Final = "OGC:CRS84"
# How far a footprint's edge may move when it is brought onto a grid, in pixels.
_NEAR: Final = 0.5
# Footprints are rounded, mostly to centimetres: less than this, in pixels, is no pixel.
_ROUNDED: Final = 0.05
_METRES_PER_DEGREE: Final = 111_320.0
_MOST_PIXELS: Final = 1 << 40


def cover_of(item: Mapping[str, Any], grid: Grid) -> Geometry | None:
    """Return what an item's footprint covers of a grid, in pixels; None if all may be.

    Edges that are straight in degrees and those that are straight on the grid are both
    in it: producers draw footprints either way.
    """
    import shapely

    drawn = footprint_of(item)
    if drawn is None or grid.crs is None:
        return None
    there = into_pixels(grid, _LONLAT, "a footprint")
    parts = []
    for turn in _turns(grid):
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


def grid_around(
    area: Geometry,
    *,
    crs: str | None,
    finest: Grid,
    pixel: float | None,
    keep: bool,
) -> Grid:
    """Return the grid around an area.

    Args:
        area: In degrees.
        crs: The one that is asked for, else a UTM zone.
        finest: A grid of the scenes' finest pixels.
        pixel: Size of pixels in metres; None: the scenes' own.
        keep: Whether the scenes' CRS is kept where none is asked for.

    Pixels lie where the scenes' do in their own CRS, else at whole multiples of their
    size, so that grids of neighbouring areas go together.

    Raises:
        RasterError: There is no such CRS, or the area is out of its reach.
    """
    import shapely

    area = _in_one(area)
    wanted = crs or (finest.crs if keep else None) or _utm(area)
    wkt, unit = _crs(wanted)
    t = finest.transform
    size, corner = (abs(t.a), abs(t.e)), (t.c, t.f)
    own = same_crs(finest.crs, wkt) and finest.is_rectilinear
    if not own or (pixel is not None and abs(size[0] * unit / pixel - 1) > 1e-6):
        metres = _metres(finest) if pixel is None else pixel
        size, corner = (metres / unit, metres / unit), (0.0, 0.0)
    frame = Grid(
        crs=wkt,
        transform=Affine(size[0], 0, corner[0], 0, -size[1], corner[1]),
        height=1,
        width=1,
    )
    there = into_pixels(frame, _LONLAT, "the area")
    bent = densified(np.array([area], object), there, 0.1)[0]
    places = shapely.get_coordinates(shapely.transform(bent, there, interleaved=False))
    if not np.isfinite(places).all():
        raise RasterError(f"the area is out of the reach of {wanted}: use --crs")
    left, top = (math.floor(v + _ROUNDED) for v in places.min(axis=0))
    right, bottom = (math.ceil(v - _ROUNDED) for v in places.max(axis=0))
    height, width = max(1, bottom - top), max(1, right - left)
    if height * width > _MOST_PIXELS:
        raise RasterError(
            f"the area has {height:,} x {width:,} pixels of {size[0]:g} units in "
            f"{wanted}: give a smaller --aoi, or another --crs"
        )
    return Grid(
        crs=wkt,
        transform=frame.transform @ Affine.translation(left, top),
        height=height,
        width=width,
    )


def _in_one(area: Geometry) -> Geometry:
    """Return an area on both sides of 180 degrees in one, beyond 180."""
    import shapely

    west, _, east, _ = area.bounds
    if east - west <= 180:
        return area
    parts = [
        translate(part, 360) if part.bounds[2] <= 0 else part
        for part in shapely.get_parts(area)
    ]
    return shapely.union_all(parts)


def _metres(grid: Grid) -> float:
    found = grid.pixel_size_m
    if found is None:
        raise RasterError(
            "the scenes' pixels have no size on the ground: give the grid with --like"
        )
    size = math.sqrt(found[0] * found[1])
    near = round(size)
    return float(near) if near and abs(size / near - 1) < 0.01 else size


def _utm(area: Geometry) -> str:
    """Return the UTM zone of an area's middle."""
    middle = area.centroid
    lon, lat = (middle.x + 180) % 360 - 180, middle.y
    zone = min(int((lon + 180) // 6) + 1, 60)
    return f"EPSG:{(32600 if lat >= 0 else 32700) + zone}"


def _crs(text: str) -> tuple[str, float]:
    """Return a CRS as WKT, and how many metres its unit is."""
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        found = CRS.from_user_input(text)
    except CRSError as error:
        raise RasterError(
            f"{text} is no coordinate reference system: write it as EPSG:32633"
        ) from error
    unit = found.axis_info[0].unit_conversion_factor
    metres = _METRES_PER_DEGREE * 180 / math.pi * unit if found.is_geographic else unit
    return found.to_wkt(), metres
