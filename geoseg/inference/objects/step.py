"""Objects of windows, and sums of a panoptic model's scores, on one device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from geoseg.core.blend import shares_of
from geoseg.inference.block_steps import BlendStep
from geoseg.inference.device_steps import blank_weights
from geoseg.inference.instance import FoundObjects, gathered, keep_claimable
from geoseg.inference.objects.stitch import joined
from geoseg.inference.panoptic import stuff_card, stuff_of
from geoseg.inference.windows import Cells, cells_with_data
from geoseg.models.objects import check_objects

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.inference.device_memory import Device
    from geoseg.inference.objects.stitch import ObjectSet
    from geoseg.inference.semantic import PartialBlock
    from geoseg.inference.work import Run, Work
    from geoseg.models.networks.detector import DetectorModel


class ObjectStep:
    """Objects of windows; `FoundObjects`, and a `PartialBlock` of panoptic scores."""

    is_fixed = divides = False

    def __init__(self, model: DetectorModel) -> None:
        self._model, self.card = model, model.card
        self._checked = replace(self.card, task="instance")  # scores are apart
        self._stuff: BlendStep | None = None
        if self.card.task == "panoptic":
            self._stuff = BlendStep(stuff_card(self.card))

    def cells(self, work: Work) -> Cells:
        """Return those that hold a valid pixel, and what the model is asked for."""
        window = work.block.tiling.model_window
        return [
            cell
            for cell in cells_with_data(work.block, work.pixels)
            if self._model.asked(window(*cell)) is not None
        ]

    def begin(self, work: Work, device: Device) -> None:
        """Make room for the sums of scores."""
        if self._stuff is not None:
            self._stuff.begin(work, device)

    def inputs(self, runs: Sequence[Run], size: int) -> tuple[Any, ...]:
        """Return what the model is asked of each window, and weights of scores."""
        window = runs[0].work.block.tiling.model_window
        asked = [self._model.asked(window(*c)) or () for run in runs for c in run.cells]
        weights = self._stuff.inputs(runs, size) if self._stuff else ()
        return (asked, *weights)

    def blank_inputs(
        self, size: int, shape: tuple[int, int], device: torch.device
    ) -> tuple[Any, ...]:
        """Return that nothing is asked of any window."""
        weights = blank_weights(size, shape, device) if self._stuff else ()
        return ([], *weights)

    def __call__(self, pixels: torch.Tensor, *inputs: Any) -> tuple[Any, ...]:  # noqa: ANN401
        """Return the objects of each window, and as `BlendStep` of panoptic scores."""
        asked, *weights = inputs
        features, size = self._model.features(pixels), (*pixels.shape[2:],)
        found = [
            self._model.found(features, i, size, *told) for i, told in enumerate(asked)
        ]
        if self._stuff is None:
            return (found,)
        scores = self._model.semantic(features, size)
        assert scores is not None
        stuff = torch.stack([stuff_of(s, self.card, self._stuff.card) for s in scores])
        finite = torch.isfinite(stuff).flatten(1).all(1)
        of_y, of_x = weights
        shares = shares_of(stuff.float(), "none", axis=1)
        return found, shares * (of_y[:, None, :, None] * of_x[:, None, None, :]), finite

    def add(self, run: Run, *answer: Any) -> None:  # noqa: ANN401
        """Keep the objects, and add scores to the sums."""
        found, *scores = answer
        tensors = (objects.tensors() for objects in found)
        run.work.seen += zip(run.cells, tensors, strict=True)
        if self._stuff is not None:
            self._stuff.add(run, *scores)

    def complete(self, work: Work) -> list[torch.Tensor]:
        """Return the objects' tensors, window by window, then those of scores."""
        work.seen.sort(key=lambda seen: seen[0])
        objects = [x for _, tensors in work.seen for x in tensors]
        return objects + (self._stuff.complete(work) if self._stuff else [])

    def answer(
        self, work: Work, arrays: list[NDArray[Any]], seconds: float
    ) -> tuple[FoundObjects, PartialBlock | None]:
        """Return what the windows see, and the sums of a panoptic model's scores.

        Raises:
            ModelError: It is not what the card promises.
            NotFiniteError: A score is NaN or infinite.
        """
        passed = sorted(cell for _, run in work.runs for cell in run.cells)
        count = len(passed) if arrays else 0
        seen = {
            cell: self._kept(arrays[4 * i : 4 * i + 4], cell, work)
            for i, cell in enumerate(passed[:count])
        }
        cells = cells_with_data(work.block, work.pixels)
        kept = [seen.get(cell, joined(())) for cell in cells]
        found = gathered(kept, work.pixels, work.block, seconds)
        if self._stuff is None:
            return found, None
        return found, self._stuff.answer(work, arrays[4 * count :], seconds)

    def _kept(
        self, arrays: list[NDArray[Any]], cell: tuple[int, int], work: Work
    ) -> ObjectSet:
        """Return what a window may claim of its objects."""
        labels, numbered, channels, scores = arrays
        objects = self._model.objects(labels, numbered, channels, scores)
        shape = (1, len(self.card.bands), *labels.shape)
        check_objects([objects], self._checked, shape)
        return keep_claimable(objects, cell, work.pixels, work.block.tiling)
