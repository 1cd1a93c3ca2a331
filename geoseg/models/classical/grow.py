"""Region growing from markers: what resembles a marker and is connected with it.

`grow:seeds.gpkg`, `grow:seeds.gpkg:12`, `grow:seeds.gpkg:12:landcover`: a vector file
of points, lines or polygons in map coordinates; how far a pixel may be from a marker's
value in every band, in pixel units (default: half of the band's standard deviation);
the column that holds the class. Adams and Bischof (1994), "Seeded region growing", IEEE
TPAMI 16, with the markers' own values as the regions' means, so that the order in which
pixels are looked at does not matter.

A pixel is of the class of the marker that it resembles most, and counts where a chain
of such pixels leads to a marker of the class. Chains cross any number of blocks: the
raster is looked at once before the run, cell by cell, and what touches across the
borders of cells is joined. What is remembered is one pixel of each piece that counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from affine import Affine
from numba import njit
from scipy import ndimage

from geoseg.core.classes import Class, class_table
from geoseg.core.grid import Window, squares
from geoseg.core.union_find import join_pairs
from geoseg.errors import ModelError, RasterError
from geoseg.models.card import OTHER_COLOR, Card
from geoseg.models.classical.method import (
    MOST,
    ClassicalMethod,
    method_card,
    open_method,
)
from geoseg.models.classical.sample import sample_pixels
from geoseg.models.contract import OnlyPlaced
from geoseg.models.identity import file_sha256
from geoseg.rasters.shapes import Shapes, in_pixels, read_shapes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.models.identity import OpenedModel
    from geoseg.rasters.open import Source

CELL = 512
"""Side of the cells that are looked at one by one, in pixels: the card's window."""
_LARGEST = 2048  # pixels that a marker may span: it is an example, not the region
_SPEC = re.compile(
    r"(?P<file>(?:[A-Za-z]:(?=[\\/]))?.+?)(?::(?P<tolerance>[0-9.eE+-]*))?(?::(?P<column>[^:/\\]+))?"
)
_OTHER = "other"
"""The class of what is in no region; markers of it keep regions away."""
_COLUMNS = (
    "class_name", "class", "classname", "label", "landcover", "category", "type",
)  # fmt: skip
_WORKERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """What markers taught: how regions look, and where they go on."""

    references: NDArray[np.float64]
    """(marker, band) in pixel units."""
    classes: NDArray[np.uint8]
    """(marker,) value of its class."""
    tolerance: NDArray[np.float64]
    """(band,) in pixel units."""
    entries: Mapping[tuple[int, int], NDArray[np.int64]]
    """By cell, (piece, 2) row and column in the raster of a pixel of each piece."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grow(OnlyPlaced, ClassicalMethod):
    """Regions grown from markers; class 0 is everything else."""

    card: Card
    """`other`, then the markers' classes."""
    shapes: Shapes = field(repr=False)
    """The markers."""
    values: tuple[int, ...]
    """Class value of each marker."""
    tolerance: float | None
    """In all bands; None: half of each band's standard deviation."""
    file: str
    """Where the markers come from."""
    grown: Grown | None = None
    """None until fitted."""

    precision = "own"
    fits = True
    learned = ("grown",)

    def fit(self, source: Source) -> Self:
        """Return the model grown over the whole raster."""
        shapes = in_pixels(self.shapes, source.grid, self.file)
        seeds = [_seed(shape, source) for shape in shapes]
        there = [i for i, seed in enumerate(seeds) if len(seed.pixels)]
        if not there:
            raise ModelError(
                f"none of the {len(seeds)} markers of {self.file} lies on a valid "
                f"pixel of {source.name}"
            )
        bands = len(source.bands)
        tolerance = np.full(bands, self.tolerance or 0.0)
        if self.tolerance is None:
            tolerance = sample_pixels(source).astype(np.float64).std(axis=0) / 2
        grown = Grown(
            references=np.array([seeds[i].value for i in there]),
            classes=np.array([self.values[i] for i in there], np.uint8),
            tolerance=tolerance,
            entries={},
        )
        marked = np.concatenate(
            [np.insert(seeds[i].pixels, 2, self.values[i], axis=1) for i in there]
        )
        grown = replace(grown, entries=_grow(source, grown, marked, self.card.window))
        return self.taught([band.name for band in source.bands], grown=grown)

    def predict_at(
        self,
        pixels: NDArray[np.generic],
        windows: Sequence[Window],
        valid: NDArray[np.bool_],
    ) -> NDArray[np.uint8]:
        """Return (n, y, x) labels."""
        (grown,), side = self.known(), self.card.window
        out = np.zeros((len(pixels), *pixels.shape[2:]), np.uint8)
        for item, window, there, labels in zip(
            pixels, windows, valid, out, strict=True
        ):
            if window.y % side or window.x % side or max(item.shape[1:]) > side:
                raise ModelError(
                    f"{self.card.name} works cell by cell: leave out --overlap"
                )
            cell = (window.y // side, window.x // side)
            entries = grown.entries.get(cell)
            if entries is None:
                continue
            alike = _resembling(item, there, grown)
            pieces, _ = _pieces(alike)
            kept = np.zeros(int(pieces.max()) + 1, bool)
            kept[pieces[entries[:, 0] - window.y, entries[:, 1] - window.x]] = True
            kept[0] = False
            labels[...] = np.where(kept[pieces], alike, 0)
        return out

    def parameters(self) -> dict[str, Any]:
        """Return what the markers taught."""
        (grown,) = self.known()
        return {
            "bands": [band.name for band in self.card.bands],
            "references": grown.references.tolist(),
            "classes": grown.classes.tolist(),
            "tolerance": grown.tolerance.tolist(),
            "entries": [
                [*cell, at.ravel().tolist()] for cell, at in grown.entries.items()
            ],
        }

    def with_parameters(self, parameters: Mapping[str, Any]) -> Self:
        """Return the model with that knowledge."""
        grown = Grown(
            references=np.array(parameters["references"], np.float64),
            classes=np.array(parameters["classes"], np.uint8),
            tolerance=np.array(parameters["tolerance"], np.float64),
            entries={
                (row, col): np.array(at, np.int64).reshape(-1, 2)
                for row, col, at in parameters["entries"]
            },
        )
        return self.taught(parameters["bands"], grown=grown)


# --- markers --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seed:
    """A marker on the raster."""

    pixels: NDArray[np.int64]
    """(pixel, 2) row and column of its valid pixels."""
    value: NDArray[np.float64]
    """(band,) their mean."""


def _seed(shape: Any, source: Source) -> _Seed:  # noqa: ANN401 - a shapely geometry
    from rasterio.features import rasterize

    nothing = _Seed(
        pixels=np.zeros((0, 2), np.int64), value=np.zeros(len(source.bands))
    )
    if shape.is_empty:
        return nothing
    left, top, right, bottom = shape.bounds
    around = Window.spanning(
        int(np.floor(top)), int(np.floor(bottom)) + 1,
        int(np.floor(left)), int(np.floor(right)) + 1,
    )  # fmt: skip
    window = around.intersection(source.grid.window)
    if window is None:
        return nothing
    if max(window.height, window.width) > _LARGEST:
        raise ModelError(
            f"a marker spans {window.height} x {window.width} px: markers are examples "
            f"of at most {_LARGEST} px, from which the rest is grown"
        )
    pixels, valid = source.read(window)
    burnt = rasterize(
        [shape],
        out_shape=(window.height, window.width),
        transform=Affine.translation(window.x, window.y),
        all_touched=shape.geom_type in {"LineString", "MultiLineString"},
        dtype="uint8",
    )
    rows, cols = np.nonzero((burnt > 0) & valid)
    if not len(rows):
        return nothing
    return _Seed(
        pixels=np.stack([rows + window.y, cols + window.x], 1).astype(np.int64),
        value=pixels[:, rows, cols].astype(np.float64).mean(axis=1),
    )


# --- growing --------------------------------------------------------------------------


def _resembling(
    pixels: NDArray[np.generic], valid: NDArray[np.bool_], grown: Grown
) -> NDArray[np.uint8]:
    """Return the class of the marker that each pixel resembles most, 0 for none."""
    out = np.zeros(pixels.shape[1:], np.uint8)
    steps = np.where(grown.tolerance > 0, 1 / np.maximum(grown.tolerance, 1e-300), 0)
    _nearest(
        np.ascontiguousarray(pixels), np.ascontiguousarray(valid), grown.references,
        grown.classes, grown.tolerance, steps, out,
    )  # fmt: skip
    return out


@njit(nogil=True, cache=True)
def _nearest(
    pixels: NDArray[np.generic],
    valid: NDArray[np.bool_],
    references: NDArray[np.float64],
    classes: NDArray[np.uint8],
    tolerance: NDArray[np.float64],
    steps: NDArray[np.float64],
    out: NDArray[np.uint8],
) -> None:
    bands, height, width = pixels.shape
    for y in range(height):
        for x in range(width):
            if not valid[y, x]:
                continue
            least = np.inf
            for m in range(len(references)):
                far = 0.0
                for b in range(bands):
                    apart = abs(np.float64(pixels[b, y, x]) - references[m, b])
                    if not apart <= tolerance[b]:
                        far = np.inf
                        break
                    far = max(far, apart * steps[b])
                if far < least:
                    least = far
                    out[y, x] = classes[m]


def _pieces(alike: NDArray[np.uint8]) -> tuple[NDArray[np.int32], int]:
    """Return connected pieces of equal classes, (y, x) 1 … n; 0 where there is none."""
    pieces = np.zeros(alike.shape, np.int32)
    count = 0
    for value in np.unique(alike[alike > 0]):
        mask = alike == value
        labels, found = ndimage.label(mask)
        pieces[mask] = labels[mask] + count
        count += int(found)
    return pieces, count


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cell:
    """What is remembered of a cell while its neighbours are looked at."""

    edges: Mapping[str, tuple[NDArray[np.uint8], NDArray[np.int32]]]
    """Classes and pieces along its four sides."""
    first: NDArray[np.int64]
    """(piece + 1, 2) row and column in the raster of each piece's first pixel."""
    seeded: NDArray[np.int64]
    """Pieces that hold a marker of their class."""
    numbers: NDArray[np.int64]
    """(piece + 1,) what each piece is called among those of all cells."""


def _grow(
    source: Source, grown: Grown, marked: NDArray[np.int64], side: int
) -> dict[tuple[int, int], NDArray[np.int64]]:
    """Return a pixel of each piece that is connected with a marker, by cell.

    Args:
        source: The raster.
        grown: How regions look.
        marked: (pixel, 3) row, column and class of the markers' pixels.
        side: Of a cell, in pixels.
    """
    of_cell = _by_cell(marked, side)
    none = np.zeros((0, 3), np.int64)
    rows, cols = -(-source.grid.height // side), -(-source.grid.width // side)

    def look(window: Window) -> _Cell:
        place = (window.y // side, window.x // side)
        return _look(source, grown, window, of_cell.get(place, none))

    cells = iter(squares(source.grid, side))  # a row at a time
    joined = _Joined()
    above: list[_Cell] = []
    with ThreadPoolExecutor(_WORKERS) as pool:
        for _ in range(rows):
            line = list(pool.map(look, islice(cells, cols)))
            for cell in line:
                joined.add(cell)
            for left, right in pairwise(line):
                joined.tie(left, "right", right, "left")
            for upper, lower in zip(above, line, strict=False):
                joined.tie(upper, "bottom", lower, "top")
            above = line
    return _by_cell(joined.counted(), side)


def _by_cell(
    pixels: NDArray[np.int64], side: int
) -> dict[tuple[int, int], NDArray[np.int64]]:
    """Return rows (pixel, row and column and more) by the cell in which they lie."""
    cells = pixels[:, :2] // side
    order = np.lexsort(cells.T[::-1])
    cuts = np.flatnonzero(np.diff(cells[order], axis=0).any(axis=1)) + 1
    groups = [group for group in np.split(pixels[order], cuts) if len(group)]
    return {(int(g[0, 0]) // side, int(g[0, 1]) // side): g for g in groups}


def _look(
    source: Source, grown: Grown, window: Window, marked: NDArray[np.int64]
) -> _Cell:
    alike = _resembling(*source.read(window), grown)
    pieces, count = _pieces(alike)
    corner = np.array([window.y, window.x])
    first = np.zeros((count + 1, 2), np.int64)
    names, at = np.unique(pieces, return_index=True)
    first[names] = np.stack(np.unravel_index(at, pieces.shape), 1) + corner
    row, col = (marked[:, :2] - corner).T
    here = (alike[row, col] == marked[:, 2]) & (marked[:, 2] > 0)
    sides: dict[str, Any] = {
        "top": np.s_[0, :], "bottom": np.s_[-1, :],
        "left": np.s_[:, 0], "right": np.s_[:, -1],
    }  # fmt: skip
    return _Cell(
        edges={n: (alike[s].copy(), pieces[s].copy()) for n, s in sides.items()},
        first=first,
        seeded=np.unique(pieces[row, col][here]).astype(np.int64),
        numbers=np.full(count + 1, -1, np.int64),
    )


class _Joined:
    """Pieces of cells, joined where they touch; only those that may go on are kept."""

    def __init__(self) -> None:
        self._pixels = [np.zeros((0, 2), np.int64)]
        self._seeded = [np.zeros(0, np.int64)]
        self._pairs = [np.zeros((0, 2), np.int64)]
        self._count = 0

    def add(self, cell: _Cell) -> None:
        """Remember a cell's pieces that hold a marker or reach its sides."""
        sides = np.unique(np.concatenate([p for _, p in cell.edges.values()]))
        kept = np.union1d(sides[sides > 0], cell.seeded)
        cell.numbers[kept] = np.arange(self._count, self._count + len(kept))
        self._count += len(kept)
        self._pixels.append(cell.first[kept])
        self._seeded.append(cell.numbers[cell.seeded])

    def tie(self, one: _Cell, side: str, other: _Cell, opposite: str) -> None:
        """Join what touches across a border of two cells."""
        ours, theirs = one.edges[side], other.edges[opposite]
        same = (ours[0] == theirs[0]) & (ours[0] > 0)
        pairs = (one.numbers[ours[1][same]], other.numbers[theirs[1][same]])
        self._pairs.append(np.unique(np.stack(pairs, 1), axis=0))

    def counted(self) -> NDArray[np.int64]:
        """Return row and column of a pixel of each piece that is tied to a marker."""
        roots = join_pairs(self._count, np.concatenate(self._pairs))
        kept = np.isin(roots, roots[np.concatenate(self._seeded)])
        return np.concatenate(self._pixels)[kept]


# --- from text ------------------------------------------------------------------------


def open_spec(spec: str, *, cell: int = CELL) -> OpenedModel:
    """Return the model that `grow:FILE`, `grow:FILE:TOLERANCE[:COLUMN]` means."""
    file, tolerance, column = _parsed(spec)
    try:
        shapes = read_shapes(file, "the markers", columns=True)
    except RasterError as error:
        raise ModelError(str(error)) from error
    if not len(shapes.geometries):
        raise ModelError(f"{file} holds no markers")
    values, classes = _classes(shapes, column, file)
    card = method_card(
        f"grow:{Path(file.partition('|')[0]).name}",
        (),
        classes,
        "regions grown from markers",
        framework={"family": "grow", "tolerance": tolerance},
        window=cell,
    )
    model = Grow(
        card=card, shapes=shapes, values=values, tolerance=tolerance, file=file
    )
    rest = "" if tolerance is None else f":{tolerance!r}"
    rest += "" if column is None else f":{column}"
    local = Path(file.partition("|")[0])
    marks = file_sha256(local) if local.is_file() else file
    return open_method(f"grow:{file}{rest}", model, marks, rest)


def _parsed(spec: str) -> tuple[str, float | None, str | None]:
    match = _SPEC.fullmatch(spec.partition(":")[2])
    if match is None:
        raise ModelError(
            f"{spec!r} does not say where the markers are: grow:seeds.gpkg, "
            "grow:seeds.gpkg:12 (tolerance in pixel units) or grow:seeds.gpkg:12:COLUMN"
        )
    file, tolerance = match["file"], match["tolerance"]
    path, bar, layer = file.partition("|")
    if Path(path).exists():
        file = f"{Path(path).resolve()}{bar}{layer}"
    try:
        number = float(tolerance) if tolerance else None
    except ValueError as error:
        raise ModelError(f"{tolerance!r} in {spec!r} is not a number") from error
    return file, number, match["column"]


def _classes(
    shapes: Shapes, column: str | None, file: str
) -> tuple[tuple[int, ...], tuple[Class, ...]]:
    """Return each marker's class value, and the class table."""
    names = {n.lower(): n for n in reversed(list(shapes.columns))}
    if column is None:
        column = next((names[c] for c in _COLUMNS if c in names), None)
    elif column not in shapes.columns:
        raise ModelError(
            f"{file} has no column {column!r}, only "
            f"{', '.join(shapes.columns) or 'none'}"
        )
    if column is None:
        labels = ["grown"] * len(shapes.geometries)
    else:
        labels = [str(value) for value in shapes.columns[column]]
    table = class_table([_OTHER, *sorted(set(labels) - {_OTHER})])
    if len(table) > MOST:
        raise ModelError(
            f"column {column!r} of {file} has {len(table):,} classes, and {MOST:,} are "
            "possible: name another column"
        )
    table = (replace(table[0], color=OTHER_COLOR), *table[1:])
    place = {c.name: c.value for c in table}
    return tuple(place[name] for name in labels), table
