"""Objects in patches: taken apart into masks to learn from, and scored in windows.

A patch holds for each pixel the number of its object, 0 for none, -1 where that is
unknown.
Networks that answer masks learn from one mask per object, and bring a loss of their
own; classes are learned by such networks as objects, one for each class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geoseg.accuracy.object_metrics import (
    ObjectScores,
    ObjectTable,
    Overlaps,
    add_overlaps,
    count_overlaps,
    score_objects,
)
from geoseg.models.networks.detector import SURE, Detections
from geoseg.models.networks.queries import Queries, QueryObjects, QueryScores
from geoseg.models.objects import from_masks
from geoseg.training.scenes import UNKNOWN

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from geoseg.models.card import Card
    from geoseg.training.scenes import LabelledRaster

_LEAST, _THINNEST = 9, 2
"""Pixels of an object in a patch, its rows and columns: smaller ones are only noise."""
_LEVELS = 5
"""Levels of a detector's pyramid."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatchObjects:
    """The objects of one patch."""

    masks: torch.Tensor
    """(k, y, x) bool."""
    channels: torch.Tensor
    """(k,) place of each in the class table."""


def split_objects(numbers: torch.Tensor, places: torch.Tensor) -> PatchObjects:
    """Return the objects of a patch, without the slivers that its edge leaves of some.

    Args:
        numbers: (y, x) object of each pixel, 1 ...; 0 for none, -1 for unknown.
        places: (object,) place in the class table, the first that of object 1.
    """
    found, pixels = torch.unique(numbers[numbers > 0], return_counts=True)
    found = found[pixels >= _LEAST].long()
    masks = numbers == found[:, None, None]
    wide = masks.any(1).sum(1).minimum(masks.any(2).sum(1)) >= _THINNEST
    return PatchObjects(masks=masks[wide], channels=places[found[wide] - 1])


def own_loss(
    network: Any,  # noqa: ANN401 - of torchvision or transformers
    x: torch.Tensor,
    patches: Sequence[PatchObjects],
) -> torch.Tensor:
    """Return the loss that a network computes itself.

    Args:
        network: a detector of torchvision, or a network of transformers with queries.
        x: (n, band, y, x) scaled pixels.
        patches: the objects of each.
    """
    if hasattr(network, "roi_heads"):
        losses = network(list(x), [_boxed(objects) for objects in patches])
        return torch.stack(list(losses.values())).sum()
    answer = network(
        pixel_values=x,
        mask_labels=[objects.masks.float() for objects in patches],
        class_labels=[objects.channels for objects in patches],
    )
    return answer.loss.sum()  # type: ignore[no-any-return]


def _boxed(objects: PatchObjects) -> dict[str, torch.Tensor]:
    """Return what a detector learns from; its first class is the background."""
    from torchvision.ops import masks_to_boxes

    boxes = masks_to_boxes(objects.masks)
    boxes[:, 2:] += 1  # to the far side of the last pixel
    return {
        "boxes": boxes,
        "labels": objects.channels + 1,
        "masks": objects.masks.to(torch.uint8),
    }


def scores_of(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return the scores per class (n, class, y, x) of a network with queries."""
    return QueryScores(_queries(network))(x)  # type: ignore[no-any-return]


def objects_of(network: nn.Module, x: torch.Tensor) -> Detections:
    """Return what a network finds in one window, (1, band, y, x)."""
    if hasattr(network, "roi_heads"):
        from geoseg.models.networks.torchvision_nets import MaskRcnn

        return MaskRcnn(network)(x)  # type: ignore[no-any-return]
    return QueryObjects(_queries(network))(x)  # type: ignore[no-any-return]


def _queries(network: Any) -> Queries:  # noqa: ANN401 - of transformers
    return Queries(network, str(network.config.model_type), None)


# --- how large they are ---------------------------------------------------------------


def anchor_sides(scenes: Sequence[LabelledRaster]) -> list[int]:
    """Return the sides in pixels that a detector starts from, by what it is to find.

    Five powers of two, from that next to the side of the smaller objects (one in ten is
    smaller still); 32, as for photographs, at most.
    """
    import shapely

    from geoseg.labels import polygons_of

    sides = []
    for scene in scenes:
        bounds = shapely.bounds(polygons_of(scene.labels).tree.geometries)
        width, height = bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1]
        pixel = abs(scene.grid.transform.determinant)
        sides.append(np.sqrt(width * height / pixel))
    small = float(np.percentile(np.concatenate(sides), 10))
    first = int(np.clip(2 ** round(np.log2(max(small, 1))), 8, 32))
    return [first * 2**level for level in range(_LEVELS)]


# --- how well they are found ----------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WindowComparison:
    """The objects of one window, those found and the true ones."""

    overlaps: Overlaps
    mapped: ObjectTable
    true: ObjectTable


def compare_window(
    found: Detections, numbers: torch.Tensor, places: torch.Tensor
) -> WindowComparison:
    """Compare what was found in a window with what is there.

    Args:
        found: what the network answers; those that it is sure of count.
        numbers: (y, x) as in `split_objects`.
        places: (object,) likewise.
    """
    kept = found.scores >= SURE
    objects = from_masks(
        found.masks[kept].cpu().numpy(),
        found.channels[kept].cpu().numpy(),
        found.scores[kept].float().cpu().numpy(),
        min_score=SURE,
    )
    there = split_objects(numbers, places)
    true = np.where(numbers.cpu().numpy() == 0, 0, UNKNOWN)
    for i, mask in enumerate(there.masks.cpu().numpy(), start=1):
        true[mask] = i
    return WindowComparison(
        overlaps=count_overlaps(objects.labels, true),
        mapped=_table(objects.classes, objects.scores),
        true=_table(there.channels.cpu().numpy()),
    )


def _table(
    classes: NDArray[np.integer[Any]], scores: NDArray[Any] | None = None
) -> ObjectTable:
    return ObjectTable(
        ids=np.arange(1, len(classes) + 1),
        classes=classes.astype(np.int64),
        scores=None if scores is None else scores.astype(np.float64),
    )


def score_windows(windows: Sequence[WindowComparison], card: Card) -> ObjectScores:
    """Score the objects of all windows together; one that is cut counts in each."""
    ours, theirs = 0, 0
    overlaps = []
    for window in windows:  # objects are numbered on from window to window
        o = window.overlaps
        mapped = np.where(o.mapped > 0, o.mapped + ours, o.mapped)
        true = np.where(o.true > 0, o.true + theirs, o.true)
        overlaps.append(replace(o, mapped=mapped, true=true))
        ours += len(window.mapped.ids)
        theirs += len(window.true.ids)
    mapped_table = _joined([w.mapped for w in windows])
    true_table = _joined([w.true for w in windows])
    names = [(place, c.name) for place, c in enumerate(card.classes)]
    return score_objects(add_overlaps(overlaps), mapped_table, true_table, names)


def _joined(tables: Sequence[ObjectTable]) -> ObjectTable:
    none = np.zeros(0)
    classes = np.concatenate([none, *(t.classes for t in tables)])
    scores = [t.scores for t in tables if t.scores is not None]
    sure = np.concatenate([none, *scores]) if scores else None
    return _table(classes, sure)
