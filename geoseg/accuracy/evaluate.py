"""Compare a map with a reference: one pass over the map, block by block.

Figures are shares of the ground: pixels weigh by their true area. The module
`geoseg.accuracy.accuracy` says what that means for samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.accuracy.accuracy import Accuracy, Estimator, UnitAreas, estimate
from geoseg.accuracy.boundary import BoundaryScore, count_boundaries, halo
from geoseg.accuracy.calibration import calibrate
from geoseg.accuracy.evaluation import Evaluation
from geoseg.accuracy.options import Design, EvaluateOptions
from geoseg.accuracy.true_objects import ObjectTally, score, tally_objects
from geoseg.core.classes import Class, nodata_value
from geoseg.core.geodesy import PixelAreas, pixel_areas
from geoseg.core.grid import Window, squares
from geoseg.core.label_options import Order
from geoseg.core.options import keywords
from geoseg.core.text import area_unit, number, redact
from geoseg.errors import GeosegError, LabelsError, MasksError
from geoseg.execution.engine import ordered
from geoseg.execution.resources import cores
from geoseg.labels import Labels, PointLabels, open_labels
from geoseg.labels.names import did_you_mean, with_class
from geoseg.maps.complete import incomplete
from geoseg.maps.open import ClassMap, open_classes
from geoseg.maps.reader import ClassReader, block_side, read_plain
from geoseg.maps.store import Masks

if TYPE_CHECKING:
    from distributed import Client
    from numpy.typing import NDArray

_LEVELS = 255
_ALIKE = 0.01  # by how much mean pixels may differ in area without a word
_WEIGHED = "pixels differ in area, and weigh by it"
_EQUALLY_LIKELY = (
    "the sample is taken as drawn so that every pixel of a stratum was equally likely "
    "(a ratio estimator, Cochran 1977)"
)


def evaluate_map(
    masks: ClassMap,
    options: EvaluateOptions,
    threads: int | None = None,
    client: Client | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Compare a map with a reference; as `evaluate`, with options as one object."""
    reader = open_classes(masks, partial=options.partial)
    table, counted_as = merged_classes(reader.classes, options.map_classes or {})
    labels = open_labels(
        options.reference,
        reader.grid,
        classes=table,
        within=options.within,
        **options.reading,
    )
    labels.pairing.check_alike(labels.name)
    job = _Job(
        masks=reader,
        labels=labels,
        counted_as=counted_as,
        areas=pixel_areas(reader.grid),
        options=options,
    )
    if options.objects:
        _masks(job)
    windows = list(squares(reader.grid, block_side(reader, options.block)))
    total = _run(job, windows, threads, client, progress)
    accuracy = _estimate(job, total)
    census = accuracy.estimator == "census"
    mapped_m2 = job.m2(total.mapped_area)
    compared_m2 = float(job.m2(total.compared_area).sum())
    return Evaluation(
        masks=redact(reader.path),
        reference=redact(str(options.reference)),
        kind=labels.kind,
        classes=labels.classes,
        accuracy=accuracy,
        area_m2=compared_m2 if census else float(mapped_m2.sum()),
        mapped_m2=mapped_m2,
        coverage=total.compared / max(1, int(total.mapped.sum())),
        calibration=calibrate(total.by_confidence[1], total.by_confidence[0]),
        boundary=_boundary_score(job, total),
        objects=score(_masks(job), total.objects, labels) if options.objects else None,
    )


