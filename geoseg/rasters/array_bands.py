"""What the bands of an xarray.DataArray or Dataset are called, and their dates."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from geoseg.errors import RasterError
from geoseg.rasters.bands import with_common_names
from geoseg.rasters.sensors import COMMON_NAMES
from geoseg.rasters.source import SourceBand
from geoseg.rasters.time_steps import iso_day

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    import xarray as xr

_NUMBERED: Final = re.compile(r"band_\d+")


def variable_names(variables: Mapping[str, xr.DataArray]) -> list[str]:
    """Return what variables are called as bands.

    rioxarray calls them `band_1`, `band_2`, and the bands' names `long_name`.
    """
    if not all(_NUMBERED.fullmatch(name) for name in variables):
        return list(variables)
    told = [str(v.attrs.get("long_name") or "") for v in variables.values()]
    if all(told) and len({*told}) == len(told):
        return told
    return [name.removeprefix("band_") for name in variables]


def time_dim(array: xr.DataArray, name: str) -> Hashable | None:
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


def bands_in(array: xr.DataArray, name: str) -> tuple[SourceBand, ...]:
    """Return the bands of an array, those of each date one after the other."""
    time = time_dim(array, name)
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
