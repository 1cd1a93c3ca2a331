"""Which objects of neighbouring windows are one: match on the overlap, then join.

Windows that share pixels both say which objects lie there. Their objects are compared
fragment by fragment (an object may cross the overlap twice), and matched one to one:

    window A      | overlap |           a matches b where each is the other's best, and
    . . . a a a a | a a a . |           the IoU of the fragments, counted in the overlap
    . . . . . . . | b b b b | b b       only, is enough. Touching is no match. What was
                  |      window B       matched is joined, the surest match first.

Two objects never become one where a window has seen them apart: two of one window of
which one was seen whole, or two that claim the same pixels without being each other's
match. So A-B and B-C make A-C only where nothing speaks against it. Everything follows
from the windows alone: blocks, their order and the workers change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from geoseg.core.grid import Window
from geoseg.core.tiling import Tiling
from geoseg.core.union_find import find_root
from geoseg.inference.objects.fragments import shared_counts, take_apart

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEY_BITS = 24
"""An object's key is its window's number, then so many bits for its number there."""
SCORE = 65535
"""Score 1 as an integer."""
SAME = 0.25
"""IoU on the overlap from which two objects of one class can be one."""
SAME_ACROSS = 0.5
"""The same where the windows disagree about the class."""
CLAIM = 0.5
"""Two objects claim the same pixels where this share of the smaller is the other's."""

BOX = (("top", "<i4"), ("left", "<i4"), ("bottom", "<i4"), ("right", "<i4"))
"""First row and column of a rectangle, and the row and column after its last."""

OBJECT = np.dtype(
    [
        ("key", "<i8"),
        ("cls", "<i4"),
        ("score", "<i4"),
        ("inner", "<i8"),
        ("area", "<i8"),
        *BOX,
    ]
)
"""An object of a window: class value, score, its pixels in the window's own cell and in
all of it, box."""

GROUP = np.dtype(
    [
        ("group", "<i8"),
        ("shown", "<i8"),
        ("cls", "<i4"),
        ("score", "<i4"),
        ("pieces", "<i4"),
        ("area", "<i8"),
        *BOX,
    ]
)
"""What an object is a part of: its group's lowest key; the key of the one object that
saw the group whole and alone shows it, or -1; the group's class, score, box, of how
many pieces it is put together, and the pixels of the object that shows it, else 0."""

LINK = np.dtype([("one", "<i8"), ("other", "<i8"), ("weight", "<i4")])
"""Two objects by their keys, the lower first; a match has a weight, a clash has 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowObjects:
    """The objects of one window inside a rectangle."""

    row: int
    """Row of the window's cell."""
    col: int
    """Column of the window's cell."""
    where: Window
    """The rectangle, inside the window and the raster."""
    labels: NDArray[np.int32]
    """(y, x) the object of each pixel: 1 is the first of this window, 0 none."""
    first: int
    """Where the objects of this window begin in the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectSet:
    """What some windows see: their objects, pixel by pixel and as a table."""

    windows: tuple[WindowObjects, ...]
    """One per window that sees any."""
    table: NDArray[np.void]
    """(object,) of dtype `OBJECT`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairOverlap:
    """What two windows say of each other's objects, by their place in the table."""

    matches: NDArray[np.int64]
    """(match, 2)."""
    weights: NDArray[np.int32]
    """(match,) IoU of what matched, `SCORE` at most."""
    clashes: NDArray[np.int64]
    """(clash, 2)."""
    claimed: tuple[NDArray[np.int64], NDArray[np.int64]]
    """Objects of the one whose pixels the other claims too, and the reverse."""


