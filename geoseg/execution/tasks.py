"""What every engine is made of: tasks, their outcomes, and the protocol."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from geoseg.execution.interrupts import InHand

POLL = 0.25
"""Seconds after which whoever waits checks for signals and for workers."""
_LATE = 64
"""Tasks whose time says how long those in hand may take."""

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
    def spare(self) -> int:
        """How many tasks to keep in flight beside those that run."""
        ...

    @property
    def workers(self) -> int:
        """How many processes run them, now."""
        ...

    @property
    def in_flight(self) -> int:
        """How many tasks are submitted and not yet waited for."""
        ...

    @property
    def counted(self) -> int:
        """How many steps tasks have counted since it was opened; see `Count`."""
        ...

    def submit(
        self,
        tag: Hashable,
        function: Callable[..., Any],
        *args: Any,  # noqa: ANN401
        worker: int | str | None = None,
    ) -> None:
        """Run `function(shared, *args)`; its outcome comes back under `tag`.

        It begins with the next `wait` at the latest.

        Args:
            tag: Of any kind.
            function: What to run.
            args: What it is given.
            worker: Number or address of the process that is to run it, unless that has
                too much to do; None: any.
        """
        ...

    def wait(self, timeout: float | None = None) -> list[Outcome[Any]]:
        """Return outcomes, at least one; none only when `timeout` seconds passed.

        Here, and only here, Ctrl-C and SIGTERM are let through.
        """
        ...

    @property
    def in_hand(self) -> InHand | None:
        """What is finished where a signal comes now."""
        ...


class OutcomeQueue:
    """Futures that completed, for one waiting thread."""

    def __init__(self) -> None:
        self._completed: SimpleQueue[tuple[Hashable, Any]] = SimpleQueue()
        self._took: deque[float] = deque(maxlen=_LATE)
        self.in_flight = 0

    @property
    def slowest(self) -> float | None:
        """The most seconds from expecting to completion, of late; None before any."""
        return max(tuple(self._took), default=None)

    def expect(self, tag: Hashable, future: Any) -> None:  # noqa: ANN401 - Dask's, too
        """Note a future whose completion `wait` shall return."""
        self.in_flight += 1
        begun = time.monotonic()

        def note(done: Any) -> None:  # noqa: ANN401
            self._took.append(time.monotonic() - begun)
            self._completed.put((tag, done))

        future.add_done_callback(note)

    def wait(self, timeout: float | None) -> list[tuple[Hashable, Any]]:
        """Return all that completed, after the first or after `timeout` seconds."""
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


def deadline_after(timeout: float | None) -> float:
    """Return when a timeout ends, by the monotonic clock; None is never."""
    return time.monotonic() + (1e9 if timeout is None else timeout)


def seconds_until(deadline: float) -> float:
    """Return the seconds until a deadline, at most one poll."""
    return min(max(0.0, deadline - time.monotonic()), POLL)


def outcome_of(tag: Hashable, future: Future[Any]) -> Outcome[Any]:
    """Return what became of a completed future."""
    if future.cancelled():
        return Outcome(tag=tag, error=CancelledError())
    error = future.exception()
    return Outcome(tag=tag, result=None if error else future.result(), error=error)
