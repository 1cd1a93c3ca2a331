"""Patches of ground to learn from, and windows to validate on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import Dataset, Sampler

from geoseg.core.grid import Window, squares
from geoseg.models.fill import put_fill
from geoseg.training.holdout import CELL, Split
from geoseg.training.scenes import LabelledRaster

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.models.card import Card
    from geoseg.training.data import TrainingData
    from geoseg.training.options import TrainOptions

Patch = tuple[torch.Tensor, torch.Tensor]

VALIDATION = 0
"""The fold that training holds out."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Index:
    """Where the labelled pixels of each class are, by cell."""

    raster: NDArray[np.int64]
    """(cell,) which raster."""
    row: NDArray[np.int64]
    """(cell,) first row in pixels."""
    column: NDArray[np.int64]
    """(cell,) first column in pixels."""
    counts: NDArray[np.int64]
    """(cell, class) labelled pixels."""

    def draw(
        self, rng: np.random.Generator, weights: NDArray[np.float64]
    ) -> tuple[int, int, int]:
        """Draw a class, then a pixel in a cell that has it: (raster, row, column)."""
        c = rng.choice(len(weights), p=weights)
        ends = np.cumsum(self.counts[:, c])
        cell = int(np.searchsorted(ends, rng.integers(ends[-1]), side="right"))
        dy, dx = rng.integers(CELL, size=2)
        return (
            int(self.raster[cell]),
            int(self.row[cell] + dy),
            int(self.column[cell] + dx),
        )


def training_index(cells: Sequence[NDArray[np.int64]], split: Split | None) -> Index:
    """Return the labelled cells that may be learned from."""
    found = []
    for r, counts in enumerate(cells):
        y, x = np.nonzero(counts.any(axis=2))
        if split is not None:
            rows, columns = counts.shape[:2]
            centre = Window(y=0, x=0, height=rows * CELL, width=columns * CELL)
            kept = _cell_centres(split, r, centre)
            y, x = y[kept[y, x]], x[kept[y, x]]
        found.append((np.full(len(y), r), y * CELL, x * CELL, counts[y, x]))
    raster, row, column, counted = (np.concatenate(p) for p in zip(*found, strict=True))
    return Index(raster=raster, row=row, column=column, counts=counted)


