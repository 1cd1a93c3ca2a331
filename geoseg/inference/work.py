"""Blocks and runs of their windows, on their way through a device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch

from geoseg.core.grid import Window
from geoseg.core.tiling import Block
from geoseg.inference.device import Mark
from geoseg.inference.windows import Cells, Pixels

Shape = tuple[int, int]
"""Rows and columns of a window."""


@dataclass(slots=True, eq=False)
class Work:
    """A block on its way through the device."""

    block: Block
    pixels: Pixels
    names: Sequence[str]
    """Arrays of the masks that are wanted."""
    bytes: int = 0
    """What it takes of the device's memory."""
    values: torch.Tensor | None = None
    """(band, y, x) of the reach, on the device."""
    valid: torch.Tensor | None = None
    """(y, x) of the block, likewise; None where all pixels are."""
    kept: torch.Tensor | None = None
    """What windows are added to, on the device: sums, or labels."""
    finite: list[torch.Tensor] = field(default_factory=list)
    """(n,) of windows that are added, whether their scores are finite."""
    seen: list[tuple[tuple[int, int], list[torch.Tensor]]] = field(default_factory=list)
    """Cells of windows that are added, and the objects there."""
    runs: list[tuple[Shape, Run]] = field(default_factory=list)
    windows: int = 0
    """How many windows pass."""
    left: int = 0
    """Windows that are still to be added."""
    future: Future[tuple[list[torch.Tensor], Mark]] = field(default_factory=Future)

    @property
    def area(self) -> Window:
        """Where sums are kept: the block and its halo."""
        return self.block.window.pad(self.block.tiling.margin)

    def line_up(self, cells: Cells) -> None:
        """Put the windows of some cells, row by row, in runs."""
        tiling = self.block.tiling

        def shape_of(cell: tuple[int, int]) -> Shape:
            window = tiling.model_window(*cell)
            return window.height, window.width

        # Neighbours in a row have the same difference to their place in the list.
        for (row, _, shape), group in groupby(
            enumerate(cells), lambda n: (n[1][0], n[1][1] - n[0], shape_of(n[1]))
        ):
            columns = [col for _, (_, col) in group]
            run = Run(self, row, columns[0], columns[-1] + 1)
            self.runs.append((shape, run))
        self.left = self.windows = len(cells)

    def forget(self) -> None:
        """Give back what it holds of the device."""
        self.values = self.valid = self.kept = None
        self.finite, self.seen = [], []


@dataclass(frozen=True, slots=True)
class Run:
    """Windows of one row of cells of a block, one after the other, of one shape."""

    work: Work
    row: int
    first: int
    after: int

    def __len__(self) -> int:
        return self.after - self.first

    @property
    def cells(self) -> Cells:
        """Row and column of each window's cell."""
        return [(self.row, col) for col in range(self.first, self.after)]

    def split(self, count: int) -> tuple[Run, Run]:
        """Return the first windows, and the others."""
        middle = self.first + count
        return (
            Run(self.work, self.row, self.first, middle),
            Run(self.work, self.row, middle, self.after),
        )

    def cut(self, shape: Shape) -> torch.Tensor:
        """Return a view of the windows, (n, band, y, x), in their block's pixels."""
        work, tiling = self.work, self.work.block.tiling
        assert work.values is not None
        first = tiling.model_window(self.row, self.first).relative_to(work.pixels.reach)
        rows = work.values[:, first.y : first.y + shape[0], first.x :]
        windows = rows.unfold(2, shape[1], tiling.stride)[:, :, : len(self)]
        return windows.permute(2, 0, 1, 3)


def taken_of(runs: deque[Run], size: int) -> Iterator[Run]:
    """Take windows from the left, `size` of them where there are so many."""
    while size and runs:
        run = runs.popleft()
        if len(run) > size:
            run, rest = run.split(size)
            runs.appendleft(rest)
        size -= len(run)
        yield run


def filled(runs: Sequence[Run], size: int, shape: Shape, device: Any) -> torch.Tensor:  # noqa: ANN401
    """Return runs of windows as a batch (n, band, y, x) float32, filled with zeros.

    Args:
        runs: `size` windows at most, of one shape.
        size: Windows in a batch.
        shape: Theirs.
        device: A `torch.device`.
    """
    bands = len(runs[0].work.pixels.values)
    batch = torch.empty((size, bands, *shape), device=device)
    done = 0
    for run in runs:
        batch[done : done + len(run)].copy_(run.cut(shape))
        done += len(run)
    batch[done:] = 0
    return batch
