"""One pass over a class map: everything that a report tells of it.

Block by block, several at a time; what is kept are counts, a picture's worth of pixels
and the few most remarkable places, so memory does not grow with the raster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.classes import Class, nodata_value
from geoseg.core.geodesy import PixelAreas, pixel_areas
from geoseg.core.grid import Grid, Window, squares
from geoseg.execution.engine import ordered
from geoseg.execution.progress import reported
from geoseg.execution.resources import cores
from geoseg.maps.reader import block_side, dtype_of, read_plain
from geoseg.viz.observed import BLANK, Observed, observed, tells
from geoseg.viz.seamcheck import LineCounts, count_changes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.maps.reader import ClassReader

PLACE = 256
"""Side of a remarkable place in pixels."""
_KEPT = 500
Score = Callable[[Window, "NDArray[Any]"], "NDArray[np.float32]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A remarkable square of the map."""

    window: Window
    score: float
    """How remarkable: mean doubt, share of errors, label changes per pixel."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MapStatistics:
    """What one pass over a map found."""

    grid: Grid
    classes: tuple[Class, ...]
    pixels: NDArray[np.int64]
    """(class,) pixels of each class, in the order of the table."""
    nodata: int
    """Pixels without a class."""
    unknown: int
    """Pixels whose value is not in the class table."""
    areas_m2: NDArray[np.float64] | None
    """(class,) true area of each; None where the grid is not on the Earth."""
    picture: NDArray[Any]
    """(y, x) class values, a picture's worth of nearest pixels."""
    rows: LineCounts
    """Label changes on lines between rows."""
    columns: LineCounts
    """Label changes on lines between columns."""
    confidence: NDArray[np.int64] | None
    """(255,) pixels by confidence byte 0 … 254; None where none is stored."""
    places: dict[str, tuple[Place, ...]]
    """By what they are remarkable for, most remarkable first."""
    observed: Observed | None
    """How often pixels were seen; None where that is not stored."""
    observations: NDArray[Any]
    """(y, x) how often those of the picture were; 65535 for nothing to tell."""

    @property
    def nodata_value(self) -> int:
        """What nodata is in the picture."""
        return nodata_value(self.classes)

    @property
    def valid(self) -> int:
        """Pixels with a class of the table."""
        return int(self.pixels.sum())

    @property
    def shares(self) -> NDArray[np.float64]:
        """(class,) part of the area with a class; of its pixels where no area is known.

        Pixels of a map in degrees are not of one size.
        """
        much = self.pixels if self.areas_m2 is None else self.areas_m2
        return much / max(float(much.sum()), 1e-300)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Block:
    """What one block of the map holds."""

    window: Window
    counts: NDArray[np.int64]
    nodata: int
    areas: NDArray[np.int64]
    rows: LineCounts
    columns: LineCounts
    edges: tuple[NDArray[Any], ...]  # first and last row, first and last column
    sample: NDArray[Any]
    confidence: NDArray[np.int64]
    places: dict[str, list[Place]]
    observed: Observed | None = None
    observations: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Pass:
    """What is asked of every block."""

    reader: ClassReader
    areas: PixelAreas | None
    shown: tuple[NDArray[np.int64], NDArray[np.int64]]
    """Rows and columns of the map that are in the picture."""
    scores: dict[str, Score]
    places: int

    @property
    def nodata(self) -> int:
        return nodata_value(self.reader.classes)

    @property
    def size(self) -> int:
        """Class values from 0 to the highest, and one for all others."""
        return max((c.value for c in self.reader.classes), default=0) + 2


