"""What a device makes of windows: a step for every kind of answer.

A stream cuts windows, fills batches, keeps time; what a batch is passed through, what
its answer is added to, and what a block's answer is made of in the end, is told by one
of these: `BlendStep` of scores, `LabelStep` of labels, `ObjectStep` of objects
(`objects/step.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from geoseg.core.blend import probability_bytes, ramp
from geoseg.core.classes import nodata_value
from geoseg.core.grid import Window
from geoseg.inference.device_steps import blank_weights
from geoseg.inference.semantic import (
    NotFiniteError,
    PartialBlock,
    PartialSums,
    border_of,
    halo_of,
    not_finite,
    values_of,
    wrong_labels,
    zeros,
)
from geoseg.inference.semantic import blank as blank_arrays
from geoseg.inference.windows import Cells, cells_with_data

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.inference.device_memory import Device
    from geoseg.inference.work import Run, Work
    from geoseg.models.card import Card
    from geoseg.models.contract import Model


class BlockStep(Protocol):
    """What a stream asks of a step; all but `begin` and `answer` by its own thread."""

    is_fixed: bool
    """Whether a batch is a function of tensors that can be recorded, or compiled."""
    divides: bool
    """Whether answers of parts of a block can be joined to the block's."""

    def cells(self, work: Work) -> Cells:
        """Return the cells of a block whose windows are to be passed, row by row."""
        ...

    def begin(self, work: Work, device: Device) -> None:
        """Make room on the device for what windows are added to; in a task's thread."""
        ...

    def inputs(self, runs: Sequence[Run], size: int) -> tuple[Any, ...]:
        """Return what goes in beside the pixels of a batch of `size` windows."""
        ...

    def blank_inputs(
        self, size: int, shape: tuple[int, int], device: torch.device
    ) -> tuple[Any, ...]:
        """Return the same for a blank batch."""
        ...

    def __call__(self, pixels: torch.Tensor, *inputs: Any) -> tuple[Any, ...]:  # noqa: ANN401
        """Pass a batch (n, band, y, x) float32; each item answered is by window."""
        ...

    def add(self, run: Run, *answer: Any) -> None:  # noqa: ANN401
        """Add what was answered of the windows of a run to their block."""
        ...

    def complete(self, work: Work) -> list[torch.Tensor]:
        """Return what goes back of a block whose windows have all been added."""
        ...

    def answer(self, work: Work, arrays: list[NDArray[Any]], seconds: float) -> Any:  # noqa: ANN401
        """Return a block's answer; in a task's thread.

        Args:
            work: The block.
            arrays: What `complete` returned; nothing where no window was passed.
            seconds: Time of the device.
        """
        ...


class BlendStep:
    """Scores, weighted and added up; a `PartialBlock` of them."""

    divides = True

    def __init__(
        self,
        card: Card,
        blended: Any = None,  # noqa: ANN401 - a module
        *,
        is_fixed: bool = True,
    ) -> None:
        """Remember what is asked.

        Args:
            card: Of a model that answers scores.
            blended: A `Blended` of it; None where another step passes windows.
            is_fixed: Whether it can be recorded.
        """
        self.card, self._blended, self.is_fixed = card, blended, is_fixed
        self._ramps: dict[int, tuple[torch.Tensor, ...]] = {}  # by side of a window
        self._values: torch.Tensor | None = None
        self._lock = Lock()

    def cells(self, work: Work) -> Cells:
        """Return those that hold a valid pixel."""
        return list(cells_with_data(work.block, work.pixels))

    def begin(self, work: Work, device: Device) -> None:
        """Make room for the sums (class, y, x) int32 of the block and its halo."""
        with self._lock:
            if self._values is None:
                tiling, values = work.block.tiling, values_of(self.card)
                for side in {side for shape in tiling.shapes for side in shape}:
                    self._ramps[side] = ramps_of(side, tiling.overlap, device)
                self._values = device.sent(values.view(_signed(self.card)))
        work.valid = valid_inside(work, device)
        area = work.area
        work.kept = device.zeros((self.card.channels, area.height, area.width))

    def inputs(self, runs: Sequence[Run], size: int) -> tuple[Any, ...]:
        """Return the weights of windows along y and x, of ramps that lie there."""
        cells = [cell for run in runs for cell in run.cells]
        cells += cells[-1:] * (size - len(cells))
        tiling = runs[0].work.block.tiling
        window = tiling.model_window(*cells[0])
        sides = (window.height, window.width)
        counts = (tiling.cell_rows, tiling.cell_cols)
        along = zip(zip(*cells, strict=True), sides, counts, strict=True)
        return tuple(
            torch.stack([self._ramps[side][_ends(n, count)] for n in numbers])
            for numbers, side, count in along
        )

    def blank_inputs(
        self, size: int, shape: tuple[int, int], device: torch.device
    ) -> tuple[Any, ...]:
        """Return weights of nothing."""
        return blank_weights(size, shape, device)

    def __call__(self, pixels: torch.Tensor, *inputs: Any) -> tuple[Any, ...]:  # noqa: ANN401
        """Return weighted integer scores, and whether they are finite."""
        return self._blended(pixels, *inputs)  # type: ignore[no-any-return]

    def add(self, run: Run, *answer: Any) -> None:  # noqa: ANN401
        """Add weighted scores to the sums."""
        shares, finite = answer
        assert run.work.kept is not None
        run.work.finite.append(finite.clone())
        _add_run(run, shares, run.work.kept)

    def complete(self, work: Work) -> list[torch.Tensor]:
        """Label the block; return its arrays, sums of border and halo, and `finite`."""
        sums, block = work.kept, work.block
        assert sums is not None
        assert self._values is not None
        inside = sums[:, *block.window.relative_to(work.area).slices]
        nodata = _nodata(self.card)
        outputs = _labelled(inside, work.valid, self._values, nodata, work.names)
        pieces = [
            sums[:, *window.relative_to(work.area).slices].reshape(-1)
            for window in (*border_of(block), *halo_of(block).values())
        ]
        flat = torch.cat(pieces) if pieces else sums.new_zeros(0)
        return [*outputs, flat, torch.cat(work.finite).all()]

    def answer(
        self, work: Work, arrays: list[NDArray[Any]], seconds: float
    ) -> PartialBlock:
        """Return what is known of the block before its neighbours' halo sums are there.

        Raises:
            NotFiniteError: A score is NaN or infinite.
        """
        if not arrays:
            return _blank_block(work, self.card)
        block, card = work.block, self.card
        *outputs, flat, finite = arrays
        if not finite:
            raise NotFiniteError(not_finite(card, block))
        dtype = values_of(card).dtype
        windows = [*border_of(block), *halo_of(block).values()]
        sums = list(_cut_up(flat, windows, card.channels))
        border = sums[: len(border_of(block))]
        return PartialBlock(
            arrays={
                name: array.view(dtype if name == "classes" else np.uint8)
                for name, array in zip(work.names, outputs, strict=True)
            },
            border=tuple(border),
            halo=dict(zip(halo_of(block), sums[len(border) :], strict=True)),
            windows=work.windows,
            forward_seconds=seconds,
        )


