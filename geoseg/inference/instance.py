"""Instance segmentation of one block: windows → objects → groups → pixels.

Each window's objects are its own; a window keeps those that reach into its cell. Blocks
exchange what their windows see in each other's reach (`FoundObjects.halo`), so that
each block can compare its windows with all that overlap them:

    find      read, model, keep             objects of its own windows, and the halo
    link      compare with neighbours       matches, clashes; what stays inside the
                                            block is joined here and now
    (solve    what crosses blocks is joined once, from all blocks' `Linked.open`)
    compose   give each pixel to one group  groups by pixel, and where they lie
    (number   groups are numbered by first pixel)

A group that some window saw whole is shown as that window saw it: no cell leaves a
trace in its outline. Larger ones are put together, each window speaking for its own
cell; where it saw nothing, neighbours whose objects reach into its cell are believed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.grid import Window
from geoseg.core.tiling import Block, Tiling
from geoseg.inference.device_queue import Stopwatch, in_turn
from geoseg.inference.objects.fragments import measure_objects, paint, renumber
from geoseg.inference.objects.stitch import (
    BOX,
    GROUP,
    KEY_BITS,
    OBJECT,
    SCORE,
    ObjectSet,
    PairOverlap,
    WindowObjects,
    as_links,
    compare_objects,
    components,
    joined,
    solve,
    tolerance,
)
from geoseg.inference.windows import Cells, Pixels, predictor, read_windows
from geoseg.models.objects import check_objects

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.models.contract import InstanceModel, Objects
    from geoseg.rasters.open import Source

BLOCK_GROUP = np.dtype(
    [
        ("group", "<i8"),
        ("first", "<i8"),
        ("pixels", "<i8"),
        *BOX,
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
class FoundObjects:
    """What the windows of a block see."""

    own: ObjectSet
    """Objects of the block's own windows."""
    halo: Mapping[tuple[int, int], ObjectSet] = field(default_factory=dict)
    """What each neighbouring block must know of them, by its key."""
    valid: NDArray[np.bool_]
    """(y, x) which of the block's pixels are valid."""
    windows: int
    """How many windows were inferred."""
    forward_seconds: float
    """Time in the model."""
    quality: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Arrays of the masks that tell how often pixels were seen; written at once."""
    otherwise: Mapping[str, Any] = field(default_factory=dict)
    """The card and batch that it was inferred by, where those are not the run's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Linked:
    """What a block knows after comparing its windows with all that overlap them."""

    keys: NDArray[np.int64]
    """(own object,) in order."""
    reach: NDArray[np.int16]
    """(object,) of its own windows and then its neighbours' halo: in which of the nine
    cells around its window's an object may show, one bit each, row by row."""
    groups: NDArray[np.void]
    """(own object,) of dtype `GROUP`; group -1 where it is open."""
    open: NDArray[np.void]
    """Own objects of dtype `OBJECT` that are tied to objects of other blocks."""
    links: NDArray[np.void]
    """Matches of dtype `LINK` that tie open objects; each is reported by one block."""
    clashes: NDArray[np.void]
    """Clashes of dtype `LINK` that touch open objects, likewise."""


# --- find -----------------------------------------------------------------------------


def find_objects(
    source: Source, model: InstanceModel, block: Block, *, batch: int = 1
) -> FoundObjects:
    """Infer a block's windows, each once, and keep their objects.

    Args:
        source: Its bands are the model's, in the model's order.
        model: The model.
        block: The block.
        batch: Windows in a batch.

    Raises:
        ModelError: What the model answers is not what its card promises.
    """
    pixels = read_windows(source, model.card, block.reach)
    ask, watch = predictor(model, block, pixels), Stopwatch()

    def objects_of_windows(cells: Cells, stack: NDArray[Any]) -> list[Objects]:
        return check_objects(ask(cells, stack), model.card, stack.shape)

    kept = [
        keep_claimable(objects, cell, pixels, block.tiling)
        for cells, answer in in_turn(
            objects_of_windows, model, block, pixels, batch, watch
        )
        for cell, objects in zip(cells, answer, strict=True)
    ]
    return gathered(kept, pixels, block, watch.seconds)


def gathered(
    kept: Sequence[ObjectSet], pixels: Pixels, block: Block, seconds: float
) -> FoundObjects:
    """Return what a block's windows see, and what its neighbours must know of it."""
    own, margin = joined(kept), block.tiling.margin
    return FoundObjects(
        own=own,
        halo={n.key: _inside(own, n.window.pad(margin)) for n in block.neighbours},
        valid=pixels.valid_in(block.window),
        windows=len(kept),
        forward_seconds=seconds,
        quality=pixels.quality_in(block.window),
    )


