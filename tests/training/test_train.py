"""Training: split by geography, repeatable, resumable, and better than guessing."""

import csv
import io
import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS
from rich.console import Console
from safetensors.torch import load_file
from scipy.ndimage import maximum_filter
from sklearn.ensemble import RandomForestClassifier
from tifs import write_tif

from geoseg.accuracy.evaluate import evaluate
from geoseg.cli import run
from geoseg.core.classes import Class
from geoseg.core.grid import Window
from geoseg.core.text import plain
from geoseg.errors import GeosegError, LabelsError, ModelError
from geoseg.inference.workflow import segment
from geoseg.models.classical.forest import Trees
from geoseg.models.classical.pixel_features import PixelFeatures
from geoseg.models.folder import open_folder
from geoseg.models.load import load_model
from geoseg.models.networks import hf
from geoseg.training import network
from geoseg.training.epochs import EpochBar
from geoseg.training.holdout import CELL, split_blocks
from geoseg.training.losses import make_loss
from geoseg.training.options import TrainOptions
from geoseg.training.patches import (
    EpochSampler,
    Patches,
    ValidationWindows,
    class_weights,
    training_index,
)
from geoseg.training.saved_settings import is_complete
from geoseg.training.scenes import IGNORED
from geoseg.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

TRANSFORM = Affine(10.0, 0, 400_000, 0, -10.0, 5_300_000)
SMALL = {
    "encoder": "tu-mobilenetv3_small_050", "patch": 64, "windows": 24, "batch": 4,
    "epochs": 3, "block": 64, "gap": 16, "precision": "fp32", "device": "cpu",
    "arguments": {"decoder_channels": [32, 24, 16, 16, 8]},
}  # fmt: skip


