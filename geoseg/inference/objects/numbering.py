"""Ids 1 … N without holes, in the order of first pixels, from what blocks tell.

Groups that lie inside one block are numbered row of blocks by row of blocks; only those
that cross blocks are held all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from geoseg.inference.instance import FACT
from geoseg.inference.objects.stitch import concatenated

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_VISIBLE = 0.5
"""Groups seen whole of which a smaller share is left get the id 0: the same rule as for
masks that overlap inside a window (Kirillov et al. 2019)."""
Block = tuple[int, int]
"""Row and column of a block."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Numbered:
    """One row of blocks, numbered."""

    table: NDArray[np.void]
    """(object,) of dtype `FACT`, whole objects, in the order of their ids."""
    first_id: int
    """Id of the first of them."""
    ids: dict[Block, NDArray[np.uint32]]
    """By block of the row, the id of each group that has pixels there."""


def number(
    read: Callable[[int, int], NDArray[np.void]],
    rows: int,
    cols: int,
) -> Iterator[Numbered]:
    """Number all groups of which enough is left, where others had pixels before them.

    Args:
        read: Returns what a block tells of its groups, (group,) of dtype `FACT`.
        rows: Rows of blocks.
        cols: Columns of blocks.

    Yields:
        The rows of blocks, from the first on.
    """
    crossing = _merged(
        _crossing(read(row, col)) for row in range(rows) for col in range(cols)
    )
    crossing_ids = np.zeros(len(crossing), np.uint32)
    last = 0
    for row in range(rows):
        blocks = {(row, col): read(row, col) for col in range(cols)}
        inside = concatenated([f[f["inside"]] for f in blocks.values()], FACT)
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


def _crossing(facts: NDArray[np.void]) -> NDArray[np.void]:
    return np.asarray(facts[~facts["inside"]])


def _merged(parts: Iterable[NDArray[np.void]]) -> NDArray[np.void]:
    """Return groups that several blocks tell of, each once, ordered by group."""
    told = concatenated(list(parts), FACT)
    names, first, at = np.unique(told["group"], return_index=True, return_inverse=True)
    out = told[first]
    for name, reduce in (
        ("first", np.minimum),
        ("top", np.minimum),
        ("left", np.minimum),
        ("bottom", np.maximum),
        ("right", np.maximum),
    ):
        column = out[name].copy()
        reduce.at(column, at, told[name])
        out[name] = column
    pixels = np.zeros(len(names), np.int64)
    np.add.at(pixels, at, told["pixels"])
    out["pixels"] = pixels
    return out


def _begins_here(
    crossing: NDArray[np.void], blocks: dict[Block, NDArray[np.void]]
) -> NDArray[np.intp]:
    """Return crossing groups whose first pixel lies in one of the blocks."""
    told = concatenated([_crossing(f) for f in blocks.values()], FACT)
    at = np.searchsorted(crossing["group"], told["group"])
    return np.unique(at[told["first"] == crossing["first"][at]])


def _shared_out(
    blocks: dict[Block, NDArray[np.void]],
    ids: NDArray[np.uint32],
    crossing: NDArray[np.int64],
    crossing_ids: NDArray[np.uint32],
) -> Iterator[tuple[Block, NDArray[np.uint32]]]:
    """Yield each block's ids, in the order of its groups."""
    begin = 0
    for block, facts in blocks.items():
        inside = facts["inside"]
        out = np.zeros(len(facts), np.uint32)
        count = int(inside.sum())
        out[inside] = ids[begin : begin + count]
        begin += count
        out[~inside] = crossing_ids[np.searchsorted(crossing, facts["group"][~inside])]
        yield block, out
