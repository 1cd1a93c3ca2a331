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

**Pixels of different area.** On a grid in degrees, and on any that is not equal-area,
pixels differ in ground area, and what is asked for are shares of the ground. So every
sampled unit weighs by its area and strata by theirs; where all pixels have the same
area these are the formulas of the papers. A census is then exact. A sample in which
every pixel of a stratum is equally likely, as `geoseg sample` draws it, over-represents
small pixels; weighed by area it is a ratio estimator: consistent, with a bias of order
1/n (Cochran 1977, "Sampling techniques", chapter 6). It is unbiased in the strict sense
on equal-area grids only. Points that were spread evenly over the ground instead must
not be weighed: evaluate them on an equal-area grid, or as `counts`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from geoseg.accuracy.interval import Estimate, finite
from geoseg.core.text import percent
from geoseg.errors import GeosegError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

Estimator = Literal["census", "stratified", "poststratified", "counts"]

_ROUNDING = 1e-12

_WHY = {
    "census": "every pixel of the overlap was compared, so there is no sampling error; "
    "the figures hold for that overlap only",
    "stratified": "a random sample in each stratum, weighted by the stratum's size "
    "(Stehman 2014; Olofsson et al. 2014 where the strata are the map's classes)",
    "poststratified": "weighted afterwards by the mapped area of each class (Olofsson "
    "et al. 2014); valid if the sample was drawn at random, not picked by hand",
    "counts": "the sample's own proportions, unweighted; they describe the sample, and "
    "the map only if it was a simple random sample",
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
            "mapped_proportion": finite(self.mapped),
            "quantity_disagreement": finite(self.quantity),
            "allocation_disagreement": finite(self.allocation),
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
    covered: float = 1.0
    """Share of the area that the figures are of: 1 but for strata without samples."""

    def __repr__(self) -> str:
        right, low, high = self.overall.value, self.overall.low, self.overall.high
        sure = f" ({low:.3f} … {high:.3f})" if high > low else ""
        return f"<Accuracy {right:.3f}{sure} by {self.n:,}, {self.estimator}>"

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
        extra = {"kappa": finite(self.kappa)} if kappa else {}
        return {
            "estimator": self.estimator,
            "notes": list(self.notes),
            "n": self.n,
            "overall_accuracy": self.overall.to_dict(),
            "mean_iou": finite(self.mean_iou),
            "quantity_disagreement": finite(self.quantity),
            "allocation_disagreement": finite(self.allocation),
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
class UnitAreas:
    """Areas of the sampled units, summed like their counts; any one unit of area."""

    sums: NDArray[np.float64]
    """Sum of their areas."""
    squares: NDArray[np.float64]
    """Sum of their squared areas."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Sample:
    """What was sampled, by (stratum, map class, reference class), and the strata."""

    counts: NDArray[np.float64]
    """Sampled units."""
    areas: NDArray[np.float64]
    """Sum of their areas."""
    squares: NDArray[np.float64]
    """Sum of their squared areas."""
    sizes: NDArray[np.float64]
    """(stratum,) its area."""
    unsampled: NDArray[np.float64]
    """(stratum,) share of its units that variances are of: 1, or 1 - n/N."""
    confidence: float
    census: bool

    @staticmethod
    def of(
        counts: NDArray[np.float64],
        areas: NDArray[np.float64],
        squares: NDArray[np.float64],
        sizes: NDArray[np.float64],
        population: NDArray[np.float64] | None,
        confidence: float,
        *,
        finite: bool,
        census: bool,
    ) -> _Sample:
        n = counts.sum(axis=(1, 2))
        unsampled = np.ones(len(n))
        if population is not None:
            left = np.maximum(1 - n / population, 0)
            # Of a stratum that was looked at wholly nothing is left to chance.
            unsampled = left if finite else np.where(left > 0, 1.0, 0.0)
        return _Sample(
            counts=counts, areas=areas, squares=squares, sizes=sizes,
            unsampled=unsampled, confidence=confidence, census=census,
        )  # fmt: skip

    def means(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean by area in each stratum of values given by table cell."""
        whole = self.areas.sum(axis=(1, 2))
        return np.asarray((self.areas * values).sum(axis=(1, 2)) / whole)

    def ratio(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> Estimate:
        """Estimate the ratio of the totals of y and x, each given by table cell.

        Equations 27 and 28 of Stehman (2014), units weighed by their areas; with x = 1
        everywhere they are his equations 3 and 25, for a mean.
        """
        by_stratum = self.sizes * self.means(x)
        total_x = by_stratum.sum()
        n = float(self.counts.sum(axis=0)[x > 0].sum())
        if total_x == 0:
            return self._estimate(float("nan"), float("nan"), n)
        ratio = float(self.sizes @ self.means(y) / total_x)
        ratio = 1.0 if abs(ratio - 1) < _ROUNDING else ratio
        if self.census:
            return self._estimate(ratio, 0.0, float("nan"))
        several = (self.counts.sum(axis=(1, 2)) > 1) | (self.unsampled == 0)
        if not by_stratum[several].any():  # single units tell nothing of a spread
            return self._estimate(ratio, float("nan"), n)
        variance = (self.unsampled * self._variances(y - ratio * x)).sum()
        return self._estimate(ratio, float(np.sqrt(variance) / total_x), n)

    def _variances(self, residual: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the variance of each stratum's total of residuals.

        A stratum with a single unit has no spread of its own: it is collapsed with all
        others (Cochran 1977, section 5A.12), and the distance of its unit from their
        mean stands for it. That errs on the safe side.
        """
        n = self.counts.sum(axis=(1, 2))
        single = n == 1
        mean = self.means(residual)
        # Residuals add up to 0, so that the others' mean follows from its own.
        others = np.maximum(self.sizes.sum() - self.sizes, np.finfo(float).tiny)
        centre = np.where(single, -self.sizes * mean / others, mean)
        spread = (residual - centre[:, None, None]) ** 2
        per_unit = (self.squares * spread).sum(axis=(1, 2))
        per_unit *= n / np.where(single, 1, n - 1)
        return np.asarray((self.sizes / self.areas.sum(axis=(1, 2))) ** 2 * per_unit)

    def _estimate(self, value: float, standard_error: float, n: float) -> Estimate:
        return Estimate(
            value=value,
            standard_error=standard_error,
            confidence=self.confidence,
            most=1.0,
            n=n,
        )


def estimate(
    counts: ArrayLike,
    *,
    names: Sequence[str],
    strata: ArrayLike | None = None,
    estimator: Estimator = "stratified",
    confidence: float = 0.95,
    finite_population: bool = False,
    areas: UnitAreas | None = None,
    population: ArrayLike | None = None,
    strata_names: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> Accuracy:
    """Estimate accuracy and areas from a confusion matrix.

    Args:
        counts: sampled units: (map class, reference class) where the strata are the
            map's classes or the whole map; else (stratum, map class, reference class).
        names: class names.
        strata: sizes of the strata in any one unit of area (pixels where all have the
            same): with a 2-D matrix the mapped size of each class, with a 3-D one that
            of each stratum. Not for `census` and `counts`, which weigh the whole alike.
        estimator: `stratified` and `poststratified` weigh by `strata`; `census` knows
            no sampling error; `counts` is a simple random sample, or only itself.
        confidence: level of the intervals.
        finite_population: shrink standard errors by 1 - n/N per stratum (Stehman 2014);
            Olofsson et al. (2014) leave it out.
        areas: of the sampled units, where these differ; see the module. None: all have
            the same.
        population: units in each stratum, as in N above; None: `strata` are in units.
        strata_names: what messages call the strata; the classes where these are they.
        notes: sentences to carry along.

    Returns:
        The estimates. Strata without samples are left out, and a note names them.

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
    units = population if population is not None or not finite_population else strata
    alike = UnitAreas(sums=table, squares=table)
    sums, squares = (
        _shaped(np.asarray(a, np.float64), weighted=weighted)[kept]
        for a in ((areas or alike).sums, (areas or alike).squares)
    )
    sample = _Sample.of(
        by_stratum[kept],
        sums,
        squares,
        sizes[kept],
        np.asarray(units, np.float64)[kept] if weighted and units is not None else None,
        confidence,
        finite=finite_population,
        census=estimator == "census",
    )
    called = strata_names or (names if table.ndim == 2 else range(len(sizes)))
    limits = _limits(sampled, sizes, [str(c) for c in called]) if weighted else ()
    return replace(
        _assess(sample, names, estimator, (_WHY[estimator], *notes, *limits)),
        covered=float(sizes[kept].sum() / sizes.sum()),
    )


def _by_stratum(
    table: NDArray[np.float64], strata: ArrayLike | None, classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return counts as (stratum, map, reference), and the strata's sizes."""
    if table.ndim not in (2, 3) or table.shape[-2:] != (classes, classes):
        raise GeosegError(
            f"a confusion matrix of shape {table.shape} does not fit {classes} "
            "class names: it must be (map, reference) or (stratum, map, reference)"
        )
    if (table < 0).any():
        raise GeosegError("a confusion matrix has negative counts")
    table = _shaped(table, weighted=strata is not None)
    if strata is None:
        return table, np.ones(1)
    sizes = np.asarray(strata, dtype=np.float64)
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


def _shaped(table: NDArray[np.float64], *, weighted: bool) -> NDArray[np.float64]:
    """Return (map, reference) as (stratum, map, reference); one stratum if unweighted.

    Strata of a weighted 2-D table are the map's classes.
    """
    if not weighted:
        return (table if table.ndim == 2 else table.sum(axis=0))[None]
    if table.ndim == 3:
        return table
    rows = np.arange(len(table))
    split = np.zeros((len(table), *table.shape))
    split[rows, rows] = table
    return split


def _limits(
    sampled: NDArray[np.float64], sizes: NDArray[np.float64], names: Sequence[str]
) -> tuple[str, ...]:
    """Say what the sample cannot tell."""
    found = []
    missed = (sampled == 0) & (sizes > 0)
    if missed.any():
        share = sizes[missed].sum() / sizes.sum()
        found.append(
            f"strata without samples ({_listed(names, missed)}; {percent(share)} of "
            "the area) are left out of every figure"
        )
    single = (sampled == 1) & (sizes > 0)
    if single.any():
        found.append(
            f"strata with a single sample ({_listed(names, single)}) have no variance "
            "of their own: the distance of that sample from all others is used for it"
        )
    return tuple(found)


def _listed(names: Sequence[str], chosen: NDArray[np.bool_]) -> str:
    some = [name for name, c in zip(names, chosen, strict=True) if c]
    return ", ".join(some[:5]) + (f" and {len(some) - 5} more" if len(some) > 5 else "")


def _assess(
    sample: _Sample,
    names: Sequence[str],
    estimator: Estimator,
    notes: tuple[str, ...],
) -> Accuracy:
    k = len(names)
    weights = sample.sizes / sample.sizes.sum() / sample.areas.sum(axis=(1, 2))
    proportions = np.einsum("h,hij->ij", weights, sample.areas)
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