def landscape(side=320, seed=0):
    """Three classes in blobs; each has its own colour, and noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 3, (side // 16 + 1, side // 16 + 1))
    truth = np.kron(coarse, np.ones((16, 16), int))[:side, :side].astype(np.uint8)
    colours = np.array([[500, 900, 300], [900, 400, 1500], [1500, 1500, 800]])
    pixels = colours[truth].transpose(2, 0, 1) + rng.normal(0, 120, (3, side, side))
    return truth, pixels.clip(1, None).astype(np.uint16)


def write(path, bands, nodata=None, transform=TRANSFORM):
    bands = np.atleast_3d(bands.T).T
    return write_tif(
        path,
        bands,
        crs=CRS.from_epsg(32633).to_wkt(),
        transform=transform,
        nodata=nodata,
    )


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ground")
    truth, pixels = landscape()
    return write(folder / "r.tif", pixels), write(folder / "l.tif", truth), truth


@pytest.fixture(scope="module")
def trained(ground, tmp_path_factory):
    """A small network that others are compared with, or start from."""
    raster, label, _ = ground
    return train(raster, labels=label, out=tmp_path_factory.mktemp("t") / "m", **SMALL)


def squares(path, truth, count=60, side=6, seed=1, names=("a", "b", "c")):
    """Polygons of one class each, in another CRS."""
    rng = np.random.default_rng(seed)
    found = []
    while len(found) < count:
        y, x = rng.integers(0, truth.shape[0] - side, 2)
        here = truth[y : y + side, x : x + side]
        if (here == here[0, 0]).all():
            left, top = TRANSFORM @ (x, y)
            box = shapely.box(left, top - 10 * side, left + 10 * side, top)
            found.append((box, names[here[0, 0]]))
    frame = geopandas.GeoDataFrame(
        {"landcover": [n for _, n in found]},
        geometry=[b for b, _ in found],
        crs="EPSG:32633",
    )
    frame.to_crs(4326).to_file(path)
    return path


def weights(folder):
    return load_file(Path(folder) / "weights.safetensors")


def same(one, other):
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# --- what is said of labels ---------------------------------------------------------


def test_what_was_chosen_of_labels_is_said(ground, tmp_path, capsys):
    raster, _, truth = ground
    labels = squares(tmp_path / "l.gpkg", truth)
    command = ["train", str(raster), "--labels", str(labels), "--arch", "forest"]
    assert run([*command, "--out", str(tmp_path / "m"), "--trees", "5"]) == 0
    assert "- the classes of l.gpkg are in its column 'landcover'" in (
        capsys.readouterr().out
    )
    told = open_folder(tmp_path / "m").card.facts["training"]["label_notes"]
    assert any("landcover" in note for note in told)


def test_a_mapping_that_no_labels_have_is_refused(ground, tmp_path):
    raster, _, truth = ground
    labels = [squares(tmp_path / f"{n}.gpkg", truth, names=n) for n in ("abc", "abd")]
    how = {"arch": "forest", "out": tmp_path / "m", "trees": 5}
    with pytest.raises(LabelsError, match=r"--map e=…: .* no class of that name"):
        train(raster, labels=labels[0], mapping={"e": "a"}, **how)
    train([raster, raster], labels=labels, mapping={"d": "a"}, **how)  # one has it


# --- what is held out ---------------------------------------------------------------


@given(
    seed=st.integers(0, 1000),
    rows=st.integers(4, 30),
    columns=st.integers(4, 30),
    folds=st.integers(2, 6),
    side=st.sampled_from([32, 64, 96]),
)
def test_no_pixel_is_learned_from_near_what_is_held_out(
    seed, rows, columns, folds, side
):
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 9, (rows, columns, 3)) * (
        rng.random((rows, columns, 1)) < 0.6
    )
    gap = int(rng.integers(0, side + 1))
    try:
        split = split_blocks([cells], folds, side=side, gap=gap, seed=seed)
    except LabelsError:
        return
    whole = Window(y=0, x=0, height=rows * CELL, width=columns * CELL)
    parts = [split.held_out(0, f, whole) for f in range(folds)]
    labelled = np.kron(cells.any(axis=2), np.ones((CELL, CELL), bool))
    assert (np.sum(parts, axis=0)[labelled] == 1).all()  # each label in one fold
    learned = split.learned(0, 0, whole)
    near = maximum_filter(parts[0], 2 * gap + 1, mode="constant")
    assert np.array_equal(learned, ~near)
    corner = Window(y=17, x=40, height=50, width=33)
    assert np.array_equal(split.learned(0, 0, corner), learned[corner.slices])


def test_every_fold_gets_its_share_of_rare_classes():
    cells = np.zeros((40, 40, 3), int)
    cells[..., 0] = 1000
    cells[::8, ::8, 1] = 50
    cells[3, [1, 9, 17, 25, 33], 2] = 7
    split = split_blocks([cells], 5, side=CELL)
    for c in (1, 2):
        held = [cells[split.folds[0] == f, c].sum() for f in range(5)]
        assert max(held) <= 1.3 * min(held)


def test_patches_see_no_held_out_label(ground):
    from geoseg.labels import open_labels
    from geoseg.models.card import Card
    from geoseg.rasters.open import open_source
    from geoseg.training.data import hold_out
    from geoseg.training.scenes import scaled_bands

    raster, label, truth = ground
    source = open_source(raster)
    labels = open_labels(label, source.grid)
    job = hold_out([(source, labels)], labels.classes, 0.25, 64, 16, 3)
    # Pixels that tell where they are: the first two bands are row and column.
    rows, columns = np.indices(truth.shape)
    pixels = np.stack([rows, columns, rows]).astype(np.uint16)
    held = (pixels, np.ones_like(truth, bool), truth.copy())
    scene = type(job.scenes[0])(
        source=source, labels=labels, places=job.scenes[0].places, held=held
    )
    card = Card(name="t", bands=scaled_bands([scene], 0), classes=labels.classes)
    index = training_index(job.cells, job.split)
    options = TrainOptions(labels=label, out="m", patch=64, zoom=1.0)
    data = Patches(replace(job, scenes=(scene,)), index, card, options)
    learned = job.split.learned(0, 0, source.grid.window)
    seen = 0
    for i in range(30):
        pixels, targets = data[i]
        y, x = pixels[0].long().numpy(), pixels[1].long().numpy()
        known = targets.numpy() != IGNORED
        assert np.array_equal(targets.numpy()[known], truth[y, x][known])
        assert np.array_equal(known, learned[y, x])
        seen += known.sum()
    assert seen > 10_000
    # Every held-out pixel is validated on once, and no other.
    counted = np.zeros_like(truth, int)
    windows = ValidationWindows([scene], job.split, card, side=64, most=10_000)
    for i in range(len(windows)):
        pixels, targets = windows[i]
        known = targets.numpy() != IGNORED
        y, x = pixels[0].long().numpy()[known], pixels[1].long().numpy()[known]
        np.add.at(counted, (y, x), 1)
    assert np.array_equal(counted, job.split.held_out(0, 0, source.grid.window))
    # The same patch again; another number, another patch; epochs go on.
    assert torch.equal(data[5][0], data[5][0])
    assert not torch.equal(data[5][0], data[6][0])
    sampler = EpochSampler(4, endless=True)
    sampler.set_epoch(3)
    assert list(sampler) == [12, 13, 14, 15]


def test_classes_are_balanced_as_asked():
    cells = np.zeros((2, 2, 2), int)
    cells[0, 0] = 900, 0
    cells[1, 1] = 0, 100
    index = training_index([cells], None)
    for balance, share in (("none", 0.1), ("equal", 0.5), ("sqrt", 0.25)):
        assert class_weights(index, balance)[1] == pytest.approx(share)


# --- losses -------------------------------------------------------------------------


def test_losses_are_those_of_the_papers_and_ignore_what_is_unlabelled():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, requires_grad=True)
    targets = torch.randint(0, 3, (2, 8, 8), dtype=torch.uint8)
    targets[:, :3] = IGNORED
    kept = logits.permute(0, 2, 3, 1)[targets != IGNORED]
    truth = targets[targets != IGNORED].long()
    entropy = torch.nn.functional.cross_entropy(kept, truth)
    assert torch.allclose(make_loss("ce")(logits, targets), entropy)
    p = kept.softmax(1)[torch.arange(len(truth)), truth]
    focal = (-((1 - p) ** 2) * p.log()).mean()
    assert torch.allclose(make_loss("focal")(logits, targets), focal)
    both = make_loss("ce+dice")(logits, targets) - make_loss("dice")(logits, targets)
    assert torch.allclose(both, entropy)
    perfect = torch.nn.functional.one_hot(targets.long().clamp(max=2), 3) * 60.0
    assert make_loss("dice")(perfect.permute(0, 3, 1, 2), targets) < 1e-3
    nothing = torch.full_like(targets, IGNORED)
    for name in ("ce", "dice", "focal"):
        loss = make_loss(name)(logits, nothing)
        loss.backward(retain_graph=True)
        assert loss == 0
    assert torch.isfinite(logits.grad).all()
    with pytest.raises(ModelError, match="ce, dice, focal"):
        make_loss("hinge")


# --- networks -----------------------------------------------------------------------


def test_a_network_learns_and_its_folder_says_how(ground, tmp_path):
    raster, label, truth = ground
    table = tuple(
        Class(value=v, name=n, color=c)
        for v, n, c in ((0, "a", "#111111"), (1, "b", "#222222"), (2, "c", "#333333"))
    )
    how = SMALL | {"epochs": 4, "windows": 48, "lr": 6e-3, "license": "CC0-1.0"}
    out = train(raster, labels=label, out=tmp_path / "m", classes=table, **how)
    card = open_folder(out).card
    assert card.classes == table
    assert card.license == "CC0-1.0"
    assert card.resolution == pytest.approx(10, rel=0.01)
    assert card.framework["encoder"] == SMALL["encoder"]
    facts = card.facts["training"]
    assert facts["labelled_pixels"] == {
        n: int((truth == v).sum()) for v, n in enumerate("abc")
    }
    assert facts["settings"]["patch"] == 64
    assert "held out" in card.facts["validation"]["how"]
    assert card.facts["validation"]["mean_iou"] > 0.6
    rows = list(csv.DictReader((out / "curves.csv").read_text().splitlines()))
    assert [r["epoch"] for r in rows] == [str(i) for i in range(len(rows))]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert (out / "curves.png").stat().st_size > 5000
    modes = {p.name: p.stat().st_mode for p in out.glob("*.*")}
    assert len(set(modes.values())) == 1, "who may read one may read all"
    assert [p.name for p in (out / "training").iterdir()] == ["settings.json"]
    # It is a model: `segment` takes it, and the map is right where it never looked too.
    segment(raster, model=str(out), out=tmp_path / "masks.zarr", device="cpu")
    got = evaluate(tmp_path / "masks.zarr", label, strict=True).accuracy
    assert got.overall.value > 0.9
    assert abs(got.mean_iou - card.facts["validation"]["mean_iou"]) < 0.1
    # The same command again has nothing to do.
    before = (out / "card.json").stat().st_mtime_ns
    train(raster, labels=label, out=out, classes=table, **how)
    assert (out / "card.json").stat().st_mtime_ns == before


def test_same_seed_same_weights_and_another_seed_others(ground, trained, tmp_path):
    raster, label, _ = ground
    for name, seed in (("b", 0), ("c", 2)):
        train(raster, labels=label, out=tmp_path / name, seed=seed, **SMALL)
    assert same(trained, tmp_path / "b")
    assert not same(trained, tmp_path / "c")


_SCRIPT = """
import json, sys, time
from geoseg.training.train import train
from geoseg.training.network import _WholeFiles
save = _WholeFiles.save_checkpoint
def slowly(self, checkpoint, path, storage_options=None):
    save(self, checkpoint, path, storage_options)
    if str(path).endswith("last.ckpt"):
        time.sleep(100)  # for the test to notice, however busy the machine is
