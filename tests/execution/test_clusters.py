"""Where workers come from: settings, versions, GPUs, TLS, manifests, the container."""

import asyncio
import datetime as dt
import ipaddress
import operator
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import warnings
from pathlib import Path
from types import SimpleNamespace

import dask
import geopandas
import numpy as np
import pytest
import yaml
from affine import Affine
from distributed import Client, LocalCluster, get_worker
from geopandas.testing import assert_geodataframe_equal

import geoseg.execution.clusters
import geoseg.execution.versions
from geoseg.cli import run as geoseg_run
from geoseg.errors import ClusterError, GeosegError
from geoseg.execution.certificates import write_certificates
from geoseg.execution.cluster_settings import read_cluster
from geoseg.execution.clusters import (
    cluster_client,
    gpu_names,
    kubernetes_spec,
    local_cluster,
    open_client,
)
from geoseg.execution.dask_engine import ANSWERS_WITHIN, DaskEngine
from geoseg.execution.engine import engine, processes, unordered, worker_memory
from geoseg.execution.jobqueue import job_options
from geoseg.execution.resources import (
    THREADS,
    container_quota,
    cores,
    dask_setup,
    feeding_threads,
    main_memory,
    threads,
)
from geoseg.execution.versions import check_versions, versions

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
FILES = sorted(CLUSTER.rglob("*.toml"))
MANIFESTS = sorted((CLUSTER / "kubernetes").glob("*.yaml"))


def settings(tmp_path, text):
    (tmp_path / "c.toml").write_text(text)
    return read_cluster(tmp_path / "c.toml")


