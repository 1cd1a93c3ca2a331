"""Faults: killed, hung, refused, full, replaced; and the map is the same.

Twenty random moments of each kill are tried by tests/benchmarks/kill_moments.py.
"""

import contextlib
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from functools import partial
from pathlib import Path
from typing import ClassVar

import dask
import numpy as np
import pytest
import small
import xarray as xr
from tifs import write_tif
from waiting import until

import geoseg
import geoseg.inference.worker
from geoseg.errors import (
    BlocksFailedError,
    GeosegError,
    LockedError,
    MasksError,
    RasterError,
    SourceChangedError,
    StorageFullError,
)
from geoseg.execution.clusters import local_cluster, open_client
from geoseg.execution.engine import engine
from geoseg.execution.interrupts import held_back
from geoseg.inference import block_cache
from geoseg.inference.workflow import run_plan
from geoseg.maps.lock import held
from geoseg.maps.state import PARTIAL
from geoseg.maps.storage import Storage
from geoseg.maps.store import Masks, open_masks
from geoseg.rasters import file_versions
from geoseg.testing import LocalModel, MemorySource, identity_card

SIDE = 200
CHUNK = 64  # pixels, so that this many have many blocks
make_plan = partial(small.make_plan, chunk=CHUNK)
BLOCKS = 9  # of 72 px
WINDOWS = 36  # of 48 px, 36 apart


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).random((3, SIDE, SIDE), np.float32)


def write(path, values):
    return write_tif(str(path), values)


@pytest.fixture(scope="module")
def scene(pixels, tmp_path_factory):
    return write(tmp_path_factory.mktemp("scene") / "scene.tif", pixels)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(geoseg.inference.worker, "WAITS", (0.0, 0.0))


def card():
    return identity_card(3, window=48, overlap=12)


def run(scene, out, model=None, **options):
    options = {"block": 72, "progress": False, **options}
    thing = model or LocalModel(card=card())
    plan_options = {k: options.pop(k) for k in ("block", "batch") if k in options}
    plan = make_plan(scene, model=thing, **plan_options)
    return run_plan(plan, out=out, **options)


@pytest.fixture(scope="module")
def whole(scene, tmp_path_factory):
    """Return the chunks of a run that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "m.zarr"
    run(scene, out)
    return chunks(out)


def chunks(store):
    """Return the bytes of every chunk of the labels, by name."""
    return {
        path.name: path.read_bytes()
        for path in (Path(store) / "classes").iterdir()
        if not path.name.startswith(".")
    }


def counting(folder, trick=lambda *_: None):
    """Return a model that counts windows in a file and does a trick with each batch.

    The class is made here, so that it travels to workers by value.
    """
    log = str(folder / "windows.log")

    class Counting:
        card = identity_card(3, window=48, overlap=12)

        def predict(self, pixels):
            with Path(log).open("ab") as file:
                file.write(b"w" * len(pixels))
            trick(pixels, Path(log).stat().st_size)
            height, width = pixels.shape[-2:]
            y = np.abs(np.linspace(-1, 1, height, dtype=np.float32))[:, None]
            x = np.abs(np.linspace(-1, 1, width, dtype=np.float32))[None]
            mean = pixels.mean(axis=(-2, -1), keepdims=True)
            return np.asarray(pixels + 0.5 * np.maximum(x, y) ** 8 * mean)

    return Counting()


def seen(folder):
    log = folder / "windows.log"
    return log.stat().st_size if log.exists() else 0


def once(path):
    """Say yes the first time it is asked, in whatever process."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


# --- workers --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client():
    import distributed  # noqa: F401 - its settings are there before one is changed

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        local_cluster(2, threads=1, memory="1.5GB", dashboard=None) as client,
    ):
        yield client


def test_a_worker_that_hangs_is_restarted(scene, whole, tmp_path, client):
    flag = str(tmp_path / "flag")

    def trick(pixels, seen):
        if seen > 12 and once(flag):
            time.sleep(1000)

    run(scene, tmp_path / "warm.zarr", client=client)  # imports take their time
    with dask.config.set({"geoseg.stuck-after": 2.0}):
        run(scene, tmp_path / "m.zarr", counting(tmp_path, trick), client=client)
    assert Path(flag).exists()
    assert chunks(tmp_path / "m.zarr") == whole


