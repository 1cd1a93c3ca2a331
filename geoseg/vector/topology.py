"""A block of labels becomes nodes, arcs and faces; what crosses blocks stays open.

`trace_block` is a pure function of a block's pixels, with a few around them. It returns
the features that end inside the block, ready to be written, and an `Open` rest: faces
that go on in a neighbour, the arcs they need, arcs cut at the border. `seams.py` joins
these. TOPOLOGY.md is the one page to read first.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.grid import Window
from geoseg.core.union_find import join_pairs
from geoseg.maps.reader import ClassReader
from geoseg.vector import arcs as _arcs
from geoseg.vector.arcs import NODE, Faces
from geoseg.vector.rings import Arcs, Polygons, assemble
from geoseg.vector.scratch import borrowed
from geoseg.vector.simplify import Limits, reach, simplify_arcs, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from geoseg.core.geodesy import Measure
    from geoseg.core.grid import Grid

TILE = 5
"""Vertices near cut arcs travel in tiles of 2^5 corners a side."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drawing:
    """How polygons are drawn: everything that is the same for all blocks."""

    grid: Grid
    """Where the raster is."""
    measure: Measure
    """From pixels to true metres."""
    values: tuple[int, ...] | None
    """Values that become polygons; None: all but 0, as of instances."""
    limits: Limits
    """How far to simplify and round."""
    eight: bool = False
    """Whether pixels that touch at a corner are one region."""
    srs: int = 0
    """Spatial reference in the GeoPackage headers."""

    @property
    def apron(self) -> int:
        """Pixels around a block that its lines depend on."""
        return max(1, reach(self.limits)) if self.is_changed else 1

    @property
    def is_changed(self) -> bool:
        """Whether lines are anything but pixel edges."""
        return self.limits.distance > 0 or self.limits.radius > 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attributes:
    """What is known of faces or features, each an array of the same length."""

    value: NDArray[np.int64]
    """Class value."""
    pixels: NDArray[np.int64]
    """Pixels in the mask."""
    scores: NDArray[np.int64]
    """Sum of confidence bytes."""
    scored: NDArray[np.int64]
    """Pixels with a confidence."""

    def take(self, chosen: NDArray[np.intp]) -> Attributes:
        """Return some of them."""
        return self._each(lambda column: column[chosen])

    def merged(self, group: NDArray[np.int64], count: int) -> Attributes:
        """Return one row per group, 0 … count - 1; every group has a face."""
        value = np.zeros(count, np.int64)
        value[group] = self.value
        return replace(
            self._each(lambda column: _sums(group, column, count)), value=value
        )

    def _each(
        self, change: Callable[[NDArray[np.int64]], NDArray[np.int64]]
    ) -> Attributes:
        return Attributes(
            **{f.name: change(getattr(self, f.name)) for f in fields(self)}
        )

    @staticmethod
    def joined(some: Sequence[Attributes]) -> Attributes:
        """Return all of several, in order."""
        return Attributes(
            **{
                f.name: np.concatenate([getattr(each, f.name) for each in some])
                for f in fields(Attributes)
            }
        )