_WholeFiles.save_checkpoint = slowly
train(sys.argv[1], labels=sys.argv[2], out=sys.argv[3], **json.loads(sys.argv[4]))
"""


def test_a_killed_training_goes_on_and_ends_the_same(ground, trained, tmp_path):
    raster, label, _ = ground
    settings = SMALL
    killed = tmp_path / "killed"
    command = [sys.executable, "-c", _SCRIPT, str(raster), str(label), str(killed)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, json.dumps(settings)], env=environment)
    last = killed / "training" / "last.ckpt"
    give_up = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < give_up:
        if last.is_file():
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "card.json").exists()
    assert last.is_file()
    with pytest.raises(GeosegError, match="other settings \\(seed\\)"):
        train(raster, labels=label, out=killed, **settings, seed=9)
    train(raster, labels=label, out=killed, **settings)
    assert same(trained, killed)
    one, other = (
        [
            line.rsplit(",", 1)[0]
            for line in (folder / "curves.csv").read_text().splitlines()
        ]
        for folder in (trained, killed)
    )
    assert one == other  # but for the seconds, in the last column


def test_two_processes_train_one_network(ground, trained, tmp_path, monkeypatch):
    """As several GPUs do, by gloo; together they validate on what one would.

    A port that another program took meanwhile is no reason to fail.
    """
    raster, label, _ = ground
    taken = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
    monkeypatch.setattr(network, "devices_of", lambda _: 2)
    how = SMALL | {"epochs": 1, "windows": 8, "batch": 2}
    card = open_folder(train(raster, labels=label, out=tmp_path / "m", **how)).card
    rows = list(csv.DictReader((tmp_path / "m/curves.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0"]
    alone = open_folder(trained).card.facts["validation"]
    both = card.facts["validation"]
    assert both["pixels"] == alone["pixels"] > 0
    assert pickle.loads(pickle.dumps(EpochBar()))
    taken.close()


def test_fine_tuning_with_other_bands_and_classes(ground, trained, tmp_path):
    raster, label, truth = ground
    first = trained
    pixels = rasterio.open(raster).read()
    four = write(tmp_path / "r4.tif", np.concatenate([pixels, pixels[:1] // 2]))
    named = squares(tmp_path / "p.gpkg", truth, 150, 12, names=("0", "1", "new"))
    more = {k: v for k, v in SMALL.items() if k not in {"encoder", "arguments"}}
    out = train(
        four, labels=named, out=tmp_path / "b", init=first,
        **more | {"epochs": 1, "lr": 1e-9, "validation": 0.0},
    )  # fmt: skip
    card = open_folder(out).card
    assert [c.name for c in card.classes] == ["0", "1", "new"]
    a, b = weights(first), weights(out)
    stem, head = "encoder.model.conv_stem.weight", "segmentation_head.0.weight"
    assert torch.allclose(b[stem][:, :3], a[stem], atol=1e-5)
    assert torch.allclose(b[stem][:, 3], a[stem].mean(1), atol=1e-5)
    assert torch.allclose(b[head][:2], a[head][:2], atol=1e-5)
    assert not torch.allclose(b[head][2], a[head][2], atol=1e-3)
    with pytest.raises(ModelError, match="another network"):
        train(
            raster, labels=label, out=tmp_path / "c", init=first, arch="fpn", **more
        )  # fmt: skip


OTHERS = {
    "lraspp_mobilenet_v3_large": {},
    "transformers:segformer": {
        "hidden_sizes": [8, 16, 20, 24], "depths": [1] * 4, "decoder_hidden_size": 16,
        "num_attention_heads": [1, 1, 2, 2],
    },
}  # fmt: skip


@pytest.mark.parametrize("arch", OTHERS)
def test_other_families_train_and_go_on_from_their_folders(ground, arch, tmp_path):
    raster, label, truth = ground
    rest = {k: v for k, v in SMALL.items() if k not in {"encoder", "arguments"}}
    rest |= {"epochs": 1, "windows": 4, "loss": "focal+dice", "balance": "equal"}
    out = train(
        raster, labels=label, out=tmp_path / "m", arch=arch, arguments=OTHERS[arch],
        **rest,
    )  # fmt: skip
    framework = open_folder(out).card.framework
    assert framework["family"] in ("torchvision", "transformers")
    model = load_model(str(out), device="cpu", precision="fp32")
    pixels = rasterio.open(raster).read()[None, :, :64, :64]
    assert model.predict(pixels).shape[:2] == (1, 3)
    # Other classes in another order: every head's rows follow their names.
    named = squares(tmp_path / "p.gpkg", truth, 150, 12, names=("2", "new", "0"))
    still = rest | {"lr": 1e-9, "validation": 0.0}
    other = train(raster, labels=named, out=tmp_path / "n", init=out, **still)
    assert [c.name for c in open_folder(other).card.classes] == ["0", "2", "new"]
    theirs, ours = (load_file(next(m.glob("*.safetensors"))) for m in (out, other))
    heads = [k for k, v in ours.items() if v.ndim and len(v) == 3 and "weight" in k]
    heads = [k for k in heads if "classifier" in k]
    assert len(heads) == (2 if arch.startswith("lraspp") else 1)
    for key in heads:
        assert torch.allclose(ours[key][0], theirs[key][0], atol=1e-5)
        assert torch.allclose(ours[key][1], theirs[key][2], atol=1e-5)
        assert not torch.allclose(ours[key][2], theirs[key][1], atol=1e-3)


def test_a_folder_of_transformers_is_gone_on_from(ground, tmp_path):
    transformers = pytest.importorskip("transformers")
    raster, label, _ = ground
    labels = {"id2label": {0: "1", 1: "grass"}, "num_labels": 2}
    config = transformers.SegformerConfig(
        **OTHERS["transformers:segformer"], **labels, num_channels=3
    )
    torch.manual_seed(5)
    network = transformers.SegformerForSemanticSegmentation(config)
    network.save_pretrained(tmp_path / "hub")
    rest = {k: v for k, v in SMALL.items() if k not in {"encoder", "arguments"}}
    rest |= {"epochs": 1, "windows": 4, "lr": 1e-9, "validation": 0.0}
    out = train(raster, labels=label, out=tmp_path / "m", init=tmp_path / "hub", **rest)
    card = open_folder(out).card
    assert card.framework == {"family": "transformers", "arch": "segformer"}
    ours, theirs = hf.weights_of(out), network.state_dict()
    stem = next(k for k, v in theirs.items() if v.ndim == 4)
    assert torch.allclose(ours[stem], theirs[stem].mean(1, keepdim=True), atol=1e-5)
    head = "decode_head.classifier.weight"
    assert torch.allclose(ours[head][1], theirs[head][0], atol=1e-5)
    # A backbone alone will do: the head starts at random.
    network.segformer.save_pretrained(tmp_path / "backbone")
    other = train(
        raster, labels=label, out=tmp_path / "n", init=tmp_path / "backbone", **rest
    )
    ours = hf.weights_of(other)
    assert torch.allclose(ours[stem], theirs[stem].mean(1, keepdim=True), atol=1e-5)
    assert not torch.allclose(ours[head][1], theirs[head][0], atol=1e-3)
    assert load_model(str(out), device="cpu").predict(
        rasterio.open(raster).read()[None, :, :64, :64]
    ).shape[1] == 3  # fmt: skip
    with pytest.raises(ModelError, match="patches of that size"):
        train(
            raster, labels=label, out=tmp_path / "d", arch="transformers:beit",
            arguments={"image_size": 96}, **rest,
        )  # fmt: skip


def test_nodata_is_neither_seen_nor_learned_from(ground, tmp_path):
    _, label, truth = ground
    _, pixels = landscape()
    for name, junk in (("a", 0), ("b", 60_000)):
        holed = pixels.copy()
        holed[:, 100:180, 50:250] = 0
        path = write(tmp_path / f"{name}.tif", holed, nodata=0)
        if junk:
            mask = np.where((holed == 0).any(0), 0, 255).astype(np.uint8)
            holed[:, mask == 0] = junk
            path = write(tmp_path / f"{name}.tif", holed)
            with rasterio.open(path, "r+") as out:
                out.write_mask(mask)
        train(path, labels=label, out=tmp_path / f"m{name}", **SMALL | {"epochs": 1})
    assert same(tmp_path / "ma", tmp_path / "mb")
    facts = open_folder(tmp_path / "ma").card.facts["training"]
    inside = np.ones_like(truth, bool)
    inside[100:180, 50:250] = False
    assert sum(facts["labelled_pixels"].values()) == inside.sum()


# --- forests ------------------------------------------------------------------------


def test_trees_vote_as_scikit_learn_does():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 7)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype(int) + 2 * (x[:, 3] > 1)
    forest = RandomForestClassifier(15, random_state=0, class_weight="balanced")
    forest.fit(x, y)
    trees = Trees.of(forest, 5)
    # Thresholds lie between samples; try the samples themselves and their neighbours.
    tried = np.concatenate([x, np.nextafter(x, 9), rng.normal(size=x.shape)])
    tried = tried.astype(np.float32)
    got = trees.predict(np.ascontiguousarray(tried.T)[:, :, None])[:, :, 0].T
    assert np.allclose(got[:, :4], forest.predict_proba(tried), atol=1e-6)
    assert (got[:, 4] == 0).all()
    again = Trees.from_arrays(trees.arrays())
    assert np.array_equal(again.predict(tried.T[:, :, None])[:, :, 0].T, got)


@pytest.mark.parametrize("name", ["left", "roots", "votes", "feature"])
def test_a_damaged_forest_is_refused(name):
    forest = RandomForestClassifier(3, random_state=0)
    forest.fit(np.random.default_rng(0).random((50, 2)), np.arange(50) % 2)
    arrays = dict(Trees.of(forest, 2).arrays())
    arrays[name] = arrays[name].copy()
    if name == "votes":
        arrays[name] = arrays[name].astype(np.float64)
    else:
        arrays[name][0] = 10**6 if name != "feature" else -5
    with pytest.raises(ModelError, match="forest's file"):
        Trees.from_arrays(arrays)


def test_features_do_not_depend_on_the_window():
    pixels = np.random.default_rng(0).integers(0, 4000, (3, 120, 130)).astype(np.uint16)
    features = PixelFeatures(differences=True)
    whole = features.of(pixels)
    assert len(whole) == features.count(3) == 3 * 10 + 3
    r = features.reach
    part = features.of(pixels[:, 20:100, 30:110])
    assert np.allclose(
        part[:, r:-r, r:-r], whole[:, 20 + r : 100 - r, 30 + r : 110 - r], rtol=1e-5
    )
    again = PixelFeatures.from_dict(json.loads(json.dumps(features.to_dict())))
    assert again == features


@pytest.mark.parametrize(
    ("arch", "trees"), [("forest", 20), ("boosting", 5), ("svm", 1)]
)
def test_classifiers_of_pixels_from_few_polygons(ground, arch, trees, tmp_path):
    raster, _, truth = ground
    labels = squares(tmp_path / "p.gpkg", truth)
    how = {"labels": labels, "arch": arch, "trees": trees, "samples": 1500}
    out = train(raster, out=tmp_path / "m", validation=0.34, **how)
    card = open_folder(out).card
    assert [c.name for c in card.classes] == ["a", "b", "c"]
    assert card.output == ("probabilities" if arch == "forest" else "logits")
    figures = card.facts["validation"]
    assert figures["overall_accuracy"] > 0.9
    assert figures["pixels"] == card.facts["training"]["samples"]
    model = load_model(str(out))
    pixels = rasterio.open(raster).read()
    scores = model.predict(pixels[None])
    if arch == "forest":
        assert np.allclose(scores.sum(axis=1), 1, atol=1e-4)
    assert (scores[0].argmax(0) == truth).mean() > 0.9
    # The same again; what is held out to test it does not change the model.
    again = train(raster, out=tmp_path / "n", validation=0, **how)
    assert (again / "weights.safetensors").read_bytes() == (
        out / "weights.safetensors"
    ).read_bytes()


# --- bad labels ---------------------------------------------------------------------


def test_bad_labels_get_one_clear_line(ground, tmp_path):
    raster, label, truth = ground
    good = geopandas.read_file(squares(tmp_path / "p.gpkg", truth))
    away = good.set_geometry(good.translate(20))
    away.to_file(tmp_path / "away.gpkg")
    empty = good.copy()
    empty.loc[3, "geometry"] = shapely.Polygon()
    empty.to_file(tmp_path / "empty.gpkg")
    good[good.landcover == "a"].to_file(tmp_path / "one.gpkg")
    write(tmp_path / "other.tif", truth[:-1])
    write(tmp_path / "flat.tif", np.zeros_like(truth))
    for name, settings, words in (
        ("away.gpkg", {}, "lies on the raster"),
        ("empty.gpkg", {}, "1 of 60 features .* empty geometry"),
        ("one.gpkg", {}, "one class only, 'a'"),
        ("p.gpkg", {"column": "nope"}, "no column 'nope'; it has landcover"),
        ("other.tif", {"strict": True}, "not on the raster's grid"),
        ("flat.tif", {}, "one class only"),
        ("gone.gpkg", {}, "neither points, polygons nor a raster"),
        ("p.gpkg", {"arch": "clever"}, "cannot be trained; known"),
        ("p.gpkg", {"arch": "dpt", "encoder": "vgg11", "arguments": {}}, "Only Timm"),
        ("p.gpkg", {"arch": "maskrcnn", "loss": "ce"}, "leave out --loss"),
        ("p.gpkg", {"validation": 1.0}, "validation 1.0: .* less than 1"),
        ("p.gpkg", {"patch": 50}, "multiple of 32"),
        ("p.gpkg", {"loss": "hinge"}, "ce, dice, focal"),
        ("p.gpkg", {"epochs": 0}, "epochs 0: .* greater than 0"),
        ("p.gpkg", {"arch": "forest", "init": "m"}, "leave out --init"),
        ("p.gpkg", {"arch": None, "encoder": "", "init": "gone"}, "gone"),
    ):
        out = tmp_path / "out"
        with pytest.raises(GeosegError, match=words) as caught:
            train(raster, labels=tmp_path / name, out=out, **SMALL | settings)
        assert "\n" not in str(caught.value)
        assert not out.exists()  # nothing half done stands in the way
    full = tmp_path / "full"
    full.mkdir()
    (full / "precious.txt").write_text("mine")
    with pytest.raises(GeosegError, match="choose another --out"):
        train(raster, labels=label, out=full, overwrite=True, **SMALL)
    assert (full / "precious.txt").read_text() == "mine"


def test_secrets_in_addresses_do_not_reach_the_card():
    asked = {
        "rasters": ["https://me:hush@tiles.org/a.tif", "/vsicurl/https://b/c?sig=hush"],
        "labels": Path("/data/l.tif"),
    }
    kept = json.dumps(plain(asked))
    assert "hush" not in kept
    assert "tiles.org/a.tif" in kept
    assert "/data/l.tif" in kept


# --- the command line ---------------------------------------------------------------


def test_how_it_goes_is_one_line_that_fits_a_terminal():
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    bar = EpochBar(console)
    figures = {"train_loss": 1.1062, "mean_iou": 0.8824, "overall": 0.9, "val_loss": 1}
    trainer = SimpleNamespace(
        max_epochs=40, num_training_batches=1, current_epoch=0, is_global_zero=True,
        callback_metrics=figures,
    )  # fmt: skip
    bar.on_train_start(trainer, None)
    for epoch in range(12):
        trainer.current_epoch = epoch
        bar.on_train_epoch_start(trainer, None)
        bar.on_train_batch_end()
        bar.on_train_epoch_end(trainer, None)
    bar.on_fit_end()
    said = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
    lines = [line for line in re.split(r"[\r\n]+", said) if line.strip()]
    assert re.fullmatch(
        r"epoch 12 of 40 \S+ loss 1\.106, mean IoU 0\.882 · \d:\d\d:\d\d · "
        r"(\d|-):(\d\d|--):(\d\d|--) left *",
        lines[-1],
    )
    assert max(map(len, lines)) <= 80


def test_the_command_line_says_what_it_made(ground, tmp_path, capsys):
    raster, _, truth = ground
    labels = squares(tmp_path / "p.gpkg", truth)
    command = [
        "train", str(raster), "--labels", str(labels), "--out", str(tmp_path / "m"),
        "--class", "7=a:#123456", "--class", "3=b", "--map", "c=ignore",
        "--arch", "extra-trees", "--trees", "5", "--leaf", "2", "--scales", "1,3",
        "--differences", "--block", "64", "--gap", "16",
    ]  # fmt: skip
    assert run(command) == 0
    said = capsys.readouterr()
    assert "blocks of 64 px held out, with a gap of 16 px" in said.out
    assert "mean IoU" in said.out
    assert said.err == ""  # no bar where nobody looks
    card = open_folder(tmp_path / "m").card
    assert [(c.value, c.name) for c in card.classes] == [(3, "b"), (7, "a")]
    assert card.classes[1].color == "#123456"
    features = PixelFeatures(scales=(1.0, 3.0), differences=True)
    assert PixelFeatures.from_dict(card.framework["features"]) == features
    assert run([*command, "--json"]) == 0  # done already
    found = json.loads(capsys.readouterr().out)
    assert found["validation"]["overall_accuracy"] > 0.9
    for wrong, words in (
        (["--class", "a=7"], "VALUE=NAME"),
        (["--argument", "depth"], "NAME=VALUE"),
        (["--scales", "wide"], "1,2,4"),
        (["--trees", "0"], "trees 0: input should be greater than 0"),
    ):
        at = command.index(wrong[0]) if wrong[0] in {"--scales", "--trees"} else 0
        rest = [*command[:at], *command[at + 2 :]] if at else command
        assert run([*rest, *wrong]) == 2
        said = capsys.readouterr()
        assert words in said.err
        assert said.err.count("\n") == 1


@pytest.mark.parametrize("text", ["", '{"seed": ', "[]", "\0\0\0"])
def test_settings_that_a_full_disk_cut_are_no_traceback(tmp_path, text):
    file = tmp_path / "training" / "settings.json"
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(GeosegError, match=r"is empty, cut .*--overwrite"):
        is_complete(tmp_path, {"seed": 1}, overwrite=False)
    assert not is_complete(tmp_path, {"seed": 1}, overwrite=True)
