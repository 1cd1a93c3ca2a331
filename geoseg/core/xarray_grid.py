"""Where the pixels of an xarray object are: its y and x by name, its CRS, its grid.

The one function for rasters and class maps alike. Tools name dims in many ways, put
them in either order, and keep the CRS in as many places.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine

from geoseg.core.grid import Grid
from geoseg.errors import RasterError

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

_Y = ("y", "latitude", "lat", "northing", "ydim", "nlat", "row", "rows", "line")
_X = ("x", "longitude", "lon", "easting", "xdim", "nlon", "column", "columns", "col")
"""Names of dims by which rows and columns are known, in lower case."""
_STANDARD = {
    "projection_y_coordinate": "y",
    "latitude": "y",
    "grid_latitude": "y",
    "projection_x_coordinate": "x",
    "longitude": "x",
    "grid_longitude": "x",
}
"""CF's standard names of the coordinates of rows and columns."""
_UNEVEN = 0.1
"""In pixels: how far a coordinate may be from where an even spacing puts it. Northings
in float32 are off by half a metre."""
_STALE = 0.01
"""In pixels: how far a stored transform may be from the coordinates and be theirs."""


def spatial_dims(array: xr.DataArray) -> tuple[Hashable, Hashable] | None:
    """Return the dims of rows and of columns, whatever their order; None without.

    They are known by CF attributes of their coordinates (`axis`, `standard_name`), else
    by their names.
    """
    found: dict[str, list[Hashable]] = {"y": [], "x": []}
    for dim in array.dims:
        axis = _axis_of(array, dim)
        if axis:
            found[axis].append(dim)
    if len(found["y"]) != 1 or len(found["x"]) != 1:
        return None
    return found["y"][0], found["x"][0]


def _axis_of(array: xr.DataArray, dim: Hashable) -> str:
    """Return `y` or `x` for a dim, or nothing."""
    told = array.coords[dim].attrs if dim in array.coords else {}
    axis = str(told.get("axis", "")).lower()
    if axis in ("x", "y"):
        return axis
    standard = _STANDARD.get(str(told.get("standard_name", "")))
    if standard:
        return standard
    name = str(dim).lower()
    return "y" if name in _Y else "x" if name in _X else ""


def grid_of(
    array: xr.DataArray, name: str, told: Mapping[Hashable, Any] | None = None
) -> Grid:
    """Return the grid of an array.

    Args:
        array: With dims for rows and columns, as `spatial_dims` finds them.
        name: What messages call it.
        told: Attributes of the dataset that it is part of, which may name the CRS.

    Raises:
        RasterError: It has no such dims, they are not evenly spaced, or it has a CRS
            but nothing says where in it.
    """
    import rioxarray  # noqa: F401 - gives arrays their .rio

    dims = spatial_dims(array)
    if dims is None:
        raise RasterError(
            f"{name} has dims {', '.join(map(str, array.dims))}, of which none are "
            "known as rows and columns: rename them to y and x"
        )
    y, x = dims
    placed = array.rio.set_spatial_dims(x_dim=x, y_dim=y)
    crs = _wkt(placed, told or {})
    return Grid(
        crs=crs,
        transform=_transform(placed, y, x, name, needs_place=crs is not None),
        height=array.sizes[y],
        width=array.sizes[x],
    )


def _wkt(array: xr.DataArray, told: Mapping[Hashable, Any]) -> str | None:
    """Return the CRS as WKT, of 2019 where it can be said so; None if there is none."""
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    crs = array.rio.crs
    for text in _other_names(array, told):
        if crs:
            break
        try:
            crs = CRS.from_user_input(text)
        except CRSError:
            continue
    if not crs:
        return None
    try:
        return str(crs.to_wkt(version="WKT2_2019"))
    except CRSError:
        return str(crs.to_wkt())


def _other_names(
    array: xr.DataArray, told: Mapping[Hashable, Any]
) -> Iterator[str | int]:
    """Yield what other tools than rioxarray call the CRS, wherever they keep it.

    GDAL's Zarr driver writes `_CRS` (https://gdal.org/drivers/raster/zarr.html),
    GeoZarr `proj:…` on the group, stackstac and odc a scalar coordinate.
    """
    for place in (array.attrs, told):
        listed = place.get("_CRS")
        if isinstance(listed, Mapping):
            yield from (str(listed[k]) for k in ("wkt", "url") if k in listed)
        for key in ("proj:wkt2", "proj:code", "crs_wkt", "spatial_ref"):
            if place.get(key):
                yield str(place[key])
        if place.get("proj:epsg"):
            yield int(place["proj:epsg"])
    for key in ("proj:code", "proj:epsg", "epsg"):
        coordinate = array.coords.get(key)
        if coordinate is not None and coordinate.ndim == 0:
            value = coordinate.item()
            yield int(value) if str(value).isdigit() else str(value)


def _transform(
    array: xr.DataArray, y: Hashable, x: Hashable, name: str, *, needs_place: bool
) -> Affine:
    """Return the transform that the coordinates tell; the stored one if it agrees.

    What is stored is exact to the last bit, but stays behind when an array is sliced.
    """
    stored = array.rio.transform()
    if y not in array.coords or x not in array.coords:
        if stored == Affine.identity() and needs_place:
            raise RasterError(
                f"{name} has a CRS, but neither coordinates {y} and {x} nor a "
                "GeoTransform that say where in it: assign them first"
            )
        return stored
    y_origin, y_step = _spacing(array.coords[y].values, stored.e, stored.a, name)
    x_origin, x_step = _spacing(array.coords[x].values, stored.a, stored.e, name)
    told = Affine(x_step, 0.0, x_origin, 0.0, y_step, y_origin)
    near = _largest_gap(~told @ stored, (array.sizes[x], array.sizes[y])) < _STALE
    return stored if near else told


def _largest_gap(place: Affine, size: tuple[int, int]) -> float:
    corners = [(c, r) for c in (0, size[0]) for r in (0, size[1])]
    gaps = [np.subtract(place @ corner, corner) for corner in corners]
    return float(np.abs(gaps).max())


def _spacing(
    centres: NDArray[Any], stored: float, other: float, name: str
) -> tuple[float, float]:
    """Return where the first pixel's edge is, and the step from pixel to pixel."""
    centres = np.asarray(centres, np.float64)
    if len(centres) == 1:  # nothing to measure: the stored step, or square pixels
        step = stored if abs(stored) != 1 else float(np.copysign(other, stored))
    else:
        step = float(centres[-1] - centres[0]) / (len(centres) - 1)
        even = centres[0] + step * np.arange(len(centres))
        if step == 0 or np.abs(centres - even).max() > _UNEVEN * abs(step):
            raise RasterError(
                f"the coordinates of {name} are not evenly spaced: put it on a regular "
                "grid first, as with rio.reproject"
            )
    return float(centres[0]) - step / 2, step
