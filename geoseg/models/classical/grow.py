"""Region growing from markers: what resembles a marker and hangs together with it.

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
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numba import njit
from scipy import ndimage

from geoseg.core.classes import Class, class_table
from geoseg.core.grid import Window
from geoseg.errors import ModelError, RasterError
from geoseg.models.card import ALL_BANDS, Band, Card
from geoseg.models.classical.sample import sample_pixels
from geoseg.models.contract import OnlyPlaced
from geoseg.models.identity import Opened, content_hash, file_sha256
from geoseg.rasters.shapes import Shapes, in_pixels, read_shapes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.models.networks.device import Options
    from geoseg.rasters.open import Source

CELL = 512
"""Side of the squares that are looked at one by one, in pixels."""
_LARGEST = 2048  # pixels that a marker may span: it is an example, not the region
_SPEC = re.compile(
    r"(?P<file>.+?)(?::(?P<tolerance>[0-9.eE+-]*))?(?::(?P<column>[^:/]+))?"
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
class Grow(OnlyPlaced):
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

    batch = 1
    device = "cpu"
    precision = "own"

    def fit(self, source: Source) -> Self:
        """Return the model grown over the whole raster."""
        seeds = _seeds(in_pixels(self.shapes, source.grid, self.file), source)
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
        starts = [(self.values[i], seeds[i].pixels) for i in there]
        grown = replace(grown, entries=_grow(source, grown, starts))
        names = tuple(Band(name=b.name) for b in source.bands)
        return replace(self, card=replace(self.card, bands=names), grown=grown)

    def predict_at(
        self,
        pixels: NDArray[np.generic],
        windows: Sequence[Window],
        valid: NDArray[np.bool_],
    ) -> NDArray[np.uint8]:
        """Return (n, y, x) labels."""
        if self.grown is None:
            raise ModelError(f"{self.card.name} has not been fitted to the raster yet")
        out = np.zeros((len(pixels), *pixels.shape[2:]), np.uint8)
        for item, window, there, labels in zip(
            pixels, windows, valid, out, strict=True
        ):
            if window.y % CELL or window.x % CELL or max(item.shape[1:]) > CELL:
                raise ModelError(
                    f"{self.card.name} works cell by cell: leave out --overlap"
                )
            cell = (window.y // CELL, window.x // CELL)
            entries = self.grown.entries.get(cell)
            if entries is None:
                continue
            alike = _resembling(item, there, self.grown)
            pieces, _ = _pieces(alike)
            kept = np.zeros(int(pieces.max()) + 1, bool)
            kept[pieces[entries[:, 0] - window.y, entries[:, 1] - window.x]] = True
            kept[0] = False
            labels[...] = np.where(kept[pieces], alike, 0)
        return out

    def parameters(self) -> dict[str, Any]:
        """Return what the markers taught."""
        if self.grown is None:
            raise ModelError(f"{self.card.name} has not been fitted to the raster yet")
        return {
            "bands": [band.name for band in self.card.bands],
            "references": self.grown.references.tolist(),
            "classes": self.grown.classes.tolist(),
            "tolerance": self.grown.tolerance.tolist(),
            "entries": [
                [*cell, at.ravel().tolist()] for cell, at in self.grown.entries.items()
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
        names = tuple(Band(name=n) for n in parameters["bands"])
        return replace(self, card=replace(self.card, bands=names), grown=grown)


# --- markers --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seed:
    """A marker on the raster."""

    pixels: NDArray[np.int64]
    """(pixel, 2) row and column of its valid pixels."""
    value: NDArray[np.float64]
    """(band,) their mean."""


def _seeds(shapes: NDArray[np.object_], source: Source) -> list[_Seed]:
    """Return each marker's pixels and what they look like."""
    return [_seed(shape, source) for shape in shapes]


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
        transform=_shifted(window),
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


def _shifted(window: Window) -> Any:  # noqa: ANN401 - an affine transform
    from affine import Affine

    return Affine.translation(window.x, window.y)


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

    place: tuple[int, int]
    """Its row and column."""
    edges: Mapping[str, tuple[NDArray[np.uint8], NDArray[np.int32]]]
    """Classes and pieces along its four sides."""
    first: NDArray[np.int64]
    """(piece + 1, 2) row and column in the raster of each piece's first pixel."""
    seeded: NDArray[np.int64]
    """Pieces that hold a marker of their class."""


