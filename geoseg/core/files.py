"""Files that are whole or not there: written beside, then put in place in one step."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from glob import has_magic, iglob
from pathlib import Path
from zlib import crc32

from geoseg.core.processes import begun, here
from geoseg.core.text import redact, size
from geoseg.errors import GeosegError, UnwrittenError, is_full

_FORGOTTEN = 2 * 86_400
"""Seconds after which what was left beside a file is removed, whoever left it."""
_PATIENCE = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Seconds between tries to replace a file that another program holds (Windows)."""


def absolute(path: str) -> str:
    """Return a path that means the same in any folder, as where workers were started.

    URLs, GDAL's virtual files and what is not there stay as they are; a driver's prefix
    (`GTI:index.gti`) stays in front.
    """
    prefix, colon, rest = path.partition(":")
    if colon and len(prefix) > 1 and prefix.isalnum() and is_there(rest):
        return f"{prefix}:{os.path.abspath(rest)}"  # noqa: PTH100 - keeps links
    return os.path.abspath(path) if is_there(path) else path  # noqa: PTH100


def is_there(path: str) -> bool:
    """Whether a path is on this machine, or a pattern matches something there."""
    if "://" in path:
        return False
    if os.path.exists(path):  # noqa: PTH110 - never raises
        return True
    return has_magic(path) and next(iglob(path, recursive=True), None) is not None  # noqa: PTH207


def local(path: str | os.PathLike[str], error: type[GeosegError] = GeosegError) -> Path:
    """Return the path of a file or folder of this machine.

    Raises:
        GeosegError: It is a URL.
    """
    if "://" in os.fspath(path):
        raise error(
            f"{redact(os.fspath(path))} is not on this machine: name a file or folder "
            "here, and copy it when it is done"
        )
    return Path(path)


def target(
    path: str | os.PathLike[str],
    endings: Sequence[str],
    *,
    overwrite: bool,
    error: type[GeosegError] = GeosegError,
) -> Path:
    """Return where a file is to be written; say before the work what is in the way.

    Raises:
        GeosegError: It is a folder, lies in none, has another ending, or is there.
    """
    file = local(path, error)
    if file.is_dir():
        raise error(f"{file} is a folder: name a file in it")
    if file.suffix.lower() not in endings:
        raise error(f"{file} must end in {' or '.join(endings)}")
    if not file.parent.is_dir():
        raise error(f"the folder {file.parent} does not exist: create it first")
    if file.exists() and not overwrite:
        raise error(f"{file} exists: use --overwrite, or another --out")
    return file


def made_folder(path: str | os.PathLike[str]) -> Path:
    """Return a folder of this machine, which is made if it is not there.

    Raises:
        GeosegError: It cannot be made, or is a URL.
    """
    folder, named = local(path).absolute(), os.fspath(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GeosegError(
            f"the folder {named} cannot be made: {error.strerror or error}; choose "
            "another one"
        ) from error
    return folder


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Give a name as `replacing` does; say on one line why it cannot be written.

    Raises:
        UnwrittenError: There is no room for it.
        GeosegError: It cannot be written for another reason.
    """
    try:
        with replacing(path) as part:
            yield part
    except OSError as error:
        said = error.strerror or str(error)
        if is_full(error):
            raise no_room(path, f"{said}, {free_in(path.parent)}") from error
        raise GeosegError(f"{path} cannot be written: {said}") from error


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write a text file as `written` does; into a pipe or a device as it comes.

    Raises:
        GeosegError: It cannot be written, as `written` says.
    """
    file = Path(path)
    if file.exists() and not (file.is_file() or file.is_dir()):
        file.write_text(text, encoding="utf-8", newline="")
        return file
    with written(file) as part:
        part.write_text(text, encoding="utf-8", newline="")
    return file


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a name beside a file; what is written there takes the file's place.

    It does so in one step when all went well, and is removed otherwise. What killed
    processes left beside the same file is removed first.

    Args:
        path: The file that will be there in the end; its folder must exist.

    Yields:
        A name with the same ending, in the same folder, where nothing is. Files and
        folders whose names begin with it and a dash are removed in the end too.
    """
    target = Path(path)
    remove_left_beside(target)
    part = target.with_name(f"{_prefix(target)}{os.getpid()}{target.suffix}")
    try:
        yield part
        replace(part, target)
    except Exception as error:
        if not is_full(error) or isinstance(error, GeosegError):
            raise
        # The system names what was copied, or nothing; libraries raise their own.
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        raise full from error
    finally:
        _remove(part)


def replace(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Put a file in the place of another in one step.

    On Windows a file that another program holds open cannot be replaced: virus scanners
    let go soon, so it is tried a few times.
    """
    for seconds in _PATIENCE:
        try:
            os.replace(source, target)  # noqa: PTH105 - atomic, and says so
        except PermissionError:
            time.sleep(seconds)
        else:
            return
    os.replace(source, target)  # noqa: PTH105 - the last try tells why


def no_room(file: Path, reason: str) -> UnwrittenError:
    """Return what to say where a file cannot be written to its end."""
    return UnwrittenError(
        f"{file} cannot be written ({reason}): make room, and give the same command "
        "again"
    )


def free_in(folder: str | os.PathLike[str]) -> str:
    """Return in words how much of a disk is free, for messages about writing."""
    return f"{size(shutil.disk_usage(folder).free)} free there"


def remove_left_beside(target: Path) -> None:
    """Remove what processes that are gone left beside a file.

    Of processes elsewhere (another machine, another container, before a restart) it
    cannot be known whether they are gone: what they left is removed after two days.
    """
    pattern = re.compile(
        rf"\.{re.escape(target.stem)}\.(?P<place>[0-9a-f]{{8}})-(?P<process>\d+)"
        rf"{re.escape(target.suffix)}(-.*)?"
    )
    for left in list(target.parent.iterdir()):
        found = pattern.fullmatch(left.name)
        if found is None:
            continue
        if found["place"] == _place():
            gone = begun(int(found["process"])) is None
        else:
            gone = time.time() - _last_change(left) > _FORGOTTEN
        if gone:
            _remove_one(left)


def _last_change(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()  # its owner has just put it in place


def _place() -> str:
    """Return eight digits for where this process runs."""
    return f"{crc32(here().encode()):08x}"


def _prefix(target: Path) -> str:
    return f".{target.stem}.{_place()}-"


def _remove(part: Path) -> None:
    _remove_one(part)
    for beside in list(part.parent.iterdir()):
        if beside.name.startswith(f"{part.name}-"):
            _remove_one(beside)


def _remove_one(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # not there, or where nothing can be written
            path.unlink()
