"""Ids 1 … N without holes, in the order of first pixels, from what blocks tell.

Groups that lie inside one block are numbered row of blocks by row of blocks; only those
that cross blocks are held all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from geoseg.core.tiling import Block, Tiling
from geoseg.inference.instance import BLOCK_GROUP
from geoseg.inference.objects.stitch import around, concatenated

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_VISIBLE = 0.5
"""Groups seen whole of which a smaller share is left get the id 0: the same rule as for
masks that overlap inside a window (Kirillov et al. 2019)."""
Key = tuple[int, int]
"""Row and column of a block."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Numbered:
    """One row of blocks, numbered."""

    table: NDArray[np.void]
    """(object,) of dtype `BLOCK_GROUP`, whole objects, in the order of their ids."""
    first_id: int
    """Id of the first of them."""
    ids: dict[Key, NDArray[np.uint32]]
    """By block of the row, the id of each group that has pixels there."""


def number_groups(
    read: Callable[[Block], NDArray[np.void]], tiling: Tiling
) -> Iterator[Numbered]:
    """Number all groups of which enough is left, where others had pixels before them.

    Args:
        read: Returns what a block tells of its groups, (group,) of `BLOCK_GROUP`.
        tiling: How the raster is cut.

    Yields:
        The rows of blocks, from the first on.
    """
    crossing = _merged(_crossing(read(block)) for block in tiling.each_block())
    crossing_ids = np.zeros(len(crossing), np.uint32)
    last = 0
    for _, row in groupby(tiling.each_block(), key=lambda block: block.row):
        blocks = {block.key: read(block) for block in row}
        inside = concatenated([f[f["inside"]] for f in blocks.values()], BLOCK_GROUP)
        begins = _begins_here(crossing, blocks)
        table = np.concatenate([inside, crossing[begins]])
        ids = np.zeros(len(table), np.uint32)
        order = np.argsort(table["first"])
        order = order[table["pixels"][order] >= MIN_VISIBLE * table["area"][order]]
        ids[order] = np.arange(last + 1, last + 1 + len(order))
        crossing_ids[begins] = ids[len(inside) :]
        yield Numbered(
            table=table[order],
            first_id=last + 1,
            ids=dict(_shared_out(blocks, ids, crossing["group"], crossing_ids)),
        )
        last += len(order)


def _crossing(groups: NDArray[np.void]) -> NDArray[np.void]:
    return np.asarray(groups[~groups["inside"]])


def _merged(parts: Iterable[NDArray[np.void]]) -> NDArray[np.void]:
    """Return groups that several blocks tell of, each once, ordered by group."""
    tables = concatenated(list(parts), BLOCK_GROUP)
    _, first, at = np.unique(tables["group"], return_index=True, return_inverse=True)
    out = tables[first]
    for name, edge in around(tables, first, at).items():
        out[name] = edge
    np.minimum.at(out["first"], at, tables["first"])
    out["pixels"] = 0
    np.add.at(out["pixels"], at, tables["pixels"])
    return out


def _begins_here(
    crossing: NDArray[np.void], blocks: dict[Key, NDArray[np.void]]
) -> NDArray[np.intp]:
    """Return crossing groups whose first pixel lies in one of the blocks."""
    tables = concatenated([_crossing(f) for f in blocks.values()], BLOCK_GROUP)
    at = np.searchsorted(crossing["group"], tables["group"])
    return np.unique(at[tables["first"] == crossing["first"][at]])


def _shared_out(
    blocks: dict[Key, NDArray[np.void]],
    ids: NDArray[np.uint32],
    crossing: NDArray[np.int64],
    crossing_ids: NDArray[np.uint32],
) -> Iterator[tuple[Key, NDArray[np.uint32]]]:
    """Yield each block's ids, in the order of its groups."""
    begin = 0
    for block, groups in blocks.items():
        inside = groups["inside"]
        out = np.zeros(len(groups), np.uint32)
        count = int(inside.sum())
        out[inside] = ids[begin : begin + count]
        begin += count
        out[~inside] = crossing_ids[np.searchsorted(crossing, groups["group"][~inside])]
        yield block, out
