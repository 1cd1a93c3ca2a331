"""Tasks on any Dask cluster, through an ordinary client.

Dask's scheduler keeps a note, a third of a kilobyte, of every message that submits
tasks, for as long as it lives. So tasks are sent together: ten times a second at most.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from geoseg.core.text import span_of_time
from geoseg.errors import ClusterError, GeosegError, WorkersDiedError
from geoseg.execution.interrupts import InHand
from geoseg.execution.progress_count import Heard
from geoseg.execution.tasks import (
    POLL,
    Outcome,
    OutcomeQueue,
    deadline_after,
    seconds_until,
)
from geoseg.execution.versions import check_workers

if TYPE_CHECKING:
    from distributed import Client

_LOST = (OSError, TimeoutError, CancelledError)
"""What Dask raises when the scheduler goes away during a question."""
STUCK_AFTER = 1800.0
"""Seconds in one task after which a worker may be taken to hang, see `DaskEngine`."""
NO_WORKERS_AFTER = 20.0
"""Seconds without any worker after which a warning says so; Dask's setting
`geoseg.no-workers-after`."""
GIVE_UP_AFTER = 600.0
"""Seconds without any worker after which a run ends; `--wait`, or Dask's setting
`geoseg.wait`. A cluster that grows by itself is waited for without end."""
ANSWERS_WITHIN = 15.0
"""Seconds, for each, in which workers hand over what is done; else it is done again."""
SEND_EVERY = 0.1
"""Seconds between two messages with tasks, while no worker is short of them."""
_LOG = logging.getLogger("geoseg")

T = TypeVar("T")


def checked_client(client: Client) -> Client:
    """Return what was given as `client=`, if work can be sent through it.

    Raises:
        GeosegError: It is something else, such as a cluster or an address, or a client
            that must be awaited.
        ClusterError: It is closed.
    """
    from distributed import Client as DaskClient

    if not isinstance(client, DaskClient):
        raise GeosegError(
            f"client= takes a distributed.Client, and this is a "
            f"{type(client).__name__}: connect one to it, client=Client(…), or give "
            "None to work in this process"
        )
    if client.asynchronous:
        raise GeosegError(
            "client= is an asynchronous client, whose answers must be awaited: connect "
            "another to its scheduler, Client(client.scheduler.address)"
        )
    if client.status in {"closed", "closing"}:
        raise ClusterError("client= is closed: connect a new one, Client(address)")
    return client


def _itself(value: T) -> T:
    return value


@dataclass(slots=True)
class _Sent:
    """A task that a cluster has, or will have with the next message."""

    tag: Hashable
    """What it was submitted as."""
    function: Callable[..., Any]
    args: tuple[Any, ...]
    worker: int | str | None = None
    """Number or address of the worker that is to have it."""
    future: Any = None
    """Dask's."""
    begun: float | None = None
    """When it was first seen on a worker."""

    def new_key(self) -> str:
        """Return a new name for Dask; its first words tell tasks of a kind."""
        name = getattr(self.function, "__name__", "task").strip("_")
        return f"geoseg-{name}-{uuid4().hex}"


