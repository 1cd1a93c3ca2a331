"""Blocks through one device: the laws hold, nothing is passed twice, little is filled.

The same code runs on CPUs and GPUs; where torch sees a GPU, all of it runs there too.
"""

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import small
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st
from tifs import write_tif

from geoseg.cli.segment import _summary
from geoseg.core import user_cache
from geoseg.core.blend import SCORE, WEIGHT_1D
from geoseg.core.classes import class_table
from geoseg.core.tiling import Tiling
from geoseg.errors import BlocksFailedError, ClusterError, ModelError
from geoseg.execution.progress import Progress, _speed
from geoseg.inference import device_steps as steps
from geoseg.inference.block_steps import BlendStep
from geoseg.inference.device_memory import Device, laid_out, room_of, unsigned
from geoseg.inference.memory import Memory, block_bytes, estimate_memory
from geoseg.inference.numerics import choose_here
from geoseg.inference.options import PlanOptions
from geoseg.inference.order import share_at_work
from geoseg.inference.planning import plan_of, with_block
from geoseg.inference.scheduler import RunInfo
from geoseg.inference.semantic import segment_block
from geoseg.inference.sites import NO_GPU, leaving_with_device, site_here
from geoseg.inference.stream import Stream
from geoseg.inference.streams import close_streams, step_of
from geoseg.inference.streams import stream_of as stream_of_run
from geoseg.inference.tasks import Tasks
from geoseg.inference.windows import read_windows
from geoseg.inference.workflow import run_plan
from geoseg.maps.provenance import _of_run
from geoseg.maps.state import DONE, PARTIAL
from geoseg.maps.store import open_masks
from geoseg.models.card import Band, Card
from geoseg.models.engines import compiled
from geoseg.models.load import ModelRecipe, model_recipe
from geoseg.testing import MemorySource

pytestmark = pytest.mark.usefixtures("own_cache")

HEIGHT, WIDTH, WINDOW, OVERLAP = 700, 650, 128, 32
CUDA = pytest.param(
    "cuda",
    marks=pytest.mark.skipif(
        not torch.cuda.is_available(), reason="torch sees no CUDA GPU here"
    ),
)
on_devices = pytest.mark.parametrize("device", ["cpu", CUDA])


def card(**changes):
    facts = {
        "name": "net",
        "bands": tuple(Band(name=b, offset=100, scale=50) for b in "abc"),
        "classes": class_table(f"class {i}" for i in range(4)),
        "window": WINDOW,
        "overlap": OVERLAP,
        "multiple": 32,
    }
    return Card(**facts | changes)


def network(module=None, **changes):
    torch.manual_seed(0)
    net = module or torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 4, 5, padding=2),
    )
    net.card = card(**changes)
    return net.eval()


def pixels(dtype=np.uint16):
    rng = np.random.default_rng(0)
    values = rng.integers(1, 250, (3, HEIGHT, WIDTH)).astype(dtype)
    mask = rng.random((HEIGHT, WIDTH)) > 0.1
    mask[:300, :300] = False
    return values, mask


def source(dtype=np.uint16):
    values, mask = pixels(dtype)
    return MemorySource(values=values, mask=mask, names=("a", "b", "c"))


def tiling(block=192):
    return Tiling(
        height=HEIGHT,
        width=WIDTH,
        window=WINDOW,
        overlap=OVERLAP,
        multiple=32,
        chunk=192,
        block=block,
    )


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    values, mask = pixels()
    shown = np.where(mask, values, 0)
    return write_tif(path, shown, names=("a", "b", "c"), dtype="uint16", nodata=0)


def run(scene, out, net, *, device, batch=5, **options):
    """Segment the scene whole; return the arrays of the store."""
    options = {"engine": "torch", "precision": "fp32", "scores": True} | options
    asked = PlanOptions(model=net, device=device, batch=batch, **options)
    plan = plan_of(str(scene), asked, chunk=192)
    run_plan(plan, out=out, progress=False)
    store = zarr.open_group(out, mode="r")
    return {name: store[name][:] for name in ("classes", "confidence")}


def same(one, two):
    return all(one[name].tobytes() == two[name].tobytes() for name in one)


def through(stream, blocks, of, threads=6, names=("classes",)):
    """Give blocks to a stream from several threads, as a run's tasks do."""
    found, waiting = {}, list(blocks)[::-1]

    def work():
        while waiting:
            block = waiting.pop()
            with stream.tasks.one_more():
                seen = read_windows(of, stream.card, block.reach)
                found[block.key] = stream.segment(block, seen, list(names))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return found