# --- settings -------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_the_files_to_copy_are_right(path):
    assert read_cluster(path).kind


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "kind"),
        ("kind = 'slurm'\nworkers = 0", "workers: input should be greater than or"),
        ("kind = 'slurm'\nworkers = 2\nwalltme = '1:00'", "did you mean walltime?"),
        ("kind = 'slurm'\nworkers = 2\nwalltime = 'long'", "'long' is not a walltime"),
        ("kind = 'slurm'\nworkers = 2\nmemory = 'much'", "'much' is not a size such"),
        ("kind = 'kubernetes'\nworkers = 2", "image is missing"),
        ("kind = 'address'\nadress = 'x'", "did you mean address?"),
        ("kind = 'ssh'\nhosts = []", "hosts: list should have at least 1 item"),
        ("kind = 'local'\nworker = 2", "did you mean workers?"),
        ("kind = 'slrum'", "kind = 'slrum' is not known: did you mean slurm?"),
        ("kind = 'x'", "kind = 'x' is not known: it can be local, gpus, slurm, pbs"),
        ("kind = 'address'\naddress = 'tcp://h'", "tcp://h is not an address: tcp://"),
        ("kind = 'sge'\nworkers = 1\ngpus = 1", "say it in resources, such as"),
    ],
)
def test_what_is_wrong_is_said_on_one_line(tmp_path, text, said):
    with pytest.raises(GeosegError) as error:
        settings(tmp_path, text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_for_dask_end_with_the_cluster(tmp_path):
    """And leave all others, also where nothing has imported distributed before."""
    (tmp_path / "c.toml").write_text(
        "kind = 'gpus'\n[dask]\n'distributed.scheduler.allowed-failures' = 9\n"
    )
    code = (
        "import dask, sys\n"
        "from geoseg.execution.clusters import open_client\n"
        "from geoseg.errors import GeosegError\n"
        "assert 'distributed' not in sys.modules\n"
        "try:\n"
        "    with open_client(cluster=sys.argv[1]): pass\n"
        "except GeosegError: print(dask.config.get(sys.argv[2]))"
    )
    line = [sys.executable, "-c", code, str(tmp_path / "c.toml")]
    line.append("distributed.scheduler.allowed-failures")
    none = os.environ | {"CUDA_VISIBLE_DEVICES": ""}  # which is said at once
    said = subprocess.check_output(line, env=none, text=True)
    assert said == "3\n"


def test_how_long_workers_are_waited_for_is_said_by_file_or_option(tmp_path):
    """Of `geoseg run`, too, whatever the pipeline says of its cluster."""
    from geoseg.execution.options import ClusterOptions
    from geoseg.pipeline.settings import opened_pipeline

    pipeline = "out = 'out'\n[segment]\nraster = 'scene.tif'\nmodel = 'otsu:ndwi'\n"
    for i, (cluster, options, seconds) in enumerate(
        (
            ("", {}, None),
            ("", {"workers": 1, "wait": "2min"}, 120),
            ("[cluster]\nkind = 'local'\n", {"wait": 30}, 30),
            ("[cluster]\nkind = 'local'\ndask = {'geoseg.wait' = 7}\n", {}, 7),
        )
    ):
        path = tmp_path / f"{i}.toml"
        path.write_text(pipeline + cluster)
        made = opened_pipeline(path, (), ClusterOptions(**options)).cluster
        assert (made and made.dask["geoseg.wait"]) == seconds


def test_only_one_place_can_be_given():
    with (
        pytest.raises(GeosegError, match="give one"),
        open_client(workers=2, scheduler="tcp://127.0.0.1:1"),
    ):
        pass
    with (
        pytest.raises(GeosegError, match="workers: input should be greater"),
        open_client(workers=0),
    ):
        pass


# --- every long command ---------------------------------------------------------------


@pytest.fixture(scope="module")
def running():
    """Start a cluster of one process that many tests use; it is slow to go."""
    with local_cluster(1, dashboard=None) as client:
        close = client.cluster.close

        def close_slowly(timeout=None):
            close(timeout)
            raise TimeoutError  # as on a busy machine: what is done is done

        client.cluster.close = close_slowly
        yield client


@pytest.fixture
def at_work(running):
    """Return a function that says how many tasks the cluster has had."""

    def count():
        return running.run_on_scheduler(
            lambda dask_scheduler: dask_scheduler.transition_counter
        )

    return count


def address(*_):
    return get_worker().address


def test_a_task_goes_to_its_worker():
    quiet = {"processes": False, "dashboard_address": None, "memory_limit": 0}
    with LocalCluster(n_workers=3, **quiet) as cluster, Client(cluster) as client:
        engine = DaskEngine(client, None, lambda: None)
        assert engine.workers == 3
        for i in range(24):
            engine.submit(i, address, worker=i // 6)  # numbers go round
        found = {}
        while engine.in_flight:
            found |= {outcome.tag: outcome.result for outcome in engine.wait()}
        engine.close()
    homes = [{found[i] for i in range(24) if i // 6 % 3 == n} for n in range(3)]
    assert [len(home) for home in homes] == [1, 1, 1]
    assert len(set.union(*homes)) == 3


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    from landscape.scene import write_scene  # workers import this file without it

    folder = tmp_path_factory.mktemp("scene")
    write_scene(folder / "scene.tif", folder / "truth.tif", 300, 280, 7)
    return folder


def files(folder):
    """Return the labels' chunks, by name."""
    found = (folder / "classes").iterdir()
    return {p.name: p.read_bytes() for p in found if p.name[0] != "."}


def test_every_long_command_takes_a_cluster_file(
    running, at_work, scene, tmp_path, capsys
):
    """And answers the same as without."""
    (tmp_path / "here.toml").write_text(
        f"kind = 'address'\naddress = '{running.scheduler.address}'"
    )
    cluster = ["--cluster", str(tmp_path / "here.toml")]
    (tmp_path / "p.toml").write_text(
        f"out = 'out'\n[segment]\nraster = '{scene}/scene.tif'\n"
        "model = 'otsu:ndwi'\n[vectorize]\n"
    )
    for name, more in (("alone", []), ("there", cluster)):
        masks, regions = str(tmp_path / f"{name}.zarr"), str(tmp_path / f"{name}.gpkg")
        out = ["--set", f"out={tmp_path / name}"]
        for line in (
            ["segment", f"{scene}/scene.tif", "--model", "otsu:ndwi", "--out", masks],
            ["vectorize", masks, "--out", regions, "--simplify", "20"],
            ["evaluate", masks, "--reference", f"{scene}/truth.tif", "--boundary", "2",
             "--map", "1=water", "--csv", f"{tmp_path}/{name}.csv"],
            ["verify", masks],
            ["run", str(tmp_path / "p.toml"), *out],
        ):  # fmt: skip
            before = at_work()
            assert geoseg_run([*line, *more, "--quiet"]) == 0, capsys.readouterr().err
            assert (at_work() > before) == bool(more), line
    assert files(tmp_path / "there.zarr") == files(tmp_path / "alone.zarr")
    assert files(tmp_path / "there" / "masks.zarr") == files(tmp_path / "alone.zarr")
    alone, there = (
        geopandas.read_file(tmp_path / f"{name}.gpkg", layer="regions")
        for name in ("alone", "there")
    )
    assert_geodataframe_equal(alone, there)
    alone, there = ((tmp_path / f"{n}.csv").read_text() for n in ("alone", "there"))
    assert alone == there
    assert alone.count("\n") > 2


@pytest.mark.parametrize(
    ("walltime", "seconds"),
    [("05:00", 300), ("30:00", 1800), ("02:00:00", 7200), ("1-12:00:00", 129600)],
)
def test_workers_end_before_their_walltime(tmp_path, walltime, seconds):
    text = f"kind='slurm'\nworkers=4\nwalltime='{walltime}'\nmargin=600\ngpus=1"
    options = job_options(settings(tmp_path, text))
    arguments = dict(
        zip(
            options["worker_extra_args"][::2],
            options["worker_extra_args"][1::2],
            strict=True,
        )
    )
    lifetime = int(arguments["--lifetime"].removesuffix("s"))
    stagger = int(arguments["--lifetime-stagger"].removesuffix("s"))
    assert seconds / 2 <= lifetime <= lifetime + stagger <= seconds
    assert "--gres=gpu:1" in options["job_extra_directives"]
    assert options["security"] is True  # encrypted unless told otherwise


def test_a_slurm_job_asks_for_what_the_file_says():
    """The job script that dask-jobqueue makes of `cluster/slurm.toml`."""
    dask_jobqueue = pytest.importorskip("dask_jobqueue")
    options = job_options(read_cluster(CLUSTER / "slurm.toml"))
    options |= {"security": None, "scheduler_options": {"dashboard_address": None}}
    with dask_jobqueue.SLURMCluster(**options) as cluster:
        script = cluster.job_script()
    for line in (
        "#SBATCH -p gpu",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH -t 04:00:00",
        "#SBATCH --gres=gpu:1",
        "export OMP_NUM_THREADS=8",
        "--nthreads 12",  # which feed the GPU: one a core, and four that wait or write
        "--lifetime 13800s",
    ):
        assert line in script


@pytest.mark.parametrize(
    ("kind", "more", "lines"),
    [
        (
            "pbs",
            "queue = 'gpu'\naccount = 'p1'\ngpus = 2",
            ["-q gpu", "-A p1", "-l select=1:ncpus=4:mem=15258MB:ngpus=2",
             "-l walltime=36:00:00", "-W x"],
        ),
        (
            "lsf",
            "queue = 'gpu'\naccount = 'p1'\ngpus = 2",
            ["-q gpu", '-P "p1"', "-n 4", '-R "span[hosts=1]"', "-W 36:00",
             '-gpu "num=2"', "-W x"],
        ),
        (
            "sge",
            "queue = 'all.q'\naccount = 'p1'\nresources = 'mem_free=4G'",
            ["-q all.q", "-P p1", "-pe smp 4", "-l mem_free=4G",
             "-l h_rt=36:00:00", "-W x"],
        ),
    ],
)  # fmt: skip
def test_jobs_of_other_batch_systems_ask_for_what_the_file_says(
    tmp_path, kind, more, lines
):
    dask_jobqueue = pytest.importorskip("dask_jobqueue")
    text = f"kind = '{kind}'\nworkers = 3\nwalltime = '1-12:00:00'\n{more}\n"
    text += "directives = ['-W x']\nprologue = ['module load cuda']\ntls = false\n"
    options = job_options(settings(tmp_path, f"{text}dashboard = '127.0.0.1:0'"))
    with getattr(dask_jobqueue, f"{kind.upper()}Cluster")(**options) as cluster:
        script = cluster.job_script()
    for line in lines:
        assert re.search(f"^#(PBS|BSUB|\\$) {re.escape(line)}$", script, re.MULTILINE)
    fed = "--nthreads 8" if "gpus" in more else "--nthreads 2"
    for line in ("export OMP_NUM_THREADS=4", "module load cuda", fed):
        assert line in script
    assert "--dashboard-address 127.0.0.1:0" in script, "its page has no TLS"


@pytest.mark.parametrize("kind", ["pbs", "lsf", "sge"])
def test_workers_are_jobs_of_other_batch_systems(tmp_path, monkeypatch, kind):
    """Whose commands are played here: what is submitted runs on this machine."""
    pytest.importorskip("dask_jobqueue")
    run = '[ $# -gt 0 ] || { cat > "$0.job"; set -- "$0.job"; }\n'
    run += (
        'cp "$1" "$0.script"; setsid sh "$0.script" > "$0.log" 2>&1 &\necho "Job <$!>"'
    )
    end = 'echo "$1" >> "$0.ended"; kill -- "-$1"'
    for name, line in (("qsub", run), ("bsub", run), ("qdel", end), ("bkill", end)):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    made = settings(
        tmp_path,
        f"kind = '{kind}'\nworkers = 1\ncores = 2\nmemory = '1GB'\ninterface = 'lo'\n"
        f"dashboard = '127.0.0.1:0'\nshared_directory = '{tmp_path}'\ntls = false\n",
    )
    with cluster_client(made) as client, engine(1, client=client) as tasks:
        assert worker_memory(client) == 1e9, "known before there is a worker"
        assert client.dashboard_link.startswith("http://127.0.0.1:"), "where it listens"
        tasks.submit("sum", operator.add, 1)
        (outcome,) = tasks.wait(120)
        assert outcome.result == 2
    ends = tmp_path / ("bkill.ended" if kind == "lsf" else "qdel.ended")
    assert ends.read_text().split(), "the job outlives the run"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["--scheduler", "127.0.0.1"], "127.0.0.1 is not an address: tcp://host:port"),
        (["--scheduler", "tcp://none.invalid:8786"], "no machine is called"),
        (["--cluster", "gpus.toml"], "there is none here"),
        (["--cluster", "ssh.toml"], "no machine is called none.invalid"),
    ],
)
def test_what_can_never_work_ends_at_once_with_2(
    tmp_path, monkeypatch, capsys, line, said
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "gpus.toml").write_text("kind = 'gpus'\n")
    (tmp_path / "ssh.toml").write_text("kind = 'ssh'\nhosts = ['none.invalid']\n")
    begun = time.monotonic()
    assert geoseg_run(["segment", "a.tif", "--model", "x", "--out", "m", *line]) == 2
    assert time.monotonic() - begun < 30
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


@pytest.fixture
def refusing_queue(tmp_path, monkeypatch):
    """Put commands of SLURM on PATH that answer as a queue that takes no job."""
    pytest.importorskip("dask_jobqueue")
    folder = tmp_path / "bin"
    folder.mkdir()
    said = "sbatch: error: Batch job submission failed: Invalid partition name"
    for name, line in (("sbatch", f"echo '{said}' >&2; exit 1"), ("scancel", "true")):
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return tmp_path


def test_a_queue_that_refuses_every_job_is_quoted(refusing_queue):
    """At once, and not after waiting for workers that never come."""
    folder = refusing_queue / "made when needed"
    made = settings(
        refusing_queue,
        f"kind = 'slurm'\nworkers = 2\nlog_directory = '{folder}'\n"
        f"shared_directory = '{refusing_queue}/new/one'\ntls = false\n"
        "dashboard = '127.0.0.1:0'\n",
    )
    with cluster_client(made) as client, engine(1, client=client) as tasks:
        tasks.submit("sum", operator.add, 1)
        with pytest.raises(
            GeosegError, match=r"refuses .*: Batch job .* partition name"
        ):
            tasks.wait(timeout=60)
    assert folder.is_dir()
    assert (refusing_queue / "new" / "one").stat().st_mode & 0o777 == 0o700


def test_directories_with_blanks_are_one_word_for_slurm(tmp_path):
    text = f"""
        kind = 'slurm'
        workers = 1
        log_directory = '{tmp_path}/my logs'
        local_directory = '/scratch/my disk'
    """
    options = job_options(settings(tmp_path, text))
    directives = options["job_extra_directives"]
    assert f'--output="{tmp_path}/my logs/geoseg-worker-%j.out"' in directives
    assert options["local_directory"] == "'/scratch/my disk'"
    with pytest.raises(GeosegError, match=r"shared_directory: .* has a space"):
        settings(tmp_path, "kind='slurm'\nworkers=1\nshared_directory='/a b'")


def test_no_sbatch_is_said(tmp_path, monkeypatch):
    pytest.importorskip("dask_jobqueue")
    monkeypatch.setenv("PATH", str(tmp_path))
    made = settings(tmp_path, "kind = 'slurm'\nworkers = 2")
    with pytest.raises(GeosegError, match="not on PATH"), cluster_client(made):
        pass


# --- this machine ---------------------------------------------------------------------


def _facts(dask_worker):
    import signal
    import threading

    return {
        "environment": dict(os.environ),
        "host": dask_worker.address,
        "threads": dask_worker.state.nthreads,
        "term": signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        if threading.current_thread() is threading.main_thread()
        else None,
    }


def _torch_threads():
    import torch

    return torch.get_num_threads()


def test_a_process_per_gpu_and_each_sees_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-17")
    monkeypatch.delenv(THREADS[0], raising=False)
    assert gpu_names() == ["0", "GPU-17"]
    made = settings(tmp_path, "kind = 'gpus'\ndashboard = '127.0.0.1:0'")
    with cluster_client(made) as client:
        client.wait_for_workers(2, timeout=60)
        facts = list(client.run(_facts).values())
        torches = list(client.run(_torch_threads).values())
        assert THREADS[0] not in os.environ  # the client's own is as it was
    assert sum(torches) <= max(cores(), 2)  # of both together
    seen = sorted(f["environment"]["CUDA_VISIBLE_DEVICES"] for f in facts)
    assert seen == ["0", "GPU-17"]
    for fact in facts:
        assert fact["host"].startswith("tcp://127.0.0.1:")
        assert fact["threads"] == feeding_threads(cores(), 2)
        assert 2 * int(fact["environment"]["OMP_NUM_THREADS"]) <= max(cores(), 2)


def test_a_process_computes_with_the_threads_it_is_told(monkeypatch):
    monkeypatch.delenv(THREADS[0], raising=False)
    assert threads() == cores() >= 1
    monkeypatch.setenv(THREADS[0], "1")
    assert threads() == 1
    monkeypatch.setenv(THREADS[0], "10000")
    assert threads() == cores()
    monkeypatch.setenv("GEOSEG_PROCESSES", str(cores()))
    dask_setup(None)  # what Dask told it, one thread, was not meant
    assert {os.environ[name] for name in THREADS} == {"1"}


@pytest.mark.parametrize(
    ("name", "text", "quota"),
    [
        ("cpu.max", "max 100000\n", None),
        ("cpu.max", "250000 100000\n", 2.5),
        ("cpu/cpu.cfs_quota_us", "-1\n", None),
        ("cpu/cpu.cfs_quota_us", "800000\n", 8.0),
        ("elsewhere", "1", None),
    ],
)
def test_a_containers_share_of_the_cores_is_known(tmp_path, name, text, quota):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / name).write_text(text)
    assert container_quota(tmp_path) == quota


