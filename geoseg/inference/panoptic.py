"""Panoptic segmentation of one block: things from objects, stuff from scores.

Kirillov, He, Girshick, Rother, Dollár (2019), "Panoptic segmentation", CVPR. One
forward pass gives both: objects are stitched as those of an instance model, scores are
blended as those of a semantic one. A pixel of an object is of the object's class; any
other valid pixel is of the surest stuff class, or void where a thing is surer than any
stuff and the class table has a class `void`. So every valid pixel has one owner.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.tiling import Block
from geoseg.errors import ModelError
from geoseg.inference.instance import FoundObjects, gathered, keep_claimable
from geoseg.inference.semantic import PartialBlock, blend_block
from geoseg.inference.windows import cells_with_data, read_windows
from geoseg.models.contract import AnyModel
from geoseg.models.objects import check_objects

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from geoseg.models.card import Card
    from geoseg.models.contract import InstanceModel, Objects
    from geoseg.rasters.open import Source

STUFF_ARRAYS = ("classes", "confidence")
"""What is made of the scores of stuff."""
VOID = "void"
"""Name of the class of pixels that are of a thing, but of no object."""


def stuff_card(card: Card) -> Card:
    """Return the card of the semantic half of a panoptic model.

    Raises:
        ModelError: The card has no stuff, or does not say what are things.
    """
    things = set(card.things or ())
    stuff = tuple(c for c in card.classes if c.name not in things)
    if not things or all(c.name == VOID for c in stuff):
        raise ModelError(
            f"the card of {card.name!r} must name its things (for one of transformers, "
            "--things does), and have classes that are not: a panoptic model tells "
            "apart things and stuff"
        )
    return replace(
        card, task="semantic", classes=stuff, things=None, output="probabilities"
    )


def find_panoptic(
    source: Source, model: InstanceModel, block: Block, *, batch: int = 1
) -> tuple[FoundObjects, PartialBlock]:
    """Infer a block's windows, each once; keep their objects and sums of their scores.

    Args:
        source: Its bands are the model's, in the model's order.
        model: The model.
        block: The block.
        batch: Windows in a batch.
    """
    pixels = read_windows(source, model.card, block.reach)
    half = _StuffHalf(model)
    stuff = blend_block(half, block, pixels, STUFF_ARRAYS, batch)
    cells = cells_with_data(block, pixels)
    kept = [
        keep_claimable(objects, cell, pixels, block.tiling)
        for cell, objects in zip(cells, half.objects, strict=True)
    ]
    return gathered(kept, pixels, block, stuff.forward_seconds), stuff


class _StuffHalf(AnyModel):
    """A panoptic model as a semantic one; what else it says is kept aside, in order."""

    def __init__(self, model: InstanceModel) -> None:
        self._model = model
        self.card = stuff_card(model.card)
        self.batch, self.device = model.batch, model.device
        self.precision = model.precision
        self.objects: list[Objects] = []

    def predict(self, pixels: NDArray[Any]) -> torch.Tensor | NDArray[Any]:
        """Return probabilities (n, class, y, x) of the stuff classes."""
        card = self._model.card
        answer = check_objects(self._model.predict(pixels), card, pixels.shape)
        self.objects += [replace(objects, semantic=None) for objects in answer]
        scores = [stuff_of(objects.semantic, card, self.card) for objects in answer]
        if isinstance(scores[0], np.ndarray):
            return np.stack(scores)
        import torch

        return torch.stack(scores)


def stuff_of(scores: Any, card: Card, stuff: Card) -> Any:  # noqa: ANN401 - array or tensor
    """Return (class, y, x) probabilities of the stuff; void's is the surest thing's."""
    if scores.shape[0] != len(card.classes):
        raise ModelError(
            f"model {card.name!r} gave scores of {scores.shape[0]} classes, its card "
            f"names {len(card.classes)}"
        )
    probabilities = scores if card.output == "probabilities" else _active(scores, card)
    place = {c.name: i for i, c in enumerate(card.classes)}
    out = probabilities[[place[c.name] for c in stuff.classes]]
    names = [c.name for c in stuff.classes]
    if VOID in names:
        things = probabilities[[place[name] for name in card.things or ()]]
        surest = things.max(0) if isinstance(things, np.ndarray) else things.amax(0)
        out[names.index(VOID)] = surest
    return out


def _active(scores: Any, card: Card) -> Any:  # noqa: ANN401 - array or tensor
    """Return logits as probabilities, by the card's activation."""
    if isinstance(scores, np.ndarray):
        from scipy.special import expit, softmax

        logits = scores.astype(np.float32)
        return expit(logits) if card.activation == "sigmoid" else softmax(logits, 0)
    logits = scores.float()
    return logits.sigmoid() if card.activation == "sigmoid" else logits.softmax(0)
