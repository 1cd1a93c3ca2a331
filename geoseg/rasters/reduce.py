"""From many dates to one pixel: median, percentile, mean, first, medoid, best.

Stacks are float32, NaN where nothing was seen, oldest first. A pixel depends on its own
values only; sums and comparisons are float64, in the order of time.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.indices import INDICES
from geoseg.core.loops import compiled_late

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
        _first(stack, out)
    elif name == "mean":
        _mean(stack, out)
    else:
        pairs = sorting_pairs(len(stack))
        _percentile(stack, float(rest) if rest else 50.0, pairs, out)
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
            _medoid(stack, out)
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


@lru_cache(maxsize=64)
def sorting_pairs(count: int) -> NDArray[np.int64]:
    """Return which of so many values to compare and swap, in order, to sort them.

    (n, 2) int64, by Batcher's odd-even merge (Knuth, The Art of Computer Programming 3,
    5.2.2, algorithm M). The same for all pixels, so that a row of them is sorted by
    operations on whole rows.
    """
    pairs = []
    top = 1 << max(0, (count - 1).bit_length() - 1)
    half = top
    while half > 0:
        reach, low, step = top, 0, half
        while True:
            pairs += [(i, i + step) for i in range(count - step) if i & half == low]
            if reach == half:
                break
            step, reach, low = reach - half, reach >> 1, half
        half >>= 1
    return np.array(pairs, np.int64).reshape(-1, 2)


@compiled_late
def _percentile(
    stack: NDArray[Any], percent: float, pairs: NDArray[Any], out: NDArray[Any]
) -> None:
    """Interpolate between the two nearest of the sorted values, as NumPy does."""
    dates, height, width = stack.shape
    values = np.empty((dates, width), np.float32)
    counts = np.empty(width, np.int64)
    for y in range(height):
        counts[:] = 0
        for i in range(dates):
            for x in range(width):
                value = stack[i, y, x]
                there = value == value  # noqa: PLR0124 - not NaN
                values[i, x] = value if there else np.float32(np.inf)
                counts[x] += there
        for p in range(len(pairs)):
            low, high = values[pairs[p, 0]], values[pairs[p, 1]]
            for x in range(width):
                one, other = low[x], high[x]
                low[x] = one if one < other else other
                high[x] = other if one < other else one
        for x in range(width):
            count = counts[x]
            if count == 0:
                out[y, x] = np.nan
                continue
            place = percent / 100 * (count - 1)
            first = min(int(place), count - 1)
            last = min(first + 1, count - 1)
            below, above = np.float64(values[first, x]), np.float64(values[last, x])
            out[y, x] = below + (above - below) * (place - first)


@compiled_late
def _mean(stack: NDArray[Any], out: NDArray[Any]) -> None:
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


@compiled_late
def _first(stack: NDArray[Any], out: NDArray[Any]) -> None:
    dates, height, width = stack.shape
    for y in range(height):
        for x in range(width):
            out[y, x] = np.nan
            for i in range(dates):
                value = stack[i, y, x]
                if value == value:  # noqa: PLR0124 - not NaN
                    out[y, x] = value
                    break


@compiled_late
def _medoid(stack: NDArray[Any], out: NDArray[Any]) -> None:  # noqa: C901, PLR0912 - compiled
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


def laid(
    values: NDArray[np.float32],
    valid: NDArray[np.bool_],
    mask: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None,
    claimed: NDArray[np.bool_],
    out: NDArray[np.float32],
) -> None:
    """Lay a scene under those that are there: what they saw is theirs.

    Args:
        values: (y, x) of one band.
        valid: (y, x) where it has values.
        mask: Where nothing was seen after all, and what is masked, (y, x) each.
        claimed: (y, x) what those before saw; changed in place.
        out: (y, x) values, NaN where masked or not seen; changed in place.
    """
    nothing, hidden = (_nowhere(valid.shape),) * 2 if mask is None else mask
    _lay(
        np.ascontiguousarray(values),
        np.ascontiguousarray(valid),
        np.ascontiguousarray(nothing),
        np.ascontiguousarray(hidden),
        claimed,
        out,
    )


@lru_cache(maxsize=4)
def _nowhere(shape: tuple[int, int]) -> NDArray[np.bool_]:
    return np.zeros(shape, np.bool_)


@compiled_late
def _lay(
    values: NDArray[Any],
    valid: NDArray[Any],
    nothing: NDArray[Any],
    hidden: NDArray[Any],
    claimed: NDArray[Any],
    out: NDArray[Any],
) -> None:
    height, width = values.shape
    for y in range(height):
        for x in range(width):
            new = valid[y, x] and not nothing[y, x] and not claimed[y, x]
            if new:
                claimed[y, x] = True
                if not hidden[y, x]:
                    out[y, x] = values[y, x]
