"""Networks that find objects: masks, classes and scores per window."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from geoseg.errors import ModelError, first_line
from geoseg.models.contract import AnyModel, Objects
from geoseg.models.networks.batch_size import quickest_batch
from geoseg.models.networks.device import (
    ModelOptions,
    choose_engine,
    free_memory,
    measured_device,
    steady_kernels,
)
from geoseg.models.networks.footprint import weight_bytes
from geoseg.models.networks.scaling import Scaling, to_device
from geoseg.models.networks.single_threads import SingleThreads, forward_threads
from geoseg.models.objects import from_masks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from geoseg.core.grid import Window
    from geoseg.models.card import Card

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


class Finder(nn.Module):
    """A network that finds objects, in two halves.

    What it makes of all pixels is computed of a batch of windows at once, in one shape;
    what then depends on how much is there, of each window by itself. So no window's
    objects depend on the others in its batch.
    """

    @abstractmethod
    def features(self, x: torch.Tensor) -> Any:  # noqa: ANN401 - the network's own
        """Return tensors (n, …), in lists and mappings, of windows (n, band, y, x)."""

    @abstractmethod
    def detections(
        self,
        features: Any,  # noqa: ANN401
        size: tuple[int, int],
        *asked: Any,  # noqa: ANN401
    ) -> Detections:
        """Return what is found in one window.

        Args:
            features: Those of one window, (1, …).
            size: Rows and columns of the window.
            asked: What the network is told beside pixels, such as prompts.
        """

    def of_window(self, features: Any, i: int) -> Any:  # noqa: ANN401
        """Return the features (1, …) of one window of a batch."""
        return _nth(features, i)

    def semantic(
        self,
        features: Any,  # noqa: ANN401, ARG002
        size: tuple[int, int],  # noqa: ARG002
    ) -> torch.Tensor | None:
        """Return (n, class, y, x) scores, of networks that have them."""
        return None

    def forward(self, x: torch.Tensor, *asked: object) -> Detections:
        """Return what is found in one window, (1, band, y, x)."""
        return self.detections(self.features(x), (x.shape[-2], x.shape[-1]), *asked)


def _nth(features: Any, i: int) -> Any:  # noqa: ANN401 - of any network
    if isinstance(features, torch.Tensor):
        return features[i : i + 1]
    if isinstance(features, dict):
        return {name: _nth(value, i) for name, value in features.items()}
    return [_nth(value, i) for value in features]


@dataclass(frozen=True, slots=True, kw_only=True)
class Painted:
    """The objects of one window on its device, still to be counted."""

    labels: torch.Tensor
    """(y, x) int16, or int32 of very many objects; as `Objects` has them."""
    kept: torch.Tensor
    """(k,) bool, which of the objects found have pixels; those are numbered."""
    channels: torch.Tensor
    """(k,) as in `Detections`, the surest first."""
    scores: torch.Tensor
    """(k,) float32, likewise."""

    def tensors(self) -> list[torch.Tensor]:
        """Return all of them, in order."""
        return [self.labels, self.kept, self.channels, self.scores]


def painted(found: Detections, min_visible: float = 0.5) -> Painted:
    """Resolve overlapping masks where they lie, as `from_masks` does it.

    Nothing waits for the device: which of them are kept is known there only.
    """
    order = torch.argsort(found.scores, descending=True, stable=True)
    masks = found.masks[order]
    dtype = torch.int16 if len(masks) < 1 << 15 else torch.int32
    labels = masks.new_zeros(masks.shape[1:], dtype=dtype)
    free = masks.new_ones(masks.shape[1:])
    count = masks.new_zeros((), dtype=dtype)
    kept = []
    for mask in masks:
        mine = mask & free
        whole, left = mask.count_nonzero(), mine.count_nonzero()
        is_kept = (left > 0) & (left >= min_visible * whole)
        mine &= is_kept
        count = count + is_kept
        labels = torch.where(mine, count.to(dtype), labels)
        free &= ~mine
        kept.append(is_kept)
    return Painted(
        labels=labels,
        kept=torch.stack(kept) if kept else free.new_zeros(0),
        channels=found.channels[order],
        scores=found.scores[order].float(),
    )


class DetectorModel(AnyModel):
    """A card and a network that finds objects, as geoseg's models are.

    In fp32: objects are found by comparing scores, and lower precision would move them.
    On a CPU windows pass one by one, each by one thread. Batches that lie on the device
    go through `features`, and each of their windows through `found`.

    Attributes:
        card: What it expects and answers.
        batch: Windows in work at once.
        device: Where it runs.
        precision: `fp32`.
        engine: `threads` or `torch`.
        streams: Whether its windows are cut on the device.
    """

    precision = "fp32"

    def __init__(
        self,
        module: Finder,
        card: Card,
        options: ModelOptions,
        *,
        score: float | None = None,
    ) -> None:
        """Move the network to its device.

        Args:
            module: The network.
            card: Its card.
            options: Device and batch.
            score: Of the objects that count; None: what the card says.
        """
        self.card = card
        self._device = measured_device(options.device, f"{card.name!r}")
        self.device = str(self._device)
        self._module = module.eval().requires_grad_(requires_grad=False)
        self._module.to(self._device)
        self._scaling = Scaling(card.bands, self._device)
        if options.engine == "openvino":
            raise ModelError(
                f"--engine openvino runs networks that answer scores of classes; "
                f"{card.name!r} answers objects: leave --engine out"
            )
        asked = "torch" if options.engine == "compile" else options.engine
        self.engine = choose_engine(self._device, asked)
        self.streams = self.engine != "threads"
        self._threads = SingleThreads(1 if self.streams else forward_threads())
        self._score = float(card.facts.get("score", SURE)) if score is None else score
        self._values = np.array([c.value for c in card.classes])
        things = [c.name in (card.things or [c.name]) for c in card.classes]
        self._things = torch.tensor(things, device=self._device)
        self.batch = options.batch or self._suitable_batch(options)
        self.abreast = 1 if self.streams else min(self.batch, self._threads.count)

    def _suitable_batch(self, options: ModelOptions) -> int:
        if not self.streams:
            return self._threads.count
        most = free_memory(self._device, options.device_memory) / 2
        card, network = self.card, f"{self._module}"
        return quickest_batch(self._trial, card, self._device, most, network)

    def _trial(self, batch: int) -> None:
        shape = (batch, len(self.card.bands), self.card.window, self.card.window)
        with torch.no_grad(), self.kernels():
            self.features(torch.zeros(shape, device=self._device))

    def kernels(self) -> AbstractContextManager[None]:
        """Kernels whose answer does not change from run to run, in true fp32."""
        return steady_kernels(self._device, tf32=False)

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
        x = to_device(window[None], self._device)
        features, size = self.features(x), (x.shape[-2], x.shape[-1])
        found = self._sure(self._module.detections(features, size, *more))
        semantic = self.semantic(features, size)
        return from_masks(
            found.masks.cpu().numpy(),
            self._values[found.channels.cpu().numpy()],
            found.scores.float().cpu().numpy(),
            min_score=self._score,
            semantic=None if semantic is None else semantic[0],
        )

    def features(self, pixels: torch.Tensor) -> Any:  # noqa: ANN401 - the network's own
        """Return what the network makes of windows (n, band, y, x) on the device."""
        return self._module.features(self._scaling(pixels))

    def semantic(
        self,
        features: Any,  # noqa: ANN401
        size: tuple[int, int],
    ) -> torch.Tensor | None:
        """Return (n, class, y, x) scores, where the card's task is panoptic."""
        if self.card.task != "panoptic":
            return None
        return self._module.semantic(features, size)

    def found(
        self,
        features: Any,  # noqa: ANN401
        i: int,
        size: tuple[int, int],
        *asked: Any,  # noqa: ANN401
    ) -> Painted:
        """Return the objects of one window of a batch, on the device."""
        one = self._module.of_window(features, i)
        return painted(self._sure(self._module.detections(one, size, *asked)))

    def _sure(self, found: Detections) -> Detections:
        """Return those that count."""
        keep = (found.scores >= self._score) & self._things[found.channels]
        return Detections(
            masks=found.masks[keep],
            channels=found.channels[keep],
            scores=found.scores[keep],
        )

    def objects(
        self,
        labels: NDArray[Any],
        kept: NDArray[np.bool_],
        channels: NDArray[np.int64],
        scores: NDArray[np.float32],
    ) -> Objects:
        """Return a window's objects from what `Painted` holds, off the device."""
        classes = self._values[channels[kept]]
        return Objects(labels=labels, classes=classes, scores=scores[kept])

    def asked(self, window: Window) -> tuple[Any, ...] | None:  # noqa: ARG002
        """Return what the network is told of a window beside its pixels.

        None: it need not be looked at.
        """
        return ()
