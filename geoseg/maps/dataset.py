"""Classes as xarray holds them: any dataset with a class array on a grid, lazily."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine

from geoseg.core.classes import Class, default_color, nodata_value
from geoseg.core.grid import Grid, Window
from geoseg.errors import MasksError
from geoseg.maps.store import Masks, open_masks

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from geoseg.maps.reader import ClassReader

_PLACES = ("y", "lat", "latitude", "northing"), ("x", "lon", "longitude", "easting")
_PIECE = 4096


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassDataset:
    """A class array of a dataset; windows are computed when they are read."""

    data: xr.DataArray
    """(y, x) class values."""
    confidence: xr.DataArray | None
    """(y, x) 0 … 1, NaN where there is none; or bytes 0 … 254, 255."""
    grid: Grid
    """Where its pixels are."""
    classes: tuple[Class, ...]
    """Its class table."""
    nodata: int | None
    """What `read` has for no class, if any."""
    blank: int | None = None
    """What the data have for it, where that is below 0 or too large for classes."""
    path: str = "in memory"
    """Where it came from."""
    chunk: int = 1024
    """Side of what is read at once."""

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of its arrays."""
        return ("classes",) if self.confidence is None else ("classes", "confidence")

    def read(self, name: str, window: Window) -> NDArray[Any]:
        """Return the pixels of an array in a window inside the grid."""
        y, x = window.slices
        array = self.data if name == "classes" else self.confidence
        assert array is not None, "asked for by `arrays`"
        values = array[y, x].to_numpy()
        if name == "confidence" and values.dtype.kind == "f":
            scaled = np.rint(np.nan_to_num(values) * 254)
            return np.where(np.isnan(values), 255, scaled).astype(np.uint8)
        if values.dtype.kind == "f":  # decoded by xarray: NaN where nodata was
            blank = nodata_value(self.classes) if self.nodata is None else self.nodata
            values = np.where(np.isnan(values), blank, values)
        if self.blank is not None and self.nodata is not None:
            values = np.where(values == self.blank, self.nodata, values)
        return values.astype(np.uint8 if self._fits_byte else np.uint16)

    @property
    def _fits_byte(self) -> bool:
        return max((self.nodata or 0, *(c.value for c in self.classes))) < 256


def class_reader(data: xr.Dataset | xr.DataArray) -> ClassReader:
    """Return what reads the classes of a dataset.

    A store's own dataset is read from the store, with its overviews; what was cut or
    changed is read as it is now.

    Raises:
        MasksError: It has no class array on a grid.
    """
    array = class_array(data)
    grid = grid_of(array)
    source = data.encoding.get("source")
    if source and "chunks" in array.encoding:
        masks = _store(str(source))
        if masks is not None and _is_same(masks.grid, grid):
            return masks
    confidence = data.get("confidence") if hasattr(data, "data_vars") else None
    nodata = _nodata(array)
    classes = _table(data, array, nodata)
    plain = nodata is None or 0 <= nodata <= 65535
    return ClassDataset(
        data=array,
        confidence=None if confidence is None else confidence,
        grid=grid,
        classes=classes,
        nodata=nodata if plain else nodata_value(classes),
        blank=None if plain else nodata,
        path=str(source or "in memory"),
    )


def is_foreign_zarr(path: str) -> bool:
    """Whether a folder or URL is a Zarr store, but none of geoseg."""
    from geoseg.maps.storage import Storage

    storage = Storage(path.rstrip("/"))
    for name in (".zattrs", "zarr.json", ".zmetadata"):
        try:
            return b'"geoseg"' not in storage.get(name)
        except (FileNotFoundError, NotADirectoryError):
            continue
    return storage.exists(".zgroup")


def _is_same(one: Grid, other: Grid) -> bool:
    """Whether grids are the same but for rounding; a store's CRS is its dataset's."""
    near = 1e-6 * abs(one.transform.a or one.transform.b)
    same = (one.height, one.width) == (other.height, other.width)
    return same and bool(one.transform.almost_equals(other.transform, near))


def open_class_zarr(path: str | os.PathLike[str]) -> ClassReader:
    """Open the class array in a Zarr store of another tool.

    Raises:
        MasksError: There is none.
    """
    import xarray as xr

    try:
        data = xr.open_zarr(str(path), decode_coords="all", mask_and_scale=False)
    except (OSError, ValueError, KeyError) as error:
        raise MasksError(f"{path} is not a Zarr store that xarray can open") from error
    data.encoding["source"] = str(path)
    return class_reader(data)


