"""Pixel features: what a pixel and its surroundings look like, as numbers.

Bands, normalised differences between them, and at several scales the Gaussian mean,
gradient and spread of each band: the usual step before a classical classifier.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy.ndimage import gaussian_filter, sobel

from geoseg.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TRUNCATE = 3.0  # standard deviations at which a Gaussian ends


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelFeatures:
    """Which features a pixel has. A value: it is kept on the model's card."""

    scales: tuple[float, ...] = (1.0, 2.0, 4.0)
    """Standard deviations of the Gaussians, in pixels; none for pixels on their own."""
    edges: bool = True
    """The length of the gradient, at each scale."""
    texture: bool = True
    """The standard deviation under the Gaussian, at each scale."""
    differences: bool = False
    """Normalised differences (a - b) / (a + b) of all pairs of bands."""

    def __post_init__(self) -> None:
        if any(not 0 < s <= 64 for s in self.scales):
            raise ModelError(f"scales {self.scales} of features must be in 0 … 64 px")

    @property
    def reach(self) -> int:
        """How far around a pixel its features look, in pixels."""
        widest = max((int(_TRUNCATE * s + 0.5) for s in self.scales), default=0)
        return widest + bool(self.edges and self.scales)

    def count(self, bands: int) -> int:
        """Return how many features a pixel of so many bands has."""
        per_scale = 1 + self.edges + self.texture
        pairs = bands * (bands - 1) // 2 if self.differences else 0
        return bands * (1 + per_scale * len(self.scales)) + pairs

    def of(self, pixels: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return the features of all pixels of a window.

        Args:
            pixels: (band, y, x); beyond its edges pixels are reflected.

        Returns:
            (feature, y, x) float32.
        """
        # In float64: the spread is a small difference of large squares.
        bands = pixels.astype(np.float64)
        out = np.empty((self.count(len(bands)), *bands.shape[1:]), np.float32)
        rows = iter(out)
        for band in bands:
            next(rows)[:] = band
            for scale in self.scales:
                mean = _blurred(band, scale)
                next(rows)[:] = mean
                if self.edges:
                    next(rows)[:] = np.hypot(sobel(mean, 0), sobel(mean, 1))
                if self.texture:
                    spread = _blurred(band * band, scale) - mean * mean
                    next(rows)[:] = np.sqrt(np.maximum(spread, 0))
        if self.differences:
            for a, b in combinations(bands, 2):
                total = a + b
                safe = np.where(total == 0, 1, total)
                next(rows)[:] = np.where(total == 0, 0, (a - b) / safe)
        return out

    def to_dict(self) -> dict[str, Any]:
        """Return what a card keeps."""
        return {
            "scales": list(self.scales),
            "edges": self.edges,
            "texture": self.texture,
            "differences": self.differences,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Return the features that a card describes.

        Raises:
            ModelError: it names features that are not known.
        """
        unknown = set(plain) - {"scales", "edges", "texture", "differences"}
        if unknown:
            raise ModelError(f"unknown features: {sorted(unknown)}")
        return cls(
            scales=tuple(float(s) for s in plain.get("scales", ())),
            edges=bool(plain.get("edges", True)),
            texture=bool(plain.get("texture", True)),
            differences=bool(plain.get("differences", False)),
        )


def _blurred(band: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    blurred = gaussian_filter(band, scale, mode="mirror", truncate=_TRUNCATE)
    return np.asarray(blurred)
