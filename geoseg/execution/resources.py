"""How many cores this process may use, and how many threads it should compute with."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables that say how many threads a process computes with."""
PROCESSES = "GEOSEG_PROCESSES"
"""Variable that says how many worker processes there are on a machine."""
_DECODING = 32
"""Threads that feed the quickest GPU, whatever the codec."""
_CGROUP = Path("/sys/fs/cgroup")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_KEPT = 256 << 20
"""Bytes that are kept, of each pool of memory, and of which arrays are made."""


def cores() -> int:
    """Return how many cores this process may use: machine, affinity, container."""
    import psutil

    process: Any = psutil.Process()
    try:
        allowed = len(process.cpu_affinity())
    except AttributeError:  # macOS has none
        allowed = psutil.cpu_count() or 1
    quota = container_quota(_CGROUP)
    return allowed if quota is None else max(1, min(allowed, round(quota)))


def memory_limit() -> float | None:
    """Return the bytes that this process may use as a worker of Dask.

    None where it is none, or has no limit.
    """
    distributed = sys.modules.get("distributed")  # a worker has imported it
    try:
        worker = distributed.get_worker() if distributed else None
    except ValueError:
        return None
    return worker.memory_manager.memory_limit if worker else None


def main_memory(cgroup: Path = _CGROUP) -> float:
    """Return the bytes of this machine's memory, or of the container's limit.

    Args:
        cgroup: As `container_quota` takes it; see `memory.max`.
    """
    import psutil

    total = float(psutil.virtual_memory().total)
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no such file, or "max"
            total = min(total, float(int((cgroup / name).read_text())))
    return total


def feeding_threads(cores_: int, processes: int = 1) -> int:
    """Return how many threads a process needs to feed a GPU, of a machine's cores.

    Its share of the cores decodes; others wait for the GPU, or write.
    """
    return max(4, min(_DECODING, cores_ // processes) + 4)


def threads() -> int:
    """Return how many threads to compute with: its share, where processes share cores.

    Whoever starts several processes on a machine gives each its share, as torch and
    BLAS read it: by OMP_NUM_THREADS.
    """
    share = os.environ.get(THREADS[0], "")
    return min(cores(), int(share)) if share.isdigit() and int(share) else cores()


def dask_setup(worker: Any) -> None:  # noqa: ANN401, ARG001 - called by Dask
    """Take a worker's share of a machine whose cores only it can count; a preload.

    It comes before torch and BLAS are imported, which look only then, and after Dask
    has set every worker to compute with one thread.
    """
    share = max(1, cores() // int(os.environ[PROCESSES]))
    os.environ.update(dict.fromkeys(THREADS, str(share)))


@cache
def keep_freed_memory() -> None:
    """Let this process keep what it frees, for the arrays of its next block.

    Else glibc hands it back, and the kernel clears as many pages again a moment later:
    a third of the time of a model that is cheap. Elsewhere nothing is changed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # no glibc
        return
    mallopt(_M_TRIM_THRESHOLD, _KEPT)
    mallopt(_M_MMAP_THRESHOLD, _KEPT)


def return_freed_memory() -> None:
    """Give back what this process keeps of memory that it freed, for what comes next.

    Only glibc keeps any; elsewhere nothing is done.
    """
    with suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@cache
def container_quota(cgroup: Path) -> float | None:
    """Return how many cores' time a container may use; None where it is not limited.

    Args:
        cgroup: Where the control groups are mounted: of version 2, in one tree, or of
            version 1, by controller. See the kernel's admin-guide/cgroup-v2, `cpu.max`.
    """
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if quota in {"max", "-1"}:
        return None
    try:
        return int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
