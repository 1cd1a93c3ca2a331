"""Instance segmentation of one block: windows → objects → groups → pixels.

Each window's objects are its own; a window keeps those that reach into its cell. Blocks
exchange the strips of windows that reach into each other (`Found.rims`), so that each
block can compare its windows with all that overlap them:

    find      read, model, keep                     objects of its own windows, strips
    link      compare with neighbours               matches, clashes; what stays inside
                                                    the block is joined here and now
    (solve    what crosses blocks is joined once, from all blocks' `Linked.open`)
    compose   give each pixel to one group          groups by pixel, and where they lie
    (number   groups are numbered by first pixel)

A group that some window saw whole is shown as that window saw it: no cell leaves a
trace in its outline. Larger ones are put together, each window telling of its own cell;
where it saw nothing, neighbours whose objects reach into its cell are believed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.grid import Window
from geoseg.core.tiling import Tiling
from geoseg.inference.device_queue import on_device
from geoseg.inference.objects.fragments import locate, measure, paint, renumber
from geoseg.inference.objects.stitch import (
    GROUP,
    KEY_BITS,
    OBJECT,
    SCORE,
    Comparison,
    Seen,
    View,
    as_links,
    compare,
    components,
    joined,
    solve,
    tolerance,
)
from geoseg.inference.windows import Pixels, batches, predictor, read_windows
from geoseg.models.objects import check_objects

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.models.contract import InstanceModel, Objects
    from geoseg.rasters.open import Source

FACT = np.dtype(
    [
        ("group", "<i8"),
        ("first", "<i8"),
        ("pixels", "<i8"),
        ("top", "<i4"),
        ("left", "<i4"),
        ("bottom", "<i4"),
        ("right", "<i4"),
        ("cls", "<i4"),
        ("score", "<i4"),
        ("pieces", "<i4"),
        ("area", "<i8"),
        ("inside", "?"),
    ]
)
"""A group in a block: its first pixel in reading order of the raster, its pixels and
box there; its class, score, pieces and area (`GROUP`); whether it cannot have pixels
elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the windows of a block see."""

    own: Seen
    """Objects of the block's own windows."""
    rims: Mapping[tuple[int, int], Seen]
    """What each neighbouring block must know of them, by its (row, column)."""
    valid: NDArray[np.bool_]
    """(y, x) which of the block's pixels are valid."""
    windows: int
    """How many windows were inferred."""
    forward_seconds: float
    """Time in the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Linked:
    """What a block knows after comparing its windows with all that overlap them."""

    reach: NDArray[np.int16]
    """(object,) of its own windows and then its neighbours' rims: in which of the nine
    cells around its window's an object may show, one bit each, row by row."""
    groups: NDArray[np.void]
    """(own object,) of dtype `GROUP`; group -1 where it is open."""
    open: NDArray[np.void]
    """Own objects of dtype `OBJECT` that are tied to objects of other blocks."""
    links: NDArray[np.void]
    """Matches of dtype `LINK` that tie open objects; each is told by one block."""
    clashes: NDArray[np.void]
    """Clashes of dtype `LINK` that touch open objects, likewise."""


# --- find -----------------------------------------------------------------------------


def find_objects(
    source: Source,
    model: InstanceModel,
    tiling: Tiling,
    row: int,
    col: int,
    *,
    batch: int = 1,
) -> Found:
    """Infer a block's windows, each once, and keep their objects.

    Args:
        source: Its bands are the model's, in the model's order.
        model: The model.
        tiling: How the raster is cut.
        row: Row of the block.
        col: Column of the block.
        batch: Windows in a batch.

    Raises:
        ModelError: What the model answers is not what its card promises.
    """
    pixels = read_windows(source, model.card, tiling.block_reach(row, col))
    seconds: list[float] = []
    parts = [
        keep(objects, cell, pixels, tiling)
        for cells, answer in _predicted(
            model, tiling, pixels, batches(tiling, row, col, pixels, batch), seconds
        )
        for cell, objects in zip(cells, answer, strict=True)
    ]
    return gathered(parts, pixels, tiling, row, col, sum(seconds))