def stream_of(net, device="cpu", batch=5, memory=1e9):
    recipe = model_recipe(
        net, device=device, precision="fp32", engine="torch", batch=batch
    )
    model = recipe.load()
    return Stream(model, step_of(model), batch=batch, memory=memory, tasks=Tasks())


@on_devices
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_blocks_never_change_the_answer(scene, tmp_path, device, precision):
    how = {"device": device, "precision": precision}
    one = run(scene, tmp_path / "1", network(), block=192, **how)
    two = run(scene, tmp_path / "2", network(), block=384, **how)
    assert same(one, two)


@on_devices
def test_order_and_room_never_change_the_answer(device):
    blocks = list(tiling().each_block())
    answers = []
    for order, memory in ((0, 1e9), (1, 1e9), (2, 1)):
        np.random.default_rng(order).shuffle(blocks)
        stream = stream_of(network(), device, memory=memory)
        answers.append(through(stream, blocks, source()))
        stream.close()
    for key, block in answers[0].items():
        for other in answers[1:]:
            assert np.array_equal(block.arrays["classes"], other[key].arrays["classes"])
            for mine, theirs in zip(block.border, other[key].border, strict=True):
                assert np.array_equal(mine.sums, theirs.sums)
            for neighbour, halo in block.halo.items():
                assert np.array_equal(halo.sums, other[key].halo[neighbour].sums)


@on_devices
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_a_device_agrees_with_windows_side_by_side(device, dtype):
    """Scores within 1/65535; labels wherever the best two are further apart."""
    stream = stream_of(network(), device)
    plain = model_recipe(network(), device="cpu", precision="fp32").load()
    blocks = list(tiling().each_block())
    there = through(stream, blocks, source(dtype))
    stream.close()
    near = 4 * WEIGHT_1D**2  # four windows, each off by one
    for block in blocks:
        here = segment_block(source(dtype), plain, block, batch=2)
        assert here.windows == there[block.key].windows
        found = there[block.key]
        assert here.halo.keys() == found.halo.keys()
        for mine, theirs in [
            *zip(here.border, found.border, strict=True),
            *((here.halo[key], found.halo[key]) for key in here.halo),
        ]:
            assert mine.window == theirs.window
            assert np.abs(mine.sums - theirs.sums).max() <= near
        differ = here.arrays["classes"] != found.arrays["classes"]
        assert differ.mean() < 1e-3


@on_devices
def test_every_window_once_and_one_filled_batch_per_shape(device):
    stream = stream_of(network(), device)
    blocks = list(tiling().each_block())
    found = through(stream, blocks, source(), threads=len(blocks))
    shapes = {
        (window.height, window.width)
        for block in blocks
        for row in block.cells[0]
        for col in block.cells[1]
        for window in [block.tiling.model_window(row, col)]
    }
    windows = sum(block.windows for block in found.values())
    plain = model_recipe(network(), device="cpu", precision="fp32").load()
    assert windows == sum(
        segment_block(source(), plain, block, batch=2).windows for block in blocks
    )
    assert stream.padding < stream.batch * len(shapes)
    assert stream.steps <= windows / stream.batch + len(shapes) + sum(
        stream.batch for shape in shapes if shape != (WINDOW, WINDOW)
    )
    stream.close()


@on_devices
def test_the_last_batch_does_not_wait_for_who_brings_no_windows(device):
    stream = stream_of(network(), device, batch=500)
    block = tiling().block_at(1, 1)
    seen = read_windows(source(), stream.card, block.reach)
    cells = len(block.cells[0]) * len(block.cells[1])
    with stream.tasks.one_more(brings=False), stream.tasks.one_more(more=False):
        found = stream.segment(block, seen, ["classes"])  # for ever, did it wait
    assert (found.windows, stream.steps) == (cells, 1)
    stream.close()


@on_devices
def test_a_killed_run_resumes_to_the_same_bytes(scene, tmp_path, device):
    whole = run(scene, tmp_path / "whole", network(), device=device, block=192)
    program = (
        "import os, sys; sys.path[:0] = sys.argv[1].split(os.pathsep)\n"
        "from test_stream import PlanOptions, network, plan_of, run_plan\n"
        "asked = PlanOptions(model=network(), device=sys.argv[4], batch=5,\n"
        "    engine='torch', precision='fp32', scores=True, block=192)\n"
        "plan = plan_of(sys.argv[2], asked, chunk=192)\n"
        "def die(now):\n"
        "    if now.inferred >= 4: os.kill(os.getpid(), 9)\n"
        "run_plan(plan, out=sys.argv[3], progress=die)\n"
    )
    folder = Path(__file__).parent
    out, here = tmp_path / "killed", f"{folder}{os.pathsep}{folder.parent}"
    command = [sys.executable, "-c", program, here, str(scene), str(out), device]
    assert subprocess.run(command, check=False, env=os.environ).returncode == -9
    assert same(run(scene, out, network(), device=device, block=192), whole)


