"""Blocks through one device, which never waits: windows of many, batch by batch.

    tasks' threads    read → copy there ─┐                             ┌→ copy back
    device's thread                      └→ cut → step → add → label ──┘

The device's thread only asks, and waits for nothing; the device works through what it
was asked in its own time, and tasks copy beside it. Windows are cut on the device out
of their block's pixels, and batches are filled across blocks: the *step*, from pixels
to weighted integer scores of a batch, always sees one shape, whatever the blocks. Sums
are kept on the device and labelled there when a block's last window has been added;
labels, and the sums of its border and halo, come back.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geoseg.core.blend import probability_bytes, ramp
from geoseg.core.classes import nodata_value
from geoseg.core.grid import Window
from geoseg.core.tiling import Block, Tiling
from geoseg.errors import ModelError, first_line, says_device_is_lost
from geoseg.inference.device import (
    Device,
    Mark,
    unsigned,
)
from geoseg.inference.memory import block_bytes
from geoseg.inference.semantic import (
    NotFiniteError,
    PartialBlock,
    PartialSums,
    border_of,
    halo_of,
    not_finite,
    values_of,
)
from geoseg.inference.semantic import (
    blank as blank_arrays,
)
from geoseg.inference.steps import Blended, Step, blank
from geoseg.inference.tasks import Tasks
from geoseg.inference.windows import Pixels, cells_with_data
from geoseg.models.networks.device import is_out_of_memory

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.models.card import Card
    from geoseg.models.contract import Model

_GRACE = 0.005
"""Seconds for which nothing new must have come before a batch is passed unfilled."""
_SWITCH = 2e-4
"""Seconds after which a thread of Python gives way, while a GPU is served."""
_KEPT = 256  # tensors of weights on the device
_EDGE = 4  # batches of windows that are cut at the raster's edge are so much smaller

Shape = tuple[int, int]
"""Rows and columns of a window."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Windows of one row of cells of a block, one after the other, of one shape."""

    work: _Work
    row: int
    first: int
    after: int

    def __len__(self) -> int:
        return self.after - self.first

    def split(self, count: int) -> tuple[_Run, _Run]:
        middle = self.first + count
        return (
            _Run(self.work, self.row, self.first, middle),
            _Run(self.work, self.row, middle, self.after),
        )


@dataclass(slots=True, eq=False)
class _Work:
    """A block on its way through the device."""

    block: Block
    pixels: Pixels
    names: Sequence[str]
    values: torch.Tensor | None = None
    """(band, y, x) of the reach, on the device."""
    valid: torch.Tensor | None = None
    """(y, x) of the block, likewise; None where all pixels are."""
    runs: list[tuple[Shape, _Run]] = field(default_factory=list)
    future: Future[tuple[list[torch.Tensor], Mark]] = field(default_factory=Future)
    left: int = 0
    """Windows that are still to be added."""
    windows: int = 0
    sums: torch.Tensor | None = None
    """(class, y, x) int32 of `area`, on the device."""
    finite: list[torch.Tensor] = field(default_factory=list)
    """(n,) of windows that are added, whether their scores are finite."""
    bytes: int = 0
    """What it takes of the device's memory."""

    @property
    def area(self) -> Window:
        """Where sums are kept: the block and its halo."""
        return self.block.window.pad(self.block.tiling.margin)


