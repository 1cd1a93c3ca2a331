"""What networks answer, as the usual libraries wrap it: scores or labels per pixel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from geoseg.core.text import did_you_mean
from geoseg.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from geoseg.models.card import Card


def tensor_of(output: object, card: Card) -> torch.Tensor:
    """Return the tensor in what a network answers, as the usual libraries wrap it.

    Raises:
        ModelError: There is none, or one of several names must be chosen.
    """
    for _ in range(3):
        if isinstance(output, torch.Tensor):
            return output
        if hasattr(output, "logits"):  # of transformers
            output = output.logits
        elif isinstance(output, Mapping) and output:
            output = _chosen(output, card)
        elif isinstance(output, (list, tuple)) and output:
            output = _listed(output, card)
    raise ModelError(
        f"the model answers a {type(output).__name__}, which holds no tensor of scores"
    )


def _listed(output: Sequence[object], card: Card) -> object:
    """Return the entry with the scores, by the card, or the first where others differ.

    Raises:
        ModelError: Others are scores as well, as of deep supervision.
    """
    told = card.framework.get("answer")
    if isinstance(told, int) and -len(output) <= told < len(output):
        return output[told]
    shapes = [getattr(each, "shape", None) for each in output]
    if shapes[0] is not None and shapes.count(shapes[0]) > 1:
        raise ModelError(
            f"model {card.name!r} answers a list of {len(output)}: say which are the "
            'scores in its card: "framework": {"answer": 0}, of the first'
        )
    return output[0]


def _chosen(output: Mapping[Any, Any], card: Card) -> object:
    """Return the entry with the scores, by the card or by its usual name."""
    told = card.framework.get("answer")
    for name in ("out", "logits") if told is None else (told,):
        if name in output:
            return output[name]
    if len(output) == 1 and told is None:
        return next(iter(output.values()))
    names = list(map(str, output))
    raise ModelError(
        f"model {card.name!r} answers {', '.join(names)}"
        + (f", not {told!r}{did_you_mean(str(told), names)}" if told else "")
        + ': say which are the scores in its card: "framework": '
        f'{{"answer": "{names[0]}"}}'
    )


def fit_channels(scores: torch.Tensor, card: Card) -> torch.Tensor:
    """Return scores (n, class, y, x) with one channel per class, or raise.

    Channels may come last. One channel, or none, is the score of the second of two
    classes, as in networks with one sigmoid output; the first gets what is left.
    """
    two = card.channels == 2
    known = (card.channels, 1) if two else (card.channels,)
    shape = tuple(scores.shape)
    if scores.ndim == 3 and two:
        scores = scores[:, None]
    elif scores.ndim == 4 and shape[1] not in known and shape[-1] in known:
        scores = scores.movedim(-1, 1)
    if scores.ndim != 4 or scores.shape[1] not in known:
        raise ModelError(
            f"model {card.name!r} answers scores of shape {shape}, but its card names "
            f"{card.channels} classes: (n, {card.channels}, y, x) is needed"
            + _instead(scores)
        )
    if scores.shape[1] != card.channels:
        rest = torch.zeros_like(scores)  # under softmax, of the second's sigmoid
        if card.output == "probabilities":
            rest = 1 - scores
        elif card.activation == "sigmoid":
            rest = -scores
        scores = torch.cat([rest, scores], dim=1)
    return scores if card.threshold is None else _shifted(scores, card)


def _instead(scores: torch.Tensor) -> str:
    """Return what a card may say of scores that are not one per class."""
    if scores.ndim == 3 or 1 in (scores.shape[1], scores.shape[-1]):
        return '; where it answers the classes themselves, write "output": "labels"'
    return f'; write {scores.shape[1]} names into "classes"' if scores.ndim == 4 else ""


def _shifted(scores: torch.Tensor, card: Card) -> torch.Tensor:
    """Move the odds of two classes so that they are even at the card's threshold."""
    assert card.threshold is not None
    odds = card.threshold / (1 - card.threshold)
    first, second = scores[:, :1], scores[:, 1:]
    if card.output == "probabilities":
        second = second / (second + first * odds).clamp_min(1e-9)
        return torch.cat([1 - second, second], dim=1)
    if card.activation == "sigmoid":
        first = first + math.log(odds)
    return torch.cat([first, second - math.log(odds)], dim=1)


def to_pixels(
    scores: torch.Tensor, height: int, width: int, card: Card
) -> torch.Tensor:
    """Bring scores to the pixels of a window.

    Sides that divide the window's are at a stride, and are enlarged as the networks'
    own libraries do it. Others are the middle of the window, as of networks that do not
    pad: around it no class is preferred, and neighbouring windows say what is there.
    """
    high, wide = scores.shape[-2:]
    if (high, wide) == (height, width):
        return scores
    if max(height, high) % min(height, high) + max(width, wide) % min(width, wide) == 0:
        return functional.interpolate(
            scores.float(), size=(height, width), mode="bilinear", align_corners=False
        )
    rows, cols = height - high, width - wide
    if min(rows, cols) < 0 or rows % 2 or cols % 2 or max(rows, cols) > card.overlap:
        raise ModelError(
            f"model {card.name!r} answers {high} x {wide} scores for a window of "
            f"{height} x {width} px: these are neither every n-th pixel nor, with an "
            f"overlap of {card.overlap} px, enough of its middle to meet those of the "
            f'next windows: write "overlap": {max(rows, cols) + 1 >> 1 << 1} or more, '
            "at most half a window, into its card"
        )
    return functional.pad(scores, (cols // 2, cols // 2, rows // 2, rows // 2))


def checked_labels(labels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Check that labels are (n, y, x); a channel axis of one is taken away."""
    if labels.ndim == 4 and 1 in (labels.shape[1], labels.shape[-1]):
        labels = labels[:, 0] if labels.shape[1] == 1 else labels[..., 0]
    if labels.ndim != 3 or labels.shape[-2:] != (height, width):
        raise ModelError(
            f"the model answers labels of shape {tuple(labels.shape)}, its card "
            f"promises (n, {height}, {width})"
        )
    return labels