def test_a_killed_worker_costs_the_blocks_in_its_hands(scene, whole, tmp_path, client):
    flag = str(tmp_path / "flag")

    def trick(pixels, seen):
        if seen > 12 and once(flag):
            os.kill(os.getpid(), signal.SIGKILL)

    run(scene, tmp_path / "m.zarr", counting(tmp_path, trick), client=client)
    assert Path(flag).exists()
    assert chunks(tmp_path / "m.zarr") == whole
    assert seen(tmp_path) <= WINDOWS + 4 * 3  # a worker has at most three blocks


def test_a_block_that_kills_workers_fails_alone(scene, whole, pixels, tmp_path, client):
    broken = tmp_path / "broken"
    broken.touch()
    marker = pixels[0, 90, 90]  # in the block of row 1, column 1

    def trick(pixels, seen, broken=str(broken)):
        if Path(broken).exists() and (pixels[:, 0, 16:-16, 16:-16] == marker).any():
            os.kill(os.getpid(), signal.SIGKILL)

    model = counting(tmp_path, trick)
    with pytest.raises(BlocksFailedError, match="workers died while they had") as error:
        run(scene, tmp_path / "m.zarr", model, client=client)
    assert set(error.value.failed) == {(1, 1)}
    assert error.value.exit_status == 3
    assert len(chunks(tmp_path / "m.zarr")) == BLOCKS - 1  # the rest is written
    broken.unlink()
    before = seen(tmp_path)
    run(scene, tmp_path / "m.zarr", model, client=client)
    assert chunks(tmp_path / "m.zarr") == whole
    assert seen(tmp_path) - before == 4  # that block's windows only


def test_a_worker_over_its_memory_limit_is_replaced(scene, whole, tmp_path, client):
    flag = str(tmp_path / "flag")

    def trick(pixels, seen):
        if seen > 12 and once(flag):
            hoard = np.ones(250_000_000)
            time.sleep(1000)
            del hoard

    run(scene, tmp_path / "m.zarr", counting(tmp_path, trick), client=client)
    assert chunks(tmp_path / "m.zarr") == whole


def test_a_task_that_ran_already_infers_nothing(scene, tmp_path):
    """As when a worker dies between the last byte and its answer."""
    model = counting(tmp_path)
    plan = make_plan(scene, model=model, block=72)
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, out=tmp_path / "m.zarr", progress=_stop_after(3))
    masks = open_masks(str(tmp_path / "m.zarr"))
    job = geoseg.inference.worker.Job(
        source=plan.source, model=plan.model, tiling=plan.tiling, masks=masks
    )
    before = seen(tmp_path)
    for key in sorted(masks.marked(PARTIAL) | masks.done()):
        again = geoseg.inference.worker.infer(job, plan.tiling.block_at(*key))
        assert again.done == (key in masks.done())
        assert again.windows == 4
    for key in sorted(masks.done()):
        assert geoseg.inference.worker.finish(job, plan.tiling.block_at(*key)).done
    assert seen(tmp_path) == before


def test_two_may_delete_the_same(tmp_path, monkeypatch):
    """As the task of a worker that was taken for dead, and the one in its place."""
    folder = tmp_path / "rims" / "2.4"
    folder.mkdir(parents=True)
    for name in ("1.3", "3.4"):
        (folder / name).touch()
    unlink = os.unlink

    def late(*where, **more):
        monkeypatch.undo()
        unlink(*where, **more)  # the other one
        unlink(*where, **more)

    monkeypatch.setattr(os, "unlink", late)
    Storage(str(tmp_path)).remove("rims/2.4")
    assert os.unlink is unlink
    assert not folder.exists()
    Storage(str(tmp_path)).remove("rims/2.4")


