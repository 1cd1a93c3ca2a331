"""Where tasks run: threads of this process, or any Dask cluster. Dask, and only here.

Work is functions of picklable values that can be run again: a cluster may lose a task
at any moment. A bounded number of tasks is in flight, so a million blocks do not sit in
a scheduler at once.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast
from uuid import uuid4

from geoseg.errors import ClusterError, WorkersDiedError
from geoseg.execution.interrupts import held_back
from geoseg.execution.resources import cores
from geoseg.execution.versions import check_workers

if TYPE_CHECKING:
    from distributed import Client

_LOST = (OSError, TimeoutError, CancelledError)
"""What Dask raises when the scheduler goes away during a question."""
STUCK_AFTER = 1800.0
"""Seconds in one task after which a worker may be taken to hang, see `Cluster`."""
_HELD = 2  # results that a caller may keep, per item in flight, before fewer begin
_BEAT = 0.25
"""Seconds after which whoever waits looks up: was there a signal, is all well?"""
NOBODY_AFTER = 20.0
"""Seconds without any worker after which that is said."""
_NOTES = 5_000
"""Tasks after which a scheduler is told to forget what it noted of them."""
_LOG = logging.getLogger("geoseg")

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
        """Return outcomes, at least one; none only when `timeout` seconds passed.

        Here, and only here, Ctrl-C and SIGTERM are let through.
        """
        ...

    def settle(self) -> None:
        """Let what is in hand end, and forget the rest and all outcomes."""
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
        self._queue = _Queue()
        self._futures: set[Future[Any]] = set()

    @property
    def in_flight(self) -> int:
        """How many tasks are submitted and not yet waited for."""
        return self._queue.in_flight

    def submit(self, tag: Hashable, function: Callable[..., Any], *args: Any) -> None:  # noqa: ANN401
        """Start `function(shared, *args)`."""
        future = self._pool.submit(function, self._shared, *args)
        self._futures.add(future)
        self._queue.expect(tag, future)

    def wait(self, timeout: float | None = None) -> list[Outcome[Any]]:
        """Return outcomes as they come."""
        deadline = time.monotonic() + (1e9 if timeout is None else timeout)
        while self._queue.in_flight:
            self._let_through()
            found = self._queue.wait(min(max(0.0, deadline - time.monotonic()), _BEAT))
            self._futures.difference_update(future for _, future in found)
            if found or time.monotonic() >= deadline:
                return [_outcome(tag, future) for tag, future in found]
        return []

    def settle(self) -> None:
        """Forget tasks that have not begun, and let the others end."""
        for future in tuple(self._futures):
            future.cancel()
        wait_for(self._futures)


def _outcome(tag: Hashable, future: Future[Any]) -> Outcome[Any]:
    if future.cancelled():
        return Outcome(tag=tag, error=CancelledError())
    error = future.exception()
    return Outcome(tag=tag, result=None if error else future.result(), error=error)


def _itself(value: T) -> T:
    return value


@dataclass(slots=True)
class _Sent:
    """A task that a cluster has."""

    tag: Hashable
    """What it was submitted as."""
    call: tuple[Any, ...]
    """Function and arguments, to send it again."""
    future: Any
    """Dask's."""
    begun: float | None = None
    """When it was first seen on a worker."""


