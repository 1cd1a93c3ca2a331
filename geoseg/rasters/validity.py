"""Which pixels are valid: nodata of every kind, as GDAL understands it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from geoseg.core.grid import Window


def all_valid(shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a read-only (y, x) True everywhere that takes no memory."""
    return np.broadcast_to(np.True_, shape)


def is_all_valid(valid: NDArray[np.bool_]) -> bool:
    """Whether this is `all_valid`, told without looking at any pixel."""
    return valid.strides == (0, 0) and bool(valid.flat[0])


def valid_everywhere(valid: NDArray[np.bool_]) -> bool:
    """Whether all pixels are valid; NumPy is slow to look at what takes no memory."""
    return is_all_valid(valid) or bool(valid.all())


def valid_pixels(
    pixels: NDArray[np.generic], nodata: Sequence[float | None]
) -> NDArray[np.bool_]:
    """Return which pixels are in no band nodata, NaN or infinite.

    Args:
        pixels: (band, y, x) of any real dtype.
        nodata: The nodata value of each band, in the raster's own numbers; None, or one
            that the dtype cannot hold, means that the band has none.

    Returns:
        (y, x) bool; see `all_valid` where there is nothing to compare.
    """
    shape = cast("tuple[int, int]", pixels.shape[1:])
    invalid: NDArray[np.bool_] | None = None
    for band, value in zip(pixels, nodata, strict=True):
        for bad in _invalid(band, value):
            invalid = bad if invalid is None else np.logical_or(invalid, bad, invalid)
    return all_valid(shape) if invalid is None else np.logical_not(invalid, invalid)


def both(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return where both are valid, without a pass over what is valid everywhere."""
    if is_all_valid(a):
        return b
    return a if is_all_valid(b) else np.logical_and(a, b)


def valid_together(
    pixels: NDArray[np.generic], others: NDArray[np.generic], nodata: float
) -> NDArray[np.bool_]:
    """Return which pixels are not nodata in all bands at once, and finite in each.

    Args:
        pixels: (band, y, x) of any real dtype.
        others: More bands of the same raster, which are looked at for nodata only.
        nodata: The nodata value of all of them.
    """
    finite = valid_pixels(pixels, [None] * len(pixels))
    span = nodata_range(nodata, pixels.dtype)
    if span is None:
        return finite
    low, high = span
    nothing = np.ones(pixels.shape[1:], np.bool_)
    for band in (*pixels, *others):
        nothing &= (band >= low) & (band <= high)
    return both(finite, np.logical_not(nothing, nothing))


def covered_pixels(
    rectangles: NDArray[np.float64], window: Window
) -> NDArray[np.bool_]:
    """Return which pixels of a window lie in any of some rectangles, (y, x).

    Args:
        rectangles: (n, 4) first and last row and column edges, in pixels.
        window: What is looked at.
    """
    edges = np.floor(rectangles.clip(-1e9, 1e9) + 0.5).astype(np.int64)
    edges -= np.array([window.y, window.y, window.x, window.x])
    edges[:, :2] = edges[:, :2].clip(0, window.height)
    edges[:, 2:] = edges[:, 2:].clip(0, window.width)
    y, bottom, x, right = edges.T
    covered = np.zeros((window.height, window.width), np.bool_)
    for top, low, left, far in edges[(y < bottom) & (x < right)]:
        covered[top:low, left:far] = True
    return all_valid(covered.shape) if covered.all() else covered


def _invalid(
    band: NDArray[np.generic], nodata: float | None
) -> list[NDArray[np.bool_]]:
    """Return the masks that say which pixels of a band are not valid."""
    masks = []
    if band.dtype.kind == "f":
        finite = np.isfinite(band)
        masks.append(np.logical_not(finite, finite))
    span = None if nodata is None else nodata_range(nodata, band.dtype)
    if span is not None:
        low, high = span
        masks.append(band == low if low == high else (band >= low) & (band <= high))
    return masks


@lru_cache(maxsize=256)
def nodata_range(nodata: float, dtype: np.dtype[Any]) -> tuple[Any, Any] | None:
    """Return the lowest and highest pixel value that means nodata; None for none.

    Integers must be equal. Floats are compared as GDAL does (`ARE_REAL_EQUAL` with two
    units in the last place), since tags are decimal text and rarely hit the float:
    |a - b| < 2 epsilon |a + b|. NaN is not a range; NaN pixels are invalid anyway.
    """
    if dtype.kind in "iub":
        info = np.iinfo(dtype) if dtype.kind != "b" else np.iinfo(np.uint8)
        if not (info.min <= nodata <= info.max and float(nodata).is_integer()):
            return None
        return dtype.type(int(nodata)), dtype.type(int(nodata))
    with np.errstate(over="ignore"):
        value = dtype.type(nodata)
    if not np.isfinite(value):
        return None
    return _reach(value, -np.inf), _reach(value, np.inf)


def _reach(value: np.floating[Any], towards: float) -> np.floating[Any]:
    """Return the farthest float that still equals `value` as GDAL sees it."""
    kind = type(value)
    epsilon = 2 * float(np.finfo(kind).eps)
    half = float(value) / 2  # halves, so that sums of huge numbers do not overflow
    last = value
    while True:
        with np.errstate(over="ignore"):
            following = np.nextafter(last, kind(towards))
        other = float(following) / 2
        if not (
            np.isfinite(following) and abs(other - half) < epsilon * abs(other + half)
        ):
            return last
        last = following