def _stop_after(blocks):
    def show(now):
        if now.blocks >= blocks:
            raise KeyboardInterrupt

    return show


# --- the client -----------------------------------------------------------------------

MODEL = """
    import json, time
    from pathlib import Path
    from geoseg.testing import LocalModel, identity_card

    class Slow(LocalModel):
        def predict(self, pixels):
            with open({log!r}, "ab") as file:
                file.write(b"w" * len(pixels))
                seen = file.tell()
            pace, many, then = json.loads(Path({pace!r}).read_text())
            time.sleep(pace if seen <= many else then)
            return super().predict(pixels)

    def factory():
        return Slow(card=identity_card(3, window=48, overlap=12))
"""


def command(folder, scene, out, *, pace=0.02, many=WINDOWS, then=0.0):
    """Return the command that segments with a slow model that counts windows.

    It takes `pace` seconds for each of so many windows, and `then` others.
    """
    set_pace(folder, pace, many, then)
    names = {"log": str(folder / "windows.log"), "pace": str(folder / "pace")}
    (folder / "slow.py").write_text(textwrap.dedent(MODEL.format(**names)))
    model = f"{folder / 'slow.py'}:factory"
    line = [sys.executable, small.__file__, str(CHUNK), "segment", scene]
    line += ["--model", model]
    return [*line, "--out", str(out), "--block", "72", "--quiet"]


def set_pace(folder, pace, many=WINDOWS, then=0.0):
    (folder / "pace").write_text(json.dumps([pace, many, then]))


def started(line, out, blocks):
    """Start a command and return it when that many blocks are inferred or done."""
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    marks = [out / ".geoseg" / "done", out / ".geoseg" / "parts"]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        found = [p for m in marks if m.is_dir() for p in m.iterdir()]
        if len([p for p in found if not p.name.startswith(".")]) >= blocks:
            return process
        time.sleep(0.002)
    process.kill()
    raise AssertionError(f"no {blocks} blocks: {process.communicate()}")


def test_a_killed_client_goes_on_with_the_same_command(scene, whole, tmp_path):
    out = tmp_path / "m.zarr"
    line = command(tmp_path, scene, out, many=20, then=1.0)
    process = started(line, out, 4)
    process.kill()
    process.communicate()
    assert (out / ".geoseg" / "lock").exists()  # nobody could remove it
    kept = open_masks(str(out))
    inferred = len(kept.marked(PARTIAL) | kept.done())
    before = seen(tmp_path)
    set_pace(tmp_path, 0.0)
    subprocess.run(line, check=True, timeout=120)
    assert chunks(out) == whole
    assert seen(tmp_path) - before == WINDOWS - 4 * inferred
    assert not (out / ".geoseg" / "lock").exists()


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_asked_to_end_it_finishes_what_is_in_hand(
    scene, whole, tmp_path, signum, status
):
    out = tmp_path / "m.zarr"
    line = command(tmp_path, scene, out, many=12, then=0.5)
    process = started(line, out, 2)
    process.send_signal(signum)
    _, said = process.communicate(timeout=120)
    assert process.returncode == status
    first, *more, last = said.strip().splitlines()
    assert not more, said
    assert re.search(r"finishing \d blocks?, at most \d+ s; Ctrl-C again stops", first)
    assert "the same command resumes" in last
    masks = open_masks(str(out))
    inferred = len(masks.marked(PARTIAL) | masks.done())
    assert 2 <= inferred < BLOCKS
    assert seen(tmp_path) == 4 * inferred  # what was begun was also kept
    set_pace(tmp_path, 0.0)
    run(scene, out, f"{tmp_path / 'slow.py'}:factory")
    assert seen(tmp_path) == WINDOWS
    assert chunks(out) == whole


