"""An xarray.DataArray or Dataset as a source; dask-backed ones window by window."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from geoseg.core.files import absolute
from geoseg.core.grid import Grid, Window
from geoseg.core.text import counted, redact
from geoseg.core.xarray_grid import located, spatial_dims
from geoseg.errors import RasterError
from geoseg.rasters.bands import as_before, with_common_names
from geoseg.rasters.file_versions import changed, local_facts
from geoseg.rasters.mosaic import stack
from geoseg.rasters.sensors import COMMON_NAMES
from geoseg.rasters.source import Source, SourceBand, check_inside, noted, steps_of
from geoseg.rasters.time_steps import floating, is_series, iso_day, seen
from geoseg.rasters.validity import valid_pixels
from geoseg.rasters.zarrs import group_and_array, meant, zarr_dataset

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    import xarray as xr
    from numpy.typing import NDArray

# Bytes of a window from which on it is computed in strips.
_AT_ONCE: Final = 1 << 27


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArraySource:
    """A source of pixels that lie in an xarray.DataArray.

    Its dims are band, y, x; or time, y, x; or time, band, y, x.
    """

    array: xr.DataArray
    name: str
    grid: Grid
    bands: tuple[SourceBand, ...]
    layers: tuple[int, ...]
    """Where each band is along the first dim, or along the first two as one."""
    nodata: float | None
    identity: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def dtype(self) -> np.dtype[Any]:
        """The array's dtype; uint8 for bool; floats where steps miss values."""
        own = np.dtype(np.uint8) if self.array.dtype == bool else self.array.dtype
        return floating(own) if is_series(self.bands) else own

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
        try:
            pixels = self._stored(window)
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RasterError(f"cannot read {self.name}: {reason}") from error
        if not is_series(self.bands):
            return pixels, valid_pixels(pixels, [self.nodata] * len(pixels))
        floats = pixels.astype(self.dtype, copy=False)
        for shown, stored in zip(floats, pixels, strict=True):
            shown[~valid_pixels(stored[None], [self.nodata])] = np.nan
        return floats, seen(floats, self.bands)

    def check_unchanged(self) -> None:
        """Raise where the pixels are others than those it was opened with.

        Raises:
            SourceChangedError: They are.
        """
        now = _content(self.array, anew=True)
        told = "digest" not in now or _is_in_memory(self.array)
        if told and not now.items() <= self.identity.items():
            raise changed(self.name)

    def _stored(self, window: Window) -> NDArray[Any]:
        """Return the pixels of a window as they are in the array; a copy."""
        kept = np.dtype(np.uint8) if self.array.dtype == bool else self.array.dtype
        pieces = self._pieces(window)
        if len(pieces) == 1:
            where = self.array[..., *window.slices]
            return np.asarray(_picked(where, self.layers), dtype=kept, order="C")
        shape = (len(self.layers), window.height, window.width)
        pixels = np.empty(shape, kept)
        for places, part in pieces:
            where = self.array[..., *part.slices]
            rows = part.relative_to(window).slices[0]
            pixels[places, rows] = _picked(where, [self.layers[i] for i in places])
        return pixels

    def _pieces(self, window: Window) -> list[tuple[NDArray[np.intp], Window]]:
        """Return which layers, and where, are computed at once.

        Dask holds the chunks and what it makes of them, which of all dates of a large
        window is far more than the pixels. No chunk is computed twice.
        """
        steps = self.array.shape[1] if self.array.ndim == 4 else 1
        first = np.array(self.layers) // steps
        if self.array.chunks is None:
            return [(np.arange(len(first)), window)]
        chunk = np.searchsorted(np.cumsum(self.array.chunks[0]), first, side="right")
        groups = [np.flatnonzero(chunk == c) for c in np.unique(chunk)]
        size = len(first) * window.height * window.width * self.array.dtype.itemsize
        if len(groups) > 1 or size <= _AT_ONCE:
            return [(places, window) for places in groups]
        ends = np.cumsum(self.array.chunks[-2])
        cuts = [y for y in ends.tolist() if window.y < y < window.bottom]
        return [
            (groups[0], Window.spanning(y, bottom, window.x, window.right))
            for y, bottom in pairwise([window.y, *cuts, window.bottom])
        ]