@pytest.mark.parametrize(
    ("name", "text", "bytes_"),
    [
        ("memory.max", "1000000\n", 1e6),
        ("memory/memory.limit_in_bytes", "2000000\n", 2e6),
        ("memory.max", "max\n", None),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n", None),
    ],
)
def test_memory_of_a_container_counts(tmp_path, name, text, bytes_):
    import psutil

    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    assert main_memory(tmp_path) == (bytes_ or psutil.virtual_memory().total)


@pytest.mark.parametrize(
    ("had", "processes", "threads"), [(16, 1, 20), (16, 8, 6), (128, 1, 36), (2, 4, 4)]
)
def test_the_cores_are_shared_among_processes_that_feed_gpus(had, processes, threads):
    assert feeding_threads(had, processes) == threads


def test_workers_that_do_not_start_are_said(monkeypatch):
    """As one that is killed before it has begun; run again, the command goes on."""

    def fail(**_):
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr("distributed.LocalCluster", fail)
    with pytest.raises(ClusterError, match="did not start") as error, local_cluster(2):
        pass
    assert error.value.exit_status == 3


def test_no_room_for_temporary_files_is_said(monkeypatch):
    def none():
        raise FileNotFoundError("No usable temporary directory found in […]")

    monkeypatch.setattr("tempfile.gettempdir", none)
    with pytest.raises(GeosegError, match="TMPDIR=/") as refused, local_cluster(1):
        pass
    assert refused.value.exit_status == 2  # the same command cannot cure it


