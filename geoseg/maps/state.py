"""The state of a run, beside the arrays of a store: its record, marks, what waits.

    .geoseg/run.json     the record: which run, its settings, whether it is complete
    .geoseg/copy.json    a second copy of that and of all metadata (`maps/second_copy`)
    .geoseg/lock         who writes (`maps/lock`)
    .geoseg/done/…       a mark per block, with checksums of what was written
    .geoseg/parts/…      partial blocks, and .geoseg/rims/… what each adds to neighbours
    .geoseg/objects/…    what is kept while objects are joined
    .geoseg/writing/…    chunks on their way, below the run that writes them

All but those two ends in, or lies below, the tag of its run: what a run that is dead
writes late, as from a machine that was stopped, is nobody's. It is harmless when the
run is complete.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

from geoseg.core.files import replace
from geoseg.core.text import redact
from geoseg.errors import DamagedStoreError, MasksError
from geoseg.maps.second_copy import COPY, META, RECORD, put_twice
from geoseg.maps.storage import Storage

LOCK = f"{META}/lock"
DONE = f"{META}/done"
PARTIAL = f"{META}/parts"
"""Partial blocks, which wait for their neighbours."""
HALO = f"{META}/rims"
"""What each block adds to its neighbours."""
OBJECT_CACHE = f"{META}/objects"
"""What is kept while objects are joined."""
WRITING = f"{META}/writing"
"""Chunks on their way."""

_RECORDED = {"settings": dict, "block": int, "run": str, "complete": bool}
"""What a run record holds at least."""
_KEY = re.compile(r"(\d+)\.(\d+)")


@lru_cache(maxsize=64)
def tag_of(run: str) -> str:
    """Return what the names of a run's objects end in: 16 digits."""
    return sha256(run.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class RunStorage:
    """The small objects of one run, which others do not see, and its way to chunks."""

    storage: Storage
    run: str

    def write(self, chunks: Mapping[str, bytes | None]) -> None:
        """Write chunks, each whole and in one step; delete those that are None.

        In a folder, an object is written in a folder of the run's and put in place from
        there. When another run begins the store again it deletes that folder, and
        whatever the dead run still has in its hands has no way in.
        """
        if not self.storage.is_local:
            self.storage.put_all(chunks)
            return
        hold = self.storage.path(f"{WRITING}/{tag_of(self.run)}")
        for name, data in chunks.items():
            held, target = hold / uuid4().hex, self.storage.path(name)
            try:
                if data is not None:
                    _put(held, target, data)
                elif target.exists():
                    replace(target, held)
                    held.unlink(missing_ok=True)
            except FileNotFoundError as error:
                if data is not None or not hold.is_dir():
                    raise begun_again(self.storage.url) from error

    def _named(self, name: str) -> str:
        return f"{name}.{tag_of(self.run)}"

    def put(self, name: str, data: bytes) -> None:
        """Write an object; see `Storage.put`."""
        self.storage.put(self._named(name), data)

    def get(self, name: str) -> bytes:
        """Read an object; FileNotFoundError where there is none."""
        return self.storage.get(self._named(name))

    def exists(self, name: str) -> bool:
        """Whether there is an object."""
        return self.storage.exists(self._named(name))

    def discard(self, name: str) -> None:
        """Delete one object; none there is fine."""
        self.storage.discard(self._named(name))

    def remove(self, name: str) -> None:
        """Delete everything below a name, of any run."""
        self.storage.remove(name)

    def discard_all(self, names: Iterable[str]) -> None:
        """Delete objects; far away in one request."""
        named = [self._named(name) for name in names]
        if self.storage.is_local:
            for name in named:
                self.storage.discard(name)
        else:
            self.storage.put_all(dict.fromkeys(named))

    def keys(self, folder: str, *, empty: bool = True) -> set[tuple[int, int]]:
        """Return the blocks (row, column) of which there is an object in a folder.

        Args:
            folder: Where.
            empty: Whether objects without content count, as a full disk leaves them.
        """
        ending = f".{tag_of(self.run)}"
        names = self.storage.names(folder, empty=empty)
        return block_positions(
            n.removesuffix(ending) for n in names if n.endswith(ending)
        )


def block_positions(names: Iterable[str]) -> set[tuple[int, int]]:
    """Return the blocks that names such as `3.14` stand for; others stand for none."""
    found = filter(None, map(_KEY.fullmatch, names))
    return {(int(match[1]), int(match[2])) for match in found}


def _put(held: Path, target: Path, data: bytes) -> None:
    """Write a file, then put it in its place."""
    try:
        with held.open("xb") as file:
            file.write(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        replace(held, target)
    except BaseException:
        held.unlink(missing_ok=True)
        raise


def hold(storage: Storage, run: str) -> None:
    """Make the folder in which a run writes chunks; object stores need none."""
    if storage.is_local:
        storage.path(f"{WRITING}/{tag_of(run)}").mkdir(parents=True, exist_ok=True)


def begun_again(path: str) -> MasksError:
    """Return the error of a run whose store is another's now."""
    return MasksError(
        f"{redact(path)} was deleted or begun again while this run was at work"
    )


def damaged(name: str, what: str) -> DamagedStoreError:
    """Return the error of a store whose small files are not as they were written."""
    return DamagedStoreError(
        f"{name}: {what} cannot be used, as after a full disk or a power failure: "
        f"geoseg verify {name} --repair restores it where there is a copy; else make "
        "the map again with --overwrite"
    )


def parsed(data: bytes, url: str, name: str) -> dict[str, Any]:
    """Return a small JSON object of a store.

    Raises:
        DamagedStoreError: It is empty, cut, or no object.
    """
    try:
        value = json.loads(data)
    except ValueError as error:
        raise damaged(redact(url), f"{name} ({len(data)} bytes)") from error
    if not isinstance(value, dict):
        raise damaged(redact(url), f"{name}, which holds no object,")
    return value


def read_record(storage: Storage) -> dict[str, Any]:
    """Return the run record of a store.

    Raises:
        DamagedStoreError: It is not as it was written.
        FileNotFoundError: There is none.
    """
    return _record_of(storage.get(RECORD), storage.url)


def found_record(storage: Storage) -> dict[str, Any] | None:
    """Return the run record of a store, or None; raises where it is damaged."""
    data = storage.find(RECORD)
    return None if data is None else _record_of(data, storage.url)


def current_run(storage: Storage) -> str:
    """Return the run that a store is of now; raises as `read_record`."""
    return _run_of(storage.get(RECORD), storage.url)


@lru_cache(maxsize=8)
def _run_of(record: bytes, url: str) -> str:
    """Return the run of a record, which is asked for with every block."""
    return str(_record_of(record, url)["run"])


def _record_of(data: bytes, url: str) -> dict[str, Any]:
    record = parsed(data, url, RECORD)
    for key, kind in _RECORDED.items():
        if type(record.get(key)) is not kind:  # a bool is no whole number here
            raise damaged(redact(url), f"{RECORD} without {key!r}")
    if record["block"] < 1:
        raise damaged(redact(url), f"{RECORD} with blocks of {record['block']} px")
    return record


def begin_record(storage: Storage, record: Mapping[str, Any]) -> None:
    """Write the record of a store that is begun; of what was there, nothing is kept."""
    storage.put(RECORD, _written(record))
    storage.discard(COPY)


def write_record(
    storage: Storage,
    record: Mapping[str, Any],
    metadata: Mapping[str, bytes] | None = None,
) -> None:
    """Write the run record of a store; of one that is new, its metadata are given."""
    put_twice(storage, {RECORD: _written(record)}, metadata)


def _written(record: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(record), indent=1).encode()


def clear_state(storage: Storage) -> None:
    """Delete what an earlier run left; its marks bear its name, so that none counts.

    The folder of chunks on their way goes first: from then on nothing of the earlier
    run can come in.
    """
    for name in _there(storage, WRITING, DONE, PARTIAL, HALO, OBJECT_CACHE):
        storage.remove(name)
    for name in storage.names(""):
        if name != META:
            storage.remove(name)


def remove_leftovers(storage: Storage) -> None:
    """Delete what is of no use any more when a run is complete."""
    for name in _there(storage, WRITING, PARTIAL, HALO):
        with suppress(OSError):  # harmless where it cannot be deleted
            storage.remove(name)
    storage.sweep()


def _there(storage: Storage, *names: str) -> list[str]:
    """Return those of some folders, or folders in those, of which there is anything.

    To ask an object store once is quicker than to delete what it does not have.
    """
    there = {f"{META}/{name}" for name in storage.names(META)}
    return [name for name in names if there & {name, name.rpartition("/")[0]}]