class Cluster:
    """A Dask cluster behind an ordinary client.

    A task whose scheduler was lost is sent again once there is one at the same address;
    the client waits for that as long as its own timeout. A worker that keeps a task
    four times as long as any task before, and half an hour at least (Dask's setting
    `geoseg.stuck-after`, in seconds), is restarted; every time the limit doubles.
    """

    def __init__(
        self, client: Client, shared: object, let_through: Callable[[], None]
    ) -> None:
        import dask

        self._client, self._value = client, shared
        self._let_through = let_through
        self._queue = _Queue()
        self._sent: dict[str, _Sent] = {}
        """By Dask's key."""
        self._slots = 1
        self._greeted: set[str] = set()
        self._asked = self._looked = -1e9  # monotonic seconds, long ago
        self._begun, self._told = time.monotonic(), False
        self._notes = 0
        """Tasks since the scheduler forgot what it notes of each."""
        self._longest = 0.0
        self._stuck = float(dask.config.get("geoseg.stuck-after", STUCK_AFTER))
        self._patience = self._stuck
        # Of a cluster that grows with the work: how far it can.
        self._most = int(dask.config.get("geoseg.slots", 0))
        self._share()

    def _share(self) -> None:
        # A task, not scattered data: the scheduler can make it again on another worker.
        self._shared = self._client.submit(
            _itself, self._value, key=f"geoseg-job-{uuid4().hex}"
        )

    @property
    def in_flight(self) -> int:
        """How many tasks are submitted and not yet waited for."""
        return self._queue.in_flight

    @property
    def slots(self) -> int:
        """How many threads the cluster's workers have now, or may have soon."""
        self._look_who_is_there()
        return self._slots

    def _look_who_is_there(self) -> None:
        if time.monotonic() - self._asked > 1 and self._client.status == "running":
            self._asked = time.monotonic()
            with suppress(*_LOST):
                threads: dict[str, int] = self._client.nthreads()
                self._slots = max(1, self._most, sum(threads.values()))
                self._greet(set(threads))

    def _tell_of_nobody(self) -> None:
        """Say once that there is no worker, where none came for a while."""
        if self._greeted or self._told:
            return
        self._look_who_is_there()
        if not self._greeted and time.monotonic() - self._begun > NOBODY_AFTER:
            self._told = True
            warnings.warn(
                "the cluster has no workers yet, and the work waits for some: are "
                "their jobs queued, or were none started (dask worker ADDRESS)?",
                stacklevel=2,
            )

    def _greet(self, workers: set[str]) -> None:
        """Compare the packages of workers that were not there before with ours."""
        if new := workers - self._greeted:
            check_workers(self._client, new)
            self._greeted |= new

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
        self._sent[future.key] = _Sent(tag=tag, call=(function, *args), future=future)
        self._queue.expect(tag, future)
        self._notes += 1
        if self._notes >= _NOTES and self._client.status == "running":
            with suppress(*_LOST):
                self._client.run_on_scheduler(_forget_notes)
            self._notes = 0

    def wait(self, timeout: float | None = None) -> list[Outcome[Any]]:
        """Return outcomes as they come.

        Raises:
            ClusterError: The scheduler is gone for good.
        """
        deadline = time.monotonic() + (1e9 if timeout is None else timeout)
        while self._queue.in_flight:
            self._let_through()
            left = max(0.0, deadline - time.monotonic())
            found = self._queue.wait(min(left, _BEAT))
            outcomes = self._collect(found)
            if outcomes or time.monotonic() >= deadline:
                return outcomes
            self._check_connected()
            self._look_after_workers()
            self._tell_of_nobody()
        return []

    def settle(self) -> None:
        """Let all tasks end: what is submitted is on its way to a worker."""
        sent = [task.future for task in self._sent.values()]
        while self._client.status == "running" and any(
            future.status == "pending" for future in sent
        ):
            time.sleep(0.05)
            self._look_after_workers()

    def close(self) -> None:
        """Cancel what is still in flight."""
        if self._sent and self._client.status == "running":
            self._client.cancel([sent.future for sent in self._sent.values()])
        self._sent.clear()

    def _collect(self, found: list[tuple[Hashable, Any]]) -> list[Outcome[Any]]:
        whole = {f.key: f for _, f in found if f.status == "finished"}
        results: dict[str, Any] = {}
        with suppress(*_LOST):  # what is missing then is sent again
            results = self._client.gather(whole, errors="skip") if whole else {}
        outcomes = []
        for tag, future in found:
            sent = self._sent.pop(future.key)
            if future.key in results:
                outcomes.append(Outcome(tag=tag, result=results[future.key]))
            elif future.status == "error":
                outcomes.append(Outcome(tag=tag, error=_reason(future.exception())))
            else:
                self._send_again(sent)
                continue
            if sent.begun is not None:
                self._longest = max(self._longest, time.monotonic() - sent.begun)
            future.release()
        return outcomes

    def _send_again(self, sent: _Sent) -> None:
        """Send a task again that got lost with its scheduler."""
        while self._client.status == "connecting":
            time.sleep(0.1)
        self._check_connected()
        if self._shared.status in {"cancelled", "lost", "error"}:
            self._share()
        function, *args = sent.call
        self.submit(sent.tag, function, *args)

    def _check_connected(self) -> None:
        if self._client.status in {"closed", "closing"}:
            raise ClusterError(
                "the Dask scheduler is gone and did not come back; what is done stays "
                "done, and the same command goes on"
            )

    def _look_after_workers(self) -> None:
        """Restart workers that have been in one task for far too long."""
        now = time.monotonic()
        if now - self._looked < self._stuck / 10 or self._client.status != "running":
            return
        self._looked = now
        with suppress(*_LOST):
            self._restart_stuck(now)

    def _restart_stuck(self, now: float) -> None:
        worker_of = {
            key: worker
            for worker, keys in self._client.processing().items()
            for key in keys
        }
        limit, stuck = max(self._patience, 4 * self._longest), set()
        for sent in self._sent.values():
            worker = worker_of.get(sent.future.key)
            if worker is None:
                sent.begun = None
            elif sent.begun is None:
                sent.begun = now
            elif now - sent.begun > limit:
                stuck.add(worker)
                sent.begun = None
        if stuck:
            self._patience *= 2
            names = ", ".join(sorted(stuck))
            _LOG.warning("restarting %s: stuck for %.0f s", names, limit)
            self._client.restart_workers(
                sorted(stuck), timeout=10, raise_for_error=False
            )