@keywords(EvaluateOptions, evaluate_map)
def evaluate(
    masks: ClassMap,
    reference: str | Path,
    *,
    column: str | None = None,
    layer: str | None = None,
    mapping: Mapping[str, str] | None = None,
    map_classes: Mapping[str, str] | None = None,
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
    block: int = 2048,
    partial: bool = False,
    client: Client | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Compare a map with a reference of points, polygons or a class raster.

    The reference may be in any CRS and on any grid: polygons are burnt by the
    pixel-centre rule, rasters looked up at the mask's pixel centres. Classes are
    matched by name, whatever the case, or by value; classes of the reference that the
    map does not have stay in the matrix, as errors of the map.

    Args:
        masks: masks of geoseg (folder, URL or open store), a class raster, a Zarr of
            another tool, or a dataset or array of classes.
        reference: points, polygons or a class raster.
        column: column with class names or values; found by its usual names where None.
        layer: of a reference with several layers.
        mapping: from a name or value of the reference to a class of the map, or to
            `ignore`.
        map_classes: from a class of the map to the class that it counts as here, so
            that classes can be merged; objects keep theirs.
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
        block: side of a block in pixels; changes speed and memory, not the figures.
        partial: take masks that are not complete as they are, with a warning.
        client: Dask client to count blocks on; the figures are the same.
        progress: called with blocks done and blocks in all.

    Returns:
        All figures, with the estimator that was used and why.

    Raises:
        LabelsError: the reference cannot be read or does not lie on the map.
        MasksError: there are no such masks, or they lack what was asked for.
        GeosegError: no labelled pixel lies on a valid map pixel.
    """
    raise NotImplementedError  # `evaluate_map` is what runs


def merged_classes(
    classes: Sequence[Class], merged: Mapping[str, str]
) -> tuple[tuple[Class, ...], dict[int, int]]:
    """Return a map's class table with classes merged, and what each value counts as.

    Raises:
        GeosegError: the map has no class of a name that is to be merged.
    """
    by_name = {c.name.casefold(): c for c in classes}
    for name in merged:
        if name.casefold() not in by_name:
            known = [c.name for c in classes]
            raise GeosegError(
                f"--map-class {name}=…: the map has no class {name!r}; it has "
                f"{', '.join(known)}{did_you_mean(name, known)}"
            )
    target = {name.casefold(): to for name, to in merged.items()}
    table = tuple(c for c in classes if c.name.casefold() not in target)
    for to in merged.values():
        table, _ = with_class(table, to)
    counted_as = {
        c.value: with_class(table, target.get(c.name.casefold(), c.name))[1]
        for c in classes
    }
    return table, counted_as


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What is compared, and how; the same for every block."""

    masks: ClassReader
    labels: Labels
    counted_as: Mapping[int, int]
    """Class value that pixels of the map count as, by value."""
    areas: PixelAreas | None
    options: EvaluateOptions

    @property
    def k(self) -> int:
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


def _masks(job: _Job) -> Masks:
    """Return the map as masks of geoseg, which alone hold objects."""
    if isinstance(job.masks, Masks):
        return job.masks
    raise MasksError(
        f"{redact(job.masks.path)} holds no instances: segment with --task instance or "
        "panoptic"
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Tally:
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
        return int(self.counts.sum())

    def __add__(self, other: _Tally) -> _Tally:
        added = {
            f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)
        }
        return _Tally(**added)


def _run(
    job: _Job,
    windows: list[Window],
    threads: int | None,
    client: Client | None,
    progress: Callable[[int, int], None] | None,
) -> _Tally:
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
    ours = place[job.map_values(window)]
    touched = job.labels.touches(window)
    none = np.zeros((k, k), np.int64)
    tally = _Tally(
        mapped=np.bincount(ours.ravel(), minlength=k + 1)[:k],
        mapped_area=job.sums(ours, window, k + 1)[:k],
        counts=none,
        compared_area=none,
        squares=none.astype(np.float64),
        by_confidence=np.zeros((2, _LEVELS), np.int64),
        boundary=_boundaries(job, window) if touched else np.zeros((k, 4), np.int64),
        objects=(
            (tally_objects(_masks(job), job.labels, window),)
            if job.options.objects
            else ()
        ),
    )
    if not touched:
        return tally
    if isinstance(job.labels, PointLabels):
        return _with_points(job, window, ours, job.labels, tally)
    return _with_pixels(job, window, ours, tally)


def _objects(job: _Job, window: Window) -> tuple[ObjectTally, ...]:
    if not job.options.objects:
        return ()
    return (tally_objects(_masks(job), job.labels, window),)


def _with_points(
    job: _Job,
    window: Window,
    ours: NDArray[np.uint16],
    labels: PointLabels,
    tally: _Tally,
) -> _Tally:
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
    job: _Job, window: Window, ours: NDArray[np.uint16], tally: _Tally
) -> _Tally:
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
    job: _Job,
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


