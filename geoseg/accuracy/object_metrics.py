"""How well objects are found: average precision, panoptic quality, F1.

Everything follows from how many pixels each mapped object shares with each true one.
Objects of one raster do not overlap each other, so at most one true object has an IoU
above one half with a mapped one, and matching needs no search (Kirillov et al. 2019).

Lin et al. (2014), "Microsoft COCO: common objects in context", ECCV, for average
precision over 101 recall levels, without a limit on detections and without size ranges.
Kirillov, He, Girshick, Rother, Dollár (2019), "Panoptic segmentation", CVPR.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geoseg.accuracy.interval import finite

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

IOU_LEVELS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
_RECALL_LEVELS = np.linspace(0, 1, 101)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Overlaps:
    """How many pixels each pair of a mapped and a true object shares.

    Objects are named by any integers; 0 on either side means none of them, and -1 on
    the true side that it is unlabelled.
    """

    mapped: NDArray[np.int64]
    """(pair,) mapped object."""
    true: NDArray[np.int64]
    """(pair,) true object."""
    pixels: NDArray[np.int64]
    """(pair,) pixels that they share; each pair appears once."""


def count_overlaps(mapped: ArrayLike, true: ArrayLike) -> Overlaps:
    """Count the pixels that each pair shares, in arrays of the same shape."""
    ours, theirs = np.asarray(mapped).ravel(), np.asarray(true).ravel()
    our_ids, our_index = np.unique(ours, return_inverse=True)
    their_ids, their_index = np.unique(theirs, return_inverse=True)
    pairs, pixels = np.unique(
        our_index.astype(np.int64) * len(their_ids) + their_index, return_counts=True
    )
    return Overlaps(
        mapped=our_ids[pairs // len(their_ids)].astype(np.int64),
        true=their_ids[pairs % len(their_ids)].astype(np.int64),
        pixels=pixels.astype(np.int64),
    )


def add_overlaps(parts: Iterable[Overlaps]) -> Overlaps:
    """Return the sum of the counts of several blocks, in any order."""
    none = np.zeros((3, 0), np.int64)
    counted = np.concatenate(
        [none, *(np.stack([p.mapped, p.true, p.pixels]) for p in parts)], axis=1
    )
    table = pd.DataFrame(counted.T, columns=["mapped", "true", "pixels"])
    sums = table.groupby(["mapped", "true"], as_index=False)["pixels"].sum()
    return Overlaps(**{name: sums[name].to_numpy() for name in sums})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ObjectTable:
    """What is known of objects beside their pixels."""

    ids: NDArray[np.int64]
    """(object,) how `Overlaps` names them."""
    classes: NDArray[np.int64]
    """(object,) class value."""
    scores: NDArray[np.float64] | None = None
    """(object,) how sure the model was; None where it did not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassObjects:
    """What is known of the objects of one class; NaN where there are none."""

    true: int
    """True objects."""
    mapped: int
    """Mapped objects, without those that lie mostly where nothing is labelled."""
    matched: int
    """Pairs of the same class with an IoU above one half."""
    sq: float
    """Segmentation quality: mean IoU of the matched."""
    ap: tuple[float, ...]
    """Average precision at each of `IOU_LEVELS`."""

    @property
    def rq(self) -> float:
        """Recognition quality: F1 of finding objects with an IoU above one half."""
        n = self.true + self.mapped
        return 2 * self.matched / n if n else float("nan")

    @property
    def pq(self) -> float:
        """Panoptic quality: segmentation quality times recognition quality."""
        return self.sq * self.rq if self.matched else 0.0 * self.rq

    @property
    def ap50(self) -> float:
        """Average precision at an IoU of one half."""
        return self.ap[0]

    @property
    def mean_ap(self) -> float:
        """Mean of the average precision at IoUs of 0.50, 0.55, … 0.95."""
        return float(np.mean(self.ap))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON has it."""
        return {
            "true": self.true,
            "mapped": self.mapped,
            "matched": self.matched,
            "ap50": finite(self.ap50),
            "ap50_95": finite(self.mean_ap),
            "pq": finite(self.pq),
            "sq": finite(self.sq),
            "rq": finite(self.rq),
            "f1_50": finite(self.rq),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectScores:
    """How well objects are found."""

    names: tuple[str, ...]
    """Names of the classes that have objects in the map or the reference."""
    per_class: tuple[ClassObjects, ...]
    """By class, in the order of `names`."""

    def mean(self, figure: str) -> float:
        """Return the mean of a figure over the classes that have it."""
        values = np.array([getattr(c, figure) for c in self.per_class], float)
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")

    @property
    def f1(self) -> float:
        """F1 of finding objects with an IoU above one half, all classes together."""
        n = sum(c.true + c.mapped for c in self.per_class)
        return 2 * sum(c.matched for c in self.per_class) / n if n else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON has it."""
        figures = ("ap50", "mean_ap", "pq", "sq", "rq")
        return {
            **{
                ("ap50_95" if f == "mean_ap" else f): finite(self.mean(f))
                for f in figures
            },
            "f1_50": finite(self.f1),
            "classes": {
                name: figures.to_dict()
                for name, figures in zip(self.names, self.per_class, strict=True)
            },
        }


