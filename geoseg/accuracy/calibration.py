"""Whether stored confidence means what it says.

Guo, Pleiss, Sun, Weinberger (2017), "On calibration of modern neural networks", ICML.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


_BINS = 15


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """How often the map is right, by how sure it was: a reliability diagram."""

    confidence: NDArray[np.float64]
    """Mean confidence in each bin, 0 … 1; NaN where a bin is empty."""
    accuracy: NDArray[np.float64]
    """Share of right pixels in each bin; NaN where a bin is empty."""
    n: NDArray[np.int64]
    """Pixels or points in each bin; bins are equally wide, from 0 to 1."""

    @property
    def ece(self) -> float:
        """Expected calibration error: mean gap between the two, by how many."""
        gap = np.abs(np.nan_to_num(self.confidence) - np.nan_to_num(self.accuracy))
        return float((gap * self.n).sum() / self.n.sum())

    @property
    def mce(self) -> float:
        """Greatest gap of any bin."""
        return float(np.nanmax(np.abs(self.confidence - self.accuracy)))

    @property
    def bias(self) -> float:
        """Mean confidence minus accuracy: above zero, it is too sure of itself."""
        gap = np.nan_to_num(self.confidence) - np.nan_to_num(self.accuracy)
        return float((gap * self.n).sum() / self.n.sum())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON has it."""
        return {
            "ece": self.ece,
            "mce": self.mce,
            "bias": self.bias,
            "bins": [
                {"confidence": float(c), "accuracy": float(a), "n": int(n)}
                for c, a, n in zip(self.confidence, self.accuracy, self.n, strict=True)
                if n
            ],
        }


def calibrate(right: ArrayLike, wrong: ArrayLike) -> Calibration | None:
    """Return the calibration from counts by stored confidence.

    Args:
        right: (levels,) how many pixels of each stored level are right; levels are
            spread evenly from 0 to 1.
        wrong: (levels,) how many are wrong.

    Returns:
        The calibration, or None where nothing was counted.
    """
    good, bad = np.asarray(right, np.int64), np.asarray(wrong, np.int64)
    total = good + bad
    if not total.sum():
        return None
    level = np.linspace(0, 1, len(total))
    index = np.minimum((level * _BINS).astype(int), _BINS - 1)
    n = np.bincount(index, total, _BINS)
    with np.errstate(invalid="ignore"):
        return Calibration(
            confidence=np.bincount(index, level * total, _BINS) / n,
            accuracy=np.bincount(index, good, _BINS) / n,
            n=n.astype(np.int64),
        )
