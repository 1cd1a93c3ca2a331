"""What a worker does for objects: find, link, compose and show those of a block.

Each step leaves one small object per block beside the masks (`object_store`), so that a
run that was killed goes on from there; what is missing or damaged is made again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.blocks import BlockReport, Job, patiently
from geoseg.instance import (
    Composed,
    Found,
    compose_block,
    find_objects,
    link_block,
)
from geoseg.object_store import Part, Shelf
from geoseg.parts import DamagedPartError
from geoseg.split import MapSource
from geoseg.stitch import SCORE, Seen

if TYPE_CHECKING:
    from numpy.typing import NDArray

BACKGROUND = "background"
"""Name of the class of valid pixels where there is no object."""

_LOST = (FileNotFoundError, DamagedPartError)


def find(job: Job, row: int, col: int) -> BlockReport:
    """Infer a block's windows and keep their objects; once.

    Raises:
        ModelError: The model answers nonsense.
        RasterError: The pixels cannot be read, three times in a row.
    """
    shelf = Shelf(job.masks)
    try:
        windows, seconds = shelf.part_facts(row, col)
    except _LOST:
        part = _find(job, row, col)
        windows, seconds = part.windows, part.forward_seconds
    return BlockReport(done=False, windows=windows, forward_seconds=seconds)


def link(job: Job, row: int, col: int) -> BlockReport:
    """Compare a block's windows with all that overlap them."""
    shelf = Shelf(job.masks)
    own = _part(job, row, col).own
    rims = [_rim(job, row, col, n) for n in job.tiling.neighbours(row, col)]
    linked = link_block(own, rims, job.tiling)
    patiently(lambda: shelf.write_linked(row, col, own.table["key"], linked))
    return BlockReport(done=True)


def compose(job: Job, row: int, col: int) -> BlockReport:
    """Find which groups have pixels in a block."""
    composed = _composed(job, row, col)
    patiently(lambda: Shelf(job.masks).write_facts(row, col, composed.facts))
    return BlockReport(done=True)


def show(job: Job, row: int, col: int) -> BlockReport:
    """Write a block's instances, and its classes where they follow from them."""
    shelf = Shelf(job.masks)
    composed = _composed(job, row, col)
    ids = patiently(lambda: shelf.read_ids(row, col))
    job.masks.check_current()
    window = job.tiling.block_window(row, col)
    for name, values in _arrays(job, composed, ids, _part(job, row, col)).items():
        patiently(lambda n=name, v=values: job.masks.write(n, window, v))  # type: ignore[misc]
    patiently(lambda: shelf.mark_shown(row, col))
    return BlockReport(done=True)


def _arrays(
    job: Job, composed: Composed, ids: NDArray[np.uint32], part: Part
) -> dict[str, NDArray[Any]]:
    """Return what is written of a block."""
    owner, masks = composed.owner, job.masks
    none = owner < 0
    out: dict[str, NDArray[Any]] = {
        "instances": np.append(ids, 0).astype(np.uint32)[owner]
    }
    if isinstance(job.source, MapSource):
        return out
    dtype = np.uint8 if masks.nodata == 255 else np.uint16
    background = next(c.value for c in masks.classes if c.name == BACKGROUND)
    classes = np.append(composed.facts["cls"], background).astype(dtype)[owner]
    out["classes"] = np.where(part.valid, classes, dtype(masks.nodata))
    if "confidence" in masks.arrays:
        score = (composed.facts["score"].astype(np.int64) * 254 + SCORE // 2) // SCORE
        sure = np.append(score, 255).astype(np.uint8)[owner]
        out["confidence"] = np.where(none, np.uint8(255), sure)
    return out


def _composed(job: Job, row: int, col: int) -> Composed:
    shelf, neighbours = Shelf(job.masks), list(job.tiling.neighbours(row, col))
    own = _part(job, row, col).own
    rims = [_rim(job, row, col, n) for n in neighbours]
    _, linked = patiently(lambda: shelf.read_linked(row, col))
    groups = [_groups(shelf, row, col, own)]
    groups += [_groups(shelf, *n, rim) for n, rim in zip(neighbours, rims, strict=True)]
    return compose_block([own, *rims], groups, linked.reach, job.tiling, row, col)


def _groups(shelf: Shelf, row: int, col: int, seen: Seen) -> NDArray[np.void]:
    """Return what the objects that a block tells of are parts of."""
    keys, groups = patiently(lambda: shelf.read_groups(row, col))
    return np.asarray(groups[np.searchsorted(keys, seen.table["key"])])


def _part(job: Job, row: int, col: int) -> Part:
    try:
        return patiently(lambda: Shelf(job.masks).read_part(row, col))
    except _LOST:
        return _find(job, row, col)


def _rim(job: Job, row: int, col: int, neighbour: tuple[int, int]) -> Seen:
    try:
        return patiently(lambda: Shelf(job.masks).read_rim(row, col, neighbour))
    except _LOST:
        _find(job, *neighbour)
        return Shelf(job.masks).read_rim(row, col, neighbour)


def _find(job: Job, row: int, col: int) -> Part:
    """Infer a block and keep what was found: rims first, the part itself last."""
    model = job.model.load()
    found: Found = patiently(
        lambda: find_objects(
            job.source,
            model,  # type: ignore[arg-type]
            job.tiling,
            row,
            col,
            batch=getattr(model, "batch", 1),
        )
    )
    job.masks.check_current()
    shelf = Shelf(job.masks)
    for to, rim in found.rims.items():
        patiently(lambda t=to, r=rim: shelf.write_rim(row, col, t, r))  # type: ignore[misc]
    part = Part(
        own=found.own,
        valid=found.valid,
        windows=found.windows,
        forward_seconds=found.forward_seconds,
    )
    patiently(lambda: shelf.write_part(row, col, part))
    return part
