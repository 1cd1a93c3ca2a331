"""From masks that overlap each other to the objects of one window.

Kirillov, He, Girshick, Rother, Dollár (2019), "Panoptic segmentation", CVPR, §5: the
surest mask takes its pixels first, and a mask of which too little is left is dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.errors import ModelError
from geoseg.models.contract import Objects

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike, NDArray

    from geoseg.models.card import Card


def from_masks(
    masks: NDArray[np.bool_],
    classes: ArrayLike,
    scores: ArrayLike,
    *,
    min_score: float = 0.5,
    min_visible: float = 0.5,
    semantic: torch.Tensor | NDArray[np.floating[Any]] | None = None,
) -> Objects:
    """Resolve overlapping masks: every pixel goes to the surest mask that has it.

    Args:
        masks: (k, y, x) bool, one per object.
        classes: (k,) class value of each.
        scores: (k,) how sure the model is of each, 0 … 1.
        min_score: Masks less sure than this are dropped.
        min_visible: Masks of which a smaller share is left are dropped; doubled
            detections of one object are.
        semantic: Goes along with panoptic models.

    Returns:
        Objects in the order of falling scores; the first of equal ones comes first.
    """
    values, sure = np.asarray(classes, np.int64), np.asarray(scores, np.float32)
    labels = np.zeros(masks.shape[1:], np.int32)
    kept: list[int] = []
    for i in np.argsort(-sure, kind="stable"):
        if sure[i] < min_score:
            break
        free = masks[i] & (labels == 0)
        whole, left = int(masks[i].sum()), int(free.sum())
        if left == 0 or left < min_visible * whole:
            continue
        kept.append(int(i))
        labels[free] = len(kept)
    return Objects(
        labels=labels, classes=values[kept], scores=sure[kept], semantic=semantic
    )


def check_objects(answer: object, card: Card, shape: tuple[int, ...]) -> list[Objects]:
    """Return a model's answer for a batch, or raise where it is not what it must be.

    Args:
        answer: What `predict` returned.
        card: The model's card.
        shape: (n, band, y, x) of the batch.

    Raises:
        ModelError: It is not one `Objects` per window, of the windows' shape, with
            classes of the card and one class and score per object.
    """
    if not isinstance(answer, list | tuple) or len(answer) != shape[0]:
        found = f"{len(answer)}" if isinstance(answer, list | tuple) else type(answer)
        raise ModelError(
            f"model {card.name!r} answered {found}, its card's task {card.task!r} "
            f"promises a list of {shape[0]} Objects"
        )
    countable = card.things or [c.name for c in card.classes]
    things = {c.value for c in card.classes if c.name in countable}
    for objects in answer:
        _check(objects, card, shape[2:], things)
    return list(answer)


def _check(
    objects: object, card: Card, shape: tuple[int, ...], things: set[int]
) -> None:
    if not isinstance(objects, Objects):
        raise ModelError(
            f"model {card.name!r} answered a {type(objects).__name__} for a window, "
            "not geoseg.models.contract.Objects"
        )
    labels, k = objects.labels, len(objects.classes)
    if labels.shape != shape or labels.dtype.kind not in "iu":
        raise ModelError(
            f"model {card.name!r} answered {labels.dtype} {labels.shape} as the "
            f"objects of a window, not integers {shape}"
        )
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if low < 0 or high > k or len(objects.scores) != k:
        raise ModelError(
            f"model {card.name!r} numbered objects {low} … {high}, but gave {k} "
            f"classes and {len(objects.scores)} scores"
        )
    strange = set(np.unique(objects.classes).tolist()) - things
    if strange:
        raise ModelError(
            f"model {card.name!r} found objects of classes {sorted(strange)[:5]}, "
            "which its card does not name among its things"
        )
    if not np.isfinite(objects.scores).all():
        raise ModelError(f"model {card.name!r} gave scores that are NaN or infinite")
    if card.task == "panoptic" and objects.semantic is None:
        raise ModelError(
            f"model {card.name!r} gave no semantic scores, which its task needs"
        )
