"""A stage reports how long it took, and on what."""

import pickle
from types import SimpleNamespace

from geoseg.inference import stage
from geoseg.inference.stage import LABELS, Stage, device_of
from geoseg.inference.worker import BlockReport


def test_a_stage_reports_its_seconds_and_device(monkeypatch):
    times = iter([5.0, 7.5])
    monkeypatch.setattr(stage, "perf_counter", lambda: next(times))
    model = SimpleNamespace(device="cpu", precision="bf16")
    job = SimpleNamespace(model=SimpleNamespace(load=lambda: model))
    run = Stage(run=lambda _, block: BlockReport(done=True, windows=block), marks="m")
    report = run(job, 3)
    assert (report.windows, report.seconds, report.device) == (3, 2.5, "cpu, bf16")


def test_a_model_of_ones_own_has_no_device_of_ours():
    assert device_of(SimpleNamespace(device="own", precision="own")) == ""


def test_dask_names_a_stage_by_what_it_runs():
    assert pickle.loads(pickle.dumps(LABELS[0])).__name__ == "infer"
