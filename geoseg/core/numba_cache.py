"""A folder for what numba compiles, where neither the package nor the home has room.

Numba keeps compiled loops beside their source, or in the user's cache folder, and fails
where it can write neither: as another user of a container, on a batch node without
homes. Then a folder of this user alone is used: what lies in it is unpickled.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_VARIABLE = "NUMBA_CACHE_DIR"
_PACKAGE = Path(__file__).resolve().parents[1]


def ensure() -> None:
    """Set `NUMBA_CACHE_DIR` where numba would find no place by itself."""
    if _VARIABLE in os.environ or any(map(_takes_files, _places_of_numba())):
        return
    folder = private_folder(_temporary_folders())
    if folder is not None:
        os.environ[_VARIABLE] = str(folder)


def private_folder(parents: Iterable[Path]) -> Path | None:
    """Return a folder that only this user can enter, in the first that has room.

    It is kept for the next run, unless its name is taken by somebody else's.
    """
    for parent in parents:
        if not _takes_files(parent):
            continue
        user = this_user()
        kept = parent / f"geoseg-numba-{user}"
        if make_private(kept, user):
            return kept
        once = Path(tempfile.mkdtemp(prefix="geoseg-numba-", dir=parent))
        atexit.register(shutil.rmtree, once, ignore_errors=True)
        return once
    return None


if sys.platform == "win32":

    def this_user() -> int:
        """Return what files of all users have: temporary folders are private."""
        return 0

else:

    def this_user() -> int:
        """Return the user that this process is."""
        return os.geteuid()


def make_private(folder: Path, user: int) -> bool:
    """Make a folder for this user only; whether it is that."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return False
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == user
        and (os.name == "nt" or not status.st_mode & 0o077)
        and _takes_files(folder)
    )


def _places_of_numba() -> Iterable[Path]:
    yield _PACKAGE / "__pycache__"
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - Path raises without a home
    yield Path(base) / "numba"


def _temporary_folders() -> Iterable[Path]:
    with suppress(OSError):  # raised where none that Python tries can be written
        yield Path(tempfile.gettempdir())
    yield Path("/dev/shm")  # noqa: S108 - writable in containers whose disk is not


def _takes_files(folder: Path) -> bool:
    """Whether a file can be made in a folder, which is made if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