def _ends(cell: int, cells: int) -> int:
    """Return on which sides a cell has neighbours along an axis: 2 before, 1 after."""
    return 2 * (cell > 0) + (cell < cells - 1)


def ramps_of(side: int, overlap: int, device: Device) -> tuple[torch.Tensor, ...]:
    """Return the weights (side,) of a window with each kind of ends, on the device."""
    ends = ((bool(e & 2), bool(e & 1)) for e in range(4))
    rows = (ramp(side, overlap, before=b, after=a) for b, a in ends)
    return tuple(map(device.sent, rows))


class LabelStep:
    """Labels, of which every window's inner cell is kept; a `PartialBlock` of them."""

    divides = True

    def __init__(self, model: Model) -> None:
        self._model, self.card, self.is_fixed = model, model.card, model.records

    def cells(self, work: Work) -> Cells:
        """Return those that hold a valid pixel."""
        return list(cells_with_data(work.block, work.pixels))

    def begin(self, work: Work, device: Device) -> None:
        """Make room for labels (cell, y, cell, x) of the block's cells."""
        work.valid = valid_inside(work, device)
        stride, (rows, cols) = work.block.tiling.stride, work.block.cells
        nodata, dtype = _nodata(self.card), _signed(self.card)
        labels = np.full((len(rows), stride, len(cols), stride), nodata, dtype)
        work.kept = device.sent(labels)

    def inputs(self, runs: Sequence[Run], size: int) -> tuple[Any, ...]:  # noqa: ARG002
        """Return nothing."""
        return ()

    def blank_inputs(self, *_: object) -> tuple[Any, ...]:
        """Return nothing."""
        return ()

    def __call__(self, pixels: torch.Tensor, *_: Any) -> tuple[Any, ...]:  # noqa: ANN401
        """Return labels (n, y, x)."""
        labels = self._model.scores(pixels)
        expected = (len(pixels), *pixels.shape[2:])
        if tuple(labels.shape) != expected or labels.dtype.is_floating_point:
            raise wrong_labels(self.card, labels, expected)
        return (labels,)

    def add(self, run: Run, *answer: Any) -> None:  # noqa: ANN401
        """Keep the inner cells."""
        (labels,), work = answer, run.work
        margin, (rows, cols) = work.block.tiling.margin, work.block.cells
        labels = labels.view(run.rows, run.after - run.first, *labels.shape[1:])
        inner = labels[:, :, margin : labels.shape[2] - margin, margin:]
        inner = inner[..., : labels.shape[3] - 2 * margin].permute(0, 2, 1, 3)
        assert work.kept is not None
        kept = work.kept[run.row - rows[0] :, :, run.first - cols[0] :]
        kept[tuple(slice(side) for side in inner.shape)] = inner

    def complete(self, work: Work) -> list[torch.Tensor]:
        """Return the labels of the block's pixels."""
        window = work.block.window
        assert work.kept is not None
        rows, stride, cols, _ = work.kept.shape
        labels = work.kept.reshape(rows * stride, cols * stride)
        labels = labels[: window.height, : window.width]
        if work.valid is not None:
            labels = torch.where(work.valid, labels, _nodata(self.card))
        return [labels.contiguous()]

    def answer(
        self, work: Work, arrays: list[NDArray[Any]], seconds: float
    ) -> PartialBlock:
        """Return the block, which needs no neighbour."""
        if not arrays:
            found = blank_arrays(work.block.window, self.card, ["classes"])
        else:
            found = {"classes": arrays[0].view(values_of(self.card).dtype)}
        return PartialBlock(arrays=found, windows=work.windows, forward_seconds=seconds)


