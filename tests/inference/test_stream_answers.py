"""Labels, objects and panoptic maps through one device: as without it, for any blocks.

The networks here are exact in fp32, so that what windows pass in changes no bit.
"""

import numpy as np
import oracles
import pytest
import small
import torch
from oracles import Scene

from geoseg.core.tiling import Tiling
from geoseg.errors import ModelError
from geoseg.inference import worker
from geoseg.inference.semantic import segment_block
from geoseg.inference.stream import Stream
from geoseg.inference.streams import step_of
from geoseg.inference.tasks import Tasks
from geoseg.inference.windows import read_windows
from geoseg.inference.workflow import run_plan
from geoseg.maps.state import DONE
from geoseg.maps.store import open_masks
from geoseg.models.card import Band, Card
from geoseg.models.load import model_recipe
from geoseg.models.networks.detector import (
    Detections,
    DetectorModel,
    Finder,
    painted,
)
from geoseg.models.networks.device import ModelOptions
from geoseg.models.objects import from_masks
from geoseg.testing import MemorySource

pytestmark = pytest.mark.usefixtures("own_cache")

CUDA = pytest.param(
    "cuda",
    marks=pytest.mark.skipif(
        not torch.cuda.is_available(), reason="torch sees no CUDA GPU here"
    ),
)
on_devices = pytest.mark.parametrize("device", ["cpu", CUDA])
CLASSES = ("grass", "road", "tree", "house")


def tiling(height=300, width=260, **facts):
    facts = {"window": 64, "overlap": 16, "multiple": 1, "chunk": 96} | facts
    return Tiling(height=height, width=width, **facts)


def source():
    rng = np.random.default_rng(0)
    mask = rng.random((300, 260)) > 0.1
    mask[:150, :110] = False
    values = rng.integers(1, 60000, (3, 300, 260), dtype=np.uint16)
    return MemorySource(values=values, mask=mask, names=("a", "b", "c"))


class Shades(torch.nn.Module):
    """Answers labels, of the sum of bands around a pixel."""

    card = Card(
        name="shades",
        bands=tuple(Band(name=b) for b in "abc"),
        classes=oracles.class_table("abcd"),
        window=64,
        overlap=16,
        multiple=1,
        output="labels",
    )

    def forward(self, x):
        return (x.sum(1) + x.roll(3, -1).sum(1)).long() % 4


def labels_model(engine, device="cpu", module=None):
    recipe = model_recipe(
        module or Shades(), device=device, precision="fp32", engine=engine, batch=5
    )
    return recipe.load()


@on_devices
def test_labels_are_those_of_windows_one_by_one(device):
    model = labels_model("torch", device)
    stream = Stream(model, step_of(model), batch=5, memory=1e9, tasks=Tasks())
    plain = labels_model("threads")
    for block in tiling().each_block():
        with stream.tasks.one_more():
            seen = read_windows(source(), stream.card, block.reach)
            there = stream.segment(block, seen, ["classes"])
        here = segment_block(source(), plain, block, batch=2)
        assert there.arrays["classes"].dtype == here.arrays["classes"].dtype
        np.testing.assert_array_equal(there.arrays["classes"], here.arrays["classes"])
        assert (there.windows, there.halo) == (here.windows, {})
    stream.close()


class Scores(Shades):
    def forward(self, x):
        return x[:, 0]


def test_labels_that_are_none_are_told_in_words():
    model = labels_model("torch", module=Scores())
    stream = Stream(model, step_of(model), batch=5, memory=1e9, tasks=Tasks())
    block = tiling().block_at(1, 1)
    seen = read_windows(source(), stream.card, block.reach)
    with pytest.raises(ModelError, match=r"float32.*promises integer labels"):
        stream.segment(block, seen, ["classes"])
    stream.close()


class Discs(Finder):
    """Finds each value of the raster as an object, and a larger one under every third.

    Values are odd of houses, even of trees; half a value is road, nothing is grass.
    """

    def features(self, x):
        return {"seen": [x, x * 2]}

    def detections(self, features, *_):
        seen = features["seen"][0][0, 0]
        values = seen.unique()
        values = values[values >= 1]
        masks = seen == values[:, None, None]
        around = (
            torch.nn.functional.max_pool2d(masks[:, None].float(), 3, 1, 1)[:, 0] > 0
        )
        scores = 0.6 + (values * 7 % 32) / 100
        masks = torch.cat([masks, around[::3]])
        scores = torch.cat([scores, scores[::3] - 0.05])
        kind = 2 + (values % 2).long()
        return Detections(
            masks=masks, channels=torch.cat([kind, kind[::3]]), scores=scores
        )

    def semantic(self, features, _):
        twice = features["seen"][1][:, 0]
        of = [twice == 0, twice == 1, (twice > 1) & (twice % 4 == 0)]
        of.append((twice > 1) & (twice % 4 == 2))
        return torch.stack(of, 1) * 0.7 + 0.1


def detector(task, engine, device="cpu"):
    how = {} if task == "instance" else {"output": "probabilities"}
    things = ("tree", "house")
    of = oracles.card(64, 16, task, classes=CLASSES, things=things, **how)
    options = ModelOptions(device=device, engine=engine, batch=5)
    return DetectorModel(Discs(), of, options)


def scene():
    truth = oracles.discs(300, 260, 200, radius=(3, 25)).astype(np.float32)
    truth[:120][truth[:120] == 0] = 0.5
    valid = np.random.default_rng(0).random(truth.shape) > 0.05
    valid[:, 100:160] = False
    return Scene(truth, valid)


