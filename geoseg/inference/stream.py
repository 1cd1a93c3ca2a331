"""Blocks through one device, which never waits: windows of many, batch by batch.

    tasks' threads    read → copy there ─┐                             ┌→ copy back
    device's thread                      └→ cut → step → add → label ──┘

The device's thread only asks, and waits for nothing; the device works through what it
was asked in its own time, and tasks copy beside it. (Where objects are found it waits
for how many there are.) Windows are cut on the device out of their block's pixels, and
batches are filled across blocks, so that the network sees one shape, whatever the
blocks. What a batch is passed through and what becomes of it is told by a *step*: of
scores, labels or objects (`block_steps`, `objects/step`). What it keeps of a block lies
on the device until its last window has been added; then the block's answer comes back.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import torch

from geoseg.core.text import size as text_of
from geoseg.errors import ModelError, first_line, says_device_is_lost
from geoseg.execution.progress_count import COUNT
from geoseg.inference.device_memory import Device, Mark, unsigned
from geoseg.inference.memory import block_bytes
from geoseg.inference.parts import block_of, parts_of, pixels_of
from geoseg.inference.tasks import Tasks
from geoseg.inference.work import Run, Shape, Work, filled, given_back, taken_of
from geoseg.models.networks.device import is_out_of_memory

if TYPE_CHECKING:
    from geoseg.core.tiling import Block
    from geoseg.inference.block_steps import BlockStep
    from geoseg.inference.device_steps import Step
    from geoseg.inference.windows import Pixels
    from geoseg.models.contract import AnyModel

_GRACE = 0.005
"""Seconds for which nothing new must have come before a batch is passed unfilled."""
_SWITCH = 2e-4
"""Seconds after which a thread of Python gives way, while a GPU is served."""
_LOOK = 5.0
"""Seconds after which a task that waits looks whether the device's thread is there."""
_EDGE = 4  # batches of windows that are cut at the raster's edge are so much smaller