def test_ctrl_c_is_answered_at_once_and_a_second_one_ends_it(scene, whole, tmp_path):
    """Windows take ten seconds each: nobody waits for them."""
    out = tmp_path / "m.zarr"
    process = started(command(tmp_path, scene, out, pace=0.0, many=12, then=10), out, 2)
    while process.poll() is None and seen(tmp_path) < 13:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    assert "finishing " in process.stderr.readline()
    assert time.monotonic() - begun < 5
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=8)
    assert process.returncode == 130
    set_pace(tmp_path, 0.0)
    run(scene, out, f"{tmp_path / 'slow.py'}:factory")
    assert chunks(out) == whole


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signals_come_where_they_do_no_harm(signum):
    """Raised between any two steps they left locks taken, and a run that hung."""

    def interrupt(*_):
        raise KeyboardInterrupt

    draw = np.random.default_rng(0)
    before = signal.signal(signum, interrupt)
    try:
        for _ in range(150):
            with (
                contextlib.suppress(KeyboardInterrupt),
                engine(None, threads=2) as tasks,
            ):
                after = draw.uniform(1e-4, 4e-3)
                threading.Timer(after, os.kill, [os.getpid(), signum]).start()
                while True:
                    while tasks.in_flight < 4:
                        tasks.submit("task", lambda _: time.sleep(1e-5))
                    tasks.wait()
            assert signal.getsignal(signum) is interrupt
    finally:
        signal.signal(signum, before)


def test_a_second_signal_is_not_held_back():
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with held_back() as let_through:
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            let_through()  # nothing is left
        with pytest.raises(KeyboardInterrupt), held_back():  # at the end, at last
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_grace_ends(scene, tmp_path, monkeypatch):
    monkeypatch.setenv("GEOSEG_GRACE", "0.3")
    out = tmp_path / "m.zarr"
    # What is in hand after the first blocks, would take minutes.
    line = command(tmp_path, scene, out, many=24, then=200.0)
    process = started(line, out, 1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143


# --- two at once ----------------------------------------------------------------------


def test_the_second_client_on_a_store_is_refused(scene, tmp_path):
    out = tmp_path / "m.zarr"
    refused = []

    def show(now):
        if now.blocks == 0 and not refused:
            line = command(tmp_path, scene, out)
            refused.append(
                subprocess.run(line, capture_output=True, text=True, check=False)
            )

    run(scene, out, f"{command(tmp_path, scene, out)[6]}", progress=show)
    assert refused[0].returncode == 2
    assert refused[0].stderr.count("\n") == 1
    who = f"is being written by process {os.getpid()} on {socket.gethostname()}"
    assert who in refused[0].stderr
    run(scene, out, f"{tmp_path / 'slow.py'}:factory")  # complete, and free


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_a_lock_is_held_once_and_free_afterwards(tmp_path, kind):
    storage = Storage(str(tmp_path) if kind == "file" else f"memory://{tmp_path}")
    with held(storage, "lock", beat=0.05) as lock:
        with pytest.raises(LockedError, match="is being written by process"):
            held(storage, "lock", beat=0.05).__enter__()
        until(lambda: json.loads(storage.get("lock"))["beats"] > 2)  # signs of life
        lock.check()
    assert not storage.exists("lock")
    with held(storage, "lock", beat=0.05):
        pass


def _foreign(storage, **fields):
    record = {
        "id": "other",
        "host": "elsewhere",
        "pid": 1,
        "started": "1",
        "every": 0.1,
        "beats": 0,
    }
    data = json.dumps(record | fields).encode().ljust(512)
    if storage.is_local and storage.exists("lock"):  # in place, as owners do
        with (Path(storage.url) / "lock").open("r+b") as file:
            file.write(data)
    else:
        storage.put("lock", data)


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_the_lock_of_a_silent_machine_is_taken_over(tmp_path, kind):
    storage = Storage(str(tmp_path) if kind == "file" else f"memory://{tmp_path}")
    _foreign(storage)
    with held(storage, "lock", beat=0.05):
        pass


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_the_lock_of_a_living_machine_is_respected(tmp_path, kind):
    storage = Storage(str(tmp_path) if kind == "file" else f"memory://{tmp_path}")
    _foreign(storage, every=10)  # it is watched for 25 s, or until it shows life
    alive = threading.Timer(0.2, lambda: _foreign(storage, every=10, beats=1))
    alive.start()
    with pytest.raises(LockedError, match="process 1 on elsewhere"):
        held(storage, "lock", beat=0.05).__enter__()
    alive.join()


def test_whoever_was_taken_over_stops(tmp_path):
    storage = Storage(f"memory://{tmp_path}")

    def lost(lock):
        _foreign(storage)  # again, if the owner wrote just then
        return lock._lost

    with held(storage, "lock", beat=0.05) as lock:
        until(lambda: lost(lock))
        with pytest.raises(LockedError, match="taken over by process 1 on elsewhere"):
            lock.check()
    assert storage.names("") == ["lock"]  # it is theirs


def test_clocks_may_jump(scene, whole, tmp_path, monkeypatch):
    real, rng = time.time, np.random.default_rng(0)
    monkeypatch.setattr(time, "time", lambda: real() + rng.uniform(-1e8, 1e8))
    run(scene, tmp_path / "m.zarr", client=None)
    assert chunks(tmp_path / "m.zarr") == whole


def test_a_worker_of_an_older_run_cannot_write_into_a_new_one(
    scene, tmp_path, monkeypatch
):
    """Its client was killed, another run began the store anew."""
    plan = make_plan(scene, model=LocalModel(card=card()), block=72)
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, out=tmp_path / "m.zarr", progress=_stop_after(1))
    old = open_masks(str(tmp_path / "m.zarr"))
    job = geoseg.inference.worker.Job(
        source=plan.source, model=plan.model, tiling=plan.tiling, masks=old
    )
    run(scene, tmp_path / "m.zarr", overwrite=True)
    after = chunks(tmp_path / "m.zarr")
    for mark in (tmp_path / "m.zarr" / ".geoseg" / "done").iterdir():
        mark.unlink()
    recent = geoseg.inference.block_cache._Recent()  # as a worker elsewhere has it
    monkeypatch.setattr("geoseg.inference.block_cache._RECENT", recent)
    with pytest.raises(MasksError, match="begun again"):
        geoseg.inference.worker.infer(job, plan.tiling.block_at(2, 2))
    assert chunks(tmp_path / "m.zarr") == after


