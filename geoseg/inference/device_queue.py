"""The one queue in front of this process's device.

Forward passes of all threads go through one thread, one after the other: the device is
never asked twice at once, OpenMP has one pool of threads, and while it works the others
read, blend and write.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


@cache
def _queue() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="geoseg-device")


def on_device(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Run a function in the device's thread, in the order of asking."""
    return _queue().submit(function, *args, **kwargs)
