"""Laws 1, 3, 5, 9 and 12 for objects: on blocks in memory, without any files."""

from dataclasses import replace

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import NoisyOracle, Oracle, Scene, card, numbered

from geoseg.accuracy.object_metrics import ObjectTable, count_overlaps, score_objects
from geoseg.core.grid import Window
from geoseg.core.tiling import Tiling
from geoseg.inference.instance import compose_block, find_objects, link_block
from geoseg.inference.objects.numbering import number_groups
from geoseg.inference.objects.stitch import (
    LINK,
    OBJECT,
    WindowObjects,
    compare_objects,
    concatenated,
    solve,
    tolerance,
)
from geoseg.models.contract import AnyModel
from geoseg.models.objects import from_masks


def tiling_of(source, model, blocks=1):
    sides = {
        "height": source.grid.height,
        "width": source.grid.width,
        "window": model.card.window,
        "overlap": model.card.overlap,
        "multiple": model.card.multiple,
    }
    tiling = Tiling(**sides, chunk=48)  # so that small rasters have many blocks
    return replace(tiling, block=blocks * tiling.chunk)


def segment(source, model, *, blocks=1, order=0, batch=1):
    """Return ids (y, x) and the table of objects, by the steps of a run."""
    tiling = tiling_of(source, model, blocks)
    every = list(tiling.each_block())
    np.random.default_rng(order).shuffle(every)
    found = {b: find_objects(source, model, b, batch=batch) for b in every}
    halo = {b: [found[n].halo[b.key] for n in b.neighbours] for b in every}
    linked = {b: link_block(found[b].own, halo[b], tiling) for b in every}

    table = concatenated([linked[b].open for b in every], OBJECT)
    table = table[np.argsort(table["key"])]
    solved = solve(
        table,
        concatenated([linked[b].links for b in every], LINK),
        concatenated([linked[b].clashes for b in every], LINK),
        tiling,
    )

    def groups(block, keys):
        own, at = found[block].own.table["key"], linked[block].groups.copy()
        crossing = np.isin(own, table["key"])
        at[crossing] = solved[np.searchsorted(table["key"], own[crossing])]
        return at[np.searchsorted(own, keys)]

    composed = {}
    for b in every:
        seen = [found[b].own, *halo[b]]
        known = [
            groups(teller, objects.table["key"])
            for teller, objects in zip([b, *b.neighbours], seen, strict=True)
        ]
        composed[b] = compose_block(seen, known, linked[b].reach, b)

    ids = np.zeros((tiling.height, tiling.width), np.uint32)
    tables = []
    for row in number_groups(lambda b: composed[b].groups, tiling):
        tables.append(row.table)
        for key, names in row.ids.items():
            b = tiling.block_at(*key)
            names = np.append(names, 0).astype(np.uint32)  # noqa: PLW2901
            ids[b.window.slices] = names[composed[b].owner]
    return ids, np.concatenate(tables)


SCENES = {
    "discs": lambda: oracles.discs(331, 277, 700),
    "larger than a block": lambda: oracles.discs(331, 277, 40, radius=(20, 90)),
    "touching": lambda: oracles.mosaic(240, 200, 250),
    "snakes": lambda: oracles.snakes(300, 330),
    "rings": lambda: oracles.rings(310, 280),
    "dense grid": lambda: oracles.dense_grid(260, 230),
    "diagonals": lambda: oracles.diagonals(200, 170),
    "one": lambda: np.ones((150, 190), np.uint32),
    "none": lambda: np.zeros((150, 190), np.uint32),
}


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("pieces", [None, 4, 8])
def test_what_an_oracle_sees_is_the_truth(name, pieces):
    truth = SCENES[name]()
    if name == "diagonals" and pieces == 4:
        pytest.skip("lines that hang together over corners only are pixels there")
    want = numbered(truth)
    for window, overlap, blocks in ((32, 8, 1), (32, 8, 3), (64, 16, 2), (64, 32, 99)):
        model = Oracle(card(window, overlap), pieces)
        ids, table = segment(Scene(truth), model, blocks=blocks, order=blocks)
        assert np.array_equal(ids, want), (window, overlap, blocks)
        assert np.array_equal(np.bincount(ids.ravel())[1:], table["pixels"])


