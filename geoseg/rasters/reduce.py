"""From many dates to one pixel: median, percentile, mean, first, medoid, best.

Stacks are float32, NaN where nothing was seen, oldest first. A pixel depends on its own
values only; sums and comparisons are float64, in the order of time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from geoseg.core.indices import INDICES

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FEW: Final = 48
"""Values up to which insertion is the quickest way to sort."""


def index_bands(rule: str) -> tuple[str, str] | None:
    """Return the bands whose normalised difference scores dates, None without one.

    >>> index_bands("best:ndvi")
    ('nir', 'red')
    """
    name = rule.partition(":")[2]
    if not rule.startswith("best:"):
        return None
    found = re.fullmatch(r"\((\w+) - (\w+)\) / .*", INDICES[name])
    assert found is not None, "all indices are normalised differences"
    return found[1], found[2]


def by_pixel(rule: str) -> bool:
    """Whether a rule takes all bands of a pixel from one date, chosen by its values."""
    return rule == "medoid" or rule.startswith("best:")


def reduced(
    rule: str, stack: NDArray[np.float32], out: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Reduce one band.

    Args:
        rule: See `series_options.reduction_of`; not one that is `by_pixel`.
        stack: (date, y, x), oldest first; for `best` the best first.
        out: (y, x), filled; NaN where no date has a value.
    """
    name, _, rest = rule.partition(":")
    if len(stack) == 0:
        out[...] = np.nan
    elif name in {"first", "best"}:
        _first()(stack, out)
    elif name == "mean":
        _mean()(stack, out)
    else:
        _percentile()(stack, float(rest) if rest else 50.0, out)
    return out


def chosen(
    stack: NDArray[np.float32],
    score: tuple[NDArray[np.float32], NDArray[np.float32]] | None,
) -> NDArray[np.int64]:
    """Return which date each pixel is taken from, (y, x); -1 where from none.

    Args:
        stack: (date, band, y, x).
        score: The two bands (date, y, x) of an index whose largest value counts; None
            for the medoid.

    The medoid is the date with the smallest sum of distances to all others, in the
    space of the bands; of dates that lack bands, those with the most take part. Where
    two are as good the older one counts.
    """
    if score is None:
        out = np.full(stack.shape[2:], -1, np.int64)
        if len(stack):
            _medoid()(stack, out)
        return out
    first, second = (band.astype(np.float64) for band in score)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = (first - second) / (first + second)
    values[~np.isfinite(values)] = -np.inf
    if not len(values):
        return np.full(stack.shape[2:], -1, np.int64)
    best = np.argmax(values, axis=0)
    none = np.take_along_axis(values, best[None], 0)[0] == -np.inf
    return np.where(none, -1, best)


def taken(stack: NDArray[np.float32], which: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return each pixel (y, x) of the date (date, y, x) that it is taken from."""
    if not len(stack):
        return np.full(which.shape, np.nan, np.float32)
    picked = np.take_along_axis(stack, which.clip(0)[None], 0)[0]
    return np.where(which < 0, np.float32(np.nan), picked)


def _jitted(function: Callable[..., None]) -> Callable[..., None]:
    from numba import njit

    return njit(nogil=True, cache=True)(function)  # type: ignore[no-any-return]


@cache
def _percentile() -> Callable[..., None]:
    return _jitted(_percentile_of)


@cache
def _mean() -> Callable[..., None]:
    return _jitted(_mean_of)


@cache
def _first() -> Callable[..., None]:
    return _jitted(_first_of)


@cache
def _medoid() -> Callable[..., None]:
    return _jitted(_medoid_of)


def _percentile_of(stack: NDArray[Any], percent: float, out: NDArray[Any]) -> None:
    """Interpolate between the two nearest of the sorted values, as NumPy does."""
    dates, height, width = stack.shape
    values = np.empty(dates, np.float32)
    for y in range(height):
        for x in range(width):
            count = 0
            for i in range(dates):
                value = stack[i, y, x]
                if value != value:  # noqa: PLR0124 - NaN
                    continue
                at = count
                if dates <= _FEW:  # sorted as they come
                    while at > 0 and values[at - 1] > value:
                        values[at] = values[at - 1]
                        at -= 1
                values[at] = value
                count += 1
            if count == 0:
                out[y, x] = np.nan
                continue
            if dates > _FEW:
                values[:count].sort()
            place = percent / 100 * (count - 1)
            low = min(int(place), count - 1)
            high = min(low + 1, count - 1)
            part = place - low
            below, above = np.float64(values[low]), np.float64(values[high])
            out[y, x] = below + (above - below) * part


def _mean_of(stack: NDArray[Any], out: NDArray[Any]) -> None:
    dates, height, width = stack.shape
    for y in range(height):
        for x in range(width):
            total, count = 0.0, 0
            for i in range(dates):
                value = np.float64(stack[i, y, x])
                if value == value:  # noqa: PLR0124 - not NaN
                    total += value
                    count += 1
            out[y, x] = total / count if count else np.nan


def _first_of(stack: NDArray[Any], out: NDArray[Any]) -> None:
    dates, height, width = stack.shape
    for y in range(height):
        for x in range(width):
            out[y, x] = np.nan
            for i in range(dates):
                value = stack[i, y, x]
                if value == value:  # noqa: PLR0124 - not NaN
                    out[y, x] = value
                    break


def _medoid_of(stack: NDArray[Any], out: NDArray[Any]) -> None:  # noqa: C901, PLR0912 - compiled
    dates, bands, height, width = stack.shape
    there = np.empty(dates, np.int64)
    sums = np.empty(dates, np.float64)
    for y in range(height):
        for x in range(width):
            most = 0
            for i in range(dates):
                there[i] = 0
                for b in range(bands):
                    value = stack[i, b, y, x]
                    if value == value:  # noqa: PLR0124 - not NaN
                        there[i] += 1
                most = max(most, there[i])
            if most == 0:
                continue
            for i in range(dates):
                sums[i] = 0.0
            for i in range(dates):
                if there[i] != most:
                    continue
                for j in range(i + 1, dates):
                    if there[j] != most:
                        continue
                    square = 0.0
                    for b in range(bands):
                        apart = np.float64(stack[i, b, y, x]) - np.float64(
                            stack[j, b, y, x]
                        )
                        if apart == apart:  # noqa: PLR0124 - not NaN
                            square += apart * apart
                    sums[i] += np.sqrt(square)
                    sums[j] += np.sqrt(square)
            best = -1
            for i in range(dates):
                if there[i] == most and (best < 0 or sums[i] < sums[best]):
                    best = i
            out[y, x] = best
