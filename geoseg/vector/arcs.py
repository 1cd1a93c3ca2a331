"""From pixels to lines: faces, corners and the arcs between nodes, in compiled loops.

Everything happens on the lattice of pixel corners: corner (y, x) is the upper-left
corner of pixel (y, x). A unit edge is a boundary where the pixels on its two sides
differ. Each edge is owned by the block that holds the pixel to its lower right (the
raster's last row and column of corners belong to the last blocks), so that every edge
of the raster is traced exactly once. TOPOLOGY.md has the drawing.

Directions are 0 east, 1 south, 2 west, 3 north: clockwise as seen on a map with y down.
A corner is one byte: bits 0 to 3 say which edges leave it, then `NODE` and `TURN`.
"""

# ruff: noqa: ANN401, C901, PLR0912, PLR0915
# numba infers the types of compiled loops, and is fast at a loop in one piece.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import njit

from geoseg.core.union_find import join, root
from geoseg.vector.scratch import borrowed

if TYPE_CHECKING:
    from numpy.typing import NDArray

NODE = 16
"""Three or more regions meet here, or four edges, or it is the raster's corner."""
TURN = 32
"""A line passes here and changes its direction."""
VERTEX = NODE | TURN

NORTH = 8
"""The edge that leaves a corner north."""

CUT_START = 1
CUT_END = 2

compiled = njit(cache=True, nogil=True)
"""Compiled once, kept on disk, and free of the interpreter's lock while it runs."""


class Faces(NamedTuple):
    """The 4-connected regions of a block, numbered 1 … n in reading order."""

    labels: NDArray[np.int32]
    """Provisional label of every pixel, with one row and column of 0 after the last."""
    number: NDArray[np.int32]
    """Face by provisional label; `number[0] == 0`, no face."""
    first: NDArray[np.int64]
    """Position of the first pixel in reading order, by face."""
    pixels: NDArray[np.int64]
    """Pixels that the block owns, by face."""
    scores: NDArray[np.int64]
    """Sum of confidence bytes over `scored` pixels, by face."""
    scored: NDArray[np.int64]
    """Pixels with a confidence, by face."""


@compiled
def _grown(values: Any) -> Any:
    """Return the same with room for as many again."""
    more = np.zeros(2 * len(values), values.dtype)
    more[: len(values)] = values
    return more


def label_faces(pixels: Any, edges: Any, written: Any, confidence: Any) -> Faces:
    """Number the 4-connected regions of equal pixels (union-find over runs, one scan).

    Args:
        pixels: (y, x) integers; the first row and column belong to the neighbours.
        edges: From `list_edges`, of as many corners; the edge that leaves corner (y, x)
            north has pixel (y, x) on its left.
        written: (highest pixel + 1,) bool; pixels that are not become label 0.
        confidence: (y - 1, x - 1) uint8 with 255 for none, or (0, 0) where not stored.

    Returns:
        The faces; their labels are borrowed (see `geoseg.vector.scratch`).
    """
    height, width = pixels.shape
    labels = borrowed("labels", (height + 1, width + 1), np.int32)
    return Faces(labels, *_label(pixels, edges, written, confidence, labels))


