"""A seeded sample of a raster: the same pixels, however the raster is cut."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from geoseg.core.grid import Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.core.grid import Grid
    from geoseg.rasters.open import Source

_SIDE = 256  # pixels; a cell of the sample, about what one read of a tiled file costs
_PER_CELL = 2048  # pixels taken from a cell at most
_MOST_CELLS = 4096  # looked at, where most hold nothing valid


def sample_pixels(
    source: Source, *, count: int = 100_000, seed: int = 0
) -> NDArray[np.generic]:
    """Return valid pixels from all over a raster.

    Cells of 256 x 256 pixels are drawn by a counter-based generator from the grid's
    shape alone, and pixels at random in each, until there are enough.

    Returns:
        (n, band) in the raster's dtype; n is at most `count`, and smaller where there
        are not as many valid pixels. Rows with NaN or infinities are left out.
    """
    parts: list[NDArray[np.generic]] = []
    have = 0
    for number, window in enumerate(_cells(source.grid, seed)):
        if have >= count or number >= _MOST_CELLS:
            break
        pixels, valid = source.read(window)
        part = _some(pixels[:, valid].T, np.random.Philox(key=seed, counter=number + 1))
        have += len(part)
        parts.append(part)
    return np.concatenate(parts)[:count]


def sample_windows(grid: Grid, *, count: int) -> Iterator[Window]:
    """Yield the first `count` cells of the sample."""
    return islice(_cells(grid, seed=0), count)


def _cells(grid: Grid, seed: int) -> Iterator[Window]:
    """Yield cells in random order, each once."""
    rows, cols = -(-grid.height // _SIDE), -(-grid.width // _SIDE)
    for index in _distinct(rows * cols, np.random.Philox(key=seed, counter=0)):
        y, x = index // cols * _SIDE, index % cols * _SIDE
        yield Window.spanning(
            y, min(y + _SIDE, grid.height), x, min(x + _SIDE, grid.width)
        )


def _distinct(total: int, bits: np.random.Philox) -> Iterator[int]:
    """Yield 0 … total - 1 in random order, lazily where there are very many."""
    random = np.random.Generator(bits)
    if total <= 1 << 20:
        yield from random.permutation(total).tolist()
        return
    seen: set[int] = set()
    while True:
        index = int(random.integers(total))
        if index not in seen:
            seen.add(index)
            yield index


def _some(rows: NDArray[np.generic], bits: np.random.Philox) -> NDArray[np.generic]:
    """Return at most `_PER_CELL` of the rows, without those that are not finite."""
    if rows.dtype.kind == "f":
        rows = rows[np.isfinite(rows).all(axis=1)]
    if len(rows) <= _PER_CELL:
        return rows
    keep = np.random.Generator(bits).choice(len(rows), _PER_CELL, replace=False)
    return rows[np.sort(keep)]