def test_no_gpu_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    made = settings(tmp_path, "kind = 'gpus'")
    with pytest.raises(GeosegError, match="there is none here") as refused:
        cluster_client(made).__enter__()
    assert refused.value.exit_status == 2


def test_a_local_cluster_listens_on_localhost_only(tmp_path, monkeypatch):
    import psutil

    monkeypatch.delenv(THREADS[0], raising=False)
    made = settings(tmp_path, "kind = 'local'\nworkers = 1\ndashboard = '127.0.0.1:0'")
    with cluster_client(made) as client:
        client.wait_for_workers(1, timeout=60)
        assert THREADS[0] not in os.environ  # the client's own is as it was
        me = psutil.Process()
        listening = {
            c.laddr.ip
            for p in (me, *me.children(recursive=True))
            for c in p.net_connections(kind="inet")
            if c.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
        assert client.dashboard_link.startswith("http://127.0.0.1:")


# --- others' schedulers ---------------------------------------------------------------


def test_a_worker_that_is_slow_to_start_again_is_waited_for():
    """Dask alone would close it for good after its timeout, and the run would hang."""
    impatient = {"distributed.deploy.lost-worker-timeout": "10ms"}
    with (
        dask.config.set(impatient),
        local_cluster(1, threads=1, dashboard=None) as client,
    ):
        (pid,) = client.run(os.getpid).values()
        os.kill(pid, signal.SIGKILL)
        assert client.submit(os.getpid).result(timeout=60) != pid


def test_what_fails_on_workers_is_said_on_one_line(tmp_path, monkeypatch, capfd):
    from tifs import write_tif  # not above: workers by ssh import this module

    (tmp_path / "broken.py").write_text(
        "def make():\n"
        "    def predict(pixels):\n"
        "        raise ValueError('it does not work')\n"
        "    card = dict(bands=['1'], classes=['a', 'b'], window=64, overlap=8)\n"
        "    return card, predict\n"
    )
    write_tif(
        tmp_path / "scene.tif",
        np.ones((1, 70, 70), np.uint8),
        transform=Affine(10, 0, 0, 0, -10, 0),
    )
    monkeypatch.chdir(tmp_path)
    how = ["--model", "broken.py:make", "--out", "m.zarr", "--workers", "1"]
    assert geoseg_run(["segment", "scene.tif", "--quiet", *how]) == 2
    said = capfd.readouterr().err  # of the worker's process, too
    assert said.count("\n") == 1, said
    assert "it does not work" in said


def test_no_scheduler_is_said_quickly():
    from ports import free_port

    with (
        pytest.raises(ClusterError, match="no Dask scheduler answers at") as error,
        open_client(scheduler=f"nonsense://127.0.0.1:{free_port()}"),
    ):
        pass
    assert error.value.exit_status == 3
    assert dask.config.get("scheduler", None) is None  # Dask is as it was


class Versions:
    """What `check_versions` asks a client."""

    def __init__(self, scheduler, worker):
        self.scheduler, self.worker = scheduler, worker

    def run_on_scheduler(self, function):
        return {**function(), **self.scheduler}

    def run(self, function, *, workers, on_error, callback_timeout):
        assert (workers, on_error) == (None, "return")
        assert callback_timeout > 0
        return {"tcp://w:1": self.worker or function()}


def test_versions_are_compared_on_both_sides():
    check_versions(Versions({}, {}))
    check_versions(Versions({"python": versions()["python"] + "9"}, {}))  # micro
    with pytest.raises(ClusterError, match=r"worker tcp://w:1 is .*geoseg 9\.9 there"):
        check_versions(Versions({}, {**versions(), "geoseg": "9.9"}))
    with pytest.raises(ClusterError, match=r"the scheduler is .*python 3\.1\.4 there"):
        check_versions(Versions({"python": "3.1.4"}, {}))
    with pytest.warns(UserWarning, match=r"may round differently: torch 1\.0 there"):
        check_versions(Versions({}, {**versions(), "torch": "1.0"}))


def test_a_cluster_without_geoseg_is_refused():
    class Bare(Versions):
        def run_on_scheduler(self, _):
            raise ModuleNotFoundError("No module named 'geoseg'")

    with pytest.raises(ClusterError, match="install geoseg"):
        check_versions(Bare({}, {}))
    missing = ModuleNotFoundError("No module named 'geoseg'")
    with pytest.raises(ClusterError, match=r"worker tcp://w:1 lacks .*install geoseg"):
        check_versions(Versions({}, missing))
    check_versions(Versions({}, OSError("gone meanwhile")))


def test_a_worker_that_comes_later_is_compared_too(running, monkeypatch):
    """As those of SLURM and Kubernetes, which come when there is work."""
    with engine(None, client=running) as tasks:
        assert tasks.slots >= 1
    mine = {**versions(), "geoseg": "0.0.1"}
    monkeypatch.setattr(geoseg.execution.versions, "versions", lambda: mine)

    def told(*_, **__):
        return {running_worker: versions()}

    running_worker = next(iter(running.nthreads()))
    monkeypatch.setattr(running, "run", told)
    with (
        engine(None, client=running) as tasks,
        pytest.raises(ClusterError, match=r"not like this client: geoseg .* 0\.0\.1"),
    ):
        tasks.slots  # noqa: B018 - asks the scheduler who is there


def test_a_cluster_without_workers_is_told_of_and_waited_for():
    quiet = {"dashboard_address": None, "processes": False}
    with (
        dask.config.set({"geoseg.no-workers-after": 0.5}),
        LocalCluster(n_workers=0, **quiet) as cluster,
        Client(cluster, set_as_default=False) as client,
        engine(1, client=client) as tasks,
    ):
        tasks.submit("sum", operator.add, 1)
        with pytest.warns(UserWarning, match="has no workers yet.*jobs queued"):
            assert tasks.wait(timeout=3) == []
        cluster.scale(1)
        assert [o.result for o in tasks.wait(timeout=60)] == [2]


def test_when_all_workers_are_gone_that_is_said_and_others_are_waited_for():
    quiet = {"dashboard_address": None, "processes": False}
    with (
        dask.config.set({"geoseg.no-workers-after": 0.5}),
        LocalCluster(n_workers=1, **quiet) as cluster,
        Client(cluster, set_as_default=False) as client,
        engine(1, client=client) as tasks,
    ):
        tasks.submit("sum", operator.add, 1)
        assert [o.result for o in tasks.wait(timeout=60)] == [2]
        cluster.scale(0)
        while client.nthreads():
            time.sleep(0.05)
        tasks.submit("sum", operator.add, 2)
        with pytest.warns(UserWarning, match=r"workers .* are gone.*after 10 min"):
            assert tasks.wait(timeout=4) == []
        cluster.scale(1)
        assert [o.result for o in tasks.wait(timeout=60)] == [3]


@pytest.mark.parametrize("grows", [False, True])
def test_nobody_is_waited_for_without_end(grows):
    """But for clusters that start workers themselves: their jobs may be queued."""
    quiet = {"dashboard_address": None, "processes": False}
    patience = {"geoseg.wait": 0.5, "geoseg.no-workers-after": 0.2}
    with (
        dask.config.set({**patience, "geoseg.slots": 4 * grows}),
        LocalCluster(n_workers=0, **quiet) as cluster,
        Client(cluster, set_as_default=False) as client,
        engine(1, client=client) as tasks,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        tasks.submit("sum", operator.add, 1)
        if grows:
            assert tasks.wait(timeout=4) == []
        else:
            with pytest.raises(ClusterError, match=r"had no workers for .*resumes"):
                tasks.wait(timeout=30)


def test_tasks_are_sent_together(running, monkeypatch):
    """A scheduler keeps a note of every message, for as long as it lives."""
    messages = []
    submit = running.map

    def counted(function, *columns, **more):
        messages.append(len(columns[0]))
        return submit(function, *columns, **more)

    monkeypatch.setattr(running, "map", counted)
    began = time.perf_counter()
    done = dict(unordered(operator.neg, range(2000), client=running))
    seconds = time.perf_counter() - began
    assert done == {item: -item for item in range(2000)}
    assert sum(messages) == 2000
    # Ten a second, and a few at first, until it is known how quick the tasks are.
    assert len(messages) <= 12 * seconds + 10


def test_slow_tasks_do_not_wait_for_each_other(running):
    with engine(0.0, client=running) as tasks:
        tasks.submit("first", _sleep, 0.3)
        tasks.submit("second", _sleep, 1.5)
        assert [o.tag for o in tasks.wait(timeout=60)] == ["first"]


def _sleep(_, seconds):
    time.sleep(seconds)


def test_answers_that_died_with_their_worker_are_not_waited_for(running, monkeypatch):
    gather, asked = running.gather, []

    def never_first(futures, **options):
        asked.append(futures)
        return asyncio.sleep(60) if len(asked) == 1 else gather(futures, **options)

    monkeypatch.setattr(running, "gather", never_first)
    monkeypatch.setattr("geoseg.execution.dask_engine.ANSWERS_WITHIN", 0.2)
    with engine(1, client=running) as tasks:
        tasks.submit("sum", operator.add, 1)
        assert [o.result for o in tasks.wait(timeout=30)] == [2]
    assert len(asked) == 2


def test_many_answers_at_once_have_longer(running, monkeypatch):
    limits, sync = [], running.sync

    def noted(function, *args, callback_timeout=None, **options):
        if callback_timeout and isinstance(args[0] if args else None, dict):
            limits.append((len(args[0]), callback_timeout))
        return sync(function, *args, callback_timeout=callback_timeout, **options)

    monkeypatch.setattr(running, "sync", noted)
    with engine(1, client=running) as tasks:
        done = {running.submit(operator.add, n, 1, pure=False): n for n in range(3)}
        running.gather(list(done))
        for future in done:
            tasks._sent[future.key] = SimpleNamespace(future=future, begun=None)
        found = tasks._collect([(n, future) for future, n in done.items()])
    assert sorted(o.result for o in found) == [1, 2, 3]
    assert limits == [(3, 3 * ANSWERS_WITHIN)]


def test_kinds_of_clients_that_cannot_work_are_refused(running):
    with pytest.raises(GeosegError, match=r"takes a distributed\.Client.* is a str"):
        processes(running.scheduler.address)
    with (
        pytest.raises(GeosegError, match=r"takes a distributed\.Client"),
        engine(None, client=running.cluster),
    ):
        pass
    closed = Client(running.scheduler.address, set_as_default=False)
    closed.close()
    with pytest.raises(ClusterError, match="client= is closed"):
        processes(closed)

    async def inside():
        address = running.scheduler.address
        async with Client(address, asynchronous=True, set_as_default=False) as client:
            with pytest.raises(GeosegError, match="asynchronous client"):
                processes(client)

    asyncio.run(inside())


def test_the_dashboard_has_pages(scene, tmp_path, monkeypatch, capsys):
    """Dask serves a page that only asks for bokeh where that is not installed."""
    with local_cluster(1, dashboard="127.0.0.1:0") as client:
        with urllib.request.urlopen(client.dashboard_link) as answer:
            page = answer.read().decode()
        assert "Dask needs bokeh" not in page
        assert "bokeh" in page
        line = ["segment", str(scene / "scene.tif"), "--model", "threshold:ndwi"]
        line += ["--scheduler", client.scheduler.address, "--overwrite"]
        line += ["--out", str(tmp_path / "m.zarr")]
        assert geoseg_run(line) == 0
        assert f"dashboard: {client.dashboard_link}\n" in capsys.readouterr().err
        monkeypatch.setattr("geoseg.cli.segment.find_spec", lambda _: None)
        assert geoseg_run(line) == 0
        assert "pip install 'geoseg[dashboard]'" in capsys.readouterr().err


def test_a_plan_counts_the_processes_that_may_come(running):
    assert processes(None) == 1
    assert processes(running) == len(running.nthreads())
    with dask.config.set({"geoseg.workers": 40}):  # as clusters that grow do
        assert processes(running) == 40


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Make an authority and a certificate for this host, as the README says."""
    pytest.importorskip("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "geoseg")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            ),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder


def test_tls(certificates, tmp_path):
    """An encrypted scheduler lets in who has the certificate, and nobody else."""
    from ports import free_port

    cert, key = str(certificates / "cert.pem"), str(certificates / "key.pem")
    tls = ["--tls-ca-file", cert, "--tls-cert", cert, "--tls-key", key]
    address = f"tls://127.0.0.1:{free_port()}"
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = subprocess.Popen(
        [*dask, "--host", address, "--no-dashboard", "--no-show", *tls], **quiet
    )
    try:
        made = settings(
            tmp_path,
            f"kind = 'address'\naddress = '{address}'\ntls_ca = '{cert}'\n"
            f"tls_cert = '{cert}'\ntls_key = '{key}'",
        )
        with cluster_client(made) as client:
            assert client.scheduler.address == address
            assert client.run_on_scheduler(versions) == versions()
        with pytest.raises(ClusterError), open_client(scheduler=address):
            pass
    finally:
        scheduler.kill()
        scheduler.wait()


# --- SSH ------------------------------------------------------------------------------


def test_machines_that_are_reached_by_ssh(tmp_path):
    """Two workers on one machine, through a real server; they share its cores."""
    pytest.importorskip("asyncssh")
    from sshd import ssh_server

    with ssh_server(tmp_path / "known_hosts") as port:
        made = settings(
            tmp_path,
            "kind = 'ssh'\nhosts = ['127.0.0.1', '127.0.0.1']\n"
            "dashboard = '127.0.0.1:0'\n[connect]\nusername = 'me'\n"
            f"port = {port}\nknown_hosts = '{tmp_path / 'known_hosts'}'",
        )
        with cluster_client(made) as client:
            client.wait_for_workers(2, timeout=60)
            facts = list(client.run(_facts).values())
    share = str(max(1, cores() // 2))
    assert [f["environment"]["OMP_NUM_THREADS"] for f in facts] == [share, share]
    assert [f["threads"] for f in facts] == [2, 2]


def test_no_machine_is_said(tmp_path):
    pytest.importorskip("asyncssh")
    from ports import free_port

    text = f"kind='ssh'\nhosts=['127.0.0.1']\nconnect={{port={free_port()}}}"
    made = settings(tmp_path, text)
    with pytest.raises(ClusterError, match="SSH workers cannot"), cluster_client(made):
        pass


# --- the plan on paper ----------------------------------------------------------------


def test_the_worked_plan_is_what_geoseg_says(monkeypatch, capsys):
    """The table in the README is what its script prints."""
    script = str(CLUSTER / "worked_plan.py")
    monkeypatch.setattr(sys, "argv", [script, "--mpx", "50"])
    runpy.run_path(script, run_name="__main__")
    table = capsys.readouterr().out
    assert table.count("\n") > 8
    assert table in (CLUSTER / "README.md").read_text()


# --- Kubernetes -----------------------------------------------------------------------


def _operator(name):
    import dask_kubernetes

    folder = Path(dask_kubernetes.__file__).parent / "operator" / "customresources"
    return (folder / name).read_text()


def _schema(kind):
    """Return the operator's own schema of a custom resource, as a validator."""
    import jsonschema
    import referencing.jsonschema

    def retrieve(uri):
        if "dask_kubernetes" in uri:
            contents = yaml.safe_load(_operator(uri.rpartition("/")[2]))
        else:  # Kubernetes' own, by which pods and services are checked on their own
            names = re.findall(
                r"#/definitions/(io\.k8s[\w.]+)", _operator("templates.yaml")
            )
            contents = {"definitions": {name: {"type": "object"} for name in names}}
        return referencing.jsonschema.DRAFT4.create_resource(contents)

    definition = yaml.safe_load(_operator(f"{kind.lower()}.yaml"))
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    registry = referencing.Registry(retrieve=retrieve)
    return jsonschema.Draft4Validator(schema, registry=registry)


def _pods(node):
    """Yield every pod spec in a manifest."""
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        for inner in node.values():
            yield from _pods(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from _pods(inner)


def _validate(manifest):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    pytest.importorskip("jsonschema")
    pytest.importorskip("dask_kubernetes")
    if manifest["kind"].startswith("Dask"):
        _schema(manifest["kind"]).validate(manifest)
        # The operator's schema says little of pods, Kubernetes' own says all.
        for pod in _pods(manifest):
            whole = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "x"},
                "spec": pod,
            }
            kubernetes_validate.validate(whole, "1.31", strict=True)
    else:
        kubernetes_validate.validate(manifest, "1.31", strict=True)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.stem)