@compiled
def _label(pixels: Any, edges: Any, written: Any, confidence: Any, labels: Any) -> Any:
    """Fill the labels; return the other fields of `Faces`."""
    height, width = pixels.shape
    line, column, leaving = edges
    labels[height] = 0
    labels[:, width] = 0
    parent = np.empty(1024, np.int32)
    first = np.empty(1024, np.int64)
    count = np.zeros(1024, np.int64)
    row = np.empty((2, width, 3), np.int64)  # runs above and here: value, end, label
    above = 0
    top = 0
    for y in range(height):
        old, new = row[y & 1], row[1 - (y & 1)]
        k, n, x, e = 0, 0, 0, line[y]
        while x < width:
            value = pixels[y, x]
            while e < line[y + 1] and not leaving[e] & NORTH:
                e += 1
            end = min(column[e] + 1, width) if e < line[y + 1] else width
            e += 1
            label = 0
            if written[value]:
                while k < above and old[k, 1] <= x:
                    k += 1
                j, begin = k, x
                while j < above and begin < end:
                    if old[j, 0] == value:
                        if label == 0:
                            label = old[j, 2]
                        elif label != old[j, 2]:
                            label = join(parent, label, old[j, 2])
                    begin = old[j, 1]
                    j += 1
                if label == 0:
                    top += 1
                    label = top
                    if top == len(parent):
                        parent, first = _grown(parent), _grown(first)
                        count = _grown(count)
                    parent[top] = top
                    first[top] = y * width + x
                if y > 0:
                    count[label] += end - max(x, 1)
            labels[y, x:end] = label
            new[n, 0], new[n, 1], new[n, 2] = value, end, label
            n += 1
            x = end
        above = n
    scores = np.zeros(top + 1, np.int64)
    scored = np.zeros(top + 1, np.int64)
    for y in range(confidence.shape[0]):
        for x in range(confidence.shape[1]):
            if confidence[y, x] != 255:
                scores[labels[y + 1, x + 1]] += confidence[y, x]
                scored[labels[y + 1, x + 1]] += 1
    number = np.zeros(top + 1, np.int32)
    faces = 0
    for label in range(1, top + 1):
        stands = root(parent, label)
        if stands == label:
            faces += 1
            number[label] = faces
            first[faces] = first[label]
            mine = count[label]
            count[faces] = mine
            kept, kept_n = scores[label], scored[label]
            scores[faces] = kept
            scored[faces] = kept_n
        else:
            face = number[stands]
            number[label] = face
            count[face] += count[label]
            scores[face] += scores[label]
            scored[face] += scored[label]
    faces += 1
    return (
        number,
        first[:faces].copy(),
        count[:faces].copy(),
        scores[:faces].copy(),
        scored[:faces].copy(),
    )


