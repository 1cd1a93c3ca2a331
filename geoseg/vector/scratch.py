"""Memory that a thread uses again, block after block.

Large arrays come fresh from the operating system each time, page by page: for a block
of pixels that costs as much as a pass over it, and more in workers of Dask, which give
memory back at once.
"""

from __future__ import annotations

import threading
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class _Kept(threading.local):
    """The buffers of a thread, by name; they go with it."""

    def __init__(self) -> None:
        self.buffers: dict[str, NDArray[np.uint8]] = {}


_KEPT = _Kept()


def borrowed(name: str, shape: tuple[int, ...], dtype: type[Any]) -> NDArray[Any]:
    """Return an array with anything in it, to use until the next call of this name.

    Args:
        name: What it is for; two arrays in use at once have two names.
        shape: Its shape.
        dtype: Its dtype.

    Returns:
        C-contiguous memory of this thread. Nothing that outlives the task may be a
        view of it.
    """
    size = prod(shape) * np.dtype(dtype).itemsize
    kept = _KEPT.buffers.get(name)
    if kept is None or len(kept) < size:
        kept = _KEPT.buffers[name] = np.empty(size, np.uint8)
    return np.asarray(kept[:size].view(dtype).reshape(shape))
