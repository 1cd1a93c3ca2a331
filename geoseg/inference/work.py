"""Blocks and runs of their windows, on their way through a device."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import torch

from geoseg.core.grid import Window
from geoseg.core.tiling import Block
from geoseg.inference.device_memory import Mark
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
    """Windows of neighbouring cells of a block, row by row, of one shape."""

    work: Work
    row: int
    first: int
    after: int
    rows: int = 1
    """How many rows of cells; what waits is one row each."""

    def __len__(self) -> int:
        return self.rows * (self.after - self.first)

    @property
    def cells(self) -> Cells:
        """Row and column of each window's cell."""
        rows = range(self.row, self.row + self.rows)
        return [(row, col) for row in rows for col in range(self.first, self.after)]

    def split(self, count: int) -> tuple[Run, Run]:
        """Return the first windows of one row, and the others."""
        middle = self.first + count
        return replace(self, after=middle), replace(self, first=middle)

    def goes_on(self, other: Run) -> bool:
        """Whether another run is the same columns of the row below."""
        ours = self.work, self.row + self.rows, self.first, self.after
        return ours == (other.work, other.row, other.first, other.after)

    def cut(self, shape: Shape) -> torch.Tensor:
        """Return a view of the windows, (row, column, band, y, x)."""
        work, tiling = self.work, self.work.block.tiling
        assert work.values is not None
        first = tiling.model_window(self.row, self.first).relative_to(work.pixels.reach)
        windows = work.values[:, first.y :, first.x :]
        for axis, side in enumerate(shape, start=1):
            windows = windows.unfold(axis, side, tiling.stride)
        windows = windows[:, : self.rows, : self.after - self.first]
        return windows.permute(1, 2, 0, 3, 4)


def taken_of(runs: deque[Run], size: int) -> list[Run]:
    """Take windows from the left, `size` of them where there are so many.

    Returns:
        Runs of as many rows as there are one below the other: each is asked of the
        device at once.
    """
    taken: list[Run] = []
    while size and runs:
        run = runs.popleft()
        if len(run) > size:
            run, rest = run.split(size)
            runs.appendleft(rest)
        size -= len(run)
        if taken and taken[-1].goes_on(run):
            taken[-1] = replace(taken[-1], rows=taken[-1].rows + 1)
        else:
            taken.append(run)
    return taken


def given_back(taken: Sequence[Run], runs: deque[Run]) -> None:
    """Undo `taken_of`."""
    for run in reversed(taken):
        for row in reversed(range(run.row, run.row + run.rows)):
            runs.appendleft(replace(run, row=row, rows=1))


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
        windows = run.cut(shape)
        batch[done : done + len(run)].view(windows.shape).copy_(windows)
        done += len(run)
    batch[done:] = 0
    return batch