def _sums(
    group: NDArray[np.int64], values: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    total = np.zeros(count, np.int64)
    np.add.at(total, group, values)
    return total


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Features:
    """Finished regions."""

    polygons: Polygons
    """Their bytes and sizes."""
    facts: Attributes
    """Their class and pixels."""

    def __len__(self) -> int:
        return len(self.facts.value)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sides:
    """Which open face each pixel along a block's sides is of; -1 for none."""

    window: Window
    """The block."""
    above: NDArray[np.int32]
    """In the row above, from the column before the block on."""
    before: NDArray[np.int32]
    """In the column before it."""
    bottom: NDArray[np.int32]
    """In its last row."""
    after: NDArray[np.int32]
    """In its last column."""

    @staticmethod
    def of(window: Window, faces: Faces, place: NDArray[np.int32]) -> Sides:
        """Return the sides of a block; `place` is the open face by number of a face."""
        at = faces.labels[:-1, :-1]
        above, before, bottom, after = (
            place[faces.number[line]]
            for line in (at[0], at[1:, 0], at[-1, 1:], at[1:, -1])
        )
        return Sides(
            window=window, above=above, before=before, bottom=bottom, after=after
        )


def side_pairs(
    row: Sequence[Sides], base: Sequence[int], frontier: NDArray[np.int64]
) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """Return the faces that are one across the sides of a row of blocks.

    Args:
        row: A row of blocks, from left to right.
        base: What to add to the faces of each, so that no two have the same number.
        frontier: (width,) face of each pixel in the row above; -1 for none.

    Returns:
        Pairs of faces (n, 2), and the frontier for the next row.
    """
    pairs = [np.empty((0, 2), np.int64)]
    numbered = list(zip(row, base, strict=True))
    for sides, offset in numbered:
        x, right = sides.window.x, sides.window.right
        if sides.window.y:
            above = sides.above if x else sides.above[1:]
            known = frontier[max(0, x - 1) : right]
            pairs.append(_distinct(known, above + offset, above >= 0))
    for (one, a), (other, b) in pairwise(numbered):
        pairs.append(_distinct(one.after + a, other.before + b, one.after >= 0))
    bottoms = [np.where(s.bottom >= 0, s.bottom + o, -1) for s, o in numbered]
    return pairs, np.concatenate(bottoms).astype(np.int64)


def _distinct(
    one: NDArray[Any], other: NDArray[Any], chosen: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the pairs, each once where it repeats along a border."""
    pairs = np.stack([one[chosen], other[chosen]], axis=1).astype(np.int64)
    if len(pairs) < 2:
        return pairs
    changes = np.append(True, (pairs[1:] != pairs[:-1]).any(axis=1))
    return np.asarray(pairs[changes])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Open:
    """What a block leaves for its neighbours; faces are 0 … n - 1, -1 for none."""

    window: Window
    """The block."""
    facts: Attributes
    """Open faces."""
    touching: NDArray[np.int64]
    """Pairs of open faces that are one region by a corner, (n, 2)."""
    arcs: Arcs
    """Arcs that bound open faces, simplified where whole; x, y on the raster."""
    cut: NDArray[np.uint8]
    """Which ends of each arc are cut: `CUT_START`, `CUT_END`."""
    tiles: NDArray[np.int64]
    """Row and column of tiles of corners near cut arcs, (n, 2)."""
    corners: NDArray[np.uint8]
    """Their corners, (n, side, side): bytes of `corner_bytes`, 0 where no vertex is."""
    sides: Sides
    """Which open faces lie along its sides."""


def read_pixels(
    masks: ClassReader, window: Window, apron: int
) -> NDArray[np.uint16 | np.int32]:
    """Read a block and `apron` pixels around; what is outside has a value of its own.

    Returns:
        (height + 2 apron, width + 2 apron): uint16 with 256 outside for uint8 masks,
        int32 with 65536 outside for uint16 masks. Borrowed, see `scratch`.
    """
    around = window.pad(apron)
    inside = around.intersection(masks.grid.window)
    assert inside is not None, "blocks lie in the raster"
    read = masks.read("classes", inside)
    small = read.dtype == np.uint8
    shape = around.height, around.width
    pixels = borrowed("pixels", shape, np.uint16 if small else np.int32)
    if inside != around:
        pixels[:] = 256 if small else 65536
    pixels[inside.relative_to(around).slices] = read
    return pixels


def read_ids(
    masks: ClassReader, window: Window, apron: int
) -> tuple[NDArray[np.int32], NDArray[np.bool_], int]:
    """Read ids in and around a block, counted from the lowest that is there.

    Ids grow from row to row, so that few lie between the lowest and the highest.

    Returns:
        (height + 2 apron, width + 2 apron) int32, 0 for none; which numbers are ids;
        and what to add to one of them to have the id.
    """
    around = window.pad(apron)
    inside = around.intersection(masks.grid.window)
    assert inside is not None, "blocks lie in the raster"
    read = masks.read("classes", inside).astype(np.uint32, copy=False)
    there = read > 0
    offset = int(read.min(where=there, initial=2**32 - 1)) - 1 if there.any() else 0
    ids = np.where(there, read - np.uint32(offset), 0).astype(np.int32)
    outside = int(ids.max(initial=0)) + 1
    pixels = np.full((around.height, around.width), outside, np.int32)
    pixels[inside.relative_to(around).slices] = ids
    written = np.ones(outside + 1, np.bool_)
    written[[0, outside]] = False
    return pixels, written, offset


def _pixels(
    masks: ClassReader, window: Window, drawing: Drawing
) -> tuple[NDArray[np.uint16 | np.int32], NDArray[np.bool_], int]:
    """Return a block's pixels, which of them are drawn, and their offset."""
    if drawing.values is None:
        return read_ids(masks, window, drawing.apron)
    written = np.zeros(65537, np.bool_)
    written[list(drawing.values)] = True
    return read_pixels(masks, window, drawing.apron), written, 0


def trace_block(
    masks: ClassReader, window: Window, drawing: Drawing
) -> tuple[Features | None, Open]:
    """Trace, simplify and assemble what can be known of one block.

    Args:
        masks: Where pixels come from.
        window: The block, inside the grid.
        drawing: What is the same for all blocks.

    Returns:
        The features that end inside the block, in reading order (None where there are
        none), and the open rest.
    """
    apron = drawing.apron
    pixels, written, offset = _pixels(masks, window, drawing)
    near = pixels[apron - 1 : -apron, apron - 1 : -apron]
    grid = drawing.grid
    corners = _arcs.corner_bytes(pixels)
    _mark_raster_corners(corners, window, grid, apron)
    last_row, last_column = window.bottom == grid.height, window.right == grid.width
    edges = _arcs.list_edges(corners, apron - 1, apron - 1, near.shape)
    faces = _arcs.label_faces(near, edges, written, _confidence(masks, window))
    own, nodes, loops, *most = _arcs.own_edges(
        edges, faces.labels, last_row, last_column
    )
    xy, start, left, right, headings, cut = _arcs.trace(
        own, nodes, loops, faces.labels, faces.number, *most
    )
    xy += np.array([window.x, window.y], np.int32)
    raw = Arcs(xy, start, left - 1, right - 1, headings)
    facts = Attributes(
        value=near[np.divmod(faces.first[1:], near.shape[1])].astype(np.int64) + offset,
        pixels=faces.pixels[1:], scores=faces.scores[1:], scored=faces.scored[1:],
    )  # fmt: skip
    pairs = (
        corner_pairs(edges, faces, facts.value)
        if drawing.eight
        else np.empty((0, 2), np.int64)
    )
    group, is_open = _open_regions(open_faces(faces, window, grid)[1:], pairs)
    lines = _drawn(raw, cut == 0, corners, window, drawing)
    return (
        finished(lines, facts, group, is_open, drawing),
        _rest(window, faces, facts, is_open, pairs, raw, lines, cut, corners, drawing),
    )


def _confidence(masks: ClassReader, window: Window) -> NDArray[np.uint8]:
    if "confidence" not in masks.arrays:
        return np.empty((0, 0), np.uint8)
    return np.ascontiguousarray(masks.read("confidence", window), np.uint8)


def _mark_raster_corners(
    corners: NDArray[np.uint8], window: Window, grid: Grid, apron: int
) -> None:
    """Make the raster's four corners nodes, so that its outer edge stays."""
    for y in (0, grid.height):
        for x in (0, grid.width):
            row, column = y - window.y + apron - 1, x - window.x + apron - 1
            if 0 <= row < corners.shape[0] and 0 <= column < corners.shape[1]:
                corners[row, column] |= NODE


def corner_pairs(
    edges: tuple[NDArray[Any], ...], faces: Faces, value: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return pairs of faces (0 …) of one class that touch at a corner of the block."""
    line, x, leaving = edges
    y = np.repeat(np.arange(len(line) - 1), np.diff(line))
    inside = (y < len(line) - 2) & (x < faces.labels.shape[1] - 2)
    crossing = inside & (leaving & 15 == 15)
    y, x = y[crossing], x[crossing]
    at = faces.number[faces.labels] - 1
    nw, ne, sw, se = at[y, x], at[y, x + 1], at[y + 1, x], at[y + 1, x + 1]
    pairs = np.concatenate([np.stack([nw, se], 1), np.stack([ne, sw], 1)])
    pairs = pairs[(pairs >= 0).all(axis=1)].astype(np.int64)
    same = value[pairs[:, 0]] == value[pairs[:, 1]]
    return np.asarray(pairs[same])


def open_faces(faces: Faces, window: Window, grid: Grid) -> NDArray[np.bool_]:
    """Return which faces, by number, go on elsewhere or may; 0, no face, does not.

    A face is open where it has an edge that the block does not own: it lies above or
    before the block, or in the last row or column of a block that is not the raster's
    last.
    """
    touched = np.zeros(len(faces.first), np.bool_)
    at = faces.labels[:-1, :-1]
    borders = [at[0], at[:, 0]]
    if window.bottom < grid.height:
        borders.append(at[-1])
    if window.right < grid.width:
        borders.append(at[:, -1])
    for border in borders:
        touched[faces.number[border]] = True
    touched[0] = False
    return touched


def _open_regions(
    is_open: NDArray[np.bool_], pairs: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the region of each face, and whether that goes on elsewhere."""
    count = len(is_open)
    group = join_pairs(count, pairs)
    open_groups = np.zeros(count, np.bool_)
    open_groups[group[is_open]] = True
    return group, open_groups[group]


def _drawn(
    raw: Arcs,
    chosen: NDArray[np.bool_],
    corners: NDArray[np.uint8],
    window: Window,
    drawing: Drawing,
) -> Arcs:
    """Return the arcs with the chosen ones simplified and rounded."""
    if not drawing.is_changed:
        return raw
    apron = drawing.apron
    ground = whole(corners, window.y - apron + 1, window.x - apron + 1)
    return draw(raw, chosen, ground, drawing.limits)


def draw(raw: Arcs, chosen: NDArray[np.bool_], ground: object, limits: Limits) -> Arcs:
    """Return the arcs with the chosen ones simplified and rounded."""
    smooth = limits.radius > 0
    out = np.empty((6 * len(raw.xy), 2)) if smooth else np.empty_like(raw.xy)
    start = simplify_arcs(
        raw.xy, raw.start, raw.headings, chosen, ground, tuple(limits), out
    )
    return raw._replace(xy=out[: start[-1]].copy(), start=start)


def finished(
    lines: Arcs,
    facts: Attributes,
    group: NDArray[np.int64],
    is_open: NDArray[np.bool_],
    drawing: Drawing,
) -> Features | None:
    """Assemble the faces whose region is complete; None where there are none."""
    done = np.flatnonzero(~is_open & (facts.pixels > 0))
    if not len(done):
        return None
    roots, feature = np.unique(group[done], return_inverse=True)
    feature = feature.astype(np.int64)
    of_face = np.full(len(facts.pixels), -1, np.int64)
    of_face[done] = feature
    needed = _bounding(lines, of_face >= 0)
    polygons = assemble(
        lines.take(np.flatnonzero(needed)), of_face, transform=drawing.grid.transform,
        measure=drawing.measure, srs=drawing.srs, multi=drawing.eight,
    )  # fmt: skip
    merged = facts.take(done).merged(feature, len(roots))
    return Features(polygons=polygons, facts=merged)


def _bounding(lines: Arcs, faces: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which arcs bound one of some faces."""
    padded = np.append(faces, False)
    return np.asarray(padded[lines.left] | padded[lines.right])


def _rest(
    window: Window,
    faces: Faces,
    facts: Attributes,
    open_faces: NDArray[np.bool_],
    pairs: NDArray[np.int64],
    raw: Arcs,
    lines: Arcs,
    cut: NDArray[np.uint8],
    corners: NDArray[np.uint8],
    drawing: Drawing,
) -> Open:
    """Pack the open faces, their arcs, and what cut arcs need to be simplified."""
    chosen = np.flatnonzero(open_faces)
    place = np.full(len(open_faces) + 1, -1, np.int32)
    place[chosen] = np.arange(len(chosen))
    needed = np.flatnonzero(_bounding(lines, open_faces) | (cut > 0))
    arcs = lines.take(needed)
    is_cut = np.flatnonzero(cut)
    tiles, bytes_ = _near(raw.take(is_cut), corners, window, drawing)
    touching = place[pairs]
    return Open(
        window=window,
        facts=facts.take(chosen),
        touching=touching[(touching >= 0).all(axis=1)].astype(np.int64),
        arcs=arcs._replace(
            left=place[arcs.left].astype(np.int64),
            right=place[arcs.right].astype(np.int64),
        ),
        cut=cut[needed],
        tiles=tiles,
        corners=bytes_,
        sides=Sides.of(window, faces, np.roll(place, 1)),  # by number: 0 is no face
    )


def _near(
    cut: Arcs, corners: NDArray[np.uint8], window: Window, drawing: Drawing
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the tiles of corners that cut arcs come near, vertices only.

    Tiles are counted from the raster's first corner minus the apron, so those of
    neighbouring blocks lie on each other.
    """
    side = 1 << TILE
    if not drawing.is_changed or len(cut.start) == 1:
        return np.empty((0, 2), np.int64), np.empty((0, side, side), np.uint8)
    apron = drawing.apron
    y, x = window.y - apron + 1, window.x - apron + 1
    first_y, first_x = (y + apron) >> TILE, (x + apron) >> TILE
    rows = ((y + apron + corners.shape[0] - 1) >> TILE) - first_y + 1
    columns = ((x + apron + corners.shape[1] - 1) >> TILE) - first_x + 1
    marked = _arcs.mark_tiles(
        cut.xy, cut.start, rows, columns, first_y, first_x, apron, TILE
    )
    tiles = np.argwhere(marked) + np.array([first_y, first_x])
    return tiles, _arcs.vertex_tiles(corners, y + apron, x + apron, tiles, side)
