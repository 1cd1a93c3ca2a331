"""Simplifying arcs so that nothing can cross, touch or vanish, whatever else happens.

A vertex b between a and c may go only where the triangle abc, its border included,
holds no other vertex: no *original* vertex of another arc, and no *remaining* vertex of
its own. A straight edge that reached into the triangle would need an end in it, so the
lines stay disjoint however the other arcs are simplified; hence each arc can be
simplified alone, in any order, on any worker, with one result. Vertices go in the order
of Visvalingam & Whyatt (1993, "Line generalisation by repeated elimination of points")
by the area of their triangle, or of Douglas & Peucker (1973) by their distance, and
never so that a line moves by more than the tolerance. See TOPOLOGY.md.

All tests are exact: corners are integers.
"""

# ruff: noqa: ANN401, C901, PLR0912, PLR0915
# numba infers the types of compiled loops, and is fast at a loop in one piece.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from geoseg.vector.arcs import NODE, TURN, VERTEX, compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CLOSED_KEEPS = 2  # and the first: a triangle
_RECTANGLE = 5  # points: it stays, so that one pixel is a square
_CURVE = 4  # straight pieces per rounded corner
_LEVELS = 64  # of how much a vertex matters; those of one level go as they come
_MOST = (1 << 30) - 1
_ROUNDING = 1e-6  # relative: triangles of just the tolerance are the usual ones


class Ground(NamedTuple):
    """Which corners are vertices: bytes of `corner_bytes`, in tiles with any.

    Corner (y, x) is at `tiles[table[row, column], …]`, counted from `y`, `x`.
    """

    table: NDArray[np.int32]
    """Tile by (row, column); 0 is the empty one unless there is only one."""
    tiles: NDArray[np.uint8]
    """(tile, y, x)."""
    shift: int
    """Tiles have 2^shift corners a side."""
    y: int
    """First row."""
    x: int
    """First column."""


class Limits(NamedTuple):
    """How far simplifying may go, in metres."""

    area: float
    """Largest triangle that may go, in m²; infinite for Douglas–Peucker."""
    distance: float
    """The furthest a line may move."""
    height: float
    """Height of a pixel."""
    width: float
    """Width of a pixel."""
    radius: float
    """Corners are rounded from this far on; 0 for not at all."""


def whole(corners: NDArray[np.uint8], y: int, x: int) -> Ground:
    """Return a block's corners as ground; shares memory."""
    return Ground(np.zeros((1, 1), np.int32), corners[np.newaxis], 30, y, x)


@compiled
def _byte(ground: Any, y: int, x: int) -> int:
    table, tiles, shift, y0, x0 = ground
    y, x = y - y0, x - x0
    mask = (1 << shift) - 1
    return tiles[table[y >> shift, x >> shift], y & mask, x & mask]  # type: ignore[no-any-return]


@compiled
def _toggle(ground: Any, y: int, x: int) -> None:
    table, tiles, shift, y0, x0 = ground
    y, x = y - y0, x - x0
    mask = (1 << shift) - 1
    tiles[table[y >> shift, x >> shift], y & mask, x & mask] ^= TURN