@st.composite
def scenes(draw):
    height, width = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    seed = draw(st.integers(0, 2**31))
    kind = draw(st.sampled_from(["discs", "touching", "snakes", "noise"]))
    if kind == "discs":
        truth = oracles.discs(height, width, 150, seed=seed)
    elif kind == "touching":
        truth = oracles.mosaic(height, width, draw(st.integers(1, 200)), seed=seed)
    elif kind == "snakes":
        truth = oracles.snakes(height, width)
    else:
        rng = np.random.default_rng(seed)
        truth = oracles.connected(rng.integers(0, 3, (height, width)), 4)[0]
    rng = np.random.default_rng(seed)
    valid = rng.random((height, width)) > draw(st.sampled_from([0.0, 0.2, 0.97]))
    window = draw(st.sampled_from([16, 33, 48]))
    fields = {
        "window": window,
        "overlap": 2 * draw(st.integers(1, window // 4)),
        "multiple": draw(st.sampled_from([None, 1, 8])),
    }
    return truth.astype(np.uint32), valid, fields


@given(scenes(), st.integers(1, 4), st.integers(0, 9), st.integers(1, 5))
@settings(max_examples=40)
def test_blocks_order_and_batches_change_nothing(scene, blocks, order, batch):
    truth, valid, fields = scene
    source = Scene(truth, valid)
    make = NoisyOracle if order % 2 else Oracle
    model = make(card(**fields))
    one = segment(source, model, blocks=99)
    seen = model.windows
    two = segment(source, model, blocks=blocks, order=order, batch=batch)
    assert np.array_equal(one[0], two[0])
    assert all(np.array_equal(one[1][n], two[1][n]) for n in ("cls", "score", "first"))
    assert model.windows == 2 * seen  # every window was inferred once
    assert not one[0][~valid].any()
    ids = np.unique(one[0][one[0] > 0], return_index=True)[0]
    assert np.array_equal(ids, np.arange(1, len(ids) + 1))
    first = np.unique(one[0], return_index=True)[1][int(not one[0].all()) :]
    assert (np.diff(first) > 0).all()


@given(scenes())
@settings(max_examples=30)
def test_connected_truth_under_nodata_is_found_piece_by_piece(scene):
    truth, valid, fields = scene
    known = np.where(valid, truth, 0)
    want = oracles.connected(known, 4)[0]
    source = Scene(known, valid)
    ids, _ = segment(source, Oracle(card(**fields), 4), blocks=2)
    assert np.array_equal(ids, numbered(want))


def test_values_under_nodata_never_matter():
    truth = oracles.discs(200, 180, 200)
    valid = np.random.default_rng(1).random(truth.shape) > 0.3
    model = Oracle(card(32, 8, fill=0.0))
    one, _ = segment(Scene(np.where(valid, truth, 7), valid), model)
    two, _ = segment(Scene(np.where(valid, truth, 901), valid), model)
    assert np.array_equal(one, two)
    assert not one[~valid].any()


def test_the_table_tells_classes_scores_boxes_and_pieces():
    truth = np.zeros((200, 200), np.uint32)
    truth[10:15, 10:15] = 1
    truth[20:180, 100:110] = 2
    model = Oracle(card(64, 16), classes=2)
    _, table = segment(Scene(truth), model)
    assert table["cls"].tolist() == [1, 0]
    assert table["score"].tolist() == [round(0.9 * 65535)] * 2
    assert table["pixels"].tolist() == [25, 1600]
    assert [table[n][1] for n in ("top", "left", "bottom", "right")] == [
        20, 100, 180, 110,
    ]  # fmt: skip
    assert table["pieces"].tolist() == [1, 4]


def quality(ids, truth):
    def table(labels):
        names = np.unique(labels[labels > 0]).astype(np.int64)
        return ObjectTable(ids=names, classes=np.zeros(len(names), np.int64))

    scores = score_objects(
        count_overlaps(ids, truth), table(ids), table(truth), [(0, "thing")]
    )
    return scores.per_class[0]


@pytest.mark.parametrize(
    ("make", "at_least"),
    [
        (lambda: oracles.discs(600, 600, 900, radius=(5, 14)), 0.60),
        (lambda: oracles.discs(600, 600, 120, radius=(15, 60)), 0.75),
        (lambda: oracles.mosaic(600, 600, 500), 0.65),
    ],
)
@pytest.mark.parametrize(("window", "overlap"), [(128, 32), (96, 48)])
def test_a_noisy_oracle_is_no_worse_than_over_the_whole_scene(
    make, at_least, window, overlap
):
    truth = make()
    model = NoisyOracle(card(window, overlap))
    whole = quality(model.see(truth.astype(np.int64)).labels, truth)
    tiled = quality(segment(Scene(truth), model)[0], truth)
    assert tiled.pq >= whole.pq - 0.01
    assert tiled.pq >= at_least


class Said(AnyModel):
    """Says of each window what it was told to; a cell's pixels hold its name."""

    def __init__(self, card, windows, scores=None):
        self.card, self._windows, self._scores = card, windows, scores or {}

    def predict(self, pixels):
        return [self._see(int(w[0, w.shape[1] // 2, w.shape[2] // 2])) for w in pixels]

    def _see(self, cell):
        labels = self._windows[cell]
        k = int(labels.max())
        return oracles.Objects(
            labels=labels.astype(np.int32),
            classes=np.zeros(k, int),
            scores=np.array(self._scores.get(cell, [0.9] * k)),
        )


def two_windows(left, right, **kw):
    """Stitch what two windows of 16 px say that share 8 columns; ids (8, 16)."""
    cells = np.zeros((1, 16), np.int64)
    cells[0, 8:] = 1
    model = Said(card(16, 8), {0: left, 1: right}, **kw)
    values = np.repeat(cells, 8, axis=0)
    # one row of two cells of 8 px; windows reach 4 px beyond and are reflected there
    return segment(Scene(values), model)[0]


def test_touching_is_no_match():
    left, right = np.zeros((16, 16)), np.zeros((16, 16))
    left[4:8, 4:12] = 1  # columns 0 … 7 of the raster, rows 0 … 3
    right[8:12, 4:12] = 1  # columns 8 … 15, rows 4 … 7
    assert two_windows(left, right).max() == 2


def test_one_object_is_joined_and_counted_once():
    left, right = np.zeros((16, 16)), np.zeros((16, 16))
    left[4:8, 4:16] = 1
    right[4:8, 0:12] = 1
    ids = two_windows(left, right)
    assert ids.max() == 1
    assert ids[:4].all()


def test_one_swallows_only_one():
    """Where one window sees a block and the other two, one of the two stays itself."""
    left, right = np.zeros((16, 16)), np.zeros((16, 16))
    left[4:7, 4:16], left[8:12, 4:16] = 1, 2
    right[4:12, 0:12] = 1
    ids = two_windows(left, right)
    assert ids.max() == 2
    assert ids[0, 0] != ids[7, 0]


def test_what_one_window_misses_the_other_tells():
    left, right = np.zeros((16, 16)), np.zeros((16, 16))
    left[5:9, 9:15] = 1  # columns 5 … 10: over the border of the cells at 8
    ids = two_windows(left, right)
    assert (ids > 0).sum() == 4 * 6


def test_a_bridge_does_not_join_what_a_window_saw_apart():
    """Window 1 sees two objects whole; its neighbours see one each."""
    t = np.repeat(np.arange(3)[None].repeat(8, 1), 16, 0)  # three cells of 8 px
    left, middle, right = (np.zeros((16, 16)) for _ in range(3))
    middle[5:8, 5:8], middle[5:8, 9:12] = 1, 2
    left[5:8, 13:16] = 1
    right[5:8, 1:4] = 1
    left[5:8, 13:16] = 1
    model = Said(card(16, 8), {0: left, 1: middle, 2: right})
    ids, _ = segment(Scene(t[:8]), model)
    assert len(np.unique(ids[ids > 0])) == 2


def test_overlapping_masks_go_to_the_surest():
    masks = np.zeros((3, 4, 6), bool)
    masks[0, :, :4], masks[1, :, 2:], masks[2, :, :3] = True, True, True
    found = from_masks(masks, [5, 6, 7], [0.6, 0.9, 0.55])
    assert found.classes.tolist() == [6, 5]
    assert (found.labels[0] == [2, 2, 1, 1, 1, 1]).all()
    assert from_masks(masks, [5, 6, 7], [0.1, 0.2, 0.3]).labels.max() == 0


def test_windows_that_disagree_about_the_class_must_agree_more_on_the_pixels():
    labels = np.zeros((2, 8, 8), np.int32)
    labels[0, :, :4] = labels[1, :, 2:6] = 1  # a third of both together is shared
    where, table = Window(y=0, x=0, height=8, width=8), np.zeros(2, OBJECT)
    one, other = (
        WindowObjects(row=0, col=i, where=where, labels=labels[i], first=i)
        for i in range(2)
    )
    assert compare_objects(one, other, table).matches.tolist() == [[0, 1]]
    table["cls"] = [0, 1]
    assert not len(compare_objects(one, other, table).matches)


def test_an_object_may_be_cut_a_quarter_of_the_margin_from_its_windows_edge():
    tiling = Tiling(height=64, width=64, window=64, overlap=32)
    assert tolerance(tiling) == tiling.margin // 4 == 4
