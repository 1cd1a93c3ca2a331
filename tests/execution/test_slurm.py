"""SLURM for real: one node on this machine, jobs through `geoseg run`."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from tifs import write_tif
from waiting import until

import geoseg.core.tiling
from geoseg.pipeline.run import run_pipeline
from geoseg.pipeline.settings import read_pipeline

HERE = Path(__file__).resolve().parents[1]
SCRIPTS = HERE.parent / "cluster" / "slurm"
NEEDED = ("slurmctld", "slurmd", "sbatch", "munged")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(
            shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
            for name in NEEDED
        )
        or os.geteuid() != 0,
        reason="SLURM is not installed (apt-get install slurm-wlm munge), or not root",
    ),
]

MODEL = """
    import os, time
    from pathlib import Path
    import geoseg.core.tiling
    geoseg.core.tiling.CHUNK = 64
    from geoseg.testing import LocalModel, identity_card

    class Slow(LocalModel):
        def predict(self, pixels):
            with open({log!r}, "a") as file:
                file.write(os.environ.get("SLURM_JOB_ID", "none") + "\\n")
            time.sleep(float(Path({pace!r}).read_text()))
            return super().predict(pixels)

    def make():
        return Slow(card=identity_card(3, window=48, overlap=12))
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    script = str(HERE / "slurm_node.sh")
    begun = subprocess.run(
        ["sh", script, "start", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if begun.returncode != 0:
        pytest.fail(f"the node did not start: {begun.stderr}")
    # Jobs find geoseg and dask where the tests do.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    yield {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
    subprocess.run(["sh", script, "stop", str(folder)], check=False)


def prepare(folder, sleep):
    """Make a folder with a raster, a model that is slow, and a pipeline.

    The model takes that many seconds for a window, until its file says another pace.
    """
    folder.mkdir()
    (folder / "pace").write_text(str(sleep))
    values = np.random.default_rng(0).random((3, 330, 290), np.float32)
    write_tif(folder / "scene.tif", values)
    model = MODEL.format(log=str(folder / "jobs.log"), pace=str(folder / "pace"))
    (folder / "slow.py").write_text(textwrap.dedent(model))
    (folder / "p.toml").write_text(
        'out = "out"\n[segment]\nraster = "scene.tif"\nmodel = "slow.py:make"\n'
        'bands = ["1", "2", "3"]\nblock = 72\n'
    )
    return folder


@pytest.fixture(scope="module")
def jobs(slurm, tmp_path_factory):
    """Submit the batch jobs at once: tests look at them when they have had their time.

    Returns the folder and the id of each, by what becomes of it.
    """
    base = tmp_path_factory.mktemp("jobs")
    submitted = {}
    for name, sleep, script, more in (
        # Slower than SLURM, which looks at walltimes every half minute.
        ("walltime", 3, "driver.sbatch",
         ["--time=30", "--signal=B:TERM@55", "--mem=0"]),
        ("allocation", 0.08, "allocation.sbatch",
         ["--ntasks=2", "--cpus-per-task=2", "--mem-per-cpu=100", "--time=5"]),
    ):  # fmt: skip
        folder = prepare(base / name, sleep)
        line = ["sbatch", "--parsable", *more, str(SCRIPTS / script), "p.toml"]
        made = subprocess.run(
            line, cwd=folder, env=slurm, check=True, capture_output=True, text=True
        )
        submitted[name] = (folder, made.stdout.strip())
    end_soon(*submitted["walltime"], slurm)
    return submitted


def end_soon(folder, job_id, env):
    """Let a job that has begun to infer, end in a minute or so, by its walltime."""
    until(lambda: jobs_seen(folder), 120)
    hours, minutes, seconds = state(job_id, env)["RunTime"].split(":")
    run = 3600 * int(hours) + 60 * int(minutes) + int(seconds)
    limit = f"TimeLimit={-(-(run + 20) // 60)}"  # SIGTERM comes 55 s before
    line = ["scontrol", "update", f"JobId={job_id}", limit]
    subprocess.run(line, check=True, env=env)


def chunks(out):
    folder = out / "masks.zarr" / "classes"
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name[0] != "."}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Return what a run without SLURM makes."""
    folder = prepare(tmp_path_factory.mktemp("here") / "here", 0)
    before = geoseg.core.tiling.CHUNK
    try:
        run_pipeline(read_pipeline(folder / "p.toml"))
    finally:
        geoseg.core.tiling.CHUNK = before  # the model sets it
    return chunks(folder / "out")


def jobs_seen(folder):
    log = folder / "jobs.log"
    return log.read_text().split() if log.exists() else []


def windows():
    return -(-330 // 36) * -(-290 // 36)


def cluster(folder, **more):
    settings = {
        "kind": "slurm",
        "workers": 2,
        "cores": 2,
        "memory": "1GB",
        "walltime": "00:05:00",
        "interface": "lo",
        "log_directory": str(folder / "logs"),
        "shared_directory": str(folder),
        "dashboard": "127.0.0.1:0",
        **more,
    }
    text = "\n".join(f"{k} = {json.dumps(v)}" for k, v in settings.items())
    (folder / "cluster.toml").write_text(text)
    return str(folder / "cluster.toml")


def command(folder, *more):
    line = [sys.executable, "-m", "geoseg", "run", "p.toml", "--quiet"]
    return [*line, "--set", f"cluster={cluster(folder)}", *more]


def state(job_id, env):
    line = ["scontrol", "show", "job", "-o", job_id]
    text = subprocess.run(
        line, env=env, check=True, capture_output=True, text=True
    ).stdout
    return dict(p.split("=", 1) for p in text.split() if "=" in p)


@pytest.mark.usefixtures("jobs")  # they have their time meanwhile
def test_workers_are_jobs_and_one_is_cancelled(slurm, expected, tmp_path):
    """Encrypted, adaptive from 0 to 2 jobs; one of them is lost in the middle."""
    folder = prepare(tmp_path / "workers", 0.08)
    process = subprocess.Popen(
        command(folder), cwd=folder, env=slurm, stderr=subprocess.PIPE, text=True
    )
    until(lambda: len(set(jobs_seen(folder))) == 2 or process.poll() is not None, 120)
    victim = jobs_seen(folder)[-1]
    subprocess.run(["scancel", victim], check=True, env=slurm)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert chunks(folder / "out") == expected
    seen = jobs_seen(folder)
    assert victim in seen
    assert "none" not in seen  # the client infers nothing
    assert len(seen) <= windows() + 4 * 6  # what the lost one had in hand, at most
    queue = ["squeue", "-h", "-n", "geoseg-worker"]

    def gone():
        return not subprocess.run(
            queue, env=slurm, capture_output=True, check=True
        ).stdout

    until(gone, 30, lambda: "workers outlive the run")


def test_a_self_contained_job(slurm, jobs, expected):
    """Scheduler, two workers and the pipeline in one allocation."""
    folder, job_id = jobs["allocation"]
    ends = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"}
    until(lambda: state(job_id, slurm)["JobState"] in ends, 240)
    log = (folder / f"geoseg-{job_id}.log").read_text()
    assert state(job_id, slurm)["JobState"] == "COMPLETED", log
    assert chunks(folder / "out") == expected
    assert set(jobs_seen(folder)) == {job_id}
    assert len(jobs_seen(folder)) == windows()


def test_a_walltime_that_ends_in_the_middle(slurm, jobs, expected):
    """SLURM asks the job to end, it finishes what is in hand, and is queued again."""
    folder, job_id = jobs["walltime"]
    until(
        lambda: state(job_id, slurm).get("Restarts") != "0",
        120,
        (folder / f"geoseg-{job_id}.log").read_text,
    )
    before = len(jobs_seen(folder))
    assert 0 < before < windows()
    log = [
        json.loads(t)
        for t in (folder / "out" / "log.jsonl").read_text().split("\n")[:-1]
    ]
    assert any(line["event"] == "interrupted" for line in log)
    # SLURM lets a requeued job wait for two minutes; this one need not.
    subprocess.run(["scancel", job_id], check=True, env=slurm)
    (folder / "pace").write_text("0")
    line = [sys.executable, "-m", "geoseg", "run", "p.toml", "--quiet"]
    subprocess.run(line, check=True, cwd=folder, env=slurm, timeout=200)
    assert chunks(folder / "out") == expected
    assert len(jobs_seen(folder)) == windows()  # nothing was inferred twice
