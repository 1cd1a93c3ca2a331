"""One run at a time on one store.

On a disk the kernel holds the lock, and forgets it when the process ends, however it
ends. Beside that the owner rewrites a small record every few seconds: in an object
store, or where two machines do not see each other's locks, whoever finds a record
watches whether it changes. No clock is compared with another, so clocks may jump.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from geoseg.core.text import redact
from geoseg.errors import LockedError
from geoseg.maps.storage import Storage

BEAT = 10.0
"""Seconds between two signs of life of an owner."""
_MISSED = 2.5
"""Beats without a sign of life after which an owner is taken for dead."""
_SIZE = 512
"""Bytes of a record; always the same, so that it is rewritten in place."""


class Lock:
    """A lock that is held."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lost: str | None = None

    def check(self) -> None:
        """Raise where another run has taken over, as after a long suspension."""
        if self._lost is not None:
            raise LockedError(
                f"{self._name} was taken over by {self._lost} while this run showed no "
                "sign of life: this one stops, that one goes on"
            )

    def _lose(self, owner: str) -> None:
        self._lost = owner


@contextmanager
def held(storage: Storage, name: str, *, beat: float = BEAT) -> Iterator[Lock]:
    """Hold the lock `name` of a folder or prefix, or refuse.

    A lock whose owner is dead is taken over: at once where the kernel says so, else
    after watching its record for 2.5 of the owner's beats.

    Args:
        storage: Where the lock lies.
        name: Its name there.
        beat: Seconds between signs of life.

    Raises:
        LockedError: Somebody else holds it.
        OSError: It cannot be written there.
    """
    record = _record(beat)
    place = _place(storage, name)
    place.take(record)
    lock = Lock(redact(storage.url))
    stop = threading.Event()
    heart = threading.Thread(
        target=_beat, args=(place, record, lock, stop), daemon=True, name="geoseg-lock"
    )
    heart.start()
    try:
        yield lock
    finally:
        stop.set()
        heart.join()
        place.release(record["id"])


def _beat(
    place: _Place, record: dict[str, Any], lock: Lock, stop: threading.Event
) -> None:
    while not stop.wait(record["every"]):
        try:
            found = place.read()
            if found is not None and found["id"] != record["id"]:
                lock._lose(_who(found))  # noqa: SLF001
                return
            record["beats"] += 1
            place.write(record)
        except OSError:
            continue  # storage hiccups; the next beat tells


def _record(every: float) -> dict[str, Any]:
    return {
        "id": uuid4().hex,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "every": every,
        "beats": 0,
    }


def _started(pid: int) -> str | None:
    """Return when a process began, in ticks since boot: pids are used again."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()[19]


def _is_gone(record: Mapping[str, Any]) -> bool | None:
    """Whether an owner has ended; None where it cannot be known, on another host."""
    if record["host"] != socket.gethostname() or record["started"] is None:
        return None
    return bool(_started(record["pid"]) != record["started"])


def _who(record: Mapping[str, Any]) -> str:
    return f"process {record['pid']} on {record['host']}"


def _refuse(name: str, record: Mapping[str, Any] | None) -> LockedError:
    who = "another process" if record is None else _who(record)
    return LockedError(
        f"{name} is being written by {who}: wait until that is done, or stop it; the "
        "same command then goes on"
    )


def _check_dead(place: _Place, record: Mapping[str, Any], name: str) -> None:
    """Raise where the owner of a record is alive."""
    gone = _is_gone(record)
    if gone is False or (gone is None and _shows_life(place, record)):
        raise _refuse(name, record)


def _shows_life(place: _Place, record: Mapping[str, Any]) -> bool:
    """Watch a record for as long as its owner may be silent."""
    deadline = time.monotonic() + _MISSED * float(record["every"])
    while time.monotonic() < deadline:
        time.sleep(min(0.5, float(record["every"]) / 4))
        if place.read() != record:
            return True
    return False


class _Place(Protocol):
    """Where a lock lies."""

    def take(self, record: Mapping[str, Any]) -> None: ...
    def read(self) -> dict[str, Any] | None: ...
    def write(self, record: Mapping[str, Any]) -> None: ...
    def release(self, owner: str) -> None: ...


def _place(storage: Storage, name: str) -> _Place:
    if storage.is_local:
        root = Path(storage.url.removeprefix("file://"))
        return _File(root / name, redact(storage.url))
    return _Object(storage, name)


def _encode(record: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(record)).encode().ljust(_SIZE)


def _decode(data: bytes) -> dict[str, Any] | None:
    """Return a record; None where there is none, or only half of one."""
    try:
        record = json.loads(data)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "id" in record else None


class _File:
    """A lock on a file system: the kernel's, and a record for other machines."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._handle = -1

    def take(self, record: Mapping[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            certain = self._open()
            found = self.read()
            if found is not None and not (certain and self._is_here(found)):
                _check_dead(self, found, self._name)
            self.write(record)
        except BaseException:
            self._close()
            raise

    def _open(self) -> bool:
        """Take the kernel's lock; False where the file system has none."""
        while True:
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            locked = self._lock()
            try:
                if os.path.samestat(os.fstat(self._handle), self._path.stat()):
                    return locked
            except FileNotFoundError:
                pass  # its owner has just released and removed it: make it anew
            self._close()

    def _lock(self) -> bool:
        try:
            import fcntl
        except ImportError:  # not POSIX
            return False
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _refuse(self._name, self.read()) from None
        except OSError as error:
            if error.errno in {errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL}:
                return False
            raise
        return True

    def _is_here(self, record: Mapping[str, Any]) -> bool:
        return bool(record["host"] == socket.gethostname())

    def read(self) -> dict[str, Any] | None:
        return _decode(os.pread(self._handle, _SIZE, 0))

    def write(self, record: Mapping[str, Any]) -> None:
        os.pwrite(self._handle, _encode(record), 0)

    def release(self, owner: str) -> None:
        try:
            found = self.read()
            if found is not None and found["id"] == owner:
                self._path.unlink(missing_ok=True)
        finally:
            self._close()

    def _close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


class _Object:
    """A lock in an object store."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._name = storage, name

    def take(self, record: Mapping[str, Any]) -> None:
        if not self._storage.create(self._name, _encode(record)):
            found = self.read()
            if found is not None:
                _check_dead(self, found, self._storage.url)
            self.write(record)
        found = self.read()  # two may have come at once: the last one has it
        if found is not None and found["id"] != record["id"]:
            raise _refuse(self._storage.url, found)

    def read(self) -> dict[str, Any] | None:
        try:
            return _decode(self._storage.get(self._name))
        except FileNotFoundError:
            return None

    def write(self, record: Mapping[str, Any]) -> None:
        self._storage.put(self._name, _encode(record))

    def release(self, owner: str) -> None:
        found = self.read()
        if found is not None and found["id"] == owner:
            self._storage.discard(self._name)
