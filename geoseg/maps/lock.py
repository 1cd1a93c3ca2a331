"""One run at a time on one store.

In a folder the kernel holds the lock, and forgets it when the process ends, however it
ends (`filelock`). Beside that the owner rewrites a small record every few seconds: in
an object store, or where two machines do not see each other's locks, whoever finds a
record watches whether it changes. No clock is compared with another, so clocks may
jump.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from geoseg.core.processes import begun, has_ended, here
from geoseg.core.text import redact
from geoseg.errors import LockedError
from geoseg.maps.storage import Storage

if TYPE_CHECKING:
    from pathlib import Path

BEAT = 10.0
"""Seconds between two signs of life of an owner."""
_MISSED = 2.5
"""Beats without a sign of life after which an owner is taken for dead."""
_SIZE = 512
"""Bytes of a record; always the same, so that it is rewritten in place."""
_NO_LOCKS = {errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL}
"""What the kernel answers on file systems without locks."""


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
                "sign of life: this one stops, that one continues"
            )

    def _lose(self, owner: str) -> None:
        self._lost = owner


@contextmanager
def held(storage: Storage, name: str, *, beat: float = BEAT) -> Iterator[Lock]:
    """Hold the lock `name` of a folder or prefix, or refuse.

    A lock whose owner is dead is taken over: at once where that is certain, else after
    watching its record for 2.5 of the owner's beats.

    Args:
        storage: Where the lock lies.
        name: Its name there. The kernel's lock lies beside it, and stays.
        beat: Seconds between signs of life.

    Raises:
        LockedError: Somebody else holds it.
        OSError: It cannot be written there.
    """
    record, place = _record(beat), _Record(storage, name)
    with ExitStack() as stack:
        if storage.is_local:
            record["kernel"] = stack.enter_context(_held_by_kernel(place))
        place.take(record)
        stack.callback(place.release, record["id"])
        lock = Lock(redact(storage.url))
        stack.enter_context(_beating(place, record, lock))
        yield lock


@contextmanager
def _beating(place: _Record, record: dict[str, Any], lock: Lock) -> Iterator[None]:
    """Show signs of life, from a thread of their own."""
    stop = threading.Event()
    heart = threading.Thread(
        target=_beat, args=(place, record, lock, stop), daemon=True, name="geoseg-lock"
    )
    heart.start()
    try:
        yield
    finally:
        stop.set()
        heart.join()


def _beat(
    place: _Record, record: dict[str, Any], lock: Lock, stop: threading.Event
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
        "place": here(),
        "pid": os.getpid(),
        "started": begun(os.getpid()),
        "kernel": False,
        "every": every,
        "beats": 0,
    }


def _who(record: Mapping[str, Any]) -> str:
    return f"process {record['pid']} on {record['host']}"


def _refuse(name: str, record: Mapping[str, Any] | None) -> LockedError:
    who = "another process" if record is None else _who(record)
    return LockedError(
        f"{name} is being written by {who}: wait until that is done, or stop it; the "
        "same command then resumes"
    )


@contextmanager
def _held_by_kernel(place: _Record) -> Iterator[bool]:
    """Hold the kernel's lock of a folder; say whether the kernel has such locks.

    Raises:
        LockedError: Another process holds it.
    """
    file = place.beside
    file.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():  # of systems without locks, which have the record
        warnings.simplefilter("ignore")
        import filelock
    if filelock.FileLock is filelock.SoftFileLock:
        yield False
        return
    # Who may write the folder may hold it, and no one else: several users share stores.
    mode = file.parent.stat().st_mode & 0o666
    lock = filelock.FileLock(file, timeout=0, thread_local=False, mode=mode)
    try:
        lock.acquire()
    except (filelock.Timeout, RuntimeError) as error:
        if isinstance(error, NotImplementedError):
            yield False
            return
        raise _refuse(place.name, place.read()) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@dataclass(frozen=True, slots=True)
class _Record:
    """Who holds a lock, and signs of their life: a small object."""

    storage: Storage
    object: str

    @property
    def name(self) -> str:
        """What messages call the store."""
        return redact(self.storage.url)

    @property
    def beside(self) -> Path:
        """The file that the kernel locks."""
        return self.storage.path(f"{self.object}.held")

    def take(self, record: Mapping[str, Any]) -> None:
        """Become the owner, or raise where there is one that lives."""
        if not self.storage.create(self.object, _encode(record)):
            found = self.read()
            if found is not None and not _is_certain(record, found):
                self._check_dead(found)
            self.write(record)
        found = self.read()  # two may have come at once: the last one has it
        if found is not None and found["id"] != record["id"]:
            raise _refuse(self.name, found)

    def _check_dead(self, record: Mapping[str, Any]) -> None:
        ended = has_ended(record.get("place"), record["pid"], record.get("started"))
        if ended is False or (ended is None and self._shows_life(record)):
            raise _refuse(self.name, record)

    def _shows_life(self, record: Mapping[str, Any]) -> bool:
        """Watch a record for as long as its owner may be silent."""
        deadline = time.monotonic() + _MISSED * float(record["every"])
        while time.monotonic() < deadline:
            time.sleep(min(0.5, float(record["every"]) / 4))
            if self.read() != record:
                return True
        return False

    def read(self) -> dict[str, Any] | None:
        """Return the record; None where there is none, or only half of one."""
        try:
            record = json.loads(self.storage.get(self.object))
        except (FileNotFoundError, ValueError):
            return None
        whole = isinstance(record, dict) and {"id", "pid", "host", "every"} <= {*record}
        return record if whole else None

    def write(self, record: Mapping[str, Any]) -> None:
        """Put a record in the place of another; in a file without needing room."""
        if self.storage.is_local:
            try:
                with self.storage.path(self.object).open("r+b") as file:
                    file.write(_encode(record))
            except FileNotFoundError:
                pass
            else:
                return
        self.storage.put(self.object, _encode(record))

    def release(self, owner: str) -> None:
        """Remove the record, unless another has taken over."""
        found = self.read()
        if found is not None and found["id"] == owner:
            self.storage.discard(self.object)


def _is_certain(record: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether the kernel says that an owner is dead: it had the lock that we have."""
    same = found.get("place") == record["place"]
    return bool(same and record["kernel"] and found.get("kernel"))


def _encode(record: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(record)).encode().ljust(_SIZE)