# --- reading --------------------------------------------------------------------------


class Shaky(MemorySource):
    """A source whose first reads of a window fail."""

    fails: ClassVar = {}

    def read(self, window):
        left = Shaky.fails.get((window.y, window.x), 0)
        if left:
            Shaky.fails[window.y, window.x] = left - 1
            raise RasterError("connection reset by peer")
        return super().read(window)


def shaky(pixels):
    from pyproj import CRS

    return Shaky(values=pixels, crs=CRS.from_epsg(32633).to_wkt())


def test_a_read_that_fails_twice_is_tried_again(pixels, whole, tmp_path):
    Shaky.fails = {(66, 66): 2}
    run(shaky(pixels), tmp_path / "m.zarr")
    assert Shaky.fails == {(66, 66): 0}
    assert chunks(tmp_path / "m.zarr") == whole


def test_a_block_that_cannot_be_read_fails_and_the_next_run_retries(
    pixels, whole, tmp_path
):
    Shaky.fails = {(66, 66): 10**6}
    model = counting(tmp_path)
    match = r"1 of 9 blocks failed.*block 1,1: connection reset by peer"
    with pytest.raises(BlocksFailedError, match=match) as error:
        run(shaky(pixels), tmp_path / "m.zarr", model)
    assert error.value.exit_status == 3
    assert len(chunks(tmp_path / "m.zarr")) == BLOCKS - 1
    Shaky.fails = {}
    before = seen(tmp_path)
    run(shaky(pixels), tmp_path / "m.zarr", model)
    assert seen(tmp_path) - before == 4
    assert chunks(tmp_path / "m.zarr") == whole


