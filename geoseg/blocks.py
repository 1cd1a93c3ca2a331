"""What a worker does: infer a block, finish a block. Retries reads; never half a block."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geoseg.errors import RasterError
from geoseg.masks import Masks, checksum
from geoseg.parts import read_part, read_rims, remove_part, write_part
from geoseg.plan import Tiling
from geoseg.semantic import Arrays, Part, finish_block, segment_block

if TYPE_CHECKING:
    from geoseg.models.load import ModelRecipe
    from geoseg.raster import Source

WAITS = (0.2, 1.0)
"""Seconds before a failed read is tried again; object stores hiccup."""


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


def infer(job: Job, row: int, col: int) -> BlockReport:
    """Infer a block; write it where it needs nobody, else keep its part.

    Raises:
        ModelError: The model answers nonsense.
        RasterError: The pixels cannot be read, three times in a row.
    """
    part = _segment_with_patience(job, row, col)
    if part.rims:
        write_part(job.masks, row, col, part)
    else:
        _write(job, row, col, part, part.arrays)
    return BlockReport(
        done=not part.rims,
        windows=part.windows,
        forward_seconds=part.forward_seconds,
    )


def finish(job: Job, row: int, col: int) -> BlockReport:
    """Add the neighbours' rims to an inferred block, write it and mark it done."""
    part = read_part(job.masks, row, col)
    rims = read_rims(job.masks, row, col, job.tiling.neighbours(row, col))
    arrays = finish_block(part, rims, job.model.card, job.tiling, row, col)
    _write(job, row, col, part, arrays)
    remove_part(job.masks, row, col)
    return BlockReport(done=True)


def write_provisional(job: Job, row: int, col: int) -> BlockReport:
    """Write an inferred block beside a failed one: right but for the shared margin.

    It is not marked done, so the next run finishes it when its neighbour is there.
    """
    _write_arrays(job, row, col, read_part(job.masks, row, col).arrays)
    return BlockReport(done=False)


def _segment_with_patience(job: Job, row: int, col: int) -> Part:
    model = job.model.load()
    for wait in (*WAITS, None):
        try:
            return segment_block(
                job.source,
                model,
                job.tiling,
                row,
                col,
                arrays=job.masks.arrays,
                batch=getattr(model, "batch", 1),
            )
        except (RasterError, OSError):
            if wait is None:
                raise
            time.sleep(wait)
    raise AssertionError("unreachable: the last try raises or returns")


def _write(job: Job, row: int, col: int, part: Part, arrays: Arrays) -> None:
    facts: Mapping[str, Any] = {
        "windows": part.windows,
        "forward_seconds": round(part.forward_seconds, 4),
        "crc32": {name: checksum(array) for name, array in arrays.items()},
    }
    _write_arrays(job, row, col, arrays)
    job.masks.mark_done(row, col, facts)


def _write_arrays(job: Job, row: int, col: int, arrays: Arrays) -> None:
    window = job.tiling.block_window(row, col)
    for name, array in arrays.items():
        job.masks.write(name, window, array)
