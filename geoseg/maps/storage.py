"""Small whole objects by name, on a disk or in an object store.

Chunks of the arrays, and what lies beside those: the run record, done marks, and the
parts of blocks that wait for their neighbours. An object appears whole or not at all.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname
from uuid import uuid4

import fsspec

from geoseg.core.files import replace
from geoseg.core.object_stores import access
from geoseg.core.text import redact
from geoseg.errors import (
    GeosegError,
    MasksError,
    StorageFullError,
    first_line,
    is_full,
)

_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.partial$|(^|/)\.tmp-")
"""Files that become objects by renaming: Zarr's and ours."""


_STRAY = re.compile(
    r"\.nfs[0-9a-f]+|\.fuse_hidden[0-9a-f]+|\._.*|\.DS_Store|\.directory|Thumbs\.db"
    r"|desktop\.ini|\.~lock\..*#|\..*\.sw[a-p]",
    re.IGNORECASE,
)
"""Files that file systems, file managers and editors make; they mean nothing."""
_BUSY = {errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY, errno.EACCES}


def is_stray(name: str) -> bool:
    """Whether a file was made by a file system or a file manager, by its last name."""
    return _STRAY.fullmatch(name.rpartition("/")[2]) is not None


def is_temporary(name: str) -> bool:
    """Whether a file is an object on its way, or what a killed write left of one."""
    return _TEMPORARY.search(name) is not None