class Stream:
    """The blocks of one run on one device of this process."""

    def __init__(
        self,
        model: Model,
        *,
        batch: int,
        memory: float,
        tasks: Tasks,
        step: Step | None = None,
        shapes: Sequence[Shape] = (),
    ) -> None:
        """Start the device's thread.

        Args:
            model: One that `streams`.
            batch: Windows of full size per step.
            memory: Bytes of the device that blocks may take.
            tasks: How many tasks may still bring windows.
            step: The step for batches of full windows; None: PyTorch itself.
            shapes: Of windows that will come; kernels for them are chosen now.
        """
        self._model, self.batch, self._memory = model, batch, memory
        self.tasks = tasks
        self.device = Device(torch.device(model.device))
        self.card = model.card
        self._eager: Step = Blended(model)
        self._step = self._eager if step is None else step
        self._replay: Step | None = None
        self._inbox: SimpleQueue[_Work | None] = SimpleQueue()
        self._pending: dict[Shape, deque[_Run]] = {}
        self._weights: OrderedDict[tuple[int, ...], torch.Tensor] = OrderedDict()
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
        self._thread.start()
        self._begun.wait()

    # --- asked by tasks, in their threads ---------------------------------------------

    def segment(
        self, block: Block, pixels: Pixels, names: Sequence[str]
    ) -> PartialBlock:
        """Return what is known of a block before its neighbours' halo sums are there.

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
            return _blank_block(block, self.card, names)
        self._send(work)
        try:
            with self._lock:
                self._open += 1
            self._inbox.put(work)
            tensors, ready = work.future.result()
            arrays = self.device.fetched(tensors, ready)
        finally:
            with self._lock:
                self._taken -= work.bytes
                self._lock.notify_all()
        return self._answer(work, arrays)

    def _send(self, work: _Work) -> None:
        """Copy a block to the device, when there is room; for one there always is."""
        inside = work.pixels.valid_in(work.block.window)
        while work.values is None:
            self._take_room(work.bytes)
            try:
                work.valid = None if inside.all() else self.device.sent(inside)
                area = work.area
                work.sums = self.device.zeros(
                    (self.card.channels, area.height, area.width)
                )
                work.values = self.device.sent(work.pixels.values)
            except Exception as error:
                work.sums = work.valid = None
                with self._lock:
                    self._taken -= work.bytes
                    self._lock.notify_all()
                    if not is_out_of_memory(error) or not self._taken:
                        raise
                    self._memory = self._taken  # no more than the others at once

    def _take_room(self, size: int) -> None:
        with self._lock:
            self._open += 1
            self._lock.wait_for(
                lambda: not self._taken or self._taken + size <= self._memory
            )
            self._open -= 1
            self._taken += size

    def close(self) -> None:
        """End the device's thread when it has done what it was asked."""
        self._inbox.put(None)
        self._thread.join()

    def _prepared(self, block: Block, pixels: Pixels, names: Sequence[str]) -> _Work:
        work = _Work(block=block, pixels=pixels, names=names)
        tiling = block.tiling

        def shape_of(cell: tuple[int, int]) -> Shape:
            window = tiling.model_window(*cell)
            return window.height, window.width

        cells = list(cells_with_data(block, pixels))
        # Neighbours in a row have the same difference to their place in the list.
        for (row, _, shape), group in groupby(
            enumerate(cells), lambda n: (n[1][0], n[1][1] - n[0], shape_of(n[1]))
        ):
            columns = [col for _, (_, col) in group]
            run = _Run(work, row, columns[0], columns[-1] + 1)
            work.runs.append((shape, run))
        work.left = work.windows = len(cells)
        pixel = len(self.card.bands) * pixels.values.dtype.itemsize
        work.bytes = block_bytes(tiling, self.card.channels, pixel, names)
        return work

    def _answer(self, work: _Work, found: list[NDArray[Any]]) -> PartialBlock:
        block, card = work.block, self.card
        *outputs, flat, finite = found
        if not finite:
            raise NotFiniteError(not_finite(card, block))
        dtype = values_of(card).dtype
        arrays = {
            name: array.view(dtype if name == "classes" else np.uint8)
            for name, array in zip(work.names, outputs, strict=True)
        }
        windows = [*border_of(block), *halo_of(block).values()]
        sums = list(_cut_up(flat, windows, card.channels))
        border = sums[: len(border_of(block))]
        return PartialBlock(
            arrays=arrays,
            border=tuple(border),
            halo=dict(zip(halo_of(block), sums[len(border) :], strict=True)),
            windows=work.windows,
            forward_seconds=self._take_busy(),
        )

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
        with self.device.current(), _eager_switches(self.device):
            try:
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
                    if quiet and self.tasks.count <= self._open:
                        self._guarded(self._flush)
                    quiet = not quiet
                self._guarded(self._advance)

    def _warm_up(self, shapes: Sequence[Shape]) -> None:
        """Pass a blank batch of each shape: the first one takes far longer."""
        if self.device.is_cuda:
            for shape in shapes:
                self._stepped(shape, *blank(self._model, self._size(shape), shape))
            self.device.mark().wait()

    @property
    def _is_partial(self) -> bool:
        return any(self._pending.values())

    def _guarded(self, action: Callable[[], None]) -> None:
        """Do something; where it fails, all blocks in hand fail."""
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whoever waits for the block gets it
            failed = {run.work for runs in self._pending.values() for run in runs}
            self._pending.clear()
            for work in (*failed, *self._in_step):
                self._fail(work, error)

    _in_step: tuple[_Work, ...] = ()

    def _fail(self, work: _Work, error: Exception) -> None:
        if work.future.done():
            return
        work.values = work.sums = work.valid = None
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

    def _admit(self, work: _Work) -> None:
        """Line up a block's windows."""
        self._in_step = (work,)
        for tensor in (work.values, work.valid, work.sums):
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

    def _pass(self, shape: Shape, runs: deque[_Run]) -> None:
        """Pass one batch, and add what it answers to the sums of its blocks."""
        size = self._size(shape)
        taken = list(_taken_of(runs, size))
        works = {run.work for run in taken}
        self._in_step = tuple(works)
        begin = self.device.mark()
        try:
            shares, finite = self._answered(shape, taken, size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            runs.extendleft(reversed(taken))
            self._halve(shape, taken[0].work, error)
            return
        self._add(taken, shares, finite)
        with self._lock:
            self._passes.append((begin, self.device.mark()))
        self.steps += 1
        self.padding += size - sum(map(len, taken))
        for work in works:
            if not work.left:
                self._complete(work)
        self._in_step = ()

    def _answered(
        self, shape: Shape, taken: Sequence[_Run], size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut windows, fill the batch, and ask the step."""
        bands = len(self.card.bands)
        device = self.device.device
        batch = torch.empty((size, bands, *shape), device=device)
        done = 0
        for run in taken:
            batch[done : done + len(run)].copy_(_cut(run, shape))
            done += len(run)
        batch[done:] = 0
        batch = unsigned(batch, taken[0].work.pixels.values.dtype)
        cells = [(run.row, col) for run in taken for col in range(run.first, run.after)]
        tiling = taken[0].work.block.tiling
        cells += cells[-1:] * (size - len(cells))
        weights = (
            self._ramps(
                shape[0], [_ends(row, tiling.cell_rows) for row, _ in cells], tiling
            ),
            self._ramps(
                shape[1], [_ends(col, tiling.cell_cols) for _, col in cells], tiling
            ),
        )
        shares, finite = self._stepped(shape, batch, *weights)
        return shares, finite

    def _stepped(self, shape: Shape, *inputs: torch.Tensor) -> Any:  # noqa: ANN401
        """Ask the step for windows of a shape; only full ones are compiled."""
        with self._model.kernels():
            if not self._is_full(shape):
                return self._eager(*inputs)
            if self._replay is None:
                self._replay = self.device.replayed(self._step, inputs)
            return self._replay(*inputs)

    def _ramps(self, side: int, ends: list[int], tiling: Tiling) -> torch.Tensor:
        """Return the weights of a batch's windows along one axis, (n, side) int32."""
        key = (side, *ends)
        if key not in self._weights:
            rows = [
                ramp(side, tiling.overlap, before=bool(e & 2), after=bool(e & 1))
                for e in ends
            ]
            self._weights[key] = self.device.sent(np.stack(rows))
            while len(self._weights) > _KEPT:
                self._weights.popitem(last=False)
        self._weights.move_to_end(key)
        return self._weights[key]

    def _halve(self, shape: Shape, work: _Work, error: Exception) -> None:
        """Go on with half the batch."""
        if self._size(shape) == 1:
            raise ModelError(
                f"model {self.card.name!r} runs out of memory on {self._model.device} "
                f"with one window of {shape[0]} x {shape[1]} px: use a smaller "
                "--window, or --device cpu"
            ) from error
        self.batch //= 2
        self._step, self._replay = self._eager, None  # what is compiled has one shape
        self.device.forget()
        warnings.warn(
            f"memory of {self._model.device} ran out: from block {work.block.row},"
            f"{work.block.col} on {self.batch} windows are passed at once, which may "
            f"round otherwise; --batch {self.batch} does so from the beginning",
            stacklevel=2,
        )

    def _add(
        self, taken: Sequence[_Run], shares: torch.Tensor, finite: torch.Tensor
    ) -> None:
        done = 0
        for run in taken:
            part, good = shares[done : done + len(run)], finite[done : done + len(run)]
            done += len(run)
            work = run.work
            assert work.sums is not None
            work.finite.append(good.clone())
            _add_run(run, part, work.sums)
            work.left -= len(run)

    def _complete(self, work: _Work) -> None:
        """Label a block on the device."""
        sums, block = work.sums, work.block
        assert sums is not None
        inside = sums[(slice(None), *block.window.relative_to(work.area).slices)]
        outputs = _labelled(inside, work.valid, self.card, work.names)
        pieces = [
            sums[(slice(None), *window.relative_to(work.area).slices)].reshape(-1)
            for window in (*border_of(block), *halo_of(block).values())
        ]
        flat = torch.cat(pieces) if pieces else sums.new_zeros(0)
        finite = torch.cat(work.finite).all()
        work.sums = work.valid = work.values = None
        with self._lock:
            self._open -= 1
        work.future.set_result(([*outputs, flat, finite], self.device.mark()))


@contextmanager
def _eager_switches(device: Device) -> Iterator[None]:
    """Let threads of Python wait for each other less.

    The device's thread asks for hundreds of kernels a second; were it to wait for the
    usual 5 ms each time that another thread computes, the device would be idle.
    """
    before = sys.getswitchinterval()
    if device.is_cuda:
        sys.setswitchinterval(_SWITCH)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _taken_of(runs: deque[_Run], size: int) -> Iterator[_Run]:
    """Take windows from the left, `size` of them where there are so many."""
    while size and runs:
        run = runs.popleft()
        if len(run) > size:
            run, rest = run.split(size)
            runs.appendleft(rest)
        size -= len(run)
        yield run


def _ends(cell: int, cells: int) -> int:
    """Return whether there is a window before, and after, as two bits."""
    return 2 * (cell > 0) + (cell < cells - 1)


def _cut(run: _Run, shape: Shape) -> torch.Tensor:
    """Return a view of a run's windows, (n, band, y, x), in its block's pixels."""
    work, tiling = run.work, run.work.block.tiling
    assert work.values is not None
    first = tiling.model_window(run.row, run.first).relative_to(work.pixels.reach)
    rows = work.values[:, first.y : first.y + shape[0], first.x :]
    windows = rows.unfold(2, shape[1], tiling.stride)[:, :, : len(run)]
    return windows.permute(2, 0, 1, 3)


def _add_run(run: _Run, shares: torch.Tensor, sums: torch.Tensor) -> None:
    """Add windows to the sums, every second at once: those do not overlap.

    What windows at the raster's far edges see beyond the block's halo is left out.
    """
    work, tiling = run.work, run.work.block.tiling
    window = tiling.model_window(run.row, run.first).relative_to(work.area)
    classes, height, width = sums.shape
    y, side = window.y, window.width
    high = min(window.height, height - y)
    for odd in range(min(2, len(run))):
        x = window.x + odd * tiling.stride
        part = shares[odd::2, :, :high]
        inside = len(part)
        last = x + 2 * tiling.stride * (inside - 1)
        if last + side > width:  # the last one reaches too far
            sums[:, y : y + high, last:width] += part[-1, :, :, : width - last]
            inside -= 1
        if inside:
            strides = (2 * tiling.stride, height * width, width, 1)
            shape = (inside, classes, high, side)
            offset = sums.storage_offset() + y * width + x
            sums.as_strided(shape, strides, offset).add_(part[:inside])


def _labelled(
    sums: torch.Tensor, valid: torch.Tensor | None, card: Card, names: Sequence[str]
) -> list[torch.Tensor]:
    """Return a block's arrays, of the sums (class, y, x) of its pixels, on the device.

    The first of equal classes wins, as `torch.max` promises.
    """
    best, index = sums.max(0)
    values = values_of(card)
    signed = values.view(np.int16) if values.dtype == np.uint16 else values
    labels = torch.from_numpy(signed).to(sums.device)[index]
    nodata = np.array(nodata_value(card.classes), values.dtype).view(signed.dtype)
    arrays = {"classes": (labels, int(nodata))}
    if "confidence" in names:
        arrays["confidence"] = probability_bytes(best), 255
    if "probabilities" in names:
        arrays["probabilities"] = probability_bytes(sums), 255
    if valid is None:
        return [arrays[name][0] for name in names]
    return [
        torch.where(
            valid, array, torch.tensor(blank_, dtype=array.dtype, device=array.device)
        )
        for array, blank_ in (arrays[name] for name in names)
    ]


def _cut_up(
    flat: NDArray[Any], windows: Sequence[Window], channels: int
) -> Iterator[PartialSums]:
    begin = 0
    for window in windows:
        end = begin + channels * window.area
        shape = (channels, window.height, window.width)
        yield PartialSums(window=window, sums=flat[begin:end].reshape(shape))
        begin = end


def _blank_block(block: Block, card: Card, names: Sequence[str]) -> PartialBlock:
    """Return a block without a valid pixel; its neighbours get zeros."""

    def zeros(window: Window) -> PartialSums:
        shape = (card.channels, window.height, window.width)
        return PartialSums(window=window, sums=np.zeros(shape, np.int32))

    return PartialBlock(
        arrays=blank_arrays(block.window, card, names),
        border=tuple(map(zeros, border_of(block))),
        halo={key: zeros(window) for key, window in halo_of(block).items()},
        windows=0,
        forward_seconds=0.0,
    )
