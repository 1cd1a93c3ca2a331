"""SAM, SAM 2 and what followed them in transformers: everything, or what is asked for.

Without prompts a window is asked at a grid of points, as the authors' mask generator
does it: masks that are sure and stable are kept, doubles are dropped. Kirillov et al.
(2023), "Segment anything", ICCV, appendix B. With `--prompts FILE`, a vector file of
points, boxes or polygons in map coordinates, each window is asked for those that lie in
it, and a window without any costs nothing. A window's image is embedded once.

What the card's `facts` may say: `points_per_side` (32), `score` (0.88, the least
predicted IoU), `stability` (0.95), `nms` (0.7, box IoU from which masks are doubles).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from geoseg.models.networks.detector import Detections, DetectorModel, Finder
from geoseg.models.networks.prompts import Prompt, PromptedModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from geoseg.models.card import Card
    from geoseg.models.contract import InstanceModel
    from geoseg.models.networks.device import ModelOptions

_AT_ONCE = 16  # prompts that pass the decoder together


def prompted_model(
    module: nn.Module, card: Card, options: ModelOptions
) -> InstanceModel:
    """Return the model of a network that answers prompts."""
    network = Decoder(module)
    if options.prompts is not None:
        return PromptedModel(Asked(network), card, options)
    return DetectorModel(Everything(network, card.facts), card, options, score=0.0)


class Decoder(nn.Module):
    """The network: a window is embedded once, then asked as often as one likes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.network.parameters()).device  # type: ignore[no-any-return]

    def embed(self, x: torch.Tensor) -> dict[str, Any]:
        """Return what the decoder needs of windows, (n, band, y, x)."""
        found = self.network.get_image_embeddings(x)
        if isinstance(found, tuple):  # of SAM-HQ
            return {"image_embeddings": found[0], "intermediate_embeddings": found[1]}
        return {"image_embeddings": found}

    def ask(
        self,
        embedded: Mapping[str, Any],
        points: torch.Tensor | None,
        boxes: torch.Tensor | None,
        *,
        several: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mask logits (prompt, mask, y, x) at a stride, and scores of them.

        Args:
            embedded: What `embed` returned.
            points: (prompt, point, 2) x and y in the window, pixel centres at whole
                numbers; all of them on the object.
            boxes: (prompt, 4) left, top, right, bottom.
            several: Whether three masks are wanted, as of a part and of the whole.
        """
        asked: dict[str, Any] = {}
        if points is not None:
            asked["input_points"] = points[None]
            asked["input_labels"] = points.new_ones(
                (1, *points.shape[:2]), dtype=torch.int
            )
        if boxes is not None:
            asked["input_boxes"] = boxes[None]
        answer = self.network(**embedded, **asked, multimask_output=several)
        return answer.pred_masks[0].float(), answer.iou_scores[0].float()


def _upscaled(masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bring mask logits (mask, y, x) to pixels, as the library does it."""
    return functional.interpolate(
        masks[:, None], size=size, mode="bilinear", align_corners=False
    )[:, 0]


class Everything(Finder):
    """All masks of a window that are sure and stable."""

    def __init__(self, decoder: Decoder, facts: Mapping[str, Any]) -> None:
        super().__init__()
        self.decoder = decoder
        self.side = int(facts.get("points_per_side", 32))
        self.score = float(facts.get("score", 0.88))
        self.stability = float(facts.get("stability", 0.95))
        self.nms = float(facts.get("nms", 0.7))

    def features(self, x: torch.Tensor) -> dict[str, Any]:
        """Return the embeddings of windows."""
        return self.decoder.embed(x)

    def detections(
        self, features: dict[str, Any], size: tuple[int, int], *_: object
    ) -> Detections:
        """Return what is found in one window."""
        device = self.decoder.device
        step = torch.arange(self.side, device=device)
        at = (2 * step + 1) / (2 * self.side)
        grid = torch.cartesian_prod(at, at).flip(1)
        grid = grid * torch.tensor([size[1], size[0]], device=device)
        parts = []
        for first in range(0, len(grid), _AT_ONCE):
            points = grid[first : first + _AT_ONCE, None]
            answer = self.decoder.ask(features, points, None, several=True)
            parts.append(self._sure(*answer, size))
        masks = torch.cat([m for m, _ in parts])
        scores = torch.cat([s for _, s in parts])
        kept = distinct(boxes_of(masks), scores, self.nms)
        return Detections(
            masks=masks[kept],
            channels=torch.zeros(len(kept), dtype=torch.long, device=device),
            scores=scores[kept],
        )

    def _sure(
        self, masks: torch.Tensor, scores: torch.Tensor, size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the masks (mask, y, x) bool that are kept, and their scores."""
        masks, scores = masks.flatten(0, 1), scores.flatten()
        sure = scores > self.score
        masks, scores = _upscaled(masks[sure], size), scores[sure]
        if self.stability > 0:
            inner, outer = (masks > 1).sum((1, 2)), (masks > -1).sum((1, 2))
            stable = inner / outer > self.stability
            masks, scores = masks[stable], scores[stable]
        return masks > 0, scores


def boxes_of(masks: torch.Tensor) -> torch.Tensor:
    """Return the boxes (mask, 4) of masks (mask, y, x): left, top, right, bottom.

    Right and bottom are the last column and row; the box of an empty mask is all zero.
    """
    edges = []
    for axis in (1, 2):
        there = masks.any(axis)
        length = there.shape[1]
        numbers = torch.arange(length, device=masks.device)
        low = torch.where(there, numbers, length).amin(1)
        high = torch.where(there, numbers, -1).amax(1)
        edges.append((torch.where(high < 0, 0, low), high.clamp_min(0)))
    (left, right), (top, bottom) = edges
    return torch.stack([left, top, right, bottom], 1)


def distinct(boxes: torch.Tensor, scores: torch.Tensor, most: float) -> list[int]:
    """Return which boxes are left, the surest first, where no two overlap much.

    Args:
        boxes: (box, 4).
        scores: (box,).
        most: The IoU that two may have at most.
    """
    left, top, right, bottom = boxes.float().T
    area = (right - left) * (bottom - top)
    order = torch.argsort(scores, descending=True, stable=True)
    gone = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    kept = []
    for i in order.tolist():
        if gone[i]:
            continue
        kept.append(i)
        wide = (torch.minimum(right, right[i]) - torch.maximum(left, left[i])).clamp(0)
        tall = (torch.minimum(bottom, bottom[i]) - torch.maximum(top, top[i])).clamp(0)
        shared = wide * tall
        gone |= shared / (area + area[i] - shared) > most
    return kept


class Asked(Finder):
    """The mask of each prompt."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def features(self, x: torch.Tensor) -> dict[str, Any]:
        """Return the embeddings of windows."""
        return self.decoder.embed(x)

    def detections(
        self,
        features: dict[str, Any],
        size: tuple[int, int],
        *asked: Sequence[Prompt],
    ) -> Detections:
        """Return one mask per prompt of a window, in their order."""
        (prompts,), device = asked, self.decoder.device
        masks = torch.zeros((len(prompts), *size), dtype=torch.bool, device=device)
        scores = torch.zeros(len(prompts), device=device)
        for places in _alike(prompts):
            points, boxes = _tensors([prompts[i] for i in places], device)
            # One point may mean a part or the whole: the surest of three; a box not.
            several = boxes is None and points is not None and points.shape[1] == 1
            logits, sure = self.decoder.ask(features, points, boxes, several=several)
            best = sure.argmax(1)
            rows = torch.arange(len(places), device=device)
            masks[places] = _upscaled(logits[rows, best], size) > 0
            scores[places] = sure[rows, best]
        return Detections(
            masks=masks,
            channels=torch.zeros(len(prompts), dtype=torch.long, device=device),
            scores=scores,
        )


def _alike(prompts: Sequence[Prompt]) -> Iterator[list[int]]:
    """Yield places of prompts with as many points, and a box or none, in batches."""
    kinds: dict[tuple[int, bool], list[int]] = {}
    for i, prompt in enumerate(prompts):
        kinds.setdefault((len(prompt.points), prompt.box is not None), []).append(i)
    for places in kinds.values():
        for first in range(0, len(places), _AT_ONCE):
            yield places[first : first + _AT_ONCE]


def _tensors(
    prompts: Sequence[Prompt], device: torch.device
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return points (prompt, point, 2) and boxes (prompt, 4), as the network counts."""
    points = boxes = None
    if prompts[0].points:
        points = torch.tensor([p.points for p in prompts], device=device) - 0.5
    if prompts[0].box is not None:
        boxes = torch.tensor([p.box for p in prompts], device=device) - 0.5
    return points, boxes
