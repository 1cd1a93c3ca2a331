"""Superpixels, classified by their mean colour: `slic:16:6`, `slic:16:6:red,nir`.

Superpixels about 16 px wide are found by SLIC (Achanta et al. 2012, "SLIC superpixels
compared to state-of-the-art superpixel methods", IEEE TPAMI 34) in bands divided by
their standard deviation, and each is given to the nearest of 6 cluster centres, which
are fitted to a seeded sample of the whole raster.

SLIC looks no farther than a few superpixels: its centres start on a grid, and move a
little in each of few rounds. The windows' grids are one grid, and windows share enough
that all of them find the same superpixels in the cells that are kept. So the map has no
trace of windows or blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from geoseg.core.classes import class_table
from geoseg.core.extras import require
from geoseg.execution.resources import threads
from geoseg.models.card import Card
from geoseg.models.classical.cluster import KMeans
from geoseg.models.classical.method import (
    MOST,
    ClassicalMethod,
    count_in,
    method_card,
    open_method,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.core.grid import Window
    from geoseg.models.identity import OpenedModel
    from geoseg.rasters.open import Source

_ROUNDS = 5
_REACH = 10  # superpixels; two in each round, as far as centres are looked for
_CELL = 1024  # pixels
_COMPACTNESS = 0.5  # so many standard deviations weigh as much as one superpixel's side
_LARGEST = 64
_COPIES = 6  # of a window in float64, that scaling and SLIC hold at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Superpixels(ClassicalMethod):
    """Each superpixel's nearest cluster centre."""

    card: Card
    """One class per cluster, from dark to bright."""
    side: int
    """About how wide a superpixel is, in pixels."""
    clusters: KMeans
    """Fitted to the raster's pixels, or not yet."""

    precision = "fp64"
    placed = True
    fits = True

    @property
    def batch(self) -> int:  # type: ignore[override]
        """Windows per call: one for each core."""
        return threads()

    def working_bytes(self) -> int:
        """Return how much memory one batch of windows takes."""
        bands = len(self.card.bands)
        return self.batch * self.card.window**2 * (_COPIES * 8 * bands + 64)

    def fit(self, source: Source) -> Self:
        """Return the model with centres fitted to a sample of the whole raster."""
        return self._with(self.clusters.fit(source))

    def parameters(self) -> dict[str, Any]:
        """Return the centres and the bands' spreads, in pixel units."""
        return self.clusters.parameters()

    def with_parameters(self, parameters: Mapping[str, Any]) -> Self:
        """Return the model with those centres and spreads."""
        return self._with(self.clusters.with_parameters(parameters))

    def _with(self, clusters: KMeans) -> Self:
        card = replace(self.card, bands=clusters.card.bands)
        return replace(self, card=card, clusters=clusters)

    def predict(self, pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
        """Return (n, y, x) labels of windows whose pixels are all valid."""
        everywhere = np.ones((len(pixels), *pixels.shape[2:]), bool)
        return self.predict_at(pixels, [], everywhere)

    def predict_at(
        self,
        pixels: NDArray[np.generic],
        windows: Sequence[Window],  # noqa: ARG002 - wanted for what is valid
        valid: NDArray[np.bool_],
    ) -> NDArray[np.uint8]:
        """Return (n, y, x) labels; only valid pixels count for a superpixel's mean."""
        self.clusters.known()
        require("skimage", what="slic:", extra="superpixels")
        with ThreadPoolExecutor(self.batch) as pool:
            return np.stack(list(pool.map(self._labels, pixels, valid)))

    def _labels(
        self, window: NDArray[np.generic], valid: NDArray[np.bool_]
    ) -> NDArray[np.uint8]:
        _, spreads = self.clusters.known()
        values = window.astype(np.float64)
        scaled = values / spreads[:, None, None]
        segments = superpixels(scaled, self.side)
        means = _means(values, segments, valid)
        of_segment = self.clusters.predict(means[None, :, None, :])[0, 0]
        return np.asarray(of_segment[segments])


def superpixels(scaled: NDArray[np.float64], side: int) -> NDArray[np.int64]:
    """Return the superpixel (y, x) 0 … n-1 of each pixel, by scikit-image's SLIC.

    Args:
        scaled: (band, y, x), bands of like spread.
        side: Of a superpixel, in pixels; the window's sides are multiples of it.
    """
    from skimage.segmentation import slic

    image = np.ascontiguousarray(np.moveaxis(scaled, 0, -1))
    # The library stretches an image from 0 to 1; that must not depend on the window.
    stretch = float(np.ptp(image)) or 1.0
    height, width = image.shape[:2]
    return np.asarray(
        slic(
            image,
            n_segments=max(1, height // side) * max(1, width // side),
            compactness=_COMPACTNESS / stretch,
            max_num_iter=_ROUNDS,
            convert2lab=False,
            channel_axis=-1,
            start_label=0,
        ),
        np.int64,
    )


def _means(
    values: NDArray[np.float64],
    segments: NDArray[np.int64],
    valid: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Return the mean of each superpixel's valid pixels, (band, superpixel)."""
    count = int(segments.max()) + 1
    flat = segments[valid]
    sizes = np.maximum(np.bincount(flat, minlength=count), 1)
    return np.stack([np.bincount(flat, b[valid], count) / sizes for b in values])


def open_spec(spec: str, *, cell: int = _CELL) -> OpenedModel:
    """Return the model that `slic:SIDE:CLUSTERS`, with bands or without, means.

    Its cells are about as wide as `cell`, in pixels.
    """
    _, wide, count, names, *_ = [*spec.split(":", 3), "", "", ""]
    what = "how wide superpixels are, in pixels,"
    side = count_in(wide, spec, what, 4, _LARGEST, "slic:16:6")
    what = "how many clusters there are"
    clusters = count_in(count, spec, what, 2, MOST, "slic:16:6")
    overlap = 2 * _REACH * side
    card = method_card(
        spec,
        names,
        class_table(f"cluster {i + 1}" for i in range(clusters)),
        f"superpixels of {side} px, of {clusters} clusters by mean colour",
        framework={"family": "slic"},
        window=side * max(2 * _REACH, round(cell / side)) + overlap,
        overlap=overlap,
        multiple=side,
    )
    model = Superpixels(card=card, side=side, clusters=KMeans(card=card))
    return open_method(spec, model)
