"""An xarray.DataArray or Dataset as a source; dask-backed ones window by window."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from geoseg.core.files import absolute
from geoseg.core.grid import Grid, Window
from geoseg.core.text import counted, redact
from geoseg.core.xarray_grid import located, spatial_dims, with_mapping
from geoseg.errors import RasterError
from geoseg.rasters.array_bands import bands_in, time_dim, variable_names
from geoseg.rasters.bands import as_before, with_common_names
from geoseg.rasters.file_versions import changed, local_facts
from geoseg.rasters.mosaic import stack
from geoseg.rasters.source import Source, SourceBand, check_inside, noted, steps_of
from geoseg.rasters.time_steps import floating, is_series, seen
from geoseg.rasters.validity import valid_pixels
from geoseg.rasters.zarrs import check_made, group_and_array, meant, zarr_dataset

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    import xarray as xr
    from numpy.typing import NDArray

# Bytes of a window from which on it is computed in strips.
_AT_ONCE: Final = 1 << 27
_SCALES: Final = frozenset({"scale_factor", "add_offset"})


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
        """The array's, as it is held here; floats where steps miss values."""
        own = _held(self.array.dtype)
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
        kept = _held(self.array.dtype)
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


def _held(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return what pixels are held as, of which models know all.

    uint8 for bool, float32 for float16, in the order of this machine's bytes.
    """
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    native = dtype.newbyteorder("=")
    return np.dtype(np.float32) if native == np.float16 else native


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
        IncompleteError: It is a class map of geoseg that is not complete.
    """
    name = redact(path)
    group, array = group_and_array(path)
    dataset = zarr_dataset(path, store=group, consolidated=False)
    dataset = meant(dataset, path, array)
    check_made(group, dataset)
    objects = _objects(Path(absolute(path)))  # once, not for each of many bands
    for variable in dataset.data_vars.values():
        variable.encoding |= {"source": absolute(path), "objects": objects}
    source: Any = replace(open_array(dataset, nodata=nodata), name=name)  # type: ignore[type-var]
    ours = f"{name} is a class map of geoseg: its classes are taken as pixels"
    return noted(source, ours if "geoseg" in dataset.attrs else None)


def _open_dataset(dataset: xr.Dataset, nodata: float | None) -> Source:
    """Return variables with both spatial dims as the bands of one source."""
    found = {
        str(name): _of_file(with_mapping(variable, dataset), dataset)
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
    called = with_common_names(variable_names(found))
    named = [
        replace(source, bands=as_before(source.bands, [band] * len(source.bands)))
        for source, band in zip(opened, called, strict=True)
    ]
    return stack(named, "Dataset")


def _of_file(variable: xr.DataArray, dataset: xr.Dataset) -> xr.DataArray:
    """Return a variable that knows the file that its dataset was opened from."""
    file = dataset.encoding.get("source")
    if file is None or "source" in variable.encoding:
        return variable
    known = variable.copy(deep=False)
    known.encoding = {**variable.encoding, "source": file}
    return known


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
    time = time_dim(array, name)
    flat = _banded(array, time, y, x, name)
    own = _nodata(flat) if nodata is None else nodata
    bands = bands_in(flat, name)
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
    """Return the nodata value that an array tells of; None if its dtype has no such.

    Of whole numbers it may stand in the encoding, by which they are written: what is
    read of that file then is NaN there.
    """
    try:
        own = array.rio.nodata
    except (ValueError, OverflowError):  # such as NaN for integers
        own = None
    whole = array.dtype.kind in "iu"
    if whole and (own is None or np.isnan(own)) and not _SCALES & {*array.encoding}:
        own = array.encoding.get("_FillValue", array.encoding.get("missing_value"))
    return None if own is None else float(own)


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
    told = array.encoding.get("source")
    if _is_in_memory(array) or hasattr(data, "dask") or not told:
        return {"digest": str(tokenize(data))}
    file = Path(str(told))
    if not file.exists():
        return {"digest": str(tokenize(data))}
    if file.is_dir():
        known = None if anew else array.encoding.get("objects")
        return {"objects": known or _objects(file.absolute())}
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