@contextmanager
def store_errors(url: str) -> Iterator[None]:
    """Turn what reading a store raises into a MasksError of one line, redacted.

    Libraries of object stores have errors of their own, which are no OSErrors.
    """
    try:
        yield
    except (GeosegError, FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        raise  # whoever reads knows better what it means
    except Exception as error:
        raise MasksError(
            f"{redact(url)} cannot be read: {redact(first_line(error))}"
        ) from error


@contextmanager
def write_errors(url: str, *, of_room: bool = False) -> Iterator[None]:
    """Say on one line why a store cannot be written.

    Args:
        url: Which one.
        of_room: Let other errors pass than that there is no room, as of what is read.
    """
    try:
        yield
    except OSError as error:
        said = error.strerror or error
        if is_full(error):
            raise StorageFullError(
                f"no room is left for {redact(url)}: {said}; make room, and the same "
                "command resumes"
            ) from error
        if of_room:
            raise
        raise MasksError(f"{redact(url)} cannot be written: {said}") from error


@dataclass(frozen=True, slots=True)
class Storage:
    """A folder, or a prefix in an object store. A value: it can be pickled."""

    url: str
    """A path, or a URL that fsspec knows, such as `s3://bucket/prefix`."""

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine's file system."""
        return "://" not in self.url or self.url.startswith("file://")

    @property
    def _root(self) -> Path:
        if self.url.startswith("file://"):
            return Path(url2pathname(urlsplit(self.url).path))
        return Path(self.url)

    def path(self, name: str) -> Path:
        """Return the file of an object; only where `is_local`."""
        return self._root / name

    def _remote(self) -> tuple[Any, str]:
        fs, path = fsspec.core.url_to_fs(self.url, **access(self.url))
        return fs, path.rstrip("/")

    def put(self, name: str, data: bytes) -> None:
        """Write an object; a reader sees the old one or the new one, whole."""
        if not self.is_local:
            fs, path = self._remote()
            fs.pipe_file(f"{path}/{name}", data)
            return
        target = self._root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        # Not by tempfile: others may read what the user's umask lets them.
        temporary = target.parent / f".tmp-{uuid4().hex}"
        try:
            with temporary.open("xb") as file:
                file.write(data)
            replace(temporary, target)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(target)  # which the system tells of opening only
            raise

    def put_all(self, objects: Mapping[str, bytes | None]) -> None:
        """Write objects, far away side by side; delete those that are None."""
        if self.is_local:
            for name, data in objects.items():
                self.discard(name) if data is None else self.put(name, data)
            return
        fs, path = self._remote()
        there = {f"{path}/{n}": d for n, d in objects.items() if d is not None}
        if there:
            fs.pipe(there)
        gone = [name for name, data in objects.items() if data is None]
        try:
            if gone:  # in one request, where the store has one for it
                fs.rm([f"{path}/{name}" for name in gone])
        except FileNotFoundError:
            for name in gone:
                self.discard(name)

    def create(self, name: str, data: bytes) -> bool:
        """Write an object only if there is none; say whether it was written.

        Where a store cannot do both in one step, it is looked for first.
        """
        if self.is_local:
            (self._root / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                with (self._root / name).open("xb") as file:
                    file.write(data)
            except FileExistsError:
                return False
            return True
        if self.find(name) is not None:
            return False
        fs, path = self._remote()
        try:
            fs.pipe_file(f"{path}/{name}", data, mode="create")
        except FileExistsError:
            return False
        return True

    def get(self, name: str) -> bytes:
        """Read an object; FileNotFoundError where there is none."""
        if self.is_local:
            return (self._root / name).read_bytes()
        fs, path = self._remote()
        return bytes(fs.cat_file(f"{path}/{name}"))

    def find(self, name: str) -> bytes | None:
        """Read an object; None where there is none."""
        try:
            return self.get(name)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def get_all(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """Yield objects, None where there is none; far away all are asked for at once.

        Raises:
            OSError: One cannot be read.
        """
        if self.is_local:
            yield from map(self.find, names)
            return
        fs, path = self._remote()
        paths = [f"{path}/{name}" for name in names]
        found = fs.cat(paths, on_error="return") if paths else {}
        for at in paths:
            if isinstance(found[at], Exception):
                if not isinstance(found[at], FileNotFoundError):
                    raise found[at]
                found[at] = None
            yield found[at]

    def exists(self, name: str = "") -> bool:
        """Whether there is an object, or anything below a prefix."""
        if self.is_local:
            return (self._root / name).exists()
        fs, path = self._remote()
        fs.invalidate_cache()
        return bool(fs.exists(f"{path}/{name}".rstrip("/")))

    def names(self, prefix: str, *, empty: bool = True) -> list[str]:
        """List the names of the objects directly below a prefix, without it.

        Args:
            prefix: Of which folder; the empty one is the whole store's.
            empty: Whether objects without content are listed.
        """
        found = self._entries(prefix)
        names = (n.rpartition("/")[2] for n, size in found if empty or size)
        return sorted(
            n for n in names if n and not n.startswith(".tmp-") and not is_stray(n)
        )

    def _entries(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield name and size of what is directly below a prefix."""
        if self.is_local:
            with suppress(FileNotFoundError, NotADirectoryError):
                for entry in os.scandir(self._root / prefix):
                    with suppress(FileNotFoundError):  # deleted just now
                        yield entry.name, entry.stat().st_size
            return
        fs, path = self._remote()
        fs.invalidate_cache()
        with suppress(FileNotFoundError):
            for entry in fs.ls(f"{path}/{prefix}", detail=True):
                yield entry["name"].rstrip("/"), entry["size"] or 0

    def walk(self) -> Iterator[str]:
        """Yield the name of every object."""
        if self.is_local:
            for folder, _, files in os.walk(self._root):
                for name in files:
                    yield (Path(folder) / name).relative_to(self._root).as_posix()
            return
        fs, path = self._remote()
        fs.invalidate_cache()
        for name in fs.find(path):
            yield name.removeprefix(path).lstrip("/")

    def sweep(self) -> None:
        """Delete what killed writes left; object stores keep nothing of those."""
        if self.is_local:
            for name in list(filter(is_temporary, self.walk())):
                self.discard(name)

    def discard(self, name: str) -> None:
        """Delete one object; none there is fine."""
        if self.is_local:
            (self._root / name).unlink(missing_ok=True)
            return
        fs, path = self._remote()
        with suppress(FileNotFoundError):
            fs.rm_file(f"{path}/{name}")

    def remove(self, name: str) -> None:
        """Delete an object, or everything below a prefix; nothing there is fine."""
        if not self.is_local:
            fs, path = self._remote()
            fs.invalidate_cache()
            with suppress(FileNotFoundError):
                fs.rm(f"{path}/{name}", recursive=True)
            return
        target = self._root / name
        while target.is_dir():
            try:
                shutil.rmtree(target)
            except FileNotFoundError:
                continue  # another process deletes the same, as a task run twice does
            except OSError as error:
                # What somebody reads stays on NFS, as .nfs…, until they are done.
                if error.errno not in _BUSY or not _holds_strays_only(target):
                    raise
                return
        target.unlink(missing_ok=True)


def _holds_strays_only(folder: Path) -> bool:
    """Whether there is nothing of ours below a folder any more."""
    return all(is_stray(n) for _, _, files in os.walk(folder) for n in files)
