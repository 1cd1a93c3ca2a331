"""What can go wrong, by what failed.

Each message says what is wrong, the numbers, and the remedy, on one line.
"""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Mapping

from geoseg.location import redact

_STORES = {"s3fs", "gcsfs", "adlfs"}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENAMETOOLONG,
            errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ESTALE}  # fmt: skip
# GDAL's, safetensors' and SQLite's words, whose errors are no OSErrors.
FULL = "No space left on device", "Disk quota exceeded", "database or disk is full"
_LONGEST = 4000  # characters of a message: names in files may be of any length


class GeosegError(Exception):
    """Base of all errors that geoseg raises on purpose; exit status 2."""

    exit_status = 2

    def __init__(self, *args: object) -> None:
        super().__init__(*(_told(a) if isinstance(a, str) else a for a in args))


def _told(text: str) -> str:
    """Return a message without secrets, and no longer than anybody reads."""
    text = redact(text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


class RasterError(GeosegError):
    """A raster cannot be opened, read, or be what was asked of it."""


class UnavailableError(RasterError):
    """A server does not answer, or a file is gone; the same command can go on later."""

    exit_status = 3


class ModelError(GeosegError):
    """A model cannot be loaded, does not fit the raster, or gave nonsense."""


class PlanError(GeosegError):
    """The numbers do not go together: window, overlap, block, memory."""


class MasksError(GeosegError):
    """A masks store cannot be created, read, or resumed."""


class ChangedError(MasksError):
    """A store was begun with other settings, or of a raster that has changed since.

    Args:
        what: What changed.
        remedy: What to do about it.
        of_raster: Whether it is the raster that changed, not what is made of it.
    """

    def __init__(self, what: str, remedy: str, *, of_raster: bool = True) -> None:
        super().__init__(what, remedy)  # both, so that it can be pickled
        self.what, self.of_raster = what, of_raster

    def __str__(self) -> str:
        return ": ".join(map(str, self.args))


class LockedError(MasksError):
    """Another process is writing the same store."""


class DamagedStoreError(MasksError):
    """A file of a masks store is empty, cut or missing; the message says the way on."""

    exit_status = 3


class DamagedPackError(MasksError):
    """What is kept of a block is not what was written: a disk that filled or failed."""


class IncompleteError(MasksError):
    """A map is not complete; the run that makes it can be resumed."""

    exit_status = 3


class StorageFullError(MasksError):
    """There is no room left for the masks; a rerun goes on once there is."""

    exit_status = 3


class UnwrittenError(GeosegError):
    """A file was not written to its end, for want of room mostly; a rerun writes it."""

    exit_status = 3


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, says that a disk or a quota is full."""
    full = {errno.ENOSPC, errno.EDQUOT}
    while error is not None:
        if isinstance(error, OSError) and error.errno in full:
            return True
        if any(words in str(error) for words in FULL):
            return True
        error = error.__cause__
    return False


def refused(error: Exception) -> GeosegError | None:
    """Return on one line what a disk or an object store refused; None of other errors.

    Packages that speak with stores raise errors of many kinds, also of those below.
    """
    if is_full(error):
        where = getattr(error, "filename", None)
        what = f"no room is left for {where}" if where else "the disk is full"
        said = getattr(error, "strerror", None) or first_line(error)
        return UnwrittenError(
            f"{what} ({said}): make room, and give the same command again"
        )
    if isinstance(error, OSError) and error.errno in _REFUSED and error.filename:
        return GeosegError(f"{error.filename}: {error.strerror}")
    frames = traceback.walk_tb(error.__traceback__)
    packages = {f.f_globals.get("__name__", "").partition(".")[0] for f, _ in frames}
    if not packages & _STORES:
        return None
    name, said = type(error).__name__, first_line(error)
    away = re.search(r"connect|timed? ?out", name, re.IGNORECASE)
    kind = UnavailableError if away else MasksError
    return kind(f"the object store refuses or does not answer: {said} ({name})")


def says_device_is_lost(error: BaseException) -> bool:
    """Whether an error says that a GPU does nothing more for this process."""
    text = str(error).lower()
    others = ("out of memory", "alloc_failed", "no kernel image")  # after which it does
    lost = "cuda error" in text or "device_lost" in text
    return lost and not any(other in text for other in others)


class SourceChangedError(RasterError):
    """The raster is not the one any more that the run began with."""


class SceneMissingError(RasterError):
    """A file of a scene cannot be had now; the message says which and the way on."""

    exit_status = 3


class ClusterError(GeosegError):
    """Workers cannot be had, or the scheduler was lost; a rerun goes on."""

    exit_status = 3


class WorkersDiedError(GeosegError):
    """Workers died, one after the other, while they had the same task."""


class Terminated(BaseException):
    """The process was asked to end (SIGTERM); like KeyboardInterrupt."""


class RegionsError(GeosegError):
    """Polygons cannot be made or written."""


class LabelsError(GeosegError):
    """Labels or a reference cannot be read, or do not fit the raster."""


class MissingExtraError(GeosegError):
    """An optional package is not installed; the message names the extra."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the package {package}, which is not installed: "
            f"pip install 'geoseg[{extra}]', or in a clone pip install -e '.[{extra}]'"
        )


def first_line(error: BaseException) -> str:
    """Return an error's text as one line, or its kind where it has none."""
    lines = str(error).strip().splitlines()
    if lines and "in the TorchScript interpreter" in lines[0]:
        return lines[-1][:300]  # what failed stands after what called it
    return lines[0][:300] if lines else type(error).__name__


class BlocksFailedError(GeosegError):
    """Some blocks failed; everything else is written. A rerun retries them.

    Attributes:
        failed: reason by (block row, block column).
    """

    exit_status = 3

    def __init__(self, failed: Mapping[tuple[int, int], str], total: int) -> None:
        self.failed = dict(failed)
        shown = "; ".join(
            f"block {row},{col}: {reason}"
            for (row, col), reason in sorted(self.failed.items())[:10]
        )
        more = f" (+{len(self.failed) - 10} more)" if len(self.failed) > 10 else ""
        super().__init__(
            f"{len(self.failed)} of {total} blocks failed, the rest is written; "
            f"the same command retries them: {shown}{more}"
        )
