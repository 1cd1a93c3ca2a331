"""Classes as xarray holds them: any dataset with a class array on a grid, lazily."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.classes import Class, nodata_value
from geoseg.core.grid import Grid, Window, same_pixels, squares
from geoseg.core.text import redact
from geoseg.core.xarray_grid import grid_of, spatial_dims, with_mapping
from geoseg.errors import MasksError, RasterError, first_line
from geoseg.maps.group import zarr_store
from geoseg.maps.second_copy import RECORD
from geoseg.maps.storage import Storage
from geoseg.maps.store import Masks, open_masks
from geoseg.maps.values import table_of, values_that_occur
from geoseg.rasters.zarrs import group_and_array, meant, zarr_dataset

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import xarray as xr
    from numpy.typing import NDArray

    from geoseg.maps.reader import ClassReader

_LOOK = 4096
"""Side of the windows in which an array is looked through for its values."""


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

    @property
    def stored(self) -> tuple[str, int | None]:
        """The dtype of the data, where they are integers, and their nodata."""
        kind = self.data.dtype.kind
        blank = self.nodata if self.blank is None else self.blank
        ours = "uint8" if self._fits_byte else "uint16"
        return (str(self.data.dtype) if kind in "iu" else ours), blank

    def attributes(self) -> dict[str, Any]:
        """Return nothing: it is not geoseg's own."""
        return {}

    def read(self, name: str, window: Window) -> NDArray[Any]:
        """Return the pixels of an array in a window inside the grid."""
        array = self.data if name == "classes" else self.confidence
        assert array is not None, "asked for by `arrays`"
        values = _computed(array, window)
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


def _computed(array: xr.DataArray, window: Window) -> NDArray[Any]:
    """Return the pixels of a window, computed here and not in tasks of their own."""
    try:
        data = array[window.slices].data
        if hasattr(data, "dask"):
            data = data.compute(scheduler="synchronous")
        return np.asarray(data)
    except Exception as error:  # of zarr, its codecs, and whatever dask was told
        raise RasterError(f"cannot read a map: {redact(first_line(error))}") from error


def class_reader(data: xr.Dataset | xr.DataArray) -> ClassReader:
    """Return what reads the classes of a dataset.

    A store's own dataset is read from the store, with its overviews; what was cut or
    changed is read as it is now.

    Raises:
        MasksError: It has no class array.
        RasterError: The array is not on a grid, or its values are no classes.
    """
    array = class_array(data)
    source = data.encoding.get("source")
    name = redact(str(source)) if source else "the array"
    grid = grid_of(with_mapping(array, data), name, data.attrs)
    if source and "chunks" in array.encoding:
        masks = _store(str(source))
        if masks is not None and same_pixels(masks.grid, grid):
            return masks
    nodata = _nodata(array)
    classes = _table(data.attrs, array, nodata, name)
    plain = nodata is None or 0 <= nodata <= 65535
    return ClassDataset(
        data=array,
        confidence=_confidence(data),
        grid=grid,
        classes=classes,
        nodata=nodata if plain else nodata_value(classes),
        blank=None if plain else nodata,
        path=str(source or "in memory"),
    )


