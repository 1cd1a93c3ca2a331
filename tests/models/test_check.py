"""Rasters that a model cannot know are refused; those it can are not."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tifs import write_tif

from geoseg.cli import run
from geoseg.errors import ModelError
from geoseg.models.check import check_fit, examine, try_out
from geoseg.models.load import model_recipe
from geoseg.models.plain import card_from_dict
from geoseg.rasters.open import open_source

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
BYTES = {"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4]}
REFLECTANCE = {"scale": 10000, "value_range": [0, 10000]}
SENTINEL = {"mean": 1400.0, "std": 300.0}


def a_card(**more):
    return card_from_dict(
        {"bands": ["red", "green", "blue"], "classes": ["a", "b"], **more}
    )


def a_raster(tmp_path, dtype, low, high, *, names=("red", "green", "blue"), valid=1.0):
    """Write a raster with values spread evenly from low to high."""
    rng = np.random.default_rng(0)
    pixels = rng.uniform(low, high, (len(names), 300, 400)).astype(dtype)
    pixels[:, rng.random((300, 400)) > valid] = 0
    path = write_tif(tmp_path / "raster.tif", pixels, names=names, nodata=0)
    return open_source(str(path))


def by_subject(card, source):
    return {finding.subject: finding for finding in examine(card, source)}


@pytest.mark.parametrize(
    ("about", "dtype", "low", "high"),
    [
        (IMAGENET, "float32", 0, 1),
        (BYTES, "uint8", 1, 255),
        (BYTES, "uint8", 1, 40),  # dark
        (REFLECTANCE, "uint16", 1, 4000),
        (REFLECTANCE, "uint16", 60, 300),  # water only
        (REFLECTANCE, "float32", 1, 9000),
        (SENTINEL, "uint16", 1, 5000),
        (SENTINEL, "int16", 100, 130),
        ({}, "float32", -1e9, 1e9),
        ({"value_range": [-35, 10]}, "float32", -25, -3),
        ({"scale": 255}, "uint8", 1, 255),
    ],
)
def test_what_fits_is_let_through(tmp_path, about, dtype, low, high):
    check_fit(a_card(**about), a_raster(tmp_path, dtype, low, high))


@pytest.mark.parametrize(
    ("about", "dtype", "low", "high", "message"),
    [
        (IMAGENET, "uint8", 1, 255, "other units"),
        (IMAGENET, "uint16", 1, 5000, "other units"),
        (BYTES, "float32", 0.01, 1, "other units"),
        (BYTES, "uint16", 10000, 60000, "other units"),
        (REFLECTANCE, "float32", 0.01, 0.9, "rescaled"),
        (REFLECTANCE, "uint8", 1, 255, "rescaled"),
        (SENTINEL, "float32", 0.01, 0.9, "other units"),
        ({"value_range": [0, 1]}, "uint16", 1, 9000, "% lie outside"),
        ({"value_range": [-35, 10]}, "uint16", 50, 900, "% lie outside"),
        ({"scale": 1, "clip": [0, 1]}, "uint16", 10, 900, "other units"),
        ({"dtypes": ["uint8"]}, "float32", 0, 1, "float32.*trained on uint8"),
    ],
)
def test_what_cannot_be_right_is_refused(tmp_path, about, dtype, low, high, message):
    source = a_raster(tmp_path, dtype, low, high)
    with pytest.raises(ModelError, match=message) as caught:
        check_fit(a_card(**about), source)
    assert "\n" not in str(caught.value)


def test_a_missing_band_is_named(tmp_path):
    source = a_raster(tmp_path, "uint8", 1, 255, names=("red", "green", "nir"))
    with pytest.raises(ModelError, match="blue"):
        check_fit(a_card(), source)


def test_order_is_by_name(tmp_path):
    source = a_raster(tmp_path, "uint8", 1, 255, names=("blue", "nir", "red", "green"))
    text = by_subject(a_card(), source)["bands"].text
    assert "red <- 3 (red)" in text
    assert "green <- 4 (green)" in text
    assert "blue <- 1 (blue)" in text


def test_resolution_is_told(tmp_path):
    source = a_raster(tmp_path, "uint8", 1, 255)
    found = by_subject(a_card(resolution=20.0), source)["resolution"]
    assert found.level == "note"
    assert "ratio 0.5" in found.text
    assert by_subject(a_card(resolution=10.0), source)["resolution"].level == "ok"


def test_nothing_valid_is_not_an_error(tmp_path):
    source = a_raster(tmp_path, "uint8", 1, 255, valid=-1.0)
    assert by_subject(a_card(**BYTES, value_range=[0, 255]), source)["values"].text


def test_a_constant_raster_is_not_an_error(tmp_path):
    check_fit(a_card(**BYTES), a_raster(tmp_path, "uint8", 7, 7.5))


def test_it_is_the_same_every_time(tmp_path):
    source = a_raster(tmp_path, "uint16", 1, 5000, valid=0.4)
    card = a_card(**SENTINEL, value_range=[0, 10000])
    assert examine(card, source) == examine(card, source)


class TestRealRasters:
    def test_drone_image_in_bytes(self, shared):
        path = shared / "banepa_buildings" / "banepa_predict_rgb.tif"
        source = open_source(str(path))
        check_fit(a_card(**BYTES, dtypes=["uint8"], value_range=[0, 255]), source)
        with pytest.raises(ModelError, match="other units"):
            check_fit(a_card(**IMAGENET), source)

    def test_sentinel_2_by_position(self, shared):
        source = open_source(str(shared / "ftw_austria" / "inference-img.tif"))
        eight = {"bands": [f"band {i}" for i in range(8)], "classes": ["a", "b"]}
        found = by_subject(card_from_dict(eight | REFLECTANCE), source)
        assert found["bands"].level == "note"
        assert "by position" in found["bands"].text
        assert found["values"].level == found["scaling"].level == "ok"
        with pytest.raises(ModelError, match=r"other units|rescale"):
            check_fit(card_from_dict(eight | {"value_range": [0, 1]}), source)

    def test_landsat_reflectance_in_floats(self, shared):
        folder = shared / "landsat8_scenes" / "new_york_toa_float32"
        source = open_source(str(next(Path(folder).glob("*B4_toa.tif"))))
        card = card_from_dict({"bands": ["red"], "classes": ["a", "b"], **REFLECTANCE})
        with pytest.raises(ModelError, match="rescaled"):
            check_fit(card, source)
        card = card_from_dict({"bands": ["red"], "classes": ["a", "b"], "std": 0.2})
        check_fit(card, source)


def test_a_program_that_can_never_take_the_window_is_found(tmp_path, capsys):
    """Before the run, and without one."""
    net = torch.nn.Conv2d(3, 2, 1).eval()
    program = torch.export.export(net, (torch.zeros(1, 3, 64, 64),))
    torch.export.save(program, tmp_path / "net.pt2")
    card = {"bands": ["red", "green", "blue"], "classes": ["a", "b"], "overlap": 0}
    a_raster(tmp_path, "uint8", 1, 255)
    for window, status in ((64, 0), (128, 2)):
        (tmp_path / "net.json").write_text(json.dumps({**card, "window": window}))
        command = ["model", "check", str(tmp_path / "net.pt2")]
        assert run([*command, str(tmp_path / "raster.tif")]) == status
        assert ("windows of 64 x 64" in capsys.readouterr().out) == (status == 2)


class Mask(torch.nn.Module):
    """A last layer that tells which pixels are of the class, by a number."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return (x > 0).long()[:, 0] * self.value


