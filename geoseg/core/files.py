"""Files that are whole or not there: written beside, then put in place in one step."""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

_PATIENCE = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Seconds between tries to replace a file that another program holds (Windows)."""


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a name beside a file; what is written there takes the file's place.

    It does so in one step when all went well, and is removed otherwise. What a killed
    process of this machine left beside the same file is removed first.

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


def remove_left_beside(target: Path) -> None:
    """Remove what processes of this machine that are gone left beside a file."""
    prefix = _prefix(target)
    pattern = re.compile(
        rf"{re.escape(prefix)}(?P<process>\d+){re.escape(target.suffix)}(-.*)?"
    )
    for left in list(target.parent.iterdir()):
        found = pattern.fullmatch(left.name)
        if found and not psutil.pid_exists(int(found["process"])):
            _remove_one(left)


def _prefix(target: Path) -> str:
    return f".{target.stem}.{socket.gethostname() or 'host'}-"


def _remove(part: Path) -> None:
    _remove_one(part)
    for beside in list(part.parent.iterdir()):
        if beside.name.startswith(f"{part.name}-"):
            _remove_one(beside)


def _remove_one(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