def test_manifests_agree_with_the_published_schemas(path):
    for manifest in yaml.safe_load_all(path.read_text()):
        _validate(manifest)


def test_a_wrong_manifest_would_be_found():
    manifest = yaml.safe_load((CLUSTER / "kubernetes" / "cronjob.yaml").read_text())
    manifest["spec"]["concurrencyPolicy"] = 7
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    jsonschema = pytest.importorskip("jsonschema")
    with pytest.raises(kubernetes_validate.ValidationError):
        _validate(manifest)
    manifest = yaml.safe_load((CLUSTER / "kubernetes" / "daskcluster.yaml").read_text())
    manifest["spec"]["worker"]["spec"]["containers"][0]["imagee"] = "x"
    with pytest.raises(kubernetes_validate.ValidationError):
        _validate(manifest)
    del manifest["spec"]["worker"]["spec"]["containers"][0]["imagee"]
    manifest["spec"]["worker"]["replicas"] = "four"
    with pytest.raises(jsonschema.ValidationError):
        _validate(manifest)


def test_what_the_command_asks_kubernetes_for():
    path = CLUSTER / "kubernetes" / "cluster.toml"
    spec = kubernetes_spec(read_cluster(path))
    _validate(spec)
    worker = spec["spec"]["worker"]["spec"]
    assert worker["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert worker["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.stem)