def _cell_centres(split: Split, raster: int, whole: Window) -> NDArray[np.bool_]:
    """Return which cells' first pixels may be learned from, row by row of cells."""
    rows = []
    for y in range(CELL // 2, whole.height, CELL):
        line = Window(y=y, x=0, height=1, width=whole.width)
        rows.append(split.learned(raster, VALIDATION, line)[0, CELL // 2 :: CELL])
    return np.array(rows)


def class_weights(index: Index, balance: str) -> NDArray[np.float64]:
    """Return how often patches are centred on each class.

    Args:
        index: labelled cells.
        balance: `none`, as often as it is labelled; `equal`, all alike; `sqrt`, by the
            square root of how often, between the two.
    """
    power = {"none": 1.0, "sqrt": 0.5, "equal": 0.0}[balance]
    counts = index.counts.sum(axis=0).astype(np.float64)
    weights = np.where(counts > 0, counts**power, 0.0)
    return np.asarray(weights / weights.sum())


class EpochSampler(Sampler[int]):
    """Which items come in an epoch: the next so many, shared among processes."""

    def __init__(self, count: int, *, endless: bool) -> None:
        """Remember how many; `endless`: an epoch goes on where the last ended."""
        self._count, self._endless, self._epoch = count, endless, 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes; Lightning does."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        first = self._epoch * self._count if self._endless else 0
        rank, world = process_of()
        yield from range(first + rank, first + self._count, world)

    def __len__(self) -> int:
        rank, world = process_of()
        return len(range(rank, self._count, world))


def process_of() -> tuple[int, int]:
    """Return the number of this process, and how many train together."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


class Patches(Dataset[Patch]):
    """Any number of patches: one is the same in any epoch, process or loader.

    Each is a square around a labelled pixel, zoomed by a random factor and turned or
    mirrored into one of its eight positions (D4).
    """

    def __init__(
        self,
        data: TrainingData,
        index: Index,
        card: Card,
        options: TrainOptions,
    ) -> None:
        """Remember what to read.

        Args:
            data: rasters with labels, and what is held out.
            index: where the labels are.
            card: tells what lies under nodata.
            options: `patch`, `balance`, `zoom` and `seed`.
        """
        self._scenes, self._split, self._index = data.scenes, data.split, index
        self._card, self._side = card, options.patch
        self._weights = class_weights(index, options.balance)
        self._zoom, self._seed = options.zoom, options.seed

    def __getitem__(self, i: int) -> Patch:
        """Return pixels (band, y, x) float32 in pixel units, and targets (y, x)."""
        rng = np.random.default_rng([self._seed, i])
        raster, row, column = self._index.draw(rng, self._weights)
        zoom = float(np.exp(rng.uniform(-1, 1) * np.log(self._zoom)))
        window = self._around(raster, row, column, max(8, round(self._side * zoom)))
        pixels, targets = read_patch(self._scenes[raster], window, self._card)
        if self._split is not None:
            learned = self._split.learned(raster, VALIDATION, window)
            targets[~torch.from_numpy(learned)] = self._scenes[raster].ignored
        pixels, targets = _resized(pixels, targets, self._side)
        return _turned(pixels, targets, int(rng.integers(8)))

    def _around(self, raster: int, row: int, column: int, side: int) -> Window:
        grid = self._scenes[raster].grid

        def first(middle: int, length: int) -> int:
            # Inside the raster where it is large enough, else around it.
            last = length - side
            return min(max(middle - side // 2, 0), last) if last >= 0 else last // 2

        return Window(
            y=first(row, grid.height),
            x=first(column, grid.width),
            height=side,
            width=side,
        )


def read_patch(scene: LabelledRaster, window: Window, card: Card) -> Patch:
    """Return a window's pixels, the card's fill under nodata, and its targets."""
    pixels, valid, targets = scene.read(window)
    values = pixels.astype(np.float32)
    # Of a series a valid pixel may lack some steps.
    if card.times is not None or not valid.all():
        put_fill(values, valid, card)
    return torch.from_numpy(values), torch.from_numpy(np.ascontiguousarray(targets))


def _resized(pixels: torch.Tensor, targets: torch.Tensor, side: int) -> Patch:
    if targets.shape[-1] == side:
        return pixels, targets
    smaller = targets.shape[-1] > side
    zoomed = functional.interpolate(
        pixels[None],
        (side, side),
        mode="bilinear",
        align_corners=False,
        antialias=smaller,
    )[0]
    near = functional.interpolate(
        targets[None, None].float(), (side, side), mode="nearest-exact"
    )
    return zoomed, near[0, 0].to(targets.dtype)


def _turned(pixels: torch.Tensor, targets: torch.Tensor, position: int) -> Patch:
    """Return one of the eight positions of a square."""
    turns, mirrored = position % 4, position >= 4
    pixels = torch.rot90(pixels, turns, (1, 2))
    targets = torch.rot90(targets, turns, (0, 1))
    if mirrored:
        pixels, targets = pixels.flip(2), targets.flip(1)
    return pixels.contiguous(), targets.contiguous()


class ValidationWindows(Dataset[Patch]):
    """The held-out blocks, cut into windows that see what surrounds them.

    Each held-out pixel is a target once, a margin away from its window's edge.
    """

    def __init__(
        self,
        scenes: Sequence[LabelledRaster],
        split: Split,
        card: Card,
        *,
        side: int,
        most: int,
    ) -> None:
        """List the windows; where there are too many, take them evenly spread."""
        self._scenes, self._split, self._card, self._side = scenes, split, card, side
        inner = max(CELL, side * 3 // 4)
        found = [
            (r, target)
            for r, folds in enumerate(split.folds)
            for row, column in np.argwhere(folds == VALIDATION).tolist()
            for target in _targets(scenes[r], split.side, row, column, inner)
        ]
        every = -(-len(found) // most) if len(found) > most else 1
        self._windows = found[::every]

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, i: int) -> Patch:
        """Return pixels (band, y, x) float32 in pixel units, and targets (y, x)."""
        raster, target = self._windows[i]
        margin_y, margin_x = self._side - target.height, self._side - target.width
        window = Window(
            y=target.y - margin_y // 2,
            x=target.x - margin_x // 2,
            height=self._side,
            width=self._side,
        )
        pixels, targets = read_patch(self._scenes[raster], window, self._card)
        outside = torch.ones_like(targets, dtype=torch.bool)
        outside[target.relative_to(window).slices] = False
        targets[outside] = self._scenes[raster].ignored
        return pixels, targets


def _targets(
    scene: LabelledRaster, side: int, row: int, column: int, inner: int
) -> list[Window]:
    """Return a block cut into squares that fit a window's inside."""
    block = Window(y=row * side, x=column * side, height=side, width=side)
    inside = block.intersection(scene.grid.window)
    if inside is None:
        return []
    whole = Window(y=0, x=0, height=inside.height, width=inside.width)
    return [w.shift(y=inside.y, x=inside.x) for w in squares(whole, inner)]
