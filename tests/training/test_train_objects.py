"""Training for objects: a class between them, and networks that find them."""

import csv
from dataclasses import replace

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from affine import Affine
from pyproj import CRS
from safetensors.torch import load_file
from tifs import write_tif

from geoseg.accuracy.evaluate import evaluate
from geoseg.cli import run
from geoseg.core.grid import Grid, Window
from geoseg.labels import object_classes, open_labels, read_objects
from geoseg.models.folder import open_folder
from geoseg.models.load import load_model
from geoseg.models.networks.detector import Detections
from geoseg.models.networks.hf import QUERIES, TRAINABLE
from geoseg.models.plain import card_from_dict
from geoseg.training.lightning_modules import loss_of_objects
from geoseg.training.objects import (
    compare_window,
    own_loss,
    score_windows,
    split_objects,
)
from geoseg.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 192
TRANSFORM = Affine(10.0, 0, 400_000, 0, -10.0, 5_300_000)
GRID = Grid(crs="EPSG:32633", transform=TRANSFORM, height=SIDE, width=SIDE)


def write(path, bands):
    return write_tif(
        path, bands, crs=CRS.from_epsg(32633).to_wkt(), transform=TRANSFORM
    )


def polygons(path, shapes, crop="field"):
    """Write shapes in pixel coordinates as polygons on the ground."""
    a, b, c, d, e, f = TRANSFORM[:6]
    moved = shapely.transform(
        shapes, lambda p: p @ np.array([[a, d], [b, e]]) + np.array([c, f])
    )
    frame = geopandas.GeoDataFrame(geometry=list(moved), crs="EPSG:32633")
    frame["crop"] = crop
    frame.to_file(path)
    return path


def inside(shape):
    """Return which pixels have their centre in a shape, and how far from its line."""
    within, far = np.zeros((SIDE, SIDE), bool), np.full((SIDE, SIDE), np.inf)
    x0, y0, x1, y1 = np.clip(shape.bounds, 0, SIDE).astype(int)
    y, x = np.mgrid[y0 : y1 + 1, x0 : x1 + 1] + 0.5
    points = shapely.points(x, y)[: SIDE - y0, : SIDE - x0]
    at = np.s_[y0 : y1 + 1, x0 : x1 + 1]
    within[at] = shapely.contains(shape, points)
    far[at] = shapely.distance(shape.boundary, points)
    return within, far


# --- a class between objects ----------------------------------------------------------


def fields(seed=0):
    """Fields that touch: a grid of streets without width, moved and turned a little."""
    rng = np.random.default_rng(seed)
    steps = np.arange(-1, 8) * 32.0
    y, x = np.meshgrid(steps, steps, indexing="ij")
    corners = np.stack([x, y], axis=-1) + rng.uniform(-8, 8, (*x.shape, 2))
    return np.array(
        [
            shapely.Polygon(
                [corners[i, j], corners[i, j + 1], corners[i + 1, j + 1],
                 corners[i + 1, j]]
            )
            for i in range(len(steps) - 1)
            for j in range(len(steps) - 1)
        ]
    )  # fmt: skip


@pytest.mark.parametrize("width", [1.0, 2.5])
def test_the_boundary_is_what_lies_near_the_outline(tmp_path, width):
    shapes = fields()[20:50]
    path = polygons(tmp_path / "f.gpkg", shapes, crop=["wheat", "maize"] * 15)
    plain = open_labels(path, GRID)
    labels = open_labels(path, GRID, boundary=width, background="other")
    names = {c.name: c.value for c in labels.classes}
    assert names.keys() == {"wheat", "maize", "boundary", "other"}
    read, painted = labels.read(GRID.window), plain.read(GRID.window)
    sure = np.ones_like(read, bool)
    for i, shape in enumerate(shapes):
        within, far = inside(shape)
        sure &= abs(far - width) > 1e-3  # the outline of an outline is a polygon too
        expected = np.where(far <= width, names["boundary"], painted)
        kept = within & sure
        assert np.array_equal(read[kept], expected[kept]), i
    nothing = painted == 65535
    assert (read[nothing] == names["other"]).all()
    corner = Window(y=70, x=35, height=50, width=61)
    assert np.array_equal(labels.read(corner), read[corner.slices])
    # Objects are whole still.
    whole = read_objects(labels, GRID.window)
    assert np.array_equal(whole, read_objects(plain, GRID.window))
    assert np.array_equal(object_classes(labels), object_classes(plain))