def is_foreign_zarr(path: str) -> bool:
    """Whether a folder or URL is a Zarr store or array, but none of geoseg."""
    storage = Storage(path.rstrip("/"))
    for name in (".zattrs", "zarr.json", ".zmetadata"):
        try:
            told = storage.get(name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        return b'"geoseg"' not in told and not storage.exists(RECORD)
    return storage.exists(".zgroup") or storage.exists(".zarray")


def open_class_zarr(path: str) -> ClassReader:
    """Open the class array in a Zarr store of another tool.

    Raises:
        MasksError: There is none.
    """
    group, array = group_and_array(path)
    data = zarr_dataset(path, MasksError, **zarr_store(group))
    data = meant(data, path, array)
    data.encoding["source"] = path
    return class_reader(data)


def class_array(data: xr.Dataset | xr.DataArray) -> xr.DataArray:
    """Return the class array (y, x): `classes`, or the only integers on a grid.

    Raises:
        MasksError: There is none, or several.
    """
    import xarray as xr

    if isinstance(data, xr.DataArray):
        found = [data]
    elif "classes" in data:
        found = [data["classes"]]
    else:
        every = [data[str(name)] for name in data.data_vars]
        found = [v for v in every if v.dtype.kind in "iub" and _is_flat(v)]
    if len(found) != 1 or not _is_flat(found[0]):
        names = [f"{v.name} ({_sizes(v)}{v.dtype})" for v in _variables(data)]
        floats = not found and any(v.dtype.kind == "f" for v in _variables(data))
        remedy = "; floats become one by array.fillna(255).astype('uint8')" * floats
        raise MasksError(
            "a map has one array (y, x) of integers, called `classes` where there are "
            f"several; there is: {', '.join(names) or 'none'}{remedy}"
        )
    return _upright(found[0])


def _sizes(array: xr.DataArray) -> str:
    return "".join(f"{dim} {size}, " for dim, size in array.sizes.items())


def _variables(data: xr.Dataset | xr.DataArray) -> list[xr.DataArray]:
    import xarray as xr

    if isinstance(data, xr.DataArray):
        return [data]
    return [data[str(name)] for name in data.data_vars]


def _is_flat(array: xr.DataArray) -> bool:
    """Whether an array has rows and columns, and nothing else of more than one."""
    dims = spatial_dims(array)
    if dims is None:
        return array.ndim == 2  # `grid_of` says that their names are not known
    return all(n == 1 for d, n in array.sizes.items() if d not in dims)


def _upright(array: xr.DataArray) -> xr.DataArray:
    """Return an array as (y, x), whatever its dims are called and in which order."""
    dims = spatial_dims(array)
    if dims is None:
        return array
    others = [d for d in array.dims if d not in dims]
    return array.squeeze(others, drop=True).transpose(*dims)


def _confidence(data: xr.Dataset | xr.DataArray) -> xr.DataArray | None:
    import xarray as xr

    if isinstance(data, xr.DataArray) or "confidence" not in data:
        return None
    return _upright(data["confidence"])


def _store(path: str) -> Masks | None:
    try:
        return open_masks(path)
    except MasksError:
        return None


def _nodata(array: xr.DataArray) -> int | None:
    """Return the value that means nodata, if a pixel can have it."""
    for place in (array.attrs, array.encoding):
        for key in ("_FillValue", "missing_value", "nodata"):
            value = place.get(key)
            if isinstance(value, int | float | np.number) and float(value).is_integer():
                return int(value)
    return None


def _table(
    attributes: Mapping[Any, Any],
    array: xr.DataArray,
    nodata: int | None,
    name: str,
) -> tuple[Class, ...]:
    """Return the class table: ours, CF flags, else the values that occur."""
    listed = attributes.get("classes")
    if isinstance(listed, list) and listed and isinstance(listed[0], dict):
        return tuple(
            Class(**{k: c[k] for k in ("value", "name", "color")}) for c in listed
        )
    flags = array.attrs.get("flag_values")
    if flags is not None:
        values = [int(v) for v in np.atleast_1d(flags)]
        names, colors = (
            _by_value(values, str(array.attrs.get(key, "")).split())
            for key in ("flag_meanings", "flag_colors")
        )
        return table_of(values, names, colors)
    remedy = "mark it as nodata by the attribute _FillValue"
    occur = values_that_occur(_pieces(array), nodata=nodata, name=name, remedy=remedy)
    return table_of(occur)


def _by_value(values: list[int], told: list[str]) -> dict[int, str]:
    """Return words by the values that they stand beside; none where words lack."""
    return dict(zip(values, told, strict=True)) if len(told) == len(values) else {}


def _pieces(array: xr.DataArray) -> Iterator[NDArray[Any]]:
    whole = Window(y=0, x=0, height=array.shape[0], width=array.shape[1])
    for window in squares(whole, _LOOK):
        yield _computed(array, window)