@compiled
def _span(p: Any, q: Any, v: int, axis: int, low: int, high: int) -> Any:
    """Widen [low, high] to the lattice points of edge pq's crossing with line v."""
    a, b = p[1 - axis], q[1 - axis]
    if a > b:
        p, q, a, b = q, p, b, a
    if v < a or v > b:
        return low, high
    if a == b:
        return min(low, p[axis], q[axis]), max(high, p[axis], q[axis])
    top = p[axis] * (b - a) + (q[axis] - p[axis]) * (v - a)
    down = top // (b - a)
    return min(low, -(-top // (b - a))), max(high, down)


@compiled
def _is_empty(ground: Any, a: Any, b: Any, c: Any) -> bool:
    """Whether no vertex but a, b, c is in the closed triangle; points are (x, y)."""
    x0, x1 = min(a[0], b[0], c[0]), max(a[0], b[0], c[0])
    y0, y1 = min(a[1], b[1], c[1]), max(a[1], b[1], c[1])
    axis = 0 if y1 - y0 <= x1 - x0 else 1  # scan along the longer side
    first, last = (y0, y1) if axis == 0 else (x0, x1)
    for v in range(first, last + 1):
        low, high = 1 << 40, -(1 << 40)
        low, high = _span(a, b, v, axis, low, high)
        low, high = _span(b, c, v, axis, low, high)
        low, high = _span(c, a, v, axis, low, high)
        for u in range(low, high + 1):
            p = (u, v) if axis == 0 else (v, u)
            if _byte(ground, p[1], p[0]) & VERTEX and p != a and p != b and p != c:  # noqa: PLR1714
                return False
    return True


@compiled
def _distance(px: Any, py: Any, a: Any, c: Any, width: float, height: float) -> float:
    """Return the distance in metres of a point from the segment ac."""
    ax, ay = a[0] * width, a[1] * height
    dx, dy = c[0] * width - ax, c[1] * height - ay
    px, py = px * width - ax, py * height - ay
    along = px * dx + py * dy
    length = dx * dx + dy * dy
    t = 0.0 if length == 0.0 else min(1.0, max(0.0, along / length))
    px, py = px - t * dx, py - t * dy
    return float(np.sqrt(px * px + py * py))


@compiled
def _furthest(xy: Any, i: int, k: int, width: float, height: float) -> Any:
    """Return the vertex between i and k furthest from the segment, and how far."""
    best, far = i, -1.0
    a, c = (xy[i, 0], xy[i, 1]), (xy[k, 0], xy[k, 1])
    for j in range(i + 1, k):
        d = _distance(xy[j, 0], xy[j, 1], a, c, width, height)
        if d > far:
            best, far = j, d
    return best, far


@compiled
def _significance(xy: Any, limits: Any, closed: bool, keys: Any, stack: Any) -> None:
    """Give each vertex the Douglas–Peucker tolerance up to which it stays."""
    n = len(xy)
    stack[0, 0], stack[0, 1] = 0, n - 1
    keys[0] = np.inf
    depth = 1
    while depth:
        depth -= 1
        i, k = stack[depth, 0], stack[depth, 1]
        if k - i < 2:
            continue
        j, far = _furthest(xy, i, k, limits[3], limits[2])
        parent = np.inf if i == 0 and k == n - 1 else min(keys[i], keys[k])
        keys[j] = np.inf if closed and i == 0 and k == n - 1 else min(parent, far)
        if i == 0 and k == n - 1:
            keys[n - 1] = np.inf
        stack[depth, 0], stack[depth, 1] = i, j
        stack[depth + 1, 0], stack[depth + 1, 1] = j, k
        depth += 2


@compiled
def _is_rival(
    ground: Any, xy: Any, limits: Any, heading: int, by_left: bool, largest: int
) -> bool:
    """Whether the line that leaves an arc's start may become the arc's chord as well.

    It must end where the arc ends and stay within the distance. Where it has no vertex
    it is the chord; else, where asked `by_left`, it has one to the left of the chord
    that could be its last, by the area of the triangle.
    """
    ax, ay, cx, cy = xy[0, 0], xy[0, 1], xy[-1, 0], xy[-1, 1]
    dx, dy = cx - ax, cy - ay
    x, y, straight, left = ax, ay, True, False
    while True:
        x += (heading == 0) - (heading == 2)
        y += (heading == 1) - (heading == 3)
        if x == cx and y == cy:
            return straight or (by_left and left)
        if _distance(x, y, (ax, ay), (cx, cy), limits[3], limits[2]) > limits[1]:
            return False
        byte = _byte(ground, y, x)
        if byte & NODE:
            return False
        if byte & VERTEX:
            straight = False
            left = left or -largest <= dx * (y - ay) - dy * (x - ax) < 0
            edges = byte & 15 & ~(1 << (heading + 2 & 3))
            heading = 0 if edges & 1 else 1 if edges & 2 else 2 if edges & 4 else 3


@compiled
def _may_straighten(
    ground: Any, xy: Any, limits: Any, b: int, heading: int, largest: int
) -> bool:
    """Whether the last inner vertex may go, so that the arc becomes its chord.

    Two arcs with the same ends must not both become the chord, or the region between
    them would vanish. Of two that could, one has its last vertex to the left of the
    chord and one to the right; the left one may always go, the right one only where
    no other arc with these ends could lose all that it has on the left.
    """
    ax, ay = xy[0, 0], xy[0, 1]
    dx, dy = xy[-1, 0] - ax, xy[-1, 1] - ay
    right = dx * (xy[b, 1] - ay) - dy * (xy[b, 0] - ax) >= 0
    leaving = _byte(ground, ay, ax) & 15
    for other in range(4):
        if other == heading or not leaving >> other & 1:
            continue
        if _is_rival(ground, xy, limits, other, right, largest):
            return False
    return True


@compiled
def _twice(xy: Any, a: int, b: int, c: int) -> int:
    """Return twice the area of the triangle of three vertices, in pixels."""
    twice = (xy[b, 0] - xy[a, 0]) * (xy[c, 1] - xy[a, 1]) - (xy[b, 1] - xy[a, 1]) * (
        xy[c, 0] - xy[a, 0]
    )
    return abs(twice)  # type: ignore[no-any-return]


@compiled
def _enqueue(i: int, level: int, queues: Any, queued: Any, used: int) -> int:
    """Put a vertex last in a level's queue."""
    queue, head, tail = queues
    queue[used, 0], queue[used, 1] = i, -1
    if head[level] < 0:
        head[level] = used
    else:
        queue[tail[level], 1] = used
    tail[level] = used
    queued[i] = used
    return used + 1


@compiled
def _thin(
    xy: Any,
    heading: int,
    ground: Any,
    limits: Any,
    before: Any,
    after: Any,
    keys: Any,
    rank: Any,
    bound: Any,
    queued: Any,
    stack: Any,
    queues: Any,
) -> None:
    """Take vertices away from one arc; what stays is linked by `before` and `after`.

    Vertices wait in one queue per level of rank. One whose rank has changed is queued
    again; of its places in queues, the one that `queued` names counts.
    """
    area, distance, height, width = limits[0], limits[1], limits[2], limits[3]
    queue, head, _ = queues
    n = len(xy)
    closed = xy[0, 0] == xy[n - 1, 0] and xy[0, 1] == xy[n - 1, 1]
    by_area = area < np.inf
    most = 2 * area / (height * width) * (1 + _ROUNDING)
    largest = int(min(_MOST, most)) if by_area else _MOST
    straight = largest if by_area else 1 << 62
    for i in range(n):
        before[i], after[i], bound[i], queued[i] = i - 1, i + 1, 0.0, -1
    scale = min(1.0, (_LEVELS - 1) / max(1, largest))
    used = 0
    if by_area:
        for i in range(1, n - 1):
            rank[i] = min(_twice(xy, i - 1, i, i + 1), largest + 1)
    else:
        _significance(xy, limits, closed, keys, stack)
        for i in range(1, n - 1):
            rank[i] = int(min(2.0, keys[i] / distance) * _MOST)
    for i in range(1, n - 1):
        if rank[i] <= largest:
            used = _enqueue(i, int(rank[i] * scale), queues, queued, used)
    inner, level = n - 2, 0
    while level < _LEVELS:
        item = head[level]
        if item < 0:
            level += 1
            continue
        head[level] = queue[item, 1]
        b = queue[item, 0]
        if queued[b] != item:
            continue
        queued[b] = -1
        if closed and (inner <= _CLOSED_KEEPS or n == _RECTANGLE):
            head[:] = -1
            break
        i, k = before[b], after[b]
        a, m, c = (
            (xy[i, 0], xy[i, 1]),
            (xy[b, 0], xy[b, 1]),
            (xy[k, 0], xy[k, 1]),
        )
        moved = max(bound[i], bound[b]) + _distance(m[0], m[1], a, c, width, height)
        if moved > distance:
            moved = _furthest(xy, i, k, width, height)[1]
            if moved > distance:
                continue
        twice = (m[0] - a[0]) * (c[1] - a[1]) - (m[1] - a[1]) * (c[0] - a[0])
        if abs(twice) > 1 and not _is_empty(ground, a, m, c):
            continue
        if inner == 1 and not _may_straighten(ground, xy, limits, b, heading, straight):
            continue
        _toggle(ground, m[1], m[0])
        inner -= 1
        after[i], before[k], bound[i] = k, i, moved
        before[b] = -2
        for j in (i, k):
            if j in (0, n - 1):
                continue
            if by_area:
                rank[j] = min(_twice(xy, before[j], j, after[j]), largest + 1)
            queued[j] = -1
            if rank[j] <= largest:
                at = int(rank[j] * scale)
                used = _enqueue(j, at, queues, queued, used)
                level = min(level, at)


@compiled
def _round(
    xy: Any, i: int, b: int, k: int, ground: Any, limits: Any, out: Any, n: int
) -> int:
    """Emit the rounded corner b: the B-spline's parabola between points on its edges.

    It lies in the triangle of those points and b, so that the rule that keeps lines
    apart holds for it as well; where the ground is not empty the corner stays.
    """
    radius, height, width = limits[4], limits[2], limits[3]
    bx, by = float(xy[b, 0]), float(xy[b, 1])
    ax, ay = float(xy[i, 0]) - bx, float(xy[i, 1]) - by
    cx, cy = float(xy[k, 0]) - bx, float(xy[k, 1]) - by
    s = min(0.5, radius / np.hypot(ax * width, ay * height))
    t = min(0.5, radius / np.hypot(cx * width, cy * height))
    corners = ((xy[i, 0], xy[i, 1]), (xy[b, 0], xy[b, 1]), (xy[k, 0], xy[k, 1]))
    if ax * cy == ay * cx or not _is_empty_part(ground, corners, s, t):
        out[n, 0] = bx
        out[n, 1] = by
        return n + 1
    for step in range(_CURVE + 1):
        u = step / _CURVE
        if step == 0 and s == 0.5 and n and i > 0:
            px, py = bx + s * ax, by + s * ay
            if out[n - 1, 0] == px and out[n - 1, 1] == py:
                continue  # the last corner ended at the middle of this edge
        out[n, 0] = bx + (1 - u) * (1 - u) * s * ax + u * u * t * cx
        out[n, 1] = by + (1 - u) * (1 - u) * s * ay + u * u * t * cy
        n += 1
    return n


@compiled
def _is_empty_part(ground: Any, corners: Any, s: float, t: float) -> bool:
    """Whether no vertex is in the part of a triangle that a rounded corner cuts off."""
    a, b, c = corners
    ax, ay = s * (a[0] - b[0]), s * (a[1] - b[1])
    cx, cy = t * (c[0] - b[0]), t * (c[1] - b[1])
    whole = ax * cy - ay * cx
    y0, y1 = b[1] + min(0.0, ay, cy), b[1] + max(0.0, ay, cy)
    x0, x1 = b[0] + min(0.0, ax, cx), b[0] + max(0.0, ax, cx)
    for y in range(int(np.ceil(y0)), int(np.floor(y1)) + 1):
        for x in range(int(np.ceil(x0)), int(np.floor(x1)) + 1):
            if not _byte(ground, y, x) & VERTEX:
                continue
            px, py = x - b[0], y - b[1]
            if px == 0 and py == 0:
                continue
            u = (px * cy - py * cx) / whole
            v = (ax * py - ay * px) / whole
            if u >= 0 and v >= 0 and u + v <= 1 + 1e-9:
                return False
    return True


@compiled
def simplify_arcs(
    xy: Any, start: Any, headings: Any, chosen: Any, ground: Any, limits: Any, out: Any
) -> Any:
    """Simplify and round the chosen arcs, each alone; copy the others.

    Args:
        xy: (n, 2) int32, original vertices as x, y.
        start: (m + 1,) where each arc's vertices start.
        headings: (m, 2) uint8, of the first and last edge.
        chosen: (m,) bool.
        ground: `Ground` with every vertex within reach; the same afterwards.
        limits: `Limits`.
        out: (most, 2) int32, or float64 where corners are rounded; filled.

    Returns:
        Where each arc's vertices start in `out`, (m + 1,).
    """
    arcs = len(start) - 1
    longest = 1
    for arc in range(arcs):
        longest = max(longest, start[arc + 1] - start[arc])
    before, after = np.empty(longest, np.int32), np.empty(longest, np.int32)
    keys, bound = np.empty(longest, np.float64), np.empty(longest, np.float64)
    rank, queued = np.empty(longest, np.int64), np.empty(longest, np.int64)
    stack = np.empty((longest + 2, 2), np.int64)
    queues = (
        np.empty((3 * longest, 2), np.int32),  # vertex, and the place after it
        np.full(_LEVELS, -1, np.int32),  # first place of each level; none
        np.empty(_LEVELS, np.int32),  # last place
    )
    places = np.zeros(arcs + 1, np.int64)
    n = 0
    for arc in range(arcs):
        line = xy[start[arc] : start[arc + 1]]
        count = len(line)
        if not chosen[arc] or count == 2:
            for i in range(count):
                out[n, 0] = line[i, 0]
                out[n, 1] = line[i, 1]
                n += 1
            places[arc + 1] = n
            continue
        if limits[1] > 0:
            _thin(
                line, headings[arc, 0], ground, limits,
                before, after, keys, rank, bound, queued, stack, queues,
            )  # fmt: skip
        else:
            for i in range(count):
                before[i], after[i] = i - 1, i + 1
        i = 0
        while i < count:
            if limits[4] > 0 and 0 < i < count - 1:
                n = _round(line, before[i], i, after[i], ground, limits, out, n)
            else:
                out[n, 0] = line[i, 0]
                out[n, 1] = line[i, 1]
                n += 1
            i = after[i]
        if limits[1] > 0:
            for i in range(1, count - 1):
                if before[i] == -2:
                    _toggle(ground, line[i, 1], line[i, 0])
        places[arc + 1] = n
    return places


def reach(limits: Limits) -> int:
    """Return how far from an arc, in pixels, vertices matter to it."""
    metres = max(2 * limits.distance, limits.distance + limits.radius)
    return int(np.ceil(metres / min(limits.height, limits.width))) + 1


__all__ = ["NODE", "Ground", "Limits", "reach", "simplify_arcs", "whole"]
