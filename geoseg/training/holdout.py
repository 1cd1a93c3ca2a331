"""Training and validation by geography: blocks of ground, with a gap between them.

Pixels next to each other look alike, so a random split of pixels tests what was learned
by heart. Here whole blocks are held out, and nothing within the gap around them is
learned from (Roberts et al. 2017, "Cross-validation strategies for data with temporal,
spatial, hierarchical, or phylogenetic structure", Ecography 40, 913-929). Blocks are
dealt out so that every fold gets its share of every class, the rarest first (Sechidis,
Tsoumakas, Vlahavas 2011, "On the stratification of multi-label data", ECML PKDD).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from geoseg.errors import LabelsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.core.grid import Window

CELL = 32
"""Side in pixels of the squares in which labels are counted."""

_SIDES = (1024, 512, 256, 128, 64, CELL)
_ENOUGH = 20  # labelled blocks that make a fair split


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Which fold each block of ground belongs to, for each raster."""

    side: int
    """Side of a block in pixels."""
    gap: int
    """What is left out around held-out blocks, in pixels; at most `side`."""
    folds: tuple[NDArray[np.int16], ...]
    """For each raster (block row, block column): its fold; -1 without labels."""

    def held_out(self, raster: int, fold: int, window: Window) -> NDArray[np.bool_]:
        """Return which pixels of a window are in the fold, (y, x)."""
        return self._looked_up(raster, fold, window, 0, 0)

    def learned(self, raster: int, fold: int, window: Window) -> NDArray[np.bool_]:
        """Return which pixels are outside the fold and the gap around it, (y, x)."""
        near = np.zeros((window.height, window.width), bool)
        # The gap is no wider than a block, so its corners and middles find all of it.
        for dy in (-self.gap, 0, self.gap):
            for dx in (-self.gap, 0, self.gap):
                near |= self._looked_up(raster, fold, window, dy, dx)
        return ~near

    def _looked_up(
        self, raster: int, fold: int, window: Window, dy: int, dx: int
    ) -> NDArray[np.bool_]:
        blocks = self.folds[raster] == fold
        y = (np.arange(window.y, window.bottom) + dy) // self.side
        x = (np.arange(window.x, window.right) + dx) // self.side
        inside_y = (y >= 0) & (y < blocks.shape[0])
        inside_x = (x >= 0) & (x < blocks.shape[1])
        y, x = np.clip(y, 0, blocks.shape[0] - 1), np.clip(x, 0, blocks.shape[1] - 1)
        inside = inside_y[:, None] & inside_x[None, :]
        return np.asarray(blocks[np.ix_(y, x)] & inside)


def split_blocks(
    cells: Sequence[NDArray[np.int64]],
    folds: int,
    *,
    side: int | None = None,
    gap: int | None = None,
    seed: int = 0,
) -> Split:
    """Deal blocks of ground out to folds.

    Args:
        cells: for each raster (cell row, cell column, class): labelled pixels in
            squares of `CELL` pixels.
        folds: how many.
        side: of the blocks, in pixels, a multiple of `CELL`; None: the largest that
            leaves 20 labelled blocks with every class in two of them, or the smallest.
        gap: in pixels; None: a quarter of a block, at most 64.
        seed: of the order in which equal blocks are dealt.

    Raises:
        LabelsError: There are fewer labelled blocks than folds.
    """
    side = side or _side(cells, folds)
    if side % CELL or side < CELL:
        raise LabelsError(f"blocks of {side} px must be a multiple of {CELL} px")
    gap = min(64, side // 4) if gap is None else gap
    if not 0 <= gap <= side:
        raise LabelsError(f"a gap of {gap} px must be 0 … {side} px, the blocks' side")
    counted = [_by_block(c, side) for c in cells]
    table = np.concatenate([c.reshape(-1, c.shape[2]) for c in counted])
    labelled = int((table.sum(axis=1) > 0).sum())
    if labelled < folds:
        raise LabelsError(
            f"the labels lie in {labelled} blocks of {side} px, too few for {folds} "
            "folds: label elsewhere too, or train without validation"
        )
    dealt = _deal(table, folds, seed)
    ends = np.cumsum([c.shape[0] * c.shape[1] for c in counted])[:-1]
    parts = zip(np.split(dealt, ends), counted, strict=True)
    return Split(
        side=side, gap=gap, folds=tuple(p.reshape(c.shape[:2]) for p, c in parts)
    )


def _side(cells: Sequence[NDArray[np.int64]], folds: int) -> int:
    for side in _SIDES:
        blocks = [_by_block(c, side) for c in cells]
        table = np.concatenate([b.reshape(-1, b.shape[2]) for b in blocks])
        present = (table > 0).sum(axis=0)
        enough = (table.sum(axis=1) > 0).sum() >= max(_ENOUGH, 4 * folds)
        if enough and (present[present > 0] > 1).all():
            return side
    return CELL


def _by_block(cells: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """Sum the cells of each block."""
    k = side // CELL
    rows, columns, classes = cells.shape
    padded = np.pad(cells, ((0, -rows % k), (0, -columns % k), (0, 0)))
    shape = padded.shape[0] // k, k, padded.shape[1] // k, k, classes
    return np.asarray(padded.reshape(shape).sum(axis=(1, 3)))


def _deal(table: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int16]:
    """Give each labelled block to the fold that lacks its rarest class most."""
    total = table.sum(axis=0)
    share = table / np.maximum(total, 1)
    out = np.full(len(table), -1, np.int16)
    shuffled = np.random.default_rng(seed).permutation(len(table))
    labelled = [b for b in shuffled if table[b].any()]
    rarest = [int(np.argmax(share[b])) for b in labelled]
    order = sorted(
        range(len(labelled)),
        key=lambda i: (total[rarest[i]], -share[labelled[i], rarest[i]]),
    )
    held = np.zeros((folds, table.shape[1]))
    for i in order:
        block, c = labelled[i], rarest[i]
        # Fold 0 is what networks are validated on: what there is one block of is better
        # learned than tested.
        fold = min(range(folds), key=lambda f: (held[f, c], held[f].sum(), -f))
        out[block] = fold
        held[fold] += share[block]
    return out