def test_no_object_is_lost_in_its_boundary(tmp_path):
    shapes = shapely.box([10, 40, 80], [10, 10, 10], [13, 46, 120], [14, 16, 50])
    path = polygons(tmp_path / "f.gpkg", shapes, crop=["a"] * 3)
    labels = open_labels(path, GRID, boundary=4)
    read = labels.read(GRID.window)
    seen = read_objects(labels, GRID.window)
    assert all((read[seen == i + 1] == 0).any() for i in range(3))
    assert (read[seen == 3] == 0).sum() == 32 * 32


def test_a_boundary_separates_fields_that_touch(tmp_path):
    rng = np.random.default_rng(3)
    shapes = fields()
    whole = shapely.within(shapes, shapely.box(0, 0, SIDE, SIDE))
    shapes = shapes[whole & (rng.random(len(shapes)) < 0.8)]
    pixels = rng.normal([[[150]], [[120]], [[90]]], 8, (3, SIDE, SIDE))
    for shape in shapes:
        within, far = inside(shape)
        green = np.array([-60, 30, -20]) + rng.normal(0, 5, 3)
        pixels[:, within] += green[:, None]
        pixels[:, within & (far < 1.5)] -= 50
    raster = write(tmp_path / "r.tif", pixels.clip(0, 255).astype(np.uint8))
    labels = polygons(tmp_path / "f.gpkg", shapes)
    found = {}
    for name, more, method in (
        ("with", ["--boundary", "1.5"], "boundary:boundary"),
        ("without", [], "components"),
    ):
        model, masks = str(tmp_path / name), str(tmp_path / f"{name}.zarr")
        command = ["train", str(raster), "--labels", str(labels), "--out", model, "-q"]
        command += ["--constant", "field", "--background", "other", "--arch", "forest"]
        command += ["--trees", "12", "--samples", "6000", "--validation", "0", *more]
        assert run(command) == 0
        how = ["--task", "instance", "--instances", method, "-q"]
        if name == "without":
            how += ["--things", "field"]
        command = ["segment", str(raster), "--model", model, "--out", masks, *how]
        assert run(command) == 0
        scored = evaluate(masks, labels, constant="field", objects=True)
        found[name] = scored.objects.f1
    assert found["with"] > 0.9
    assert found["without"] < 0.3
    card = open_folder(tmp_path / "with").card
    assert {c.name for c in card.classes} == {"field", "boundary", "other"}
    assert card.things == ("field",)


