"""Networks run by OpenVINO: the same map for any blocks, one choice, words."""

import sys

import numpy as np
import pytest
import small
import torch
import zarr
from tifs import write_tif

from geoseg.core import user_cache
from geoseg.errors import ClusterError, GeosegError, MasksError, ModelError
from geoseg.inference import quickest
from geoseg.inference.numerics import Numerics
from geoseg.inference.worker import Job, check_worker
from geoseg.maps.store import open_masks
from geoseg.models.engines.openvino_cpu import OpenVinoNetwork
from geoseg.models.load import model_recipe
from geoseg.models.networks.device import SIDE_BY_SIDE, ModelOptions
from geoseg.models.networks.torch_adapter import TorchModel
from geoseg.testing import identity_card

CARD = identity_card(3, window=48, overlap=12, output="logits")


def a_network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 3, 3, padding=1),
    ).eval()


@pytest.fixture(scope="module")
def network():
    return a_network()


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    path = tmp_path_factory.mktemp("openvino") / "scene.tif"
    values = np.random.default_rng(0).random((3, 150, 130), np.float32)
    return write_tif(str(path), values)


def run(scene, out, network, **options):
    how = {"model": (CARD, network), "chunk": 64, "device": "cpu", **options}
    return small.segment(scene, out=out, **how)["classes"].to_numpy()


def settings_of(out):
    return open_masks(str(out)).record()["settings"]


def test_maps_agree_and_do_not_depend_on_blocks(scene, tmp_path, network):
    maps = {}
    for engine, block in (("threads", 144), ("openvino", 144), ("openvino", 72)):
        out = tmp_path / f"{engine}{block}.zarr"
        how = {"engine": engine, "block": block, "precision": "fp32"}
        maps[engine, block] = run(scene, out, network, **how)
    np.testing.assert_array_equal(maps["openvino", 144], maps["openvino", 72])
    assert (maps["openvino", 144] == maps["threads", 144]).mean() >= 0.999
    assert settings_of(tmp_path / "openvino72.zarr")["engine"] == "openvino"
    # what was begun with one engine goes on with it, or is refused
    with pytest.raises(MasksError, match="engine: none there, openvino now"):
        run(scene, tmp_path / "threads144.zarr", network, engine="openvino", block=144)
    with pytest.raises(MasksError, match="engine: openvino there, none now"):
        run(scene, tmp_path / "openvino72.zarr", network, engine="threads", block=72)
    run(scene, tmp_path / "openvino72.zarr", network, block=72)


class Moody(torch.nn.Module):
    """Computes otherwise where what it sees is brighter: tracing sees one way."""

    def forward(self, x):
        return x if float(x[0, 0, 0, 0]) > 0 else -x


class Chance(torch.nn.Module):
    """Answers otherwise every time."""

    def forward(self, x):
        return x + torch.rand_like(x)


def test_a_network_that_it_changes_is_refused():
    options = ModelOptions(device="cpu", engine="openvino", precision="fp32")
    with pytest.raises(ModelError, match="depends on what it sees"):
        TorchModel(Moody(), CARD, options)
    with pytest.raises(ModelError, match="answer for a window differs by"):
        TorchModel(Chance(), CARD, options)
    halves = ModelOptions(device="cpu", engine="openvino", precision="fp16")
    with pytest.raises(ModelError, match="fp32 or bf16 on a CPU, not in fp16"):
        TorchModel(a_network(), CARD, halves)


def test_windows_side_by_side_answer_as_alone(network):
    ours = OpenVinoNetwork(network, (1, 3, 48, 48), precision="fp32", threads=2)
    windows = torch.rand(6, 3, 48, 48)
    options = ModelOptions(device="cpu", engine="openvino", precision="fp32")
    together = TorchModel(network, CARD, options).predict(windows.numpy())
    alone = torch.cat([ours(w[None]) for w in windows])
    assert torch.equal(together, alone)
    assert ours(torch.rand(1, 3, 96, 80)).shape == (1, 3, 96, 80)


def test_where_it_is_absent_that_is_said(monkeypatch, network, scene):
    monkeypatch.setitem(sys.modules, "openvino", None)
    options = ModelOptions(device="cpu", engine="openvino")
    with pytest.raises(GeosegError, match=r"geoseg\[openvino\]"):
        TorchModel(network, CARD, options)
    with pytest.raises(ModelError, match=r"runs networks; .* is not one"):
        small.make_plan(scene, chunk=64, model="kmeans:2", engine="openvino")


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Let a small run be long enough to measure for, and say what that finds."""
    monkeypatch.setenv("GEOSEG_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(quickest, "_LONG", 0.0)
    asked = []

    def found(share):
        def measured(*recipes):
            asked.append(recipes)
            return share

        monkeypatch.setattr(quickest, "_share", measured)
        return asked

    return found


def engine_of(scene, network, **options):
    how = {"model": (CARD, network), "chunk": 64, "device": "cpu", **options}
    return small.make_plan(scene, **how).model.load().engine


def test_auto_is_measured_once_and_a_store_keeps_to_it(scene, tmp_path, network, quick):
    asked = quick(1.2)
    first = tmp_path / "first.zarr"
    run(scene, first, network, block=144)
    assert "engine" not in settings_of(first), "it was slower"
    quick(0.5)
    assert engine_of(scene, network) == "threads", "which is remembered"
    assert len(asked) == 1
    user_cache.clear()
    assert engine_of(scene, network) == "openvino"
    assert engine_of(scene, network, engine="threads") == "threads"
    run(scene, first, network, block=144)  # goes on, though another is quicker now
    assert "engine" not in settings_of(first)
    second = tmp_path / "second.zarr"
    run(scene, second, network, block=72)
    assert settings_of(second)["engine"] == "openvino"
    told = zarr.open_group(second, mode="r").attrs["geoseg"]["devices"]
    assert [device.split(", ")[-1] for device in told] == ["openvino"]


def test_auto_stays_with_torch_where_nothing_can_be_kept_or_is_there(
    scene, network, quick, monkeypatch
):
    asked = quick(0.5)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "openvino", None)
        assert engine_of(scene, network) == "threads"
    with monkeypatch.context() as without:
        without.setattr(user_cache, "folder", lambda _: None)
        assert engine_of(scene, network) == "threads"
    assert not asked


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_measured(network, precision):
    def share(net):
        how = {"device": "cpu", "precision": precision}
        return quickest._share(
            *(model_recipe((CARD, net), engine=e, **how) for e in SIDE_BY_SIDE)
        )

    assert 0 < share(network) < 1000
    assert share(Moody()) == float("inf")


def test_a_worker_without_it_is_told(scene, tmp_path, network, monkeypatch):
    how = {"model": (CARD, network), "device": "cpu", "engine": "openvino"}
    plan = small.make_plan(scene, chunk=64, **how)
    run(scene, tmp_path / "masks.zarr", network, engine="openvino")
    job = Job(
        source=plan.source,
        model=plan.model,
        tiling=plan.tiling,
        masks=open_masks(str(tmp_path / "masks.zarr")),
        numerics=Numerics(precision="fp32", batch=None, engine="openvino"),
    )
    plan.model.unload()
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ClusterError, match=r"a worker on .*geoseg\[openvino\]"):
        check_worker(job)
