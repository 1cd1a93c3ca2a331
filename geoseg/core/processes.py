"""Which process made something, and whether it has ended: pids mean one machine only.

Two containers may share a name and a disk, and both have a process 7. What tells them
apart is the kernel that they run on and the namespace in which pids are counted.
"""

from __future__ import annotations

import socket
from functools import cache
from pathlib import Path
from uuid import getnode

import psutil


@cache
def here() -> str:
    """Return where pids mean what they mean in this process.

    On Linux the running kernel (its boot) and the namespace of pids; elsewhere the
    machine's network address. Another boot is another place: its pids are void.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        namespace = Path("/proc/self/ns/pid").readlink()
    except OSError:  # not Linux, or a sandbox without /proc
        return f"{socket.gethostname()} {getnode():012x}"
    return f"{boot.strip()} {namespace}"


def begun(pid: int) -> float | None:
    """Return when a process of this place began, seconds since 1970; None without.

    It tells a process from a later one of the same pid.
    """
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def has_ended(place: str | None, pid: int, when: float | None) -> bool | None:
    """Return whether a process has ended; None where that cannot be known from here.

    Args:
        place: What `here` said where it ran.
        pid: Its number there.
        when: When it began, as `begun` said there.
    """
    if place != here():
        return None
    now = begun(pid)
    if now is None:
        return True
    # A clock that was set in between moves what the kernel says of older processes.
    return False if when is not None and abs(now - when) < 1 else None