def class_array(data: xr.Dataset | xr.DataArray) -> xr.DataArray:
    """Return the class array: `classes`, or the only integers on a (y, x) grid."""
    import xarray as xr

    if isinstance(data, xr.DataArray):
        found = [data.squeeze(drop=True)]
    elif "classes" in data:
        found = [data["classes"]]
    else:
        every = [data[str(name)].squeeze(drop=True) for name in data.data_vars]
        found = [v for v in every if v.ndim == 2 and v.dtype.kind in "iu"]
    if len(found) != 1 or found[0].ndim != 2:
        names = [f"{n} ({v.dtype})" for n, v in getattr(data, "data_vars", {}).items()]
        raise MasksError(
            f"a map has one array (y, x) of integers, called `classes` where there are "
            f"several; there is: {', '.join(names) or 'none'}"
        )
    return found[0]


def grid_of(array: xr.DataArray) -> Grid:
    """Return the grid of a (y, x) array: from its coordinates, else its transform.

    Raises:
        MasksError: The coordinates are not evenly spaced.
    """
    import rioxarray  # noqa: F401 - the accessor

    height, width = array.shape
    y, x = (str(d) for d in array.dims)
    crs = array.rio.crs
    if y in array.coords and x in array.coords and min(height, width) > 1:
        transform = _from_centres(array[y].to_numpy(), array[x].to_numpy())
    else:
        transform = array.rio.set_spatial_dims(x, y).rio.transform()
    return Grid(
        crs=crs.to_wkt() if crs else None,
        transform=transform,
        height=height,
        width=width,
    )


def _from_centres(y: NDArray[Any], x: NDArray[Any]) -> Affine:
    steps = [(v[-1] - v[0]) / (len(v) - 1) for v in (y, x)]
    for values, step in zip((y, x), steps, strict=True):
        if not np.allclose(np.diff(values), step, rtol=1e-3, atol=0):
            raise MasksError(
                "the map's coordinates are not evenly spaced: reproject it to a "
                "regular grid first, as with rio.reproject"
            )
    down, right = (float(s) for s in steps)
    return Affine(
        right, 0.0, float(x[0]) - right / 2, 0.0, down, float(y[0]) - down / 2
    )


def _store(path: str) -> Masks | None:
    try:
        return open_masks(path)
    except MasksError:
        return None


def _nodata(array: xr.DataArray) -> int | None:
    for place in (array.attrs, array.encoding):
        value = place.get("_FillValue", place.get("missing_value"))
        if value is not None and value == value:  # noqa: PLR0124 - not NaN
            return int(value)
    return None


def _table(
    data: xr.Dataset | xr.DataArray, array: xr.DataArray, nodata: int | None
) -> tuple[Class, ...]:
    """Return the class table: ours, CF flags, else the values that occur."""
    listed = data.attrs.get("classes")
    if isinstance(listed, list) and listed and isinstance(listed[0], dict):
        return tuple(
            Class(**{k: c[k] for k in ("value", "name", "color")}) for c in listed
        )
    values = array.attrs.get("flag_values")
    if values is not None:
        names = str(array.attrs.get("flag_meanings", "")).split()
        colors = str(array.attrs.get("flag_colors", "")).split()
        return tuple(
            Class(
                value=int(v),
                name=names[i] if len(names) == len(values) else f"class_{v}",
                color=colors[i] if len(colors) == len(values) else default_color(i),
            )
            for i, v in enumerate(values)
        )
    return tuple(
        Class(value=v, name=f"class_{v}", color=default_color(i))
        for i, v in enumerate(sorted(_values(array, nodata)))
    )


def _values(array: xr.DataArray, nodata: int | None) -> set[int]:
    """Return the values that occur but nodata, looking once at all, in pieces."""
    found: set[int] = set()
    height, width = array.shape
    for y in range(0, height, _PIECE):
        for x in range(0, width, _PIECE):
            values = np.unique(array[y : y + _PIECE, x : x + _PIECE].to_numpy())
            found |= {int(v) for v in values if v == v}  # noqa: PLR0124 - not NaN
    found -= {nodata}
    wrong = [v for v in found if not 0 <= v <= 65534]
    if wrong:
        raise MasksError(
            f"class values are 0 … 65534; there is {wrong[0]}: mark it as nodata by "
            "the attribute _FillValue"
        )
    return found
