"""Joining what crosses blocks: faces by union-find, cut arcs by their common end.

Blocks come in rows of blocks, from the raster's first to its last. After each row the
faces that do not reach its last line of pixels are finished; the rest waits. What is
kept is what crosses, not what was seen.
"""

# ruff: noqa: ANN401, C901, PLR0912, PLR0915
# numba infers the types of compiled loops, and is fast at a loop in one piece.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.union_find import join_pairs
from geoseg.vector.arcs import CUT_END, CUT_START, compiled, mark_tiles
from geoseg.vector.rings import Arcs, positions
from geoseg.vector.simplify import Ground
from geoseg.vector.topology import (
    TILE,
    Attributes,
    Drawing,
    Features,
    Open,
    draw,
    finished,
    side_pairs,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def _mates(
    xy: NDArray[Any], start: NDArray[np.int64], cut: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Return for each end (2 × arc, + 1 the last) the cut end at the same corner.

    At most two cut ends meet at a corner; -1 where there is no other, and of whole
    ends.
    """
    ends = np.flatnonzero(np.stack([cut & CUT_START, cut & CUT_END], axis=1))
    places = np.stack([start[:-1], start[1:] - 1], axis=1).ravel()[ends]
    corners = positions(xy[places])
    order = np.argsort(corners, kind="stable")
    met = np.flatnonzero(np.diff(corners[order]) == 0)
    one, other = ends[order[met]], ends[order[met + 1]]
    mate = np.full(2 * len(cut), -1, np.int64)
    mate[one], mate[other] = other, one
    return mate


@compiled
def _append(xy: Any, start: Any, half: int, out: Any, n: int, first: int) -> int:
    """Append a half-arc's vertices, leaving out repeated and straight ones."""
    arc = half >> 1
    count = start[arc + 1] - start[arc]
    for k in range(count):
        i = start[arc + 1] - 1 - k if half & 1 else start[arc] + k
        x, y = xy[i, 0], xy[i, 1]
        if n > first and out[n - 1, 0] == x and out[n - 1, 1] == y:
            continue
        if n > first + 1 and (
            (out[n - 2, 0] == out[n - 1, 0] == x)
            or (out[n - 2, 1] == out[n - 1, 1] == y)
        ):
            n -= 1
        out[n, 0] = x
        out[n, 1] = y
        n += 1
    return n


@compiled
def _close(out: Any, first: int, n: int) -> Any:
    """Turn a closed line so that it starts east from its first corner.

    Returns:
        The number of points, and whether the line was reversed.
    """
    n -= 1  # the repeated first one
    if (out[n - 1, 0] == out[first, 0] == out[first + 1, 0]) or (
        out[n - 1, 1] == out[first, 1] == out[first + 1, 1]
    ):
        for i in range(first, n - 1):
            out[i, 0] = out[i + 1, 0]
            out[i, 1] = out[i + 1, 1]
        n -= 1
    count = n - first
    low = 0
    for i in range(count):
        x, y = out[first + i, 0], out[first + i, 1]
        lx, ly = out[first + low, 0], out[first + low, 1]
        if y < ly or (y == ly and x < lx):
            low = i
    after = first + (low + 1) % count
    reverse = out[after, 1] != out[first + low, 1]
    turned = out[first:n].copy()
    for i in range(count):
        j = (low - i) % count if reverse else (low + i) % count
        out[first + i, 0] = turned[j, 0]
        out[first + i, 1] = turned[j, 1]
    out[n, 0] = out[first, 0]
    out[n, 1] = out[first, 1]
    return n + 1, reverse


@compiled
def _heading(xy: Any, i: int, j: int) -> int:
    if xy[j, 0] != xy[i, 0]:
        return 0 if xy[j, 0] > xy[i, 0] else 2
    return 1 if xy[j, 1] > xy[i, 1] else 3


@compiled
def _join_cut(xy: Any, start: Any, left: Any, right: Any, cut: Any, mate: Any) -> Any:
    """Join cut arcs into chains; whole ones get the direction that `trace` gives."""
    arcs = len(cut)
    out = np.empty((len(xy) + arcs + 1, 2), np.int32)
    places = np.zeros(arcs + 1, np.int64)
    sides = np.empty((arcs, 2), np.int64)
    headings = np.empty((arcs, 2), np.uint8)
    ends = np.zeros(arcs, np.uint8)
    used = np.zeros(arcs, np.bool_)
    made, n = 0, 0
    for arc in range(arcs):
        if used[arc]:
            continue
        head = 2 * arc
        while mate[head] >= 0 and mate[head] ^ 1 != 2 * arc:
            head = mate[head] ^ 1
        closed = mate[head] >= 0
        tail = head
        while mate[tail ^ 1] >= 0 and mate[tail ^ 1] != head:
            tail = mate[tail ^ 1]
        whole_head = not cut[head >> 1] & (CUT_END if head & 1 else CUT_START)
        whole_tail = not cut[tail >> 1] & (CUT_START if tail & 1 else CUT_END)
        if not closed and whole_head and whole_tail:
            i = start[(head >> 1) + 1] - 1 if head & 1 else start[head >> 1]
            j = start[tail >> 1] if tail & 1 else start[(tail >> 1) + 1] - 1
            if xy[j, 1] < xy[i, 1] or (xy[j, 1] == xy[i, 1] and xy[j, 0] < xy[i, 0]):
                head, tail = tail ^ 1, head ^ 1
            elif xy[i, 0] == xy[j, 0] and xy[i, 1] == xy[j, 1]:
                k = i - 1 if head & 1 else i + 1
                m = j + 1 if tail & 1 else j - 1
                if _heading(xy, j, m) < _heading(xy, i, k):
                    head, tail = tail ^ 1, head ^ 1
        first, half = n, head
        while True:
            used[half >> 1] = True
            n = _append(xy, start, half, out, n, first)
            if half == tail:
                break
            half = mate[half ^ 1]
        reverse = head & 1 == 1
        if closed:
            n, turned = _close(out, first, n)
            reverse = reverse != turned
        one, other = left[head >> 1], right[head >> 1]
        sides[made, 0], sides[made, 1] = (other, one) if reverse else (one, other)
        headings[made, 0] = _heading(out, first, first + 1)
        headings[made, 1] = _heading(out, n - 2, n - 1)
        if not closed and not whole_head:
            ends[made] |= CUT_START
        if not closed and not whole_tail:
            ends[made] |= CUT_END
        made += 1
        places[made] = n
    return (
        out[:n].copy(),
        places[: made + 1].copy(),
        sides[:made].copy(),
        headings[:made].copy(),
        ends[:made].copy(),
    )


def _concatenated(parts: Sequence[Arcs]) -> Arcs:
    starts = [np.zeros(1, np.int64)]
    total = 0
    for part in parts:
        starts.append(part.start[1:] + total)
        total += len(part.xy)
    return Arcs(
        np.concatenate([p.xy for p in parts]),
        np.concatenate(starts),
        np.concatenate([p.left for p in parts]),
        np.concatenate([p.right for p in parts]),
        np.concatenate([p.headings for p in parts]),
    )


_NO_ARCS = Arcs(
    np.empty((0, 2), np.int32),
    np.zeros(1, np.int64),
    np.empty(0, np.int64),
    np.empty(0, np.int64),
    np.empty((0, 2), np.uint8),
)
_NO_FACES = Attributes(
    value=np.empty(0, np.int64),
    pixels=np.empty(0, np.int64),
    scores=np.empty(0, np.int64),
    scored=np.empty(0, np.int64),
)


class Seams:
    """What is open between the rows of blocks seen so far and those to come."""

    def __init__(self, drawing: Drawing) -> None:
        self._drawing = drawing
        self._facts = _NO_FACES
        self._touching = np.empty((0, 2), np.int64)
        self._arcs = _NO_ARCS
        self._cut = np.empty(0, np.uint8)
        self._frontier = np.full(drawing.grid.width, -1, np.int64)
        self._tiles = np.empty((0, 2), np.int64)
        side = 1 << TILE
        self._corners = np.empty((0, side, side), np.uint8)

    def add_row(self, row: Sequence[Open]) -> Features | None:
        """Join a row of blocks, from left to right; return the regions that end in it.

        Args:
            row: The open rests of all blocks of one row; rows come in order.

        Returns:
            Finished regions, or None where there are none.
        """
        last = row[0].window.bottom == self._drawing.grid.height
        face, group = self._join_faces(row)
        self._join_arcs(row, face)
        live = np.zeros(len(self._facts.value), np.bool_)
        if not last:
            live_groups = np.zeros_like(live)
            live_groups[group[self._frontier[self._frontier >= 0]]] = True
            live = live_groups[group]
        done = finished(self._arcs, self._facts, group, live, self._drawing)
        self._forget(live)
        return done

    def _join_faces(
        self, row: Sequence[Open]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Number open faces and those of a row together; return old → new, regions."""
        facts = Attributes.joined([self._facts, *(block.facts for block in row)])
        count = len(facts.value)
        sizes = [len(self._facts.value), *(len(b.facts.value) for b in row[:-1])]
        base = np.cumsum(sizes)
        pairs, frontier = side_pairs(
            [block.sides for block in row], base.tolist(), self._frontier
        )
        roots, face = np.unique(
            join_pairs(count, np.concatenate(pairs)), return_inverse=True
        )
        face = face.astype(np.int64)
        self._facts = facts.merged(face, len(roots))
        touching = [self._touching]
        touching += [b.touching + o for b, o in zip(row, base, strict=True)]
        self._touching = face[np.concatenate(touching)]
        group = join_pairs(len(roots), self._touching)
        self._frontier = np.append(face, -1)[frontier]
        return face, group

    def _join_arcs(self, row: Sequence[Open], face: NDArray[np.int64]) -> None:
        """Join cut arcs over the row's borders; simplify those that are whole now."""
        padded = np.append(face, -1)
        parts = [self._relabelled(self._arcs, 0, padded)]
        base = len(padded) - 1 - sum(len(block.facts.value) for block in row)
        for block in row:
            parts.append(self._relabelled(block.arcs, base, padded))
            base += len(block.facts.value)
        arcs = _concatenated([p for p in parts if len(p.left)] or [_NO_ARCS])
        cut = np.concatenate([self._cut, *(block.cut for block in row)])
        self._merge_tiles(row)
        ends = np.flatnonzero(cut)
        pieces = arcs.take(ends)
        xy, start, sides, headings, still = _join_cut(
            pieces.xy.astype(np.int32), pieces.start, pieces.left, pieces.right,
            cut[ends], _mates(pieces.xy, pieces.start, cut[ends]),
        )  # fmt: skip
        joined = Arcs(xy, start, sides[:, 0].copy(), sides[:, 1].copy(), headings)
        if self._drawing.is_changed and len(still):
            joined = draw(joined, still == 0, self._ground(), self._drawing.limits)
        others = arcs.take(np.flatnonzero(cut == 0))
        self._arcs = _concatenated([others, joined])
        self._cut = np.concatenate([np.zeros(len(others.left), np.uint8), still])

    @staticmethod
    def _relabelled(arcs: Arcs, base: int, face: NDArray[np.int64]) -> Arcs:
        return arcs._replace(
            left=face[np.where(arcs.left >= 0, arcs.left + base, -1)],
            right=face[np.where(arcs.right >= 0, arcs.right + base, -1)],
        )

    def _merge_tiles(self, row: Sequence[Open]) -> None:
        """Lay the row's tiles of corners over those that were kept."""
        tiles = np.concatenate([self._tiles, *(block.tiles for block in row)])
        corners = np.concatenate([self._corners, *(block.corners for block in row)])
        if not len(tiles):
            return
        order = np.lexsort((tiles[:, 1], tiles[:, 0]))
        tiles = tiles[order]
        starts = np.flatnonzero(np.append(True, (tiles[1:] != tiles[:-1]).any(axis=1)))
        self._tiles = tiles[starts]
        self._corners = corners[order[starts]]
        copies = np.diff(np.append(starts, len(order)))
        for k in range(1, int(copies.max())):
            more = np.flatnonzero(copies > k)
            self._corners[more] |= corners[order[starts[more] + k]]

    def _ground(self) -> Ground:
        apron, side = self._drawing.apron, 1 << TILE
        y, x = self._tiles.min(axis=0)
        shape = self._tiles.max(axis=0) - (y, x) + 1
        table = np.zeros(shape, np.int32)
        table[tuple((self._tiles - (y, x)).T)] = np.arange(1, len(self._tiles) + 1)
        empty = np.zeros((1, side, side), np.uint8)
        tiles = np.concatenate([empty, self._corners])
        return Ground(table, tiles, TILE, int(y) * side - apron, int(x) * side - apron)

    def _forget(self, live: NDArray[np.bool_]) -> None:
        """Keep only what live faces and cut arcs need."""
        place = np.full(len(live) + 1, -1, np.int64)
        place[:-1][live] = np.arange(int(live.sum()))
        self._facts = self._facts.take(np.flatnonzero(live))
        self._touching = place[self._touching]
        self._touching = self._touching[(self._touching >= 0).all(axis=1)]
        self._frontier = place[self._frontier]
        left, right = place[self._arcs.left], place[self._arcs.right]
        kept = np.flatnonzero((left >= 0) | (right >= 0) | (self._cut > 0))
        self._arcs = self._arcs._replace(left=left, right=right).take(kept)
        self._cut = self._cut[kept]
        if len(self._tiles):
            cut = self._arcs.take(np.flatnonzero(self._cut))
            y, x = (int(v) for v in self._tiles.min(axis=0))
            rows, columns = (int(v) + 1 for v in self._tiles.max(axis=0) - (y, x))
            marked = mark_tiles(
                cut.xy.astype(np.int32), cut.start, rows, columns, y, x,
                self._drawing.apron, TILE,
            )  # fmt: skip
            kept = np.flatnonzero(marked[tuple((self._tiles - (y, x)).T)])
            self._tiles, self._corners = self._tiles[kept], self._corners[kept]
