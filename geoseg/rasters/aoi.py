"""A source cropped to an area of interest."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from affine import Affine

from geoseg.core.grid import Grid, Window, squares
from geoseg.core.text import redact
from geoseg.errors import RasterError
from geoseg.rasters.shapes import Shapes, in_pixels, read_shapes
from geoseg.rasters.source import Derived, Source, check_inside
from geoseg.rasters.validity import all_valid, both

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from shapely import Geometry

# The area is burnt in fixed squares of so many pixels, so that what a pixel is does not
# depend on the window: scan conversion rounds differently from different origins.
_SQUARE: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Clipped(Derived):
    """A source within an area: cropped to it, and invalid outside."""

    crop: Window
    """Which of the source's pixels are left."""
    area: bytes
    """Polygons in pixels of the source, as WKB."""

    @property
    def grid(self) -> Grid:
        """Where its pixels are: a part of the source's."""
        return self.source.grid[self.crop]

    @property
    def identity(self) -> Mapping[str, Any]:
        """The source's, and the area."""
        digest = hashlib.sha256(self.area).hexdigest()
        return {"source": self.source.identity, "area": digest}

    def read(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read a window that lies inside the grid; see `Source.read`."""
        check_inside(self.name, self.grid, window)
        theirs = window.shift(y=self.crop.y, x=self.crop.x)
        inside = inside_area(self.area, theirs)
        if not inside.any():  # nothing to fetch
            shape = (len(self.bands), window.height, window.width)
            return np.zeros(shape, self.dtype), inside
        pixels, valid = self.source.read(theirs)
        return pixels, both(valid, inside)


def windowed(source: Source, window: Window) -> Source:
    """Return the part of a source that lies in a window of it."""
    import shapely

    area = shapely.box(0, 0, source.grid.width, source.grid.height)
    return Clipped(source=source, crop=window, area=shapely.to_wkb(area))


def clipped(source: Source, aoi: str | os.PathLike[str]) -> Source:
    """Return the source cropped to the polygons of a vector file.

    The crop is the smallest window of the source's pixels around the area. A pixel is
    inside where its centre is. Polygons are brought into the raster's CRS by their
    vertices. A layer is named as in QGIS: `FILE.gpkg|layername=NAME`.

    Raises:
        RasterError: No polygons, or none where the raster is.
    """
    path = os.fspath(aoi)
    area = area_on_grid(path, source.grid)
    wanted = _around(area)
    crop = wanted.intersection(source.grid.window)
    if crop is None or is_empty(area, crop):
        raise RasterError(
            f"the area of interest {redact(path)} does not touch {source.name}: "
            f"it spans rows {wanted.y} … {wanted.bottom}, columns {wanted.x} … "
            f"{wanted.right} of {source.grid.height} x {source.grid.width}"
        )
    return Clipped(source=source, crop=crop, area=area.wkb)


def _around(area: Geometry) -> Window:
    """Return the smallest window around an area in pixels."""
    left, top, right, bottom = area.bounds
    return Window.spanning(
        int(np.floor(top)),
        int(np.ceil(bottom)),
        int(np.floor(left)),
        int(np.ceil(right)),
    )


def _check_centres(area: Geometry, grid: Grid, aoi: str) -> None:
    """Raise where a small area has no pixel's centre in it: all would be nodata."""
    crop = _around(area).intersection(grid.window)
    if crop is None or is_empty(area, crop) or crop.area > _SQUARE**2:
        return
    if inside_area(area.wkb, crop).any():
        return
    left, top, right, bottom = area.bounds
    raise RasterError(
        f"the area of interest {redact(aoi)} is {right - left:.2g} x "
        f"{bottom - top:.2g} px large, and no pixel's centre lies in it: give a larger "
        "one, or smaller pixels"
    )


def is_empty(area: Geometry, window: Window) -> bool:
    """Whether an area in pixels has nothing in a window."""
    import shapely

    return not area.intersects(
        shapely.box(window.x, window.y, window.right, window.bottom)
    )


def area_on_grid(aoi: str, grid: Grid) -> Geometry:
    """Return the union of a file's polygons, in pixels of the grid.

    Raises:
        RasterError: There are none, or none that holds the centre of a pixel.
    """
    import shapely

    moved = in_pixels(valid_polygons(aoi), grid, aoi)
    area = shapely.union_all(shapely.make_valid(moved))
    if area.area == 0:
        raise RasterError(f"the area of interest {redact(aoi)} has no area")
    _check_centres(area, grid, aoi)
    return area


def valid_polygons(aoi: str) -> Shapes:
    """Return the polygons of a vector file, made valid.

    Raises:
        RasterError: It cannot be read, or has none.
    """
    import shapely

    found = read_shapes(aoi, "the area of interest")
    kept = found.geometries[np.isin(shapely.get_type_id(found.geometries), (3, 6))]
    if not len(kept):
        raise RasterError(
            f"the area of interest {redact(aoi)} has no polygons among its "
            f"{len(found.geometries)} features"
        )
    return replace(found, geometries=shapely.make_valid(kept))


def inside_area(area: bytes, window: Window) -> NDArray[np.bool_]:
    """Return which pixels of a window have their centre in the area."""
    inside = np.zeros((window.height, window.width), np.bool_)
    for cut in squares(window, _SQUARE):
        y, x = cut.y // _SQUARE * _SQUARE, cut.x // _SQUARE * _SQUARE
        square = Window(y=y, x=x, height=_SQUARE, width=_SQUARE)
        burnt = _square(area, square)[cut.relative_to(square).slices]
        inside[cut.relative_to(window).slices] = burnt
    return all_valid(inside.shape) if inside.all() else inside


@lru_cache(maxsize=256)
def _square(area: bytes, square: Window) -> NDArray[np.bool_]:
    import shapely
    from rasterio.features import rasterize

    box = shapely.box(square.x, square.y, square.right, square.bottom)
    # A pixel more on every side, so that no edge that matters is one of the cut's.
    part = _geometry(area).intersection(box.buffer(1, join_style="mitre"))
    if part.area == 0:
        return np.broadcast_to(np.False_, (square.height, square.width))
    if part.contains(box):
        return all_valid((square.height, square.width))
    burnt: NDArray[np.uint8] = rasterize(
        [g for g in shapely.get_parts(part) if g.area > 0],
        out_shape=(square.height, square.width),
        transform=Affine.translation(square.x, square.y),
        dtype="uint8",
    )
    return np.asarray(burnt != 0)


@lru_cache(maxsize=16)
def _geometry(area: bytes) -> Geometry:
    import shapely

    return shapely.from_wkb(area)
