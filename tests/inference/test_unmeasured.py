"""GPUs of kinds that geoseg was never run on: asked for, compared, refused; played."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import zarr
from played import played
from tifs import write_tif

from geoseg.core.classes import class_table
from geoseg.errors import ModelError
from geoseg.inference import unmeasured
from geoseg.inference.device_memory import Device, _streams
from geoseg.inference.options import PlanOptions
from geoseg.inference.planning import plan_of
from geoseg.inference.workflow import run_plan
from geoseg.models.card import Band, Card
from geoseg.models.load import load_model, model_recipe
from geoseg.models.networks.device import choose_device, choose_precision

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(autouse=True)
def forgotten():
    """Nothing that was found of another played GPU counts."""
    unmeasured._FOUND.clear()
    yield
    _streams.cache_clear()


def network(**changes):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 4, 5, padding=2),
    )
    facts = {
        "name": "net",
        "bands": tuple(Band(name=b, offset=100, scale=50) for b in "abc"),
        "classes": class_table("wxyz"),
        "window": 64,
        "overlap": 16,
        "multiple": 32,
    }
    net.card = Card(**facts | changes)
    return net.eval()


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    values = np.random.default_rng(0).integers(0, 4000, (3, 230, 210), np.uint16)
    return write_tif(path, values, names=("a", "b", "c"), dtype="uint16", nodata=0)


def plan(scene, device, **options):
    options = {"engine": "torch", "precision": "fp32", "batch": 3} | options
    asked = PlanOptions(model=network(), device=device, scores=True, **options)
    return plan_of(str(scene), asked, chunk=48)


def run(scene, out, device, **options):
    made = plan(scene, device, block=96, **options)
    masks, info = run_plan(made, out=out, progress=False)
    store = zarr.open_group(out, mode="r")
    return {n: store[n][:] for n in ("classes", "confidence")}, masks, info


@pytest.mark.parametrize(
    ("kind", "name"), [("xpu", "Played GPU"), ("mps", "Played M9")]
)
def test_a_run_goes_the_way_of_cuda_and_the_store_says_so(scene, tmp_path, kind, name):
    expected, *_ = run(scene, tmp_path / "cpu.zarr", "cpu")
    with played(kind) as gpu:
        found, masks, info = run(scene, tmp_path / "gpu.zarr", f"{kind}:0")
    assert found["classes"].tobytes() == expected["classes"].tobytes()
    assert found["confidence"].tobytes() == expected["confidence"].tobytes()
    settings = masks.record()["settings"]
    assert (settings["card"], settings["precision"]) == (name, "fp32")
    assert any(name in device for device in info.devices)
    notes = zarr.open_group(tmp_path / "gpu.zarr", mode="r").attrs["geoseg"]["notes"]
    assert any("never been run" in note for note in notes)
    assert gpu.used if kind == "xpu" else gpu.waits


def damaged(how):
    """Return damage to what convolutions answer."""

    def damage(func, answer):
        return how(answer) if "convolution" in str(func) else answer

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        # As far off as a few of the usual bits, a wrong row, a place in the batch.
        (damaged(lambda x: x * 1.05), r"otherwise than on the CPU: 0\.\d+ of the size"),
        (damaged(lambda x: x.roll(1, 2)), "otherwise than on the CPU"),
        (
            damaged(lambda x: x + 1e-5 * torch.arange(len(x))[:, None, None, None]),
            "lies elsewhere in its batch",
        ),
    ],
)
def test_answers_that_differ_are_refused_before_a_store_is_begun(
    scene, tmp_path, damage, message
):
    with played("xpu", damage), pytest.raises(ModelError, match=message) as caught:
        run(scene, tmp_path / "gpu.zarr", "xpu:0")
    assert "--device cpu" in str(caught.value)
    assert not (tmp_path / "gpu.zarr").exists()


@pytest.mark.parametrize("operation", ["mul", "max"])
def test_sums_must_come_back_to_the_bit(operation):
    def damage(func, answer):
        if str(func).startswith(f"aten.{operation}."):
            last = answer[-1] if isinstance(answer, tuple) else answer
            if last.dtype in {torch.int32, torch.int64}:
                last.view(-1)[50] = int(last.view(-1)[50] == 0)
        return answer

    with played("mps", damage), pytest.raises(ModelError, match="numbers of a trial"):
        unmeasured._check_sums("mps:0")


def test_a_resumed_run_is_compared_too(scene, tmp_path):
    with played("xpu"):
        made = plan(scene, "xpu:0", block=96)
        stopped = iter([None])

        def stop(_):
            if next(stopped, 1):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_plan(made, out=tmp_path / "gpu.zarr", progress=stop)
    unmeasured._FOUND.clear()
    made.model.unload()
    with (
        played("xpu", damaged(lambda x: x * 1.05)),
        pytest.raises(ModelError, match="otherwise than on the CPU"),
    ):
        run(scene, tmp_path / "gpu.zarr", "xpu:0")


def test_apples_is_asked_by_one_thread_at_a_time():
    with played("mps"):
        device, sent = Device(torch.device("mps:0")), threading.Event()

        def send():
            device.sent(np.zeros(3, np.float32))
            sent.set()

        thread = threading.Thread(target=send)
        with device.alone():
            thread.start()
            assert not sent.wait(0.1)
        thread.join(5)
        assert sent.is_set()


def test_memory_that_an_apple_shares_counts_for_the_process(scene):
    with played("mps"):
        memory = plan(scene, "mps:0", block=96).memory
    assert memory.device > 0
    assert memory.device_room == 0.9 * 8e9
    assert memory.total == pytest.approx(
        memory.process + memory.model + memory.tasks * memory.per_task + memory.device
    )


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"output": "labels"}, {}, "'net' runs on cpu or cuda"),
        ({"inputs": ("time", "location")}, {}, "'net' runs on cpu or cuda"),
        ({}, {"engine": "compile"}, "--engine compile is for CUDA GPUs"),
        ({}, {"engine": "threads"}, "is for the CPU, the device is xpu:0"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes, options, message):
    with played("xpu"), pytest.raises(ModelError, match=message):
        model_recipe(network(**changes), device="xpu:0", **options).load()


def test_methods_stay_on_the_processor():
    with pytest.raises(ModelError, match=r"'threshold.*runs on cpu or cuda"):
        load_model("threshold:ndvi>0.3", device="mps")


def test_bf16_is_for_who_multiplies_it(monkeypatch):
    facts = SimpleNamespace(has_bfloat16_conversions=True)
    xpu, mps = map(torch.device, ("xpu:0", "mps:0"))
    with played("xpu"):
        assert choose_precision(xpu, "auto") == "fp32"
        monkeypatch.setattr(torch.xpu, "get_device_properties", lambda _: facts)
        assert choose_precision(xpu, "auto") == "bf16"
        monkeypatch.undo()
    assert choose_precision(mps, "auto") == "fp32"
    assert choose_precision(mps, "fp16") == "fp16"


def test_none_is_chosen_that_was_not_asked_for():
    with played("xpu"):
        assert choose_device("auto").type in {"cpu", "cuda"}


def test_one_that_is_not_there_is_named():
    with pytest.raises(ModelError, match="torch sees no Apple GPU here"):
        choose_device("mps")
    with played("xpu"), pytest.raises(ModelError, match="sees 1 Intel GPU here"):
        choose_device("xpu:3")
    for wrong in ("cudda", "gpu"):
        with pytest.raises(ModelError, match="did you mean cuda"):
            choose_device(wrong)
