"""Compare masks with a reference: one pass over the map, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from geoseg.accuracy.accuracy import Accuracy, Estimator, estimate
from geoseg.accuracy.boundary import BoundaryScore, count_boundaries, halo
from geoseg.accuracy.calibration import Calibration, calibrate
from geoseg.accuracy.evaluation import Evaluation
from geoseg.accuracy.true_objects import ObjectTally, score, tally_objects
from geoseg.core.grid import Window, squares
from geoseg.errors import GeosegError, LabelsError
from geoseg.execution.engine import ordered
from geoseg.execution.resources import cores
from geoseg.labels import Labels, Order, PointLabels, open_labels
from geoseg.maps.store import Masks, open_masks
from geoseg.rasters.open import redact

if TYPE_CHECKING:
    from distributed import Client
    from numpy.typing import NDArray

Design = Literal["auto", "census", "stratified", "random", "counts"]

_LEVELS = 255
_BLOCK = 2048


def evaluate(
    masks: str | Path | Masks,
    reference: str | Path,
    *,
    column: str | None = None,
    layer: str | None = None,
    mapping: Mapping[str, str] | None = None,
    constant: str | None = None,
    background: str | None = None,
    order: Order = "last",
    within: str | Path | tuple[float, float, float, float] | None = None,
    strict: bool = False,
    design: Design = "auto",
    confidence: float = 0.95,
    finite_population: bool = False,
    boundary: float | None = None,
    objects: bool = False,
    threads: int | None = None,
    client: Client | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Compare masks with a reference of points, polygons or a class raster.

    The reference may be in any CRS and on any grid: polygons are burnt by the
    pixel-centre rule, rasters looked up at the mask's pixel centres. Classes are
    matched by name, whatever the case, or by value; classes of the reference that the
    map does not have stay in the matrix, as errors of the map.

    Args:
        masks: the masks' folder or URL, or an open store.
        reference: points, polygons or a class raster.
        column: column with class names or values; found by its usual names where None.
        layer: of a reference with several layers.
        mapping: from a name or value of the reference to a class of the map, or to
            `ignore`.
        constant: all features of the reference are of this class.
        background: pixels that the reference does not cover are of this class.
        order: which of overlapping polygons wins: the last, the first or the smallest.
        within: polygons, or left, bottom, right, top in the masks' CRS, to look inside.
        strict: refuse a reference raster on another grid.
        design: how the reference was drawn. `stratified`: at random in strata, which
            points name in the columns `stratum` and `stratum_pixels`, or in the map's
            classes; `random`: at random or by a grid, over the whole map; `census`:
            every pixel of it; `counts`: nothing is claimed beyond it. `auto`: what
            `sample` wrote into the points; else `random` for points and
            `census` for polygons and rasters.
        confidence: level of the intervals.
        finite_population: shrink standard errors by how much of a stratum was sampled.
        boundary: also score boundaries within this distance, in pixels.
        objects: also score the masks' instances against the reference's polygons.
        threads: how many blocks are read at a time, in this process.
        client: Dask client to count blocks on; the figures are the same.
        progress: called with blocks done and blocks in all.

    Returns:
        All figures, with the estimator that was used and why.

    Raises:
        LabelsError: the reference cannot be read or does not lie on the map.
        MasksError: there are no such masks, or they lack what was asked for.
        GeosegError: no labelled pixel lies on a valid map pixel.
    """
    store = masks if isinstance(masks, Masks) else open_masks(str(masks))
    labels = open_labels(
        reference,
        store.grid,
        column=column,
        layer=layer,
        classes=store.classes,
        mapping=mapping,
        constant=constant,
        background=background,
        order=order,
        within=within,
        strict=strict,
    )
    job = _Job(masks=store, labels=labels, boundary=boundary, objects=objects)
    total = _run(job, threads, client, progress)
    accuracy = _estimate(job, total, design, confidence, finite=finite_population)
    census = accuracy.estimator == "census"
    return Evaluation(
        masks=redact(store.path),
        reference=redact(str(reference)),
        kind=labels.kind,
        classes=labels.classes,
        accuracy=accuracy,
        area_m2=total.compared_m2 if census else float(total.mapped_m2.sum()),
        mapped_m2=total.mapped_m2,
        coverage=total.compared / max(1, int(total.mapped.sum())),
        calibration=_calibration(total),
        boundary=_boundary_score(job, total),
        objects=score(store, total.objects, labels) if objects else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What is compared; the same for every block."""

    masks: Masks
    labels: Labels
    boundary: float | None
    objects: bool

    @property
    def k(self) -> int:
        return len(self.labels.classes)

    def lookup(self) -> NDArray[np.uint16]:
        """Return the place in the class table by value; `k` for what is no class."""
        table = np.full(65536, self.k, np.uint16)
        table[[c.value for c in self.labels.classes]] = np.arange(self.k)
        return table


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Tally:
    """What was counted; tallies of blocks add up in any order."""

    mapped: NDArray[np.int64]
    """(class,) map pixels."""
    mapped_m2: NDArray[np.float64]
    """(class,) their true area."""
    counts: NDArray[np.int64]
    """(map class, reference class) labelled pixels."""
    compared_m2: float
    """True area of the labelled pixels."""
    by_confidence: NDArray[np.int64]
    """(wrong or right, level) labelled pixels by stored confidence."""
    boundary: NDArray[np.int64]
    """(class, 4) boundary pixels."""
    points: tuple[tuple[NDArray[np.intp], NDArray[np.uint16]], ...] = ()
    """Which points, and their place in the class table of the map."""
    objects: tuple[ObjectTally, ...] = field(default=())

    @property
    def compared(self) -> int:
        return int(self.counts.sum())

    def __add__(self, other: _Tally) -> _Tally:
        return _Tally(
            mapped=self.mapped + other.mapped,
            mapped_m2=self.mapped_m2 + other.mapped_m2,
            counts=self.counts + other.counts,
            compared_m2=self.compared_m2 + other.compared_m2,
            by_confidence=self.by_confidence + other.by_confidence,
            boundary=self.boundary + other.boundary,
            points=self.points + other.points,
            objects=self.objects + other.objects,
        )


def _run(
    job: _Job,
    threads: int | None,
    client: Client | None,
    progress: Callable[[int, int], None] | None,
) -> _Tally:
    # Whole chunks, so that none is decoded twice.
    side = max(1, _BLOCK // job.masks.chunk) * job.masks.chunk
    windows = list(squares(job.masks.grid, side))
    if threads is None and client is None:
        threads = min(4, cores())
    tallies = ordered(partial(_tally, job), windows, client=client, in_flight=threads)
    return reduce(_Tally.__add__, _reported(tallies, len(windows), progress))


def _reported(
    tallies: Iterable[_Tally], total: int, progress: Callable[[int, int], None] | None
) -> Iterator[_Tally]:
    for done, tally in enumerate(tallies, start=1):
        if progress is not None:
            progress(done, total)
        yield tally


def _tally(job: _Job, window: Window) -> _Tally:
    k, place = job.k, job.lookup()
    ours = place[job.masks.read("classes", window)]
    mapped = np.bincount(ours.ravel(), minlength=k + 1)[:k]
    size = job.masks.grid[window].pixel_size_m
    pixel_m2 = size[0] * size[1] if size else float("nan")
    touched = job.labels.touches(window)
    points: tuple[tuple[NDArray[np.intp], NDArray[np.uint16]], ...] = ()
    counts = np.zeros((k, k), np.int64)
    by_confidence = np.zeros((2, _LEVELS), np.int64)
    if touched and isinstance(job.labels, PointLabels):
        hit = job.labels.inside(window)
        y, x = job.labels.rows[hit] - window.y, job.labels.columns[hit] - window.x
        points = ((hit, ours[y, x]),)
        theirs = place[job.labels.values[hit]]
        counts, by_confidence = _count(job, window, ours[y, x], theirs, (y, x))
    elif touched:
        theirs = place[job.labels.read(window)]
        counts, by_confidence = _count(job, window, ours, theirs, ...)
    return _Tally(
        mapped=mapped,
        mapped_m2=np.asarray(mapped * pixel_m2, np.float64),
        counts=counts,
        compared_m2=float(counts.sum() * pixel_m2),
        by_confidence=by_confidence,
        boundary=_boundaries(job, window) if touched else np.zeros((k, 4), np.int64),
        points=points,
        objects=(tally_objects(job.masks, job.labels, window),) if job.objects else (),
    )


def _count(
    job: _Job,
    window: Window,
    ours: NDArray[np.uint16],
    theirs: NDArray[np.uint16],
    where: Any,  # noqa: ANN401 - an index of the window
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count pairs of classes, and right and wrong by confidence."""
    k = job.k
    pairs = ours.astype(np.intp) * (k + 1) + theirs
    counts = np.bincount(pairs.ravel(), minlength=(k + 1) ** 2).reshape(k + 1, k + 1)
    counts = counts[:k, :k]
    if "confidence" not in job.masks.arrays or not counts.any():
        return counts, np.zeros((2, _LEVELS), np.int64)
    level = job.masks.read("confidence", window)[where]
    known = (ours < k) & (theirs < k) & (level < _LEVELS)
    cell = (ours == theirs)[known] * _LEVELS + level[known].astype(np.intp)
    by_level = np.bincount(cell, minlength=2 * _LEVELS).reshape(2, _LEVELS)
    return counts, by_level


def _boundaries(job: _Job, window: Window) -> NDArray[np.int64]:
    if job.boundary is None or job.labels.kind == "points":
        return np.zeros((job.k, 4), np.int64)
    padded = window.pad(halo(job.boundary)).intersection(job.masks.grid.window)
    if padded is None:
        return np.zeros((job.k, 4), np.int64)
    return count_boundaries(
        job.masks.read("classes", padded),
        job.labels.read(padded),
        [c.value for c in job.labels.classes],
        job.boundary,
        window.relative_to(padded).slices,
    )


# --- from counts to figures -----------------------------------------------------------


def _estimate(
    job: _Job, total: _Tally, design: Design, confidence: float, *, finite: bool
) -> Accuracy:
    names = [c.name for c in job.labels.classes]
    notes = tuple(_notes(job, total))
    settings: dict[str, Any] = {
        "names": names,
        "confidence": confidence,
        "finite_population": finite,
        "notes": notes,
    }
    if not total.compared:
        raise GeosegError(
            f"no labelled pixel of {job.labels.name} lies on a valid pixel of "
            f"{job.masks.path}: nothing to evaluate"
        )
    strata = _strata(job, total)
    chosen = _chosen(design, job, drawn=strata is not None)
    if chosen == "stratified" and strata is not None:
        counts, sizes = strata
        return estimate(counts, strata=sizes, estimator=chosen, **settings)
    return estimate(total.counts, strata=total.mapped, estimator=chosen, **settings)


def _chosen(design: Design, job: _Job, *, drawn: bool) -> Estimator:
    if design == "auto":
        if job.labels.kind != "points":
            return "census"
        return "stratified" if drawn else "poststratified"
    if design == "random":
        return "poststratified"
    if design not in ("stratified", "census", "counts"):
        raise GeosegError(
            f"design {design!r} is none of auto, stratified, random, census, counts"
        )
    return design


def _strata(
    job: _Job, total: _Tally
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """Return counts by stratum and the strata's sizes, where points carry them."""
    labels = job.labels
    if not isinstance(labels, PointLabels):
        return None
    drawn = labels.attributes.get("design")
    named, sizes = (
        labels.attributes.get("stratum"),
        labels.attributes.get("stratum_pixels"),
    )
    if (
        named is None
        or sizes is None
        or (drawn is not None and drawn[0] != "stratified")
    ):
        return None
    return _by_stratum(job, total, np.asarray(named).astype(str), np.asarray(sizes))


def _by_stratum(
    job: _Job, total: _Tally, named: NDArray[np.str_], sizes: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    assert isinstance(job.labels, PointLabels)
    strata, first, index = np.unique(named, return_index=True, return_inverse=True)
    place, k = job.lookup(), job.k
    counts = np.zeros((len(strata), k, k), np.int64)
    for points, ours in total.points:
        theirs = place[job.labels.values[points]]
        known = (ours < k) & (theirs < k)
        np.add.at(counts, (index[points][known], ours[known], theirs[known]), 1)
    pixels = sizes[first].astype(np.float64)
    if (sizes != sizes[first][index]).any():
        raise LabelsError(
            f"points of {job.labels.name} disagree on how many pixels their stratum "
            "has: `stratum_pixels` must be the same for all points of a stratum"
        )
    return counts, pixels


def _notes(job: _Job, total: _Tally) -> Iterator[str]:
    k = job.k
    if isinstance(job.labels, PointLabels):
        missed = len(job.labels.values) - total.compared
        if missed:
            yield f"{missed} points lie where the map has no class and are left out"
    elif total.compared < total.mapped.sum():
        share = total.compared / total.mapped.sum()
        yield f"the reference says something of {share:.1%} of the mapped pixels"
    for i in range(k):
        name = job.labels.classes[i].name
        if total.counts[i].any() and not total.counts[:, i].any():
            yield f"class {name!r} is in the map, but not in the reference"
        if total.counts[:, i].any() and not total.mapped[i]:
            yield f"class {name!r} is in the reference, but not in the map"


def _calibration(total: _Tally) -> Calibration | None:
    return calibrate(total.by_confidence[1], total.by_confidence[0])


def _boundary_score(job: _Job, total: _Tally) -> BoundaryScore | None:
    if job.boundary is None or job.labels.kind == "points":
        return None
    return BoundaryScore(
        names=tuple(c.name for c in job.labels.classes),
        distance=job.boundary,
        counts=total.boundary,
    )
