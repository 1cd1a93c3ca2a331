"""The compiled loops of `sieve`: areas, borders, and which region joins which."""

# ruff: noqa: ANN401, C901, PLR0912
# numba infers the types of compiled loops, and is fast at a loop in one piece.

from __future__ import annotations

import heapq
from typing import Any

import numpy as np

from geoseg.core.union_find import root
from geoseg.vector.arcs import compiled


@compiled
def face_areas(
    labels: Any, number: Any, faces: int, pixel: Any, y: int, x: int, half: float
) -> Any:
    """Return the area of each face in the block, (faces + 1,) in units."""
    total = np.zeros(faces + 1, np.int64)
    height, width = labels.shape[0] - 2, labels.shape[1] - 2
    for i in range(height):
        for j in range(width):
            face = number[labels[i + 1, j + 1]]
            u = (x + j + 0.5 - half) / half
            value = 0.0
            for k in range(pixel.shape[1] - 1, -1, -1):
                value = value * u + pixel[y + i, k]
            total[face] += np.int64(np.rint(value))
    return total


@compiled
def borders(labels: Any, number: Any, small: Any, east: Any, south: Any, y: int) -> Any:
    """Return (face, face, length) for each run of owned edges beside a small face."""
    height, width = labels.shape[0] - 2, labels.shape[1] - 2
    found = [(np.int64(0), np.int64(0), np.int64(0))]
    for i in range(height):
        for j in range(width):
            here = number[labels[i + 1, j + 1]]
            if here == 0:
                continue
            for k in range(2):
                other = number[labels[i + k, j + 1 - k]]
                if other == 0 or other == here or not (small[here] or small[other]):  # noqa: PLR1714
                    continue
                length = east[y + i] if k == 0 else south[y + i]
                a, b = min(here, other), max(here, other)
                found.append((np.int64(a), np.int64(b), length))
    out = np.empty((len(found) - 1, 3), np.int64)
    for n in range(1, len(found)):
        out[n - 1, 0], out[n - 1, 1], out[n - 1, 2] = found[n]
    return out


@compiled
def _borders_of(edges: Any, n: int) -> Any:
    """Return the borders of each region as chains: first, last, and the next of each.

    Place 2 e + i in a chain stands for border e of the region `edges[e, i]`.
    """
    head, tail = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    follow = np.full(2 * len(edges), -1, np.int64)
    for e in range(2 * len(edges)):
        node = edges[e >> 1, e & 1]
        if head[node] < 0:
            head[node] = e
        else:
            follow[tail[node]] = e
        tail[node] = e
    return head, tail, follow


@compiled
def _neighbours(
    node: int, edges: Any, parent: Any, head: Any, follow: Any, shared: Any
) -> Any:
    """Return the regions around one; `shared` gets the border that it has with each."""
    near = [np.int64(0)]
    near.pop()  # a list of numba's has a type
    e = head[node]
    while e >= 0:
        other = root(parent, edges[e >> 1, 1 - (e & 1)])
        if other != node:
            if shared[other] == 0:
                near.append(other)
            shared[other] += edges[e >> 1, 2]
        e = follow[e]
    return near


@compiled
def _joined(
    node: int, near: Any, value: Any, shared: Any, size: Any, first: Any
) -> Any:
    """Return the neighbour that a region joins, -1 where it has none.

    One of its own class; of those the one with the longest border, then the largest,
    then the first.
    """
    best = np.int64(-1)
    most = (np.int64(-1), np.int64(0), np.int64(0), np.int64(0))
    for other in near:
        same = np.int64(value[other] == value[node])
        rank = (same, shared[other], size[other], -first[other])
        if rank > most:
            best, most = other, rank
    return best


@compiled
def merge_small(
    area: Any, first: Any, value: Any, small: Any, edges: Any, least: int
) -> Any:
    """Let small regions join neighbours by the rule; return each one's final value.

    Args:
        area: (n,) int64.
        first: (n,) int64 position of the first pixel, all different.
        value: (n,) class.
        small: (n,) bool.
        edges: (m, 3) region, region, length of the border; at least one is small.
        least: Areas from here on are not small.
    """
    n = len(area)
    parent = np.arange(n)
    head, tail, follow = _borders_of(edges, n)
    size, is_small = area.copy(), small.copy()
    shared = np.zeros(n, np.int64)
    heap = [(np.int64(0), np.int64(-1), np.int64(-1))]
    heap.pop()
    for region in range(n):
        if small[region]:
            heapq.heappush(heap, (area[region], first[region], np.int64(region)))
    while heap:  # the smallest first
        now, _, node = heapq.heappop(heap)
        if parent[node] != node or size[node] != now or not is_small[node]:
            continue  # it has joined another or grown since
        near = _neighbours(node, edges, parent, head, follow, shared)
        best = _joined(node, near, value, shared, size, first)
        for other in near:
            shared[other] = 0
        if best < 0:
            continue
        parent[node] = best
        if head[best] < 0:
            head[best] = head[node]
        elif head[node] >= 0:
            follow[tail[best]] = head[node]
        if head[node] >= 0:
            tail[best] = tail[node]
        if is_small[best]:
            size[best] += size[node]
            if size[best] >= least:
                is_small[best] = False
            else:
                heapq.heappush(heap, (size[best], first[best], best))
    out = np.empty(n, np.int64)
    for region in range(n):
        out[region] = value[root(parent, region)]
    return out


@compiled
def face_runs(labels: Any, number: Any, chosen: Any) -> Any:
    """Return (row, first column, column after, face) of the chosen faces' runs."""
    height, width = labels.shape[0] - 2, labels.shape[1] - 2
    found = [(0, 0, 0, 0)]
    for i in range(height):
        j = 0
        while j < width:
            face = number[labels[i + 1, j + 1]]
            k = j + 1
            while k < width and number[labels[i + 1, k + 1]] == face:
                k += 1
            if chosen[face]:
                found.append((i, j, k, face))
            j = k
    out = np.empty((len(found) - 1, 4), np.int64)
    for n in range(1, len(found)):
        out[n - 1, 0], out[n - 1, 1], out[n - 1, 2], out[n - 1, 3] = found[n]
    return out
