"""What a worker does for objects: find, link, compose and write those of a block.

Each step leaves one small object per block beside the masks (`ObjectCache`), so that a
run that was killed resumes from there; what is missing or damaged is rebuilt.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.classes import nodata_value
from geoseg.core.tiling import Block
from geoseg.errors import DamagedStoreError
from geoseg.inference.block_cache import write_partial
from geoseg.inference.instance import (
    Composed,
    FoundObjects,
    compose_block,
    find_objects,
    link_block,
)
from geoseg.inference.objects.cache import (
    FOUND,
    GROUPS,
    IDS,
    PROVISIONAL,
    WRITTEN,
    ObjectCache,
)
from geoseg.inference.objects.split import MapSource
from geoseg.inference.objects.stitch import SCORE, ObjectSet
from geoseg.inference.panoptic import STUFF_ARRAYS, find_panoptic, stuff_card
from geoseg.inference.semantic import PartialBlock, finish_block
from geoseg.inference.worker import (
    LOST,
    BlockReport,
    Job,
    inferred_otherwise,
    read_or_infer,
    streamed,
    with_retries,
    write_arrays,
)
from geoseg.maps.store import CHECKSUMS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

BACKGROUND = "background"
"""Name of the class of valid pixels where there is no object."""


def find_in_block(job: Job, block: Block) -> BlockReport:
    """Infer a block's windows and keep their objects; once.

    Raises:
        ModelError: The model answers nonsense.
        RasterError: The pixels cannot be read, three times in a row.
    """
    try:
        found = ObjectCache(job.masks).read_found(block)
    except LOST:
        found, _ = _find(job, block)
    return BlockReport(
        done=False, windows=found.windows, forward_seconds=found.forward_seconds
    )


def link(job: Job, block: Block, *, provisional: bool = False) -> BlockReport:
    """Compare a block's windows with all that overlap them.

    Args:
        job: What to do.
        block: The block.
        provisional: A neighbour failed; those that are not inferred are left out.
    """
    cache = ObjectCache(job.masks)
    own = _found(job, block).own
    if provisional:
        cache.mark(PROVISIONAL)
    halo = [_halo(job, block, neighbour) for neighbour in _neighbours(cache, block)]
    linked = link_block(own, halo, job.tiling)
    if _is_panoptic(job):
        finish_stuff(job, block)
    with_retries(lambda: cache.write_linked(block, linked))
    return BlockReport(done=True)


def _is_panoptic(job: Job) -> bool:
    return job.model.card.task == "panoptic"


def finish_stuff(job: Job, block: Block) -> None:
    """Write a block's stuff classes, as if there were no objects."""

    def again(which: Block) -> PartialBlock:
        stuff = _find(job, which)[1]
        assert stuff is not None
        return stuff

    own, halo = read_or_infer(job, block, again)
    card, masks = stuff_card(job.model.card), job.masks
    arrays = finish_block(own, halo, card, block)
    nodata = nodata_value(card.classes)
    if nodata != masks.nodata:  # the highest class value is a thing's
        blank = arrays["classes"] == nodata
        arrays["classes"] = arrays["classes"].astype(np.uint16)
        arrays["classes"][blank] = masks.nodata
    write_arrays(job, block, {n: a for n, a in arrays.items() if n in masks.arrays})


def compose_groups(job: Job, block: Block) -> BlockReport:
    """Find which groups have pixels in a block."""
    groups = _composed(job, block)[0].groups
    with_retries(lambda: ObjectCache(job.masks).write(GROUPS, block, groups))
    return BlockReport(done=True)


def write_instances(job: Job, block: Block) -> BlockReport:
    """Write a block's instances, and its classes where they follow from them."""
    cache = ObjectCache(job.masks)
    composed, found = _composed(job, block)
    ids = with_retries(lambda: cache.read(IDS, block))
    instances = np.append(ids, 0).astype(np.uint32)[composed.owner]
    arrays = {"instances": instances}
    if not isinstance(job.source, MapSource):
        arrays |= _over(composed, instances > 0, _under(job, block, found.valid))
    _note_done(job, block, write_arrays(job, block, arrays), found.otherwise)
    with_retries(lambda: cache.mark(WRITTEN, block))
    return BlockReport(done=True)


