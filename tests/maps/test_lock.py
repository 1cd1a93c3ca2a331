"""Locks: of dead processes, of containers that share a name, without the kernel's."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time

import filelock
import pytest

from geoseg.core.processes import begun, has_ended, here
from geoseg.errors import LockedError
from geoseg.maps.lock import held
from geoseg.maps.storage import Storage

# A process that holds a lock until it is killed; as on Windows where it is told so.
OWNER = """
import os, sys, time
if sys.argv[2] == "bare":
    sys.modules["fcntl"] = None
    for name in ("pread", "pwrite"):
        delattr(os, name)
from geoseg.maps.lock import held
from geoseg.maps.storage import Storage
with held(Storage(sys.argv[1]), "lock", beat=0.1):
    print("held", flush=True)
    time.sleep(60)
"""


def owner(folder, kind="usual"):
    line = [sys.executable, "-c", OWNER, str(folder), kind]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def record(folder, **fields):
    """Leave the record of an owner elsewhere; give what is to be different."""
    record = {
        "id": "other", "host": socket.gethostname(), "place": "another container",
        "pid": os.getpid(), "started": begun(os.getpid()), "every": 0.1, "beats": 0,
        "kernel": True,  # of a kernel that is not ours
    }  # fmt: skip
    data = json.dumps(record | fields).encode().ljust(512)
    Storage(str(folder)).put("lock", data)


def take(folder):
    with held(Storage(str(folder)), "lock", beat=0.1):
        pass


@pytest.mark.parametrize("kind", ["usual", "bare"])
def test_an_owner_is_respected_until_it_dies_and_then_at_once_no_more(tmp_path, kind):
    process = owner(tmp_path, kind)
    with pytest.raises(LockedError, match=f"by process {process.pid} on"):
        take(tmp_path)
    process.kill()
    process.wait()
    process.stdout.close()
    begin = time.monotonic()
    take(tmp_path)
    assert time.monotonic() - begin < 0.2, "nothing was watched"


def test_systems_without_kernel_locks_refuse_each_other_by_the_record(tmp_path):
    first = owner(tmp_path, "bare")
    line = [sys.executable, "-W", "error", "-c", OWNER, str(tmp_path), "bare"]
    second = subprocess.run(line, capture_output=True, text=True, check=False)
    first.kill()
    first.wait()
    first.stdout.close()
    assert second.stderr.splitlines()[-1].startswith("geoseg.errors.LockedError")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_systems_without_locks_have_the_record(tmp_path, monkeypatch, number):
    def no_lock(self):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(filelock.FileLock, "acquire", no_lock)
    with held(Storage(str(tmp_path)), "lock"), pytest.raises(LockedError):
        take(tmp_path)
    take(tmp_path)


def test_containers_of_one_name_do_not_take_each_other_for_dead(tmp_path):
    """Its pid means nothing here; whether it lives, its record shows."""
    record(tmp_path, pid=2**22 + 5, started=1.0, every=4)
    alive = threading.Timer(0.3, record, [tmp_path], {"beats": 1, "every": 4})
    alive.start()
    with pytest.raises(LockedError, match="is being written by process"):
        take(tmp_path)
    alive.join()
    record(tmp_path)
    take(tmp_path)  # silent for 2.5 beats


def test_of_two_that_come_at_once_the_last_has_it(tmp_path, monkeypatch):
    create = Storage.create

    def both(self, name, data):
        created = create(self, name, data)
        record(tmp_path)  # the other one's, a moment later
        return created

    monkeypatch.setattr(Storage, "create", both)
    with pytest.raises(LockedError, match="is being written by process"):
        take(tmp_path)
    assert b"other" in Storage(str(tmp_path)).get("lock")


def test_records_of_older_versions_are_watched(tmp_path):
    storage = Storage(str(tmp_path))
    old = {"id": "x", "host": socket.gethostname(), "pid": 1, "every": 0.05}
    storage.put("lock", json.dumps(old).encode())
    take(tmp_path)
    storage.put("lock", b"")
    take(tmp_path)


def test_who_has_ended(monkeypatch):
    mine = begun(os.getpid())
    assert has_ended(here(), os.getpid(), mine) is False
    assert has_ended(here(), 2**22 + 5, mine) is True
    assert has_ended("elsewhere", os.getpid(), mine) is None
    assert has_ended(here(), os.getpid(), mine - 60) is None, "a clock may be set"
    assert has_ended(None, os.getpid(), mine) is None


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_who_may_write_the_folder_may_hold_its_lock_and_nobody_else(tmp_path):
    for mode in (0o750, 0o775, 0o700):
        folder = tmp_path / oct(mode)
        folder.mkdir(mode=0o700)
        folder.chmod(mode)
        before = {f.name for f in folder.iterdir()}
        with held(Storage(str(folder)), "lock"):
            (made,) = {f.name for f in folder.iterdir()} - before - {"lock"}
            assert (folder / made).stat().st_mode & 0o777 == mode & 0o666
