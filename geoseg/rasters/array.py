"""An xarray.DataArray or Dataset as a source; dask-backed ones window by window."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.grid import Grid, Window
from geoseg.core.xarray_grid import located, spatial_dims
from geoseg.errors import RasterError
from geoseg.rasters.bands import COMMON_NAMES, as_before, with_common_names
from geoseg.rasters.mosaic import stack
from geoseg.rasters.source import Source, SourceBand, check_inside
from geoseg.rasters.validity import valid_pixels

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    import xarray as xr
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArraySource:
    """A source of pixels that lie in an xarray.DataArray with dims band, y, x."""

    array: xr.DataArray
    name: str
    grid: Grid
    bands: tuple[SourceBand, ...]
    layers: tuple[int, ...]
    """Where along the first dim each band is."""
    nodata: float | None
    identity: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def dtype(self) -> np.dtype[Any]:
        """The array's dtype; uint8 for bool."""
        return np.dtype(np.uint8) if self.array.dtype == bool else self.array.dtype

    def select(self, bands: Sequence[int]) -> ArraySource:
        """Return the source with only these bands (0-based), in this order."""
        return replace(
            self,
            bands=tuple(self.bands[b] for b in bands),
            layers=tuple(self.layers[b] for b in bands),
        )

    def with_nodata(self, value: float) -> ArraySource:
        """Return the source with a nodata value, where the array does not tell."""
        return self if self.nodata is not None else replace(self, nodata=value)

    def read(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read a window that lies inside the grid; see `Source.read`."""
        check_inside(self.name, self.grid, window)
        part = self.array[(slice(None), *window.slices)][list(self.layers)]
        try:
            data = part.data
            if hasattr(data, "dask"):  # here and now, not in tasks of their own
                data = data.compute(scheduler="synchronous")
            pixels = np.array(data, dtype=self.dtype, order="C")
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RasterError(f"cannot read {self.name}: {reason}") from error
        return pixels, valid_pixels(pixels, [self.nodata] * len(pixels))


def open_array(
    data: xr.DataArray | xr.Dataset, *, nodata: float | None = None
) -> Source:
    """Return an xarray object as a source.

    Args:
        data: A DataArray with dims (band, y, x) or (y, x) in any order, y running
            either way; or a Dataset whose variables are the bands.
        nodata: Means nodata, whatever the object itself says of it.

    Raises:
        RasterError: It has no such dims, or its coordinates are not evenly spaced.
    """
    import xarray as xr

    if isinstance(data, xr.Dataset):
        return _open_dataset(data, nodata)
    if not isinstance(data, xr.DataArray):
        raise RasterError(
            "a raster of xarray is a DataArray or a Dataset, not a "
            f"{type(data).__name__}"
        )
    return _open_array(data, nodata)


def _open_dataset(dataset: xr.Dataset, nodata: float | None) -> Source:
    """Return variables with both spatial dims as the bands of one source."""
    found = {
        str(name): variable
        for name, variable in dataset.data_vars.items()
        if spatial_dims(variable) is not None
    }
    if not found:
        raise RasterError(
            "the Dataset has no variable with dims y and x (it has "
            f"{', '.join(map(str, dataset.data_vars)) or 'none'})"
        )
    if len(found) == 1:
        return _open_array(next(iter(found.values())), nodata)
    opened = [_open_array(variable, nodata) for variable in found.values()]
    for name, source in zip(found, opened, strict=True):
        if len(source.bands) > 1:
            raise RasterError(
                f"variable {name} of the Dataset has {len(source.bands)} bands beside "
                "other variables: give one DataArray"
            )
    called = with_common_names(list(found))
    named = [
        replace(source, bands=as_before(source.bands, [band]))
        for source, band in zip(opened, called, strict=True)
    ]
    return stack(named, "Dataset")


def _open_array(array: xr.DataArray, nodata: float | None) -> ArraySource:
    import rioxarray  # noqa: F401 - gives arrays their .rio

    name = _name(array)
    if array.dtype.kind not in "uifb":
        raise RasterError(f"{name} has {array.dtype} pixels: models read real numbers")
    dims = spatial_dims(array)
    if dims is None:
        raise RasterError(
            f"{name} has dims {', '.join(map(str, array.dims))}: a raster has y and x, "
            "and maybe band"
        )
    y, x = dims
    flat = _banded(array, y, x, name)
    own = _nodata(flat) if nodata is None else nodata
    bands = _bands(flat)
    grid, notes = located(flat, name)
    return ArraySource(
        array=flat.drop_vars(list(flat.coords)),  # the grid and bands hold them
        name=name,
        grid=grid,
        bands=bands,
        layers=tuple(range(len(bands))),
        nodata=own,
        identity=_identity(flat, name),
        notes=notes,
    )


def _name(array: xr.DataArray) -> str:
    """Return what it is called, unless dask called it so."""
    by_dask = getattr(array.variable._data, "name", None)  # noqa: SLF001 - .data loads
    return "DataArray" if array.name in (None, by_dask) else str(array.name)


def _nodata(array: xr.DataArray) -> float | None:
    """Return the nodata value that an array tells of; None if its dtype has no such."""
    try:
        own = array.rio.nodata
    except (ValueError, OverflowError):  # such as NaN for integers
        return None
    return None if own is None else float(own)


def _banded(array: xr.DataArray, y: Hashable, x: Hashable, name: str) -> xr.DataArray:
    """Return the array with dims (band, y, x), whatever the first is called."""
    others = [d for d in array.dims if d not in (y, x)]
    long = [d for d in others if array.sizes[d] != 1]
    if len(long) > 1:
        sizes = ", ".join(f"{d} ({array.sizes[d]})" for d in long)
        raise RasterError(
            f"{name} has {sizes} beside {y} and {x}: only one may be left, the bands"
        )
    band = (
        long[0] if long else ("band" if "band" in others or not others else others[0])
    )
    array = array.squeeze([d for d in others if d != band])
    if band not in array.dims:
        array = array.expand_dims(band)
    return array.transpose(band, y, x)


def _bands(array: xr.DataArray) -> tuple[SourceBand, ...]:
    """Return names from the first dim's coordinate, `long_name`, or the array's own."""
    dim, count = array.dims[0], array.shape[0]
    told = array.attrs.get("long_name")
    labels = array.coords[dim].values if dim in array.coords else None
    if labels is not None and labels.ndim == 1 and labels.dtype.kind in "UOS":
        names = [str(label) for label in labels]
    elif isinstance(told, list | tuple) and len(told) == count:
        names = [str(n) if n else str(i + 1) for i, n in enumerate(told)]
    elif count == 1 and isinstance(told or array.name, str):
        names = [str(told or array.name)]
    else:
        names = [str(i + 1) for i in range(count)]
    if len(set(names)) < count:
        names = [str(i + 1) for i in range(count)]
    return _with_attributes(array, with_common_names(names))


def _with_attributes(
    array: xr.DataArray, bands: tuple[SourceBand, ...]
) -> tuple[SourceBand, ...]:
    """Return bands with what attributes and other coordinates tell of them.

    stackstac has a coordinate `common_name` along the bands; scale and offset are
    `scale_factor` and `add_offset`, where they have not been applied.
    """
    scale = _number(array.attrs.get("scale_factor"))
    offset = _number(array.attrs.get("add_offset"))
    told = array.coords.get("common_name")
    common = [""] * len(bands)
    if told is not None and told.dims == array.dims[:1]:
        common = [str(c) for c in told.values]
    return tuple(
        replace(
            band,
            common_name=name if name in COMMON_NAMES else band.common_name,
            scale=1.0 if scale is None else scale,
            offset=offset or 0.0,
            number=i,
        )
        for i, (band, name) in enumerate(zip(bands, common, strict=True), 1)
    )


def _number(value: Any) -> float | None:  # noqa: ANN401 - an attribute
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None  # one for each band, or words


def _identity(array: xr.DataArray, name: str) -> dict[str, Any]:
    """Return a digest of the pixels, or of the file or graph that they come from."""
    from dask.base import tokenize

    facts: dict[str, Any] = {
        "array": name,
        "shape": list(array.shape),
        "dtype": str(array.dtype),
    }
    data = array.variable._data  # noqa: SLF001 - .data would load what is still on disk
    file = Path(str(array.encoding.get("source", "")))
    if isinstance(data, np.ndarray) or hasattr(data, "dask") or not file.is_file():
        return facts | {"digest": str(tokenize(data))}
    stat = file.stat()
    places = tokenize(*(np.asarray(array[d]) for d in array.dims))
    return facts | {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "at": places}