def gathered(
    parts: Sequence[Seen],
    pixels: Pixels,
    tiling: Tiling,
    row: int,
    col: int,
    seconds: float,
) -> Found:
    """Return what a block's windows see, and the strips for its neighbours."""
    valid = pixels.valid_in(tiling.block_window(row, col))
    own = joined(parts)
    rims = {
        to: _strips(own, tiling.block_window(*to).pad(tiling.margin))
        for to in tiling.neighbours(row, col)
    }
    return Found(
        own=own, rims=rims, valid=valid, windows=len(parts), forward_seconds=seconds
    )


def _predicted(
    model: InstanceModel,
    tiling: Tiling,
    pixels: Pixels,
    stacks: Iterator[tuple[list[tuple[int, int]], NDArray[Any]]],
    seconds: list[float],
) -> Iterator[tuple[list[tuple[int, int]], list[Objects]]]:
    """Yield cells and answers; the device works one batch ahead."""

    def forward(cells: list[tuple[int, int]], stack: NDArray[Any]) -> list[Objects]:
        predict = predictor(model, tiling, cells, pixels)
        begin = perf_counter()
        try:
            return check_objects(predict(stack), model.card, stack.shape)
        finally:
            seconds.append(perf_counter() - begin)

    ahead: deque[tuple[list[tuple[int, int]], Any]] = deque()
    for cells, stack in stacks:
        ahead.append((cells, on_device(forward, cells, stack)))
        if len(ahead) > 1:
            done, answer = ahead.popleft()
            yield done, answer.result()
    for cells, answer in ahead:
        yield cells, answer.result()


def keep(
    objects: Objects, cell: tuple[int, int], pixels: Pixels, tiling: Tiling
) -> Seen:
    """Keep what a window may claim: objects on valid pixels that reach into its cell.

    Args:
        objects: What the model saw in the whole window.
        cell: Row and column of the window's cell.
        pixels: Tell which pixels are valid.
        tiling: How the raster is cut.

    Returns:
        One view, or none; objects are numbered by their first pixel.
    """
    window = tiling.model_window(*cell)
    where = window.intersection(tiling.raster)
    assert where is not None
    labels = np.where(
        pixels.valid_in(where), objects.labels[where.relative_to(window).slices], 0
    ).astype(np.int32, copy=False)
    table, numbers = _table(objects, labels, cell, where, tiling)
    if not len(table):
        return Seen(views=(), table=table)
    view = View(
        row=cell[0], col=cell[1], where=where, labels=renumber(labels, numbers), first=0
    )
    return Seen(views=(view,), table=table)


def _table(
    objects: Objects,
    labels: NDArray[np.int32],
    cell: tuple[int, int],
    where: Window,
    tiling: Tiling,
) -> tuple[NDArray[np.void], NDArray[np.int32]]:
    """Return the objects that are kept, and the number each label becomes."""
    count = len(objects.classes)
    own = _cell(cell, tiling).relative_to(where)
    claim = own.pad(tolerance(tiling) if tiling.margin else 0)
    facts = measure(labels, _edges(own), count)
    claimed = measure(labels, _edges(claim), count)[:, 4] > 0
    kept = np.flatnonzero(claimed)
    kept = kept[np.argsort(facts[kept, 5])]
    numbers = np.zeros(count + 1, np.int32)
    numbers[kept] = np.arange(1, len(kept) + 1)
    table = np.zeros(len(kept), OBJECT)
    table["key"] = (_number(cell, tiling) << KEY_BITS) + np.arange(len(kept))
    table["cls"] = np.asarray(objects.classes)[kept - 1]
    sure = np.clip(np.asarray(objects.scores, np.float64)[kept - 1], 0, 1)
    table["score"] = np.floor(sure * SCORE + 0.5)
    table["inner"], table["area"] = facts[kept, 4], facts[kept, 6]
    for i, (name, offset) in enumerate(
        (("top", where.y), ("left", where.x), ("bottom", where.y), ("right", where.x))
    ):
        table[name] = facts[kept, i] + offset
    return table, numbers


def _number(cell: tuple[int, int], tiling: Tiling) -> int:
    return cell[0] * tiling.cell_cols + cell[1]


def _cell(cell: tuple[int, int], tiling: Tiling) -> Window:
    side = tiling.stride
    return Window(y=cell[0] * side, x=cell[1] * side, height=side, width=side)


def _edges(window: Window) -> tuple[int, int, int, int]:
    return window.y, window.bottom, window.x, window.right


