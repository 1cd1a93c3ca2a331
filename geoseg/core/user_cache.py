"""What is kept for this user between runs, because making it again takes long.

Compiled code is among it, so it lies where only its user can write, never in a model's
folder and never where somebody else could have put it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from geoseg.core.files import replacing
from geoseg.core.numba_cache import make_private, this_user

_VARIABLE = "GEOSEG_CACHE_DIR"
KINDS = {
    "compiled": "compiled networks",
    "batches": "measured batch sizes",
    "engines": "measured engines",
}
"""Folders of the cache, and what lies in them."""


def root() -> Path:
    """Return where the cache is: GEOSEG_CACHE_DIR, or the system's place for caches."""
    if _VARIABLE in os.environ:
        return Path(os.environ[_VARIABLE])
    mac = "Library/Caches"
    return user_folder("LOCALAPPDATA", "XDG_CACHE_HOME", ".cache", mac=mac) / "geoseg"


def user_folder(
    windows: str, linux: str, usual: str, *, mac: str | None = None
) -> Path:
    """Return the system's place for what programs keep of a user.

    Args:
        windows: Variable that names it on Windows.
        linux: Variable that names it elsewhere.
        usual: Where it is in the user's home otherwise.
        mac: Where it always is there on macOS; None: as elsewhere.
    """
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path raises without a home
    base: str | Path
    if sys.platform == "win32":
        base = os.environ.get(windows) or home
    elif mac is not None and sys.platform == "darwin":
        base = home / mac
    else:
        base = os.environ.get(linux) or home / usual
    return Path(base)


def folder(kind: str) -> Path | None:
    """Return the folder of a kind, which only this user can enter; None without one."""
    top = root()
    with suppress(OSError):
        top.parent.mkdir(parents=True, exist_ok=True)
        if make_private(top, this_user()) and make_private(top / kind, this_user()):
            return top / kind
    return None


def remembered(kind: str, name: str) -> str | None:
    """Return the text that is kept under a name; None without one."""
    place = folder(kind)
    try:
        return None if place is None else (place / name).read_text(encoding="ascii")
    except (OSError, ValueError):
        return None


def remember(kind: str, name: str, text: str) -> None:
    """Keep a text under a name, where anything can be kept."""
    if (place := folder(kind)) is not None:
        with suppress(OSError), replacing(place / name) as path:
            path.write_text(text, encoding="ascii")


def kept() -> Iterator[tuple[str, Path]]:
    """Yield the kind and the path of every file that is kept."""
    for kind in KINDS:
        place = folder(kind)
        for path in sorted(place.rglob("*")) if place else ():
            if path.is_file():
                yield kind, path


def clear(kinds: tuple[str, ...] = tuple(KINDS)) -> int:
    """Delete what is kept of some kinds; return how many bytes that were."""
    freed = 0
    for kind, path in list(kept()):
        if kind in kinds:
            freed += path.stat().st_size
            path.unlink(missing_ok=True)
    return freed
