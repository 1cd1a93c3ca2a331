"""Small regions join a neighbour: a mask in, a mask out, the same for any blocks.

The rule. Regions are the connected ones of the mask as it was: by edges, or by corners
too where that is asked. A region is small when its true area is below the minimum.
Small regions are taken smallest first (ties: by first pixel in reading order). Each
joins a neighbour: one of its own class where it has come to touch one, else the one
with which it shares the longest border in metres (ties: the larger, then the one whose
first pixel comes first). Two small regions that join may be large enough then. Nodata
is no neighbour; a region alone in nodata stays.

Why blocks do not matter. A large region only ever receives, and its size decides
nothing but ties, for which its original size is taken. So each cluster of small regions
that touch each other can be merged alone. A cluster inside one block is merged there;
those that reach a border are merged together at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numcodecs import Zstd
from numpy.polynomial import polynomial

from geoseg.core.files import replace
from geoseg.core.grid import Window, squares
from geoseg.core.union_find import join_pairs
from geoseg.maps.reader import ClassReader, DerivedReader
from geoseg.vector.arcs import Faces, corner_bytes, label_faces, list_edges
from geoseg.vector.merging import borders, face_areas, face_runs, merge_small
from geoseg.vector.topology import (
    Sides,
    corner_pairs,
    open_faces,
    read_pixels,
    side_pairs,
)

if TYPE_CHECKING:
    from distributed import Client
    from numpy.typing import NDArray

    from geoseg.core.geodesy import Measure
    from geoseg.core.grid import Grid

_UNITS = 1 << 20  # of the largest pixel or edge: sums are integers, whatever the order
_CODEC = Zstd(level=1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scale:
    """What a pixel and its edges measure, as integers."""

    pixel: NDArray[np.float64]
    """Area in units of a row's pixels: polynomial in u by row, (height, degree + 1)."""
    east: NDArray[np.int64]
    """Length of the edge above each row, and below the last, (height + 1,)."""
    south: NDArray[np.int64]
    """Length of the edges beside each row's pixels, (height,)."""
    half_x: float
    """Half the raster's width."""
    least: int
    """The smallest area that is not small."""

    @staticmethod
    def of(grid: Grid, measure: Measure, min_area: float) -> Scale:
        """Return the scale of a raster."""
        v = (np.arange(grid.height) + 0.5 - measure.half_y) / measure.half_y
        pixel = np.stack([polynomial.polyval(v, c) for c in measure.density.T], axis=1)
        unit = np.abs(pixel).sum(axis=1).max() / _UNITS
        at = (np.arange(grid.height + 1) - measure.half_y) / measure.half_y
        east = polynomial.polyval(at, measure.east[:, 0])
        south = polynomial.polyval(v, measure.south[:, 0])
        longest = max(east.max(), south.max()) / _UNITS
        return Scale(
            pixel=pixel / unit,
            east=np.rint(east / longest).astype(np.int64),
            south=np.rint(south / longest).astype(np.int64),
            half_x=measure.half_x,
            least=int(np.ceil(min_area / unit * (1 - 1e-6))),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SievedRaster(DerivedReader):
    """A class raster whose small regions have joined a neighbour; others pass through.

    Its classes lie in a folder, one file per block.
    """

    folder: str
    """Where the blocks are; every worker must see it."""
    side: int
    """Side of a block."""

    @property
    def chunk(self) -> int:
        """Side of its blocks."""
        return self.side

    def read(self, name: str, window: Window) -> NDArray[Any]:
        """Return the pixels of an array in a window inside the grid."""
        if name != "classes":
            return self.base.read(name, window)
        first = _load(self.folder, self._block_of(window.y, window.x))
        out = np.empty((window.height, window.width), first.dtype)
        for part in squares(window, self.side):
            block = self._block_of(part.y, part.x)
            values = _load(self.folder, block)
            out[part.relative_to(window).slices] = values[
                part.relative_to(block).slices
            ]
        return out

    def _block_of(self, y: int, x: int) -> Window:
        """Return the block that holds a pixel."""
        y, x = y // self.side * self.side, x // self.side * self.side
        return Window(
            y=y,
            x=x,
            height=min(self.side, self.grid.height - y),
            width=min(self.side, self.grid.width - x),
        )


def _file(folder: str, window: Window, kind: str) -> Path:
    return Path(folder) / f"{window.y}.{window.x}.{kind}"


def _save(folder: str, window: Window, values: NDArray[Any]) -> None:
    data = values.dtype.char.encode() + _CODEC.encode(np.ascontiguousarray(values))
    path = _file(folder, window, "new")
    path.write_bytes(data)
    replace(path, _file(folder, window, "block"))


@lru_cache(maxsize=12)
def _load(folder: str, window: Window) -> NDArray[Any]:
    """Return a block; only called when all are final, so keeping some is safe."""
    return _read(folder, window)


def _read(folder: str, window: Window) -> NDArray[Any]:
    data = _file(folder, window, "block").read_bytes()
    values = np.frombuffer(_CODEC.decode(data[1:]), np.dtype(data[:1].decode()))
    return values.reshape(window.height, window.width)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outline:
    """What a block's neighbours must know of its regions."""

    window: Window
    """The block."""
    first: NDArray[np.int64]
    """Raster position of the first known pixel of each open face."""
    area: NDArray[np.int64]
    """Its area in the block."""
    touching: NDArray[np.int64]
    """(n, 2) open faces that are one region by a corner of the block."""
    sides: Sides
    """Which open faces lie along its sides."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Regions:
    """The regions of a block, a row and a column before it included."""

    pixels: NDArray[Any]
    """(y, x) class values."""
    faces: Faces
    """Its faces."""
    value: NDArray[np.int64]
    """Class by number of a face; 0 of none."""
    own_area: NDArray[np.int64]
    """Area of each face in the block, by number."""
    area: NDArray[np.int64]
    """Area in the block of the region that it is part of."""
    first: NDArray[np.int64]
    """Position in the raster of the region's first known pixel; -1 of none."""
    is_open: NDArray[np.bool_]
    """Whether the region goes on, or may, in a neighbour."""
    touching: NDArray[np.int64]
    """(n, 2) numbers of faces that are one region by a corner."""


def _regions(
    masks: ClassReader, window: Window, scale: Scale, *, eight: bool
) -> _Regions:
    around = read_pixels(masks, window, 1)
    pixels = around[:-1, :-1]
    outside = 256 if pixels.dtype == np.uint16 else 65536
    written = np.ones(65537, np.bool_)
    written[outside] = False
    if masks.nodata is not None:
        written[masks.nodata] = False
    edges = list_edges(corner_bytes(around), 0, 0, pixels.shape)
    faces = label_faces(pixels, edges, written, np.empty((0, 0), np.uint8))
    area = face_areas(
        faces.labels, faces.number, len(faces.first) - 1, scale.pixel,
        window.y, window.x, scale.half_x,
    )  # fmt: skip
    y, x = np.divmod(faces.first, window.width + 1)
    first = (window.y - 1 + y) * (masks.grid.width + 1) + window.x - 1 + x
    first[0] = -1
    value = np.zeros(len(area), np.int64)
    value[1:] = pixels[np.divmod(faces.first[1:], pixels.shape[1])]
    touching = np.empty((0, 2), np.int64)
    if eight:
        touching = corner_pairs(edges, faces, value[1:]) + 1
    is_open = open_faces(faces, window, masks.grid)
    group = join_pairs(len(area), touching)
    return _Regions(
        pixels=pixels,
        faces=faces,
        value=value,
        own_area=area,
        area=_of_groups(np.add, group, area, 0),
        first=_of_groups(np.minimum, group, first, 1 << 62),
        is_open=_of_groups(np.maximum, group, is_open.astype(np.int64), 0) > 0,
        touching=touching,
    )


def _of_groups(
    what: np.ufunc, group: NDArray[np.int64], values: NDArray[np.int64], start: int
) -> NDArray[np.int64]:
    """Return for each member what all of its group come to."""
    total = np.full(len(group), start, np.int64)
    what.at(total, group, values)
    return np.asarray(total[group])


def outline(
    masks: ClassReader, window: Window, scale: Scale, *, eight: bool
) -> Outline:
    """Return what a block's neighbours must know of its regions (first pass)."""
    found = _regions(masks, window, scale, eight=eight)
    faces, chosen = found.faces, np.flatnonzero(found.is_open)
    place = np.full(len(faces.first), -1, np.int32)
    place[chosen] = np.arange(len(chosen))
    return Outline(
        window=window,
        first=found.first[chosen],
        area=found.own_area[chosen],
        touching=place[found.touching[found.is_open[found.touching[:, 0]]]].astype(
            np.int64
        ),
        sides=Sides.of(window, faces, place),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenFaces:
    """What a block is told of its open faces, in the order of their numbers."""

    window: Window
    """The block."""
    first: NDArray[np.int64]
    """Position of the region's first pixel in the raster."""
    area: NDArray[np.int64]
    """Its whole area."""


def know(outlines: list[Outline], grid: Grid) -> list[OpenFaces]:
    """Join the open faces of all blocks; tell each block about its own."""
    base = np.concatenate([[0], np.cumsum([len(o.first) for o in outlines])])
    numbered = list(zip(outlines, base.tolist(), strict=False))
    pairs = [each.touching + offset for each, offset in numbered]
    frontier = np.full(grid.width, -1, np.int64)
    for _, row in groupby(numbered, key=lambda each: each[0].window.y):
        blocks, offsets = zip(*row, strict=True)
        more, frontier = side_pairs([b.sides for b in blocks], offsets, frontier)
        pairs += more
    root = join_pairs(int(base[-1]), np.concatenate(pairs))
    area, first = np.zeros(len(root), np.int64), np.full(len(root), 1 << 62, np.int64)
    np.add.at(area, root, np.concatenate([o.area for o in outlines]))
    np.minimum.at(first, root, np.concatenate([o.first for o in outlines]))
    return [
        OpenFaces(
            window=o.window,
            first=first[root[a : a + len(o.first)]],
            area=area[root[a : a + len(o.first)]],
        )
        for o, a in numbered
    ]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Unmerged:
    """Clusters of small regions that reach a block's border."""

    regions: NDArray[np.int64]
    """First pixel, area, class, whether small, (n, 4)."""
    edges: NDArray[np.int64]
    """First pixels of two regions, length of their border, (m, 3)."""


def merge_block(
    known: OpenFaces, masks: ClassReader, scale: Scale, folder: str, *, eight: bool
) -> Unmerged:
    """Write a block with its own small regions merged (second pass).

    What reaches the border is returned, and noted in the folder for `patch_block`.
    """
    window = known.window
    found = _regions(masks, window, scale, eight=eight)
    pixels, faces, value, is_open = (
        found.pixels,
        found.faces,
        found.value,
        found.is_open,
    )
    area, first = found.area, found.first
    area[is_open], first[is_open] = known.area, known.first
    # Faces that are one region elsewhere are one region here.
    _, place, inverse = np.unique(first, return_index=True, return_inverse=True)
    node = place[inverse]
    small = area < scale.least
    small[0] = False
    edges = borders(
        faces.labels, faces.number, small, scale.east, scale.south, window.y
    )
    edges[:, :2] = np.sort(node[edges[:, :2]], axis=1)
    edges = _summed(edges)
    both = small[edges[:, 0]] & small[edges[:, 1]]
    cluster = join_pairs(len(area), edges[both, :2])
    unmerged = np.zeros(len(area), np.bool_)
    unmerged[cluster[node[is_open & small]]] = True
    unmerged = (unmerged[cluster] & small)[node]
    beside = unmerged[edges[:, 0]] | unmerged[edges[:, 1]]
    final = merge_small(
        area, first, value, small & ~unmerged, edges[~beside], scale.least
    )
    at = faces.number[faces.labels[1:-1, 1:-1]]
    old = pixels[1:, 1:]
    dtype = np.uint8 if pixels.dtype == np.uint16 else np.uint16
    _save(folder, window, np.where(at > 0, final[node][at], old).astype(dtype))
    runs = face_runs(faces.labels, faces.number, unmerged)
    runs[:, 3] = first[runs[:, 3]]
    with _file(folder, window, "runs").open("wb") as file:
        np.save(file, runs)
    nodes = np.union1d(np.flatnonzero(unmerged), edges[beside, :2])
    regions = np.stack([first, area, value, small.astype(np.int64)], axis=1)[nodes]
    out = edges[beside].copy()
    out[:, :2] = first[out[:, :2]]
    return Unmerged(regions=regions, edges=out)


def _summed(edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each pair once, with the sum of its lengths."""
    if not len(edges):
        return edges
    edges = edges[np.lexsort((edges[:, 1], edges[:, 0]))]
    starts = np.flatnonzero(
        np.append(True, (edges[1:, :2] != edges[:-1, :2]).any(axis=1))
    )
    out = edges[starts]
    out[:, 2] = np.add.reduceat(edges[:, 2], starts)
    return out


def merge_rest(
    parts: list[Unmerged], least: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Merge the clusters that reach borders; return first pixels and their classes."""
    regions = np.concatenate([p.regions for p in parts])
    regions = np.unique(regions, axis=0)
    first = regions[:, 0]
    edges = np.concatenate([p.edges for p in parts])
    edges[:, :2] = np.sort(np.searchsorted(first, edges[:, :2]), axis=1)
    final = merge_small(
        regions[:, 1].copy(), first.copy(), regions[:, 2].copy(), regions[:, 3] > 0,
        _summed(edges), least,
    )  # fmt: skip
    return first, final


def patch_block(
    window: Window, folder: str, first: NDArray[np.int64], final: NDArray[np.int64]
) -> None:
    """Write into a block what was merged at the end (third pass)."""
    with _file(folder, window, "runs").open("rb") as file:
        runs = np.load(file)
    if not len(runs):
        return
    values = _read(folder, window).copy()
    found = final[np.searchsorted(first, runs[:, 3])]
    for (row, x, after, _), value in zip(runs.tolist(), found.tolist(), strict=True):
        values[row, x:after] = value
    _save(folder, window, values)


def sieve(
    masks: ClassReader,
    min_area: float,
    measure: Measure,
    folder: Path,
    *,
    side: int,
    eight: bool = False,
    client: Client | None = None,
) -> SievedRaster:
    """Let regions below a true area join a neighbour; the module says how.

    Args:
        masks: A class raster or masks.
        min_area: True m² from which on a region stays.
        measure: How to measure on its grid.
        folder: An empty folder that every worker sees; the result lies in it.
        side: Side of a block in pixels.
        eight: Whether pixels that touch at a corner are one region.
        client: Where to run; None is threads of this process.

    Returns:
        The same raster with other class values.
    """
    from geoseg.execution.engine import unordered

    scale = Scale.of(masks.grid, measure, min_area)
    windows = list(squares(masks.grid, side))
    outlining = partial(outline, masks, scale=scale, eight=eight)
    outlines = dict(unordered(outlining, windows, client=client))
    knowledge = know([outlines[w] for w in windows], masks.grid)
    merging = partial(
        merge_block, masks=masks, scale=scale, folder=str(folder), eight=eight
    )
    rest = [some for _, some in unordered(merging, knowledge, client=client)]
    first, final = merge_rest(rest, scale.least)
    patch = partial(patch_block, folder=str(folder), first=first, final=final)
    for _ in unordered(patch, windows, client=client):
        pass
    return SievedRaster(base=masks, folder=str(folder), side=side)
