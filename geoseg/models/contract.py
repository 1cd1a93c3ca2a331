"""What every model offers, whatever family it is of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from geoseg.models.card import Card
    from geoseg.raster import Source


@runtime_checkable
class Model(Protocol):
    """A card and a predict function on a batch of windows.

    A model is loaded once per process and used by one thread at a time. It is never
    sent between processes: what travels is the recipe that loads it (`ModelRecipe`).
    A user's own object needs `card` and `predict` only; `load_model` adds the rest.
    """

    @property
    def card(self) -> Card:
        """What it expects and answers."""
        ...

    @property
    def batch(self) -> int:
        """Windows per call that suit it; it may shrink when memory runs out."""
        ...

    @property
    def device(self) -> str:
        """Where it computes: `cpu`, `cuda:0`; `own` where it decides itself."""
        ...

    @property
    def precision(self) -> str:
        """`fp32`, `bf16`, `fp16`, or `own`."""
        ...

    def predict(
        self, pixels: NDArray[np.generic]
    ) -> torch.Tensor | NDArray[np.generic]:
        """Segment a batch of windows.

        Args:
            pixels: (n, band, y, x), bands in the card's order, in the raster's own
                dtype and units, with the card's fill already under nodata.

        Returns:
            Where `card.output` is `labels`: (n, y, x) integers, values of the class
            table. Else (n, class, y, x) floating scores, on any device. The answer for
            a window must not depend on its place in the batch or on the others in it.
        """
        ...


@runtime_checkable
class Fittable(Protocol):
    """A model that looks at the whole raster once, before the run (k-means, Otsu)."""

    def fit(self, source: Source) -> Self:
        """Return the model fitted to the raster.

        Same raster, same result, whatever the blocks and workers: statistics are taken
        over the whole raster, or over a seeded sample of it.
        """
        ...

    def parameters(self) -> dict[str, Any]:
        """Return what was learned, as JSON-able values; it travels with the recipe."""
        ...

    def with_parameters(self, parameters: Mapping[str, Any]) -> Self:
        """Return the model that `parameters()` of a fitted one describes."""
        ...