def _picked(where: xr.DataArray, layers: Sequence[int]) -> NDArray[Any]:
    """Return some layers of an array, (layer, y, x); a copy."""
    if where.ndim == 2:
        return np.array(where.data)[None]
    if where.ndim == 3:
        return _computed(where[list(layers)])
    times, bands = np.divmod(layers, where.shape[1])
    some, few = np.unique(times), np.unique(bands)
    # Only what is needed, along each of the two dims.
    data = _computed(where.isel(dict(zip(where.dims, (some, few), strict=False))))
    data = data.reshape(-1, *data.shape[2:])
    at = np.searchsorted(some, times) * len(few) + np.searchsorted(few, bands)
    return data if np.array_equal(at, np.arange(len(data))) else data[at]


def _computed(part: xr.DataArray) -> NDArray[Any]:
    """Return the values of a part that was picked by lists, which copies it."""
    data = part.data
    if not hasattr(data, "dask"):
        return np.asarray(data)
    # Here and now, not in tasks of their own. A single chunk may be somebody's array.
    values = np.asarray(data.compute(scheduler="synchronous"))
    return values.copy() if data.npartitions == 1 else values


def open_array(
    data: xr.DataArray | xr.Dataset, *, nodata: float | None = None
) -> Source:
    """Return an xarray object as a source.

    Args:
        data: A DataArray with dims (band, y, x), (y, x), (time, y, x) or (time, band,
            y, x) in any order, y running either way; or a Dataset whose variables are
            the bands.
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


def open_zarr(path: str, *, nodata: float | None = None) -> Source:
    """Return the images in a Zarr on this machine as a source.

    Raises:
        RasterError: It cannot be opened, or is not what `open_array` takes.
    """
    name = redact(path)
    group, array = group_and_array(path)
    dataset = zarr_dataset(path, store=group, consolidated=False)
    dataset = meant(dataset, path, array)
    objects = _objects(Path(absolute(path)))  # once, not for each of many bands
    for variable in dataset.data_vars.values():
        variable.encoding |= {"source": absolute(path), "objects": objects}
    source: Any = replace(open_array(dataset, nodata=nodata), name=name)  # type: ignore[type-var]
    ours = f"{name} is a class map of geoseg: its classes are taken as pixels"
    return noted(source, ours if "geoseg" in dataset.attrs else None)


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
        if len(source.bands) > max(1, len(steps_of(source.bands))):
            raise RasterError(
                f"variable {name} of the Dataset has "
                f"{counted(len(source.bands), 'band')} beside other variables: give "
                "one DataArray"
            )
    called = with_common_names(list(found))
    named = [
        replace(source, bands=as_before(source.bands, [band] * len(source.bands)))
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
    time = _time_dim(array, name)
    flat = _banded(array, time, y, x, name)
    own = _nodata(flat) if nodata is None else nodata
    bands = _bands(flat, name)
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


def _time_dim(array: xr.DataArray, name: str) -> Hashable | None:
    """Return the dim along which dates run; None where there is none, or one date.

    Raises:
        RasterError: It is called time, but nothing says which dates these are.
    """
    for dim in array.dims:
        if dim in array.coords and _is_time(array.coords[dim]):
            return dim
        if str(dim).lower() == "time" and array.sizes[dim] > 1:
            raise RasterError(
                f"{name} has a dim {dim} without dates: assign them, as in "
                f"array.assign_coords({dim}=pandas.to_datetime([...]))"
            )
    return None


def _is_time(coordinate: xr.DataArray) -> bool:
    """Whether a coordinate holds dates, of NumPy, cftime or as texts."""
    if coordinate.dtype.kind == "M":
        return True
    first = coordinate.values.flat[0] if coordinate.size else None
    if isinstance(first, str):
        return re.match(r"\d{4}-\d\d-\d\d", first) is not None
    return hasattr(first, "strftime")


def _banded(
    array: xr.DataArray, time: Hashable | None, y: Hashable, x: Hashable, name: str
) -> xr.DataArray:
    """Return the array with dims (time, band, y, x), or without one of the first two.

    Or without both. Whatever they are called; the oldest date is the first.
    """
    others = [d for d in array.dims if d not in (time, y, x)]
    long = [d for d in others if array.sizes[d] != 1]
    if len(long) > 1:
        sizes = ", ".join(f"{d} ({array.sizes[d]})" for d in long)
        raise RasterError(
            f"{name} has {sizes} beside {y} and {x}: only one may be left, the bands"
        )
    if time is not None and array.sizes[time] == 1:
        array, time = array.isel({time: 0}), None  # its date stays as a coordinate
    band = long or ["band" if "band" in others else d for d in others[:1]]
    array = array.squeeze([d for d in others if d not in band])
    if time is not None:
        array = array.isel({time: np.argsort(array.coords[time].values)})
        return array.transpose(time, *band, y, x)
    if not band and array.chunks is not None:  # of others it would load all pixels
        band, array = ["band"], array.expand_dims("band")
    return array.transpose(*band, y, x)


def _bands(array: xr.DataArray, name: str) -> tuple[SourceBand, ...]:
    """Return the bands of an array, those of each date one after the other."""
    time = _time_dim(array, name)
    if time is None:
        dim, count = (array.dims[0], array.shape[0]) if array.ndim > 2 else (None, 1)
        bands = _named(array, dim, count)
        step = _only_date(array, name)
        return tuple(replace(band, step=step) for band in bands)
    if array.ndim == 4:
        bands = _named(array, array.dims[1], array.shape[1])
    else:
        bands = _named(array, None, 1)
    steps = [iso_day(moment, name) for moment in array.coords[time].values]
    twice = next((a for a, b in pairwise(steps) if a == b), None)
    if twice is not None:
        raise RasterError(
            f"{name} shows {twice} more than once: lay those together first, as in "
            f"array.groupby('{time}.date').max()"
        )
    return tuple(replace(band, step=step) for step in steps for band in bands)


def _only_date(array: xr.DataArray, name: str) -> str | None:
    """Return the date of an array of one; None where it does not tell, or of several.

    It is a scalar coordinate then, `time` where there are more.
    """
    scalar = {str(k): c for k, c in array.coords.items() if not c.ndim and _is_time(c)}
    dates = {iso_day(c.values[()], name) for c in scalar.values()}
    if "time" in scalar:
        return iso_day(scalar["time"].values[()], name)
    return dates.pop() if len(dates) == 1 else None


def _named(
    array: xr.DataArray, dim: Hashable | None, count: int
) -> tuple[SourceBand, ...]:
    """Return names from a dim's coordinate, `long_name`, or the array's own."""
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
    return _with_attributes(array, dim, with_common_names(names))


def _with_attributes(
    array: xr.DataArray, dim: Hashable | None, bands: tuple[SourceBand, ...]
) -> tuple[SourceBand, ...]:
    """Return bands with what attributes and other coordinates tell of them.

    stackstac has a coordinate `common_name` along the bands; scale and offset are
    `scale_factor` and `add_offset`, where they have not been applied.
    """
    scale = _number(array.attrs.get("scale_factor"))
    offset = _number(array.attrs.get("add_offset"))
    told = array.coords.get("common_name")
    common = [""] * len(bands)
    if told is not None and told.dims == (dim,):
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

    facts = {"array": name, "shape": list(array.shape), "dtype": str(array.dtype)}
    content = _content(array)
    if "digest" not in content:
        facts["at"] = tokenize(*(np.asarray(array[d]) for d in array.dims))
    return facts | content


def _content(array: xr.DataArray, *, anew: bool = False) -> dict[str, Any]:
    """Return what tells that its pixels are others; of what lies there now: anew."""
    from dask.base import tokenize

    data = _data(array)
    file = Path(str(array.encoding.get("source", "")))
    if _is_in_memory(array) or hasattr(data, "dask") or not file.exists():
        return {"digest": str(tokenize(data))}
    if file.is_dir():
        told = None if anew else array.encoding.get("objects")
        return {"objects": told or _objects(file.absolute())}
    return dict(local_facts(str(file)))


def _objects(folder: Path) -> str:
    """Return a digest of the names, sizes and times of all objects of a Zarr."""
    from dask.base import tokenize

    found = ((str(f), f.stat()) for f in sorted(folder.rglob("*")) if f.is_file())
    return str(tokenize([(f, s.st_size, s.st_mtime_ns) for f, s in found]))


def _data(array: xr.DataArray) -> Any:  # noqa: ANN401 - an array, or what stands for it
    return array.variable._data  # noqa: SLF001 - .data would load what is still on disk


def _is_in_memory(array: xr.DataArray) -> bool:
    return isinstance(_data(array), np.ndarray)