def map_statistics(
    reader: ClassReader,
    *,
    size: int = 1600,
    scores: dict[str, Score] | None = None,
    places: int = 3,
    block: int = 2048,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> MapStatistics:
    """Look at every pixel of a map once.

    Args:
        reader: Masks, or any raster of classes.
        size: Longest side of the picture in pixels.
        scores: More that places can be remarkable for: from a window and its class
            values (y, x) to a score of each pixel, NaN where it has none.
        places: How many of each kind; none is looked for where it is 0.
        block: About how many pixels a side are read at once.
        threads: How many blocks at a time.
        progress: Called with blocks done and blocks in all.

    Returns:
        Counts, areas, a picture, places: `changes` (between classes), `doubt` (where
        confidence is stored) and those of `scores`.
    """
    grid = reader.grid
    factor = max(1.0, max(grid.height, grid.width) / size)
    job = _Pass(
        reader=reader,
        areas=pixel_areas(grid),
        shown=(_shown(grid.height, factor), _shown(grid.width, factor)),
        scores=scores or {},
        places=places,
    )
    windows = squares(grid, block_side(reader, block))
    total = _Total.of(job)
    looked = ordered(partial(_look, job), windows, in_flight=threads or min(4, cores()))
    for found in reported(looked, len(windows), progress):
        total.add(found)
    return total.result()


def _shown(length: int, factor: float) -> NDArray[np.int64]:
    """Return which rows, or columns, a picture shows: `factor` apart."""
    count = max(1, round(length / factor))
    return np.floor((np.arange(count) + 0.5) * length / count).astype(np.int64)


def _look(job: _Pass, window: Window) -> _Block:
    labels = read_plain(job.reader, "classes", window)
    rows, columns = count_changes(labels, job.nodata)
    counts, areas = _count(job, window, labels)
    histogram = np.zeros(255, np.int64)
    confidence = None
    if "confidence" in job.reader.arrays:
        confidence = read_plain(job.reader, "confidence", window)
        histogram = np.bincount(confidence.ravel(), minlength=256)[:255]
    scores = _scores(job, window, labels, confidence) if job.places else {}
    y, x = (shown[_span(shown, window, axis)] for axis, shown in enumerate(job.shown))
    picked = np.ix_(y - window.y, x - window.x)
    told, each = observed(job.reader, window) if tells(job.reader) else (None, None)
    return _Block(
        window=window,
        counts=counts,
        nodata=int(np.count_nonzero(labels == job.nodata)),
        areas=areas,
        rows=rows,
        columns=columns,
        edges=(labels[0], labels[-1], labels[:, 0].copy(), labels[:, -1].copy()),
        sample=labels[picked],
        confidence=histogram,
        places={name: _places(s, window) for name, s in scores.items()},
        observed=told,
        observations=None if each is None else each[picked],
    )


def _scores(
    job: _Pass,
    window: Window,
    labels: NDArray[Any],
    confidence: NDArray[Any] | None,
) -> dict[str, NDArray[np.float32]]:
    """Return by how much each pixel is remarkable, by what for."""
    scores = {"changes": _changes(labels, job.nodata)}
    if confidence is not None:
        doubt = np.asarray(1 - confidence / 254, np.float32)
        doubt[(confidence == 255) | (labels == job.nodata)] = np.nan
        scores["doubt"] = doubt
    return scores | {name: score(window, labels) for name, score in job.scores.items()}


def _span(shown: NDArray[np.int64], window: Window, axis: int) -> slice:
    """Return which of the picture's rows (axis 0) or columns lie in a window."""
    ends = ((window.y, window.bottom), (window.x, window.right))[axis]
    first, after = np.searchsorted(shown, ends).tolist()
    return slice(first, after)


def _count(
    job: _Pass, window: Window, labels: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return pixels and units of area by class value; last all others."""
    values = np.minimum(labels, job.size - 1)
    counts = np.bincount(values.ravel(), minlength=job.size)
    if job.areas is None:
        return counts, np.zeros(job.size, np.int64)
    return counts, job.areas.by_value(values, window, job.size)


def _changes(labels: NDArray[Any], nodata: int) -> NDArray[np.float32]:
    """Return 1 where a pixel's right or lower neighbour is of another class."""
    out = np.zeros(labels.shape, np.float32)
    out[:, :-1] = labels[:, :-1] != labels[:, 1:]
    out[:-1] = np.maximum(out[:-1], labels[:-1] != labels[1:])
    out[labels == nodata] = np.nan
    return out


def _places(scores: NDArray[np.float32], window: Window) -> list[Place]:
    """Return a block's places with a score, at least half of them valid.

    They are whole, save in a block that is itself smaller than a place.
    """
    height, width = scores.shape
    least = PLACE if min(height, width) >= PLACE else PLACE // 4
    found = []
    for square in squares(Window(y=0, x=0, height=height, width=width), PLACE):
        values = scores[square.slices]
        valid = np.isfinite(values)
        if min(square.height, square.width) < least or valid.mean() < 0.5:
            continue
        score = float(values[valid].mean())
        if score > 0:
            at = square.shift(y=window.y, x=window.x)
            found.append(Place(window=at, score=score))
    return found


@dataclass(slots=True, kw_only=True, eq=False)
class _Total:
    """What the blocks so far held, together."""

    job: _Pass
    counts: NDArray[np.int64]
    areas: NDArray[np.int64]
    rows: LineCounts
    columns: LineCounts
    confidence: NDArray[np.int64]
    picture: NDArray[Any]
    above: NDArray[Any]  # the last row of pixels of the blocks above
    observations: NDArray[Any]
    observed: Observed | None = None
    nodata: int = 0
    left: NDArray[Any] | None = None
    places: dict[str, list[Place]] = field(default_factory=dict)

    @staticmethod
    def of(job: _Pass) -> _Total:
        grid, dtype = job.reader.grid, dtype_of(job.reader.classes)
        height, width = (len(shown) for shown in job.shown)
        return _Total(
            job=job,
            counts=np.zeros(job.size, np.int64),
            areas=np.zeros(job.size, np.int64),
            rows=LineCounts.empty(grid.height - 1),
            columns=LineCounts.empty(grid.width - 1),
            confidence=np.zeros(255, np.int64),
            picture=np.full((height, width), job.nodata, dtype),
            above=np.full(grid.width, job.nodata, dtype),
            observations=np.full((height, width), BLANK, np.uint16),
        )

    def add(self, found: _Block) -> None:
        """Add a block; blocks come row by row."""
        window, nodata = found.window, self.job.nodata
        self.counts += found.counts
        self.nodata += found.nodata
        self.areas += found.areas
        self.confidence += found.confidence
        self.rows.add(window.y, found.rows)
        self.columns.add(window.x, found.columns)
        top, bottom, left, right = found.edges
        span = slice(window.x, window.right)
        if window.y:
            between = count_changes(np.stack([self.above[span], top]), nodata)[0]
            self.rows.add(window.y - 1, between)
        if window.x and self.left is not None:
            between = count_changes(np.stack([self.left, left], axis=1), nodata)[1]
            self.columns.add(window.x - 1, between)
        self.above[span], self.left = bottom, right
        y, x = (_span(shown, window, axis) for axis, shown in enumerate(self.job.shown))
        self.picture[y, x] = found.sample
        if found.observed is not None and found.observations is not None:
            before, more = self.observed, found.observed
            self.observed = more if before is None else before + more
            self.observations[y, x] = found.observations
        for name, places in found.places.items():
            kept = [*self.places.get(name, []), *places]
            kept.sort(key=lambda p: -p.score)
            self.places[name] = kept[:_KEPT]

    def result(self) -> MapStatistics:
        """Return the result."""
        reader, areas = self.job.reader, self.job.areas
        values = [c.value for c in reader.classes]
        pixels = self.counts[values]
        stored = "confidence" in reader.arrays
        return MapStatistics(
            grid=reader.grid,
            classes=reader.classes,
            pixels=pixels,
            nodata=self.nodata,
            unknown=int(self.counts.sum() - pixels.sum()) - self.nodata,
            areas_m2=None if areas is None else areas.m2(self.areas[values]),
            picture=self.picture,
            rows=self.rows,
            columns=self.columns,
            confidence=self.confidence if stored else None,
            places={name: apart(p, self.job.places) for name, p in self.places.items()},
            observed=self.observed,
            observations=self.observations,
        )


def apart(places: Iterable[Place], count: int) -> tuple[Place, ...]:
    """Return the first places of which no two lie within three of their sides."""
    chosen: list[Place] = []
    for place in places:
        near = any(
            abs(c.window.y - place.window.y) < 3 * PLACE
            and abs(c.window.x - place.window.x) < 3 * PLACE
            for c in chosen
        )
        if not near and len(chosen) < count:
            chosen.append(place)
    return tuple(chosen)
