"""What a worker does for objects: find, link, compose and show those of a block.

Each step leaves one small object per block beside the masks (`object_store`), so that a
run that was killed goes on from there; what is missing or damaged is made again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.classes import nodata_value
from geoseg.inference.block_cache import remove_part, write_part
from geoseg.inference.instance import Composed, compose_block, find_objects, link_block
from geoseg.inference.objects.cache import Part, Shelf
from geoseg.inference.objects.split import MapSource
from geoseg.inference.objects.stitch import SCORE, Seen
from geoseg.inference.panoptic import find_panoptic, stuff_card
from geoseg.inference.semantic import finish_block
from geoseg.inference.worker import (
    LOST,
    BlockReport,
    Job,
    patiently,
    read_or_infer,
    write_arrays,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

BACKGROUND = "background"
"""Name of the class of valid pixels where there is no object."""


def find(job: Job, row: int, col: int) -> BlockReport:
    """Infer a block's windows and keep their objects; once.

    Raises:
        ModelError: The model answers nonsense.
        RasterError: The pixels cannot be read, three times in a row.
    """
    shelf = Shelf(job.masks)
    try:
        windows, seconds = shelf.part_facts(row, col)
    except LOST:
        part, _ = _find(job, row, col)
        windows, seconds = part.windows, part.forward_seconds
    return BlockReport(done=False, windows=windows, forward_seconds=seconds)


def link(job: Job, row: int, col: int, *, beside_failed: bool = False) -> BlockReport:
    """Compare a block's windows with all that overlap them.

    Args:
        job: What to do.
        row: Row of the block.
        col: Column of the block.
        beside_failed: Whether neighbours that are not inferred are left out.
    """
    shelf = Shelf(job.masks)
    own = _part(job, row, col).own
    if beside_failed:
        shelf.note("draft")
    rims = [_rim(job, row, col, n) for n in _neighbours(job, row, col)]
    linked = link_block(own, rims, job.tiling)
    if job.model.card.task == "panoptic":
        finish_stuff(job, row, col)
    patiently(lambda: shelf.write_linked(row, col, own.table["key"], linked))
    if job.model.card.task == "panoptic":
        patiently(lambda: remove_part(job.masks, row, col))
    return BlockReport(done=True)


def finish_stuff(job: Job, row: int, col: int) -> None:
    """Write a block's stuff classes, as if there were no objects."""
    part, rims = read_or_infer(job, row, col, lambda *block: _find(job, *block)[1])
    card = stuff_card(job.model.card)
    arrays = finish_block(part, rims, card, job.tiling, row, col)
    nodata, masks = nodata_value(card.classes), job.masks
    if nodata != masks.nodata:  # the highest class value is a thing's
        blank = arrays["classes"] == nodata
        arrays["classes"] = arrays["classes"].astype(np.uint16)
        arrays["classes"][blank] = masks.nodata
    wanted = {n: a for n, a in arrays.items() if n in masks.arrays}
    write_arrays(job, row, col, wanted)


def compose(job: Job, row: int, col: int) -> BlockReport:
    """Find which groups have pixels in a block."""
    composed, _ = _composed(job, row, col)
    patiently(lambda: Shelf(job.masks).write_facts(row, col, composed.facts))
    return BlockReport(done=True)


def show(job: Job, row: int, col: int) -> BlockReport:
    """Write a block's instances, and its classes where they follow from them."""
    shelf = Shelf(job.masks)
    composed, valid = _composed(job, row, col)
    ids = patiently(lambda: shelf.read_ids(row, col))
    instances = np.append(ids, 0).astype(np.uint32)[composed.owner]
    arrays = {"instances": instances}
    if not isinstance(job.source, MapSource):
        arrays |= _over(composed, instances > 0, _under(job, row, col, valid))
    write_arrays(job, row, col, arrays)
    patiently(lambda: shelf.mark_shown(row, col))
    return BlockReport(done=True)


