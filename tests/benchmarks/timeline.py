"""Who did what when in a run of this process: for finding what a device waits for.

    with timeline() as stages:
        run_plan(…)
    print(table(stages))

Time on the clock far above time of the processor means that a thread waited: for the
device, for another thread of Python, or for a disk.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from geoseg.inference import block_cache, scheduler, stage, stream, worker
from geoseg.inference.block_steps import BlendStep
from geoseg.inference.device_memory import Device
from geoseg.maps.store import Masks

PLACES: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (stage.Stage, ("__call__",)),
    (worker, ("read_windows", "read_partial", "read_halo", "finish_block")),
    (worker, ("write_partial", "write_arrays")),
    (stream.Stream, ("segment", "_send", "_take_room", "_pass", "_add", "_complete")),
    (stream.Stream, ("_answered", "_stepped", "_flush")),
    (stream, ("filled",)),
    (Device, ("sent", "zeros", "fetched")),
    (BlendStep, ("inputs", "answer")),
    (scheduler, ("_fill", "_take")),
    (block_cache, ("pack_arrays", "check_packed", "unpacked")),
    (Masks, ("write", "mark_done", "check_current")),
)
"""What is looked at: functions by module or class."""


@dataclass(slots=True)
class Spent:
    """What one function took, all threads together, in seconds."""

    calls: int = 0
    clock: float = 0.0
    processor: float = 0.0
    longest: float = 0.0
    first: float = field(default=float("inf"))
    """When it was called first, from the beginning of the run."""
    last: float = 0.0
    """When it ended for the last time."""


@contextmanager
def timeline() -> Iterator[dict[str, Spent]]:
    """Time what `PLACES` name, in all threads, until the end."""
    found: dict[str, Spent] = {}
    lock, begun = threading.Lock(), time.perf_counter()

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        spent = found.setdefault(name, Spent())

        @functools.wraps(function)
        def call(*args: Any, **more: Any) -> Any:
            clock, processor = time.perf_counter(), time.thread_time()
            try:
                return function(*args, **more)
            finally:
                end = time.perf_counter()
                with lock:
                    spent.calls += 1
                    spent.clock += end - clock
                    spent.processor += time.thread_time() - processor
                    spent.longest = max(spent.longest, end - clock)
                    spent.first = min(spent.first, clock - begun)
                    spent.last = end - begun

        return call

    before = [(o, name, getattr(o, name)) for o, names in PLACES for name in names]
    for owner, name, function in before:
        setattr(owner, name, timed(function.__qualname__, function))
    try:
        yield found
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def table(found: dict[str, Spent]) -> str:
    """Return it as lines, what took longest first."""
    lines = [f"{'':28s} calls   clock    cpu  longest  first   last"]
    for name, s in sorted(found.items(), key=lambda item: -item[1].clock):
        if s.calls:
            lines.append(
                f"{name:28s}{s.calls:6d}{s.clock:8.2f}{s.processor:7.2f}"
                f"{s.longest:9.3f}{s.first:7.2f}{s.last:7.2f}"
            )
    return "\n".join(lines)