def tolerance(tiling: Tiling) -> int:
    """Return how near its window's edge an object may be cut by it, in pixels."""
    return max(1, tiling.margin // 4)


def joined(sets: Iterable[ObjectSet]) -> ObjectSet:
    """Return several windows' objects as one table."""
    windows: list[WindowObjects] = []
    tables: list[NDArray[np.void]] = [np.zeros(0, OBJECT)]
    first = 0
    for part in sets:
        windows += [replace(w, first=w.first + first) for w in part.windows]
        tables.append(part.table)
        first += len(part.table)
    return ObjectSet(windows=tuple(windows), table=np.concatenate(tables))


# --- two windows ----------------------------------------------------------------------


def compare_objects(
    one: WindowObjects, other: WindowObjects, table: NDArray[np.void]
) -> PairOverlap | None:
    """Compare the objects of two windows on the pixels that both see.

    Args:
        one: The window with the lower number; they hold all that they share.
        other: The other.
        table: The objects of both, of dtype `OBJECT`.

    Returns:
        None where they see no objects there.
    """
    shared = one.where.overlap(other.where)
    if shared is None:
        return None
    ours, theirs = one.labels[shared[0]], other.labels[shared[1]]
    if not ours.any() or not theirs.any():
        return None
    return _compare(
        np.ascontiguousarray(ours), np.ascontiguousarray(theirs), one, other, table
    )


def _compare(
    ours: NDArray[np.int32],
    theirs: NDArray[np.int32],
    one: WindowObjects,
    other: WindowObjects,
    table: NDArray[np.void],
) -> PairOverlap:
    our_pieces, our_object, our_size = take_apart(ours)
    their_pieces, their_object, their_size = take_apart(theirs)
    p, q, pixels = shared_counts(our_pieces, their_pieces)
    union = our_size[p] + their_size[q] - pixels
    iou = pixels / union
    a = one.first - 1 + our_object[p].astype(np.int64)
    b = other.first - 1 + their_object[q].astype(np.int64)
    needed = np.where(table["cls"][a] == table["cls"][b], SAME, SAME_ACROSS)
    good = (iou >= needed) & _best_of(p, iou) & _best_of(q, iou)
    matches, at = np.unique(
        np.stack([a[good], b[good]], 1), axis=0, return_inverse=True
    )
    n = len(matches)
    agreed = np.bincount(at.ravel(), pixels[good], n)
    weights = agreed * SCORE // np.maximum(np.bincount(at.ravel(), union[good], n), 1)
    claimed = ~good & (pixels >= CLAIM * np.minimum(our_size[p], their_size[q]))
    clashes = _without(np.stack([a[claimed], b[claimed]], 1), matches)
    return PairOverlap(
        matches=matches,
        weights=weights.astype(np.int32),
        clashes=clashes,
        claimed=(
            _claimed(our_object, our_size, p, pixels, one.first, matches[:, 0]),
            _claimed(their_object, their_size, q, pixels, other.first, matches[:, 1]),
        ),
    )


def _best_of(names: NDArray[np.int64], iou: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say of each pair whether it is its name's best; of equal ones the first is."""
    order = np.lexsort((np.arange(len(names)), -iou, names))
    best = np.zeros(len(names), bool)
    if len(names):
        leads = np.append(True, names[order][1:] != names[order][:-1])
        best[order[leads]] = True
    return best


def _without(pairs: NDArray[np.int64], out: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the pairs, each once, that are not among `out`."""
    pairs = np.unique(pairs, axis=0)
    if not len(pairs) or not len(out):
        return pairs
    width = 1 + max(int(pairs[:, 1].max()), int(out[:, 1].max()))
    names = pairs[:, 0] * width + pairs[:, 1]
    return pairs[~np.isin(names, out[:, 0] * width + out[:, 1])]


def _claimed(
    owner: NDArray[np.int32],
    size: NDArray[np.int64],
    pieces: NDArray[np.int64],
    pixels: NDArray[np.int64],
    first: int,
    matched: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return the objects that match, or of which half or more is the other's too."""
    area = np.bincount(owner, size)
    also = np.bincount(owner[pieces], pixels, len(area))
    mostly = np.flatnonzero((also > 0) & (also >= CLAIM * area))
    return np.union1d(matched, mostly + first - 1)


# --- all windows ----------------------------------------------------------------------


def solve(
    table: NDArray[np.void],
    links: NDArray[np.void],
    clashes: NDArray[np.void],
    tiling: Tiling,
) -> NDArray[np.void]:
    """Join objects into groups.

    Args:
        table: (object,) of dtype `OBJECT`, ordered by key; all that links tie together.
        links: (match,) of dtype `LINK`; both ends lie in the table.
        clashes: (clash,) of dtype `LINK`; those with an end elsewhere do not matter.
        tiling: How the raster is cut.

    Returns:
        (object,) of dtype `GROUP`. What a group is depends on nothing but its objects
        and what ties them.
    """
    n = len(table)
    ends = _places(links, table)
    component = components(table, links)
    whole = seen_whole(table, tiling)
    apart = _inside(clashes, table)
    of_link, of_clash = component[ends[0]], component[apart[0]]
    links_by, clashes_by = np.argsort(of_link), np.argsort(of_clash)
    for objects in _contradictory(table, component, whole, apart):
        name = component[objects[0]]
        mine = links_by[_range(of_link[links_by], name)]
        hers = clashes_by[_range(of_clash[clashes_by], name)]
        groups = _Groups(objects, table["key"] >> KEY_BITS, whole, apart[:, hers])
        groups.join_all(ends[:, mine], links["weight"][mine])
        component[objects] = n + groups.roots(objects)
    return _describe(table, component, tiling)


def components(table: NDArray[np.void], links: NDArray[np.void]) -> NDArray[np.int32]:
    """Return the component (object,) of each object, tied by links inside the table."""
    n, ends = len(table), _places(links, table)
    edges = coo_array((np.ones(len(links), np.int8), (ends[0], ends[1])), shape=(n, n))
    return np.asarray(connected_components(edges, directed=False)[1])


def _places(links: NDArray[np.void], table: NDArray[np.void]) -> NDArray[np.intp]:
    """Return both ends of links (2, link) as places in the table."""
    return np.searchsorted(table["key"], np.stack([links["one"], links["other"]]))


def seen_whole(table: NDArray[np.void], tiling: Tiling) -> NDArray[np.bool_]:
    """Say of each object whether its window cannot have cut it."""
    return _context(table, table, tiling) >= tolerance(tiling)


def _context(
    table: NDArray[np.void], boxes: NDArray[np.void], tiling: Tiling
) -> NDArray[np.int64]:
    """Return how far boxes lie from the edges of objects' windows, in pixels.

    The raster's own edges are far: nothing is cut there that could be joined.
    """
    window = table["key"] >> KEY_BITS
    far = np.iinfo(np.int64).max
    context = np.full(len(table), far)
    axes = (
        (window // tiling.cell_cols, "top", "bottom", tiling.height),
        (window % tiling.cell_cols, "left", "right", tiling.width),
    )
    for cell, first, after, length in axes:
        begin = cell * tiling.stride - tiling.margin
        end = begin + tiling.window
        before = np.where(begin > 0, boxes[first] - begin, far)
        behind = np.where(end < length, end - boxes[after], far)
        context = np.minimum(context, np.minimum(before, behind))
    return context


def _inside(clashes: NDArray[np.void], table: NDArray[np.void]) -> NDArray[np.intp]:
    """Return clashes between objects of the table as (2, clash) places in it."""
    keys = np.stack([clashes["one"], clashes["other"]])
    at = np.searchsorted(table["key"], keys)
    there = at < len(table)
    at[~there] = 0
    if len(table):
        there &= table["key"][at] == keys
    return at[:, there.all(axis=0)]


def _contradictory(
    table: NDArray[np.void],
    component: NDArray[np.int32],
    whole: NDArray[np.bool_],
    apart: NDArray[np.intp],
) -> list[NDArray[np.intp]]:
    """Return the objects of each component that a window has seen apart."""
    window = table["key"] >> KEY_BITS
    order = np.lexsort((window, component))
    same = (np.diff(component[order]) == 0) & (np.diff(window[order]) == 0)
    starts = np.flatnonzero(np.append(True, ~same)) if len(order) else order[:0]
    sizes = np.diff(np.append(starts, len(order)))
    any_whole = np.add.reduceat(whole[order], starts) > 0 if len(starts) else sizes > 0
    wrong = component[order[starts[(sizes > 1) & any_whole]]]
    clashing = component[apart[0]][component[apart[0]] == component[apart[1]]]
    wrong = np.union1d(wrong, clashing)
    if not len(wrong):
        return []
    members = np.flatnonzero(np.isin(component, wrong))
    members = members[np.argsort(component[members], kind="stable")]
    cuts = np.flatnonzero(np.diff(component[members])) + 1
    return np.split(members, cuts)


def _range(names: NDArray[np.int32], name: int) -> slice:
    """Return where a name lies in sorted ones."""
    return slice(
        int(np.searchsorted(names, name)), int(np.searchsorted(names, name, "right"))
    )


class _Groups:
    """Union-find that refuses to join what was seen apart."""

    def __init__(
        self,
        objects: NDArray[np.intp],
        window: NDArray[np.int64],
        whole: NDArray[np.bool_],
        apart: NDArray[np.intp],
    ) -> None:
        self._parent = {int(o): int(o) for o in objects}
        # By root: windows of its objects and whether one saw its object whole; roots
        # that it must not be joined with, under any name they had.
        self._windows = {int(o): {int(window[o]): bool(whole[o])} for o in objects}
        self._apart: dict[int, set[int]] = {int(o): set() for o in objects}
        for one, other in apart.T.tolist():
            if one in self._parent and other in self._parent:
                self._apart[one].add(other)
                self._apart[other].add(one)

    def join_all(self, ends: NDArray[np.intp], weights: NDArray[np.int32]) -> None:
        """Join what links tie, the surest first; equal ones in order of their ends."""
        for i in np.lexsort((ends[1], ends[0], -weights)):
            self._join(int(ends[0][i]), int(ends[1][i]))

    def roots(self, objects: NDArray[np.intp]) -> NDArray[np.intp]:
        return np.array([find_root(self._parent, int(o)) for o in objects], np.intp)

    def _join(self, one: int, other: int) -> None:
        one, other = sorted(find_root(self._parent, name) for name in (one, other))
        if one == other or self._contradict(one, other):
            return
        self._parent[other] = one
        for window, whole in self._windows.pop(other).items():
            self._windows[one][window] = whole or self._windows[one].get(window, False)
        self._apart[one] |= self._apart.pop(other)

    def _contradict(self, one: int, other: int) -> bool:
        small, large = sorted((one, other), key=lambda g: len(self._windows[g]))
        there = self._windows[large]
        for window, whole in self._windows[small].items():
            if window in there and (whole or there[window]):
                return True
        few, many = sorted((one, other), key=lambda g: len(self._apart[g]))
        return any(find_root(self._parent, name) == many for name in self._apart[few])


def _describe(
    table: NDArray[np.void], component: NDArray[np.int32], tiling: Tiling
) -> NDArray[np.void]:
    """Return what each object's group is."""
    out = np.zeros(len(table), GROUP)
    if not len(table):
        return out
    _, first, at = np.unique(component, return_index=True, return_inverse=True)
    n = len(first)
    # Keys are in order, so that the first of a group has its lowest key.
    out["group"] = table["key"][first][at]
    for name, edge in around(table, first, at).items():
        out[name] = edge[at]
    shown = _shown(table, out, at, n, tiling)
    out["shown"] = np.where(shown >= 0, table["key"][shown], -1)[at]
    out["area"] = np.where(shown >= 0, table["area"][shown], 0)[at]
    alone = np.arange(len(table)) == shown[at]
    speaks = alone | (shown[at] < 0)
    out["pieces"] = np.bincount(at[speaks], minlength=n)[at]
    weight = np.where(speaks, np.maximum(table["inner"], 1), 0).astype(np.int64)
    out["score"] = _mean(at, weight, table["score"], n)[at]
    out["cls"] = _majority(at, weight * (table["score"].astype(np.int64) + 1), table)[
        at
    ]
    return out


def around(
    table: NDArray[np.void], first: NDArray[np.intp], at: NDArray[np.intp]
) -> dict[str, NDArray[np.int32]]:
    """Return the box around all members of each group, edge by edge (group,).

    Args:
        table: Members, with the fields of `BOX`.
        first: (group,) place of one member of each.
        at: (member,) its group.
    """
    edges = {}
    for name, _ in BOX:
        edges[name] = table[name][first].copy()
        reduce = np.minimum if name in {"top", "left"} else np.maximum
        reduce.at(edges[name], at, table[name])
    return edges


def _shown(
    table: NDArray[np.void],
    groups: NDArray[np.void],
    at: NDArray[np.intp],
    n: int,
    tiling: Tiling,
) -> NDArray[np.int64]:
    """Return the object of each group whose window sees all of it best, or -1."""
    context = _context(table, groups, tiling)
    fits = np.flatnonzero(context >= tolerance(tiling))
    order = fits[np.lexsort((fits, -context[fits], at[fits]))]
    shown = np.full(n, -1, np.int64)
    shown[at[order][::-1]] = order[::-1]
    return shown


def _mean(
    at: NDArray[np.intp], weight: NDArray[np.int64], score: NDArray[np.int32], n: int
) -> NDArray[np.int64]:
    """Return the weighted mean score of each group, in integers, rounded."""
    total, sums = np.zeros(n, np.int64), np.zeros(n, np.int64)
    np.add.at(total, at, weight)
    np.add.at(sums, at, weight * score)
    return (sums + total // 2) // total


def _majority(
    at: NDArray[np.intp], votes: NDArray[np.int64], table: NDArray[np.void]
) -> NDArray[np.int64]:
    """Return the class with most votes of each group; of equal ones the lowest."""
    width = int(table["cls"].max()) + 1
    names, index = np.unique(at * width + table["cls"], return_inverse=True)
    sums = np.zeros(len(names), np.int64)
    np.add.at(sums, index, votes)
    group, cls = names // width, names % width
    order = np.lexsort((cls, -sums, group))
    leads = np.append(True, np.diff(group[order]) != 0)
    return np.asarray(cls[order[leads]])


def as_links(
    table: NDArray[np.void], pairs: NDArray[np.int64], weights: NDArray[np.int32] | int
) -> NDArray[np.void]:
    """Return pairs of places in the table as `LINK`s of keys, the lower first."""
    keys = np.sort(table["key"][pairs].reshape(-1, 2), axis=1)
    out = np.zeros(len(keys), LINK)
    out["one"], out["other"], out["weight"] = keys[:, 0], keys[:, 1], weights
    return out


def concatenated(parts: Sequence[NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the rows of all parts; none is fine."""
    return np.concatenate([np.zeros(0, dtype), *parts])
