"""Geometries of a vector file, brought into pixels of a grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.densify import Transform, densified
from geoseg.core.grid import Grid
from geoseg.core.text import redact
from geoseg.errors import RasterError
from geoseg.rasters.addresses import is_remote, squeezed
from geoseg.rasters.vectors import open_vectors
from geoseg.rasters.zarrs import is_zarr

if TYPE_CHECKING:
    from numpy.typing import NDArray


_TOLERANCE = 0.1
"""How far an edge may move, in pixels, when its vertices are brought into a CRS."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shapes:
    """Features of a vector file."""

    geometries: NDArray[np.object_]
    """(feature,) shapely geometries, in the file's CRS; features without one are left
    out."""
    crs: str | None
    """The file's CRS, where it says."""
    columns: Mapping[str, NDArray[Any]]
    """Attributes, (feature,) each."""


def read_shapes(file: str, what: str, *, columns: bool = False) -> Shapes:
    """Read the features of a vector file.

    A layer is named as in QGIS: `FILE.gpkg|layername=NAME`.

    Args:
        file: The file, or a URL.
        what: What it is to the user, for messages: `the area of interest`.
        columns: Whether attributes are read too.

    Raises:
        RasterError: It cannot be read, or has several layers and none is named.
    """
    import shapely

    path, _, layer = file.partition("|layername=")
    opened = open_vectors(path, what, RasterError)
    if opened is None:
        known = is_remote(path) or Path(path).exists()
        why = "OGR finds no features in it" if known else "there is no such file"
        if path.lower().endswith((".tif", ".tiff", ".vrt", ".jp2")) or is_zarr(path):
            why = "it is a raster: geoseg vectorize makes polygons of a class map"
        raise RasterError(f"cannot read {what} {redact(file)}: {why}")
    layers = list(opened.layers)
    if not layer and len(layers) > 1:
        raise RasterError(
            f"{redact(path)} has layers {', '.join(layers[:10])}: say which, as in "
            f"'{redact(path)}|layername={layers[0]}'"
        )
    meta, _, wkb, fields = opened.read_raw(
        layer or layers[0], columns=None if columns else []
    )
    there = np.array([g is not None for g in wkb], bool)
    names = meta["fields"] if columns else ()
    return Shapes(
        geometries=np.asarray(shapely.from_wkb(wkb[there])),
        crs=meta["crs"],
        columns={str(n): f[there] for n, f in zip(names, fields or (), strict=False)},
    )


def in_pixels(shapes: Shapes, grid: Grid, file: str) -> NDArray[np.object_]:
    """Return geometries in pixels of a grid: x is the column, y the row.

    Their vertices are brought into the raster's CRS, long edges with vertices added so
    that they stay where they are drawn. A file or a raster that does not
    say its CRS is taken to be in the other's.

    Raises:
        RasterError: The two CRSs do not go together.
    """
    import shapely

    there = into_pixels(grid, shapes.crs, file)
    drawn = shapes.geometries
    if shapes.crs is not None and grid.crs is not None:
        drawn = drawn_for(grid, drawn, shapes.crs, there)
    moved = shapely.transform(drawn, there, interleaved=False)
    if not np.isfinite(shapely.get_coordinates(moved)).all():
        raise RasterError(f"{redact(file)} cannot be brought into the raster's CRS")
    return np.asarray(moved)


def drawn_for(
    grid: Grid, geometries: NDArray[np.object_], crs: str, there: Transform
) -> NDArray[np.object_]:
    """Return geometries in their own CRS as they are to be brought onto a grid.

    What lies far from the grid, and has no place in its CRS, is left out: of an area as
    large as a continent the part around it is kept, and what does not come near and
    cannot be brought there becomes empty. Long edges have vertices added, so that they
    stay where they are drawn.

    Args:
        grid: Where they are to be brought.
        geometries: (n,) of shapely.
        crs: Theirs.
        there: What brings them into pixels of the grid.
    """
    beside = turned_near(grid, geometries, crs)
    return densified(_near(grid, beside, crs, there), there, _TOLERANCE)


