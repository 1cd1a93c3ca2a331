"""Mapped instances against true ones, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from geoseg.accuracy.object_metrics import (
    ObjectScores,
    ObjectTable,
    Overlaps,
    add_overlaps,
    count_overlaps,
    score_objects,
)
from geoseg.errors import MasksError
from geoseg.labels import Labels, object_classes, read_objects

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.core.grid import Window
    from geoseg.maps.store import Masks


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ObjectTally:
    """What a block tells of its objects."""

    overlaps: Overlaps
    """Pixels shared by mapped and true objects."""
    classes: Overlaps
    """Pixels shared by mapped objects and class values."""
    ids: NDArray[np.int64]
    """Mapped objects of the block."""
    pixels: NDArray[np.int64]
    """Their pixels."""
    confidence: NDArray[np.int64]
    """The sum of their stored confidence; zeros where none is stored."""


def tally_objects(masks: Masks, labels: Labels, window: Window) -> ObjectTally:
    """Count what a block tells of its objects.

    Raises:
        MasksError: the masks hold no instances.
        LabelsError: the reference has no objects, because it is not of polygons.
    """
    if "instances" not in masks.arrays:
        raise MasksError(
            f"{masks.path} holds no instances: segment with --task instance or panoptic"
        )
    ours = masks.read("instances", window).astype(np.int64)
    classes = masks.read("classes", window)
    theirs = read_objects(labels, window)
    theirs[classes == masks.nodata] = -1  # what the image cannot show is not missed
    ids, index, pixels = np.unique(ours, return_inverse=True, return_counts=True)
    level = np.zeros(ours.size)
    if "confidence" in masks.arrays:
        level = masks.read("confidence", window).ravel().astype(np.float64)
    return ObjectTally(
        overlaps=count_overlaps(ours, theirs),
        classes=count_overlaps(ours, classes),
        ids=ids.astype(np.int64),
        pixels=pixels.astype(np.int64),
        confidence=np.bincount(index.ravel(), level).astype(np.int64),
    )


def score(masks: Masks, tallies: Sequence[ObjectTally], labels: Labels) -> ObjectScores:
    """Score all objects, whatever blocks they were counted in.

    Classes and scores of mapped objects are those of the store's table of objects;
    without one, the class of most of an object's pixels and their mean confidence.
    """
    mapped = _listed(masks) or _mapped(tallies)
    classes = object_classes(labels)
    true = ObjectTable(ids=np.arange(1, len(classes) + 1), classes=classes)
    names = [(c.value, c.name) for c in labels.classes]
    return score_objects(add_overlaps(t.overlaps for t in tallies), mapped, true, names)


def _listed(masks: Masks) -> ObjectTable | None:
    """Return what the store says of its objects, None where it says nothing."""
    try:
        table = masks.objects(("instance_id", "class_id", "score"))
    except MasksError:
        return None
    return ObjectTable(
        ids=table["instance_id"].astype(np.int64),
        classes=table["class_id"].astype(np.int64),
        scores=table["score"].astype(np.float64),
    )


def _mapped(tallies: Sequence[ObjectTally]) -> ObjectTable:
    """Return each object with the class that most of its pixels have."""
    classes = add_overlaps(t.classes for t in tallies)
    order = np.lexsort((classes.true, -classes.pixels, classes.mapped))
    ids, first = np.unique(classes.mapped[order], return_index=True)
    of = np.concatenate([t.ids for t in tallies])
    place = np.searchsorted(ids, of)
    total = np.bincount(place, np.concatenate([t.confidence for t in tallies]))
    pixels = np.bincount(place, np.concatenate([t.pixels for t in tallies]))
    real = ids > 0
    return ObjectTable(
        ids=ids[real],
        classes=classes.true[order][first][real],
        scores=(total / pixels)[real] if total.any() else None,
    )