def test_objects_and_boundaries_need_polygons(tmp_path, capsys):
    raster = write(tmp_path / "r.tif", np.ones((1, SIDE, SIDE), np.uint8))
    command = ["train", str(raster), "--labels", str(raster), "--out"]
    command += [str(tmp_path / "m")]
    for more in (["--arch", "forest", "--boundary", "2"], ["--arch", "maskrcnn"]):
        assert run([*command, *more]) == 2
        said = capsys.readouterr().err
        assert "need polygons, one for each object; " in said
        assert "r.tif is of raster" in said
        assert said.count("\n") == 1
    for more, words in (
        (
            ["--arch", "forest", "--boundary", "0"],
            "boundary 0.0: input should be greater than 0",
        ),
        (["--task", "instance"], "Unet cannot be trained for the task instance: use"),
        (["--arch", "maskrcnn", "--task", "semantic"], "use --task instance"),
        (["--arch", "maskrcnn", "--boundary", "1"], "leave out --boundary"),
        (["--arch", "maskrcnn", "--background", "a"], "leave out --background"),
    ):
        assert run([*command, *more]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
    assert not (tmp_path / "m").exists()


# --- networks that find objects -------------------------------------------------------


def discs(folder, count=60, bands=5):
    """Write discs on a ground, and return the raster and their polygons."""
    rng, centres = np.random.default_rng(0), []
    while len(centres) < count:
        place = rng.uniform(0, SIDE, 2)
        if all(np.hypot(*(place - other)) > 15 for other in centres):
            centres.append(place)
    shapes = shapely.buffer(shapely.points(centres), rng.uniform(5, 8, count))
    pixels = rng.normal(80, 10, (bands, SIDE, SIDE))
    for shape in shapes:
        pixels[:, inside(shape)[0]] += 90
    raster = write(folder / "discs.tif", pixels.clip(0, 255).astype(np.uint8))
    return raster, polygons(folder / "discs.gpkg", shapes, crop="disc")


SMALL = {
    "patch": 64, "windows": 32, "batch": 2, "block": 64, "gap": 8, "zoom": 1.1,
    "brightness": 0.1, "device": "cpu",
}  # fmt: skip
DETECTOR = {
    "width": 32, "box_batch_size_per_image": 32, "rpn_pre_nms_top_n_train": 200,
    "rpn_post_nms_top_n_train": 50, "rpn_pre_nms_top_n_test": 100,
    "rpn_post_nms_top_n_test": 50,
}  # fmt: skip


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return discs(tmp_path_factory.mktemp("ground"))


@pytest.fixture(scope="module")
def detector(ground, tmp_path_factory):
    raster, labels = ground
    return train(
        raster, labels=labels, out=tmp_path_factory.mktemp("t") / "m", epochs=5,
        arch="maskrcnn_resnet18_fpn", arguments=DETECTOR, lr=3e-3, **SMALL,
    )  # fmt: skip


def test_a_detector_learns_to_find_discs(ground, detector, tmp_path):
    raster, labels = ground
    card = open_folder(detector).card
    assert card.task == "instance"
    assert card.framework["anchors"] == [8, 16, 32, 64, 128]  # discs are 10 ... 16 px
    assert "objects are cut at windows of 48 px" in card.facts["validation"]["how"]
    rows = list(csv.DictReader((detector / "curves.csv").read_text().splitlines()))
    assert float(rows[-1]["train_loss"]) < 0.6 * float(rows[0]["train_loss"])
    found = card.facts["validation"]["objects"]
    best = card.facts["training"]["best_epoch"]
    assert found["ap50"] == pytest.approx(float(rows[best]["ap50"]), abs=1e-5)
    assert found["ap50"] > 0.5
    # It is a model: `segment` takes it, and finds what it never looked at too.
    masks = tmp_path / "masks.zarr"
    command = ["segment", str(raster), "--model", str(detector), "--out", str(masks)]
    assert run([*command, "-q", "--device", "cpu"]) == 0
    assert evaluate(masks, labels, objects=True).objects.f1 > 0.6


def test_a_detector_goes_on_with_other_bands_and_classes(ground, detector, tmp_path):
    raster, labels = ground
    frame = geopandas.read_file(labels)
    frame["crop"] = ["ball", "disc"] * (len(frame) // 2)
    frame.to_file(tmp_path / "l.gpkg")
    out = train(
        raster, labels=tmp_path / "l.gpkg", out=tmp_path / "m", init=detector, epochs=1,
        bands=["1", "3"], lr=1e-9, validation=0, **SMALL | {"windows": 4},
    )  # fmt: skip
    card = open_folder(out).card
    assert (card.task, [c.name for c in card.classes]) == ("instance", ["ball", "disc"])
    a, b = (load_file(m / "weights.safetensors") for m in (detector, out))
    head = "roi_heads.box_predictor.{}.weight"
    for layer, rows in (("cls_score", 1), ("bbox_pred", 4)):
        ours, theirs = b[head.format(layer)], a[head.format(layer)]
        for place, other in ((0, 0), (2, 1)):  # the background, then disc
            mine = ours[place * rows : (place + 1) * rows]
            old = theirs[other * rows : (other + 1) * rows]
            assert torch.allclose(mine, old, atol=1e-5)
        assert not torch.allclose(ours[rows : 2 * rows], old, atol=1e-3)
    stem = "backbone.body.conv1.weight"
    assert torch.allclose(b[stem], a[stem][:, [0, 2]], atol=1e-5)


SWIN = {
    "model_type": "swin", "embed_dim": 16, "depths": [1] * 4, "num_heads": [1, 1, 2, 2],
    "window_size": 4, "image_size": 64,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}  # fmt: skip
VIT = {
    "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2,
    "intermediate_size": 32, "patch_size": 16,
}  # fmt: skip
MASK2FORMER = {
    "backbone_config": SWIN, "feature_size": 32, "mask_feature_size": 32,
    "hidden_dim": 32, "encoder_feedforward_dim": 32, "num_queries": 12,
    "encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2,
    "dim_feedforward": 32, "train_num_points": 256,
}  # fmt: skip
NETWORKS = {
    "upernet": {
        "backbone_config": {
            "model_type": "convnext", "hidden_sizes": [8, 12, 16, 20],
            "depths": [1] * 4, "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
        "hidden_size": 16, "auxiliary_in_channels": 16, "auxiliary_channels": 8,
    },
    "dpt": VIT | {
        "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 12, 16, 24],
        "fusion_hidden_size": 16, "is_hybrid": False,
    },
    "beit": VIT | {"out_indices": [1, 2, 3, 4], "use_relative_position_bias": True},
    "data2vec-vision": VIT | {"out_indices": [1, 2, 3, 4]},
    "mobilenet_v2": {"depth_multiplier": 0.25},
    "mobilevit": {
        "hidden_sizes": [12, 16, 20], "neck_hidden_sizes": [8, 8, 12, 12, 16, 16, 40],
        "num_attention_heads": 2, "aspp_out_channels": 16,
    },
    "mobilevitv2": {"width_multiplier": 0.25, "aspp_out_channels": 16},
    "maskformer": {
        "backbone_config": SWIN, "fpn_feature_size": 32, "mask_feature_size": 32,
        "decoder_config": {
            "model_type": "detr", "d_model": 32, "encoder_layers": 1,
            "decoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16,
            "decoder_attention_heads": 2, "decoder_ffn_dim": 16, "num_queries": 6,
        },
    },
    "mask2former": MASK2FORMER,
}  # fmt: skip
"""All that can be trained but SegFormer, each as small as it gets."""


@pytest.mark.parametrize("kind", NETWORKS)
def test_all_networks_of_transformers_learn_classes(ground, kind, tmp_path):
    pytest.importorskip("transformers")
    raster, labels = ground
    out = train(
        raster, labels=labels, out=tmp_path / "m", arch=f"transformers:{kind}",
        arguments=NETWORKS[kind], epochs=2, background="other",
        **SMALL | {"windows": 8},
    )  # fmt: skip
    card = open_folder(out).card
    assert card.task == "semantic"
    assert card.output == ("probabilities" if kind in QUERIES else "logits")
    assert 0 < card.facts["validation"]["mean_iou"] <= 1
    model = load_model(str(out), device="cpu", precision="fp32")
    pixels = rasterio.open(raster).read()[None, :, :64, :64]
    assert model.predict(pixels).shape[:2] == (1, 2)


def test_a_network_is_trained_after_a_map_was_made(ground, tmp_path):
    """BEiT keeps its position index for all networks of the process."""
    beit = pytest.importorskip("transformers.models.beit.modeling_beit")
    raster, labels = ground
    more = {"arch": "transformers:beit", "arguments": NETWORKS["beit"], "epochs": 1}
    more |= {"labels": labels, "background": "other", **SMALL | {"windows": 8}}
    out = train(raster, out=tmp_path / "m", **more)
    kept = beit.BeitRelativePositionBias.generate_relative_position_index
    for cell in kept.__closure__:
        getattr(cell.cell_contents, "cache_clear", int)()
    pixels = rasterio.open(raster).read()[None, :, :64, :64]
    load_model(str(out), device="cpu", precision="fp32").predict(pixels)
    train(raster, out=tmp_path / "again", **more)


def test_all_that_is_trainable_is_tried():
    assert {*NETWORKS, "segformer"} == set(TRAINABLE)


def test_queries_learn_objects_and_go_on(ground, tmp_path):
    pytest.importorskip("transformers")
    raster, labels = ground
    out = train(
        raster, labels=labels, out=tmp_path / "m", arch="transformers:mask2former",
        task="instance", arguments=MASK2FORMER, epochs=5, lr=4e-3, **SMALL,
    )  # fmt: skip
    rows = list(csv.DictReader((out / "curves.csv").read_text().splitlines()))
    assert float(rows[-1]["train_loss"]) < 0.8 * float(rows[0]["train_loss"])
    card = open_folder(out).card
    assert card.task == "instance"
    assert card.facts["validation"]["objects"]["classes"]["disc"]["true"] > 5
    masks = tmp_path / "m.zarr"
    command = ["segment", str(raster), "--model", str(out), "--out", str(masks), "-q"]
    assert run([*command, "--device", "cpu"]) == 0
    # Another class before ours, and the task of the model that it goes on from.
    frame = geopandas.read_file(labels)
    frame["crop"] = ["ball", "disc"] * (len(frame) // 2)
    frame.to_file(tmp_path / "l.gpkg")
    other = train(
        raster, labels=tmp_path / "l.gpkg", out=tmp_path / "n", init=out, epochs=1,
        lr=1e-9, validation=0, **SMALL | {"windows": 4},
    )  # fmt: skip
    assert open_folder(other).card.task == "instance"
    theirs, ours = (load_file(m / "model.safetensors") for m in (out, other))
    head = next(k for k in ours if k.endswith("class_predictor.weight"))
    assert torch.allclose(ours[head][1:], theirs[head], atol=1e-5)  # disc, and none
    assert not torch.allclose(ours[head][0], theirs[head][0], atol=1e-3)


class Recorder(torch.nn.Module):
    """A detector that only takes note of what it is to learn from."""

    roi_heads = None

    def forward(self, images, targets):
        self.images, self.targets = images, targets
        return {"a": images[0].sum(), "b": torch.tensor(2.0)}


def test_what_a_network_learns_from_is_what_is_there():
    numbers = torch.zeros(2, 32, 32, dtype=torch.int32)
    numbers[0, 4:10, 6:9] = 3
    numbers[0, 20:22, 20:24] = 1  # a sliver of 8 px
    numbers[0, 12:30, 31] = 2  # and a thin one
    numbers[1, :, 16:] = -1
    places = torch.tensor([0, 1, 1])
    parts = [split_objects(n, places) for n in numbers]
    assert [len(p.masks) for p in parts] == [1, 0]
    x = torch.ones(2, 4, 32, 32)
    network = Recorder()
    assert own_loss(network, x, parts) == 4 * 32 * 32 + 2
    first, second = network.targets
    assert first["boxes"].tolist() == [[6, 4, 9, 10]]
    assert first["labels"].tolist() == [2]  # 0 is the background
    assert first["masks"].sum() == 18
    assert second["boxes"].shape == (0, 4)
    # What nobody knows is not seen either, since such a loss cannot leave it out.
    loss_of_objects(network, x, numbers, places)
    seen = torch.stack(network.images)
    assert (seen[:, 0] == (numbers != -1)).all()


def test_objects_of_windows_are_scored_as_whole_maps_are():
    numbers = torch.zeros(48, 48, dtype=torch.int32)
    numbers[2:12, 2:12], numbers[20:30, 5:15], numbers[30:44, 30:44] = 1, 2, 3
    numbers[:, 40:] = -1
    places = torch.tensor([0, 0, 0])
    masks = torch.stack([numbers == 1, numbers == 2])
    masks[0, 11:20, 2:12] = True  # an IoU of 10 / 18
    whole = (torch.arange(48) >= 30) & (torch.arange(48) < 44)
    far = torch.outer(whole, whole)  # with four columns that nobody knows of
    found = Detections(
        masks=torch.stack([*masks, far, numbers == 0]),
        channels=torch.tensor([0, 0, 0, 0]),
        scores=torch.tensor([0.9, 0.8, 0.7, 0.3]),
    )
    card = card_from_dict({"bands": ["a"], "classes": ["disc"], "task": "instance"})
    seen = compare_window(found, numbers, places)
    for windows in ([seen], [seen, seen]):
        scores = score_windows(windows, card)
        assert scores.names == ("disc",)
        assert scores.per_class[0].true == 3 * len(windows)
        assert scores.f1 == 1
        assert scores.mean("ap50") == 1
        assert scores.mean("sq") == pytest.approx((10 / 18 + 1 + 1) / 3)
    nothing = compare_window(replace(found, scores=found.scores * 0), numbers, places)
    scores = score_windows([seen, nothing], card)
    assert scores.f1 == pytest.approx(2 * 3 / (6 + 3))
