"""The grid that scenes of many dates are put on, where none is given.

Pixels are those of the finest band that is read. Where the scenes' own CRS is kept they
lie where that band's do; else at whole multiples of their size, so that the grids of
neighbouring areas go together.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from affine import Affine
from shapely.affinity import translate

from geoseg.core.dates import item_moment
from geoseg.core.densify import densified
from geoseg.core.grid import Grid, Window, same_crs
from geoseg.core.series_options import SeriesOptions
from geoseg.errors import RasterError, SceneMissingError
from geoseg.rasters.file import FileHints, open_raster
from geoseg.rasters.gdal import Handles
from geoseg.rasters.layers import Layer, Reading, open_layer
from geoseg.rasters.places import area_of, area_of_grid, footprint_of
from geoseg.rasters.scene_bands import bands_asked, entries_of, item_name, layers_of
from geoseg.rasters.shapes import Shapes, in_pixels, into_pixels
from geoseg.rasters.warp import footprint
from geoseg.rasters.zones import (
    extent_of,
    only_zone,
    several_zones,
    zone_of,
    zones_of,
)

if TYPE_CHECKING:
    from shapely import Geometry

Item = Mapping[str, Any]

_LONLAT: Final = "OGC:CRS84"
_AT_ONCE: Final = 16
# Areas that follow pixels do so to centimetres: less than this, in pixels, is no pixel.
_ROUNDED: Final = 0.05
_METRES_PER_DEGREE: Final = 111_320.0
_MOST_PIXELS: Final = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Headers:
    """How the headers of scenes' files are read."""

    bands: Sequence[str] | None
    """Which bands; None: all."""
    trust: tuple[str, ...]
    handles: Handles
    skip: bool
    """Whether those that cannot be had are left out."""
    name: str

    def layers(self, item: Item) -> list[Layer]:
        """Return the layers of an item that are read."""
        entries = entries_of(item)
        if not entries:
            return []
        try:
            found = bands_asked([entries], self.bands, self.name)
        except RasterError:  # it lacks one that others have
            found = bands_asked([entries], None, self.name)
        return [layer for layer in layers_of(item, found, entries) if layer is not None]

    def grids(self, layers: Sequence[Layer]) -> list[Grid]:
        """Return the grids of layers, of those that can be had."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return [g for g in pool.map(self._grid, layers) if g is not None]

    def _grid(self, layer: Layer) -> Grid | None:
        try:
            reading = Reading(trust=self.trust)
            return open_layer(layer, reading, self.handles).grid
        except SceneMissingError:
            if self.skip:
                return None
            raise


def common_grid(
    items: Sequence[Item],
    options: SeriesOptions,
    headers: Headers,
    *,
    aoi: str | os.PathLike[str] | None,
    pixel: float | None,
) -> Grid:
    """Return the grid that is asked for, or the one around an area, or around all.

    Args:
        items: The scenes.
        options: Tell `like` and `crs`.
        headers: How their files are read.
        aoi: Vector file.
        pixel: Size of pixels in metres; None: the finest.

    Raises:
        RasterError: There is no such CRS, or the area is out of its reach.
        SceneMissingError: A file cannot be had.
    """
    if options.like is not None:
        told = FileHints(trust=headers.trust)
        return open_raster(os.fspath(options.like), told, probe=False).grid
    shapes = {id(i): footprint_of(i) for i in items}
    area, zone = None if aoi is None else area_of(aoi), only_zone(options.crs)
    if zone is not None:
        area = _in_zone(area, [s for s in shapes.values() if s is not None], zone)
    near = [
        i
        for i in sorted(items, key=lambda i: (str(item_moment(i)), item_name(i)))
        if area is None or (s := shapes[id(i)]) is None or s.intersects(area)
    ]
    finest = min(
        _finest(near, headers), key=lambda g: abs(g.transform.determinant), default=None
    )
    if finest is None:
        bands_asked([entries_of(i) for i in near], headers.bands, headers.name)
        raise SceneMissingError(f"{headers.name}: no file of any scene can be read")
    around = area
    if around is None:
        drawn = [s for i in near if (s := shapes[id(i)]) is not None]
        around = drawn[0] if drawn else None
    frame = _frame(around, zone or options.crs, finest, pixel, keep=area is None)
    if area is not None:
        return _checked(frame, _window(area, frame))
    grids = headers.grids([la for i in near for la in headers.layers(i)[:1]])
    windows = [footprint(grid, frame) for grid in grids]
    whole = Window.spanning(
        min(w.y for w in windows),
        max(w.bottom for w in windows),
        min(w.x for w in windows),
        max(w.right for w in windows),
    )
    return _checked(frame, whole)


def _finest(items: Sequence[Item], headers: Headers) -> Iterator[Grid]:
    """Yield the finest grid of each collection, by the oldest scene that can be had."""
    found: dict[str, list[Grid]] = {}
    for item in items:
        collection = str(item.get("collection"))
        if not found.get(collection):
            found[collection] = headers.grids(headers.layers(item))
    for grids in found.values():
        if grids:
            yield min(grids, key=lambda g: abs(g.transform.determinant))


def _frame(
    area: Geometry | None,
    crs: str | None,
    finest: Grid,
    pixel: float | None,
    *,
    keep: bool,
) -> Grid:
    """Return a pixel of the grid; all others follow from it."""
    wanted = crs or (finest.crs if keep or area is None else _utm(area))
    if wanted is None:
        raise RasterError("the scenes have no CRS: give the grid with --like")
    wkt, unit = _crs(wanted)
    t = finest.transform
    size, corner = (abs(t.a), abs(t.e)), (t.c, t.f)
    own = same_crs(finest.crs, wkt) and finest.is_rectilinear
    if not own or (pixel is not None and abs(size[0] * unit / pixel - 1) > 1e-6):
        metres = _metres(finest) if pixel is None else pixel
        size, corner = (metres / unit, metres / unit), (0.0, 0.0)
    transform = Affine(size[0], 0, corner[0], 0, -size[1], corner[1])
    return Grid(crs=wkt, transform=transform, height=1, width=1)


def _window(area: Geometry, frame: Grid) -> Window:
    """Return the pixels around an area."""
    import shapely

    there = into_pixels(frame, _LONLAT, "the area")
    bent = densified(np.array([_in_one(area)], object), there, 0.1)[0]
    places = shapely.get_coordinates(shapely.transform(bent, there, interleaved=False))
    if not np.isfinite(places).all():
        raise RasterError("the area lies outside the domain of its CRS: use --crs")
    left, top = (math.floor(v + _ROUNDED) for v in places.min(axis=0))
    right, bottom = (math.ceil(v - _ROUNDED) for v in places.max(axis=0))
    return Window.spanning(top, max(bottom, top + 1), left, max(right, left + 1))


def _checked(frame: Grid, window: Window) -> Grid:
    if window.area > _MOST_PIXELS:
        raise RasterError(
            f"the scenes span {window.height:,} x {window.width:,} pixels: give a "
            "smaller --aoi, or another --crs"
        )
    return frame[window]


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
    middle = _in_one(area).centroid
    return zone_of((middle.x + 180) % 360 - 180, middle.y)


def _in_zone(area: Geometry | None, drawn: list[Geometry], zone: str) -> Geometry:
    """Return what of an area, or of all scenes, lies in a UTM zone."""
    import shapely

    whole = shapely.union_all(drawn) if area is None else area
    part = whole & extent_of(zone)
    if not part.area:
        what = "the scenes lie" if area is None else "the area of interest lies"
        raise RasterError(
            f"{what} in {', '.join(zones_of(whole))}, and nowhere in the UTM zone "
            f"{zone}, which --crs asks for"
        )
    return part


def zone_in_pixels(zone: str, grid: Grid) -> Geometry:
    """Return what of a grid lies in a UTM zone, in its pixels."""
    import shapely

    # A kilometre more than the grid, whose own edges are none of the zone's.
    around = area_of_grid(grid).buffer(0.01, join_style="mitre") & extent_of(zone)
    found = Shapes(geometries=np.array([around], object), crs=_LONLAT, columns={})
    return shapely.union_all(in_pixels(found, grid, f"the UTM zone {zone}"))


def zones_note(
    options: SeriesOptions, aoi: str | os.PathLike[str] | None
) -> tuple[str, ...]:
    """Return what to say of an area in several UTM zones, where no grid was given."""
    if aoi is None or options.like is not None or options.crs is not None:
        return ()
    area = area_of(aoi)
    said = several_zones(area, _utm(area))
    return () if said is None else (said,)


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
