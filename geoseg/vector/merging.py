"""The compiled loops of `sieve`: areas, borders, and which region joins which."""

# ruff: noqa: ANN401, C901, PLR0912, PLR0915
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
def merge_small(
    area: Any, first: Any, value: Any, small: Any, edges: Any, least: int
) -> Any:
    """Let small regions join neighbours by the rule; return each one's final value.

    Args:
        area: (n,) int64.
        first: (n,) position of the first pixel, all different.
        value: (n,) class.
        small: (n,) bool.
        edges: (m, 3) region, region, length of the border; at least one is small.
        least: Areas from here on are not small.
    """
    n, m = len(area), len(edges)
    parent = np.arange(n)
    head, tail = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    follow = np.full(2 * m, -1, np.int64)
    for e in range(2 * m):  # each border hangs on both its regions
        node = edges[e >> 1, e & 1]
        if head[node] < 0:
            head[node] = e
        else:
            follow[tail[node]] = e
        tail[node] = e
    size, is_small = area.copy(), small.copy()
    shared = np.zeros(n, np.int64)
    heap = [(np.int64(0), np.int64(-1), np.int64(-1))]
    heap.pop()
    for node in range(n):
        if small[node]:
            heapq.heappush(heap, (area[node], first[node], np.int64(node)))
    while heap:
        now, _, node = heapq.heappop(heap)
        if parent[node] != node or size[node] != now or not is_small[node]:
            continue
        near = [np.int64(0)]
        near.pop()
        e = head[node]
        while e >= 0:
            other = root(parent, edges[e >> 1, 1 - (e & 1)])
            if other != node:
                if shared[other] == 0:
                    near.append(other)
                shared[other] += edges[e >> 1, 2]
            e = follow[e]
        best = np.int64(-1)
        for other in near:
            if best < 0:
                best = other
                continue
            own, held = value[other] == value[node], value[best] == value[node]
            if own != held:
                better = own
            elif shared[other] != shared[best]:
                better = shared[other] > shared[best]
            elif size[other] != size[best]:
                better = size[other] > size[best]
            else:
                better = first[other] < first[best]
            if better:
                best = other
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
    for node in range(n):
        out[node] = value[root(parent, node)]
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