def _grow(
    source: Source,
    grown: Grown,
    starts: Sequence[tuple[int, NDArray[np.int64]]],
) -> dict[tuple[int, int], NDArray[np.int64]]:
    """Return a pixel of each piece that hangs together with a marker, by cell."""
    by_cell = _by_cell(starts)
    rows, cols = -(-source.grid.height // CELL), -(-source.grid.width // CELL)

    def look(place: tuple[int, int]) -> _Cell:
        return _look(source, grown, place, by_cell.get(place))

    joined = _Joined()
    above: list[_Cell] = []
    with ThreadPoolExecutor(_WORKERS) as pool:
        for row in range(rows):
            line = list(pool.map(look, [(row, col) for col in range(cols)]))
            for cell in line:
                joined.add(cell)
            for left, right in pairwise(line):
                joined.tie(left, "right", right, "left")
            for upper, lower in zip(above, line, strict=False):
                joined.tie(upper, "bottom", lower, "top")
            above = line
    return joined.counted()


def _by_cell(
    starts: Sequence[tuple[int, NDArray[np.int64]]],
) -> dict[tuple[int, int], NDArray[np.int64]]:
    """Return (pixel, 3) row, column and class of the markers' pixels, by cell."""
    told: dict[tuple[int, int], list[NDArray[np.int64]]] = defaultdict(list)
    for value, pixels in starts:
        marked = np.column_stack([pixels, np.full(len(pixels), value)])
        places = pixels // CELL
        for place in np.unique(places, axis=0):
            mine = (places == place).all(axis=1)
            told[int(place[0]), int(place[1])].append(marked[mine])
    return {place: np.concatenate(parts) for place, parts in told.items()}


def _look(
    source: Source,
    grown: Grown,
    place: tuple[int, int],
    marked: NDArray[np.int64] | None,
) -> _Cell:
    y, x = place[0] * CELL, place[1] * CELL
    window = Window(y=y, x=x, height=CELL, width=CELL).intersection(source.grid.window)
    assert window is not None
    alike = _resembling(*source.read(window), grown)
    pieces, count = _pieces(alike)
    first = np.zeros((count + 1, 2), np.int64)
    names, at = np.unique(pieces, return_index=True)
    rows, cols = np.unravel_index(at, pieces.shape)
    first[names] = np.stack([rows + y, cols + x], 1)
    seeded = np.zeros(0, np.int64)
    if marked is not None:
        row, col, value = marked.T
        here = (alike[row - y, col - x] == value) & (value > 0)
        seeded = np.unique(pieces[row - y, col - x][here]).astype(np.int64)
    sides: dict[str, Any] = {
        "top": np.s_[0, :], "bottom": np.s_[-1, :],
        "left": np.s_[:, 0], "right": np.s_[:, -1],
    }  # fmt: skip
    edges = {n: (alike[s].copy(), pieces[s].copy()) for n, s in sides.items()}
    return _Cell(place=place, edges=edges, first=first, seeded=seeded)


class _Joined:
    """Pieces of cells, joined where they touch; only those that may go on are kept."""

    def __init__(self) -> None:
        self._number: dict[tuple[int, int, int], int] = {}
        self._parent: list[int] = []
        self._pixel: list[tuple[int, int]] = []
        self._seeded: set[int] = set()

    def add(self, cell: _Cell) -> None:
        """Remember a cell's pieces that hold a marker or reach its sides."""
        sides = np.unique(np.concatenate([p for _, p in cell.edges.values()]))
        for piece in np.union1d(sides[sides > 0], cell.seeded).tolist():
            self._number[*cell.place, piece] = len(self._parent)
            self._parent.append(len(self._parent))
            self._pixel.append((int(cell.first[piece, 0]), int(cell.first[piece, 1])))
        self._seeded |= {self._number[*cell.place, p] for p in cell.seeded.tolist()}

    def tie(self, one: _Cell, side: str, other: _Cell, opposite: str) -> None:
        """Join what touches across a border of two cells."""
        ours, theirs = one.edges[side], other.edges[opposite]
        same = (ours[0] == theirs[0]) & (ours[0] > 0)
        pairs = np.unique(np.stack([ours[1][same], theirs[1][same]], 1), axis=0)
        for a, b in pairs.tolist():
            roots = (
                self._root(self._number[*one.place, a]),
                self._root(self._number[*other.place, b]),
            )
            self._parent[max(roots)] = min(roots)

    def _root(self, name: int) -> int:
        while self._parent[name] != name:
            self._parent[name] = self._parent[self._parent[name]]
            name = self._parent[name]
        return name

    def counted(self) -> dict[tuple[int, int], NDArray[np.int64]]:
        """Return a pixel of each piece that is tied to a marker, by cell."""
        roots = {self._root(name) for name in self._seeded}
        found: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        for (row, col, _), name in self._number.items():
            if self._root(name) in roots:
                found[row, col].append(self._pixel[name])
        return {cell: np.array(at, np.int64) for cell, at in found.items()}


# --- from text ------------------------------------------------------------------------


def open_spec(spec: str) -> Opened:
    """Return the model that `grow:FILE`, `grow:FILE:TOLERANCE[:COLUMN]` means."""
    file, tolerance, column = _parsed(spec)
    try:
        shapes = read_shapes(file, "the markers", columns=True)
    except RasterError as error:
        raise ModelError(str(error)) from error
    if not len(shapes.geometries):
        raise ModelError(f"{file} holds no markers")
    values, classes = _classes(shapes, column, file)
    card = Card(
        name=f"grow:{Path(file.partition('|')[0]).name}",
        bands=(ALL_BANDS,),
        classes=classes,
        output="labels",
        window=CELL,
        overlap=0,
        multiple=1,
        description="regions grown from markers",
        framework={"family": "grow", "tolerance": tolerance},
    )
    model = Grow(
        card=card, shapes=shapes, values=values, tolerance=tolerance, file=file
    )

    def load(_options: Options) -> Grow:
        return model

    rest = "" if tolerance is None else f":{tolerance!r}"
    rest += "" if column is None else f":{column}"
    local = Path(file.partition("|")[0])
    marks = [file_sha256(local)] if local.is_file() else [file]
    content = content_hash(card, *marks, rest)
    return Opened(spec=f"grow:{file}{rest}", card=card, content=content, load=load)


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
        told = ["grown"] * len(shapes.geometries)
    else:
        told = [str(value) for value in shapes.columns[column]]
    table = class_table([_OTHER, *sorted(set(told) - {_OTHER})])
    if len(table) > 254:
        raise ModelError(f"column {column!r} of {file} has {len(table)} classes")
    table = (replace(table[0], color="#BBBBBB"), *table[1:])
    place = {c.name: c.value for c in table}
    return tuple(place[name] for name in told), table
