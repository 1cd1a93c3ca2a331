"""Where tasks run: threads of this process, or any Dask cluster.

Work is functions of picklable values that can be run again: a cluster may lose a task
at any moment. A bounded number of tasks is in flight, so a million blocks do not sit in
a scheduler at once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

from geoseg.errors import Terminated
from geoseg.execution.dask_engine import DaskEngine, checked_client
from geoseg.execution.interrupts import InHand, held_back
from geoseg.execution.progress_count import COUNT
from geoseg.execution.resources import cores, keep_freed_memory
from geoseg.execution.tasks import (
    Engine,
    Outcome,
    OutcomeQueue,
    deadline_after,
    outcome_of,
    seconds_until,
)
from geoseg.execution.versions import answers_of, check_workers

if TYPE_CHECKING:
    from distributed import Client

_HELD = 2  # results that a caller may keep, per item in flight, before fewer begin

T = TypeVar("T")
R = TypeVar("R")


class Threads:
    """Threads of this process: one to work, others to read and write beside it."""

    workers = 1

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        slots: int,
        shared: object,
        let_through: Callable[[], None],
    ) -> None:
        self._pool, self._shared = pool, shared
        self._let_through = let_through
        self.slots = slots
        self._queue, self._counted_before = OutcomeQueue(), COUNT.total
        self._futures: set[Future[Any]] = set()

    @property
    def spare(self) -> int:
        """How many tasks to keep in flight beside those that run."""
        return max(2, self.slots // 2)

    @property
    def in_flight(self) -> int:
        """How many tasks are submitted and not yet waited for."""
        return self._queue.in_flight

    @property
    def counted(self) -> int:
        """How many steps tasks have counted since it was opened."""
        return COUNT.total - self._counted_before

    def submit(
        self,
        tag: Hashable,
        function: Callable[..., Any],
        *args: Any,  # noqa: ANN401
        worker: int | str | None = None,  # noqa: ARG002 - there is one
    ) -> None:
        """Start `function(shared, *args)`."""
        future = self._pool.submit(function, self._shared, *args)
        self._futures.add(future)
        self._queue.expect(tag, future)

    def wait(self, timeout: float | None = None) -> list[Outcome[Any]]:
        """Return outcomes as they come."""
        deadline = deadline_after(timeout)
        while self._queue.in_flight:
            self._let_through()
            found = self._queue.wait(seconds_until(deadline))
            self._futures.difference_update(future for _, future in found)
            if found or time.monotonic() >= deadline:
                return [outcome_of(tag, future) for tag, future in found]
        return []

    @property
    def in_hand(self) -> InHand | None:
        """What is finished where a signal comes now: what runs."""
        running = sum(future.running() for future in tuple(self._futures))
        return InHand(running, self._queue.slowest) if running else None


@contextmanager
def engine(
    shared: object,
    *,
    client: Client | None = None,
    threads: int | None = None,
    finishes: bool = False,
) -> Iterator[Engine]:
    """Open the engine that a client stands for; None is this process.

    On an error or Ctrl-C, tasks that wait are dropped and those that run end.

    Args:
        shared: What every task is given.
        client: Where to run.
        threads: How many; default the cores of this process.
        finishes: Whether Ctrl-C and SIGTERM wait for what a cluster has in hand, as
            they always do for threads.
    """
    opened: list[Engine] = []
    with held_back(lambda: opened[0].in_hand if opened else None) as let_through:
        if client is not None:
            tasks = DaskEngine(client, shared, let_through, finishes=finishes)
            opened.append(tasks)
            try:
                yield tasks
            except (KeyboardInterrupt, Terminated):
                if finishes:
                    tasks.drain()
                raise
            finally:
                tasks.close()
            return
        keep_freed_memory()
        slots = threads or cores()
        pool = ThreadPoolExecutor(max_workers=slots, thread_name_prefix="geoseg")
        try:
            opened.append(Threads(pool, slots, shared, let_through))
            yield opened[0]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def processes(client: Client | None) -> int:
    """Return how many processes work for a client, or may soon; None is this one.

    Raises:
        GeosegError: It is no client.
    """
    if client is None:
        return 1
    import dask

    grown = int(dask.config.get("geoseg.workers", 0))
    return max(1, grown, len(checked_client(client).nthreads()))


def worker_memory(client: Client | None) -> float | None:
    """Return what a client's workers may use each, in bytes: the smallest limit.

    Of a cluster that grows by itself, those that may come count too. None where there
    is no client, no worker, or no limit.
    """
    if client is None:
        return None
    import dask

    limits = checked_client(client).run_on_scheduler(_memory_limits)
    limits.append(dask.config.get("geoseg.memory", None))
    return min(filter(None, limits), default=None)


def _memory_limits(dask_scheduler: Any) -> list[float | None]:  # noqa: ANN401 - Dask's
    return [worker.memory_limit for worker in dask_scheduler.workers.values()]


def ask_workers(
    client: Client,
    function: Callable[..., Any],
    *args: Any,  # noqa: ANN401
) -> Iterator[tuple[str, Any]]:
    """Call a function in every worker that there is, beside its tasks.

    Yields:
        The worker's address, and what it answers, or its error.

    Raises:
        ClusterError: There was no worker for as long as one is waited for; one does
            not answer, or has other packages.
    """
    while not checked_client(client).nthreads():
        with engine(None, client=client) as tasks:  # which waits, and says so
            tasks.submit("first", _nothing)
            tasks.wait()
    check_workers(client, None)  # or what is asked may mean nothing there
    yield from answers_of(client, function, *args).items()


def ask_one(
    client: Client,
    shared: object,
    function: Callable[..., R],
    *args: Any,  # noqa: ANN401
    worker: str | None = None,
) -> R:
    """Return `function(shared, *args)`, as a task of one worker.

    Args:
        client: The cluster's.
        shared: The first argument.
        function: What is called there.
        *args: Its other arguments.
        worker: Address of the worker, as long as it is there; None: any.

    Raises:
        Exception: What the function raises.
        ClusterError: There was no worker for as long as one is waited for.
    """
    with engine(shared, client=client) as tasks:
        tasks.submit("one", function, *args, worker=worker)
        outcome = tasks.wait()[0]
    if outcome.error is not None:
        raise outcome.error
    return cast("R", outcome.result)


def _nothing(_: object) -> None:
    """Do nothing, once there is a worker."""


def unordered(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    client: Client | None = None,
    in_flight: int | None = None,
    held: Callable[[], int] | None = None,
) -> Iterator[tuple[T, R]]:
    """Map a pure, picklable function over items, yielding pairs as they complete.

    Args:
        function: Called with each item; what a `functools.partial` holds travels to
            every worker once.
        items: Any number of them; taken as there is room.
        client: Where to run; None is threads of this process.
        in_flight: How many items are in work at once; default two per thread.
        held: How many results the caller keeps until an earlier item is done; where
            they are many, no further item is begun.

    Raises:
        Exception: The first that any call raised.
    """
    with engine(function, client=client, threads=in_flight) as tasks:
        waiting = iter(items)
        exhausted = False
        while True:
            room = in_flight or tasks.slots + max(tasks.slots, tasks.spare)
            most = room - max(0, (held() if held else 0) - _HELD * room)
            while not exhausted and tasks.in_flight < max(1, most):
                try:
                    item = next(waiting)
                except StopIteration:
                    exhausted = True
                    break
                tasks.submit(item, _apply, item)
            if not tasks.in_flight:
                return
            for outcome in tasks.wait():
                if outcome.error is not None:
                    raise outcome.error
                yield outcome.tag, cast("R", outcome.result)


def ordered(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    client: Client | None = None,
    in_flight: int | None = None,
) -> Iterator[R]:
    """Map as `unordered`, yielding results in the order of the items.

    Sums of floating-point numbers must not depend on which task was first.
    """
    taken: deque[T] = deque()
    early: dict[T, R] = {}

    def noted() -> Iterator[T]:
        for item in items:
            taken.append(item)
            yield item

    for item, result in unordered(
        function,
        noted(),
        client=client,
        in_flight=in_flight,
        held=lambda: len(early),
    ):
        early[item] = result
        while taken and taken[0] in early:
            yield early.pop(taken.popleft())


def _apply(function: Callable[[T], R], item: T) -> R:
    return function(item)
