"""A block in parts: what a device has no room for at once goes there piece by piece.

Parts are blocks of the same raster, cut finer. What they add to each other is joined
here as blocks are joined: integers are added up, so the answer is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from geoseg.inference.semantic import (
    PartialBlock,
    add_overlap,
    blank,
    border_of,
    finish_block,
    halo_of,
    zeros,
)
from geoseg.inference.windows import Pixels

if TYPE_CHECKING:
    from geoseg.core.tiling import Block
    from geoseg.models.card import Card

Key = tuple[int, int]


def parts_of(block: Block) -> list[Block]:
    """Return the blocks that a block is cut into, as few as possible; none of a cell.

    They are squares of as many cells as divide the block's side.
    """
    tiling = block.tiling
    cells = tiling.block // tiling.stride
    few = next((n for n in range(cells // 2, 0, -1) if cells % n == 0), 0)
    if not few:
        return []
    finer = replace(tiling, chunk=tiling.stride, block=few * tiling.stride)
    first, times = block.window, cells // few
    return [
        finer.block_at(row, col)
        for row in range(block.row * times, (block.row + 1) * times)
        for col in range(block.col * times, (block.col + 1) * times)
        if row * finer.block < first.bottom and col * finer.block < first.right
    ]


def pixels_of(part: Block, pixels: Pixels) -> Pixels:
    """Return what the windows of a part see, of what those of its block do."""
    reach = part.reach
    return Pixels(reach=reach, values=pixels.cut(reach), valid=pixels.valid_in(reach))


def block_of(
    block: Block,
    parts: Sequence[Block],
    found: Mapping[Key, PartialBlock],
    card: Card,
    names: Sequence[str],
) -> PartialBlock:
    """Return a block of its parts, as if it had been inferred at once.

    Args:
        block: The block.
        parts: What it was cut into.
        found: What is known of each part, by its key.
        card: The model's.
        names: Arrays of the masks.
    """
    arrays = blank(block.window, card, names)
    blends = any(one.halo for one in found.values())
    border = [zeros(w, card) for w in border_of(block)] if blends else []
    halo = {k: zeros(w, card) for k, w in halo_of(block).items()} if blends else {}
    for part in parts:
        own = found[part.key]
        near = [found[n.key].halo for n in part.neighbours if n.key in found]
        theirs = [sums[part.key] for sums in near if part.key in sums]
        inside = part.window.relative_to(block.window).slices
        for name, array in finish_block(own, theirs, card, part).items():
            arrays[name][..., *inside] = array
        for sums in (*own.border, *own.halo.values()):
            for kept in (*border, *halo.values()):
                add_overlap(kept.sums, kept.window, sums)
    return PartialBlock(
        arrays=arrays,
        border=tuple(border),
        halo=halo,
        windows=sum(one.windows for one in found.values()),
        forward_seconds=sum(one.forward_seconds for one in found.values()),
    )
