"""A figure and its confidence interval."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure and how sure it is."""

    value: float
    """The estimate; NaN where nothing was sampled that could tell."""
    standard_error: float
    """Its standard error; 0 for a census, NaN where the sample is too small to tell."""
    confidence: float = 0.95
    """Confidence level of `margin`, `low` and `high`."""
    most: float = float("inf")
    """The largest value there can be: 1 for a proportion; infinite where unknown."""
    n: float = float("nan")
    """Sampled units that a proportion is of; NaN for a census."""

    @property
    def margin(self) -> float:
        """Half the width of the confidence interval (normal approximation)."""
        return self._z * self.standard_error

    @property
    def low(self) -> float:
        """Lower end of the confidence interval, not below zero."""
        return self._interval()[0]

    @property
    def high(self) -> float:
        """Upper end of the confidence interval, not above `most`."""
        return self._interval()[1]

    @property
    def _z(self) -> float:
        """The normal quantile, to three decimals as in the papers' tables: 1.960."""
        return round(NormalDist().inv_cdf(0.5 + self.confidence / 2), 3)

    def _interval(self) -> tuple[float, float]:
        """Return both ends of the interval.

        The normal one, as in Olofsson et al. (2014), as long as it lies within 0 and
        `most`; else on the logit scale (Korn & Graubard 1999, "Analysis of health
        surveys"). Where all or none of a sample is so, that of Wilson (1927).
        """
        if not (np.isfinite(self.value) and np.isfinite(self.standard_error)):
            return float("nan"), float("nan")
        low, high = self.value - self.margin, self.value + self.margin
        p = self.value / self.most
        if p in (0, 1) and self.standard_error == 0 and self.n > 0:
            wide = self.most * self._z**2 / (self.n + self._z**2)
            return (0.0, wide) if p == 0 else (self.most - wide, self.most)
        if not np.isfinite(self.most) or not 0 < p < 1:
            return max(0.0, low), min(self.most, high)
        if low >= 0 and high <= self.most:
            return low, high
        logit = np.log(p / (1 - p))
        half = self._z * self.standard_error / self.most / (p * (1 - p))
        # The logistic function, in a form that does not overflow.
        ends = self.most / 2 * (1 + np.tanh((logit + half * np.array([-1.0, 1.0])) / 2))
        return float(ends[0]), float(ends[1])

    def scaled(self, factor: float) -> Estimate:
        """Return the same figure in other units, such as proportions as areas."""
        return replace(
            self,
            value=self.value * factor,
            standard_error=self.standard_error * factor,
            most=self.most * factor,
        )

    def to_dict(self) -> dict[str, float | None]:
        """Return value, standard error and interval; None for what is unknown."""
        return {
            "value": finite(self.value),
            "standard_error": finite(self.standard_error),
            "low": finite(self.low),
            "high": finite(self.high),
        }


def share_of_blocks(moments: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Return the share of pixels that are right, as surely as blocks of them tell it.

    Pixels of a block are alike, so it is the blocks that were sampled: the ratio of two
    means, with its variance between them (Cochran 1977, "Sampling techniques", 6.3).

    Args:
        moments: (3, 3) the sum over blocks of the outer products of (1, pixels that are
            right, pixels), which adds up over batches and processes.
        confidence: level of the interval.
    """
    sums = np.asarray(moments, np.float64)
    blocks, known = sums[0, 0], sums[0, 2]
    share = sums[0, 1] / known
    squares = sums[1, 1] - 2 * share * sums[1, 2] + share**2 * sums[2, 2]
    variance = squares * blocks / (blocks - 1) if blocks > 1 else float("nan")
    return Estimate(
        value=float(share),
        standard_error=float(np.sqrt(max(variance, 0.0)) / known),
        confidence=confidence,
        most=1.0,
        n=float(blocks),
    )


def finite(value: float) -> float | None:
    """Return a number as JSON has it: None for what is unknown."""
    return float(value) if np.isfinite(value) else None