def keep_claimable(
    objects: Objects, cell: tuple[int, int], pixels: Pixels, tiling: Tiling
) -> ObjectSet:
    """Keep what a window may claim: objects on valid pixels that reach into its cell.

    Args:
        objects: What the model saw in the whole window.
        cell: Row and column of the window's cell.
        pixels: Tell which pixels are valid.
        tiling: How the raster is cut.

    Returns:
        The objects of one window, or none; they are numbered by their first pixel.
    """
    window = tiling.model_window(*cell)
    where = window.intersection(tiling.raster)
    assert where is not None
    labels = np.where(
        pixels.valid_in(where), objects.labels[where.relative_to(window).slices], 0
    ).astype(np.int32, copy=False)
    table, numbers = _table(objects, labels, cell, where, tiling)
    if not len(table):
        return ObjectSet(windows=(), table=table)
    shown = WindowObjects(
        row=cell[0], col=cell[1], where=where, labels=renumber(labels, numbers), first=0
    )
    return ObjectSet(windows=(shown,), table=table)


def _table(
    objects: Objects,
    labels: NDArray[np.int32],
    cell: tuple[int, int],
    where: Window,
    tiling: Tiling,
) -> tuple[NDArray[np.void], NDArray[np.int32]]:
    """Return the objects that are kept, and the number each label becomes."""
    count = len(objects.classes)
    own = tiling.cell_window(*cell).relative_to(where)
    claim = own.pad(tolerance(tiling) if tiling.margin else 0)
    measured = measure_objects(labels, _edges(own), count)
    claimed = measure_objects(labels, _edges(claim), count)[:, 4] > 0
    kept = np.flatnonzero(claimed)
    kept = kept[np.argsort(measured[kept, 5])]
    numbers = np.zeros(count + 1, np.int32)
    numbers[kept] = np.arange(1, len(kept) + 1)
    table = np.zeros(len(kept), OBJECT)
    number = cell[0] * tiling.cell_cols + cell[1]
    table["key"] = (number << KEY_BITS) + np.arange(len(kept))
    table["cls"] = np.asarray(objects.classes)[kept - 1]
    sure = np.clip(np.asarray(objects.scores, np.float64)[kept - 1], 0, 1)
    table["score"] = np.floor(sure * SCORE + 0.5)
    table["inner"], table["area"] = measured[kept, 4], measured[kept, 6]
    _set_boxes(table, measured[kept], where)
    return table, numbers


def _set_boxes(
    table: NDArray[np.void], measured: NDArray[np.int64], origin: Window
) -> None:
    """Fill in boxes that were measured (row, …) inside a window."""
    for i, (name, _) in enumerate(BOX):
        table[name] = measured[:, i] + (origin.y, origin.x)[i % 2]


def _edges(window: Window) -> tuple[int, int, int, int]:
    return window.y, window.bottom, window.x, window.right


def _inside(seen: ObjectSet, around: Window) -> ObjectSet:
    """Return what is seen inside a rectangle, with the objects that show there."""
    parts = []
    for window in seen.windows:
        where = window.where.intersection(around)
        if where is None:
            continue
        labels = window.labels[where.relative_to(window.where).slices]
        shown = np.unique(labels)
        shown = shown[shown > 0]
        if not len(shown):
            continue
        numbers = np.zeros(int(shown[-1]) + 1, np.int32)
        numbers[shown] = np.arange(1, len(shown) + 1)
        labels = renumber(labels, numbers)
        there = replace(window, where=where, labels=labels, first=0)
        table = seen.table[window.first + shown - 1]
        parts.append(ObjectSet(windows=(there,), table=table))
    return joined(parts)


# --- link -----------------------------------------------------------------------------


def link_block(own: ObjectSet, halo: Sequence[ObjectSet], tiling: Tiling) -> Linked:
    """Compare a block's windows with each other and with its neighbours'.

    Args:
        own: Objects of the block's own windows.
        halo: What each neighbour reports, in a fixed order.
        tiling: How the raster is cut.
    """
    everything = joined([own, *halo])
    n = len(own.table)
    reach = np.full(len(everything.table), _EVERYWHERE, np.int16)
    matches, clashes = [np.zeros((0, 2), np.int64)], [np.zeros((0, 2), np.int64)]
    weights = [np.zeros(0, np.int32)]
    tied = np.zeros(n, bool)
    for one, other, found in _comparisons(everything, n, tiling):
        _hide(reach, found.claimed[0], one, other)
        _hide(reach, found.claimed[1], other, one)
        if one.first >= n or other.first >= n:
            mine = found.matches[:, int(one.first >= n)]
            tied[mine] = True
        if one.first < n:  # matches are reported by the block of the lower window
            matches.append(found.matches)
            weights.append(found.weights)
            clashes.append(found.clashes)
    links = as_links(everything.table, np.concatenate(matches), np.concatenate(weights))
    apart = as_links(everything.table, np.concatenate(clashes), 0)
    return _shared_out(reach, own.table, links, apart, tied, tiling)


_EVERYWHERE = 0b111_111_111


