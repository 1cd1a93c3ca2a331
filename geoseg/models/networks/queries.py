"""Networks that answer masks with classes: from queries to scores and to objects.

Cheng, Schwing, Kirillov (2021), "Per-pixel classification is not all you need",
NeurIPS, section 3.4: a pixel's score for a class is the sum over queries of the query's
class probability times its mask probability there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from geoseg.errors import ModelError, first_line
from geoseg.models.networks.detector import Detections, DetectorModel, Finder
from geoseg.models.networks.torch_adapter import TorchModel

if TYPE_CHECKING:
    from pathlib import Path

    from geoseg.models.card import Card
    from geoseg.models.contract import InstanceModel, Model
    from geoseg.models.networks.device import ModelOptions

_MASK_SIDE = {"mask2former": 384}  # the library brings masks to this size first


def query_model(
    module: nn.Module, card: Card, options: ModelOptions, path: Path
) -> Model | InstanceModel:
    """Return the model of a network that answers queries, for its card's task."""
    config: Any = module.config
    kind = str(config.model_type)
    task = card.task
    inputs = _task_inputs(path, task, config) if kind == "oneformer" else None
    network = Queries(module, kind, inputs)
    if task == "semantic":
        return TorchModel(QueryScores(network), card, options)
    return DetectorModel(QueryObjects(network), card, options)


class Queries(nn.Module):
    """The network, and nothing of its answer but class and mask logits."""

    task_inputs: torch.Tensor | None

    def __init__(
        self, network: nn.Module, kind: str, task_inputs: torch.Tensor | None
    ) -> None:
        super().__init__()
        self.network = network
        self.kind = kind
        self.register_buffer("task_inputs", task_inputs)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (n, query, class + 1) and (n, query, y, x) logits."""
        more: dict[str, Any] = {}
        if self.task_inputs is not None:
            more["task_inputs"] = self.task_inputs.expand(len(x), -1)
        answer = self.network(pixel_values=x, **more)
        masks = answer.masks_queries_logits
        side = _MASK_SIDE.get(self.kind)
        if side is not None:
            masks = _resized(masks.float(), side, side)
        return answer.class_queries_logits, masks


class QueryScores(nn.Module):
    """Probabilities per class: the library's scores, brought to a sum of one."""

    def __init__(self, queries: Queries) -> None:
        super().__init__()
        self.queries = queries

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, class, y, x), at the network's own stride."""
        classes, masks = self.queries(x)
        return _scores(classes, masks, (x.shape[-2], x.shape[-1]))


class QueryObjects(Finder):
    """Objects of a window: every query is one, as sure as its class and its mask."""

    def __init__(self, queries: Queries) -> None:
        super().__init__()
        self.queries = queries

    def features(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (n, query, class + 1) and (n, query, y, x) logits."""
        return self.queries(x)  # type: ignore[no-any-return]

    def detections(
        self,
        features: tuple[torch.Tensor, torch.Tensor],
        size: tuple[int, int],
        *_: object,
    ) -> Detections:
        """Return what is found in one window."""
        classes, masks = features
        sure, channels = classes[0].softmax(-1)[:, :-1].max(-1)
        share = _resized(masks, *size)[0].sigmoid()
        found = share > 0.5
        area = found.sum((1, 2)).clamp_min(1)
        inside = (share * found).sum((1, 2)) / area
        return Detections(masks=found, channels=channels, scores=sure * inside)

    def semantic(
        self, features: tuple[torch.Tensor, torch.Tensor], size: tuple[int, int]
    ) -> torch.Tensor:
        """Return probabilities per class, as `QueryScores`."""
        return _scores(*features, size)


def _scores(
    classes: torch.Tensor, masks: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """Return (n, class, y, x) probabilities at the size of the network's input."""
    weights = classes.float().softmax(-1)[..., :-1]  # the last is "no object"
    scores = torch.einsum("bqc,bqhw->bchw", weights, masks.float().sigmoid())
    scores = _resized(scores, *size)
    return scores / scores.sum(1, keepdim=True).clamp_min(1e-9)


def _resized(masks: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return functional.interpolate(
        masks, size=(height, width), mode="bilinear", align_corners=False
    )


def _task_inputs(path: Path, task: str, config: Any) -> torch.Tensor:  # noqa: ANN401
    """Return OneFormer's question, which the folder's tokenizer puts into numbers."""
    from transformers import CLIPTokenizer

    if not any((path / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise ModelError(
            f"{path} lacks the tokenizer that a oneformer asks its question with: "
            "tokenizer.json, or vocab.json and merges.txt"
        )
    try:
        tokenizer = CLIPTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(
            f"the tokenizer in {path} cannot be read: {first_line(error)}"
        ) from error
    words = tokenizer(
        f"the task is {task}",
        padding="max_length",
        max_length=config.task_seq_len,
        truncation=True,
        return_tensors="pt",
    )
    return words["input_ids"]  # type: ignore[no-any-return]
