"""From arcs to polygons: rings, holes, true areas and bytes, in compiled loops."""

# ruff: noqa: ANN401
# numba infers the types of compiled loops, and is fast at a loop in one piece.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from geoseg.vector.arcs import compiled

if TYPE_CHECKING:
    from affine import Affine
    from numpy.typing import NDArray

    from geoseg.core.geodesy import Measure


class Arcs(NamedTuple):
    """Lines with a face on each side; faces are numbers, -1 for none of interest."""

    xy: NDArray[Any]
    """Vertices (n, 2) as column, row of the raster; int32, float64 where rounded."""
    start: NDArray[np.int64]
    """Where each arc's vertices start, (m + 1,)."""
    left: NDArray[np.int64]
    """Face to the left on a map with rows going down, (m,)."""
    right: NDArray[np.int64]
    """Face to the right, (m,)."""
    headings: NDArray[np.uint8]
    """Of the first and the last edge before simplifying, (m, 2)."""

    def take(self, chosen: NDArray[np.intp]) -> Arcs:
        """Return some of the arcs."""
        length = np.diff(self.start)[chosen]
        start = np.concatenate([[0], np.cumsum(length)])
        index = np.repeat(self.start[chosen] - start[:-1], length)
        index += np.arange(start[-1])
        return Arcs(
            self.xy[index],
            start,
            self.left[chosen],
            self.right[chosen],
            self.headings[chosen],
        )


class Polygons(NamedTuple):
    """Features as bytes, each with what was measured on the way."""

    blobs: NDArray[np.uint8]
    """All features' bytes: GeoPackage header, then ISO WKB."""
    start: NDArray[np.int64]
    """Where each feature's bytes start, (n + 1,)."""
    box: NDArray[np.float64]
    """minx, miny, maxx, maxy, (n, 4)."""
    area: NDArray[np.float64]
    """True area in m², (n,)."""
    perimeter: NDArray[np.float64]
    """True perimeter in metres, holes included, (n,)."""


HEADER = 40
"""Bytes before the WKB: GeoPackage 1.3, clause 2.1.3."""