def corner_bytes(pixels: Any) -> NDArray[np.uint8]:
    """Say for every inner corner which edges leave it, and whether it is a vertex.

    Args:
        pixels: (y, x) integers.

    Returns:
        (y - 1, x - 1) uint8, and zeros to a width that is a multiple of 8; corner
        (0, 0) is between the first four pixels. Borrowed (see `geoseg.vector.scratch`).
    """
    height, width = pixels.shape
    corners = borrowed("corners", (height - 1, -(-(width - 1) // 8) * 8), np.uint8)
    _fill_corners(pixels, corners)
    return corners


@compiled
def _fill_corners(pixels: Any, corners: Any) -> None:
    height, width = pixels.shape
    corners[:, width - 1 :] = 0
    for y in range(height - 1):
        for x in range(width - 1):
            nw, ne = pixels[y, x], pixels[y, x + 1]
            sw, se = pixels[y + 1, x], pixels[y + 1, x + 1]
            east, south = np.uint8(ne != se), np.uint8(sw != se)
            west, north = np.uint8(nw != sw), np.uint8(nw != ne)
            degree = east + south + west + north
            node = np.uint8(degree > 2)
            turn = np.uint8(degree == 2) & np.uint8(north != south)
            corners[y, x] = (
                east | south << 1 | west << 2 | north << 3 | node << 4 | turn << 5
            )


def list_edges(
    corners: NDArray[np.uint8], y: int, x: int, shape: tuple[int, int]
) -> Any:
    """List the corners that edges leave, in reading order.

    Args:
        corners: From `corner_bytes`.
        y: First row to look at; what is listed is counted from here.
        x: First column.
        shape: How many rows and columns.

    Returns:
        Where the corners of each row start (rows + 1,); columns; edges that leave.
    """
    return _listed(corners, corners.view(np.uint64), y, x, *shape)


@compiled
def _listed(corners: Any, eights: Any, y: int, x: int, rows: int, columns: int) -> Any:
    line = np.zeros(rows + 1, np.int64)
    column, leaving = np.empty(1024, np.int32), np.empty(1024, np.uint8)
    n = 0
    for i in range(rows):
        line8 = eights[y + i]
        for group in range(x >> 3, (x + columns + 7) >> 3):
            if not line8[group]:
                continue
            if n + 8 > len(column):
                column, leaving = _grown(column), _grown(leaving)
            j = 8 * group - x
            for k in range(8):
                byte = corners[y + i, 8 * group + k]
                column[n], leaving[n] = j + k, byte
                n += byte & 15 > 0 and 0 <= j + k < columns
        line[i + 1] = n
    return line, column[:n].copy(), leaving[:n].copy()


def own_edges(edges: Any, labels: Any, last_row: bool, last_column: bool) -> Any:
    """Keep the edges that a block owns and that bound a face.

    Args:
        edges: From `list_edges`, of the block's (h + 1, w + 1) corners.
        labels: `Faces.labels` of the block with the row above and the column before.
        last_row: Whether the block ends at the raster's last row.
        last_column: Whether it ends at the last column.

    Returns:
        (h + 1, w + 1) bytes without `TURN`; where arcs may begin, in reading order:
        nodes (n, 2), and corners that a closed line may start at (m, 2); the most arcs
        and vertices there can be. The bytes are borrowed (see `geoseg.vector.scratch`).
    """
    own = borrowed("own", (labels.shape[0] - 1, labels.shape[1] - 1), np.uint8)
    return own, *_own(edges, labels, last_row, last_column, own)


@compiled
def _own(edges: Any, labels: Any, last_row: bool, last_column: bool, own: Any) -> Any:
    line, column, leaving = edges
    height, width = labels.shape[0] - 2, labels.shape[1] - 2
    own[:] = 0
    nodes, loops = [(0, 0)], [(0, 0)]
    vertices, ends = 0, 2 * (height + width + 2)
    for y in range(height + 1):
        for e in range(line[y], line[y + 1]):
            x, byte = column[e], leaving[e]
            here = labels[y + 1, x + 1]
            row = y < height or last_row
            after = x < width or last_column
            mine = 0
            if byte & 1 and x < width and row and (here or labels[y, x + 1]):
                mine |= 1
            if byte & 2 and y < height and after and (here or labels[y + 1, x]):
                mine |= 2
            if byte & 4 and x > 0 and row and (labels[y + 1, x] or labels[y, x]):
                mine |= 4
            if byte & 8 and y > 0 and after and (labels[y, x] or labels[y, x + 1]):
                mine |= 8
            if mine:
                own[y, x] = mine | byte & NODE
                vertices += 1
                if byte & NODE:
                    ends += 4
                    nodes.append((y, x))
                elif mine == 3:
                    loops.append((y, x))
    return (
        np.array(nodes)[1:],
        np.array(loops)[1:],
        ends + vertices // 4,
        vertices + 2 * ends + vertices // 4,
    )


@compiled
def _walk(own: Any, y: int, x: int, heading: int, xy: Any, n: int) -> Any:
    """Follow a line to its end, taking its edges away; emit its vertices."""
    xy[n, 0] = x
    xy[n, 1] = y
    n += 1
    while True:
        own[y, x] &= ~(1 << heading) & 255
        if heading == 0:
            x += 1
        elif heading == 1:
            y += 1
        elif heading == 2:
            x -= 1
        else:
            y -= 1
        own[y, x] &= ~(1 << (heading + 2 & 3)) & 255
        byte = own[y, x]
        edges = byte & 15
        if byte & NODE or not edges:
            xy[n, 0] = x
            xy[n, 1] = y
            return y, x, heading, n + 1
        if not edges >> heading & 1:
            xy[n, 0] = x
            xy[n, 1] = y
            n += 1
            heading = 0 if edges & 1 else 1 if edges & 2 else 2 if edges & 4 else 3


@compiled
def _sides(labels: Any, y: int, x: int, heading: int) -> Any:
    """Return the labels left and right of the edge that leaves a corner."""
    nw, ne = labels[y, x], labels[y, x + 1]
    sw, se = labels[y + 1, x], labels[y + 1, x + 1]
    if heading == 0:
        return ne, se
    if heading == 1:
        return se, sw
    if heading == 2:
        return sw, nw
    return nw, ne


@compiled
def _cut_ends(own: Any) -> Any:
    """Return the corners on a block's border where lines are cut, (n, 2)."""
    found = [(0, 0)]
    height, width = own.shape
    for y in range(height):
        step = 1 if y in (0, height - 1) else max(1, width - 1)
        for x in range(0, width, step):
            edges = own[y, x] & 15
            if edges and not edges & (edges - 1) and not own[y, x] & NODE:
                found.append((y, x))
    return np.array(found)[1:]


@compiled
def trace(
    own: Any,
    nodes: Any,
    loops: Any,
    labels: Any,
    number: Any,
    most_arcs: int,
    most_points: int,
) -> Any:
    """Trace every arc of a block: from node to node, cut at its border, or closed.

    Arcs between nodes run from the node that comes first in reading order; closed ones
    start east from their first corner. So whole arcs have one direction, whatever the
    block.

    Args:
        own: From `own_edges`, as the next two; used up.
        nodes: Where nodes are.
        loops: Where closed lines may start.
        labels: `Faces.labels`.
        number: `Faces.number`.
        most_arcs: From `own_edges`.
        most_points: From `own_edges`.

    Returns:
        Vertices (n, 2) int32 as x, y within the block; where each arc's start (m + 1,);
        face on the left and on the right; heading of the first and last edge; ends that
        are cut (`CUT_START`, `CUT_END`).
    """
    xy = np.empty((most_points, 2), np.int32)
    start = np.zeros(most_arcs + 1, np.int64)
    left = np.empty(most_arcs, np.int32)
    right = np.empty(most_arcs, np.int32)
    headings = np.empty((most_arcs, 2), np.uint8)
    cut = np.zeros(most_arcs, np.uint8)
    arcs, n = 0, 0
    for stage in range(3):  # from nodes, from the block's border, then closed ones
        begin = nodes if stage == 0 else _cut_ends(own) if stage == 1 else loops
        for k in range(len(begin)):
            y0, x0 = begin[k, 0], begin[k, 1]
            for heading in range(4):
                if not own[y0, x0] >> heading & 1:
                    continue
                one, other = _sides(labels, y0, x0, heading)
                y, x, last, n = _walk(own, y0, x0, heading, xy, n)
                left[arcs], right[arcs] = number[one], number[other]
                headings[arcs, 0], headings[arcs, 1] = heading, last
                if stage == 1:
                    cut[arcs] |= CUT_START
                if stage < 2 and not own[y, x] & NODE:
                    cut[arcs] |= CUT_END
                arcs += 1
                start[arcs] = n
    return (
        xy[:n].copy(),
        start[: arcs + 1].copy(),
        left[:arcs].copy(),
        right[:arcs].copy(),
        headings[:arcs].copy(),
        cut[:arcs].copy(),
    )


@compiled
def mark_tiles(
    xy: Any,
    start: Any,
    rows: int,
    columns: int,
    first_y: int,
    first_x: int,
    apron: int,
    shift: int,
) -> Any:
    """Mark the tiles of 2^shift corners that are within `apron` of some arcs.

    Tile (0, 0) begins `apron` before corner (0, 0) of the raster.
    """
    marked = np.zeros((rows, columns), np.bool_)
    for arc in range(len(start) - 1):
        for i in range(start[arc], start[arc + 1] - 1):
            x0, x1 = min(xy[i, 0], xy[i + 1, 0]), max(xy[i, 0], xy[i + 1, 0])
            y0, y1 = min(xy[i, 1], xy[i + 1, 1]), max(xy[i, 1], xy[i + 1, 1])
            for ty in range((y0 >> shift), ((y1 + 2 * apron) >> shift) + 1):
                for tx in range((x0 >> shift), ((x1 + 2 * apron) >> shift) + 1):
                    r, c = ty - first_y, tx - first_x
                    if 0 <= r < rows and 0 <= c < columns:
                        marked[r, c] = True
    return marked


@compiled
def vertex_tiles(corners: Any, y: int, x: int, tiles: Any, side: int) -> Any:
    """Copy the vertices in some tiles out of a block's corners.

    Args:
        corners: Bytes of `corner_bytes`.
        y: Row of its first corner, counted from the first tile's row 0.
        x: Likewise its column.
        tiles: (n, 2) row and column of tiles.
        side: Corners along a tile's side.

    Returns:
        (n, side, side) uint8, 0 where there is no vertex.
    """
    out = np.zeros((len(tiles), side, side), np.uint8)
    for n in range(len(tiles)):
        top, left = tiles[n, 0] * side - y, tiles[n, 1] * side - x
        for i in range(max(0, -top), min(side, corners.shape[0] - top)):
            for j in range(max(0, -left), min(side, corners.shape[1] - left)):
                byte = corners[top + i, left + j]
                if byte & VERTEX:
                    out[n, i, j] = byte
    return out
