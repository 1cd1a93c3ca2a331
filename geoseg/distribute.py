"""Where tasks run: threads of this process, or any Dask cluster. Dask, and only here.

Work is pure functions of picklable values. A bounded number of tasks is in flight, so a
million blocks do not sit in a scheduler at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from uuid import uuid4

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[R]):
    """What became of a task."""

    tag: Any
    """What the task was submitted as."""
    result: R | None = None
    """What it returned."""
    error: BaseException | None = None
    """What it raised, or how its worker died."""


class Engine(Protocol):
    """Runs tasks somewhere; used by one thread.

    All tasks of an engine share one value, which travels to a worker once.
    """

    @property
    def slots(self) -> int:
        """How many tasks can run at the same time, now."""
        ...

    @property
    def in_flight(self) -> int:
        """How many tasks are submitted and not yet waited for."""
        ...

    def submit(self, tag: Hashable, function: Callable[..., Any], *args: Any) -> None:  # noqa: ANN401
        """Start `function(shared, *args)`; its outcome comes back under `tag`."""
        ...

    def wait(self, timeout: float | None = None) -> list[Outcome[Any]]:
        """Return outcomes, at least one; none only when `timeout` seconds passed."""
        ...


class _Queue:
    """Outcomes of futures, as they complete, for one waiting thread."""

    def __init__(self) -> None:
        self._completed: SimpleQueue[tuple[Hashable, Any]] = SimpleQueue()
        self.in_flight = 0

    def expect(self, tag: Hashable, future: Any) -> None:  # noqa: ANN401
        self.in_flight += 1
        future.add_done_callback(lambda f: self._completed.put((tag, f)))

    def wait(self, timeout: float | None) -> list[tuple[Hashable, Any]]:
        if not self.in_flight:
            return []
        found: list[tuple[Hashable, Any]] = []
        try:
            found.append(self._completed.get(timeout=timeout))
            while True:
                found.append(self._completed.get_nowait())
        except Empty:
            pass  # all that is there
        self.in_flight -= len(found)
        return found


class Threads:
    """Threads of this process: one to work, others to read and write beside it."""

    def __init__(self, pool: ThreadPoolExecutor, slots: int, shared: object) -> None:
        self._pool, self._shared = pool, shared
        self.slots = slots
        self._queue = _Queue()

    @property
    def in_flight(self) -> int:
        """How many tasks are submitted and not yet waited for."""
        return self._queue.in_flight

    def submit(self, tag: Hashable, function: Callable[..., Any], *args: Any) -> None:  # noqa: ANN401
        """Start `function(shared, *args)`."""
        self._queue.expect(tag, self._pool.submit(function, self._shared, *args))

    def wait(self, timeout: float | None = None) -> list[Outcome[Any]]:
        """Return outcomes as they come."""
        return [_outcome(tag, f) for tag, f in self._queue.wait(timeout)]


def _outcome(tag: Hashable, future: Future[Any]) -> Outcome[Any]:
    error = future.exception()
    return Outcome(tag=tag, result=None if error else future.result(), error=error)


def _itself(value: T) -> T:
    return value


class Cluster:
    """A Dask cluster behind an ordinary client."""

    def __init__(self, client: Client, shared: object) -> None:
        self._client = client
        self._queue = _Queue()
        # A task, not scattered data: the scheduler can make it again on another worker.
        self._shared = client.submit(_itself, shared, key=f"geoseg-job-{uuid4().hex}")

    @property
    def in_flight(self) -> int:
        """How many tasks are submitted and not yet waited for."""
        return self._queue.in_flight

    @property
    def slots(self) -> int:
        """How many threads the cluster's workers have now."""
        threads: dict[str, int] = self._client.nthreads()
        return max(1, sum(threads.values()))

    def submit(self, tag: Hashable, function: Callable[..., Any], *args: Any) -> None:  # noqa: ANN401
        """Start `function(shared, *args)` on some worker."""
        name = getattr(function, "__name__", "task").strip("_")
        future = self._client.submit(
            function,
            self._shared,
            *args,
            key=f"geoseg-{name}-{uuid4().hex}",
            pure=False,
        )
        self._queue.expect(tag, future)

    def wait(self, timeout: float | None = None) -> list[Outcome[Any]]:
        """Return outcomes as they come; a lost task's error says how it was lost."""
        outcomes = []
        for tag, future in self._queue.wait(timeout):
            if future.status == "finished":
                outcomes.append(Outcome(tag=tag, result=future.result()))
            elif future.status == "error":
                outcomes.append(Outcome(tag=tag, error=future.exception()))
            else:
                lost = ConnectionError(f"the cluster lost the task ({future.status})")
                outcomes.append(Outcome(tag=tag, error=lost))
            future.release()
        return outcomes


@contextmanager
def engine(
    shared: object, *, client: Client | None = None, threads: int | None = None
) -> Iterator[Engine]:
    """Open the engine that a client stands for; None is this process.

    On an error or Ctrl-C, tasks that have not begun are dropped and those in hand end.
    """
    if client is not None:
        yield Cluster(client, shared)
        return
    slots = threads or cores()
    pool = ThreadPoolExecutor(max_workers=slots, thread_name_prefix="geoseg")
    try:
        yield Threads(pool, slots, shared)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def unordered(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    client: Client | None = None,
    in_flight: int | None = None,
) -> Iterator[tuple[T, R]]:
    """Map a pure, picklable function over items, yielding pairs as they complete.

    Args:
        function: Called with each item; what a `functools.partial` holds travels to
            every worker once.
        items: Any number of them; taken as there is room.
        client: Where to run; None is threads of this process.
        in_flight: How many items are in work at once; default two per thread.

    Raises:
        Exception: The first that any call raised.
    """
    with engine(function, client=client, threads=in_flight) as tasks:
        room = in_flight or 2 * tasks.slots
        waiting = iter(items)
        exhausted = False
        while True:
            while not exhausted and tasks.in_flight < room:
                try:
                    item = next(waiting)
                except StopIteration:
                    exhausted = True
                    break
                tasks.submit(item, _apply, item)  # type: ignore[arg-type]
            if not tasks.in_flight:
                return
            for outcome in tasks.wait():
                if outcome.error is not None:
                    raise outcome.error
                yield outcome.tag, outcome.result


def _apply(function: Callable[[T], R], item: T) -> R:
    return function(item)


def cores() -> int:
    """Return how many cores this process may use (affinity, containers)."""
    return (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else (os.cpu_count() or 1)
    )
