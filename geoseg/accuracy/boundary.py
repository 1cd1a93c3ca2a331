"""How well boundaries lie: precision, recall and F1 within a distance.

Csurka, Larlus, Perronnin (2013), "What is a good evaluation measure for semantic
segmentation?", BMVC. Counted pixel by pixel of the boundaries of each class, over the
whole map rather than averaged over pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import binary_dilation, distance_transform_edt

from geoseg.accuracy.interval import finite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoundaryScore:
    """Boundary pixels by class: how many, and how many have a partner close by."""

    names: tuple[str, ...]
    """Class names."""
    distance: float
    """How close is close, in pixels."""
    counts: NDArray[np.int64]
    """(class, 4): map boundary, of it near the reference's, and the other way round."""

    @property
    def precision(self) -> NDArray[np.float64]:
        """Share of the map's boundary near the reference's, by class."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.counts[:, 1] / self.counts[:, 0])

    @property
    def recall(self) -> NDArray[np.float64]:
        """Share of the reference's boundary near the map's, by class."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.counts[:, 3] / self.counts[:, 2])

    @property
    def f1(self) -> NDArray[np.float64]:
        """Harmonic mean of both; NaN where neither has a boundary."""
        p, r = np.nan_to_num(self.precision), np.nan_to_num(self.recall)
        with np.errstate(invalid="ignore", divide="ignore"):
            f1 = np.where(p + r > 0, 2 * p * r / (p + r), 0.0)
        return np.where(self.counts[:, [0, 2]].any(axis=1), f1, np.nan)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON has it."""
        rows = zip(self.names, self.precision, self.recall, self.f1, strict=True)
        return {
            "distance_px": self.distance,
            "classes": {
                name: {"precision": finite(p), "recall": finite(r), "f1": finite(f)}
                for name, p, r, f in rows
            },
        }


def halo(distance: float) -> int:
    """Return how many pixels around a block its boundary counts depend on."""
    return int(np.ceil(distance)) + 1


def count_boundaries(
    mapped: NDArray[np.integer[Any]],
    truth: NDArray[np.integer[Any]],
    values: Sequence[int],
    distance: float,
    inside: tuple[slice, slice],
) -> NDArray[np.int64]:
    """Count boundary pixels of each class and those with a partner close by.

    Args:
        mapped: (y, x) class values of the map, any other value where there is none.
        truth: (y, x) class values of the reference, likewise.
        values: class values to count.
        distance: how close is close, Euclidean, in pixels.
        inside: what to count; around it lie at least `halo(distance)` pixels, or the
            edge of the map.

    Returns:
        (class, 4) counts as in `BoundaryScore`.
    """
    known = np.isin(mapped, values) & np.isin(truth, values)
    counts = np.zeros((len(values), 4), np.int64)
    for k, value in enumerate(values):
        ours = _boundary(mapped == value, known)
        theirs = _boundary(truth == value, known)
        counts[k] = (
            ours[inside].sum(),
            _near(ours, theirs, distance)[inside].sum(),
            theirs[inside].sum(),
            _near(theirs, ours, distance)[inside].sum(),
        )
    return counts


def _boundary(region: NDArray[np.bool_], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return pixels of a region with a known 4-neighbour that is not of it."""
    return np.asarray(region & known & binary_dilation(known & ~region))


def _near(
    some: NDArray[np.bool_], others: NDArray[np.bool_], distance: float
) -> NDArray[np.bool_]:
    if not some.any() or not others.any():
        return np.zeros_like(some)
    return np.asarray(some & (distance_transform_edt(~others) <= distance))
