"""What every model offers, whatever family it is of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
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
    """

    @property
    def card(self) -> Card:
        """What it expects and answers."""
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