def _boundaries(job: _Job, window: Window) -> NDArray[np.int64]:
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


# --- from counts to figures -----------------------------------------------------------


def _estimate(job: _Job, total: _Tally) -> Accuracy:
    settings: dict[str, Any] = {
        "names": [c.name for c in job.labels.classes],
        "confidence": job.options.confidence,
        "finite_population": job.options.finite_population,
    }
    if not total.compared:
        raise GeosegError(
            f"no labelled pixel of {job.labels.name} lies on a valid pixel of "
            f"{redact(job.masks.path)}: nothing to evaluate"
        )
    strata = _strata(job, total)
    chosen = _chosen(job, drawn=strata is not None)
    settings |= {"estimator": chosen, "notes": tuple(_notes(job, total, chosen))}
    if chosen == "counts":
        return estimate(total.counts, **settings)
    if chosen == "stratified" and strata is not None:
        return strata.estimated(settings)
    strata = _Strata.of_classes(job, total)
    if isinstance(job.labels, PointLabels):
        return strata.estimated(settings)
    return replace(
        strata,
        counts=total.counts,
        areas=UnitAreas(sums=total.compared_area.astype(float), squares=total.squares),
    ).estimated(settings)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Strata:
    """A sample by stratum, and what is known of the strata."""

    names: list[str]
    counts: NDArray[np.int64]
    """(stratum, map class, reference class), or (map class, reference class)."""
    areas: UnitAreas
    """Of the sampled units, in the same shape."""
    pixels: NDArray[np.float64]
    """(stratum,) pixels; sampled units are of these."""
    sizes: NDArray[np.float64]
    """(stratum,) their area, in the units that `areas` are in."""

    @staticmethod
    def of_classes(job: _Job, total: _Tally) -> _Strata:
        """Return the map's classes as strata."""
        k = job.k
        ours = [ours.astype(np.intp) for _, ours in total.points]
        stratum = np.concatenate([np.zeros(0, np.intp), *ours])
        counts, areas = _sampled(job, total, np.minimum(stratum, k - 1), k)
        return _Strata(
            names=_with_areas([c.name for c in job.labels.classes], job, total),
            counts=counts,
            areas=areas,
            pixels=total.mapped.astype(np.float64),
            sizes=total.mapped_area.astype(np.float64),
        )

    def estimated(self, settings: dict[str, Any]) -> Accuracy:
        """Return the estimates."""
        return estimate(
            self.counts,
            strata=self.sizes,
            areas=self.areas,
            population=self.pixels,
            strata_names=self.names,
            **settings,
        )


def _with_areas(names: list[str], job: _Job, total: _Tally) -> list[str]:
    """Return names of classes with the areas that are mapped, where these are known."""
    if job.areas is None:
        return names
    described = []
    for name, m2 in zip(names, job.m2(total.mapped_area).tolist(), strict=True):
        factor, unit = area_unit(m2)
        described.append(f"{name}, {number(m2 / factor)} {unit}")
    return described


def _sampled(
    job: _Job, total: _Tally, stratum: NDArray[np.intp], strata: int
) -> tuple[NDArray[np.int64], UnitAreas]:
    """Return counts and areas (stratum, map class, reference class) of points.

    Args:
        job: what is compared.
        total: with the points that lie on the map, block by block.
        stratum: (point,) of each of those, in the same order.
        strata: how many strata there are.
    """
    shape = (strata, job.k, job.k)
    counts, sums, squares = np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape)
    if isinstance(job.labels, PointLabels) and total.points:
        points = np.concatenate([p for p, _ in total.points])
        ours = np.concatenate([o for _, o in total.points])
        theirs = job.lookup()[job.labels.values[points]]
        area = _point_areas(job, job.labels, points)
        known = (ours < job.k) & (theirs < job.k)
        # In the order of the file, so that float sums do not depend on blocks.
        order = np.flatnonzero(known)[np.argsort(points[known], kind="stable")]
        at = (stratum[order], ours[order], theirs[order])
        np.add.at(counts, at, 1)
        np.add.at(sums, at, area[order])
        np.add.at(squares, at, area[order] ** 2)
    return counts, UnitAreas(sums=sums, squares=squares)