class Stream:
    """The blocks of one run on one device of this process."""

    def __init__(
        self,
        model: AnyModel,
        step: BlockStep,
        *,
        batch: int,
        memory: float,
        tasks: Tasks,
        compiled: Step | None = None,
        shapes: Sequence[Shape] = (),
    ) -> None:
        """Start the device's thread.

        Args:
            model: One that `streams`.
            step: What is made of its windows.
            batch: Windows of full size per step.
            memory: Bytes of the device that blocks may take.
            tasks: How many tasks may still bring windows.
            compiled: The step for batches of full windows; None: PyTorch itself.
            shapes: Of windows that will come; kernels for them are chosen now.
        """
        self._model, self.batch, self._memory = model, batch, memory
        self.tasks = tasks
        self.device = Device(torch.device(model.device))
        self.card = model.card
        self._step, self._compiled = step, compiled
        self._replay: Step | None = None
        self._inbox: SimpleQueue[Work | None] = SimpleQueue()
        self._pending: dict[Shape, deque[Run]] = {}
        self._largest = memory or float("inf")  # of a block; others go in parts
        self._taken = 0.0
        self._lock = threading.Condition()
        self._open = 0  # tasks that wait for room, or for their block's answer
        self._passes: deque[tuple[Mark, Mark]] = deque()
        self._busy = 0.0
        self.steps = self.padding = 0
        """Batches passed, and windows of them that were only there to fill them."""
        self._thread = threading.Thread(
            target=self._serve, args=(shapes,), name="geoseg-device", daemon=True
        )
        self._begun = threading.Event()
        self._ended: BaseException | None = None
        self._thread.start()
        self._begun.wait()

    # --- asked by tasks, in their threads ---------------------------------------------

    def segment(self, block: Block, pixels: Pixels, names: Sequence[str]) -> Any:  # noqa: ANN401
        """Return the step's answer for a block.

        Args:
            block: The block.
            pixels: What its windows see.
            names: Arrays of the masks.

        Raises:
            NotFiniteError: A score is NaN or infinite.
            ModelError: What the model answers has the wrong shape, or memory is too
                small for one window.
        """
        work = self._prepared(block, pixels, names)
        if not work.left:
            return self._step.answer(work, [], 0.0)
        if not self._send(work):
            return self._in_parts(work)
        try:
            with self._lock:
                self._open += 1
            self._inbox.put(work)
            while not wait([work.future], timeout=_LOOK).done:
                if not self._thread.is_alive() and not work.future.done():
                    raise self._told_end()
            tensors, ready = work.future.result()
            arrays = self.device.fetched(tensors, ready)
        finally:
            with self._lock:
                self._taken -= work.bytes
                self._lock.notify_all()
        return self._step.answer(work, arrays, self._take_busy())

    def _send(self, work: Work) -> bool:
        """Copy a block to the device, when there is room.

        Returns:
            Whether it is there; False: it is to go in parts.

        Raises:
            ModelError: It is too large, and cannot be cut.
        """
        while work.values is None:
            if work.bytes > self._largest and self._divides(work):
                return False
            self._take_room(work.bytes)
            try:
                self._step.begin(work, self.device)
                work.values = self.device.sent(work.pixels.values)
            except Exception as error:
                work.forget()
                with self._lock:
                    self._taken -= work.bytes
                    self._lock.notify_all()
                    if not is_out_of_memory(error):
                        raise
                    if self._taken:
                        self._memory = self._taken  # no more than the others at once
                        continue
                if not self._divides(work):
                    raise ModelError(self._too_large(work)) from error
                self.device.forget()
                self._largest = work.bytes - 1
        return True

    def _divides(self, work: Work) -> bool:
        return self._step.divides and bool(parts_of(work.block))

    def _too_large(self, work: Work) -> str:
        side, batch = work.block.tiling.block, self.batch
        smaller = f"a --batch below {batch}, " if batch > 1 else ""
        return (
            f"memory of {self._model.device} does not hold a block of {side} px "
            f"({text_of(work.bytes)}) beside the model: use {smaller}a smaller --block "
            "or --window, or --device cpu"
        )

    def _in_parts(self, work: Work) -> Any:  # noqa: ANN401
        """Return the answer for a block that the device has no room for at once."""
        parts = parts_of(work.block)
        found = {
            part.key: self.segment(part, pixels_of(part, work.pixels), work.names)
            for part in parts
        }
        return block_of(work.block, parts, found, self.card, work.names)

    def _take_room(self, size: int) -> None:
        with self._lock:
            self._open += 1
            self._lock.wait_for(
                lambda: not self._taken or self._taken + size <= self._memory
            )
            self._open -= 1
            self._taken += size

    def _told_end(self) -> Exception:
        """Return why nothing is answered any more."""
        error = self._ended
        if isinstance(error, Exception) and says_device_is_lost(error):
            return error
        why = "it was asked to" if error is None else first_line(error)
        return ModelError(f"the thread of {self._model.device} has ended: {why}")

    def close(self) -> None:
        """End the device's thread when it has done what it was asked."""
        self._inbox.put(None)
        self._thread.join()

    def _prepared(self, block: Block, pixels: Pixels, names: Sequence[str]) -> Work:
        work = Work(block=block, pixels=pixels, names=names)
        work.line_up(self._step.cells(work))
        pixel = len(self.card.bands) * pixels.values.dtype.itemsize
        work.bytes = block_bytes(block.tiling, self.card, pixel, names)
        return work

    def _take_busy(self) -> float:
        """Return the time that the device passed windows since this was last asked."""
        with self._lock:
            while self._passes and self._passes[0][1].reached():
                begin, end = self._passes.popleft()
                self._busy += end.seconds_since(begin)
            seconds, self._busy = self._busy, 0.0
        return seconds

    # --- the device's thread ----------------------------------------------------------

    def _serve(self, shapes: Sequence[Shape]) -> None:
        try:
            with self.device.current(), _eager_switches(self.device):
                self._answer_all(shapes)
        except BaseException as error:  # noqa: BLE001 - tasks that wait are told it
            self._ended = error
        finally:
            self._begun.set()

    def _answer_all(self, shapes: Sequence[Shape]) -> None:
        try:
            with self.device.alone():
                self._warm_up(shapes)
        except Exception:  # noqa: BLE001 - the first pass says it, to whom it concerns
            self.device.forget()
        self._begun.set()
        quiet = False
        while True:
            try:
                work = self._inbox.get(timeout=_GRACE if self._is_partial else None)
                if work is None:
                    return
                self._guarded(partial(self._admit, work))
                quiet = False
            except Empty:
                # Once more, so that a task that just ended can be followed by one.
                settled = quiet or not self.tasks.more
                if settled and self.tasks.expected <= self._open:
                    self._guarded(self._flush)
                quiet = not quiet
            self._guarded(self._advance)

    def _warm_up(self, shapes: Sequence[Shape]) -> None:
        """Pass a blank batch of each shape: the first one takes far longer."""
        if self.device.is_gpu:
            bands, device = len(self.card.bands), self.device.device
            for shape in shapes:
                size = self._size(shape)
                pixels = torch.zeros((size, bands, *shape), device=device)
                more = self._step.blank_inputs(size, shape, device)
                self._stepped(shape, pixels, *more)
            self.device.mark().wait()

    @property
    def _is_partial(self) -> bool:
        return any(self._pending.values())

    def _guarded(self, action: Callable[[], None]) -> None:
        """Do something; where it fails, all blocks in hand fail."""
        try:
            with self.device.alone():
                action()
        except Exception as error:  # noqa: BLE001 - whoever waits for the block gets it
            failed = {run.work for runs in self._pending.values() for run in runs}
            self._pending.clear()
            for work in (*failed, *self._in_step):
                self._fail(work, error)

    _in_step: tuple[Work, ...] = ()

    def _fail(self, work: Work, error: Exception) -> None:
        if work.future.done():
            return
        work.forget()
        with self._lock:
            self._open -= 1
        if not isinstance(error, ModelError) and not says_device_is_lost(error):
            error = ModelError(
                f"model {self.card.name!r} failed on windows of block "
                f"{work.block.row},{work.block.col}: {first_line(error)}"
            )
        work.future.set_exception(error)

    def _advance(self) -> None:
        """Pass all batches that are full."""
        for shape, runs in self._pending.items():
            while sum(map(len, runs)) >= self._size(shape):
                self._pass(shape, runs)

    def _flush(self) -> None:
        """Pass the fullest batch, though it is not full: nothing more will come."""
        shapes = [shape for shape, runs in self._pending.items() if runs]
        if shapes:
            fill = {s: sum(map(len, self._pending[s])) / self._size(s) for s in shapes}
            shape = max(shapes, key=fill.__getitem__)
            self._pass(shape, self._pending[shape])

    def _admit(self, work: Work) -> None:
        """Line up a block's windows."""
        self._in_step = (work,)
        for tensor in (work.values, work.valid, work.kept):
            if tensor is not None:
                self.device.uses(tensor)
        for of, run in work.runs:
            self._pending.setdefault(of, deque()).append(run)
        self._in_step = ()

    def _size(self, shape: Shape) -> int:
        """Return how many windows of a shape make a batch."""
        return self.batch if self._is_full(shape) else max(1, self.batch // _EDGE)

    def _is_full(self, shape: Shape) -> bool:
        return shape == (self.card.window, self.card.window)

    def _pass(self, shape: Shape, runs: deque[Run]) -> None:
        """Pass one batch, and add what it answers to the sums of its blocks."""
        size = self._size(shape)
        taken = taken_of(runs, size)
        works = {run.work for run in taken}
        self._in_step = tuple(works)
        begin = self.device.mark()
        try:
            answer = self._answered(shape, taken, size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            given_back(taken, runs)
            self._halve(shape, taken[0].work, error)
            return
        self._add(taken, answer)
        with self._lock:
            self._passes.append((begin, self.device.mark()))
        self.steps += 1
        self.padding += size - sum(map(len, taken))
        for work in works:
            if not work.left:
                self._complete(work)
        self._in_step = ()

    def _answered(
        self, shape: Shape, taken: Sequence[Run], size: int
    ) -> tuple[Any, ...]:
        """Cut windows, fill the batch, and ask the step."""
        batch = filled(taken, size, shape, self.device.device)
        batch = unsigned(batch, taken[0].work.pixels.values.dtype)
        inputs = self._step.inputs(taken, size)
        return self._stepped(shape, batch, *inputs)

    def _stepped(self, shape: Shape, *inputs: Any) -> tuple[Any, ...]:  # noqa: ANN401
        """Ask the step for windows of a shape; only full ones are compiled."""
        with self._model.kernels():
            if not (self._step.is_fixed and self._is_full(shape)):
                return self._step(*inputs)
            if self._replay is None:
                step = self._step if self._compiled is None else self._compiled
                self._replay = self.device.replayed(step, inputs)
            return self._replay(*inputs)  # type: ignore[no-any-return]

    def _halve(self, shape: Shape, work: Work, error: Exception) -> None:
        """Go on with half the batch."""
        if self._size(shape) == 1:
            raise ModelError(
                f"model {self.card.name!r} runs out of memory on {self._model.device} "
                f"with one window of {shape[0]} x {shape[1]} px: use a smaller "
                "--window, or --device cpu"
            ) from error
        self.batch //= 2
        self._compiled = self._replay = None  # what is compiled has one shape
        self.device.forget()
        warnings.warn(
            f"memory of {self._model.device} ran out: from block {work.block.row},"
            f"{work.block.col} on {self.batch} windows are passed at once, which may "
            f"round otherwise; --batch {self.batch} does so from the beginning",
            stacklevel=2,
        )

    def _add(self, taken: Sequence[Run], answer: tuple[Any, ...]) -> None:
        done = 0
        COUNT.add(sum(map(len, taken)))
        for run in taken:
            end = done + len(run)
            self._step.add(run, *(item[done:end] for item in answer))
            run.work.left -= len(run)
            done = end

    def _complete(self, work: Work) -> None:
        """Make the block's answer on the device."""
        while True:
            try:
                tensors = self._step.complete(work)
                break
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._halve((self.card.window, self.card.window), work, error)
        work.forget()
        with self._lock:
            self._open -= 1
        work.future.set_result((tensors, self.device.mark()))


@contextmanager
def _eager_switches(device: Device) -> Iterator[None]:
    """Let threads of Python wait for each other less.

    The device's thread asks for hundreds of kernels a second; were it to wait for the
    usual 5 ms each time that another thread computes, the device would be idle.
    """
    before = sys.getswitchinterval()
    if device.is_gpu:
        sys.setswitchinterval(_SWITCH)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
