"""The few things that GPUs and a CPU do differently: copies, events, pinned memory.

On a CPU everything is done when it is asked for, so all of this is nothing; the code
that uses it is the same. CUDA and Intel's `xpu` have streams. Apple's `mps` has one,
which fails where two threads ask it at once (github.com/pytorch/pytorch/issues/197805):
there one thread at a time asks, and waits until it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from queue import SimpleQueue
from threading import RLock
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geoseg.errors import says_device_is_lost
from geoseg.models.networks.device import is_out_of_memory
from geoseg.models.networks.gpus import forget, module_of, streams_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BUFFERS = 4
"""Pieces of pinned memory in either direction: one is copied, others are filled."""
_ALIGNED = 64
"""Bytes at whose multiples tensors begin in a buffer."""
Inputs = tuple[torch.Tensor, ...]

_AS_THEY_ARE = {np.dtype(d) for d in ("bool", "u1", "i1", "i2", "i4", "f2", "f4")}
"""Dtypes that are copied to a device; others become fp32 before."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment in what a device does: reached, or still to come."""

    event: Any
    """In a stream, or None: reached."""
    at: float = 0.0
    """When, where there are no streams."""

    def reached(self) -> bool:
        """Whether the device is there; does not wait."""
        return self.event is None or self.event.query()

    def wait(self) -> None:
        """Wait until the device is there."""
        if self.event is not None:
            self.event.synchronize()

    def seconds_since(self, before: Mark) -> float:
        """Return the device's time between two moments that it has reached."""
        if self.event is None:
            return self.at - before.at
        return float(before.event.elapsed_time(self.event)) / 1e3


class Buffers:
    """A few pieces of pinned memory that copies pass through, one after the other.

    Pinning takes long, so that it is done a few times and not for every block; whoever
    finds all of them in use waits.
    """

    def __init__(self, count: int) -> None:
        self._free: SimpleQueue[torch.Tensor] = SimpleQueue()
        for _ in range(count):
            self._free.put(torch.empty(0, dtype=torch.uint8))

    @contextmanager
    def of(self, size: int) -> Iterator[torch.Tensor]:
        """Lend a buffer of at least so many bytes."""
        buffer = self._free.get()
        try:
            if buffer.numel() < size:
                buffer = torch.empty(size, dtype=torch.uint8, pin_memory=True)
            yield buffer[:size]
        finally:
            self._free.put(buffer)