class DaskEngine:
    """A Dask cluster behind an ordinary client.

    A task whose scheduler was lost is sent again once there is one at the same address;
    the client waits for that as long as its own timeout. A worker that keeps a task
    four times as long as any task before, and half an hour at least (Dask's setting
    `geoseg.stuck-after`, in seconds), is restarted; every time the limit doubles.
    """

    def __init__(
        self,
        client: Client,
        shared: object,
        let_through: Callable[[], None],
        *,
        finishes: bool = False,
    ) -> None:
        import dask

        self._client, self._value = checked_client(client), shared
        self._let_through, self._finishes = let_through, finishes
        self._queue = OutcomeQueue()
        self._unsent: list[_Sent] = []
        self._sent: dict[str, _Sent] = {}
        """By Dask's key."""
        self._slots = 1
        self._checked_workers: set[str] = set()
        self._workers: list[str] = []
        self._asked = self._looked = self._sent_at = -1e9  # monotonic, long ago
        self._alone_since: float | None = time.monotonic()
        """Since when there is no worker; None while there are some."""
        self._warned = False
        self._worked = False
        """Whether there ever was one."""
        self._give_up_after = float(dask.config.get("geoseg.wait", GIVE_UP_AFTER))
        self._warn_after = float(
            dask.config.get("geoseg.no-workers-after", NO_WORKERS_AFTER)
        )
        self._quick = 0
        """Tasks that ended within `SEND_EVERY` of the last message."""
        self._longest = 0.0
        self._stuck = float(dask.config.get("geoseg.stuck-after", STUCK_AFTER))
        self._patience = self._stuck
        self._refusals: list[str] = dask.config.get("geoseg.refusals", [])
        """Why the queue of a cluster refused jobs, in its own words."""
        # Of a cluster that grows with the work: how far it can.
        self._most = int(dask.config.get("geoseg.slots", 0))
        self._heard = Heard(self._client)
        self._share()

    def _share(self) -> None:
        # A task, not scattered data: the scheduler can run it again on another worker.
        self._shared = self._client.submit(
            _itself, self._value, key=f"geoseg-job-{uuid4().hex}"
        )

    @property
    def in_flight(self) -> int:
        """How many tasks are submitted and not yet waited for."""
        return self._queue.in_flight + len(self._unsent)

    @property
    def in_hand(self) -> InHand | None:
        """What is finished where a signal comes now: what was sent, if anything."""
        sent = self._queue.in_flight if self._finishes else 0
        return InHand(sent, self._queue.slowest) if sent else None

    @property
    def counted(self) -> int:
        """How many steps the workers' tasks have told of since it was opened."""
        return self._heard.total

    @property
    def slots(self) -> int:
        """How many threads the cluster's workers have now, or may have soon."""
        self._count_workers()
        return self._slots

    @property
    def spare(self) -> int:
        """How many tasks to keep in flight beside those that run.

        Of quick tasks as many as end while no message is sent.
        """
        return max(2, self._slots // 2, 2 * self._quick)

    @property
    def workers(self) -> int:
        """How many workers there are now."""
        self._count_workers()
        return max(1, len(self._workers))

    def _count_workers(self) -> None:
        if time.monotonic() - self._asked > 1 and self._client.status == "running":
            self._asked = time.monotonic()
            with suppress(*_LOST):
                threads: dict[str, int] = self._client.nthreads()
                self._slots = max(1, self._most, sum(threads.values()))
                self._workers = sorted(threads)
                self._check_new(set(threads))
                if threads:
                    self._alone_since, self._warned, self._worked = None, False, True
                elif self._alone_since is None:
                    self._alone_since = self._asked

    def _watch_for_workers(self) -> None:
        """Say once that there is no worker, and give up when none comes for long.

        Raises:
            ClusterError: There was none for as long as one is waited for.
        """
        self._count_workers()
        if self._alone_since is None or self._client.status != "running":
            return
        alone = time.monotonic() - self._alone_since
        grows = self._most > 0  # by itself: its jobs may wait in a queue for days
        if alone > self._give_up_after and not grows:
            raise ClusterError(
                f"the cluster had no workers for {span_of_time(alone)}: what is done "
                "stays done, and the same command resumes once there are some; --wait "
                "says how long to wait"
            )
        if alone > self._warn_after and not self._warned:
            self._warned = True
            warnings.warn(self._without_workers(grows=grows), stacklevel=2)

    def _without_workers(self, *, grows: bool) -> str:
        if not self._worked:
            said = (
                "the cluster has no workers yet, and the work waits for some: are "
                "their jobs queued, or were none started (dask worker ADDRESS)?"
            )
        else:
            said = (
                "all workers of the cluster are gone, and the work waits for others: "
                "have their jobs ended, or were they killed (memory)?"
            )
        if grows:
            return f"{said} The cluster starts others by itself"
        return (
            f"{said} Without any, this ends after {span_of_time(self._give_up_after)}"
        )

    def _check_new(self, workers: set[str]) -> None:
        """Compare the packages of workers that were not there before with ours."""
        if new := workers - self._checked_workers:
            check_workers(self._client, new)
            self._checked_workers |= new

    def submit(
        self,
        tag: Hashable,
        function: Callable[..., Any],
        *args: Any,  # noqa: ANN401
        worker: int | str | None = None,
    ) -> None:
        """Run `function(shared, *args)` on some worker, with the next message."""
        sent = _Sent(tag=tag, function=function, args=args, worker=worker)
        self._unsent.append(sent)

    def _send(self) -> None:
        """Send what is submitted: a message for each function, mostly one."""
        if not self._unsent:
            return
        tasks, self._unsent, self._sent_at = self._unsent, [], time.monotonic()
        for (_, count), group in groupby(
            tasks, key=lambda task: (id(task.function), len(task.args))
        ):
            alike = list(group)
            columns = [[task.args[i] for task in alike] for i in range(count)]
            keys = [task.new_key() for task in alike]
            with self._at_home(keys, alike):
                futures = self._client.map(
                    alike[0].function,
                    [self._shared] * len(alike),
                    *columns,
                    key=keys,
                    pure=False,
                )
            for task, future in zip(alike, futures, strict=True):
                task.future = future
                self._sent[future.key] = task
                self._queue.expect(task.tag, future)

    def _at_home(
        self, keys: list[str], tasks: list[_Sent]
    ) -> AbstractContextManager[None]:
        """Return a context in which tasks are sent to their workers, in one message.

        A worker that has nothing to do may steal them, as ever.
        """
        import dask

        homes = {
            key: [home]
            for key, task in zip(keys, tasks, strict=True)
            if (home := self._home(task.worker)) is not None
        }
        if len(homes) < len(keys):
            return nullcontext()
        # Dask asks functions for what is said of each key.
        return dask.annotate(workers=homes.get, allow_other_workers=True)  # type: ignore[no-any-return]

    def _home(self, worker: int | str | None) -> str | None:
        """Return the address of a worker, if a task is for one; numbers go round."""
        if not isinstance(worker, int):
            return worker
        several = len(self._workers) > 1
        return self._workers[worker % len(self._workers)] if several else None

    def wait(self, timeout: float | None = None) -> list[Outcome[Any]]:
        """Return outcomes as they come.

        Raises:
            ClusterError: The scheduler is gone for good.
        """
        deadline = deadline_after(timeout)
        while self.in_flight:
            self._send()
            self._let_through()
            outcomes = self._collect(self._completed(seconds_until(deadline)))
            if outcomes or time.monotonic() >= deadline:
                return outcomes
            self._check_connected()
            self._check_queue()
            self._look_after_workers()
            self._watch_for_workers()
        return []

    def _completed(self, timeout: float) -> list[tuple[Hashable, Any]]:
        """Return what completes: at once, or as long as no slot is short of tasks."""
        found = self._queue.wait(timeout)
        until = self._sent_at + SEND_EVERY
        self._quick = 0
        while (left := until - time.monotonic()) > 0 and found:
            self._quick = len(found)
            if self._queue.in_flight <= self._slots:
                break
            found += self._queue.wait(min(left, POLL))
        return found

    def drain(self) -> None:
        """Let all tasks end that were sent: they are on their way to a worker."""
        self._unsent.clear()
        sent = [task.future for task in self._sent.values()]
        while self._client.status == "running" and any(
            future.status == "pending" for future in sent
        ):
            time.sleep(0.05)
            self._look_after_workers()

    def close(self) -> None:
        """Cancel what is still in flight."""
        self._heard.close()
        if self._sent and self._client.status == "running":
            self._client.cancel([sent.future for sent in self._sent.values()])
        self._unsent.clear()
        self._sent.clear()

    def _collect(self, found: list[tuple[Hashable, Any]]) -> list[Outcome[Any]]:
        whole = {f.key: f for _, f in found if f.status == "finished"}
        results: dict[str, Any] = {}
        with suppress(*_LOST):  # what is missing then is sent again
            # With a limit: Dask would wait for what died with its worker to be done
            # again, which without another is never, and nobody would look after them.
            results = self._client.sync(
                partial(self._client.gather, asynchronous=True),
                whole,
                errors="skip",
                callback_timeout=ANSWERS_WITHIN * max(1, len(whole)),
            )
        outcomes = []
        self._worked = self._worked or bool(found)
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
        """Submit a task again that was lost with its scheduler."""
        while self._client.status == "connecting":
            time.sleep(0.1)
        self._check_connected()
        if self._shared.status in {"cancelled", "lost", "error"}:
            self._share()
        self.submit(sent.tag, sent.function, *sent.args, worker=sent.worker)

    def _check_connected(self) -> None:
        if self._client.status in {"closed", "closing"}:
            raise ClusterError(
                "the Dask scheduler is gone and did not come back; what is done stays "
                "done, and the same command resumes"
            )

    def _check_queue(self) -> None:
        """Stop where the queue refuses the workers' jobs and there is no worker."""
        if not self._refusals:
            return
        self._count_workers()
        if not self._checked_workers:
            raise GeosegError(
                f"the queue refuses the workers' jobs: {self._refusals[0]}; mend the "
                "settings of --cluster"
            )
        _LOG.warning("the queue refused a worker's job: %s", self._refusals[0])
        self._refusals.clear()

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
