"""Where the pixels of an xarray object are: its y and x by name, its CRS, its grid.

The one function for rasters and class maps alike. Tools name dims in many ways, put
them in either order, and keep the CRS in as many places.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine

from geoseg.core.grid import Grid, wkt_of
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
GEOGRAPHIC = (
    'GEOGCRS["WGS 84",DATUM["World Geodetic System 1984",ELLIPSOID["WGS 84",6378137,'
    '298.257223563,LENGTHUNIT["metre",1]]],PRIMEM["Greenwich",0,ANGLEUNIT["degree",'
    '0.0174532925199433]],CS[ellipsoidal,2],AXIS["geodetic latitude (Lat)",north,'
    'ORDER[1],ANGLEUNIT["degree",0.0174532925199433]],AXIS["geodetic longitude (Lon)",'
    'east,ORDER[2],ANGLEUNIT["degree",0.0174532925199433]],ID["EPSG",4326]]'
)
"""WKT of EPSG:4326."""
_CRS = re.compile(
    r"\s*(\w+\s*\[|\{|\+proj=[^/]*$|(\+init=)?[A-Za-z]+:[\w.]+$|\d+$|urn:ogc:def:crs|"
    r"https?://(www\.)?opengis\.net/def/crs[/?])"
)
"""How a CRS is written. GDAL would read any other text as a file, or ask a server."""
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


def with_mapping(
    array: xr.DataArray, dataset: xr.Dataset | xr.DataArray
) -> xr.DataArray:
    """Return an array of a dataset with its grid mapping, which tells its CRS.

    xarray leaves that among the variables, unless told to decode all coordinates.
    """
    told = array.encoding.get("grid_mapping") or array.attrs.get("grid_mapping")
    key = str(told or "").partition(":")[0]
    held = getattr(dataset, "data_vars", {})
    if key in array.coords or key not in held or held[key].ndim:
        return array
    return array.assign_coords({key: held[key].variable})


def grid_of(
    array: xr.DataArray, name: str, told: Mapping[Hashable, Any] | None = None
) -> Grid:
    """Return the grid of an array; see `located`."""
    return located(array, name, told)[0]


def located(
    array: xr.DataArray, name: str, told: Mapping[Hashable, Any] | None = None
) -> tuple[Grid, tuple[str, ...]]:
    """Return the grid of an array, and what was guessed of it.

    Coordinates are the centres of pixels, but for those that lie half a pixel off a
    stored transform both ways: these are corners, as stackstac writes them.

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
    notes = []
    crs = _wkt(array.rio.set_spatial_dims(x_dim=x, y_dim=y), told or {})
    if crs is None and _in_degrees(array, y, x):
        crs = GEOGRAPHIC
        notes.append(f"{name} has no CRS: its degrees are taken to be of EPSG:4326")
    transform = _transform(array, y, x, name, needs_place=crs is not None)
    if transform.corners:
        notes.append(
            f"{name}: its coordinates lie half a pixel off its transform: they are "
            "taken for the corners of pixels"
        )
    if transform.affine.is_identity and _is_curved(array, y, x):
        notes.append(
            f"{name} tells a latitude and a longitude of each pixel, so that its "
            "pixels are on no regular grid: its map is in numbers of pixels; resample "
            "it first, as with pyresample or xESMF"
        )
    grid = Grid(
        crs=crs,
        transform=transform.affine,
        height=array.sizes[y],
        width=array.sizes[x],
    )
    return grid, tuple(notes)


def _in_degrees(array: xr.DataArray, y: Hashable, x: Hashable) -> bool:
    """Whether rows and columns are latitudes and longitudes by name and values."""
    named = str(y).lower().startswith("lat") and str(x).lower().startswith("lon")
    if not named or y not in array.coords or x not in array.coords:
        return False
    ys, xs = (np.abs(np.asarray(array.coords[d].values, np.float64)) for d in (y, x))
    return bool(ys.max() <= 90 and xs.max() <= 360)


def _is_curved(array: xr.DataArray, y: Hashable, x: Hashable) -> bool:
    """Whether coordinates of two dims tell where each pixel is, as of a swath."""
    of_pixels = [str(n).lower() for n, c in array.coords.items() if {*c.dims} == {y, x}]
    return any(n.startswith("lat") for n in of_pixels) and any(
        n.startswith("lon") for n in of_pixels
    )


