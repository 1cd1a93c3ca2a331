"""Detectors that answer boxes, classes, scores and masks per window (Mask R-CNN)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from geoseg.errors import ModelError, first_line
from geoseg.models.device import Options, choose_device
from geoseg.models.footprint import weight_bytes
from geoseg.models.objects import from_masks
from geoseg.models.scaling import Scaling, to_device
from geoseg.models.single_threads import SingleThreads

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from geoseg.models.card import Card
    from geoseg.models.contract import Objects

_SURE = 0.5  # score of the objects that count, where the card does not say


class DetectorModel:
    """A card and a detector in torchvision's form.

    Windows pass one by one, each by one thread, in fp32: boxes are found by comparing
    scores, and lower precision would move them.

    Attributes:
        card: What it expects and answers; a class of the table per class of the
            detector after its background. `facts["score"]` is the least score.
        batch: Windows in work at once.
        device: Where it runs.
        precision: `fp32`.
    """

    precision = "fp32"

    def __init__(self, module: nn.Module, card: Card, options: Options) -> None:
        self.card = card
        self._device = choose_device(options.device)
        self.device = str(self._device)
        self._module = module.eval().requires_grad_(requires_grad=False)
        self._module.to(self._device)
        self._scaling = Scaling(card.bands, self._device)
        threads = torch.get_num_threads() if self.device == "cpu" else 1
        self._threads = SingleThreads(threads)
        self.batch = options.batch or threads
        self._score = float(card.facts.get("score", _SURE))

    def predict(self, pixels: NDArray[np.generic]) -> list[Objects]:
        """Return the objects of each window."""
        try:
            return self._threads.map(self._objects, pixels)
        except (RuntimeError, ValueError, TypeError) as error:
            raise ModelError(
                f"model {self.card.name!r} failed on windows of shape "
                f"{tuple(pixels.shape)}: {first_line(error)}"
            ) from error

    def working_bytes(self) -> int:
        """Return how much memory weights and windows in work take, generously."""
        return weight_bytes(self._module) + self.batch * 4 * 640 * self.card.window**2

    @torch.inference_mode()
    def _objects(self, window: NDArray[np.generic]) -> Objects:
        x = self._scaling(to_device(window[None], self._device))
        found = self._module([x[0]])[0]
        keep = found["scores"] >= self._score
        classes = found["labels"][keep].cpu().numpy() - 1  # 0 is the background
        values = np.array([c.value for c in self.card.classes])
        return from_masks(
            found["masks"][keep, 0].cpu().numpy() > 0.5,
            values[classes],
            found["scores"][keep].cpu().numpy(),
            min_score=self._score,
        )