def _strips(seen: Seen, around: Window) -> Seen:
    """Return the part of the views inside a rectangle, with the objects it shows."""
    parts = []
    for view in seen.views:
        where = view.where.intersection(around)
        if where is None:
            continue
        labels = view.labels[where.relative_to(view.where).slices]
        shown = np.unique(labels)
        shown = shown[shown > 0]
        if not len(shown):
            continue
        numbers = np.zeros(int(shown[-1]) + 1, np.int32)
        numbers[shown] = np.arange(1, len(shown) + 1)
        strip = View(
            row=view.row,
            col=view.col,
            where=where,
            labels=renumber(labels, numbers),
            first=0,
        )
        table = seen.table[view.first + shown - 1]
        parts.append(Seen(views=(strip,), table=table))
    return joined(parts)


# --- link -----------------------------------------------------------------------------


def link_block(found: Seen, rims: Sequence[Seen], tiling: Tiling) -> Linked:
    """Compare a block's windows with each other and with its neighbours'.

    Args:
        found: Objects of the block's own windows.
        rims: What each neighbour tells, in a fixed order.
        tiling: How the raster is cut.
    """
    everything = joined([found, *rims])
    n = len(found.table)
    reach = np.full(len(everything.table), _EVERYWHERE, np.int16)
    told = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int32)]
    clashes = [np.zeros((0, 2), np.int64)]
    tied = np.zeros(n, bool)
    for one, other, said in _comparisons(everything, n, tiling):
        _hide(reach, said.claimed[0], one, other)
        _hide(reach, said.claimed[1], other, one)
        if one.first >= n or other.first >= n:
            mine = said.matches[:, int(one.first >= n)]
            tied[mine] = True
        if one.first < n:  # matches are told by the block of the lower window
            told[0].append(said.matches)
            told[1].append(said.weights)
            clashes.append(said.clashes)
    links = as_links(everything.table, np.concatenate(told[0]), np.concatenate(told[1]))
    apart = as_links(everything.table, np.concatenate(clashes), 0)
    return _shared_out(reach, found.table, links, apart, tied, tiling)


_EVERYWHERE = 0b111_111_111


def _comparisons(
    everything: Seen, n: int, tiling: Tiling
) -> Iterator[tuple[View, View, Comparison]]:
    """Compare all pairs of windows of which one is the block's own, in order."""
    views = {(v.row, v.col): v for v in everything.views}
    if tiling.margin == 0:
        return
    for row, col in sorted(views):
        for other in ((row, col + 1), *((row + 1, col + d) for d in (-1, 0, 1))):
            pair = views[row, col], views.get(other)
            if pair[1] is None or min(pair[0].first, pair[1].first) >= n:
                continue
            said = compare(pair[0], pair[1], everything.table)
            if said is not None:
                yield pair[0], pair[1], said


def _hide(
    reach: NDArray[np.int16], objects: NDArray[np.int64], view: View, other: View
) -> None:
    """Note that another window tells of these objects, where its own cell is."""
    reach[objects] &= ~np.int16(_bit(other.row - view.row, other.col - view.col))


def _bit(rows: int, cols: int) -> int:
    return 1 << (3 * (rows + 1) + cols + 1)


def _shared_out(
    reach: NDArray[np.int16],
    table: NDArray[np.void],
    links: NDArray[np.void],
    clashes: NDArray[np.void],
    tied: NDArray[np.bool_],
    tiling: Tiling,
) -> Linked:
    """Join what is tied inside the block only; hand out the rest."""
    inner = _touching(links, table["key"]).all(axis=0)
    is_open = _with_partners(tied, table, links[inner])
    open_keys = table["key"][is_open]
    closed = table[~is_open]
    of_closed = _touching(links, closed["key"]).all(axis=0)
    groups = np.zeros(len(table), GROUP)
    groups["group"] = -1
    groups[~is_open] = solve(closed, links[of_closed], clashes, tiling)
    return Linked(
        reach=reach,
        groups=groups,
        open=table[is_open],
        links=links[_touching(links, open_keys).any(axis=0)],
        clashes=clashes[_touching(clashes, open_keys).any(axis=0)],
    )