class Greedy(torch.nn.Module):
    """Takes more memory than there is for more than two windows."""

    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, x):
        if len(x) > 2:
            raise torch.cuda.OutOfMemoryError("out of memory, as a GPU says it")
        return self.inner(x)


@on_devices
def test_out_of_memory_halves_the_batch_and_says_so(scene, tmp_path, device):
    plain = run(scene, tmp_path / "plain", network(), device=device, batch=2)
    with pytest.warns(UserWarning, match="windows are passed at once"):
        found = run(scene, tmp_path / "g", network(Greedy()), device=device, batch=8)
    differ = plain["classes"] != found["classes"]
    assert differ.mean() < 1e-3
    masks = open_masks(tmp_path / "g")
    infos = [masks.done_info(key) for key in masks.marked(DONE)]
    assert {info["batch"] for info in infos if info["windows"]} == {2}


def test_memory_may_run_out_while_a_block_is_labelled(scene, tmp_path, monkeypatch):
    plain = run(scene, tmp_path / "plain", network(), device="cpu", batch=2)
    complete, full = BlendStep.complete, iter([True, True])

    def tight(step, work):
        if next(full, False):
            raise torch.cuda.OutOfMemoryError("out of memory")
        return complete(step, work)

    monkeypatch.setattr(BlendStep, "complete", tight)
    with pytest.warns(UserWarning, match="windows are passed at once"):
        found = run(scene, tmp_path / "g", network(), device="cpu", batch=8)
    assert (plain["classes"] != found["classes"]).mean() < 1e-3


def tight(monkeypatch, most):
    """Let a device have no room for sums of more than so many bytes."""
    zeros, refused = Device.zeros, []

    def some(self, shape):
        if 4 * np.prod(shape) > most:
            refused.append(shape)
            raise torch.cuda.OutOfMemoryError("out of memory")
        return zeros(self, shape)

    monkeypatch.setattr(Device, "zeros", some)
    return refused


@pytest.mark.parametrize("names", [["classes"], ["classes", "probabilities"]])
def test_a_block_without_room_goes_in_parts_to_the_same_bytes(monkeypatch, names):
    """Parts of 192 px of 384, then those of one window."""
    blocks = list(tiling(384).each_block())
    stream = stream_of(network())
    whole = through(stream, blocks, source(), names=names)
    stream.close()
    for most in (4 * 4 * (192 + OVERLAP) ** 2, 4 * 4 * (96 + OVERLAP) ** 2):
        refused = tight(monkeypatch, most)
        stream = stream_of(network())
        found = through(stream, blocks, source(), names=names, threads=1)
        stream.close()
        monkeypatch.undo()
        assert 0 < len(refused) <= 4  # it is remembered what is too large
        for key, block in whole.items():
            other = found[key]
            assert other.windows == block.windows
            assert other.arrays.keys() == set(names)
            for name, array in block.arrays.items():
                assert np.array_equal(array, other.arrays[name])
            assert other.halo.keys() == block.halo.keys()
            for mine, theirs in [
                *zip(block.border, other.border, strict=True),
                *((block.halo[near], other.halo[near]) for near in block.halo),
            ]:
                assert mine.window == theirs.window
                assert np.array_equal(mine.sums, theirs.sums)


def test_labels_without_room_go_in_parts_too():
    class Labels(torch.nn.Module):
        def forward(self, x):
            return (x[:, 0] > x[:, 1]).long() + (x[:, 0] > x[:, 2])

    blocks = list(tiling(384).each_block())
    answers = []
    for memory in (1e9, 1.5e6):
        stream = stream_of(network(Labels(), output="labels"), memory=memory)
        answers.append(through(stream, blocks, source(), threads=1))
        stream.close()
    for key, block in answers[0].items():
        other = answers[1][key]
        assert np.array_equal(block.arrays["classes"], other.arrays["classes"])
        assert (other.windows, other.border, other.halo) == (block.windows, (), {})


