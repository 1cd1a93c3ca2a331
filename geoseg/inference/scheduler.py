"""The run: which block comes next, until all are done. Blocks, not pixels."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from geoseg.core import views
from geoseg.errors import (
    BlocksFailedError,
    GeosegError,
    RasterError,
    SourceChangedError,
    StorageFullError,
    Terminated,
    WorkersDiedError,
    first_line,
    is_full,
)
from geoseg.execution.engine import engine
from geoseg.execution.progress import Progress
from geoseg.execution.tasks import Engine, Outcome
from geoseg.inference.semantic import NotFiniteError
from geoseg.inference.timing import Timed
from geoseg.inference.worker import BlockReport, Job, finish, infer, write_provisional
from geoseg.maps.store import Masks

if TYPE_CHECKING:
    from distributed import Client
    from numpy.typing import NDArray

TODO, INFERRED, DONE, FAILED = range(4)
Task = tuple[str, int, int]
"""Kind, row and column of a task; what it is submitted as."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is done with blocks: functions of (job, row, column), for workers."""

    infer: Callable[[Job, int, int], BlockReport]
    """Needs nothing from other blocks."""
    finish: Callable[[Job, int, int], BlockReport]
    """Needs that all neighbours are inferred."""
    provisional: Callable[[Job, int, int], BlockReport]
    """Does what can be done beside a neighbour that failed."""
    inferred: Callable[[Masks], set[tuple[int, int]]]
    """Returns the blocks that are inferred."""
    done: Callable[[Masks], set[tuple[int, int]]]
    """Returns the blocks that are done."""


LABELS = Work(
    infer=infer,
    finish=finish,
    provisional=write_provisional,
    inferred=Masks.parts,
    done=Masks.done,
)
"""Semantic segmentation."""