def _comparisons(
    everything: ObjectSet, n: int, tiling: Tiling
) -> Iterator[tuple[WindowObjects, WindowObjects, PairOverlap]]:
    """Compare all pairs of windows of which one is the block's own, in order."""
    windows = {(w.row, w.col): w for w in everything.windows}
    if tiling.margin == 0:
        return
    for row, col in sorted(windows):
        one = windows[row, col]
        for place in ((row, col + 1), *((row + 1, col + d) for d in (-1, 0, 1))):
            other = windows.get(place)
            if other is None or min(one.first, other.first) >= n:
                continue
            found = compare_objects(one, other, everything.table)
            if found is not None:
                yield one, other, found


def _hide(
    reach: NDArray[np.int16],
    objects: NDArray[np.int64],
    window: WindowObjects,
    other: WindowObjects,
) -> None:
    """Note that another window tells of these objects, where its own cell is."""
    bit = _bit(other.row - window.row, other.col - window.col)
    reach[objects] &= ~np.int16(bit)


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
        keys=table["key"],
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
    """(y, x) place in `groups`, -1 for none."""
    groups: NDArray[np.void]
    """(group,) of dtype `BLOCK_GROUP`: those that have pixels here, by first pixel."""


def compose_block(
    seen: Sequence[ObjectSet],
    groups: Sequence[NDArray[np.void]],
    reach: NDArray[np.int16],
    block: Block,
    *,
    gapless: bool = False,
) -> Composed:
    """Give each pixel of a block to one group.

    Where several may have a pixel, the surest has it; of equal ones the one with the
    lowest key.

    Args:
        seen: The block's own objects, then its neighbours' halo, as for `link_block`.
        groups: For each of them, what its objects are a part of (`GROUP`, by object).
        reach: As `Linked` has it.
        block: The block.
        gapless: Whether every pixel of an object must have one: what no group has
            falls to the group of the object that the pixel's own window sees there.
    """
    everything, of_object = joined(seen), np.concatenate(groups)
    names, first, at = np.unique(
        of_object["group"], return_index=True, return_inverse=True
    )
    rank = np.empty(len(names), np.int32)
    rank[np.lexsort((names, -of_object["score"][first]))] = np.arange(len(names))
    shown = of_object["shown"]
    is_shown = shown == everything.table["key"]
    allowed = np.where(shown < 0, reach, np.where(is_shown, _EVERYWHERE, 0))
    group = at.astype(np.int32)
    owner = _painted(everything, block, allowed, group, rank)
    named = of_object[first]
    if gapless:
        own_cell = np.full(len(group), _bit(0, 0))
        rest = _painted(everything, block, own_cell, group, rank)
        owner = np.where(owner < 0, rest, owner)
        named["area"] = 0
    return _sorted(owner, named, block)


def _painted(
    seen: ObjectSet,
    block: Block,
    allowed: NDArray[np.integer[Any]],
    group: NDArray[np.int32],
    rank: NDArray[np.int32],
) -> NDArray[np.int32]:
    """Paint the windows' objects, cell by cell, where they may show: (y, x) groups."""
    owner = np.full((block.window.height, block.window.width), -1, np.int32)
    for window in seen.windows:
        for rows, cols in product((-1, 0, 1), repeat=2):
            cell = block.tiling.cell_window(window.row + rows, window.col + cols)
            shown = cell.intersection(window.where)
            where = shown and shown.intersection(block.window)
            if where is not None:
                paint(
                    owner[where.relative_to(block.window).slices],
                    window.labels[where.relative_to(window.where).slices],
                    window.first,
                    np.where(allowed & _bit(rows, cols), group, -1).astype(np.int32),
                    rank,
                )
    return owner


def _sorted(
    owner: NDArray[np.int32], groups: NDArray[np.void], block: Block
) -> Composed:
    """Order groups by their first pixel and say where they are."""
    window = block.window
    measured = measure_objects(owner + 1, _edges(window), len(groups))[1:]
    there = np.flatnonzero(measured[:, 6])
    there = there[np.argsort(measured[there, 5])]
    y, x = np.divmod(measured[there, 5], window.width)
    table = np.zeros(len(there), BLOCK_GROUP)
    table["first"] = (y + window.y) * block.tiling.width + x + window.x
    table["pixels"] = measured[there, 6]
    _set_boxes(table, measured[there], window)
    for name in ("group", "cls", "score", "pieces", "area"):
        table[name] = groups[name][there]
    table["inside"] = _lies_in(groups[there], window)
    numbers = np.full(len(groups) + 1, -1, np.int32)
    numbers[there] = np.arange(len(there))
    return Composed(owner=numbers[owner], groups=table)


def _lies_in(groups: NDArray[np.void], window: Window) -> NDArray[np.bool_]:
    return np.asarray(
        (groups["top"] >= window.y)
        & (groups["left"] >= window.x)
        & (groups["bottom"] <= window.bottom)
        & (groups["right"] <= window.right)
    )
