"""The one queue in front of this process's device.

Forward passes of all threads go through one thread, one after the other: the device is
never asked twice at once, OpenMP has one pool of threads, and while it works the others
read, blend and write.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import TypeVar

from geoseg.execution.progress_count import COUNT

K = TypeVar("K", bound=Sized)
T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True)
class Stopwatch:
    """Adds up the time that is spent in the model."""

    seconds: float = 0.0
    """So far."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what is done meanwhile, also where it fails."""
        begun = perf_counter()
        try:
            yield
        finally:
            self.seconds += perf_counter() - begun


@cache
def _queue() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="geoseg-device")


def one_ahead(
    function: Callable[[K, T], R], items: Iterable[tuple[K, T]], watch: Stopwatch
) -> Iterator[tuple[K, R]]:
    """Map in the device's thread, in the order of asking, one item ahead of the caller.

    Args:
        function: Called with the key, some cells, and the value of each item.
        items: Taken in the caller's thread, while the device is at work.
        watch: Gets the time that the calls take.

    Yields:
        The key of each item, and what the function returned for it.
    """

    def timed(key: K, value: T) -> R:
        with watch.running():
            return function(key, value)

    ahead: deque[tuple[K, Future[R]]] = deque()
    for key, value in items:
        ahead.append((key, _queue().submit(timed, key, value)))
        if len(ahead) > 1:
            yield _counted(*ahead.popleft())
    for done, answer in ahead:
        yield _counted(done, answer)


def _counted(key: K, answer: Future[R]) -> tuple[K, R]:
    """Return a key and its answer when that is there; its cells are progress."""
    found = answer.result()
    COUNT.add(len(key))
    return key, found
