"""Which values a class map has: those that occur, as a class table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from geoseg.core.classes import Class, colors_of
from geoseg.errors import RasterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

HIGHEST = 65_534
"""The highest class value; 65535 is nodata."""


def values_that_occur(
    pieces: Iterable[NDArray[Any]], *, nodata: int | None, name: str, remedy: str
) -> list[int]:
    """Return the class values that occur, ascending, without nodata.

    Args:
        pieces: Class values, integers or floats that hold integers; NaN is no value.
        nodata: The value that is no class, if any.
        name: What messages call the map.
        remedy: What to do about a value that is no class; `{value}` stands for it.

    Raises:
        RasterError: There are more values than classes, values that are not whole, or
            outside 0 … 65534.
    """
    seen: set[int] = set()
    for piece in pieces:
        seen |= set(_distinct(piece, name).tolist())
        if len(seen) > HIGHEST + 1:
            raise RasterError(
                f"{name} has more than {HIGHEST + 1:,} values: is it a class map?"
            )
    values = sorted(seen - {nodata})
    for value in (values[0], values[-1]) if values else ():
        if not 0 <= value <= HIGHEST:
            raise RasterError(
                f"{name} has class value {value}; class values are 0 … {HIGHEST}: "
                f"{remedy.format(value=value)}"
            )
    return values


def _distinct(values: NDArray[Any], name: str) -> NDArray[np.int64]:
    """Return the values that occur in an array; fast where they lie close together."""
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
        fraction = values[values != np.trunc(values)]
        if fraction.size:
            raise RasterError(
                f"{name} has pixels such as {fraction[0]:g}; class values are "
                "integers: classify it first"
            )
    if not values.size:
        return np.zeros(0, np.int64)
    if values.dtype == np.uint8:
        bytes_seen = np.zeros(256, np.bool_)
        _mark(np.ascontiguousarray(values).ravel(), bytes_seen)
        return np.flatnonzero(bytes_seen)
    low, high = int(values.min()), int(values.max())
    if high - low > HIGHEST + 1:
        return np.unique(values).astype(np.int64)
    seen = np.zeros(high - low + 1, np.bool_)
    seen[values.astype(np.int64) - low] = True
    return np.flatnonzero(seen) + low


@njit(cache=True, nogil=True)
def _mark(values: Any, seen: Any) -> None:  # noqa: ANN401 - arrays
    """Mark the bytes that occur; a tenth of the time of an index array."""
    for value in values:
        seen[value] = True


def table_of(
    values: Iterable[int],
    names: Mapping[int, str] | None = None,
    colors: Mapping[int, str] | None = None,
) -> tuple[Class, ...]:
    """Return a class table: named and coloured where that is known, else by default.

    A name that several values share gets the value in brackets.
    """
    names, colors = names or {}, colors or {}
    given = list(names.values())
    shared = {name for name in given if given.count(name) > 1}
    table = []
    values = [*values]
    called = [names.get(value) or f"class_{value}" for value in values]
    defaults = colors_of(called)
    for value, name, default in zip(values, called, defaults, strict=True):
        table.append(
            Class(
                value=value,
                name=f"{name} ({value})" if name in shared else name,
                color=colors.get(value) or default,
            )
        )
    return tuple(table)