def _touching(links: NDArray[np.void], keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Say of both ends of links (2, link) whether they are among the keys."""
    return np.stack([np.isin(links["one"], keys), np.isin(links["other"], keys)])


def _with_partners(
    tied: NDArray[np.bool_], table: NDArray[np.void], links: NDArray[np.void]
) -> NDArray[np.bool_]:
    """Return which objects are tied, be it through others."""
    component = components(table, links)
    return np.isin(component, component[tied])


# --- compose --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """Which group each pixel of a block belongs to."""

    owner: NDArray[np.int32]
    """(y, x) place in `facts`, -1 for none."""
    facts: NDArray[np.void]
    """(group,) of dtype `FACT`: the groups that have pixels here, by first pixel."""


def compose_block(
    seen: Sequence[Seen],
    groups: Sequence[NDArray[np.void]],
    reach: NDArray[np.int16],
    tiling: Tiling,
    row: int,
    col: int,
    *,
    gapless: bool = False,
) -> Composed:
    """Give each pixel of a block to one group.

    Where several may have a pixel, the surest has it; of equal ones the one with the
    lowest key.

    Args:
        seen: The block's own objects, then its neighbours' rims, as for `link_block`.
        groups: For each of them, what its objects are a part of (`GROUP`, by object).
        reach: As `Linked` has it.
        tiling: How the raster is cut.
        row: Row of the block.
        col: Column of the block.
        gapless: Whether every pixel of an object must have one: what nobody has falls
            to the group of the object that the pixel's own window sees there.
    """
    block = tiling.block_window(row, col)
    everything, of_object = joined(seen), np.concatenate(groups)
    names, first, at = np.unique(
        of_object["group"], return_index=True, return_inverse=True
    )
    rank = np.empty(len(names), np.int32)
    rank[np.lexsort((names, -of_object["score"][first]))] = np.arange(len(names))
    shown = of_object["shown"]
    is_shown = shown == everything.table["key"]
    allowed = np.where(shown < 0, reach, np.where(is_shown, _EVERYWHERE, 0))
    owner = np.full((block.height, block.width), -1, np.int32)
    group = at.astype(np.int32)
    for view in everything.views:
        _paint_view(owner, view, block, allowed, group, rank, tiling)
    named = of_object[first]
    if gapless:
        rest = np.full(owner.shape, -1, np.int32)
        own_cell = np.full(len(group), _bit(0, 0))
        for view in everything.views:
            _paint_view(rest, view, block, own_cell, group, rank, tiling)
        owner = np.where(owner < 0, rest, owner)
        named["area"] = 0
    return _sorted(owner, named, block, tiling)


def _paint_view(
    owner: NDArray[np.int32],
    view: View,
    block: Window,
    allowed: NDArray[np.integer[Any]],
    group: NDArray[np.int32],
    rank: NDArray[np.int32],
    tiling: Tiling,
) -> None:
    """Paint a window's objects, cell by cell, where they may show."""
    inside = view.where.intersection(block)
    if inside is None:
        return
    for rows in (-1, 0, 1):
        for cols in (-1, 0, 1):
            cell = _cell((view.row + rows, view.col + cols), tiling)
            where = cell.intersection(inside)
            if where is not None:
                bit = _bit(rows, cols)
                paint(
                    owner[where.relative_to(block).slices],
                    view.labels[where.relative_to(view.where).slices],
                    view.first,
                    np.where(allowed & bit, group, -1).astype(np.int32),
                    rank,
                )


def _sorted(
    owner: NDArray[np.int32], groups: NDArray[np.void], block: Window, tiling: Tiling
) -> Composed:
    """Order groups by their first pixel and say where they are."""
    places = locate(owner, len(groups))
    position = (places[:, 0] + block.y) * tiling.width + places[:, 5] + block.x
    there = np.flatnonzero(places[:, 4])
    there = there[np.argsort(position[there])]
    facts = np.zeros(len(there), FACT)
    facts["first"], facts["pixels"] = position[there], places[there, 4]
    for i, name in enumerate(("top", "left", "bottom", "right")):
        facts[name] = places[there, i] + (block.y, block.x)[i % 2]
    for name in ("group", "cls", "score", "pieces", "area"):
        facts[name] = groups[name][there]
    facts["inside"] = _lies_in(groups[there], block)
    numbers = np.full(len(groups) + 1, -1, np.int32)
    numbers[there] = np.arange(len(there))
    return Composed(owner=numbers[owner], facts=facts)


def _lies_in(groups: NDArray[np.void], block: Window) -> NDArray[np.bool_]:
    return np.asarray(
        (groups["top"] >= block.y)
        & (groups["left"] >= block.x)
        & (groups["bottom"] <= block.bottom)
        & (groups["right"] <= block.right)
    )
