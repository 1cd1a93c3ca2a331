"""What a worker does: infer a block, finish a block. Patient; never half a block."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from geoseg.core.tiling import Tiling
from geoseg.errors import RasterError, SourceChangedError, is_full
from geoseg.inference.block_cache import (
    DamagedPartError,
    read_part,
    read_rim,
    remove_part,
    write_part,
)
from geoseg.inference.semantic import Arrays, Part, Strip, finish_block, segment_block
from geoseg.maps.store import Masks, checksum

if TYPE_CHECKING:
    from geoseg.models.load import ModelRecipe
    from geoseg.rasters.open import Source

T = TypeVar("T")

LOST = (FileNotFoundError, DamagedPartError)
"""How reading a part fails that is not there, or not what was written."""

WAITS = (0.2, 1.0)
"""Seconds before what failed is tried again; disks and object stores hiccup."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything that a worker needs to know; recipes, not handles."""

    source: Source
    """Its bands are the model's, in the model's order."""
    model: ModelRecipe
    """How to load the model."""
    tiling: Tiling
    """How the raster is cut."""
    masks: Masks
    """Where the answer goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockReport:
    """What a worker tells of a block."""

    done: bool
    """Whether its chunks are written."""
    windows: int = 0
    """How many windows were inferred."""
    forward_seconds: float = 0.0
    """Time in the model."""
    seconds: float = 0.0
    """Time of the whole task."""
    device: str = ""
    """What the model ran on."""


def infer(job: Job, row: int, col: int) -> BlockReport:
    """Infer a block; write it where it needs nobody, else keep its part.

    Asked a second time, as when the first worker died before it could answer, it finds
    what is there and infers nothing.

    Raises:
        ModelError: The model answers nonsense.
        RasterError: The pixels cannot be read, three times in a row.
        SourceChangedError: They are of another raster than the run began with.
    """
    known = _known(job, row, col)
    if known is not None:
        return known
    part = _segment(job, row, col)
    if part.rims:
        job.masks.check_current()
        patiently(lambda: write_part(job.masks, row, col, part))
    else:
        _write(job, row, col, part, part.arrays)
    return _report(part, done=not part.rims)


def _known(job: Job, row: int, col: int) -> BlockReport | None:
    with suppress(FileNotFoundError):
        facts = job.masks.done_facts(row, col)
        return BlockReport(
            done=True,
            windows=facts["windows"],
            forward_seconds=facts["forward_seconds"],
        )
    try:
        return _report(read_part(job.masks, row, col), done=False)
    except LOST:
        return None


def _report(part: Part, *, done: bool) -> BlockReport:
    return BlockReport(
        done=done, windows=part.windows, forward_seconds=part.forward_seconds
    )


def finish(job: Job, row: int, col: int) -> BlockReport:
    """Add the neighbours' rims to an inferred block, write it and mark it done.

    What is missing or damaged is inferred again, so that a block can be made anew when
    all around it are long done.
    """
    try:
        part = patiently(lambda: read_part(job.masks, row, col))
        rims = list(_rims(job, row, col))
    except LOST:
        if job.masks.is_done(row, col):  # by another copy of this task
            return BlockReport(done=True)
        part, rims = read_or_infer(job, row, col, partial(_segment, job))
    arrays = finish_block(part, rims, job.model.card, job.tiling, row, col)
    _write(job, row, col, part, arrays)
    patiently(lambda: remove_part(job.masks, row, col))
    return BlockReport(done=True)


def _rims(job: Job, row: int, col: int) -> Iterator[Strip]:
    for neighbour in job.tiling.neighbours(row, col):
        yield patiently(lambda n=neighbour: read_rim(job.masks, row, col, n))  # type: ignore[misc]


def read_or_infer(
    job: Job, row: int, col: int, again: Callable[[int, int], Part]
) -> tuple[Part, list[Strip]]:
    """Return a block's part and its neighbours' rims; infer what cannot be read."""
    try:
        part = read_part(job.masks, row, col)
    except LOST:
        part = again(row, col)
    rims = []
    for neighbour in job.tiling.neighbours(row, col):
        try:
            rims.append(read_rim(job.masks, row, col, neighbour))
        except LOST:
            rims.append(again(*neighbour).rims[row, col])
    return part, rims


def write_provisional(job: Job, row: int, col: int) -> BlockReport:
    """Write an inferred block beside a failed one: right but for the shared margin.

    It is not marked done, so the next run finishes it when its neighbour is there.
    """
    write_arrays(job, row, col, read_part(job.masks, row, col).arrays)
    return BlockReport(done=False)


def _segment(job: Job, row: int, col: int) -> Part:
    model = job.model.load()
    return patiently(
        lambda: segment_block(
            job.source,
            model,
            job.tiling,
            row,
            col,
            arrays=job.masks.arrays,
            batch=getattr(model, "batch", 1),
        )
    )


def patiently(action: Callable[[], T]) -> T:
    """Try again what may work a moment later; not what is full, gone or replaced."""
    for wait in WAITS:
        try:
            return action()
        except (FileNotFoundError, SourceChangedError):
            raise
        except (RasterError, OSError) as error:
            if is_full(error):
                raise
            time.sleep(wait)
    return action()


def _write(job: Job, row: int, col: int, part: Part, arrays: Arrays) -> None:
    facts: Mapping[str, Any] = {
        "windows": part.windows,
        "forward_seconds": round(part.forward_seconds, 4),
        "crc32": {name: checksum(array) for name, array in arrays.items()},
    }
    write_arrays(job, row, col, arrays)
    patiently(lambda: job.masks.mark_done(row, col, facts))


def write_arrays(job: Job, row: int, col: int, arrays: Arrays) -> None:
    """Write a block's chunks, unless the store was begun anew meanwhile."""
    job.masks.check_current()
    window = job.tiling.block_window(row, col)
    for name, array in arrays.items():
        patiently(lambda n=name, a=array: job.masks.write(n, window, a))  # type: ignore[misc]
