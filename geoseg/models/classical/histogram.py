"""Histograms over a whole raster, the same however it is read.

Integers of up to 16 bits are counted value by value. Anything else is counted as
float32 by the first 20 bits of its value (sign, exponent, 11 bits of mantissa): bins
within 0.05 % of the value, in order, with no range to know beforehand, in one pass.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from geoseg.core.grid import squares
from geoseg.errors import ModelError
from geoseg.execution.resources import threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.rasters.open import Source

_SIDE = 2048  # pixels read at once along each side
_DROPPED = 12  # bits of a float32 that bins do not tell apart
_BINS = 256  # that are parted into several classes
_FLOAT_BINS = 1 << (32 - _DROPPED)


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often which value occurs; empty bins are left out."""

    values: NDArray[np.float64]
    """(n,) the middle of each bin, ascending; where exact, the value itself."""
    counts: NDArray[np.int64]
    """(n,) how many pixels."""
    exact: bool
    """Whether each bin holds one value only."""


def raster_histogram(
    source: Source,
    value: Callable[..., NDArray[np.float32]] | None = None,
    *,
    side: int = _SIDE,
) -> Histogram:
    """Count the values of all valid pixels of a raster.

    Args:
        source: The raster.
        value: What to count, computed from one array per band; None: the pixels of the
            only band. NaN and infinities are not counted.
        side: Of the squares in which it is read, in pixels.

    Raises:
        ModelError: The raster has no valid pixel.
    """
    exact = value is None and source.dtype.kind in "iu" and source.dtype.itemsize <= 2

    workers = min(4, threads())

    def count(first: int) -> NDArray[np.int64]:
        counts = np.zeros(1 << 16 if exact else _FLOAT_BINS, np.int64)
        for window in islice(squares(source.grid, side), first, None, workers):
            pixels, valid = source.read(window)
            values = (pixels[0] if value is None else value(*pixels))[valid]
            counts += _count_exact(values) if exact else _count_float(values)
        return counts

    with ThreadPoolExecutor(workers) as pool:
        counts = np.sum(list(pool.map(count, range(workers))), axis=0)
    found = np.flatnonzero(counts)
    if not len(found):
        raise ModelError(f"{source.name} has no valid pixel to take statistics of")
    low = np.iinfo(source.dtype.name).min if exact else 0
    middles = found.astype(np.float64) + low if exact else _middles(found)
    return Histogram(middles, counts[found], exact)


def _count_exact(values: NDArray[np.generic]) -> NDArray[np.int64]:
    low = int(np.iinfo(values.dtype.name).min)
    shifted = values if low == 0 else values.astype(np.int32) - low
    return np.bincount(shifted, minlength=1 << 16)


def _count_float(values: NDArray[np.generic]) -> NDArray[np.int64]:
    numbers = values.astype(np.float32, copy=False)
    numbers = numbers[np.isfinite(numbers)] + np.float32(0)  # -0 becomes +0
    bits = numbers.view(np.uint32)
    # Flipped like this, the bits of floats sort as their values do.
    flip = np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))
    return np.bincount((bits ^ flip) >> _DROPPED, minlength=_FLOAT_BINS)


def _middles(bins: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the middle of float bins; the bin that starts at zero is zero itself."""
    keys = (bins.astype(np.uint32) << _DROPPED).astype(np.uint32)
    half = np.uint32(1 << (_DROPPED - 1))
    middle = keys + np.where(keys == 0x80000000, np.uint32(0), half)
    positive = (middle & np.uint32(0x80000000)) != 0
    bits = np.where(positive, middle ^ np.uint32(0x80000000), ~middle)
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def otsu(histogram: Histogram) -> float:
    """Return the value that parts a histogram best in two (Otsu 1979).

    Pixels above it are one class, pixels at or below it the other; of equally good
    values the lowest is taken.
    """
    values, counts = histogram.values, histogram.counts.astype(np.float64)
    if len(values) == 1:
        return float(values[0])
    centred = values - values.mean()
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * centred)
    difference = sums[:-1] / below - (sums[-1] - sums[:-1]) / above
    between = below * above * difference**2
    best = int(np.argmax(between))
    if histogram.exact:
        return float(values[best])
    return float(values[best] + values[best + 1]) / 2


def multi_otsu(histogram: Histogram, classes: int) -> list[float]:
    """Return the values that part a histogram best in several classes.

    Liao, Chen, Chung (2001), "A fast algorithm for multilevel thresholding", over bins
    of equal width, by dynamic programming.

    Raises:
        ModelError: There are fewer different values than classes.
    """
    middles, counts = _rebinned(histogram, _BINS)
    if len(middles) < classes:
        raise ModelError(
            f"the raster has {len(middles)} different values: too few for {classes} "
            "classes"
        )
    weight = np.concatenate([[0.0], np.cumsum(counts)])
    moment = np.concatenate([[0.0], np.cumsum(counts * (middles - middles.mean()))])
    with np.errstate(divide="ignore", invalid="ignore"):
        # gain[i, j]: what one class of bins i ... j - 1 adds to the variance between
        inside = weight[None] - weight[:, None]
        gain = (moment[None] - moment[:, None]) ** 2 / inside
    gain[inside <= 0] = -np.inf
    best, ways = gain[0], []
    for _ in range(classes - 1):
        total = best[:, None] + gain
        ways.append(np.argmax(total, axis=0))
        best = np.max(total, axis=0)
    cuts, end = [], len(middles)
    for way in reversed(ways):
        end = int(way[end])
        cuts.append(float(middles[end - 1]))
    return cuts[::-1]


def _rebinned(
    histogram: Histogram, bins: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return middles and counts of at most so many bins of equal width, none empty."""
    values, counts = histogram.values, histogram.counts.astype(np.float64)
    if len(values) <= bins:
        return values, counts
    edges = np.linspace(values[0], values[-1], bins + 1)
    which = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, bins - 1)
    sums: NDArray[np.float64] = np.bincount(which, counts, bins).astype(np.float64)
    full = sums > 0
    return ((edges[:-1] + edges[1:]) / 2)[full], sums[full]
