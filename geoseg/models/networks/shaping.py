"""A network that is given channels, and gets them as its card says, and more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from geoseg.models.context import Context, extras
from geoseg.models.layout import shaped

if TYPE_CHECKING:
    from geoseg.models.card import Card


class Shaped(nn.Module):
    """A network that is given windows (n, channel, y, x), and gets what it takes."""

    def __init__(self, network: nn.Module, card: Card) -> None:
        """Wrap a network.

        Args:
            network: Takes pixels in the card's layout, or a mapping of the card's
                modalities to such, then the card's inputs, in order.
            card: Its card.
        """
        super().__init__()
        self.network, self.card = network, card
        self._places = (
            card.inputs.index("location") if "location" in card.inputs else None
        )

    def tell(self, context: Context | None, device: torch.device) -> None:
        """Keep what the raster tells beside its pixels, in fp32, on a device."""
        for i, extra in enumerate(extras(self.card, context, 1, None)):
            tensor = torch.from_numpy(extra).to(device)
            self.register_buffer(f"extra_{i}", tensor, persistent=False)

    def forward(self, x: torch.Tensor, location: torch.Tensor | None = None) -> Any:  # noqa: ANN401
        """Pass windows through.

        Args:
            x: (n, channel, y, x), scaled.
            location: (n, 2) latitude and longitude, where the network asks for it.
        """
        told = (getattr(self, f"extra_{i}") for i in range(len(self.card.inputs)))
        more = [t.expand(len(x), *(-1,) * (t.ndim - 1)) for t in told]
        if self._places is not None and location is not None:
            more[self._places] = location
        return self.network(shaped(x.contiguous(), self.card), *more)
