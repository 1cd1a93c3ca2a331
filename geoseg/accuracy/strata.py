"""From what was counted to figures: which estimator, of which strata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.accuracy.accuracy import Accuracy, Estimator, UnitAreas, estimate
from geoseg.accuracy.boundary import BoundaryScore
from geoseg.accuracy.tally import EvaluationJob, Tally
from geoseg.core.text import area_unit, counted, number, redact
from geoseg.errors import GeosegError, LabelsError
from geoseg.labels import PointLabels
from geoseg.maps.complete import incomplete

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ALIKE = 0.01  # by how much mean pixels may differ in area without a word
_WEIGHED = "pixels differ in area, and are weighted by it"
_EQUALLY_LIKELY = (
    "every pixel of a stratum is assumed to have been equally likely to be drawn (a "
    "ratio estimator, Cochran 1977)"
)


def estimated(job: EvaluationJob, total: Tally) -> Accuracy:
    """Return the figures that what was counted gives, by the design of the sample.

    Raises:
        GeosegError: no labelled pixel lies on a valid map pixel.
        LabelsError: points disagree on the sizes of their strata.
    """
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
    def of_classes(job: EvaluationJob, total: Tally) -> _Strata:
        """Return the map's classes as strata."""
        k = job.k
        ours = [ours.astype(np.intp) for _, ours in total.points]
        stratum = np.concatenate([np.zeros(0, np.intp), *ours])
        counts, areas = _sampled(job, total, np.minimum(stratum, k - 1), k)
        return _Strata(
            names=_with_areas(
                [c.name for c in job.labels.classes], job, total.mapped_area
            ),
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


def _with_areas(
    names: Sequence[str], job: EvaluationJob, sizes: NDArray[Any]
) -> list[str]:
    """Return names of strata with their areas, where these are known."""
    if job.areas is None:
        return list(names)
    described = []
    for name, m2 in zip(names, job.m2(sizes).tolist(), strict=True):
        factor, unit = area_unit(m2)
        described.append(f"{name}, {number(m2 / factor)} {unit}")
    return described


def _sampled(
    job: EvaluationJob, total: Tally, stratum: NDArray[np.intp], strata: int
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
    job: EvaluationJob, labels: PointLabels, points: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the areas of the pixels that hold points, in units."""
    if job.areas is None:
        return np.ones(len(points))
    return job.areas.of_pixels(labels.rows[points], labels.columns[points])


def _chosen(job: EvaluationJob, *, drawn: bool) -> Estimator:
    design = job.options.design
    if design == "auto":
        if job.labels.kind != "points":
            return "census"
        return "stratified" if drawn else "poststratified"
    if design == "random":
        return "poststratified"
    return design


def _strata(job: EvaluationJob, total: Tally) -> _Strata | None:
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
    names, more = strata.tolist(), _without_points(job, total, strata, on_map)
    if more.any():
        names += [c.name for c, m in zip(job.labels.classes, more, strict=True) if m]
        none = np.zeros((more.sum(), job.k, job.k))
        counts = np.concatenate([counts, none.astype(np.int64)])
        areas = UnitAreas(
            sums=np.concatenate([areas.sums, none]),
            squares=np.concatenate([areas.squares, none]),
        )
        per_stratum = np.append(per_stratum, total.mapped[more])
        sizes = np.append(sizes, total.mapped_area[more])
    return _Strata(
        names=_with_areas(names, job, sizes),
        counts=counts,
        areas=areas,
        pixels=per_stratum,
        sizes=sizes,
    )


def _without_points(
    job: EvaluationJob, total: Tally, strata: NDArray[Any], on_map: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Return which classes, (class,), are strata that no point was drawn of.

    None where the strata are not the map's classes.

    Args:
        job: what is compared.
        total: with the points that lie on the map, block by block.
        strata: names of those that points are of.
        on_map: (point,) the stratum of each of those on the map, in the same order.
    """
    names = np.array([c.name for c in job.labels.classes])
    ours = np.concatenate([np.zeros(0, np.intp), *(o for _, o in total.points)])
    on_class = ours < job.k
    alike = names[ours[on_class].astype(np.intp)] == strata[on_map[on_class]]
    missing: NDArray[np.bool_] = (total.mapped > 0) & ~np.isin(names, strata)
    return missing & bool(alike.all())


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


def _notes(job: EvaluationJob, total: Tally, chosen: Estimator) -> Iterator[str]:
    k = job.k
    yield from job.labels.notes
    lacks = incomplete(job.masks)
    if lacks:
        yield f"the map is {lacks}"
    if job.areas is None:
        yield "the map has no CRS that gives areas: figures are of pixels, not of areas"
    elif chosen != "counts" and _spread_of_areas(total) > _ALIKE:
        yield _WEIGHED if chosen == "census" else f"{_WEIGHED}; {_EQUALLY_LIKELY}"
    if isinstance(job.labels, PointLabels):
        missed = len(job.labels.values) - total.compared
        if missed:
            yield f"left out, as the map has no class there: {counted(missed, 'point')}"
    elif total.compared < total.mapped.sum():
        share = total.compared / total.mapped.sum()
        yield f"the reference covers {share:.1%} of the mapped pixels"
    for i in range(k):
        name = job.labels.classes[i].name
        if total.counts[i].any() and not total.counts[:, i].any():
            yield f"class {name!r} is in the map, but not in the reference"
        if total.counts[:, i].any() and not total.mapped[i]:
            yield f"class {name!r} is in the reference, but not in the map"


def _spread_of_areas(total: Tally) -> float:
    """Return by how much mean pixels of classes differ in area, as a share."""
    some = total.mapped > 0
    mean = total.mapped_area[some] / total.mapped[some]
    return float(mean.max() / mean.min() - 1) if len(mean) else 0.0


def boundary_score(job: EvaluationJob, total: Tally) -> BoundaryScore | None:
    """Return how well boundaries lie, where that was asked for."""
    if job.options.boundary is None or job.labels.kind == "points":
        return None
    return BoundaryScore(
        names=tuple(c.name for c in job.labels.classes),
        distance=job.options.boundary,
        counts=total.boundary,
    )