def _link(
    start_key: NDArray[np.int64], end_key: NDArray[np.int64], headings: NDArray[Any]
) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Number the nodes, and say which half-arc leaves each of them in which direction.

    Half-arc 2a runs along arc a, 2a + 1 against it.

    Returns:
        Node that each half-arc comes from, and (4 × node + heading) → half-arc or -1.
    """
    origin, nodes = pd.factorize(np.stack([start_key, end_key], axis=1).ravel())
    heading = np.stack([headings[:, 0], headings[:, 1] + 2 & 3], axis=1).ravel()
    leaving = np.full(4 * len(nodes), -1, np.int32)
    leaving[4 * origin + heading] = np.arange(len(origin))
    return origin, leaving


@compiled
def _next(
    half: int, face: int, headings: Any, faces: Any, origin: Any, leaving: Any
) -> int:
    """Return the half-arc that follows around a face, which is on the left.

    Where the face meets itself at a corner, the right turn comes first: that makes two
    rings that touch, an exterior and a hole, instead of one that touches itself.
    """
    heading = headings[half >> 1, 0] + 2 & 3 if half & 1 else headings[half >> 1, 1]
    node = origin[half ^ 1]
    for turn in (1, 0, 3):
        candidate = leaving[4 * node + (heading + turn & 3)]
        if candidate >= 0 and faces[candidate] == face:
            return candidate  # type: ignore[no-any-return]
    return -1


@compiled
def _walk_rings(
    xy: Any, start: Any, faces: Any, wanted: Any, start_key: Any, end_key: Any,
    headings: Any, origin: Any, leaving: Any,
) -> Any:  # fmt: skip
    """Find every ring of the wanted faces.

    Returns:
        By ring: face, half-arc at its first node, position of that half-arc, vertices
        without the repeated first one, whether it is a hole.
    """
    halves = len(faces)
    ring = np.empty((halves, 5), np.int64)
    seen = np.zeros(halves, np.bool_)
    n = 0
    for first in range(halves):
        face = faces[first]
        if face < 0 or seen[first] or not wanted[face]:
            continue
        half, best, low, count, twice = first, first, np.int64(1) << 62, 0, 0.0
        while not seen[half]:
            seen[half] = True
            arc = half >> 1
            key = end_key[arc] if half & 1 else start_key[arc]
            if key < low:
                best, low = half, key
            i, j = start[arc], start[arc + 1]
            count += j - i - 1
            cross = 0.0
            for k in range(i, j - 1):
                cross += (xy[k, 0] - xy[i, 0]) * (xy[k + 1, 1] - xy[k, 1]) - (
                    xy[k, 1] - xy[i, 1]
                ) * (xy[k + 1, 0] - xy[k, 0])
            # the triangle fan is around the arc's first vertex; move it to the origin
            cross += float(xy[i, 0]) * xy[j - 1, 1] - float(xy[i, 1]) * xy[j - 1, 0]
            twice += -cross if half & 1 else cross
            half = _next(half, face, headings, faces, origin, leaving)
            if half < 0:
                raise RuntimeError("an arc is missing: the ring does not close")
        leaves = headings[best >> 1, 1] + 2 & 3 if best & 1 else headings[best >> 1, 0]
        ring[n, 0], ring[n, 1], ring[n, 2], ring[n, 3] = face, best, low << 2, count
        ring[n, 2] |= leaves  # several rings may have the same first node
        ring[n, 4] = twice > 0
        n += 1
    return ring[:n].copy()


@compiled
def _polynomial(table: Any, u: float, v: float) -> float:
    """Evaluate sum of table[i, j] v^i u^j."""
    total = 0.0
    for i in range(table.shape[0] - 1, -1, -1):
        row = 0.0
        for j in range(table.shape[1] - 1, -1, -1):
            row = row * u + table[i, j]
        total = total * v + row
    return total


_NODES = np.polynomial.legendre.leggauss(5)
_POINT = tuple(_NODES[0] / 2)
_WEIGHT = tuple(_NODES[1] / 2)
_POINT_2 = 0.5 / 3**0.5
_SHORT = 0.02  # of half the raster's side


@compiled
def _measure_edge(x: float, y: float, dx: float, dy: float, measure: Any) -> Any:
    """Return the area between an edge and the raster's middle row, and its length.

    Gauss–Legendre quadrature along the edge, with 2 points where it is short against
    the raster, else 5. `measure` is `Measure.tables`.
    """
    integral, east, south, skew, x0, y0, half_x, half_y = measure
    u, v = (x + dx / 2 - x0) / half_x, (y + dy / 2 - y0) / half_y
    du, dv = dx / half_x, dy / half_y
    area = 0.0
    if dx != 0.0:
        if integral.shape[0] == 2 and integral.shape[1] == 1:
            area = dx * (integral[0, 0] + integral[1, 0] * v)
        elif abs(du) + abs(dv) < _SHORT:
            low = _polynomial(integral, u - _POINT_2 * du, v - _POINT_2 * dv)
            high = _polynomial(integral, u + _POINT_2 * du, v + _POINT_2 * dv)
            area = dx * 0.5 * (low + high)
        else:
            for k in range(5):
                t = _POINT[k]
                area += dx * _WEIGHT[k] * _polynomial(integral, u + t * du, v + t * dv)
    points = 1 if abs(du) + abs(dv) < _SHORT else 5
    length = 0.0
    for k in range(points):
        t, weight = (0.0, 1.0) if points == 1 else (_POINT[k], _WEIGHT[k])
        if dy == 0.0:
            length += weight * abs(dx) * _polynomial(east, u + t * du, v + t * dv)
        elif dx == 0.0:
            length += weight * abs(dy) * _polynomial(south, u + t * du, v + t * dv)
        else:
            e = dx * _polynomial(east, u + t * du, v + t * dv)
            s = dy * _polynomial(south, u + t * du, v + t * dv)
            f = dx * dy * _polynomial(skew, u + t * du, v + t * dv)
            length += weight * np.sqrt(e * e + 2 * f + s * s)
    return area, length


@compiled
def _fill_rings(
    xy: Any, start: Any, ring: Any, faces: Any, headings: Any, origin: Any,
    leaving: Any, measure: Any,
    affine: Any, reverse: bool, coordinates: Any, totals: Any,
) -> None:  # fmt: skip
    """Write each ring's coordinates, closed; its area (holes negative) and length."""
    c0, a, b, f0, d, e = affine
    at = 0
    for r in range(len(ring)):
        face, half, count = ring[r, 0], ring[r, 1], ring[r, 3]
        place, step = (at + count, -1) if reverse else (at, 1)
        area, length = 0.0, 0.0
        done = 0
        while done < count:
            arc = half >> 1
            n = start[arc + 1] - start[arc] - 1
            for k in range(n):
                i = start[arc + 1] - 1 - k if half & 1 else start[arc] + k
                j = i - 1 if half & 1 else i + 1
                x, y = float(xy[i, 0]), float(xy[i, 1])
                part, edge = _measure_edge(x, y, xy[j, 0] - x, xy[j, 1] - y, measure)
                area += part
                length += edge
                coordinates[place, 0] = c0 + a * x + b * y
                coordinates[place, 1] = f0 + d * x + e * y
                place += step
            done += n
            half = _next(half, face, headings, faces, origin, leaving)
        first = at + count if reverse else at
        coordinates[place, 0] = coordinates[first, 0]
        coordinates[place, 1] = coordinates[first, 1]
        totals[r, 0], totals[r, 1] = area, length
        at += count + 1


@compiled
def _put_int(blob: Any, at: int, value: int) -> int:
    for k in range(4):
        blob[at + k] = value >> 8 * k & 255
    return at + 4


