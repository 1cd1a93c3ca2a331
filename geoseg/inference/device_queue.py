"""The one queue in front of this process's device.

Forward passes of all threads go through one thread, one after the other: the device is
never asked twice at once, OpenMP has one pool of threads, and while it works the others
read, blend and write. A model that computes windows side by side has a queue with as
many ways out: none of its threads waits until others are done with a batch, and windows
that are cut at the raster's edge keep none waiting for more of their shape.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from geoseg.execution.progress_count import COUNT
from geoseg.inference.windows import batches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.core.tiling import Block
    from geoseg.inference.windows import Cells, Pixels
    from geoseg.models.contract import AnyModel

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
def _queue(abreast: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(abreast, thread_name_prefix="geoseg-device")


def in_turn(
    function: Callable[[Cells, NDArray[Any]], R],
    model: AnyModel,
    block: Block,
    pixels: Pixels,
    batch: int,
    watch: Stopwatch,
) -> Iterator[tuple[Cells, R]]:
    """Yield what a function says of a block's windows, row by row; see `one_ahead`.

    Args:
        function: Called with cells and what their windows see (n, band, y, x).
        model: What it asks.
        block: The block.
        pixels: What its windows see.
        batch: Windows in a batch; one where the model computes them side by side.
        watch: Gets the time that the calls take.
    """
    abreast = model.abreast
    stacks = batches(block, pixels, batch if abreast == 1 else 1)
    return one_ahead(function, stacks, watch, abreast)


def one_ahead(
    function: Callable[[K, T], R],
    items: Iterable[tuple[K, T]],
    watch: Stopwatch,
    abreast: int = 1,
) -> Iterator[tuple[K, R]]:
    """Map in the device's thread, in the order of asking, one item ahead of the caller.

    Args:
        function: Called with the key, some cells, and the value of each item.
        items: Taken in the caller's thread, while the device is at work.
        watch: Gets the time that the calls take.
        abreast: Items in work at once, and ahead of the caller; each call then counts
            for its share of the time.

    Yields:
        The key of each item, and what the function returned for it.
    """

    def timed(key: K, value: T) -> tuple[R, float]:
        begun = perf_counter()
        return function(key, value), perf_counter() - begun

    def counted(key: K, answer: Future[tuple[R, float]]) -> tuple[K, R]:
        found, seconds = answer.result()
        watch.seconds += seconds / abreast
        COUNT.add(len(key))  # its cells are progress
        return key, found

    ahead: deque[tuple[K, Future[tuple[R, float]]]] = deque()
    for key, value in items:
        ahead.append((key, _queue(abreast).submit(timed, key, value)))
        if len(ahead) > abreast:
            yield counted(*ahead.popleft())
    for done, answer in ahead:
        yield counted(done, answer)