class Device:
    """A device, and the streams beside it that copies go through, where it has any."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_gpu = device.type != "cpu"
        self._module = streams_of(device.type)
        self._alone = RLock() if self.is_gpu and self._module is None else None
        if self._module is not None:
            self._up, self._down = _streams(device)
            self._to, self._from = Buffers(_BUFFERS), Buffers(_BUFFERS)

    def alone(self) -> AbstractContextManager[Any]:
        """Keep other threads from asking the device meanwhile, where it bears one."""
        return nullcontext() if self._alone is None else self._alone

    def sent(self, array: NDArray[Any]) -> torch.Tensor:
        """Return an array on the device, when it is there; any thread may ask.

        uint16, which torch knows by name only, becomes int16 of the same bytes; see
        `unsigned`. On a CPU it is the array itself.
        """
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
        if array.dtype == np.uint16:
            array = array.view(np.int16)
        elif array.dtype not in _AS_THEY_ARE:
            array = array.astype(np.float32)
        if self._module is None:
            held = torch.from_numpy(array if array.flags.writeable else array.copy())
            with self.alone():
                return held.to(self.device)
        kind = torch.from_numpy(np.empty(0, array.dtype)).dtype
        with self._to.of(array.nbytes) as buffer, self._module.stream(self._up):
            # By NumPy, which needs no threads of its own for it.
            np.copyto(buffer.numpy().view(array.dtype).reshape(array.shape), array)
            held = buffer.view(kind).view(array.shape)
            there = held.to(self.device, non_blocking=True)
            self.mark().wait()
        return there

    def zeros(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return int32 zeros on the device; any thread may ask, as for `sent`."""
        if self._module is None:
            with self.alone():
                return torch.zeros(shape, dtype=torch.int32, device=self.device)
        with self._module.stream(self._up):
            zeros = torch.zeros(shape, dtype=torch.int32, device=self.device)
            self.mark().wait()
        return zeros

    def uses(self, tensor: torch.Tensor) -> None:
        """Say that the thread's own stream uses what `sent` or `zeros` made."""
        if self._module is not None:
            tensor.record_stream(self._module.current_stream(self.device))

    def fetched(self, tensors: list[torch.Tensor], ready: Mark) -> list[NDArray[Any]]:
        """Return tensors as arrays; any thread may ask.

        Args:
            tensors: On the device.
            ready: When they hold what they are to.
        """
        if self._module is None:
            with self.alone():
                return [tensor.cpu().numpy() for tensor in tensors]
        size = sum(map(room_of, tensors))
        with self._from.of(size) as buffer, self._module.stream(self._down):
            self._down.wait_event(ready.event)
            held = laid_out(buffer, tensors)
            for piece, tensor in zip(held, tensors, strict=True):
                piece.copy_(tensor, non_blocking=True)
            self.mark().wait()
            return [piece.numpy().copy() for piece in held]

    def mark(self) -> Mark:
        """Mark this moment in the current stream; without streams it is waited for."""
        if self._module is not None:
            # A thread that waits sleeps: it would keep a core from the decoder else.
            how = {"blocking": True} if self.device.type == "cuda" else {}
            event = self._module.Event(enable_timing=True, **how)
            event.record()
            return Mark(event)
        if self.is_gpu:
            module_of(self.device.type).synchronize()
        return Mark(None, perf_counter())

    def forget(self) -> None:
        """Give back memory that is kept for later, after there was too little."""
        with self.alone():
            forget(self.device)

    def replayed(self, step: Callable[..., Any], inputs: Inputs) -> Callable[..., Any]:
        """Return a step recorded as one graph, which is asked for in one call.

        It answers the same tensors each time: they are to be used, on the device,
        before it is called again. What cannot be recorded stays as it is.
        """
        if self.device.type != "cuda":
            return step
        held = [x.clone() for x in inputs]
        graph = torch.cuda.CUDAGraph()
        try:
            for _ in range(2):  # what allocates or chooses does so now
                step(*held)
            torch.cuda.synchronize(self.device)
            # Other threads pin memory meanwhile, which is their own affair.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                answer = step(*held)
        except RuntimeError as error:
            if is_out_of_memory(error) or says_device_is_lost(error):
                raise
            return step

        def replay(*inputs: torch.Tensor) -> Any:  # noqa: ANN401 - the step's answer
            for mine, new in zip(held, inputs, strict=True):
                mine.copy_(new)
            graph.replay()
            return answer

        return replay

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make it the thread's device, without gradients."""
        with torch.no_grad():
            if self._module is None:
                yield
            else:
                with self._module.device(self.device):
                    yield


def laid_out(buffer: torch.Tensor, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return pieces of a buffer of bytes, one after the other, like some tensors."""
    pieces, begin = [], 0
    for tensor in tensors:
        piece = buffer[begin : begin + tensor.nbytes].view(tensor.dtype)
        pieces.append(piece.view(tensor.shape))
        begin += room_of(tensor)
    return pieces


def room_of(tensor: torch.Tensor) -> int:
    """Return the bytes of a tensor, rounded so that what follows is aligned."""
    return -(-tensor.nbytes // _ALIGNED) * _ALIGNED


@cache
def _streams(device: torch.device) -> tuple[Any, Any]:
    """Return what copies to and from a device go through, the same for every run.

    Memory that torch keeps for later is kept for the stream that it was made for.
    """
    module = streams_of(device.type)
    return module.Stream(device), module.Stream(device)


def unsigned(pixels: torch.Tensor, dtype: np.dtype[Any]) -> torch.Tensor:
    """Return fp32 pixels of which `sent` may have made signed numbers, in place.

    By one operation that reads and writes them once; whole numbers stay exact.
    """
    return pixels.remainder_(65536.0) if dtype == np.uint16 else pixels