def _note_done(
    job: Job, block: Block, written: Mapping[str, int], otherwise: Mapping[str, Any]
) -> None:
    """Note in the block's done mark what all of its arrays are now, and who did it."""
    masks = job.masks
    try:
        info = masks.done_info(block.key)
    except (FileNotFoundError, DamagedStoreError):
        info = {}
    sums = {**info.get(CHECKSUMS, {}), **written}
    for name in masks.arrays:
        if name not in sums:  # such as probabilities, which are written before
            sums[name] = masks.checksum(name, block.window)
    info |= {**otherwise, CHECKSUMS: sums}
    with_retries(lambda: masks.mark_done(block.key, info))


def _over(
    composed: Composed, there: NDArray[np.bool_], under: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Return classes and confidence: those of objects over what lies under them."""
    score = (composed.groups["score"].astype(np.int64) * 254 + SCORE // 2) // SCORE
    of_object = {"classes": composed.groups["cls"], "confidence": score}
    return {
        name: np.where(
            there, np.append(of_object[name], 0).astype(a.dtype)[composed.owner], a
        )
        for name, a in under.items()
    }


def _under(job: Job, block: Block, valid: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """Return classes, and confidence if it is stored, where no object lies."""
    masks = job.masks
    names = [n for n in ("classes", "confidence") if n in masks.arrays]
    if _is_panoptic(job):
        return {name: masks.read(name, block.window) for name in names}
    dtype = np.dtype(np.uint8 if masks.nodata == 255 else np.uint16)
    background = next(c.value for c in masks.classes if c.name == BACKGROUND)
    blank = {
        "classes": np.where(valid, background, masks.nodata).astype(dtype),
        "confidence": np.full(valid.shape, 255, np.uint8),
    }
    return {name: blank[name] for name in names}


def _neighbours(cache: ObjectCache, block: Block) -> tuple[Block, ...]:
    """Return a block's neighbours; beside failed blocks those that are inferred."""
    if not cache.has(PROVISIONAL):
        return block.neighbours
    return tuple(n for n in block.neighbours if cache.has(FOUND, n))


def _composed(job: Job, block: Block) -> tuple[Composed, FoundObjects]:
    """Return which group each pixel belongs to, and what the block's windows see."""
    cache, found = ObjectCache(job.masks), _found(job, block)
    neighbours = _neighbours(cache, block)
    seen = [found.own, *(_halo(job, block, n) for n in neighbours)]
    groups = [
        _groups(cache, teller, objects)
        for teller, objects in zip((block, *neighbours), seen, strict=True)
    ]
    reach = with_retries(lambda: cache.read_linked(block)).reach
    gapless = isinstance(job.source, MapSource)
    return compose_block(seen, groups, reach, block, gapless=gapless), found


def _groups(cache: ObjectCache, block: Block, seen: ObjectSet) -> NDArray[np.void]:
    """Return which groups the objects that a block reports belong to."""
    keys, groups = with_retries(lambda: cache.read_groups(block))
    return np.asarray(groups[np.searchsorted(keys, seen.table["key"])])


def _found(job: Job, block: Block) -> FoundObjects:
    try:
        return with_retries(lambda: ObjectCache(job.masks).read_found(block))
    except LOST:
        return _find(job, block)[0]


def _halo(job: Job, block: Block, neighbour: Block) -> ObjectSet:
    cache = ObjectCache(job.masks)
    try:
        return with_retries(lambda: cache.read_halo(block, neighbour))
    except LOST:
        return _find(job, neighbour)[0].halo[block.key]


def _find(job: Job, block: Block) -> tuple[FoundObjects, PartialBlock | None]:
    """Infer a block and keep what was found: halo first, the block's own last.

    Returns:
        What was found, and the sums of a panoptic model's scores.
    """
    found, stuff = _seen(job, block)
    if not isinstance(job.source, MapSource):  # whose blocks say who inferred them
        found = replace(found, otherwise=inferred_otherwise(job))
    write_arrays(job, block, found.quality)
    cache = ObjectCache(job.masks)
    if stuff is not None:
        with_retries(partial(write_partial, job.masks, block, stuff))
    for key, halo in found.halo.items():
        with_retries(partial(cache.write_halo, block, key, halo))
    with_retries(lambda: cache.write_found(block, found))
    return found, stuff


def _seen(job: Job, block: Block) -> tuple[FoundObjects, PartialBlock | None]:
    model: Any = job.model.load()
    if model.streams:
        arrays = STUFF_ARRAYS if _is_panoptic(job) else ()
        return streamed(job, block, arrays)  # type: ignore[no-any-return]
    if _is_panoptic(job):
        return with_retries(
            lambda: find_panoptic(job.source, model, block, batch=model.batch)
        )
    found = with_retries(
        lambda: find_objects(job.source, model, block, batch=model.batch)
    )
    return found, None
