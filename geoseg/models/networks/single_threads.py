"""Windows side by side, each computed by one thread.

How many threads share the sums inside a convolution changes their rounding. With one
thread per window the answer is the same on any number of cores; and several windows
side by side are faster than one window shared out, since no thread waits for another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from geoseg.execution.resources import cores

T = TypeVar("T")
S = TypeVar("S")


def forward_threads() -> int:
    """Return how many windows this process may compute side by side.

    Torch knows what the process was told as it began; variables may have changed.
    """
    return min(cores(), torch.get_num_threads())


class SingleThreads:
    """A pool of threads in each of which torch computes without further threads."""

    def __init__(self, count: int) -> None:
        self.count = count
        own = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(
            count,
            thread_name_prefix="geoseg-forward",
            initializer=_alone,
        )
        begun = threading.Barrier(count)
        list(self._pool.map(lambda _: begun.wait(), range(count)))
        torch.set_num_threads(own)  # new threads elsewhere are as they were

    def map(self, function: Callable[[T], S], items: Iterable[T]) -> list[S]:
        """Return the function of every item, in order; raises what the first raised."""
        return list(self._pool.map(function, items))


def _alone() -> None:
    torch.set_num_threads(1)
    torch.get_num_threads()  # torch fixes a thread's number at the first question