def score_objects(
    overlaps: Overlaps,
    mapped: ObjectTable,
    true: ObjectTable,
    names: Sequence[tuple[int, str]],
) -> ObjectScores:
    """Score mapped objects against true ones, class by class.

    Unlabelled pixels do not count for or against a mapped object, and one that
    lies mostly there is left out (Kirillov et al. 2019).

    Args:
        overlaps: what each pair shares, all pixels of all objects included.
        mapped: the mapped objects. Where they carry no scores, all are equally sure,
            and average precision is that of one operating point.
        true: the true objects.
        names: class values and their names; those without objects are left out.
    """
    pairs = _pairs(overlaps, mapped, true)
    present = {
        int(v) for v in (*np.unique(pairs.our_class), *np.unique(pairs.their_class))
    }
    kept = [(value, name) for value, name in names if value in present]
    return ObjectScores(
        names=tuple(name for _, name in kept),
        per_class=tuple(_score_class(pairs, value) for value, _ in kept),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Pairs:
    """Pairs with an IoU of at least one half, and the objects that take part."""

    ours: NDArray[np.intp]
    theirs: NDArray[np.intp]
    iou: NDArray[np.float64]
    our_class: NDArray[np.int64]
    our_rank: NDArray[np.intp]
    """Order of the mapped objects, the surest first."""
    counts: NDArray[np.bool_]
    """Whether a mapped object counts where it is not matched."""
    their_class: NDArray[np.int64]


def _pairs(overlaps: Overlaps, mapped: ObjectTable, true: ObjectTable) -> _Pairs:
    ours, is_ours = _index(overlaps.mapped, mapped.ids)
    theirs, is_theirs = _index(overlaps.true, true.ids)
    our_area = np.bincount(ours[is_ours], overlaps.pixels[is_ours], len(mapped.ids))
    their_area = np.bincount(
        theirs[is_theirs], overlaps.pixels[is_theirs], len(true.ids)
    )
    unsaid = is_ours & (overlaps.true == -1)
    void = np.bincount(ours[unsaid], overlaps.pixels[unsaid], len(mapped.ids))

    both = is_ours & is_theirs
    p, t, shared = ours[both], theirs[both], overlaps.pixels[both]
    same = mapped.classes[p] == true.classes[t]
    p, t, shared = p[same], t[same], shared[same]
    iou = shared / (our_area[p] - void[p] + their_area[t] - shared)
    good = iou >= IOU_LEVELS[0]

    scores = np.zeros(len(mapped.ids)) if mapped.scores is None else mapped.scores
    order = np.lexsort((mapped.ids, -scores))
    rank = np.empty(len(order), np.intp)
    rank[order] = np.arange(len(order))
    seen, there = our_area > 0, their_area > 0
    return _Pairs(
        ours=p[good],
        theirs=t[good],
        iou=iou[good],
        our_class=np.where(seen, mapped.classes, -1),
        our_rank=rank,
        counts=seen & (void <= 0.5 * our_area),
        their_class=np.where(there, true.classes, -1),
    )


def _index(
    names: NDArray[np.int64], ids: NDArray[np.int64]
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return each name's place among the ids, and whether it is one of them."""
    index = pd.Index(ids).get_indexer(names)
    return index, index >= 0


def _score_class(pairs: _Pairs, value: int) -> ClassObjects:
    of_class = pairs.our_class[pairs.ours] == value
    ours, theirs = pairs.ours[of_class], pairs.theirs[of_class]
    iou = pairs.iou[of_class]
    true = int((pairs.their_class == value).sum())
    above = iou > IOU_LEVELS[0]
    mine = pairs.our_class == value
    unmatched = mine.copy()
    unmatched[ours[above]] = False
    matched = int(above.sum())
    return ClassObjects(
        true=true,
        mapped=matched + int((unmatched & pairs.counts).sum()),
        matched=matched,
        sq=float(iou[above].mean()) if matched else float("nan"),
        ap=tuple(
            _average_precision(
                pairs, mine, _match(pairs, ours, theirs, iou, level), true
            )
            for level in IOU_LEVELS
        ),
    )


def _match(
    pairs: _Pairs,
    ours: NDArray[np.intp],
    theirs: NDArray[np.intp],
    iou: NDArray[np.float64],
    level: float,
) -> NDArray[np.intp]:
    """Return the mapped objects that find a true one at this IoU.

    Above one half every object has at most one partner. At one half exactly an object
    may have two: then the surest chooses first, as in the COCO evaluation.
    """
    if level > IOU_LEVELS[0]:
        return ours[iou >= level]
    clear = iou > level
    found, taken = set(ours[clear].tolist()), set(theirs[clear].tolist())
    ties = np.flatnonzero(~clear)
    for i in ties[np.lexsort((-theirs[ties], pairs.our_rank[ours[ties]]))]:
        if theirs[i] not in taken and ours[i] not in found:
            found.add(int(ours[i]))
            taken.add(int(theirs[i]))
    return np.array(sorted(found), np.intp)


def _average_precision(
    pairs: _Pairs, mine: NDArray[np.bool_], found: NDArray[np.intp], true: int
) -> float:
    if not true:
        return float("nan")
    hit = np.zeros(len(mine), bool)
    hit[found] = True
    listed = np.flatnonzero(mine & (hit | pairs.counts))
    hits = hit[listed[np.argsort(pairs.our_rank[listed])]]
    right = np.cumsum(hits)
    recall = right / true
    precision = right / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, _RECALL_LEVELS, side="left")
    return float(np.append(envelope, 0.0)[np.minimum(at, len(hits))].mean())