def _reason(error: BaseException) -> BaseException:
    """Return how a task failed; its worker's death in our own words."""
    from distributed.scheduler import KilledWorker

    if not isinstance(error, KilledWorker):
        return error
    return WorkersDiedError(
        f"{error.allowed_failures + 1} workers died while they had it, the last at "
        f"{error.last_worker.address}: out of memory, or a crash in native code"
    )


def _forget_notes(dask_scheduler: Any) -> None:  # noqa: ANN401 - called by Dask
    """Drop what a scheduler has noted of each call of `submit`.

    Dask keeps it, half a kilobyte each, for as long as the scheduler lives; its spans
    otherwise stay as they are, and what others have noted of their collections.
    """
    spans = dask_scheduler.extensions.get("spans")
    for span in spans.spans.values() if spans else ():
        notes = (span.metadata or {}).get("collections", [])
        notes[:] = [note for note in notes if note != {"type": "Future"}]


@contextmanager
def engine(
    shared: object, *, client: Client | None = None, threads: int | None = None
) -> Iterator[Engine]:
    """Open the engine that a client stands for; None is this process.

    On an error or Ctrl-C, tasks that have not begun are dropped and those in hand end.
    """
    with held_back() as let_through:
        if client is not None:
            cluster = Cluster(client, shared, let_through)
            try:
                yield cluster
            finally:
                cluster.close()
            return
        slots = threads or cores()
        pool = ThreadPoolExecutor(max_workers=slots, thread_name_prefix="geoseg")
        try:
            yield Threads(pool, slots, shared, let_through)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def processes(client: Client | None) -> int:
    """Return how many processes work for a client, or may soon; None is this one."""
    if client is None:
        return 1
    import dask

    grown = int(dask.config.get("geoseg.workers", 0))
    return max(1, grown, len(client.nthreads()))


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
        room = in_flight or 2 * tasks.slots
        waiting = iter(items)
        exhausted = False
        while True:
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

    What sums of floating-point numbers are made of must not depend on who was first.
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