@pytest.mark.parametrize("how", ["replaced", "rewritten", "deleted"])
def test_a_raster_that_changes_during_the_run_is_refused(pixels, tmp_path, how):
    scene = write(tmp_path / "scene.tif", pixels)

    changed = []

    def show(now):
        if now.inferred == 0 or changed:
            return
        changed.append(now)
        if how == "deleted":
            Path(scene).unlink()
        elif how == "rewritten":
            write(scene, 1 - pixels)
        else:
            write(tmp_path / "new.tif", 1 - pixels)
            (tmp_path / "new.tif").replace(scene)

    plan = make_plan(scene, model=counting(tmp_path), block=72)
    from dataclasses import replace

    with pytest.raises(SourceChangedError, match="was replaced or changed") as error:
        run_plan(replace(plan, tasks=1), out=tmp_path / "m.zarr", progress=show)
    assert error.value.exit_status == 2
    if how != "deleted":  # and it is refused to be gone on with
        with pytest.raises(MasksError, match="begun from another raster"):
            run(scene, tmp_path / "m.zarr", counting(tmp_path))


@pytest.mark.parametrize("kind", ["zarr", "numpy", "many files"])
def test_what_is_not_looked_at_after_each_read_is_at_the_end(
    pixels, tmp_path, monkeypatch, kind
):
    array = xr.DataArray(pixels.copy(), dims=("band", "y", "x"), name="scene")
    scene = touched = tmp_path / "scene.zarr"
    if kind == "many files":
        monkeypatch.setattr(file_versions, "_ASKED_LOCAL", 0)
        scene = touched = write(tmp_path / "scene.tif", pixels)
    elif kind == "zarr":
        touched = scene / "scene/0.0.0"
        array.to_dataset().to_zarr(scene, zarr_format=2)
    else:
        scene = array

    def show(_):
        if kind == "numpy":
            array[0, 0, 0] += 1
        else:
            os.utime(touched, ns=(1, 1))

    plan = make_plan(scene, model=counting(tmp_path), block=72)
    with pytest.raises(SourceChangedError, match=r"scene.* was replaced or changed"):
        run_plan(plan, out=tmp_path / "m.zarr", progress=show)
    assert not open_masks(str(tmp_path / "m.zarr")).is_complete


# --- writing --------------------------------------------------------------------------


def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(
    scene, whole, tmp_path, small_disk
):
    where, resize = small_disk
    model = counting(tmp_path)
    with pytest.raises(StorageFullError, match=r"make room.*resumes") as error:
        run(scene, where / "m.zarr", model)
    assert error.value.exit_status == 3
    assert "No space left" in str(error.value)
    masks = open_masks(str(where / "m.zarr"))
    kept = len(masks.marked(PARTIAL) | masks.done())
    assert kept < BLOCKS
    assert resize("20m") == 0
    before = seen(tmp_path)
    run(scene, where / "m.zarr", model)
    assert chunks(where / "m.zarr") == whole
    assert seen(tmp_path) - before == WINDOWS - 4 * kept


@pytest.mark.parametrize("full_at", [1, 5, 12, 30])
def test_a_disk_that_fills_anywhere(scene, whole, tmp_path, monkeypatch, full_at):
    """As above where nothing can be mounted: every write after the n-th fails."""
    calls, put, write = [], Storage.put, Masks.write

    def full():
        calls.append(1)
        if len(calls) > full_at:
            raise OSError(errno.ENOSPC, "No space left on device")

    def put_or_fail(self, name, data):
        if not name.endswith("run.json"):
            full()
        put(self, name, data)

    def write_or_fail(self, *arguments):
        full()
        return write(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "put", put_or_fail)
        patch.setattr(Masks, "write", write_or_fail)
        with pytest.raises(StorageFullError):
            run(scene, tmp_path / "m.zarr")
    run(scene, tmp_path / "m.zarr")
    assert chunks(tmp_path / "m.zarr") == whole


