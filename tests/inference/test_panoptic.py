"""Law 10: every thing pixel has one instance, every instance one class, every valid
pixel one owner; the same for any blocks."""

from dataclasses import replace

import numpy as np
import oracles
import pytest
import small
from oracles import NoisyOracle, Oracle, Scene, card, numbered

from geoseg.errors import ModelError
from geoseg.maps.store import open_masks
from geoseg.models.objects import from_masks

CLASSES = ("grass", "road", "tree", "house")
GRASS, ROAD, TREE, HOUSE = range(4)


def scene(seed=0):
    """Discs (ids, odd are houses) on grass (0) and, in the north, road (-1)."""
    truth = oracles.discs(300, 260, 260, radius=(3, 25), seed=seed).astype(np.float64)
    truth[:120][truth[:120] == 0] = -1
    valid = np.random.default_rng(seed).random(truth.shape) > 0.05
    valid[:, 100:160] = False
    return truth, valid


def panoptic(base, **fields):
    """Return a model that sees objects as `base` does, and scores of all classes."""

    class Panoptic(base):
        def see(self, truth):
            found = super().see(np.maximum(truth, 0))
            odd = truth % 2 == 1
            scores = np.stack(
                [truth == 0, truth == -1, (truth > 0) & ~odd, (truth > 0) & odd]
            )
            scores = scores * 0.7 + 0.1
            more = len(self.card.classes) - len(scores)
            scores = np.pad(scores, ((0, more), (0, 0), (0, 0)))
            return replace(
                found, classes=TREE + found.classes, semantic=scores.astype("f4")
            )

    settings = {"classes": CLASSES, "things": ("tree", "house"), **fields}
    return Panoptic(card(64, 16, "panoptic", output="probabilities", **settings))


def segment(out, model, truth, valid, **kw):
    kw = {"chunk": 96, "block": 96, **kw}
    data = small.segment(Scene(truth, valid), model=model, out=out, **kw)
    return data["classes"].to_numpy(), data["instances"].to_numpy()


def test_an_oracle_gives_the_truth(tmp_path):
    truth, valid = scene()
    model = panoptic(Oracle)
    model.classes = 2
    classes, ids = segment(tmp_path / "m.zarr", model, truth, valid)
    known = np.where(valid, np.maximum(truth, 0), 0).astype(int)
    assert np.array_equal(ids, numbered(known))
    want = np.select([truth == 0, truth == -1, truth % 2 == 1], [0, 1, 3], 2)
    assert np.array_equal(classes, np.where(valid, want, 255))
    assert model.windows == 7 * 6  # each was inferred once, for both halves


@pytest.mark.parametrize("base", [Oracle, NoisyOracle])
def test_every_valid_pixel_has_one_owner_whatever_the_blocks(tmp_path, base):
    truth, valid = scene(seed=3)
    results = []
    for block in (96, 192, 480):
        out = tmp_path / f"{block}.zarr"
        results.append(
            segment(out, panoptic(base), truth, valid, block=block, scores=True)
        )
        confidence = open_masks(str(out)).read(
            "confidence", open_masks(str(out)).grid.window
        )
        assert np.array_equal(confidence == 255, ~valid)
    for classes, ids in results:
        assert np.array_equal(classes == 255, ~valid)
        assert np.array_equal(ids > 0, (classes == TREE) | (classes == HOUSE))
        table = open_masks(str(tmp_path / "96.zarr")).objects()
        of_pixel = np.append(255, table["class_id"])[ids]
        assert (of_pixel[ids > 0] == classes[ids > 0]).all()
        assert np.array_equal(classes, results[0][0])
        assert np.array_equal(ids, results[0][1])


@pytest.mark.parametrize("void", [False, True])
def test_a_thing_without_an_object_is_void_or_stuff(tmp_path, void):
    class Blind(NoisyOracle):
        def __init__(self, card):
            super().__init__(card, missing=1.0)

    truth, valid = scene()
    model = panoptic(Blind, classes=(*CLASSES, "void") if void else CLASSES)
    found, ids = segment(tmp_path / "m.zarr", model, truth, valid)
    assert not ids.any()
    inner = oracles.ndimage.binary_erosion(valid & (truth > 0), iterations=2)
    assert (found[inner] == (4 if void else GRASS)).all()
    assert np.array_equal(found == 255, ~valid)


def test_a_killed_run_ends_the_same(tmp_path, monkeypatch):
    from geoseg.maps.storage import Storage

    truth, valid = (array[20:190, 60:240] for array in scene())  # four blocks
    want = segment(tmp_path / "whole.zarr", panoptic(Oracle), truth, valid)
    original, puts, limit = Storage.put, 0, 10**9

    def put(self, name, data):
        nonlocal puts
        puts += 1
        if puts > limit:
            raise KeyboardInterrupt
        original(self, name, data)

    monkeypatch.setattr(Storage, "put", put)
    segment(tmp_path / "counted.zarr", panoptic(Oracle), truth, valid)
    for stop in range(10, puts, puts // 6):
        out = tmp_path / f"{stop}.zarr"
        puts, limit = 0, stop
        with pytest.raises(KeyboardInterrupt):
            segment(out, panoptic(Oracle), truth, valid)
        limit = 10**9
        got = segment(out, panoptic(Oracle), truth, valid)
        assert np.array_equal(got[0], want[0])
        assert np.array_equal(got[1], want[1])


def test_the_surest_of_overlapping_masks_is_on_top_in_any_order():
    rng = np.random.default_rng(0)
    masks = rng.random((9, 20, 20)) > 0.6
    scores = rng.random(9)
    order = rng.permutation(9)
    one = from_masks(masks, np.arange(9), scores, min_score=0, min_visible=0)
    two = from_masks(
        masks[order], np.arange(9)[order], scores[order], min_score=0, min_visible=0
    )
    assert np.array_equal(one.labels, two.labels)
    assert np.array_equal(one.classes, two.classes)
    top = np.where(masks, scores[:, None, None], -1).max(0)
    assert np.allclose(np.append(-1, one.scores)[one.labels], top)


@pytest.mark.parametrize("things", [None, CLASSES])
def test_a_card_without_things_or_without_stuff_is_refused(tmp_path, things):
    truth, valid = scene()
    with pytest.raises(ModelError, match="things"):
        segment(tmp_path / "m.zarr", panoptic(Oracle, things=things), truth, valid)
