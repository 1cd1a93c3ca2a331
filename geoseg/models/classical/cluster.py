"""Clusters of pixels by their colour, fitted to a seeded sample of the raster.

`kmeans:6`, or `kmeans:6:red,nir` for some of the bands; `gmm:6` likewise: a mixture of
Gaussians, whose clusters may be long and of unlike size. Clusters are numbered from the
darkest to the brightest. Pixels that are not finite belong to class 0.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numba import njit

from geoseg.core.classes import class_table
from geoseg.core.extras import require
from geoseg.errors import ModelError
from geoseg.models.card import Card
from geoseg.models.classical.method import (
    MOST,
    ClassicalMethod,
    count_in,
    each_window,
    method_card,
    open_method,
)
from geoseg.models.classical.sample import sample_pixels

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from geoseg.models.identity import OpenedModel
    from geoseg.rasters.open import Source

_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KMeans(ClassicalMethod):
    """Each pixel's nearest cluster centre, in bands divided by their spread.

    Of centres equally near the first is taken.
    """

    card: Card
    """One class per cluster."""
    centres: NDArray[np.float64] | None = None
    """(class, band) in pixel units; None until fitted."""
    spreads: NDArray[np.float64] | None = None
    """(band,) standard deviation of the sample, in pixel units."""

    fits = True
    learned = ("centres", "spreads")
    takes_tensors = True

    def fit(self, source: Source) -> Self:
        """Return the model fitted to a seeded sample of the raster's valid pixels."""
        sample = _sample(source, len(self.card.classes))
        spreads = _spreads(sample)
        centres = _fit(sample / spreads, len(self.card.classes)) * spreads
        order = np.lexsort((*centres.T, centres.mean(axis=1)))
        names = [band.name for band in source.bands]
        return self.taught(names, centres=centres[order], spreads=spreads)

    def labels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (n, y, x) labels of windows on a device."""
        factors, centres = self._scaled
        scaled = [x * float(f) for x, f in zip(pixels.unbind(1), factors, strict=True)]

        def distance(centre: NDArray[np.float32]) -> torch.Tensor:
            total = pixels.new_zeros(())
            for x, c in zip(scaled, centre, strict=True):
                d = x - float(c)
                total = total + d * d
            return total

        return first_best(map(distance, centres), operator.lt)

    @property
    def _scaled(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What pixels are multiplied by (band,), and the centres of such pixels."""
        centres, spreads = self.known()
        scaled = (centres / spreads).astype(np.float32)
        return (1 / spreads).astype(np.float32), scaled

    def predict(self, pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
        """Return (n, y, x) labels."""
        factors, scaled = self._scaled
        return each_window(
            pixels, lambda item, out: _nearest(item, factors, scaled, out)
        )


def _fit(sample: NDArray[np.float64], clusters: int) -> NDArray[np.float64]:
    """Return cluster centres; one thread, so that sums are always in the same order."""
    require("sklearn", what="kmeans:", extra="sklearn")
    from sklearn import cluster
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        fitted = cluster.KMeans(clusters, n_init=4, random_state=_SEED).fit(sample)
    return np.asarray(fitted.cluster_centers_)


@njit(nogil=True, cache=True)
def _nearest(
    pixels: NDArray[np.generic],
    factors: NDArray[np.float32],
    centres: NDArray[np.float32],
    out: NDArray[np.uint8],
) -> None:
    """Write the index of the nearest centre of every pixel; row by row, in cache."""
    bands, height, width = pixels.shape
    scaled = np.empty((bands, width), np.float32)
    nearest = np.empty(width, np.float32)
    distance = np.empty(width, np.float32)
    for y in range(height):
        for b in range(bands):
            for x in range(width):
                scaled[b, x] = np.float32(pixels[b, y, x]) * factors[b]
        for k in range(len(centres)):
            distance[:] = np.float32(0)
            for b in range(bands):
                for x in range(width):
                    d = scaled[b, x] - centres[k, b]
                    distance[x] += d * d
            if k == 0:
                for x in range(width):
                    nearest[x] = distance[x]
                    out[y, x] = 0
            else:
                for x in range(width):
                    closer = distance[x] < nearest[x]
                    out[y, x] = np.uint8(k) if closer else out[y, x]
                    nearest[x] = distance[x] if closer else nearest[x]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture(ClassicalMethod):
    """Each pixel's likeliest Gaussian of a mixture."""

    card: Card
    """One class per Gaussian."""
    means: NDArray[np.float64] | None = None
    """(class, band) in pixel units; None until fitted."""
    factors: NDArray[np.float64] | None = None
    """(class, band, band): `(x - mean) @ factor` is of unit variance."""
    offsets: NDArray[np.float64] | None = None
    """(class,) logarithm of weight and of the Gaussian's height."""

    fits = True
    learned = ("means", "factors", "offsets")
    takes_tensors = True

    def fit(self, source: Source) -> Self:
        """Return the model fitted to a seeded sample of the raster's valid pixels."""
        sample = _sample(source, len(self.card.classes))
        spreads = _spreads(sample)
        weights, means, factors = _fit_mixture(sample / spreads, len(self.card.classes))
        order = np.lexsort((*means.T, (means * spreads).mean(axis=1)))
        heights = np.log(np.linalg.det(factors)) + np.log(weights)
        return self.taught(
            [band.name for band in source.bands],
            means=(means * spreads)[order],
            factors=(factors / spreads[:, None])[order],
            offsets=heights[order],
        )

    def labels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (n, y, x) labels of windows on a device."""
        known = [array.astype(np.float32) for array in self.known()]
        planes = pixels.unbind(1)

        def score(
            mean: NDArray[np.float32], factor: NDArray[np.float32], offset: np.float32
        ) -> torch.Tensor:
            total = pixels.new_full((), float(offset))
            for j in range(len(mean)):
                part = pixels.new_zeros(())
                for b in range(j + 1):
                    centred = planes[b] - float(mean[b])
                    part = part + centred * float(factor[b, j])
                total = total - 0.5 * part * part
            return total

        return first_best(map(score, *known), operator.gt)

    def predict(self, pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
        """Return (n, y, x) labels."""
        known = [array.astype(np.float32) for array in self.known()]
        return each_window(pixels, lambda item, out: _likeliest(item, *known, out))


def _fit_mixture(
    sample: NDArray[np.float64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return weights, means, and Cholesky factors of the precisions."""
    require("sklearn", what="gmm:", extra="sklearn")
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        fitted = GaussianMixture(count, random_state=_SEED, reg_covar=1e-4).fit(sample)
    return fitted.weights_, fitted.means_, fitted.precisions_cholesky_


@njit(nogil=True, cache=True)
def _likeliest(
    pixels: NDArray[np.generic],
    means: NDArray[np.float32],
    factors: NDArray[np.float32],
    offsets: NDArray[np.float32],
    out: NDArray[np.uint8],
) -> None:
    """Write the index of the likeliest Gaussian of every pixel; row by row."""
    bands, height, width = pixels.shape
    best = np.empty(width, np.float32)
    score = np.empty(width, np.float32)
    part = np.empty(width, np.float32)
    for y in range(height):
        for k in range(len(means)):
            score[:] = offsets[k]
            for j in range(bands):
                part[:] = np.float32(0)
                for b in range(j + 1):  # the factors are upper triangular
                    for x in range(width):
                        centred = np.float32(pixels[b, y, x]) - means[k, b]
                        part[x] += centred * factors[k, b, j]
                for x in range(width):
                    score[x] -= np.float32(0.5) * part[x] * part[x]
            for x in range(width):
                better = k == 0 or score[x] > best[x]
                best[x] = score[x] if better else best[x]
                out[y, x] = np.uint8(k) if better else out[y, x]


def first_best(
    planes: Iterable[torch.Tensor],
    better: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Return the number of the best plane at every pixel as uint8, the first of equals.

    NaN is better than nothing, and nothing is better than NaN.
    """
    import torch

    rest = iter(planes)
    best = next(rest)
    index = best.new_zeros(best.shape, dtype=torch.uint8)
    for number, plane in enumerate(rest, start=1):
        wins = better(plane, best)
        best = torch.where(wins, plane, best)
        index.masked_fill_(wins, number)
    return index


def _sample(source: Source, clusters: int) -> NDArray[np.float64]:
    """Return the sample, or raise where it has too few different pixels."""
    sample = sample_pixels(source, seed=_SEED).astype(np.float64)
    different = len(np.unique(sample, axis=0))
    if different < clusters:
        raise ModelError(
            f"{source.name} has {different} different pixels in a sample of "
            f"{len(sample)}: too few for {clusters} clusters"
        )
    return sample


def _spreads(sample: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each band's standard deviation, 1 where it does not vary."""
    spreads: NDArray[np.float64] = sample.std(axis=0)
    spreads[spreads == 0] = 1
    return spreads


def open_spec(spec: str) -> OpenedModel:
    """Return the model that `kmeans:K`, `gmm:K` or either with bands means."""
    method, _, rest = spec.partition(":")
    text, _, names = rest.partition(":")
    what = "how many clusters there are"
    clusters = count_in(text, spec, what, 2, MOST, f"{method}:6")
    card = method_card(
        spec,
        names,
        class_table(f"cluster {i + 1}" for i in range(clusters)),
        f"{clusters} clusters of pixels by colour, darkest first",
        framework={"family": method},
    )
    kind = KMeans if method == "kmeans" else Mixture
    return open_method(spec, kind(card=card))
