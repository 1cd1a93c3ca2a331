"""The run for objects: find and link block by block, join what crosses, number, write.

find, link      per block            join      once, what crosses blocks only
compose         per block            number    once, row of blocks by row of blocks
write           per block
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from geoseg.core.classes import Class
from geoseg.core.tiling import Block, Tiling
from geoseg.errors import BlocksFailedError
from geoseg.execution.progress import Progress
from geoseg.inference.instance import BLOCK_GROUP
from geoseg.inference.objects.cache import (
    ALL_JOINED,
    ALL_NUMBERED,
    FOUND,
    GROUPS,
    IDS,
    JOINED,
    LINKED,
    PROVISIONAL,
    WRITTEN,
    ObjectCache,
)
from geoseg.inference.objects.numbering import number_groups
from geoseg.inference.objects.split import MapSource, Splitter, Splitting, splitter_card
from geoseg.inference.objects.stitch import (
    BOX,
    LINK,
    OBJECT,
    SCORE,
    concatenated,
    solve,
)
from geoseg.inference.objects.worker import (
    BACKGROUND,
    compose_groups,
    find_in_block,
    link,
    write_instances,
)
from geoseg.inference.scheduler import RunInfo, run_blocks
from geoseg.inference.stage import Stage
from geoseg.inference.worker import Job
from geoseg.maps.group import create_objects
from geoseg.models.load import model_recipe

if TYPE_CHECKING:
    from distributed import Client
    from numpy.typing import NDArray

    from geoseg.models.card import Card

FIND = (
    Stage(run=find_in_block, marks=FOUND),
    Stage(run=link, marks=LINKED, needs_neighbours=True),
)
COMPOSE = (Stage(run=compose_groups, marks=GROUPS),)
WRITE = (Stage(run=write_instances, marks=WRITTEN),)


def run_objects(
    job: Job,
    *,
    client: Client | None = None,
    threads: int | None = None,
    show: Callable[[Progress], None] = lambda _: None,
) -> RunInfo:
    """Write `instances` and the table of objects of all blocks.

    Args:
        job: What to do; its model's answers are `Objects`.
        client: Where; None is this process.
        threads: Blocks in work at once in this process.
        show: Called after every block.

    Raises:
        BlocksFailedError: Some blocks failed; the rest is written.
        GeosegError: As `run_blocks`.
    """
    cache, total = ObjectCache(job.masks), job.tiling.blocks
    if len(cache.blocks(WRITTEN)) == total:
        return RunInfo()
    if cache.has(PROVISIONAL):
        _forget_provisional(cache, job.tiling)
    run = _ObjectRun(job=job, client=client, threads=threads)
    try:
        info = run.through(FIND, show)
    except BlocksFailedError:
        cache.mark(PROVISIONAL)
        run.join_and_write(lambda _: None)
        _forget_provisional(cache, job.tiling)
        raise
    found = Progress(
        blocks=total, total=total, pixels=info.pixels, windows=info.windows
    )
    run.join_and_write(lambda _: show(found))
    cache.clear()
    return info


@dataclass(frozen=True, slots=True, kw_only=True)
class _ObjectRun:
    """Where the steps of a run for objects take place."""

    job: Job
    client: Client | None
    threads: int | None

    def through(
        self,
        stages: Sequence[Stage],
        show: Callable[[Progress], None],
        skipped: frozenset[tuple[int, int]] = frozenset(),
    ) -> RunInfo:
        """Take all blocks but those that are left out through some stages."""
        return run_blocks(
            self.job,
            stages=stages,
            skipped=skipped,
            client=self.client,
            threads=self.threads,
            show=show,
        )

    def join_and_write(self, show: Callable[[Progress], None]) -> None:
        """Do what comes after linking, for all blocks that are linked."""
        cache, tiling = ObjectCache(self.job.masks), self.job.tiling
        failed = _missing(cache, LINKED, tiling)
        if not cache.has(ALL_JOINED):
            _join(cache, tiling)
            cache.mark(ALL_JOINED)
        self.through(COMPOSE, show, failed)
        if not cache.has(ALL_NUMBERED):
            _number(cache, tiling, failed)
            cache.mark(ALL_NUMBERED)
        self.through(WRITE, show, failed)


def _missing(
    cache: ObjectCache, kind: str, tiling: Tiling
) -> frozenset[tuple[int, int]]:
    """Return the blocks that have no such thing."""
    every = np.ndindex(tiling.block_rows, tiling.block_cols)
    return frozenset(every) - cache.blocks(kind)


def _forget_provisional(cache: ObjectCache, tiling: Tiling) -> None:
    """Forget what was made beside failed blocks: it was written, but is not final."""
    for failed in _missing(cache, FOUND, tiling):
        for neighbour in tiling.block_at(*failed).neighbours:
            cache.forget(LINKED, neighbour)
    for kind in (ALL_JOINED, ALL_NUMBERED, JOINED, GROUPS, IDS, WRITTEN):
        cache.forget(kind)
    cache.forget(PROVISIONAL)


def mask_classes(card: Card) -> tuple[Class, ...]:
    """Return the class table of a model's masks.

    Pixels without an object are of the class `background`; it is added where an
    instance model's card does not name it.
    """
    if card.task != "instance" or any(c.name == BACKGROUND for c in card.classes):
        return card.classes
    taken = {c.value for c in card.classes}
    value = next(v for v in range(65535) if v not in taken)
    return (*card.classes, Class(value=value, name=BACKGROUND, color="#000000"))


def splitting_job(job: Job, splitting: Splitting) -> Job:
    """Return the job that makes objects of a complete map.

    Its windows are the chunks of the store with what a method needs around them.

    Args:
        job: The job that made the map.
        splitting: How it is split.
    """
    masks, tiling = job.masks, job.tiling
    card = splitter_card(
        masks.classes,
        confidence="confidence" in masks.arrays,
        cell=tiling.chunk,
        method=splitting.method,
    )
    return Job(
        source=MapSource(masks),
        model=model_recipe(Splitter(card, splitting.method, splitting.things)),
        tiling=replace(
            tiling, window=card.window, overlap=card.overlap, multiple=card.multiple
        ),
        masks=masks,
    )


def _join(cache: ObjectCache, tiling: Tiling) -> None:
    """Join what crosses blocks: all that is held is what touches their borders."""
    opens, links, clashes = {}, [], []
    for key in sorted(cache.blocks(LINKED)):
        block = tiling.block_at(*key)
        linked = cache.read_linked(block)
        opens[block] = linked.open
        links.append(linked.links)
        clashes.append(linked.clashes)
    table = concatenated(list(opens.values()), OBJECT)
    table = table[np.argsort(table["key"])]
    groups = solve(
        table, concatenated(links, LINK), concatenated(clashes, LINK), tiling
    )
    for block, objects in opens.items():
        if len(objects):
            mine = groups[np.searchsorted(table["key"], objects["key"])]
            cache.write(JOINED, block, mine)


def _number(
    cache: ObjectCache, tiling: Tiling, failed: frozenset[tuple[int, int]]
) -> None:
    """Give ids, and write the table of objects."""

    def read(block: Block) -> NDArray[np.void]:
        if block.key in failed:
            return np.zeros(0, BLOCK_GROUP)
        return cache.read(GROUPS, block)

    append = create_objects(cache.masks.path)
    for numbered in number_groups(read, tiling):
        append(_columns(numbered.table, numbered.first_id))
        for key, ids in numbered.ids.items():
            cache.write(IDS, tiling.block_at(*key), ids)


def _columns(table: NDArray[np.void], first_id: int) -> dict[str, NDArray[np.generic]]:
    """Return the columns of the table of objects."""
    assert table.dtype == BLOCK_GROUP
    return {
        "instance_id": np.arange(first_id, first_id + len(table), dtype=np.uint32),
        "class_id": table["cls"].astype(np.uint16),
        "score": (table["score"] / SCORE).astype(np.float32),
        "pixels": table["pixels"].astype(np.int64),
        **{edge: table[edge] for edge, _ in BOX},
        "pieces": table["pieces"],
    }
