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

from geoseg.core.numba_cache import make_private, this_user

_VARIABLE = "GEOSEG_CACHE_DIR"
KINDS = {"compiled": "compiled networks", "batches": "measured batch sizes"}
"""Folders of the cache, and what lies in them."""


def root() -> Path:
    """Return where the cache is: GEOSEG_CACHE_DIR, or the system's place for caches."""
    if _VARIABLE in os.environ:
        return Path(os.environ[_VARIABLE])
    home = os.path.expanduser("~")  # noqa: PTH111 - Path raises without a home
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or home
    elif sys.platform == "darwin":
        base = os.path.join(home, "Library", "Caches")  # noqa: PTH118
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")  # noqa: PTH118
    return Path(base) / "geoseg"


def folder(kind: str) -> Path | None:
    """Return the folder of a kind, which only this user can enter; None without one."""
    top = root()
    with suppress(OSError):
        top.parent.mkdir(parents=True, exist_ok=True)
        if make_private(top, this_user()) and make_private(top / kind, this_user()):
            return top / kind
    return None


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
