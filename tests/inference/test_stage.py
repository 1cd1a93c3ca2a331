"""What a worker calls tells how long it took, and on what."""

import pickle
from dataclasses import replace
from types import SimpleNamespace

import pytest

from geoseg.core.tiling import Tiling
from geoseg.errors import ClusterError, PlanError
from geoseg.inference import worker
from geoseg.inference.memory import Memory
from geoseg.inference.numerics import Numerics
from geoseg.inference.stage import LABELS, Stage, device_of
from geoseg.inference.worker import BlockReport, Job, check_worker

BLOCK = Tiling(height=9, width=20, window=8, overlap=4, chunk=4).block_at(1, 2)


def model(device="cpu", precision="bf16"):
    return SimpleNamespace(device=device, precision=precision, engine="threads")


def job_of(model, run="a run", files=(), numerics=None):
    return Job(
        source=None,
        model=SimpleNamespace(load=lambda: model),
        tiling=BLOCK.tiling,
        masks=SimpleNamespace(run=run),
        files=files,
        numerics=numerics,
        memory=None,
    )


def test_a_stage_tells_how_long_and_on_what(monkeypatch):
    times = iter([5.0, 7.5])
    monkeypatch.setattr("geoseg.inference.stage.perf_counter", lambda: next(times))
    job = job_of(model())
    stage = Stage(
        run=lambda _, block: BlockReport(done=True, windows=sum(block.key)), marks=""
    )
    report = stage(job, BLOCK)
    assert (report.windows, report.seconds, report.device) == (3, 2.5, "cpu, bf16")


def test_only_a_stage_that_needs_neighbours_can_be_provisional():
    def run(job, block, *, provisional=False):
        return BlockReport(done=not provisional)

    stage = Stage(run=run, marks="", needs_neighbours=True)
    job = job_of(model())
    assert stage(job, BLOCK).done
    assert not stage.provisionally(job, BLOCK).done


def test_a_stage_travels_and_has_the_name_of_its_work():
    for stage, name in zip(LABELS, ("infer", "finish"), strict=True):
        assert pickle.loads(pickle.dumps(stage)).__name__ == name


def test_somebodys_own_code_sees_to_its_device_itself():
    assert device_of(model("own", "own")) == ""
    assert device_of(model("cpu", "own")) == "cpu"


def test_a_worker_that_does_not_see_the_files_says_so(tmp_path):
    there = tmp_path / "scene.tif"
    there.touch()
    check_worker(job_of(model(), files=(str(there),)))
    job = job_of(model(), run="another", files=(str(there), "/nowhere/masks.zarr"))
    with pytest.raises(ClusterError, match=r"does not see /nowhere/masks.zarr: start"):
        LABELS[0](job, BLOCK)


def test_a_worker_that_computes_otherwise_is_refused():
    chosen = Numerics(precision="fp32", batch=None)
    check_worker(job_of(model(precision="fp32"), numerics=chosen))
    job = job_of(model(precision="bf16"), run="a third", numerics=chosen)
    with pytest.raises(ClusterError, match="computes in bf16, the run was begun in fp"):
        LABELS[0](job, BLOCK)


def test_a_worker_on_another_card_is_refused_unless_cards_may_mix():
    chosen = Numerics(precision="fp32", batch=8, engine="torch", card="NVIDIA H100")
    job = job_of(model(precision="fp32"), run="a fourth", numerics=chosen)
    with pytest.raises(ClusterError, match=r"begun on NVIDIA H100: .* --mixed"):
        LABELS[0](job, BLOCK)
    check_worker(replace(job, mixed=True))


def test_a_worker_that_might_take_part_may_not_where_cards_are_one(monkeypatch):
    """In the same process, of the same run: it was begun with --mixed, and resumed."""
    chosen = Numerics(precision="fp32", batch=8, engine="torch", card="NVIDIA H100")
    job = job_of(model(precision="fp32"), run="a fifth", numerics=chosen)
    stage = Stage(run=lambda *_: BlockReport(done=True), marks="")
    assert stage(replace(job, mixed=True), BLOCK).done
    with pytest.raises(ClusterError, match="begun on NVIDIA H100"):
        stage(job, BLOCK)


def test_what_waits_for_neighbours_is_read_again_after_a_hiccup(monkeypatch):
    reads = iter([OSError("a hiccup"), "own"])

    def read(*_):
        answer = next(reads)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(worker, "WAITS", (0.0,))
    monkeypatch.setattr(worker, "read_partial", read)
    alone = Tiling(height=8, width=8, window=8, overlap=0).block_at(0, 0)
    job = SimpleNamespace(masks=None)
    assert worker.read_or_infer(job, alone, again=None) == ("own", [])


def test_memory_that_does_not_suffice_is_refused_to_the_byte():
    needed = Memory(process=1e9, model=5e8, per_task=1e8, tasks=2)
    needed.check(needed.total, BLOCK.tiling, "a larger --memory")
    with pytest.raises(PlanError, match=r"1\.70 GB per process.*a larger --memory"):
        needed.check(needed.total - 1, BLOCK.tiling, "a larger --memory")
