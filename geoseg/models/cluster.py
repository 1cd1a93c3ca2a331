"""Clusters of pixels by their colour: k-means, fitted to a seeded sample of the raster.

`kmeans:6`, or `kmeans:6:red,nir` for some of the bands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numba import njit

from geoseg.classes import class_table
from geoseg.errors import ModelError
from geoseg.models.card import ALL_BANDS, Band, Card
from geoseg.models.extras import require
from geoseg.models.identity import Opened, content_hash
from geoseg.models.sample import sample_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.models.device import Options
    from geoseg.raster import Source

_SEED = 0
_MOST = 254  # classes in a mask of one byte


@dataclass(frozen=True, slots=True, kw_only=True)
class KMeans:
    """Each pixel's nearest cluster centre, in bands divided by their spread.

    Clusters are numbered from the darkest to the brightest. Of centres equally near the
    first is taken. Pixels that are not finite belong to class 0.
    """

    card: Card
    """One class per cluster."""
    centres: NDArray[np.float64] | None = None
    """(class, band) in pixel units; None until fitted."""
    spreads: NDArray[np.float64] | None = None
    """(band,) standard deviation of the sample, in pixel units."""

    batch = 1
    device = "cpu"
    precision = "fp32"

    def fit(self, source: Source) -> Self:
        """Return the model fitted to a seeded sample of the raster's valid pixels."""
        sample = sample_pixels(source, seed=_SEED).astype(np.float64)
        clusters = len(self.card.classes)
        if len(np.unique(sample, axis=0)) < clusters:
            raise ModelError(
                f"{source.name} has {len(np.unique(sample, axis=0))} different pixels "
                f"in a sample of {len(sample)}: too few for {clusters} clusters"
            )
        spreads = sample.std(axis=0)
        spreads[spreads == 0] = 1
        centres = _fit(sample / spreads, clusters) * spreads
        order = np.lexsort((*centres.T, centres.mean(axis=1)))
        card = replace(self.card, bands=tuple(Band(name=b.name) for b in source.bands))
        return replace(self, card=card, centres=centres[order], spreads=spreads)

    def predict(self, pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
        """Return (n, y, x) labels."""
        if self.centres is None or self.spreads is None:
            raise ModelError(f"{self.card.name} has not been fitted to the raster yet")
        n, _, height, width = pixels.shape
        factors = (1 / self.spreads).astype(np.float32)
        centres = (self.centres / self.spreads).astype(np.float32)
        out = np.empty((n, height, width), np.uint8)
        for item, labels in zip(pixels, out, strict=True):
            _nearest(np.ascontiguousarray(item), factors, centres, labels)
        return out

    def parameters(self) -> dict[str, Any]:
        """Return centres and spreads, in pixel units."""
        if self.centres is None or self.spreads is None:
            raise ModelError(f"{self.card.name} has not been fitted to the raster yet")
        return {
            "bands": [band.name for band in self.card.bands],
            "centres": self.centres.tolist(),
            "spreads": self.spreads.tolist(),
        }

    def with_parameters(self, parameters: Mapping[str, Any]) -> Self:
        """Return the model with those centres and spreads."""
        bands = tuple(Band(name=name) for name in parameters["bands"])
        return replace(
            self,
            card=replace(self.card, bands=bands),
            centres=np.array(parameters["centres"], dtype=np.float64),
            spreads=np.array(parameters["spreads"], dtype=np.float64),
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


def open_spec(spec: str) -> Opened:
    """Return the model that `kmeans:K` or `kmeans:K:bands` means."""
    _, _, rest = spec.partition(":")
    count, _, names = rest.partition(":")
    try:
        clusters = int(count)
    except ValueError as error:
        raise ModelError(
            f"{spec!r} does not say how many clusters: kmeans:6"
        ) from error
    if not 2 <= clusters <= _MOST:
        raise ModelError(f"{spec!r}: the number of clusters is 2 … {_MOST}")
    bands = tuple(Band(name=n.strip()) for n in names.split(",") if n.strip())
    card = Card(
        name=spec,
        bands=bands or (ALL_BANDS,),
        classes=class_table(f"cluster {i + 1}" for i in range(clusters)),
        output="labels",
        window=512,
        overlap=0,
        multiple=1,
        description=f"{clusters} clusters of pixels by colour, darkest first",
        framework={"family": "kmeans"},
    )

    def load(_options: Options) -> KMeans:
        return KMeans(card=card)

    return Opened(spec=spec, card=card, content=content_hash(card, spec), load=load)