@dataclass(slots=True)
class _State:
    """What is known of every block; bytes, so ten million blocks are ten megabytes."""

    job: Job
    work: Work
    status: NDArray[np.uint8]
    order: Iterator[tuple[int, int]]
    done: int
    inferred: int
    ready: deque[tuple[int, int]] = field(default_factory=deque)
    failed: dict[tuple[int, int], str] = field(default_factory=dict)
    suspects: list[Task] = field(default_factory=list)
    """What workers died with; tried again alone, so that only the guilty one fails."""
    alone: Task | None = None
    """The suspect that is being tried."""
    windows: int = 0
    forward_seconds: float = 0.0
    pixels: int = 0
    infer_seconds: float = 0.0
    finish_seconds: float = 0.0
    devices: set[str] = field(default_factory=set)

    @property
    def progress(self) -> Progress:
        return Progress(
            blocks=self.done,
            total=self.status.size,
            pixels=self.pixels,
            windows=self.windows,
            inferred=self.inferred,
            failed=len(self.failed),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a run did."""

    windows: int
    """Windows inferred by this run."""
    forward_seconds: float
    """Time in the model, of all workers together."""
    pixels: int
    """Pixels of the blocks inferred by this run."""
    finished: int = 0
    """Blocks that this run brought to their end."""
    other_seconds: float = 0.0
    """Time beside the model in the same tasks: reading, blending, all workers'."""
    finish_seconds: float = 0.0
    """Time in joining blocks and writing them, all workers'."""
    devices: tuple[str, ...] = ()
    """What the model ran on."""

    def _repr_html_(self) -> str:
        return views.html("run", self)


def run_blocks(
    job: Job,
    *,
    work: Work = LABELS,
    client: Client | None = None,
    threads: int | None = None,
    show: Callable[[Progress], None] = lambda _: None,
) -> RunFacts:
    """Infer and finish all blocks that are not done yet.

    Args:
        job: What to do.
        work: And how.
        client: Where; None is this process.
        threads: Blocks in work at once in this process.
        show: Called after every block.

    Raises:
        BlocksFailedError: Some blocks failed; the rest is written.
        StorageFullError: There was no room to go on.
        ModelError: The model and its card contradict each other.
        SourceChangedError: The raster was replaced.
        ClusterError: The scheduler is gone.
        Terminated: The process was asked to end; blocks in hand were finished first.
    """
    state = _begin(job, _timed(work))
    before = state.done
    with engine(job, client=client, threads=threads) as tasks:
        try:
            _drive(tasks, state, show)
        except (KeyboardInterrupt, Terminated):
            tasks.drain()  # its outcome is in the store
            raise
        if state.failed:
            _write_neighbours_of_failed(tasks, state)
    if state.failed:
        raise BlocksFailedError(state.failed, state.status.size)
    return RunFacts(
        windows=state.windows,
        forward_seconds=state.forward_seconds,
        pixels=state.pixels,
        finished=state.done - before,
        other_seconds=max(0.0, state.infer_seconds - state.forward_seconds),
        finish_seconds=state.finish_seconds,
        devices=tuple(sorted(state.devices)),
    )


def _timed(work: Work) -> Work:
    return replace(
        work,
        infer=Timed(work.infer),
        finish=Timed(work.finish),
        provisional=Timed(work.provisional),
    )


def _begin(job: Job, work: Work) -> _State:
    shape = (job.tiling.block_rows, job.tiling.block_cols)
    status = np.zeros(shape, np.uint8)
    for row, col in work.inferred(job.masks):
        status[row, col] = INFERRED
    for row, col in work.done(job.masks):
        status[row, col] = DONE
    state = _State(
        job=job,
        work=work,
        status=status,
        order=_row_by_row(status == TODO),
        done=int(np.count_nonzero(status == DONE)),
        inferred=int(np.count_nonzero(status != TODO)),
    )
    for row, col in np.argwhere(status == INFERRED).tolist():
        if _is_ready(state, row, col):
            state.ready.append((row, col))
    return state


def _row_by_row(todo: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    for row, line in enumerate(todo):
        for col in np.flatnonzero(line):
            yield row, int(col)


def _drive(tasks: Engine, state: _State, show: Callable[[Progress], None]) -> None:
    show(state.progress)
    while True:
        _fill(tasks, state)
        if not tasks.in_flight:
            return
        for outcome in tasks.wait():
            _take(state, outcome)
        show(state.progress)


def _fill(tasks: Engine, state: _State) -> None:
    """Submit what there is room for, a few more than run at once."""
    if state.alone is not None:
        return
    slots, work = tasks.slots, state.work
    room = slots + tasks.spare - tasks.in_flight
    # Finish before infer: it frees what the store keeps for a block.
    while room > 0 and state.ready:
        block = state.ready.popleft()
        tasks.submit(("finish", *block), work.finish, *block)
        room -= 1
    for block in islice(state.order, max(0, room)):
        tasks.submit(("infer", *block), work.infer, *block)
    if not tasks.in_flight and state.suspects:
        state.alone = kind, row, col = state.suspects.pop()
        again = work.finish if kind == "finish" else work.infer
        tasks.submit(state.alone, again, row, col)


def _take(state: _State, outcome: Outcome[BlockReport]) -> None:
    kind, row, col = outcome.tag
    was_alone, state.alone = state.alone, None
    if isinstance(outcome.error, WorkersDiedError) and was_alone is None:
        state.suspects.append(outcome.tag)
        return
    if outcome.error is not None:
        _fail(state, row, col, outcome.error)
        return
    report = outcome.result
    assert report is not None
    if kind == "infer":
        window = state.job.tiling.block_window(row, col)
        state.pixels += window.area
        state.windows += report.windows
        state.inferred += 1
        state.forward_seconds += report.forward_seconds
        state.infer_seconds += report.seconds
        state.devices |= {report.device} - {""}
    else:
        state.finish_seconds += report.seconds
    state.status[row, col] = DONE if report.done else INFERRED
    state.done += report.done
    if not report.done:
        for block in [(row, col), *state.job.tiling.neighbours(row, col)]:
            if _is_ready(state, *block):
                state.ready.append(block)


def _fail(state: _State, row: int, col: int, error: BaseException) -> None:
    """Note a failed block, or stop where every block would fail the same way."""
    if is_full(error):
        raise StorageFullError(
            f"no room is left for {state.job.masks.path}: {first_line(error)}; "
            f"{state.done} of {state.status.size} blocks are done; make room, and the "
            "same command goes on"
        ) from error
    if isinstance(error, ImportError):
        raise GeosegError(
            f"a worker lacks a package that the model or the raster needs: "
            f"{first_line(error)}; install the same packages everywhere"
        ) from error
    if not isinstance(error, Exception) or _concerns_all(error):
        raise error
    state.status[row, col] = FAILED
    state.failed[row, col] = first_line(error)


def _concerns_all(error: Exception) -> bool:
    if isinstance(error, SourceChangedError):
        return True
    of_one_block = (NotFiniteError, RasterError, WorkersDiedError)
    return isinstance(error, GeosegError) and not isinstance(error, of_one_block)


def _is_ready(state: _State, row: int, col: int) -> bool:
    """Whether a block is inferred and so are all its neighbours."""
    if state.status[row, col] != INFERRED:
        return False
    around = state.status[max(0, row - 1) : row + 2, max(0, col - 1) : col + 2]
    return bool(np.all((around == INFERRED) | (around == DONE)))


def _write_neighbours_of_failed(tasks: Engine, state: _State) -> None:
    """Write blocks that wait for a failed neighbour, so that no data is missing."""
    for row, col in np.argwhere(state.status == INFERRED).tolist():
        tasks.submit(("provisional", row, col), state.work.provisional, row, col)
    while tasks.in_flight:
        for outcome in tasks.wait():
            if outcome.error is not None:
                _, row, col = outcome.tag
                state.failed[row, col] = first_line(outcome.error)
