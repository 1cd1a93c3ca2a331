"""The run: which block comes next, until all are done. Blocks, not pixels."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from geoseg.core import views
from geoseg.core.text import counted
from geoseg.core.tiling import Block
from geoseg.errors import (
    BlocksFailedError,
    GeosegError,
    RasterError,
    SourceChangedError,
    StorageFullError,
    WorkersDiedError,
    first_line,
    is_full,
)
from geoseg.execution.engine import engine, processes
from geoseg.execution.progress import Progress
from geoseg.execution.tasks import Engine, Outcome
from geoseg.inference.order import BlockOrder, Key, across, cells_of
from geoseg.inference.semantic import NotFiniteError
from geoseg.inference.stage import LABELS, Stage
from geoseg.inference.worker import BlockReport, Job

if TYPE_CHECKING:
    from distributed import Client
    from numpy.typing import NDArray

FAILED = 255
"""Status of a block that failed; else how many stages it is through."""
_LOOK = 0.5
"""Seconds after which it is looked whether windows of blocks at work are done."""


@dataclass(slots=True, kw_only=True)
class RunInfo:
    """What a run did."""

    windows: int = 0
    """Windows inferred by this run."""
    forward_seconds: float = 0.0
    """Time in the model, of all workers together."""
    pixels: int = 0
    """Pixels of the blocks inferred by this run."""
    finished: int = 0
    """Blocks that this run brought to their end."""
    infer_seconds: float = 0.0
    """Time in the first stage, of all workers: reading, the model, blending."""
    finish_seconds: float = 0.0
    """Time in joining blocks and writing them, all workers'."""
    devices: set[str] = field(default_factory=set)
    """What the model ran on."""

    begun: float = field(default_factory=perf_counter)
    """When its first block was."""
    seconds: float = 0.0
    """From then to its last block."""
    processes: int = 1
    """How many were at work."""

    @property
    def gpu_share(self) -> float | None:
        """Share of the time that GPUs were at work; None without any."""
        if not self.seconds or all(d.startswith("cpu") for d in self.devices):
            return None
        return min(1.0, self.forward_seconds / self.seconds / self.processes)

    @property
    def other_seconds(self) -> float:
        """Time beside the model in the same tasks: reading, blending, all workers'."""
        return max(0.0, self.infer_seconds - self.forward_seconds)

    def __repr__(self) -> str:
        return (
            f"<RunInfo: {counted(self.windows, 'window')} inferred, "
            f"{counted(self.finished, 'block')} finished>"
        )

    def _repr_html_(self) -> str:
        return views.html("run", self)


@dataclass(slots=True)
class _State:
    """What is known of every block; bytes, so ten million blocks are ten megabytes."""

    job: Job
    stages: Sequence[Stage]
    status: NDArray[np.uint8]
    order: BlockOrder
    """Blocks of which nothing is done yet, and where those in hand are."""
    done: int
    """Blocks that are through all stages, those of earlier runs too."""
    inferred: int
    """Blocks that are through the first stage, those of earlier runs too."""
    ready: deque[Key] = field(default_factory=deque)
    """Blocks that wait for a later stage, and for no other block."""
    spent: list[Key] = field(default_factory=list)
    """Blocks of which the store keeps what nobody needs any more."""
    failed: dict[Key, str] = field(default_factory=dict)
    suspects: list[Key] = field(default_factory=list)
    """What workers died with; tried again alone, so that only the guilty one fails."""
    alone: Key | None = None
    """The suspect that is being tried."""
    info: RunInfo = field(default_factory=RunInfo)
    cells: int = 0
    """Windows of the blocks that are through the first stage."""

    def progress(self, counted: int = 0) -> Progress:
        """Return how far all is.

        Args:
            counted: Windows of which this run has the answers, those of blocks that are
                at work too.
        """
        at_work = max(0, counted - self.info.windows)
        all_cells = self.job.tiling.windows
        return Progress(
            cells=min(self.cells + at_work, all_cells),
            all_cells=all_cells,
            blocks=self.done,
            total=self.status.size,
            pixels=self.info.pixels,
            windows=self.info.windows,
            inferred=self.inferred,
            failed=len(self.failed),
            gpu_share=self.info.gpu_share,
        )

    def submit(self, tasks: Engine, key: Key) -> None:
        """Submit the stage that comes next for a block."""
        stage = self.stages[self.status[key]]
        spent, self.spent = tuple(self.spent), []
        block, home = self.job.tiling.block_at(*key), self.order.home(key)
        last = not self.status[key] and self.order.all_begun
        tasks.submit(key, stage, block, spent, last, worker=home)
        self.order.begun(key)

    def around(self, key: Key) -> NDArray[np.uint8]:
        """Return the status of a block and its neighbours."""
        row, col = key
        return self.status[max(0, row - 1) : row + 2, max(0, col - 1) : col + 2]

    def waits_for_neighbours(self, key: Key) -> bool:
        """Whether a block's next stage is one that needs its neighbours."""
        status = self.status[key]
        return bool(status < len(self.stages)) and self.stages[status].needs_neighbours

    def is_ready(self, key: Key) -> bool:
        """Whether a block's next stage is a later one, and all it needs is there."""
        status, around = self.status[key], self.around(key)
        through = (around >= status) & (around != FAILED)
        begun = bool(0 < status < len(self.stages))
        return begun and (bool(through.all()) or not self.waits_for_neighbours(key))