def _wkt(array: xr.DataArray, told: Mapping[Hashable, Any]) -> str | None:
    """Return the CRS as WKT, of 2019 where it can be said so; None if there is none."""
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    crs = _harmless(array).rio.crs
    for text in _other_names(array, told):
        if crs:
            break
        if not _CRS.match(str(text)):
            continue
        try:
            crs = CRS.from_user_input(text)
        except CRSError:
            continue
    return wkt_of(crs)


def _harmless(array: xr.DataArray) -> xr.DataArray:
    """Return an array without what it calls its CRS and is none."""
    copy = array.copy(deep=False)
    scalars = [copy.coords[n] for n, c in copy.coords.items() if not c.ndim]
    for place in (copy, *scalars):
        for key in ("crs", "crs_wkt", "spatial_ref"):
            if not _CRS.match(str(place.attrs.get(key, "{"))):
                del place.attrs[key]
    return copy


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
        for key in ("proj:epsg", "epsg"):
            if str(place.get(key, "")).isdigit():
                yield int(place[key])
    for key in ("proj:code", "proj:epsg", "epsg"):
        coordinate = array.coords.get(key)
        if coordinate is not None and coordinate.ndim == 0:
            value = coordinate.item()
            yield int(value) if str(value).isdigit() else str(value)


@dataclass(frozen=True, slots=True)
class _Place:
    affine: Affine
    corners: bool = False


def _transform(
    array: xr.DataArray, y: Hashable, x: Hashable, name: str, *, needs_place: bool
) -> _Place:
    """Return the transform that the coordinates tell; the stored one if it agrees.

    What is stored is exact to the last bit, but stays behind when an array is sliced.
    """
    stored = _stored(array)
    if y not in array.coords or x not in array.coords:
        if stored is None and needs_place:
            raise RasterError(
                f"{name} has a CRS, but neither coordinates {y} and {x} nor a "
                "GeoTransform that say where in it: assign them first"
            )
        return _Place(stored or Affine.identity())
    a, e = (stored.a, stored.e) if stored else (1.0, 1.0)
    y_origin, y_step = _spacing(array.coords[y].values, e, a, name)
    x_origin, x_step = _spacing(array.coords[x].values, a, e, name)
    told = Affine(x_step, 0.0, x_origin, 0.0, y_step, y_origin)
    if stored is None:
        return _Place(told)
    corners = _are_corners(~stored @ told)
    if corners:
        told = told @ Affine.translation(0.5, 0.5)
    near = _largest_gap(~told @ stored, (array.sizes[x], array.sizes[y])) < _STALE
    return _Place(stored if near else told, corners)


def _are_corners(place: Affine) -> bool:
    """Whether pixels lie whole and a half of the stored ones off, both ways."""
    if max(abs(place.a - 1), abs(place.e - 1), abs(place.b), abs(place.d)) > _STALE:
        return False
    return all(abs((n % 1) - 0.5) < _STALE for n in (place.c, place.f))


def _stored(array: xr.DataArray) -> Affine | None:
    """Return the transform that an array carries, where it does.

    GDAL's of the grid mapping (`GeoTransform`), or `transform` as rasterio, stackstac
    and GeoZarr (`spatial:transform`) have it.
    """
    mapping = array.encoding.get("grid_mapping") or array.attrs.get("grid_mapping")
    for key in (mapping, "spatial_ref", "crs"):
        held = array.coords.get(key) if key else None
        text = None if held is None else held.attrs.get("GeoTransform")
        numbers = _numbers(str(text).split() if text else None)
        if numbers:
            return Affine.from_gdal(*numbers)
    for key in ("transform", "spatial:transform"):
        numbers = _numbers(array.attrs.get(key))
        if numbers:
            return Affine(*numbers)
    return None


def _numbers(values: Any) -> tuple[float, ...] | None:  # noqa: ANN401 - an attribute
    """Return the first six of some numbers, where they are that."""
    try:
        found = tuple(float(v) for v in values or ())[:6]
    except (TypeError, ValueError):
        return None
    return found if len(found) == 6 and np.isfinite(found).all() else None


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
