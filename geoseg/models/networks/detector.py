"""Networks that find objects: masks, classes and scores per window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from geoseg.errors import ModelError, first_line
from geoseg.models.contract import AnyModel
from geoseg.models.networks.device import ModelOptions, choose_device
from geoseg.models.networks.footprint import weight_bytes
from geoseg.models.networks.scaling import Scaling, to_device
from geoseg.models.networks.single_threads import SingleThreads, forward_threads
from geoseg.models.objects import from_masks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from geoseg.models.card import Card
    from geoseg.models.contract import Objects

SURE = 0.5
"""Score of the objects that count, where `facts["score"]` of the card does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detections:
    """What a network finds in one window; masks may overlap each other."""

    masks: torch.Tensor
    """(k, y, x) bool."""
    channels: torch.Tensor
    """(k,) index of each object's class in the card's table."""
    scores: torch.Tensor
    """(k,) 0 ... 1."""
    semantic: torch.Tensor | None = None
    """(class, y, x) scores, as `card.output` says, for panoptic models."""


class DetectorModel(AnyModel):
    """A card and a network that finds objects, as geoseg's models are.

    Windows pass one by one, each by one thread, in fp32: objects are found by comparing
    scores, and lower precision would move them.

    Attributes:
        card: What it expects and answers.
        batch: Windows in work at once.
        device: Where it runs.
        precision: `fp32`.
    """

    precision = "fp32"

    def __init__(
        self,
        module: nn.Module,
        card: Card,
        options: ModelOptions,
        *,
        score: float | None = None,
    ) -> None:
        """Move the network to its device.

        Args:
            module: Takes (1, band, y, x) floats; answers a `Detections`.
            card: Its card.
            options: Device and batch.
            score: Of the objects that count; None: what the card says.
        """
        self.card = card
        self._device = choose_device(options.device)
        self.device = str(self._device)
        self._module = module.eval().requires_grad_(requires_grad=False)
        self._module.to(self._device)
        self._scaling = Scaling(card.bands, self._device)
        count = forward_threads() if self.device == "cpu" else 1
        self._threads = SingleThreads(count)
        self.batch = options.batch or count
        self._score = float(card.facts.get("score", SURE)) if score is None else score
        self._values = np.array([c.value for c in card.classes])
        things = [c.name in (card.things or [c.name]) for c in card.classes]
        self._things = torch.tensor(things, device=self._device)

    def predict(self, pixels: NDArray[np.generic]) -> list[Objects]:
        """Return the objects of each window."""
        return self._each([(window,) for window in pixels])

    def _each(self, work: Sequence[tuple[Any, ...]]) -> list[Objects]:
        """Return the objects of windows, each with what else the network is told."""
        try:
            return self._threads.map(lambda item: self._objects(*item), work)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ModelError(
                f"model {self.card.name!r} failed on windows of shape "
                f"{tuple(work[0][0].shape)}: {first_line(error)}"
            ) from error

    def working_bytes(self) -> int:
        """Return how much memory weights and windows in work take, generously."""
        return weight_bytes(self._module) + self.batch * 4 * 640 * self.card.window**2

    @torch.no_grad()
    def _objects(self, window: NDArray[np.generic], *more: object) -> Objects:
        x = self._scaling(to_device(window[None], self._device))
        found: Detections = self._module(x, *more)
        keep = (found.scores >= self._score) & self._things[found.channels]
        semantic = found.semantic if self.card.task == "panoptic" else None
        return from_masks(
            found.masks[keep].cpu().numpy(),
            self._values[found.channels[keep].cpu().numpy()],
            found.scores[keep].float().cpu().numpy(),
            min_score=self._score,
            semantic=semantic,
        )