def _over(
    composed: Composed, there: NDArray[np.bool_], under: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Return classes and confidence: those of objects over what lies under them."""
    score = (composed.facts["score"].astype(np.int64) * 254 + SCORE // 2) // SCORE
    of_object = {"classes": composed.facts["cls"], "confidence": score}
    return {
        name: np.where(
            there, np.append(of_object[name], 0).astype(a.dtype)[composed.owner], a
        )
        for name, a in under.items()
    }


def _under(
    job: Job, row: int, col: int, valid: NDArray[np.bool_]
) -> dict[str, NDArray[Any]]:
    """Return classes, and confidence where it is wanted, where no object lies."""
    masks, window = job.masks, job.tiling.block_window(row, col)
    names = [n for n in ("classes", "confidence") if n in masks.arrays]
    if job.model.card.task == "panoptic":
        return {name: masks.read(name, window) for name in names}
    dtype = np.dtype(np.uint8 if masks.nodata == 255 else np.uint16)
    background = next(c.value for c in masks.classes if c.name == BACKGROUND)
    blank = {
        "classes": np.where(valid, background, masks.nodata).astype(dtype),
        "confidence": np.full(valid.shape, 255, np.uint8),
    }
    return {name: blank[name] for name in names}


def _neighbours(job: Job, row: int, col: int) -> list[tuple[int, int]]:
    """Return a block's neighbours; in a draft those that are inferred."""
    shelf, around = Shelf(job.masks), list(job.tiling.neighbours(row, col))
    if not shelf.noted("draft"):
        return around
    return [n for n in around if shelf.has("parts", *n)]


def _composed(job: Job, row: int, col: int) -> tuple[Composed, NDArray[np.bool_]]:
    """Return which group each pixel belongs to, and which pixels are valid."""
    shelf, neighbours = Shelf(job.masks), _neighbours(job, row, col)
    part = _part(job, row, col)
    own, rims = part.own, [_rim(job, row, col, n) for n in neighbours]
    _, linked = patiently(lambda: shelf.read_linked(row, col))
    groups = [_groups(shelf, row, col, own)]
    groups += [_groups(shelf, *n, rim) for n, rim in zip(neighbours, rims, strict=True)]
    composed = compose_block(
        [own, *rims],
        groups,
        linked.reach,
        job.tiling,
        row,
        col,
        gapless=isinstance(job.source, MapSource),
    )
    return composed, part.valid


def _groups(shelf: Shelf, row: int, col: int, seen: Seen) -> NDArray[np.void]:
    """Return what the objects that a block tells of are parts of."""
    keys, groups = patiently(lambda: shelf.read_groups(row, col))
    return np.asarray(groups[np.searchsorted(keys, seen.table["key"])])


def _part(job: Job, row: int, col: int) -> Part:
    try:
        return patiently(lambda: Shelf(job.masks).read_part(row, col))
    except LOST:
        return _find(job, row, col)[0]


def _rim(job: Job, row: int, col: int, neighbour: tuple[int, int]) -> Seen:
    try:
        return patiently(lambda: Shelf(job.masks).read_rim(row, col, neighbour))
    except LOST:
        _find(job, *neighbour)
        return Shelf(job.masks).read_rim(row, col, neighbour)


def _find(job: Job, row: int, col: int) -> tuple[Part, Any]:
    """Infer a block and keep what was found: rims first, the part itself last.

    Returns:
        The part, and the sums of a panoptic model's scores (`semantic.Part`).
    """
    model: Any = job.model.load()
    panoptic = job.model.card.task == "panoptic"
    look: Any = find_panoptic if panoptic else find_objects
    batch = getattr(model, "batch", 1)
    answer = patiently(
        lambda: look(job.source, model, job.tiling, row, col, batch=batch)
    )
    found, stuff = answer if panoptic else (answer, None)
    job.masks.check_current()
    shelf = Shelf(job.masks)
    if stuff is not None:
        patiently(lambda: write_part(job.masks, row, col, stuff))
    for to, rim in found.rims.items():
        patiently(lambda t=to, r=rim: shelf.write_rim(row, col, t, r))  # type: ignore[misc]
    part = Part(
        own=found.own,
        valid=found.valid,
        windows=found.windows,
        forward_seconds=found.forward_seconds,
    )
    patiently(lambda: shelf.write_part(row, col, part))
    return part, stuff
