"""What a worker calls tells how long it took, and on what."""

import pickle
from types import SimpleNamespace

from geoseg.core.tiling import Tiling
from geoseg.inference.stage import LABELS, Stage, device_of
from geoseg.inference.worker import BlockReport

BLOCK = Tiling(height=9, width=20, window=8, overlap=4, chunk=4).block_at(1, 2)


def model(device="cpu", precision="bf16"):
    return SimpleNamespace(device=device, precision=precision)


def test_a_stage_tells_how_long_and_on_what(monkeypatch):
    times = iter([5.0, 7.5])
    monkeypatch.setattr("geoseg.inference.stage.perf_counter", lambda: next(times))
    job = SimpleNamespace(model=SimpleNamespace(load=model))
    stage = Stage(
        run=lambda _, block: BlockReport(done=True, windows=sum(block.key)), marks=""
    )
    report = stage(job, BLOCK)
    assert (report.windows, report.seconds, report.device) == (3, 2.5, "cpu, bf16")


def test_only_a_stage_that_needs_neighbours_can_be_provisional():
    def run(job, block, *, provisional=False):
        return BlockReport(done=not provisional)

    stage = Stage(run=run, marks="", needs_neighbours=True)
    assert stage(None, BLOCK).done
    assert not stage.provisionally(None, BLOCK).done


def test_a_stage_travels_and_has_the_name_of_its_work():
    for stage, name in zip(LABELS, ("infer", "finish"), strict=True):
        assert pickle.loads(pickle.dumps(stage)).__name__ == name


def test_somebodys_own_code_sees_to_its_device_itself():
    assert device_of(model("own", "own")) == ""
    assert device_of(model("cpu", "own")) == "cpu"
