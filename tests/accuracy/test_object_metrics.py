"""Object metrics against the tools that define them, on the same arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.accuracy.object_metrics import (
    IOU_LEVELS,
    ObjectTable,
    add_overlaps,
    count_overlaps,
    score_objects,
)

NAMES = ((1, "a"), (2, "b"), (3, "c"))


def scene(seed, side=120, n=45, classes=3):
    """Random rectangles, and a map of them that is shifted, shrunk, lost or doubled."""
    rng = np.random.default_rng(seed)
    true, mapped = np.zeros((side, side), np.int64), np.zeros((side, side), np.int64)
    truth_class, map_class, scores = {}, {}, {}
    for k in range(1, n + 1):
        y, x = rng.integers(0, side - 8, 2)
        h, w = rng.integers(3, 18, 2)
        true[y : y + h, x : x + w] = k
        truth_class[k] = int(rng.integers(1, classes + 1))
    for k in range(1, n + 1):
        if rng.random() < 0.15:
            continue
        moved = np.roll(true == k, rng.integers(-1, 2, 2), (0, 1))
        cut = rng.random() < 0.2
        moved[: side // 2 if cut else 0] = False
        mapped[moved] = 1000 + k
        same = rng.random() < 0.85
        map_class[1000 + k] = (
            truth_class[k] if same else int(rng.integers(1, classes + 1))
        )
        scores[1000 + k] = round(rng.random(), 2)
    for k in range(5):
        y, x = rng.integers(0, side - 8, 2)
        mapped[y : y + 5, x : x + 5] = 5000 + k
        map_class[5000 + k] = int(rng.integers(1, classes + 1))
        scores[5000 + k] = round(rng.random(), 2)
    there = [k for k in truth_class if (true == k).any()]
    ours = [k for k in map_class if (mapped == k).any()]
    mapped_table = ObjectTable(
        ids=np.array(ours),
        classes=np.array([map_class[k] for k in ours]),
        scores=np.array([scores[k] for k in ours]),
    )
    true_table = ObjectTable(
        ids=np.array(there), classes=np.array([truth_class[k] for k in there])
    )
    return mapped, true, mapped_table, true_table


@pytest.mark.parametrize("seed", range(6))
def test_average_precision_is_that_of_pycocotools(seed):
    from pycocotools import mask as rle
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    mapped, true, ours, theirs = scene(seed)

    def coded(region):
        code = rle.encode(np.asfortranarray(region.astype(np.uint8)))
        return {**code, "counts": code["counts"].decode()}

    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": 1, "height": true.shape[0], "width": true.shape[1]}],
        "categories": [{"id": v, "name": n} for v, n in NAMES],
        "annotations": [
            {
                "id": int(k), "image_id": 1, "category_id": int(c), "iscrowd": 0,
                "area": int((true == k).sum()), "segmentation": coded(true == k),
            }
            for k, c in zip(theirs.ids, theirs.classes, strict=True)
        ],
    }  # fmt: skip
    truth.createIndex()
    found = truth.loadRes(
        [
            {
                "image_id": 1,
                "category_id": int(ours.classes[i]),
                "score": float(ours.scores[i]),
                "segmentation": coded(mapped == ours.ids[i]),
            }
            for i in np.argsort(ours.ids)
        ]
    )
    judge = COCOeval(truth, found, "segm")
    judge.params.maxDets = [10_000]
    judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
    judge.evaluate()
    judge.accumulate()
    expected = judge.eval["precision"][:, :, :, 0, 0].mean(axis=1)  # (IoU, class)

    got = score_objects(count_overlaps(mapped, true), ours, theirs, NAMES)
    mine = np.array([c.ap for c in got.per_class]).T
    assert mine == pytest.approx(expected, abs=1e-12)
    assert got.mean("mean_ap") == pytest.approx(expected.mean())
    assert len(IOU_LEVELS) == 10


@pytest.mark.parametrize("seed", range(4))
def test_panoptic_quality_is_that_of_torchmetrics(seed):
    import torch
    from torchmetrics.detection import PanopticQuality

    mapped, true, ours, theirs = scene(seed)

    def coloured(labels, table):
        out = np.zeros((*labels.shape, 2), np.int64)
        for k, c in zip(table.ids, table.classes, strict=True):
            out[labels == k] = c, k
        return torch.from_numpy(out)[None]

    judge = PanopticQuality(
        things={1, 2, 3}, stuffs={0}, return_sq_and_rq=True, return_per_class=True
    )
    expected = judge(coloured(mapped, ours), coloured(true, theirs)).numpy()[:3]
    got = score_objects(count_overlaps(mapped, true), ours, theirs, NAMES)
    mine = [[c.pq, np.nan_to_num(c.sq), c.rq] for c in got.per_class]
    assert np.array(mine) == pytest.approx(expected, abs=1e-6)


@given(seed=st.integers(0, 50), cut_y=st.integers(1, 119), cut_x=st.integers(1, 119))
@settings(max_examples=20)
def test_counts_do_not_depend_on_blocks(seed, cut_y, cut_x):
    mapped, true, *_ = scene(seed)
    whole = count_overlaps(mapped, true)
    parts = [
        count_overlaps(mapped[rows, columns], true[rows, columns])
        for rows in (slice(cut_y, None), slice(None, cut_y))
        for columns in (slice(None, cut_x), slice(cut_x, None))
    ]
    summed = add_overlaps(parts)
    for field in ("mapped", "true", "pixels"):
        assert np.array_equal(getattr(whole, field), getattr(summed, field))


def test_the_truth_against_itself_is_perfect():
    _, true, _, theirs = scene(3)
    got = score_objects(count_overlaps(true, true), theirs, theirs, NAMES)
    for c in got.per_class:
        assert (c.pq, c.sq, c.rq, c.ap50, c.mean_ap) == (1, 1, 1, 1, 1)
    assert got.f1 == 1


def test_objects_where_nobody_said_do_not_count():
    mapped = np.zeros((10, 30), np.int64)
    true = np.zeros((10, 30), np.int64)
    mapped[:5, :10], true[:5, :10] = 7, 3  # found
    mapped[:5, 20:] = 8  # mostly where nobody said
    true[:, 15:] = -1
    mapped[8:, :15] = 9  # a false alarm
    ours = ObjectTable(ids=np.array([7, 8, 9]), classes=np.array([1, 1, 1]))
    theirs = ObjectTable(ids=np.array([3]), classes=np.array([1]))
    (got,) = score_objects(count_overlaps(mapped, true), ours, theirs, NAMES).per_class
    assert (got.true, got.mapped, got.matched, got.sq) == (1, 2, 1, 1.0)


def test_two_halves_of_one_object_are_one_match():
    """Both have an IoU of exactly one half; COCO lets the surer one have it."""
    true = np.ones((4, 4), np.int64)
    mapped = np.full((4, 4), 10, np.int64)
    mapped[:, 2:] = 11
    ours = ObjectTable(
        ids=np.array([10, 11]), classes=np.array([1, 1]), scores=np.array([0.2, 0.9])
    )
    theirs = ObjectTable(ids=np.array([1]), classes=np.array([1]))
    (got,) = score_objects(count_overlaps(mapped, true), ours, theirs, NAMES).per_class
    assert got.matched == 0  # panoptic quality asks for more than one half
    assert got.ap50 == 1.0
    assert got.ap[1] == 0.0


def test_nothing_on_either_side():
    none = ObjectTable(ids=np.zeros(0, int), classes=np.zeros(0, int))
    empty = count_overlaps(np.zeros((3, 3), int), np.zeros((3, 3), int))
    got = score_objects(empty, none, none, NAMES)
    assert got.names == ()
    assert np.isnan(got.f1)
    assert got.to_dict()["pq"] is None
