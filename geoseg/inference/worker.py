"""What a worker does: infer a block, finish a block. Patient; never half a block."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Any, TypeVar

from geoseg.core.series_options import QUALITY
from geoseg.core.text import redact
from geoseg.core.tiling import Block, Tiling
from geoseg.errors import (
    ClusterError,
    DamagedPackError,
    DamagedStoreError,
    MissingExtraError,
    RasterError,
    SourceChangedError,
    is_full,
)
from geoseg.execution.resources import memory_limit
from geoseg.inference.block_cache import (
    read_halo,
    read_partial,
    write_partial,
)
from geoseg.inference.numerics import Numerics
from geoseg.inference.semantic import (
    Arrays,
    PartialBlock,
    PartialSums,
    finish_block,
    segment_block,
    with_quality_arrays,
)
from geoseg.inference.sites import gpu_name
from geoseg.inference.streams import batch_of, stream_of
from geoseg.inference.unmeasured import check_answers
from geoseg.inference.windows import read_windows
from geoseg.maps.store import CHECKSUMS, Masks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.inference.memory import Memory
    from geoseg.models.load import ModelRecipe
    from geoseg.rasters.open import Source

T = TypeVar("T")

LOST = (FileNotFoundError, DamagedPackError)
"""How reading fails what is not there, or not what was written."""

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
    numerics: Numerics | None = None
    """How all workers compute; None: as each likes."""
    files: tuple[str, ...] = ()
    """Local files and folders that every worker must see."""
    memory: Memory | None = None
    """What a process will need at most; None: any will do."""
    mixed: bool = False
    """Whether workers on other kinds of cards may take part."""
    code: bytes | None = field(default=None, repr=False)
    """The compiled step, where another process compiled it."""


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


def check_worker(job: Job) -> None:
    """Raise where this process cannot do the job.

    Raises:
        ClusterError: It does not see the files of the run, or computes otherwise.
        PlanError: It may use less memory than the run needs, as one may that came late.
    """
    if job.memory is not None:
        more = f"more memory for the worker on {gethostname()}"
        job.memory.check(memory_limit(), job.tiling, more)
    unseen = [redact(file) for file in job.files if not Path(file).exists()]
    if unseen:
        raise ClusterError(
            f"a worker on {gethostname()} does not see {', '.join(unseen)}: start "
            "workers where the same folders are mounted, or use URLs (s3://…)"
        )
    if job.numerics is None:
        return
    chosen = job.numerics
    try:
        model = job.model.load()
    except MissingExtraError as error:
        raise ClusterError(
            f"a worker on {gethostname()} cannot run what the others run: {error}"
        ) from error
    if model.precision != chosen.precision:
        raise ClusterError(
            f"a worker on {gethostname()} computes in {model.precision}, the run was "
            f"begun in {chosen.precision}: its results would differ; use a device like "
            "that"
        )
    if chosen.card != (card := gpu_name(model)) and not job.mixed:
        raise ClusterError(
            f"a worker on {gethostname()} computes on {card or 'its processor'}, the "
            f"run was begun on {chosen.card or 'processors'}: its answers would round "
            "differently; give it the same, or continue with --mixed, and the store "
            "says which blocks are whose"
        )
    check_answers(job.model)


def infer(job: Job, block: Block) -> BlockReport:
    """Infer a block; write it if it needs no neighbour, else keep what is known.

    Asked a second time, as when the first worker died before it could answer, it finds
    what is there and infers nothing.

    Raises:
        ModelError: The model answers nonsense.
        RasterError: The pixels cannot be read, three times in a row.
        SourceChangedError: They are of another raster than the run began with.
    """
    known = _known(job, block)
    if known is not None:
        return known
    found = _segment(job, block)
    if found.halo:
        job.masks.check_current()
        with_retries(lambda: write_partial(job.masks, block, found))
    else:
        _write(job, block, found, found.arrays)
    return _report(found, done=not found.halo)


def _known(job: Job, block: Block) -> BlockReport | None:
    with suppress(FileNotFoundError, DamagedStoreError):
        info = job.masks.done_info(block.key)
        return BlockReport(
            done=True, windows=info["windows"], forward_seconds=info["forward_seconds"]
        )
    with suppress(*LOST):
        return _report(read_partial(job.masks, block), done=False)
    return None


def _report(found: PartialBlock, *, done: bool) -> BlockReport:
    return BlockReport(
        done=done, windows=found.windows, forward_seconds=found.forward_seconds
    )


def finish(job: Job, block: Block, *, provisional: bool = False) -> BlockReport:
    """Add the neighbours' halo sums to an inferred block, write it and mark it done.

    What is missing or damaged is inferred again, so that a block can be rebuilt when
    all around it are long done.

    Args:
        job: What to do.
        block: The block.
        provisional: A neighbour failed. The block is written as far as it is known,
            right but for the shared margin, and not marked done: the next run finishes
            it when its neighbour is there.
    """
    if provisional:
        write_arrays(job, block, read_partial(job.masks, block).arrays)
        return BlockReport(done=False)
    try:
        own = with_retries(lambda: read_partial(job.masks, block))
        halo = [_read_halo(job, block, neighbour) for neighbour in block.neighbours]
    except LOST:
        if job.masks.is_done(block.key):  # by another copy of this task
            return BlockReport(done=True)
        own, halo = read_or_infer(job, block, partial(_segment, job))
    _write(job, block, own, finish_block(own, halo, job.model.card, block))
    return BlockReport(done=True)


def _read_halo(job: Job, block: Block, neighbour: Block) -> PartialSums:
    return with_retries(lambda: read_halo(job.masks, block, neighbour))


def read_or_infer(
    job: Job, block: Block, again: Callable[[Block], PartialBlock]
) -> tuple[PartialBlock, list[PartialSums]]:
    """Return a partial block and its neighbours' halo sums.

    Args:
        job: What to do.
        block: The block.
        again: Infers a block of which something cannot be read.
    """
    try:
        own = with_retries(lambda: read_partial(job.masks, block))
    except LOST:
        own = again(block)
    halo = []
    for neighbour in block.neighbours:
        try:
            halo.append(_read_halo(job, block, neighbour))
        except LOST:
            halo.append(again(neighbour).halo[block.key])
    return own, halo


def _segment(job: Job, block: Block) -> PartialBlock:
    model = job.model.load()
    later = ("instances", *QUALITY)  # objects are joined, and quality is read
    arrays = [name for name in job.masks.arrays if name not in later]
    found: PartialBlock
    if model.streams:
        found = streamed(job, block, arrays)
    else:
        found = with_retries(
            lambda: segment_block(
                job.source, model, block, arrays=arrays, batch=model.batch
            )
        )
    return replace(found, otherwise=inferred_otherwise(job))


def inferred_otherwise(job: Job) -> dict[str, Any]:
    """Return what a block is inferred by here that other blocks may not be.

    Who infers it says so, since another worker may finish it.
    """
    info: dict[str, Any] = {}
    if job.mixed:
        info["card"] = gpu_name(job.model.load())
    batch = batch_of(job.masks.run)
    if batch is not None and job.numerics and batch != job.numerics.batch:
        info["batch"] = batch  # there was too little memory for the run's own
    return info


def streamed(job: Job, block: Block, arrays: Sequence[str]) -> Any:  # noqa: ANN401
    """Return what the run's stream answers for a block; see `step_of`."""
    card = job.model.card
    pixels = with_retries(lambda: read_windows(job.source, card, block.reach))
    stream = stream_of(job.masks.run, job.model, job.tiling, job.numerics, job.code)
    found = stream.segment(block, pixels, arrays)
    if isinstance(found, PartialBlock):
        return with_quality_arrays(found, block, pixels)
    return found


def with_retries(action: Callable[[], T]) -> T:
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


def _write(job: Job, block: Block, found: PartialBlock, arrays: Arrays) -> None:
    info: dict[str, Any] = {
        "windows": found.windows,
        "forward_seconds": round(found.forward_seconds, 4),
        CHECKSUMS: write_arrays(job, block, arrays),
        **found.otherwise,
    }
    with_retries(lambda: job.masks.mark_done(block.key, info))


def write_arrays(
    job: Job, block: Block, arrays: Mapping[str, NDArray[Any]]
) -> dict[str, int]:
    """Write a block's chunks, unless the store was begun again meanwhile.

    Returns:
        The checksum of each array, by name.
    """
    job.masks.check_current()
    write = job.masks.write
    return {
        name: with_retries(partial(write, name, block.window, array))
        for name, array in arrays.items()
    }