def test_containers_run_as_a_user(path):
    for manifest in yaml.safe_load_all(path.read_text()):
        for pod in _pods(manifest):
            assert pod["securityContext"]["runAsNonRoot"] is True
            for container in pod["containers"]:
                assert container["securityContext"]["allowPrivilegeEscalation"] is False
                assert ":latest" not in container["image"]


def test_the_commands_in_the_manifests_are_commands_of_geoseg():
    """The arguments of `geoseg run` are read as they stand there."""
    from geoseg.pipeline.settings import read_pipeline

    for path in MANIFESTS:
        for manifest in yaml.safe_load_all(path.read_text()):
            for pod in _pods(manifest):
                arguments = pod["containers"][0].get("args", [])
                if arguments[:1] != ["run"]:
                    continue
                file = CLUSTER.parent / arguments[1].lstrip("/")
                overrides = arguments[3::2]
                assert arguments[2::2] == ["--set"] * len(overrides)
                assert read_pipeline(file, overrides).segment.model


# --- the container --------------------------------------------------------------------


def test_the_containers_entry_without_the_container():
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    entry = ["sh", str(CLUSTER / "entrypoint.sh")]

    def said(*arguments):
        line = [*entry, *arguments]
        return subprocess.run(
            line, env=env, capture_output=True, text=True, check=True
        ).stdout

    assert "geoseg" in said("--version")
    assert "Usage: geoseg" in said("--help")
    assert re.search(r"\d+\.\d+", said("dask", "scheduler", "--version"))
    assert said("python", "-c", "print(6 * 7)") == "42\n"


