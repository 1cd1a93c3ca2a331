"""The run for objects: find and link block by block, join what crosses, number, show.

find, link      per block            solve     once, what crosses blocks only
compose         per block            number    once, row of blocks by row of blocks
show            per block
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from geoseg.core.classes import Class
from geoseg.core.tiling import Tiling
from geoseg.errors import BlocksFailedError
from geoseg.execution.progress import Progress
from geoseg.inference.instance import FACT
from geoseg.inference.objects.cache import Shelf
from geoseg.inference.objects.numbering import number
from geoseg.inference.objects.split import MapSource, Splitter, Splitting, splitter_card
from geoseg.inference.objects.stitch import LINK, OBJECT, SCORE, concatenated, solve
from geoseg.inference.objects.worker import BACKGROUND, compose, find, link, show
from geoseg.inference.scheduler import RunFacts, Work, run_blocks
from geoseg.inference.worker import BlockReport, Job
from geoseg.maps.group import create_objects
from geoseg.maps.store import Masks
from geoseg.models.load import model_recipe

if TYPE_CHECKING:
    from distributed import Client
    from numpy.typing import NDArray

    from geoseg.models.card import Card


def _step(function: Callable[[Job, int, int], BlockReport], done: str) -> Work:
    """Return work that needs nothing from neighbours in the same step."""
    return Work(
        infer=function,
        finish=function,
        provisional=function,
        inferred=_no_blocks,
        done=partial(_blocks, kind=done),
    )


def _blocks(masks: Masks, kind: str) -> set[tuple[int, int]]:
    return Shelf(masks).blocks(kind)


def _no_blocks(masks: Masks) -> set[tuple[int, int]]:  # noqa: ARG001
    return set()


FIND = replace(
    _step(find, "linked"),
    finish=link,
    provisional=partial(link, beside_failed=True),
    inferred=partial(_blocks, kind="parts"),
)
COMPOSE = _step(compose, "facts")
SHOW = _step(show, "shown")


def run_objects(
    job: Job,
    *,
    client: Client | None = None,
    threads: int | None = None,
    show: Callable[[Progress], None] = lambda _: None,
) -> RunFacts:
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
    shelf, total = Shelf(job.masks), job.tiling.blocks
    if len(shelf.blocks("shown")) == total:
        return RunFacts(windows=0, forward_seconds=0.0, pixels=0)
    if shelf.noted("draft"):
        _forget_draft(shelf, job.tiling)
    try:
        facts = run_blocks(job, work=FIND, client=client, threads=threads, show=show)
    except BlocksFailedError:
        shelf.note("draft")
        _join_and_show(job, client, threads, lambda: None)
        _forget_draft(shelf, job.tiling)
        raise
    found = Progress(
        blocks=total, total=total, pixels=facts.pixels, windows=facts.windows
    )
    _join_and_show(job, client, threads, lambda: show(found))
    shelf.clear()
    return facts


def _join_and_show(
    job: Job, client: Client | None, threads: int | None, check: Callable[[], None]
) -> None:
    """Do what comes after linking, for all blocks that are linked."""
    shelf, tiling = Shelf(job.masks), job.tiling

    def tell(_: Progress) -> None:
        check()

    failed = _every(tiling) - shelf.blocks("linked")
    if not shelf.noted("is-solved"):
        _solve(shelf, tiling)
        shelf.note("is-solved")
    _run_step(job, COMPOSE, failed, client, threads, tell)
    if not shelf.noted("is-numbered"):
        _number(shelf, tiling, failed)
        shelf.note("is-numbered")
    _run_step(job, SHOW, failed, client, threads, tell)


def _run_step(
    job: Job,
    step: Work,
    failed: set[tuple[int, int]],
    client: Client | None,
    threads: int | None,
    tell: Callable[[Progress], None],
) -> None:
    """Run a step for all blocks but those that failed before."""
    done = partial(_blocks_and, more=frozenset(failed), done=step.done)
    work = replace(step, done=done)
    run_blocks(job, work=work, client=client, threads=threads, show=tell)


def _blocks_and(
    masks: Masks,
    more: frozenset[tuple[int, int]],
    done: Callable[[Masks], set[tuple[int, int]]],
) -> set[tuple[int, int]]:
    return done(masks) | more


def _every(tiling: Tiling) -> set[tuple[int, int]]:
    return set(np.ndindex(tiling.block_rows, tiling.block_cols))


def _forget_draft(shelf: Shelf, tiling: Tiling) -> None:
    """Forget what was made beside failed blocks: it was written, but is not final."""
    failed = _every(tiling) - shelf.blocks("parts")
    for block in failed:
        for neighbour in tiling.neighbours(*block):
            shelf.forget_block("linked", *neighbour)
    for kind in ("is-solved", "is-numbered", "solved", "facts", "ids", "shown"):
        shelf.forget(kind)
    shelf.forget("draft")


def table_of(card: Card) -> tuple[Class, ...]:
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
        tiling=Tiling(
            height=tiling.height,
            width=tiling.width,
            window=card.window,
            overlap=card.overlap,
            multiple=card.multiple,
            block=tiling.block,
        ),
        masks=masks,
    )


def _solve(shelf: Shelf, tiling: Tiling) -> None:
    """Join what crosses blocks: all that is held is what touches their borders."""
    opens, links, clashes = {}, [], []
    for block in sorted(shelf.blocks("linked")):
        _, linked = shelf.read_linked(*block)
        opens[block] = linked.open
        links.append(linked.links)
        clashes.append(linked.clashes)
    table = concatenated(list(opens.values()), OBJECT)
    order = np.argsort(table["key"])
    groups = solve(
        table[order], concatenated(links, LINK), concatenated(clashes, LINK), tiling
    )
    for block, objects in opens.items():
        if len(objects):
            mine = groups[np.searchsorted(table["key"][order], objects["key"])]
            shelf.write_solved(*block, mine)


def _number(shelf: Shelf, tiling: Tiling, failed: set[tuple[int, int]]) -> None:
    """Give ids, and write the table of objects."""

    def read(row: int, col: int) -> NDArray[np.void]:
        if (row, col) in failed:
            return np.zeros(0, FACT)
        return shelf.read_facts(row, col)

    append = create_objects(shelf.masks.path)
    for numbered in number(read, tiling.block_rows, tiling.block_cols):
        append(_columns(numbered.table, numbered.first_id))
        for (row, col), ids in numbered.ids.items():
            shelf.write_ids(row, col, ids)


def _columns(table: NDArray[np.void], first_id: int) -> dict[str, NDArray[np.generic]]:
    """Return the columns of the table of objects."""
    assert table.dtype == FACT
    return {
        "instance_id": np.arange(first_id, first_id + len(table), dtype=np.uint32),
        "class_id": table["cls"].astype(np.uint16),
        "score": (table["score"] / SCORE).astype(np.float32),
        "pixels": table["pixels"].astype(np.int64),
        "top": table["top"],
        "left": table["left"],
        "bottom": table["bottom"],
        "right": table["right"],
        "pieces": table["pieces"],
    }
