"""Losses for classes that are not equally common, and their sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch.nn import functional

from geoseg.errors import ModelError
from geoseg.training.scenes import IGNORED

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_FOCUS = 2.0


def make_loss(name: str) -> Loss:
    """Return a loss by name: `ce`, `dice`, `focal`, or a sum such as `ce+dice`.

    The loss takes logits (n, class, y, x) and targets (n, y, x) uint8, of which 255 is
    ignored, and returns a scalar.

    Raises:
        ModelError: There is no such loss.
    """
    parts = [part.strip() for part in name.split("+")]
    unknown = [part for part in parts if part not in _LOSSES]
    if unknown:
        raise ModelError(
            f"loss {name!r} is not known: {', '.join(_LOSSES)}, or a sum such as "
            "ce+dice"
        )
    return partial(_sum, parts)


def _sum(
    parts: Sequence[str], logits: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    terms = [_LOSSES[part](logits.float(), targets.long()) for part in parts]
    return torch.stack(terms).sum()


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return _mean(_each_pixel(logits, targets), targets)


def _focal(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Lin et al. (2017), "Focal loss for dense object detection", ICCV; gamma = 2."""
    entropy = _each_pixel(logits, targets)
    return _mean((1 - torch.exp(-entropy)) ** _FOCUS * entropy, targets)


def _dice(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Milletari, Navab, Ahmadi (2016), "V-Net", 3DV; over the batch, by class.

    Classes that the batch does not hold are left out.
    """
    known = targets != IGNORED
    kept = torch.where(known, targets, 0)
    truth = functional.one_hot(kept, logits.shape[1]).permute(0, 3, 1, 2)
    truth = truth.to(logits.dtype) * known[:, None]
    share = logits.softmax(dim=1) * known[:, None]
    axes = (0, 2, 3)
    both = (share * truth).sum(axes)
    size = share.sum(axes) + truth.sum(axes)
    present = (truth.sum(axes) > 0).to(logits.dtype)
    dice = 1 - (2 * both + 1) / (size + 1)
    return (dice * present).sum() / present.sum().clamp(min=1)


def _each_pixel(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(
        logits, targets, ignore_index=IGNORED, reduction="none"
    )


def _mean(values: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean over known pixels; 0 where there are none."""
    return values.sum() / (targets != IGNORED).sum().clamp(min=1)


_LOSSES: dict[str, Loss] = {"ce": _cross_entropy, "dice": _dice, "focal": _focal}
