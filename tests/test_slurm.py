"""SLURM for real: one node on this machine, jobs through `geoseg run`."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

HERE = Path(__file__).resolve().parent
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
    import geoseg.plan
    geoseg.plan.CHUNK = 64
    from geoseg.testing import LocalModel, identity_card

    class Slow(LocalModel):
        def predict(self, pixels):
            with open({log!r}, "a") as file:
                file.write(os.environ.get("SLURM_JOB_ID", "none") + "\\n")
            time.sleep({sleep})
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


@pytest.fixture
def job(slurm, tmp_path):
    """Return a folder with a raster, a slow model and a pipeline, and its variables."""
    import textwrap

    values = np.random.default_rng(0).random((3, 330, 290), np.float32)
    with rasterio.open(
        tmp_path / "scene.tif",
        "w",
        driver="GTiff",
        count=3,
        height=330,
        width=290,
        dtype="float32",
        crs="EPSG:32633",
        transform=Affine(10, 0, 500_000, 0, -10, 5_000_000),
    ) as file:
        file.write(values)
    log = str(tmp_path / "jobs.log")
    model = textwrap.dedent(MODEL.format(log=log, sleep=0.08))
    (tmp_path / "slow.py").write_text(model)
    (tmp_path / "p.toml").write_text(
        'out = "out"\n[segment]\nraster = "scene.tif"\nmodel = "slow.py:make"\n'
        'bands = ["1", "2", "3"]\nblock = 72\n'
    )
    return tmp_path, slurm


def chunks(out):
    folder = out / "masks.zarr" / "classes"
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name[0] != "."}


def expected(folder, env):
    """Return what a run without SLURM makes."""
    line = [sys.executable, "-m", "geoseg", "run", "p.toml", "--quiet"]
    fast = (folder / "slow.py").read_text().replace("time.sleep", "float")
    (folder / "fast.py").write_text(fast.replace(str(folder / "jobs.log"), os.devnull))
    line += ["--set", "out=here", "--set", f"segment.model={folder}/fast.py:make"]
    subprocess.run(line, check=True, cwd=folder, env=env, timeout=100)
    return chunks(folder / "here")


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


def test_workers_are_jobs_and_one_is_cancelled(job):
    """Encrypted, adaptive from 0 to 2 jobs; one of them is lost in the middle."""
    folder, env = job
    process = subprocess.Popen(
        command(folder), cwd=folder, env=env, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while len(set(jobs_seen(folder))) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    victim = jobs_seen(folder)[-1]
    subprocess.run(["scancel", victim], check=True, env=env)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert chunks(folder / "out") == expected(folder, env)
    seen = jobs_seen(folder)
    assert "none" not in seen  # the client infers nothing
    assert len(seen) <= windows() + 4 * 6  # what the lost one had in hand, at most
    queue = ["squeue", "-h", "-n", "geoseg-worker"]
    for _ in range(60):
        if not subprocess.run(queue, env=env, capture_output=True, check=True).stdout:
            break
        time.sleep(0.5)
    else:
        pytest.fail("workers outlive the run")


def submitted(script, folder, env, *more):
    line = ["sbatch", "--parsable", *more[:-1], str(SCRIPTS / script), *more[-1]]
    made = subprocess.run(
        line, cwd=folder, env=env, check=True, capture_output=True, text=True
    )
    return made.stdout.strip()


def state(job_id, env):
    line = ["scontrol", "show", "job", "-o", job_id]
    text = subprocess.run(
        line, env=env, check=True, capture_output=True, text=True
    ).stdout
    return dict(p.split("=", 1) for p in text.split() if "=" in p)


def finished(job_id, env, seconds=240):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        now = state(job_id, env)
        if now["JobState"] in {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"}:
            return now
        time.sleep(0.5)
    raise AssertionError(now)


def test_a_self_contained_job(job):
    """Scheduler, two workers and the pipeline in one allocation."""
    folder, env = job
    more = ["--ntasks=2", "--cpus-per-task=2", "--mem-per-cpu=100", "--time=5"]
    job_id = submitted("allocation.sbatch", folder, env, *more, ["p.toml"])
    now = finished(job_id, env)
    log = (folder / f"geoseg-{job_id}.log").read_text()
    assert now["JobState"] == "COMPLETED", log
    assert chunks(folder / "out") == expected(folder, env)
    assert set(jobs_seen(folder)) == {job_id}
    assert len(jobs_seen(folder)) == windows()


def test_a_walltime_that_ends_in_the_middle(job):
    """SLURM asks the job to end, it finishes what is in hand, and is queued again."""
    folder, env = job
    slow = (folder / "slow.py").read_text().replace("sleep(0.08)", "sleep(0.4)")
    (folder / "slow.py").write_text(slow)
    # A minute, and SIGTERM 55 seconds before its end.
    more = ["--time=1", "--signal=B:TERM@55", "--mem=0"]
    job_id = submitted("driver.sbatch", folder, env, *more, ["p.toml"])
    deadline = time.monotonic() + 100
    while state(job_id, env).get("Restarts") == "0":
        assert time.monotonic() < deadline, (
            folder / f"geoseg-{job_id}.log"
        ).read_text()
        time.sleep(0.5)
    before = len(jobs_seen(folder))
    assert 0 < before < windows()
    log = [
        json.loads(t)
        for t in (folder / "out" / "log.jsonl").read_text().split("\n")[:-1]
    ]
    assert any(line["event"] == "interrupted" for line in log)
    # SLURM lets a requeued job wait for two minutes; this one need not.
    quick = (folder / "slow.py").read_text().replace("sleep(0.4)", "sleep(0.0)")
    (folder / "fast.py").write_text(quick)
    subprocess.run(["scancel", job_id], check=True, env=env)
    line = [sys.executable, "-m", "geoseg", "run", "p.toml", "--quiet"]
    subprocess.run(line, check=True, cwd=folder, env=env, timeout=200)
    assert chunks(folder / "out") == expected(folder, env)
    assert len(jobs_seen(folder)) == windows()  # nothing was inferred twice