def run(out, task, engine, device="cpu", **more):
    how = {"chunk": 96, "block": 96, "scores": True} | more
    model = detector(task, engine, device)
    small.segment(scene(), model=model, out=out, **how)
    masks = open_masks(str(out))
    arrays = {name: masks.read(name, masks.grid.window) for name in masks.arrays}
    return arrays, masks.objects()


def same(one, two, device="cpu"):
    assert one[0].keys() == two[0].keys()
    for name, array in one[0].items():
        np.testing.assert_array_equal(array, two[0][name])
    # A GPU divides scores otherwise, in their last bit.
    off = 1e-6 if device == "cuda" else 0
    for name in one[1]:
        np.testing.assert_allclose(one[1][name], two[1][name], rtol=off, err_msg=name)
    return True


@on_devices
@pytest.mark.parametrize("task", ["instance", "panoptic"])
def test_objects_are_those_of_windows_one_by_one(tmp_path, task, device):
    plain = run(tmp_path / "plain", task, "threads")
    there = run(tmp_path / "there", task, "torch", device)
    assert plain[0]["instances"].max() > 30
    assert same(plain, there, device)
    assert same(there, run(tmp_path / "large", task, "torch", device, block=288))


@pytest.mark.parametrize("task", ["instance", "panoptic"])
def test_a_run_that_was_interrupted_ends_the_same(tmp_path, task):
    whole = run(tmp_path / "whole", task, "torch")

    def stop(now):
        if now.inferred >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "again", task, "torch", progress=stop)
    assert same(whole, run(tmp_path / "again", task, "torch"))


@pytest.mark.parametrize("task", ["semantic", "instance"])
def test_a_block_says_who_inferred_it_and_not_who_finished_it(
    tmp_path, monkeypatch, task
):
    model = detector("instance", "threads")
    if task == "semantic":
        model = torch.nn.Conv2d(1, 4, 1)
        model.card = oracles.card(64, 16, task, classes=CLASSES)
    plan = small.make_plan(scene(), chunk=96, block=96, model=model)
    card = {"at": "first"}
    monkeypatch.setattr(worker, "gpu_name", lambda _: card["at"])

    def later(progress):
        if progress.inferred == progress.total:
            card["at"] = "second"

    masks, _ = run_plan(plan, out=tmp_path / "m", progress=later, mixed=True)
    told = {masks.done_info(key)["card"] for key in masks.marked(DONE)}
    assert told == {"first"}


def test_objects_fill_batches_across_blocks(monkeypatch):
    sizes = []
    model = detector("instance", "torch")
    features = model.features
    monkeypatch.setattr(
        model, "features", lambda x: sizes.append(x.shape) or features(x)
    )
    stream = Stream(model, step_of(model), batch=5, memory=1e9, tasks=Tasks())
    of = scene()
    tiles = tiling()
    windows = 0
    for block in tiles.each_block():
        with stream.tasks.one_more():
            seen = read_windows(of, stream.card, block.reach)
            windows += stream.segment(block, seen, [])[0].windows
    full = [s for s in sizes if s[2:] == (64, 64)]
    assert {s[0] for s in full} == {5}
    assert windows <= tiles.windows
    stream.close()


@pytest.mark.parametrize("count", [0, 1, 40])
def test_painted_on_a_device_is_painted_here(count):
    rng = np.random.default_rng(count)
    corners = rng.integers(0, 40, (count, 2))
    masks = np.zeros((count, 48, 56), bool)
    for mask, (y, x) in zip(masks, corners, strict=True):
        mask[y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] = True
    scores = (rng.integers(50, 60, count) / 60).astype(np.float32)  # many are equal
    classes = rng.integers(0, 4, count)
    here = from_masks(masks, classes, scores, min_score=0.0)
    found = Detections(
        masks=torch.from_numpy(masks),
        channels=torch.from_numpy(classes),
        scores=torch.from_numpy(scores),
    )
    there = detector("instance", "torch").objects(
        *(x.numpy() for x in painted(found).tensors())
    )
    np.testing.assert_array_equal(here.labels, there.labels)
    np.testing.assert_array_equal(here.classes, there.classes)
    np.testing.assert_array_equal(here.scores, there.scores)


@on_devices
@pytest.mark.parametrize(
    "spec",
    [
        "threshold:(a-b)/(a+b):0.1",
        "threshold:max(a, b, 2*c) - sqrt(abs(a-c))>=50000.5",
        "otsu:a:4",
        "kmeans:5",
        "gmm:3",
    ],
)
def test_single_pixels_are_labelled_alike_everywhere(spec, device):
    of, found = source(), []
    for engine in ("auto", "torch"):
        where = "cpu" if engine == "auto" else device
        recipe = model_recipe(spec, device=where, engine=engine, batch=5)
        found.append(recipe.bound(of).fit(of).load())
    plain, model = found
    assert (plain.streams, model.streams) == (False, True)
    of = MemorySource(
        values=of.values[[of.names.index(b.name) for b in model.card.bands]],
        mask=of.mask,
        names=tuple(b.name for b in model.card.bands),
    )
    stream = Stream(model, step_of(model), batch=5, memory=1e9, tasks=Tasks())
    classes = set()
    for block in tiling(overlap=0).each_block():
        with stream.tasks.one_more():
            seen = read_windows(of, model.card, block.reach)
            there = stream.segment(block, seen, ["classes"]).arrays["classes"]
        here = segment_block(of, plain, block).arrays["classes"]
        np.testing.assert_array_equal(here, there)
        classes |= set(np.unique(here).tolist())
    assert len(classes) == len(model.card.classes) + 1
    stream.close()