class Last(torch.nn.Module):
    """A last layer that puts the channel last."""

    def forward(self, x):
        return x.movedim(1, -1)


class OneChannel(torch.nn.Module):
    """A network with one channel, perhaps with a last layer of its own."""

    def __init__(self, last):
        super().__init__()
        self.net, self.last = torch.nn.Conv2d(3, 1, 1), last
        torch.nn.init.constant_(self.net.weight, 1.0)
        torch.nn.init.constant_(self.net.bias, 0.0)

    def forward(self, x):
        return self.last(self.net(x))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize(
    ("last", "plain", "status", "said"),
    [
        (torch.nn.Sigmoid(), {}, 2, '"output": "probabilities"'),
        (torch.nn.Sigmoid(), {"facts": {"logits": True}}, 0, None),
        (torch.nn.Sigmoid(), {"output": "probabilities"}, 0, None),
        (torch.nn.Identity(), {}, 0, None),
        (torch.nn.Identity(), {"output": "probabilities"}, 2, '"output": "logits"'),
        (Mask(1), {"output": "labels"}, 0, None),
        (Mask(255), {"output": "labels"}, 2, '"value": 255'),
        (Last(), {}, 0, None),
    ],
)
def test_one_channel_is_what_the_card_says(tmp_path, capsys, last, plain, status, said):
    """What a last layer does is seen on the raster's middle, before a run."""
    a_raster(tmp_path, "uint8", 1, 255)
    path = str(tmp_path / "net.pt")
    torch.jit.trace(OneChannel(last).eval(), torch.zeros(1, 3, 64, 64)).save(path)
    card = {"bands": ["red", "green", "blue"], "classes": ["ground", "roof"]}
    card |= {"mean": 128, "std": 60, "window": 64, "overlap": 0, **plain}
    (tmp_path / "net.json").write_text(json.dumps(card))
    raster = str(tmp_path / "raster.tif")
    assert run(["model", "check", path, raster]) == status
    check = [
        line for line in capsys.readouterr().out.splitlines() if line[6:11] == "model"
    ]
    assert [said in line and "net.json" in line for line in check] == [True] * bool(
        said
    )
    assert run(["plan", raster, "--model", path]) == status
    out = "".join(capsys.readouterr())
    assert said is None or said in out


def test_an_answer_that_is_none_is_found(tmp_path):
    class Wrong:
        card = a_card(window=64, overlap=0)

        def predict(self, pixels):
            return np.zeros((len(pixels), 5, 64, 64), np.float32)

    source = a_raster(tmp_path, "uint8", 1, 255)
    (finding,) = try_out(model_recipe(Wrong()), source)
    assert finding.level == "wrong"
    assert "5" in finding.text