def test_what_is_damaged_or_lost_is_rebuilt(scene, whole, tmp_path, monkeypatch):
    plan = make_plan(scene, model=LocalModel(card=card()), block=72)
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, out=tmp_path / "m.zarr", progress=_stop_after(2))
    meta = tmp_path / "m.zarr" / ".geoseg"
    for part in (meta / "parts").iterdir():
        data = part.read_bytes()
        half = len(data) // 2
        part.write_bytes(data[:half].ljust(len(data), b"\0"))  # a page was lost
    for halo in list((meta / "rims").iterdir())[::3]:
        halo.unlink()
    # Another process has nothing of it in memory.
    monkeypatch.setattr(block_cache, "_RECENT", block_cache._Recent())
    run(scene, tmp_path / "m.zarr")
    assert chunks(tmp_path / "m.zarr") == whole


def test_a_run_killed_at_its_very_beginning_is_ours(scene, whole, tmp_path):
    (tmp_path / "m.zarr" / ".geoseg" / "done").mkdir(parents=True)
    run(scene, tmp_path / "m.zarr")
    assert chunks(tmp_path / "m.zarr") == whole
    (tmp_path / "theirs.zarr").mkdir()
    (tmp_path / "theirs.zarr" / "x").touch()
    with pytest.raises(MasksError, match="geoseg did not make it"):
        run(scene, tmp_path / "theirs.zarr")
    assert [p.name for p in (tmp_path / "theirs.zarr").iterdir()] == ["x"]


def test_begun_anew_but_killed_while_deleting(scene, whole, tmp_path, monkeypatch):
    run(scene, tmp_path / "m.zarr", LocalModel(card=card(), bump=3.0))

    class Killed(BaseException):
        pass

    def remove(self, name, real=Storage.remove):
        real(self, name)
        if name == "classes":
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "remove", remove)
        with pytest.raises(Killed):
            run(scene, tmp_path / "m.zarr", overwrite=True)
    run(scene, tmp_path / "m.zarr")
    assert chunks(tmp_path / "m.zarr") == whole


# --- the accelerator ------------------------------------------------------------------


def test_out_of_memory_on_the_gpu_halves_the_batch(scene, tmp_path):
    """Simulated: a network that raises what CUDA raises past three windows."""
    import torch

    class Net(torch.nn.Module):
        def __init__(self, most):
            super().__init__()
            self.most = most

        def forward(self, x):
            if len(x) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate …")
            return x

    def net(most):
        made = Net(most)
        made.card = card()
        return made

    run(scene, tmp_path / "large.zarr", net(100), batch=8)
    run(scene, tmp_path / "small.zarr", net(3), batch=8)
    assert chunks(tmp_path / "small.zarr") == chunks(tmp_path / "large.zarr")
    with pytest.raises(GeosegError, match="memory"):
        run(scene, tmp_path / "none.zarr", net(0), batch=8)


# --- the scheduler --------------------------------------------------------------------


@contextlib.contextmanager
def processes():
    """Start processes that are killed at the end."""
    running = []

    def start(*line):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        running.append(subprocess.Popen([sys.executable, "-m", *line], **quiet))
        return running[-1]

    try:
        yield start
    finally:
        for process in running:
            process.kill()
            process.wait()


def test_a_scheduler_that_comes_back_at_its_address(scene, whole, tmp_path):
    from ports import free_port

    address = f"tcp://127.0.0.1:{free_port()}"
    dask_scheduler = (
        "distributed.cli.dask_scheduler",
        "--host",
        address,
        "--no-dashboard",
        "--no-show",
    )
    dask_worker = ("distributed.cli.dask_worker", address, "--nthreads", "2")
    with processes() as start:
        first = [start(*dask_scheduler), start(*dask_worker, "--no-dashboard")]

        def show(now):
            if now.blocks >= 2 and len(first) == 2:
                for process in first:
                    process.kill()
                    process.wait()
                first.append(start(*dask_scheduler))
                first.append(start(*dask_worker, "--no-dashboard"))

        model = counting(tmp_path, lambda *_: time.sleep(0.05))
        with open_client(scheduler=address) as client:
            run(scene, tmp_path / "m.zarr", model, client=client, progress=show)
        assert len(first) == 4
    assert chunks(tmp_path / "m.zarr") == whole
    assert seen(tmp_path) <= WINDOWS + 4 * 6