@compiled
def _fill_blobs(
    ring: Any, group: Any, coordinates: Any, raw: Any, header: Any, multi: bool,
    polygons: Any, start: Any, box: Any, blob: Any,
) -> None:  # fmt: skip
    """Write the features' bytes; rings are sorted by feature, face and kind."""
    r, at, c = 0, 0, 0
    corner = np.empty(4, np.float64)
    for feature in range(len(start) - 1):
        head = at
        for k in range(8):
            blob[at + k] = header[k]
        at += 40
        if multi:
            blob[at] = 1
            at = _put_int(blob, at + 1, 6)
            at = _put_int(blob, at, polygons[feature])
        corner[0], corner[1], corner[2], corner[3] = np.inf, np.inf, -np.inf, -np.inf
        while r < len(ring) and group[ring[r, 0]] == feature:
            face, last = ring[r, 0], r
            while last < len(ring) and ring[last, 0] == face:
                last += 1
            blob[at] = 1
            at = _put_int(blob, at + 1, 3)
            at = _put_int(blob, at, last - r)
            n = ring[r, 3] + 1
            for i in range(c, c + n):  # the exterior bounds its holes
                corner[0] = min(corner[0], coordinates[i, 0])
                corner[1] = min(corner[1], coordinates[i, 1])
                corner[2] = max(corner[2], coordinates[i, 0])
                corner[3] = max(corner[3], coordinates[i, 1])
            while r < last:
                n = ring[r, 3] + 1
                at = _put_int(blob, at, n)
                blob[at : at + 16 * n] = raw[16 * c : 16 * (c + n)]
                at += 16 * n
                c += n
                r += 1
        box[feature] = corner
        envelope = np.array([corner[0], corner[2], corner[1], corner[3]])
        blob[head + 8 : head + 40] = envelope.view(np.uint8)
        start[feature + 1] = at


def positions(points: NDArray[Any]) -> NDArray[np.int64]:
    """Return one number per corner that sorts in reading order."""
    whole = points.astype(np.int64)
    return whole[:, 1] << 32 | whole[:, 0]


def header(srs: int) -> NDArray[np.uint8]:
    """Return the first 8 bytes of a GeoPackage geometry with an xy envelope."""
    head = b"GP\x00\x03" + int(srs).to_bytes(4, "little", signed=True)
    return np.frombuffer(head, np.uint8)


def assemble(
    arcs: Arcs,
    group: NDArray[np.int64],
    *,
    transform: Affine,
    measure: Measure,
    srs: int,
    multi: bool = False,
) -> Polygons:
    """Make polygons of faces whose arcs are all there.

    Each 4-connected face becomes one polygon, valid as OGC Simple Features (06-103r4,
    6.1.11) has it: exterior first, rings closed, simple, touching in points at most;
    exteriors counter-clockwise on the map. Rings start at their first node in reading
    order and holes are sorted by it, so the bytes do not depend on blocks.

    Args:
        arcs: All arcs that bound a face of interest.
        group: Feature by face, 0 … n - 1 ascending without holes; -1 to leave it out.
        transform: Lattice to CRS.
        measure: Lattice to metres.
        srs: Spatial reference in the GeoPackage header.
        multi: Whether features are MultiPolygons of all their faces.

    Returns:
        Features 0 … n - 1.
    """
    start_key, end_key = (
        positions(arcs.xy[arcs.start[:-1]]),
        positions(arcs.xy[arcs.start[1:] - 1]),
    )
    faces = np.stack([arcs.left, arcs.right], axis=1).reshape(-1).astype(np.int64)
    origin, leaving = _link(start_key, end_key, arcs.headings)
    ring = _walk_rings(
        arcs.xy, arcs.start, faces, group >= 0, start_key, end_key, arcs.headings,
        origin, leaving,
    )  # fmt: skip
    position = np.zeros(len(group), np.int64)
    outer = ring[ring[:, 4] == 0]
    position[outer[:, 0]] = outer[:, 2]
    place = position[ring[:, 0]]
    ring = ring[np.lexsort((ring[:, 2], ring[:, 4], place, group[ring[:, 0]]))]
    features = int(group.max(initial=-1)) + 1
    coordinates = np.empty((int(ring[:, 3].sum()) + len(ring), 2))
    totals = np.empty((len(ring), 2))
    t = transform
    _fill_rings(
        arcs.xy, arcs.start, ring, faces, arcs.headings, origin, leaving,
        measure.tables, (t.c, t.a, t.b, t.f, t.d, t.e), bool(t.determinant > 0),
        coordinates, totals,
    )  # fmt: skip
    owner = group[ring[:, 0]]
    exteriors = np.bincount(owner[ring[:, 4] == 0], minlength=features)
    bytes_ = 16 * len(coordinates) + 4 * len(ring) + 9 * int(exteriors.sum())
    bytes_ += features * (HEADER + (9 if multi else 0))
    blob = np.empty(bytes_, np.uint8)
    start, box = np.zeros(features + 1, np.int64), np.empty((features, 4))
    _fill_blobs(
        ring, group, coordinates, coordinates.reshape(-1).view(np.uint8), header(srs),
        multi, exteriors, start, box, blob,
    )  # fmt: skip
    return Polygons(
        blob,
        start,
        box,
        _float_sums(owner, totals[:, 0], features),
        _float_sums(owner, totals[:, 1], features),
    )


def _float_sums(
    group: NDArray[np.int64], values: NDArray[np.float64], count: int
) -> NDArray[np.float64]:
    return np.bincount(group, values, count).astype(np.float64)