def test_the_dockerfile_ends_as_a_user():
    text = (CLUSTER / "Dockerfile").read_text()
    stages = re.findall(r"^FROM (\S+) AS (\S+)", text, re.MULTILINE)
    assert {"cpu", "cuda"} <= {name for _, name in stages}
    assert {name: base for base, name in stages}["cuda"] == "run"
    run = text[text.index("AS run") :]
    assert "USER 1000" in run[: run.index("ENTRYPOINT")]
    assert re.search(r"FROM python:\d+\.\d+\.\d+-", text)
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for name in copied.split():
            assert (CLUSTER.parent / name).exists(), name


@pytest.mark.parametrize("path", sorted((CLUSTER / "slurm").glob("*.sbatch")))
def test_batch_scripts_are_shell(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "-S", "warning", str(path)], check=True)
    assert "#SBATCH --requeue" in path.read_text()


@pytest.mark.skipif(os.name == "nt", reason="batch scripts are for Unix")
@pytest.mark.parametrize(("status", "again"), [(0, 0), (2, 0), (3, 1), (143, 1)])
def test_an_array_job_keeps_rasters_apart_and_comes_back(tmp_path, status, again):
    """Rasters of one name have maps of their own; what may be retried is requeued."""
    rasters = ["a/tile.tif", "b/tile.tif", "b/tile.jp2"]
    (tmp_path / "rasters.txt").write_text("\n".join(rasters) + "\n")
    for name, line in (
        ("geoseg", f'echo "$@" >> {tmp_path}/runs; exit {status}'),
        ("scontrol", f'echo "$@" >> {tmp_path}/requeued'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    line = ["bash", str(CLUSTER / "slurm" / "array.sbatch"), "rasters.txt", "p", "out"]
    for i in range(len(rasters) + 1):
        task = {"SLURM_ARRAY_TASK_ID": str(i + 1), "SLURM_JOB_ID": f"7{i}"}
        done = subprocess.run(line, cwd=tmp_path, env=env | task, check=False)
        assert done.returncode == (status if i < len(rasters) else 2)
    said = (tmp_path / "runs").read_text()
    assert len(set(re.findall(r"out=(out/tile-\w{8})", said))) == len(rasters)
    requeued = tmp_path / "requeued"
    count = requeued.read_text().count("requeue") if requeued.exists() else 0
    assert count == again * len(rasters)


def test_certificates_of_a_run_are_for_its_user_only(tmp_path):
    pytest.importorskip("cryptography")
    folder = tmp_path / "new"
    write_certificates(folder)
    assert {p.name for p in folder.iterdir()} == {"ca.pem", "cert.pem", "key.pem"}
    if os.name != "nt":
        assert {p.stat().st_mode & 0o777 for p in folder.iterdir()} == {0o600}
    with pytest.raises(GeosegError, match="cannot be written into"):
        write_certificates(folder)  # what is there is not overwritten


def test_no_secret_is_in_the_errors_of_addresses():
    with (
        pytest.raises(GeosegError) as error,
        geoseg.execution.clusters.connected("x://u:pw@h:1"),
    ):
        pass
    assert "pw" not in str(error.value)
