"""Which block comes next, and on which worker: neighbours on the same one.

Blocks are worked through from top to bottom, some columns at a time. Every worker has a
range of that order for itself, so that tiles which blocks share are decoded once, and
halo sums are read where they were made. One that has none left, or that came late, gets
the second half of the longest range.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from geoseg.rasters.source import pixel_bytes, tile_of
from geoseg.rasters.tiles import times_decoded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.core.grid import Window
    from geoseg.core.tiling import Tiling
    from geoseg.rasters.open import Source

Key = tuple[int, int]
"""Row and column of a block."""
_NOWHERE = 65535


_ACROSS = 1 << 17
"""Bytes of a row of pixels of blocks that are worked through from top to bottom."""
_MOST = 4000
"""Blocks that are gone through to tell how often tiles are decoded."""


def across(source: Source, tiling: Tiling, workers: int) -> int:
    """Return how many columns of blocks are worked through at a time.

    So many that what several workers have each is about square, with few neighbours on
    others.
    """
    most = _ACROSS // (pixel_bytes(source) * tiling.block)
    side = tiling.blocks if workers == 1 else (tiling.blocks / workers) ** 0.5
    return max(1, min(most, round(side)))


def cells_of(tiling: Tiling) -> NDArray[np.int64]:
    """Return how many windows each block has, (row, column)."""
    per = tiling.block // tiling.stride
    rows, cols = (
        np.diff(np.minimum(np.arange(blocks + 1) * per, cells))
        for blocks, cells in (
            (tiling.block_rows, tiling.cell_rows),
            (tiling.block_cols, tiling.cell_cols),
        )
    )
    return np.outer(rows, cols)


def share_at_work(tiling: Tiling, workers: int) -> float:
    """Return which share of a run's time its workers are all at work.

    As far as blocks explain it: workers are equally fast, windows take all as long, and
    each worker has in hand from the beginning what it will ever have, as GPUs have
    whose many threads read ahead.
    """
    cells, loads = cells_of(tiling), [0] * workers
    wide = max(1, round((tiling.blocks / workers) ** 0.5))
    order = BlockOrder(np.ones(cells.shape, bool), wide, cells)
    for key in _begun(order, workers):
        loads[order.home(key) or 0] += int(cells[key])
    return tiling.windows / workers / max(loads)


def tiles_decoded(source: Source, tiling: Tiling, workers: int) -> float | None:
    """Return how often a run decodes each tile of its file, on an average.

    Args:
        source: What is read; None is returned where it is not one file.
        tiling: How it is cut; of very many blocks the first ones are looked at.
        workers: How many processes read, all equally fast.
    """
    tile = tile_of(source)
    if tile is None:
        return None
    cols = min(_MOST, tiling.block_cols)
    tiling = replace(
        tiling,
        height=min(tiling.height, max(1, _MOST // cols) * tiling.block),
        width=min(tiling.width, cols * tiling.block),
    )
    todo = np.ones((tiling.block_rows, tiling.block_cols), bool)
    wide = across(source, tiling, workers)
    order = BlockOrder(todo, wide, cells_of(tiling))
    reads: list[list[Window]] = [[] for _ in range(workers)]
    for key in _begun(order, workers):
        window = tiling.block_at(*key).reach.intersection(tiling.raster)
        assert window is not None
        reads[order.home(key) or 0].append(window)
    return times_decoded(
        reads, tile=tile, raster=tiling.raster, pixel=pixel_bytes(source)
    )


def _begun(order: BlockOrder, workers: int) -> Iterator[Key]:
    """Begin all blocks as equally fast workers would, of which none ends."""
    while (key := order.next(workers)) is not None:
        order.begun(key)
        yield key


class BlockOrder:
    """Blocks of which nothing is done yet, and what each worker has in hand."""

    def __init__(
        self,
        todo: NDArray[np.bool_],
        across: int,
        cells: NDArray[np.int64] | None = None,
    ) -> None:
        """Begin with one range of all blocks.

        Args:
            todo: (row, column) which blocks are to be begun.
            across: Columns of blocks that are worked through at a time. Below a row of
                them lie tiles of the file that the next row needs, too; they are kept
                in memory (`rasters/tiles`), which is not to grow with the raster.
            cells: (row, column) windows of each block, by which workers have more or
                less in hand: blocks at the raster's edge have few; None: all as many.
        """
        self._todo, self._across = todo, across
        self._cells = np.ones(todo.shape, np.int64) if cells is None else cells
        self._ranges: dict[int, tuple[int, int]] = {0: (0, todo.size)}
        self._home = np.full(todo.shape, _NOWHERE, np.uint16)
        self._busy: Counter[int | None] = Counter()

    def next(self, workers: int) -> Key | None:
        """Return the next block for the worker with the least in hand; None: all begun.

        Args:
            workers: How many there are now.
        """
        worker = min(range(workers), key=lambda w: self._busy[w])
        for number in self._taken(worker):
            key = self._key(number)
            if self._todo[key]:
                self._home[key] = worker
                return key
        return None

    @property
    def all_begun(self) -> bool:
        """Whether `next` has given all blocks away."""
        return not self._ranges

    def home(self, key: Key) -> int | None:
        """Return the worker that a block was begun on; None: an earlier run's."""
        home = int(self._home[key])
        return None if home == _NOWHERE else home

    def begun(self, key: Key) -> None:
        """Note that its worker has a block in hand."""
        self._busy[self.home(key)] += int(self._cells[key])

    def ended(self, key: Key) -> None:
        """Note that it has it no more."""
        self._busy[self.home(key)] -= int(self._cells[key])

    def _taken(self, worker: int) -> Iterator[int]:
        """Take numbers of blocks for a worker, as long as there are any."""
        while True:
            first, after = self._ranges.pop(worker, (0, 0))
            if first == after:
                if not self._ranges:
                    return
                longest = max(self._ranges, key=self._length)
                begin, after = self._ranges.pop(longest)
                first = (begin + after) // 2
                if begin < first:
                    self._ranges[longest] = begin, first
            if first + 1 < after:
                self._ranges[worker] = first + 1, after
            yield first

    def _length(self, worker: int) -> int:
        first, after = self._ranges[worker]
        return after - first

    def _key(self, number: int) -> Key:
        rows, cols = self._todo.shape
        strip, within = divmod(number, rows * self._across)
        left = strip * self._across
        row, col = divmod(within, min(self._across, cols - left))
        return row, left + col