def valid_inside(work: Work, device: Device) -> torch.Tensor | None:
    """Return on the device which pixels of a block are valid; None where all are."""
    inside = work.pixels.valid_in(work.block.window)
    return None if inside.all() else device.sent(inside)


def _signed(card: Card) -> np.dtype[Any]:
    """Return the dtype of labels as torch knows it: its bytes are the same."""
    dtype = values_of(card).dtype
    return np.dtype(np.int16) if dtype == np.uint16 else dtype


def _nodata(card: Card) -> int:
    """Return nodata in that dtype."""
    nodata = np.array(nodata_value(card.classes), values_of(card).dtype)
    return int(nodata.view(_signed(card)))


def _add_run(run: Run, shares: torch.Tensor, sums: torch.Tensor) -> None:
    """Add windows to the sums, at once those that do not overlap."""
    work, tiling = run.work, run.work.block.tiling
    window = tiling.model_window(run.row, run.first).relative_to(work.area)
    classes, height, width = sums.shape
    count, stride = (run.rows, run.after - run.first), tiling.stride
    shares = shares.view(*count, *shares.shape[1:])
    for rows, high in _apart(window.y, window.height, count[0], stride, height):
        for cols, wide in _apart(window.x, window.width, count[1], stride, width):
            part = shares[rows, cols, :, :high, :wide]
            y, x = window.y + rows.start * stride, window.x + cols.start * stride
            shape = (*part.shape[:2], classes, high, wide)
            strides = (2 * stride * width, 2 * stride, height * width, width, 1)
            offset = sums.storage_offset() + y * width + x
            sums.as_strided(shape, strides, offset).add_(part)


def _apart(
    first: int, side: int, count: int, stride: int, length: int
) -> Iterator[tuple[slice, int]]:
    """Yield windows along one axis that do not overlap: every second one.

    What windows at the raster's far edges see beyond the block's halo is left out.

    Args:
        first: Where the first one begins.
        side: Of a window.
        count: How many there are.
        stride: From one to the next.
        length: Where all end at last.

    Yields:
        Which ones, and how much of them is inside.
    """
    whole = min(count, max(0, (length - side - first) // stride + 1))
    for odd in range(min(2, whole)):
        yield slice(odd, whole, 2), side
    for last in range(whole, count):
        yield slice(last, last + 1), length - first - last * stride


def _labelled(
    sums: torch.Tensor,
    valid: torch.Tensor | None,
    values: torch.Tensor,
    nodata: int,
    names: Sequence[str],
) -> list[torch.Tensor]:
    """Return a block's arrays, on the device, which nothing here waits for.

    The first of equal classes wins, as `torch.max` promises.

    Args:
        sums: (class, y, x) of its pixels.
        valid: (y, x); None where all are.
        values: Of the classes, on the device.
        nodata: What labels are where pixels are not valid.
        names: Of the arrays.
    """
    best, index = sums.max(0)
    arrays = {"classes": (values[index], nodata)}
    if "confidence" in names:
        arrays["confidence"] = probability_bytes(best), 255
    if "probabilities" in names:
        arrays["probabilities"] = probability_bytes(sums), 255
    if valid is None:
        return [arrays[name][0] for name in names]
    return [torch.where(valid, *arrays[name]) for name in names]


def _cut_up(
    flat: NDArray[Any], windows: Sequence[Window], channels: int
) -> Iterator[PartialSums]:
    begin = 0
    for window in windows:
        end = begin + channels * window.area
        shape = (channels, window.height, window.width)
        yield PartialSums(window=window, sums=flat[begin:end].reshape(shape))
        begin = end


def _blank_block(work: Work, card: Card) -> PartialBlock:
    """Return a block without a valid pixel; its neighbours get zeros."""
    block = work.block
    return PartialBlock(
        arrays=blank_arrays(block.window, card, work.names),
        border=tuple(zeros(window, card) for window in border_of(block)),
        halo={key: zeros(w, card) for key, w in halo_of(block).items()},
        windows=0,
        forward_seconds=0.0,
    )