def turned_near(
    grid: Grid, geometries: NDArray[np.object_], crs: str
) -> NDArray[np.object_]:
    """Return what lies beyond the antimeridian of a grid in degrees a turn nearer."""
    import shapely
    from pyproj import CRS

    if not (CRS(crs).is_geographic and CRS(grid.crs).is_geographic):
        return geometries
    left, _, right, _ = grid.bounds
    out = np.array(geometries, object)
    x0, _, x1, _ = shapely.bounds(out).T
    for turn in (-360.0, 360.0):
        apart = (x1 < left) | (x0 > right)
        across = apart & (x1 + turn > left) & (x0 + turn < right)
        by = np.array((turn, 0.0))
        out[across] = shapely.transform(out[across], partial(np.add, by))
    return out


def _near(
    grid: Grid, geometries: NDArray[np.object_], crs: str, there: Transform
) -> NDArray[np.object_]:
    import shapely

    box = _surroundings(grid, crs)
    if box is None:
        return geometries
    out = np.array(geometries, object)
    around = shapely.box(*box)
    x0, y0, x1, y1 = shapely.bounds(out).T
    wide = (x0 < box[0]) | (y0 < box[1]) | (x1 > box[2]) | (y1 > box[3])
    apart = (x1 < box[0]) | (y1 < box[1]) | (x0 > box[2]) | (y0 > box[3])
    cut = wide & ~apart & (shapely.get_dimensions(out) == 2)
    out[cut] = areas_of(shapely.intersection(shapely.make_valid(out[cut]), around))
    for i in np.flatnonzero(apart):
        if not np.isfinite(there(*shapely.get_coordinates(out[i]).T)).all():
            out[i] = type(out[i])()
    return out


def _surroundings(grid: Grid, crs: str) -> tuple[float, float, float, float] | None:
    """Return a box three times as wide and high as a grid, in a CRS; None: unknown."""
    from pyproj import Transformer
    from pyproj.exceptions import ProjError

    left, bottom, right, top = grid.bounds
    wide, high = right - left, top - bottom
    padded = left - wide, bottom - high, right + wide, top + high
    try:
        back = Transformer.from_crs(grid.crs, crs, always_xy=True)
        x0, y0, x1, y1 = back.transform_bounds(*padded)
    except ProjError:
        return None
    # Across the antimeridian, the left side is the greater number.
    known = np.isfinite((x0, y0, x1, y1)).all() and x0 < x1 and y0 < y1
    return (x0, y0, x1, y1) if known else None


def areas_of(geometries: NDArray[np.object_]) -> NDArray[np.object_]:
    """Return the areas of valid and invalid polygons, without lines and points.

    A spike or a ring without area becomes a line when it is made valid, which burns
    pixels far from what was drawn. What has no area becomes an empty polygon.
    """
    import shapely

    valid = shapely.make_valid(geometries)
    mixed = shapely.get_type_id(valid) == 7  # a collection
    out = np.where(shapely.area(valid) > 0, valid, shapely.Polygon())
    for i in np.flatnonzero(mixed & (shapely.area(valid) > 0)):
        parts = shapely.get_parts(shapely.get_parts(valid[i]))
        out[i] = shapely.MultiPolygon([p for p in parts if p.area > 0])
    return np.asarray(out, object)


def into_pixels(grid: Grid, crs: str | None, file: str) -> Any:  # noqa: ANN401 - a function of two arrays
    """Return what brings (x, y) in the file's CRS to (column, row) of the grid."""
    from pyproj import Transformer
    from pyproj.exceptions import ProjError

    inverse = ~grid.transform
    try:
        transformer = (
            Transformer.from_crs(crs, grid.crs, always_xy=True)
            if crs is not None and grid.crs is not None
            else None
        )
    except ProjError as error:
        raise RasterError(
            f"{redact(file)} cannot be brought into the raster's CRS: {squeezed(error)}"
        ) from error

    def to_pixels(
        x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if transformer is not None:
            x, y = transformer.transform(x, y)
        with np.errstate(invalid="ignore"):  # of what cannot be brought there
            columns, rows = inverse @ (x, y)
        return columns, rows

    return to_pixels
