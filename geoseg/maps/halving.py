"""A raster at half its resolution: classes by vote, numbers by mean. Compiled loops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray


def halve_classes(values: NDArray[Any], nodata: int) -> NDArray[Any]:
    """Return the most frequent valid value of every 2 x 2 pixels.

    Args:
        values: (y, x) class values.
        nodata: The value that has no vote.

    Returns:
        (ceil(y / 2), ceil(x / 2)); nodata only where all four are; of values that are
        equally frequent the first in reading order. A last odd row or column counts
        twice.
    """
    out = _half(values)
    _vote(values, values.dtype.type(nodata), out)
    return out


def halve_mean(values: NDArray[Any], nodata: int) -> NDArray[Any]:
    """Return the rounded mean of the valid ones of every 2 x 2 pixels; see above."""
    out = _half(values)
    _mean(values, values.dtype.type(nodata), out)
    return out


def _half(values: NDArray[Any]) -> NDArray[Any]:
    height, width = values.shape
    return np.empty((-(-height // 2), -(-width // 2)), values.dtype)


@njit(cache=True, nogil=True)
def _vote(values: NDArray[Any], nodata: int, out: NDArray[Any]) -> None:
    height, width = values.shape
    for y in range(out.shape[0]):
        top, low = 2 * y, min(2 * y + 1, height - 1)
        for x in range(out.shape[1]):
            left, right = 2 * x, min(2 * x + 1, width - 1)
            a, b = values[top, left], values[top, right]
            c, d = values[low, left], values[low, right]
            if a != nodata and a in (b, c, d):
                out[y, x] = a
            elif b != nodata and b in (c, d):
                out[y, x] = b
            elif c != nodata and c == d:
                out[y, x] = c
            elif a != nodata:
                out[y, x] = a
            elif b != nodata:
                out[y, x] = b
            elif c != nodata:
                out[y, x] = c
            else:
                out[y, x] = d


@njit(cache=True, nogil=True)
def _mean(values: NDArray[Any], nodata: int, out: NDArray[Any]) -> None:
    height, width = values.shape
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            total, count = 0, 0
            for i in range(2):
                row = min(2 * y + i, height - 1)
                for j in range(2):
                    value = values[row, min(2 * x + j, width - 1)]
                    if value != nodata:
                        total += value
                        count += 1
            out[y, x] = (total + count // 2) // count if count else nodata