def test_a_window_without_room_is_told_in_words(monkeypatch):
    tight(monkeypatch, 0)
    stream = stream_of(network())
    block = tiling(384).block_at(1, 1)
    seen = read_windows(source(), stream.card, block.reach)
    with pytest.raises(ModelError, match=r"not hold a block of 96 px .*--batch below"):
        stream.segment(block, seen, ["classes"])
    stream.close()


class Lost(torch.nn.Module):
    """A network whose device fails once it has passed some batches."""

    passes = 6

    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, x):
        Lost.passes -= len(x) > 1  # it is looked at before a run, too
        if Lost.passes < 0:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return self.inner(x)


def test_a_card_that_fails_ends_its_worker_and_not_the_run(
    scene, tmp_path, monkeypatch
):
    """Here, without a cluster, the command ends with 3, and the same one resumes."""
    monkeypatch.setattr(Lost, "passes", 6)
    net = network(Lost())
    with pytest.raises(ClusterError, match=r"GPU of .* failed: CUDA error.* resumes"):
        run(scene, tmp_path / "m", net, device="cpu")
    done = open_masks(tmp_path / "m").marked(PARTIAL)
    assert 0 < len(done) < tiling().blocks
    monkeypatch.setattr(Lost, "passes", 10**6)
    found = run(scene, tmp_path / "m", net, device="cpu")
    assert same(found, run(scene, tmp_path / "plain", network(), device="cpu"))
    left = []
    monkeypatch.setattr("distributed.get_worker", lambda: "a worker of a cluster")
    monkeypatch.setattr("os._exit", left.append)
    for said, ends in (
        ("CUDA error: unspecified launch failure", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate", False),
        ("CUDA error: no kernel image is available for execution", False),
    ):
        with pytest.raises(RuntimeError, match=said), leaving_with_device():
            raise RuntimeError(said)
        assert left == [70] * ends
        left.clear()


def test_a_thread_that_ends_is_told_to_all_that_wait(scene, tmp_path, monkeypatch):
    """By whatever ended it; and a card that is lost before the first window is lost."""
    monkeypatch.setattr("geoseg.inference.stream._LOOK", 0.05)

    def end(*_):
        raise SystemExit("of a library")

    with monkeypatch.context() as patch:
        patch.setattr(Stream, "_advance", end)
        with pytest.raises(ModelError, match="thread of cpu has ended: of a library"):
            run(scene, tmp_path / "m", network(), device="cpu")

    def lost(_):
        raise RuntimeError("CUDA error: unspecified launch failure")

    with monkeypatch.context() as patch:
        patch.setattr(Device, "current", lost)
        with pytest.raises(ClusterError, match=r"GPU of .* failed: CUDA error"):
            run(scene, tmp_path / "m", network(), device="cpu")
    found = run(scene, tmp_path / "m", network(), device="cpu")
    assert same(found, run(scene, tmp_path / "plain", network(), device="cpu"))


class Odd(torch.nn.Module):
    """Answers NaN where it sees a pixel of 251."""

    def forward(self, x):
        seen = (x > 3.01).any(1, keepdim=True)
        return torch.where(seen, torch.nan, x[:, :1]).expand(-1, 4, -1, -1)


@on_devices
def test_a_block_that_is_not_finite_fails_alone(device):
    values, mask = pixels()
    values[:, 600, 600] = 251
    mask[600, 600] = True
    of = MemorySource(values=values, mask=mask, names=("a", "b", "c"))
    stream = stream_of(network(Odd()), device)
    good, bad = tiling().block_at(2, 1), tiling().block_at(3, 3)
    with stream.tasks.one_more():
        seen = {b.key: read_windows(of, stream.card, b.reach) for b in (good, bad)}
        stream.segment(good, seen[good.key], ["classes"])
        with pytest.raises(ModelError, match="NaN or infinity in block 3,3"):
            stream.segment(bad, seen[bad.key], ["classes"])
    stream.close()


class Wrong(torch.nn.Module):
    def forward(self, x):
        return x[:, :, ::3]


@on_devices
def test_wrong_scores_are_told_in_words(scene, tmp_path, device):
    with pytest.raises((ModelError, BlocksFailedError), match="scores"):
        run(scene, tmp_path / "m", network(Wrong()), device=device)


def test_sums_never_overflow():
    assert SCORE * WEIGHT_1D**2 < 2**31


@on_devices
def test_every_number_of_16_bits_is_itself_again(device):
    numbers = np.arange(1 << 16, dtype=np.uint16)
    there = Device(torch.device(device)).sent(numbers).float()
    found = unsigned(there, numbers.dtype)
    assert found.cpu().numpy().astype(np.uint16).tobytes() == numbers.tobytes()
    assert not torch.signbit(found).any()


def test_tensors_share_a_buffer_side_by_side():
    tensors = [
        torch.arange(7, dtype=torch.uint8),
        torch.arange(12, dtype=torch.int32).view(3, 4),
        torch.tensor(True),
        torch.arange(5, dtype=torch.int16),
    ]
    buffer = torch.empty(sum(map(room_of, tensors)), dtype=torch.uint8)
    pieces = laid_out(buffer, tensors)
    for piece, tensor in zip(pieces, tensors, strict=True):
        piece.copy_(tensor)
    for piece, tensor in zip(pieces, tensors, strict=True):
        assert torch.equal(piece, tensor)


@small.needs_compiler
@on_devices
def test_a_compiled_run_agrees_and_is_found_again(scene, tmp_path, device, monkeypatch):
    eager = run(scene, tmp_path / "eager", network(), device=device)
    one = run(scene, tmp_path / "1", network(), device=device, engine="compile")
    two = run(
        scene, tmp_path / "2", network(), device=device, engine="compile", block=384
    )
    assert same(one, two)
    assert (one["classes"] != eager["classes"]).mean() < 1e-3
    kept = [path for kind, path in user_cache.kept() if kind == "compiled"]
    assert kept
    recipe = model_recipe(
        network(), device=device, precision="fp32", engine="compile", batch=5
    )
    choice = choose_here(recipe, 100, travels=True)  # as the first worker of a cluster
    assert choice.numerics.engine == "compile"
    monkeypatch.setenv("GEOSEG_CACHE_DIR", str(tmp_path / "another machine"))
    monkeypatch.setattr(compiled, "_READY", {})
    monkeypatch.setattr(steps, "_check", pytest.fail)  # of what is compiled anew
    assert not steps.is_compiled(recipe, 5)
    stream_of_run("a run", recipe, tiling(), choice.numerics, choice.code)
    close_streams()
    assert steps.code_of(recipe, 5) == choice.code
    assert user_cache.clear() > 0
    assert not list(user_cache.kept())


def test_memory_of_a_gpu_is_planned_apart():
    recipe = model_recipe(
        network(), device="cpu", precision="fp32", engine="torch", batch=5
    )
    site, card = site_here(recipe), recipe.card
    here = estimate_memory(source(), card, site, tiling(), ["classes"], tasks=4)
    assert here.device == 0
    beside = replace(site, card="H100")
    there = estimate_memory(source(), card, beside, tiling(), ["classes"], tasks=4)
    assert there.device > 4 * 192**2 * (3 * 2 + 4 * 4)
    assert there.model == 0
    assert there.total < here.total
    little = replace(beside, room=1e6)
    tight = estimate_memory(source(), card, little, tiling(), ["classes"], 4)
    assert tight.device == tight.on_device + tight.block_on_device < there.device
    # Of workers without a GPU that take part, main memory holds the model.
    mixed = replace(beside, workers={"H100": 2, NO_GPU: 1})
    both = estimate_memory(source(), card, mixed, tiling(), ["classes"], 4)
    assert (both.model, both.device) == (here.model, there.device)


@pytest.mark.parametrize(
    ("kept", "seconds", "engine"),
    [
        (False, 1e-3, "torch"),
        (False, 10.0, "compile"),
        (True, 1e-3, "torch"),
        (True, 0.2, "compile"),
    ],
)
def test_a_run_is_compiled_where_that_saves_time(monkeypatch, kept, seconds, engine):
    """Forty per cent of the network's time against 25 s, or 5 s where it is kept."""
    monkeypatch.setattr(steps, "is_compiled", lambda *_: kept)
    monkeypatch.setattr(steps, "eager_seconds", lambda *_: seconds)
    monkeypatch.setattr(steps, "compiled_step", lambda *_: None)
    recipe = model_recipe(
        network(), device="cpu", precision="fp32", engine="torch", batch=5
    )
    recipe = replace(recipe, options=replace(recipe.options, engine="auto"))
    monkeypatch.setattr(ModelRecipe, "load", lambda _: loaded)
    loaded = SimpleNamespace(
        streams=True,
        device="cpu",
        batch=5,
        precision="fp32",
        card=recipe.card,
        records=True,
    )
    assert choose_here(recipe, windows=500).numerics.engine == engine


def test_what_cannot_be_compiled_runs_as_it_is(scene, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", fail)
    monkeypatch.setattr("geoseg.models.engines.compiled._READY", {})
    with pytest.warns(UserWarning, match="no compiler here.*PyTorch runs it as it is"):
        found = run(scene, tmp_path / "c", network(), device="cpu", engine="compile")
    assert same(found, run(scene, tmp_path / "t", network(), device="cpu"))
    settings = open_masks(tmp_path / "c").record()["settings"]
    assert settings["engine"] == "torch"


def test_a_run_tells_how_much_of_a_gpu_it_used():
    facts = RunInfo(
        windows=9,
        forward_seconds=6.3,
        seconds=5.0,
        processes=2,
        pixels=10**6,
        devices={"NVIDIA H200, bf16"},
    )
    made = SimpleNamespace(tiling=SimpleNamespace(blocks=1))
    masks = SimpleNamespace(path="masks.zarr", arrays=["classes"])
    summary, lines = _summary(made, masks, facts, 5.0)
    assert summary["device_share"] == 0.63
    assert "GPU at work 63% of the time" in lines[0]
    now = Progress(
        blocks=1, total=9, pixels=10**6, windows=9, gpu_share=facts.gpu_share
    )
    assert _speed(now, 1.0) == "1.0 Mpx/s · GPU 63% used"
    told = dict(_of_run({"devices": ["H200"], "gpu_share": 0.63}, {}))
    assert told["Device"] == "H200; at work 63.0 % of the time"
    facts.devices = {"cpu, bf16"}
    assert "GPU" not in _summary(made, masks, facts, 5.0)[1][0]


@pytest.mark.parametrize(
    ("side", "workers", "room", "block"),
    [
        (32768, 1, 12e9, 3584),  # as large as a device is given
        (16384, 1, 12e9, 3584),
        (8192, 1, 12e9, 2688),
        (2000, 1, 12e9, 896),
        (32768, 8, 12e9, 2688),  # of 3584 px one worker had two more than others
        (32768, 50, 12e9, 896),  # every worker gets eight, as far as chunks go
        (32768, 1, 4e9, 1792),  # as much as fits in memory
    ],
)
def test_a_device_gets_few_large_blocks(side, workers, room, block):
    """A block has a fixed cost; by sizes of a host with 16 cores beside a card."""
    tiling = Tiling(height=side, width=side, window=512, overlap=64)
    smallest = Memory(process=1.4e9, model=0.0, per_task=30.0 * 896**2, tasks=20)
    cut = with_block(tiling, smallest, workers, room, streams=True)
    assert cut.block == block
    assert cut.blocks >= min(8 * workers, (side // 896) ** 2)
    on_a_cpu = with_block(tiling, smallest, workers, room, streams=False)
    assert on_a_cpu.block <= min(2048, cut.block)


@given(
    side=st.integers(2_000, 100_000),
    cards=st.integers(1, 8),
    host=st.floats(3e9, 12e9),
    card=st.floats(4e9, 140e9),
    classes=st.sampled_from([2, 6, 21, 150]),
    tasks=st.integers(8, 70),
)
def test_blocks_fit_host_and_card(side, cards, host, card, classes, tasks):
    """Any raster: as large as both have room for, and eight for each card."""
    tiling = Tiling(height=side, width=side, window=512, overlap=64)
    made = replace(network().card, classes=class_table(map(str, range(classes))))

    def needed(tiling):
        return Memory(
            process=1.4e9,
            model=0.0,
            per_task=30.0 * tiling.block**2,
            tasks=tasks,
            on_device=2e9,
            block_on_device=block_bytes(tiling, made, 8, ["classes"]),
            device_room=card,
        )

    cut = with_block(tiling, needed(tiling), cards, host, streams=True)
    larger = replace(cut, block=cut.block + cut.chunk)
    memory, more = needed(cut), needed(larger)
    if cut.block > cut.chunk:
        assert memory.total <= host
        assert memory.on_device + 3 * memory.block_on_device <= card
        assert cut.height * cut.width / cut.block**2 >= 8 * cards
    assert memory.device <= max(card, 2e9 + memory.block_on_device)
    assert (
        cut.block == 3584
        or more.total > host
        or more.on_device + 3 * more.block_on_device > 0.9 * card
        or cut.height * cut.width / (cut.block + cut.chunk) ** 2 < 8 * cards
        or share_at_work(cut, cards) > share_at_work(larger, cards)
    )