def _point_areas(
    job: _Job, labels: PointLabels, points: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the areas of the pixels that hold points, in units."""
    if job.areas is None:
        return np.ones(len(points))
    return job.areas.of_pixels(labels.rows[points], labels.columns[points])


def _chosen(job: _Job, *, drawn: bool) -> Estimator:
    design = job.options.design
    if design == "auto":
        if job.labels.kind != "points":
            return "census"
        return "stratified" if drawn else "poststratified"
    if design == "random":
        return "poststratified"
    return design


def _strata(job: _Job, total: _Tally) -> _Strata | None:
    """Return the strata that points name, with their sizes; None where they do not."""
    labels = job.labels
    if not isinstance(labels, PointLabels):
        return None
    design, named, pixels, m2 = (
        _with_waiting(labels, name)
        for name in ("design", "stratum", "stratum_pixels", "stratum_m2")
    )
    drawn_otherwise = design is not None and design[0] != "stratified"
    if named is None or pixels is None or drawn_otherwise:
        return None
    strata, first, index = np.unique(
        np.asarray(named).astype(str), return_index=True, return_inverse=True
    )
    points = [p for p, _ in total.points]
    on_map = index[np.concatenate([np.zeros(0, np.intp), *points])]
    counts, areas = _sampled(job, total, on_map, len(strata))
    per_stratum = _same_within(labels, pixels, "stratum_pixels", first, index)
    if m2 is None or job.areas is None or not np.isfinite(m2).all():
        # Pixels times the mean area of those sampled: Horvitz & Thompson (1952).
        n = np.maximum(counts.sum(axis=(1, 2)), 1)
        sizes = per_stratum * areas.sums.sum(axis=(1, 2)) / n
    else:
        sizes = _same_within(labels, m2, "stratum_m2", first, index) / job.areas.unit
    return _Strata(
        names=strata.tolist(),
        counts=counts,
        areas=areas,
        pixels=per_stratum,
        sizes=sizes,
    )


def _with_waiting(labels: PointLabels, name: str) -> NDArray[Any] | None:
    """Return a column of points, then of those that wait for a label; None if missing.

    A stratum whose points all wait is a stratum too, which is named.
    """
    values = labels.attributes.get(name)
    if values is None:
        return None
    return np.append(values, labels.unlabelled.get(name, values[:0]))


def _same_within(
    labels: PointLabels,
    values: NDArray[Any],
    column: str,
    first: NDArray[np.intp],
    index: NDArray[np.intp],
) -> NDArray[np.float64]:
    """Return what all points of each stratum say of its size, (stratum,).

    Raises:
        LabelsError: they disagree.
    """
    if (values != values[first][index]).any():
        raise LabelsError(
            f"points of {labels.name} disagree on how large their stratum is: "
            f"`{column}` must be the same for all points of a stratum"
        )
    return values[first].astype(np.float64)


def _notes(job: _Job, total: _Tally, chosen: Estimator) -> Iterator[str]:
    k = job.k
    yield from job.labels.notes
    lacks = incomplete(job.masks)
    if lacks:
        yield f"the map is {lacks}"
    if job.areas is None:
        yield "the map has no place on the Earth: figures are of pixels, not of areas"
    elif chosen != "counts" and _spread_of_areas(total) > _ALIKE:
        yield _WEIGHED if chosen == "census" else f"{_WEIGHED}; {_EQUALLY_LIKELY}"
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


def _spread_of_areas(total: _Tally) -> float:
    """Return by how much mean pixels of classes differ in area, as a share."""
    some = total.mapped > 0
    mean = total.mapped_area[some] / total.mapped[some]
    return float(mean.max() / mean.min() - 1) if len(mean) else 0.0


def _boundary_score(job: _Job, total: _Tally) -> BoundaryScore | None:
    if job.options.boundary is None or job.labels.kind == "points":
        return None
    return BoundaryScore(
        names=tuple(c.name for c in job.labels.classes),
        distance=job.options.boundary,
        counts=total.boundary,
    )
