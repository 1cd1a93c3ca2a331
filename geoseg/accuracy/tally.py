"""What a block of a map tells of its accuracy: counts and areas that add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.accuracy.boundary import count_boundaries, halo
from geoseg.accuracy.options import EvaluateOptions
from geoseg.accuracy.true_objects import ObjectTally, tally_objects
from geoseg.core.classes import nodata_value
from geoseg.core.geodesy import PixelAreas
from geoseg.core.grid import Window
from geoseg.core.text import redact
from geoseg.errors import MasksError
from geoseg.labels import Labels, PointLabels
from geoseg.maps.reader import ClassReader, read_plain
from geoseg.maps.store import Masks

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEVELS = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationJob:
    """What is compared, and how; the same for every block."""

    masks: ClassReader
    labels: Labels
    counted_as: Mapping[int, int]
    """Class value that pixels of the map count as, by value."""
    areas: PixelAreas | None
    options: EvaluateOptions

    @property
    def k(self) -> int:
        """Number of classes."""
        return len(self.labels.classes)

    def lookup(self) -> NDArray[np.uint16]:
        """Return the place in the class table by value; `k` for what is no class."""
        table = np.full(65536, self.k, np.uint16)
        table[[c.value for c in self.labels.classes]] = np.arange(self.k)
        return table

    def map_values(self, window: Window) -> NDArray[np.uint16]:
        """Return the map's class values in a window, as they count, (y, x)."""
        values = read_plain(self.masks, "classes", window)
        table = np.full(65536, nodata_value(self.labels.classes), np.uint16)
        table[list(self.counted_as)] = list(self.counted_as.values())
        return np.asarray(table[values])

    def m2(self, units: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return units of area as m²; NaN where the map has no place on the Earth."""
        if self.areas is None:
            return np.full(units.shape, np.nan)
        return self.areas.m2(units)

    def sums(
        self, values: NDArray[np.integer[Any]], window: Window, size: int
    ) -> NDArray[np.int64]:
        """Return the area of each value in a window; pixels where that is unknown."""
        if self.areas is None:
            return np.bincount(values.ravel(), minlength=size)
        return self.areas.by_value(values, window, size)


def masks_of(job: EvaluationJob) -> Masks:
    """Return the map as masks of geoseg, which alone hold objects."""
    if isinstance(job.masks, Masks):
        return job.masks
    raise MasksError(
        f"{redact(job.masks.path)} holds no instances: segment with --task instance or "
        "panoptic"
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tally:
    """What was counted; tallies of blocks add up in any order."""

    mapped: NDArray[np.int64]
    """(class,) map pixels."""
    mapped_area: NDArray[np.int64]
    """(class,) their area."""
    counts: NDArray[np.int64]
    """(map class, reference class) labelled pixels."""
    compared_area: NDArray[np.int64]
    """(map class, reference class) their area; zeros for points."""
    squares: NDArray[np.float64]
    """(map class, reference class) sum of their squared areas; zeros for points."""
    by_confidence: NDArray[np.int64]
    """(wrong or right, level) labelled pixels by stored confidence."""
    boundary: NDArray[np.int64]
    """(class, 4) boundary pixels."""
    points: tuple[tuple[NDArray[np.intp], NDArray[np.uint16]], ...] = ()
    """Which points, and their place in the class table of the map."""
    objects: tuple[ObjectTally, ...] = ()

    @property
    def compared(self) -> int:
        """Number of labelled pixels or points on the map."""
        return int(self.counts.sum())

    def __add__(self, other: Tally) -> Tally:
        added = {
            f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)
        }
        return Tally(**added)


def count_block(job: EvaluationJob, window: Window) -> Tally:
    """Count one block of the map against the labels."""
    k, place = job.k, job.lookup()
    ours = place[job.map_values(window)]
    touched = job.labels.touches(window)
    none = np.zeros((k, k), np.int64)
    tally = Tally(
        mapped=np.bincount(ours.ravel(), minlength=k + 1)[:k],
        mapped_area=job.sums(ours, window, k + 1)[:k],
        counts=none,
        compared_area=none,
        squares=none.astype(np.float64),
        by_confidence=np.zeros((2, _LEVELS), np.int64),
        boundary=_boundaries(job, window) if touched else np.zeros((k, 4), np.int64),
        objects=(
            (tally_objects(masks_of(job), job.labels, window),)
            if job.options.objects
            else ()
        ),
    )
    if not touched:
        return tally
    if isinstance(job.labels, PointLabels):
        return _with_points(job, window, ours, job.labels, tally)
    return _with_pixels(job, window, ours, tally)


def _with_points(
    job: EvaluationJob,
    window: Window,
    ours: NDArray[np.uint16],
    labels: PointLabels,
    tally: Tally,
) -> Tally:
    hit = labels.inside(window)
    at = labels.rows[hit] - window.y, labels.columns[hit] - window.x
    theirs = job.lookup()[labels.values[hit]]
    return replace(
        tally,
        counts=_by_pair(job.k, np.bincount(_pairs(job.k, ours[at], theirs))),
        by_confidence=_by_level(job, window, ours[at], theirs, at),
        points=((hit, ours[at]),),
    )


def _with_pixels(
    job: EvaluationJob, window: Window, ours: NDArray[np.uint16], tally: Tally
) -> Tally:
    k = job.k
    theirs = job.lookup()[job.labels.read(window)]
    pairs = _pairs(k, ours, theirs)
    counts = _by_pair(k, np.bincount(pairs.ravel()))
    if not counts.any():
        return tally
    area = _by_pair(k, job.sums(pairs, window, (k + 1) ** 2))
    squares = counts.astype(np.float64)
    if job.areas is not None and job.options.design not in ("auto", "census", "counts"):
        weights = np.broadcast_to(job.areas.of_window(window) ** 2, pairs.shape)
        squares = _by_pair(k, np.bincount(pairs.ravel(), weights.ravel()))
    return replace(
        tally,
        counts=counts,
        compared_area=area,
        squares=squares,
        by_confidence=_by_level(job, window, ours, theirs, ...),
    )


def _pairs(
    k: int, ours: NDArray[np.uint16], theirs: NDArray[np.uint16]
) -> NDArray[np.intp]:
    """Return one number for each pair of classes, `k` standing for none."""
    return ours.astype(np.intp) * (k + 1) + theirs


def _by_pair(k: int, sums: NDArray[Any]) -> NDArray[Any]:
    """Return what was summed by numbers of pairs as (map class, reference class)."""
    padded = np.zeros((k + 1) ** 2, sums.dtype)
    padded[: len(sums)] = sums
    return padded.reshape(k + 1, k + 1)[:k, :k]


def _by_level(
    job: EvaluationJob,
    window: Window,
    ours: NDArray[np.uint16],
    theirs: NDArray[np.uint16],
    where: Any,  # noqa: ANN401 - an index of the window
) -> NDArray[np.int64]:
    """Count right and wrong by stored confidence."""
    known = (ours < job.k) & (theirs < job.k)
    if "confidence" not in job.masks.arrays or not known.any():
        return np.zeros((2, _LEVELS), np.int64)
    level = read_plain(job.masks, "confidence", window)[where]
    known &= level < _LEVELS
    cell = (ours == theirs)[known] * _LEVELS + level[known].astype(np.intp)
    return np.bincount(cell, minlength=2 * _LEVELS).reshape(2, _LEVELS)


def _boundaries(job: EvaluationJob, window: Window) -> NDArray[np.int64]:
    none = np.zeros((job.k, 4), np.int64)
    if job.options.boundary is None or job.labels.kind == "points":
        return none
    padded = window.pad(halo(job.options.boundary)).intersection(job.masks.grid.window)
    if padded is None:
        return none
    return count_boundaries(
        job.map_values(padded),
        job.labels.read(padded),
        [c.value for c in job.labels.classes],
        job.options.boundary,
        window.relative_to(padded).slices,
    )