def run_blocks(
    job: Job,
    *,
    stages: Sequence[Stage] = LABELS,
    skipped: Collection[Key] = (),
    client: Client | None = None,
    threads: int | None = None,
    show: Callable[[Progress], None] = lambda _: None,
) -> RunInfo:
    """Take all blocks through all stages, those of earlier runs from where they are.

    Args:
        job: What to do.
        stages: And how.
        skipped: Blocks that are left out.
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
    state = _begin(job, stages, skipped, processes(client))
    before = state.done
    # What is in hand is finished: its outcome is in the store.
    with engine(job, client=client, threads=threads, finishes=True) as tasks:
        _drive(tasks, state, show)
        if state.failed:
            _write_neighbours_of_failed(tasks, state)
    if state.failed:
        raise BlocksFailedError(state.failed, state.status.size)
    state.info.finished = state.done - before
    return state.info


def _begin(
    job: Job, stages: Sequence[Stage], skipped: Collection[Key], workers: int
) -> _State:
    status = np.zeros((job.tiling.block_rows, job.tiling.block_cols), np.uint8)
    for through, stage in enumerate(stages, start=1):
        for key in job.masks.marked(stage.marks):
            status[key] = through
    for key in skipped:
        status[key] = len(stages)
    cells = cells_of(job.tiling)
    state = _State(
        job=job,
        stages=stages,
        status=status,
        order=BlockOrder(status == 0, across(job.source, job.tiling, workers), cells),
        done=int(np.count_nonzero(status == len(stages))),
        inferred=int(np.count_nonzero(status)),
        cells=int(cells[status > 0].sum()),
    )
    begun = [(row, col) for row, col in np.argwhere(status > 0).tolist()]
    state.ready.extend(filter(state.is_ready, begun))
    return state


def _drive(tasks: Engine, state: _State, show: Callable[[Progress], None]) -> None:
    show(state.progress())
    before = 0
    while True:
        _fill(tasks, state)
        if not tasks.in_flight:
            return
        outcomes = tasks.wait(_LOOK)
        for outcome in outcomes:
            _take(state, outcome)
        state.info.seconds = perf_counter() - state.info.begun
        state.info.processes = tasks.workers
        if outcomes or tasks.counted != before:
            before = tasks.counted
            show(state.progress(before))


def _fill(tasks: Engine, state: _State) -> None:
    """Submit what there is room for, a few more than run at once."""
    if state.alone is not None:
        return
    for _ in range(tasks.slots + tasks.spare - tasks.in_flight):
        # Later stages first: they free what the store keeps for a block.
        key = state.ready.popleft() if state.ready else state.order.next(tasks.workers)
        if key is None:
            break
        state.submit(tasks, key)
    if not tasks.in_flight and state.suspects:
        state.alone = state.suspects.pop()
        state.submit(tasks, state.alone)


def _take(state: _State, outcome: Outcome[BlockReport]) -> None:
    key: Key = outcome.tag
    state.order.ended(key)
    was_alone, state.alone = state.alone, None
    if isinstance(outcome.error, WorkersDiedError) and was_alone is None:
        state.suspects.append(key)
        return
    if outcome.error is not None:
        _fail(state, key, outcome.error)
        return
    report, block = outcome.result, state.job.tiling.block_at(*key)
    assert report is not None
    _count(state, block, report)
    before = state.status[key]
    state.status[key] = after = len(state.stages) if report.done else before + 1
    state.done += report.done
    if report.done and before:
        near = (key, *(neighbour.key for neighbour in block.neighbours))
        state.spent += [n for n in near if (state.around(n) == after).all()]
    # Whoever waited for this block is ready now, if it was the last one it waited for.
    waited = (
        neighbour.key
        for neighbour in block.neighbours
        if before < state.status[neighbour.key] <= after
        and state.waits_for_neighbours(neighbour.key)
    )
    state.ready.extend(filter(state.is_ready, [key, *waited]))


def _count(state: _State, block: Block, report: BlockReport) -> None:
    info = state.info
    if state.status[block.key]:
        info.finish_seconds += report.seconds
        return
    info.pixels += block.window.area
    info.windows += report.windows
    info.forward_seconds += report.forward_seconds
    info.infer_seconds += report.seconds
    info.devices |= {report.device} - {""}
    state.inferred += 1
    state.cells += math.prod(map(len, block.cells))


def _fail(state: _State, key: Key, error: BaseException) -> None:
    """Note a failed block, or stop where every block would fail the same way."""
    if is_full(error):
        raise StorageFullError(
            f"no room is left for {state.job.masks.path}: {first_line(error)}; "
            f"{state.done} of {state.status.size} blocks are done; make room, and the "
            "same command resumes"
        ) from error
    if isinstance(error, ImportError):
        raise GeosegError(
            f"a worker lacks a package that the model or the raster needs: "
            f"{first_line(error)}; install the same packages everywhere"
        ) from error
    if not isinstance(error, Exception) or _concerns_all(error):
        raise error
    state.status[key] = FAILED
    state.failed[key] = first_line(error)


def _concerns_all(error: Exception) -> bool:
    if isinstance(error, SourceChangedError):
        return True
    of_one_block = (NotFiniteError, RasterError, WorkersDiedError)
    return isinstance(error, GeosegError) and not isinstance(error, of_one_block)


def _write_neighbours_of_failed(tasks: Engine, state: _State) -> None:
    """Write blocks that wait for a failed neighbour, so that no data is missing."""
    waiting = (state.status > 0) & (state.status < len(state.stages))
    for row, col in np.argwhere(waiting).tolist():
        stage = state.stages[state.status[row, col]]
        block = state.job.tiling.block_at(row, col)
        tasks.submit(block.key, stage.provisionally, block)
    while tasks.in_flight:
        for outcome in tasks.wait():
            if outcome.error is not None:
                state.failed[outcome.tag] = first_line(outcome.error)
