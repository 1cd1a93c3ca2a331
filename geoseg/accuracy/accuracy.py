"""From a confusion matrix to estimates with their uncertainty: statistics only.

Every figure here is a mean or a ratio of two means over a stratified sample, so one
estimator does for all of them: the separate indicators of Stehman (2014), of which the
formulas of Olofsson et al. (2014) are the case where the strata are the map's classes,
and simple random sampling the case of a single stratum.

Olofsson, Foody, Herold, Stehman, Woodcock, Wulder (2014), "Good practices for
estimating area and assessing accuracy of land change", Remote Sensing of Environment
148, 42-57. Stehman (2014), "Estimating area and map accuracy for stratified random
sampling when the strata are different from the map classes", International Journal of
Remote Sensing 35, 4923-4939. Pontius & Millones (2011), "Death to Kappa", International
Journal of Remote Sensing 32, 4407-4429.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from geoseg.errors import GeosegError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

Estimator = Literal["census", "stratified", "poststratified", "counts"]

_WHY = {
    "census": "every pixel of the overlap was compared, so there is no sampling error; "
    "the figures speak of that overlap only",
    "stratified": "a random sample in each stratum, weighted by the stratum's size "
    "(Stehman 2014; Olofsson et al. 2014 where the strata are the map's classes)",
    "poststratified": "weighted afterwards by the mapped area of each class (Olofsson "
    "et al. 2014); valid if the sample was drawn at random, not picked by hand",
    "counts": "the sample's own proportions, unweighted; they describe the sample, and "
    "the map only if it was a simple random sample",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure and how sure it is."""

    value: float
    """The estimate; NaN where nothing was sampled that could tell."""
    standard_error: float
    """Its standard error; 0 for a census, NaN where the sample is too small to tell."""
    confidence: float = 0.95
    """Confidence level of `margin`, `low` and `high`."""

    @property
    def margin(self) -> float:
        """Half the width of the confidence interval (normal approximation).

        The quantile has three decimals, as in the tables that papers use: 1.960.
        """
        z = round(NormalDist().inv_cdf(0.5 + self.confidence / 2), 3)
        return z * self.standard_error

    @property
    def low(self) -> float:
        """Lower end of the confidence interval, not below zero."""
        return max(0.0, self.value - self.margin) if self._known else float("nan")

    @property
    def high(self) -> float:
        """Upper end of the confidence interval."""
        return self.value + self.margin if self._known else float("nan")

    @property
    def _known(self) -> bool:
        return bool(np.isfinite(self.value) and np.isfinite(self.standard_error))

    def scaled(self, factor: float) -> Estimate:
        """Return the same figure in other units, such as proportions as areas."""
        return Estimate(
            value=self.value * factor,
            standard_error=self.standard_error * factor,
            confidence=self.confidence,
        )

    def to_dict(self) -> dict[str, float | None]:
        """Return value, standard error and interval; None for what is unknown."""
        return {
            "value": _finite(self.value),
            "standard_error": _finite(self.standard_error),
            "low": _finite(self.low),
            "high": _finite(self.high),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassAccuracy:
    """What is known of one class."""

    users: Estimate
    """User's accuracy (precision): how much of what the map calls so is so."""
    producers: Estimate
    """Producer's accuracy (recall): how much of what is so the map calls so."""
    f1: Estimate
    """Harmonic mean of both."""
    iou: Estimate
    """Intersection over union (Jaccard)."""
    area: Estimate
    """Proportion of the area that is of this class, by the reference."""
    mapped: float
    """Proportion of the area that the map calls so."""
    quantity: float
    """Quantity disagreement: mapped and true proportion differ by this."""
    allocation: float
    """Allocation disagreement: right in amount, wrong in place."""

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON has them."""
        return {
            "users_accuracy": self.users.to_dict(),
            "producers_accuracy": self.producers.to_dict(),
            "f1": self.f1.to_dict(),
            "iou": self.iou.to_dict(),
            "area_proportion": self.area.to_dict(),
            "mapped_proportion": _finite(self.mapped),
            "quantity_disagreement": _finite(self.quantity),
            "allocation_disagreement": _finite(self.allocation),
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Accuracy:
    """How good a map is, and how sure that is."""

    names: tuple[str, ...]
    """Class names, in the order of the rows and columns."""
    counts: NDArray[np.int64]
    """Sampled pixels or points, (map class, reference class)."""
    proportions: NDArray[np.float64]
    """Estimated proportions of area, (map class, reference class); they add to 1."""
    overall: Estimate
    """Proportion of the area that is mapped right."""
    per_class: tuple[ClassAccuracy, ...]
    """By class, in the order of `names`."""
    estimator: Estimator
    """Which estimator was used."""
    notes: tuple[str, ...]
    """Why that estimator, and what limits the figures; one sentence each."""

    @property
    def n(self) -> int:
        """Number of sampled pixels or points."""
        return int(self.counts.sum())

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the classes that occur in map or reference."""
        values = np.array([c.iou.value for c in self.per_class])
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")

    @property
    def quantity(self) -> float:
        """Total quantity disagreement; with `allocation` it adds to 1 - overall."""
        return sum(c.quantity for c in self.per_class) / 2

    @property
    def allocation(self) -> float:
        """Total allocation disagreement."""
        return sum(c.allocation for c in self.per_class) / 2

    @property
    def kappa(self) -> float:
        """Cohen's kappa of the estimated proportions.

        Not shown unless asked for: it adds nothing to overall accuracy and misleads
        (Pontius & Millones 2011; Foody 2020).
        """
        chance = float(self.proportions.sum(axis=1) @ self.proportions.sum(axis=0))
        return (self.overall.value - chance) / (1 - chance) if chance < 1 else 1.0

    def to_dict(self, *, kappa: bool = False) -> dict[str, Any]:
        """Return everything as JSON has it."""
        named = zip(self.names, self.per_class, strict=True)
        extra = {"kappa": _finite(self.kappa)} if kappa else {}
        return {
            "estimator": self.estimator,
            "notes": list(self.notes),
            "n": self.n,
            "overall_accuracy": self.overall.to_dict(),
            "mean_iou": _finite(self.mean_iou),
            "quantity_disagreement": _finite(self.quantity),
            "allocation_disagreement": _finite(self.allocation),
            **extra,
            "classes": {name: figures.to_dict() for name, figures in named},
            "confusion_matrix": {
                "rows": "map",
                "columns": "reference",
                "names": list(self.names),
                "counts": self.counts.tolist(),
                "proportions": self.proportions.tolist(),
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Sample:
    """Counts (stratum, map class, reference class) and how much each stratum weighs."""

    counts: NDArray[np.float64]
    sizes: NDArray[np.float64]
    correct_for_finite: bool
    confidence: float
    census: bool

    def ratio(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> Estimate:
        """Estimate the ratio of the totals of y and x, each given by table cell.

        Equations 27 and 28 of Stehman (2014); with x = 1 everywhere they are his
        equations 3 and 25, for a mean.
        """
        n = self.counts.sum(axis=(1, 2))

        def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.asarray((self.counts * values).sum(axis=(1, 2)) / n)

        total_y, total_x = self.sizes @ mean(y), self.sizes @ mean(x)
        if total_x == 0:
            return self._estimate(float("nan"), float("nan"))
        ratio = float(total_y / total_x)
        if self.census:
            return self._estimate(ratio, 0.0)
        residual = y - ratio * x
        spread = np.maximum(mean(residual**2) - mean(residual) ** 2, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            # One sample says nothing of its stratum's spread: 0 / 0, and NaN is right.
            variance = spread / (n - 1)
        if self.correct_for_finite:
            variance = variance * np.maximum(1 - n / self.sizes, 0)
        return self._estimate(
            ratio, float(np.sqrt((self.sizes**2 * variance).sum()) / total_x)
        )

    def _estimate(self, value: float, standard_error: float) -> Estimate:
        return Estimate(
            value=value, standard_error=standard_error, confidence=self.confidence
        )


def estimate(
    counts: ArrayLike,
    *,
    names: Sequence[str],
    strata: ArrayLike | None = None,
    estimator: Estimator = "stratified",
    confidence: float = 0.95,
    finite_population: bool = False,
    notes: Sequence[str] = (),
) -> Accuracy:
    """Estimate accuracy and areas from a confusion matrix.

    Args:
        counts: sampled units: (map class, reference class) where the strata are the
            map's classes or the whole map; else (stratum, map class, reference class).
        names: class names.
        strata: sizes of the strata in any one unit (pixels, hectares): with a 2-D
            matrix the mapped size of each class, with a 3-D one that of each stratum.
            Not for `census` and `counts`, which weigh every unit alike.
        estimator: `stratified` and `poststratified` weigh by `strata`; `census` knows
            no sampling error; `counts` is a simple random sample, or only itself.
        confidence: level of the intervals.
        finite_population: shrink standard errors by 1 - n/N per stratum, with `strata`
            in pixels (Stehman 2014); Olofsson et al. (2014) leave it out.
        notes: sentences to carry along.

    Returns:
        The estimates. Strata without samples are left out, and a note says so.

    Raises:
        GeosegError: shapes do not go together, or nothing was sampled.
    """
    table = np.asarray(counts, dtype=np.float64)
    weighted = estimator in ("stratified", "poststratified")
    by_stratum, sizes = _by_stratum(table, strata if weighted else None, len(names))
    sampled = by_stratum.sum(axis=(1, 2))
    if sampled.sum() == 0:
        raise GeosegError(
            "nothing to evaluate: no sampled point or pixel lies on a valid map pixel"
        )
    kept = sampled > 0
    sample = _Sample(
        counts=by_stratum[kept],
        sizes=sizes[kept],
        correct_for_finite=finite_population,
        confidence=confidence,
        census=estimator == "census",
    )
    limits = _limits(sampled, sizes) if weighted else ()
    return _assess(sample, names, estimator, (_WHY[estimator], *notes, *limits))


def _by_stratum(
    table: NDArray[np.float64], strata: ArrayLike | None, classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return counts as (stratum, map, reference), and the strata's sizes."""
    if table.ndim not in (2, 3) or table.shape[-2:] != (classes, classes):
        raise GeosegError(
            f"a confusion matrix of shape {table.shape} does not go with {classes} "
            "class names: it must be (map, reference) or (stratum, map, reference)"
        )
    if (table < 0).any():
        raise GeosegError("a confusion matrix has negative counts")
    if strata is None:
        whole = table if table.ndim == 2 else table.sum(axis=0)
        return whole[None], np.ones(1)
    sizes = np.asarray(strata, dtype=np.float64)
    if table.ndim == 2:
        split = np.zeros((classes, classes, classes))
        rows = np.arange(classes)
        split[rows, rows] = table
        table = split
    if (
        sizes.shape != (len(table),)
        or not np.isfinite(sizes).all()
        or (sizes < 0).any()
    ):
        raise GeosegError(
            f"{len(table)} strata need as many finite sizes >= 0, got {sizes.tolist()}"
        )
    empty = (sizes == 0) & (table.sum(axis=(1, 2)) > 0)
    if empty.any():
        raise GeosegError(
            f"strata {np.flatnonzero(empty).tolist()} hold samples but have size 0"
        )
    return table, sizes


def _limits(
    sampled: NDArray[np.float64], sizes: NDArray[np.float64]
) -> tuple[str, ...]:
    """Say what the sample cannot tell."""
    found = []
    missed = (sampled == 0) & (sizes > 0)
    if missed.any():
        share = sizes[missed].sum() / sizes.sum()
        found.append(
            f"{int(missed.sum())} strata without samples ({share:.1%} of the area) "
            "are left out of every figure"
        )
    lonely = int(((sampled == 1) & (sizes > 0)).sum())
    if lonely:
        found.append(
            f"{lonely} strata hold a single sample, which tells nothing of the spread: "
            "intervals that depend on them are unknown"
        )
    return tuple(found)


def _assess(
    sample: _Sample,
    names: Sequence[str],
    estimator: Estimator,
    notes: tuple[str, ...],
) -> Accuracy:
    k = len(names)
    n = sample.counts.sum(axis=(1, 2))
    weights = sample.sizes / sample.sizes.sum() / n
    proportions = np.einsum("h,hij->ij", weights, sample.counts)
    return Accuracy(
        names=tuple(names),
        counts=sample.counts.sum(axis=0).round().astype(np.int64),
        proportions=proportions,
        overall=sample.ratio(np.eye(k), np.ones((k, k))),
        per_class=tuple(_assess_class(sample, proportions, i) for i in range(k)),
        estimator=estimator,
        notes=notes,
    )


def _assess_class(
    sample: _Sample, proportions: NDArray[np.float64], index: int
) -> ClassAccuracy:
    k = len(proportions)
    mapped, true = np.zeros((k, k)), np.zeros((k, k))
    mapped[index, :] = 1
    true[:, index] = 1
    both = mapped * true
    share_map, share_true = proportions[index].sum(), proportions[:, index].sum()
    right = proportions[index, index]
    return ClassAccuracy(
        users=sample.ratio(both, mapped),
        producers=sample.ratio(both, true),
        f1=sample.ratio(2 * both, mapped + true),
        iou=sample.ratio(both, mapped + true - both),
        area=sample.ratio(true, np.ones((k, k))),
        mapped=float(share_map),
        quantity=float(abs(share_map - share_true)),
        allocation=float(2 * min(share_map - right, share_true - right)),
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
