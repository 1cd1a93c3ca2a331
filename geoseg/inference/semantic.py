"""Semantic segmentation of one block: windows → sums → labels. Knows nothing of Dask.

A block's windows reach `margin` pixels into its neighbours. What they add there is the
block's *rim* for that neighbour; where neighbours add to the block is its *frame*:

    +-----+-------------+-----+     Rows of windows are finished one by one: once the
    | rim |     rim     | rim |     next row of windows cannot reach a row of pixels
    +-----+=============+-----+     any more, it is labelled and its sums forgotten.
    |     |    frame    |     |
    | rim |  +-------+  | rim |     Only the sums of frame and rims are kept, in a
    |     |  |labels |  |     |     *part*. When all eight neighbours have theirs,
    +-----+=============+-----+     rims are added to frames and those are labelled.
    | rim |     rim     | rim |
    +-----+-------------+-----+
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.blend import (
    Activation,
    add_window,
    labels_of,
    probability_bytes,
    ramp,
)
from geoseg.core.classes import nodata_value
from geoseg.core.grid import Window
from geoseg.core.tiling import Tiling
from geoseg.errors import ModelError
from geoseg.inference.device_queue import on_device
from geoseg.inference.windows import Pixels, batches, predictor, read_windows

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from geoseg.models.card import Card
    from geoseg.models.contract import Model
    from geoseg.rasters.open import Source

Arrays = dict[str, "NDArray[Any]"]
"""Arrays of the masks for one block, by name."""


class NotFiniteError(ModelError):
    """The model answered NaN or infinity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """Sums of a rectangle of pixels that are not complete yet."""

    window: Window
    """Where, in pixels of the raster."""
    sums: NDArray[np.int32]
    """(class, y, x)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is known of a block before its neighbours' rims are there."""

    arrays: Arrays
    """Labels and the like; provisional on the frame, final elsewhere."""
    frame: tuple[Strip, ...]
    """Own sums where neighbours add; disjoint."""
    rims: Mapping[tuple[int, int], Strip]
    """What this block adds to each neighbour (row, column)."""
    windows: int
    """How many windows were inferred."""
    forward_seconds: float
    """Time in the model."""


def segment_block(
    source: Source,
    model: Model,
    tiling: Tiling,
    row: int,
    col: int,
    *,
    arrays: Sequence[str] = ("classes",),
    batch: int = 1,
) -> Part:
    """Infer a block's windows, each once, and add up their scores.

    Args:
        source: Its bands are the model's, in the model's order.
        model: The model.
        tiling: How the raster is cut.
        row: Row of the block.
        col: Column of the block.
        arrays: Which arrays of the masks are wanted.
        batch: Windows in a batch.

    Raises:
        NotFiniteError: A score is NaN or infinite.
        ModelError: What the model answers has the wrong shape or dtype.
    """
    card = model.card
    block = tiling.block_window(row, col)
    if card.output == "labels" and tiling.overlap == 0 and card.multiple == 1:
        cell_rows, cell_cols = tiling.block_cells(row, col)
        if not model.placed:
            return _pixelwise(source, model, block, len(cell_rows) * len(cell_cols))
    pixels = read_windows(source, card, tiling.block_reach(row, col))
    if card.output == "labels":
        return _cropped(model, tiling, row, col, pixels, batch)
    return blend_block(model, tiling, row, col, pixels, arrays, batch)


def finish_block(
    part: Part, rims: Sequence[Strip], card: Card, tiling: Tiling, row: int, col: int
) -> Arrays:
    """Add the neighbours' rims to the frame and label it.

    Args:
        part: The block's own.
        rims: What each neighbour adds to this block, in any order.
        card: The model's card.
        tiling: How the raster is cut.
        row: Row of the block.
        col: Column of the block.

    Returns:
        The block's final arrays.
    """
    block = tiling.block_window(row, col)
    arrays = {name: array.copy() for name, array in part.arrays.items()}
    valid = arrays["classes"] != nodata_value(card.classes)
    for strip in part.frame:
        sums = strip.sums.copy()
        for rim in rims:
            _add_overlap(sums, strip.window, rim)
        here = strip.window.relative_to(strip.window)
        _label(arrays, valid, sums, here, strip.window.relative_to(block), card)
    return arrays


def _add_overlap(sums: NDArray[np.int32], where: Window, rim: Strip) -> None:
    shared = where.intersection(rim.window)
    if shared is not None:
        here = (slice(None), *shared.relative_to(where).slices)
        there = (slice(None), *shared.relative_to(rim.window).slices)
        sums[here] += rim.sums[there]


def _label(
    arrays: Arrays,
    valid: NDArray[np.bool_],
    sums: NDArray[np.int32] | torch.Tensor,
    complete: Window,
    where: Window,
    card: Card,
) -> None:
    """Write labels and more into a block at `where`, of the sums that are complete."""
    inside = where.slices
    keep = valid[inside]
    labels, best = labels_of(sums, complete, _values(card))
    arrays["classes"][inside] = np.where(keep, labels, nodata_value(card.classes))
    if "confidence" in arrays:
        arrays["confidence"][inside] = np.where(keep, probability_bytes(best), 255)
    if "probabilities" in arrays:
        sums = _here(sums[(slice(None), *complete.slices)])
        bytes_ = np.where(keep, probability_bytes(sums), np.uint8(255))
        arrays["probabilities"][(slice(None), *inside)] = bytes_


def _values(card: Card) -> NDArray[Any]:
    dtype = np.uint8 if nodata_value(card.classes) == 255 else np.uint16
    return np.array([c.value for c in card.classes], dtype=dtype)


def _blank(block: Window, card: Card, names: Sequence[str]) -> Arrays:
    shape = (block.height, block.width)
    shapes = {"probabilities": (len(card.classes), *shape)}
    nodata, dtype = nodata_value(card.classes), _values(card).dtype
    return {
        name: np.full(
            shapes.get(name, shape),
            nodata if name == "classes" else 255,
            dtype if name == "classes" else np.uint8,
        )
        for name in names
    }


# --- models that answer labels -------------------------------------------------------


def _pixelwise(source: Source, model: Model, block: Window, windows: int) -> Part:
    """Label a block at once: each pixel by itself, so windows do not matter."""
    pixels = read_windows(source, model.card, block)
    arrays = _blank(block, model.card, ["classes"])
    seconds, empty = 0.0, not pixels.valid.any()
    if not empty:
        begin = perf_counter()
        labels = _checked_labels(model, pixels.values[None])[0]
        seconds = perf_counter() - begin
        arrays["classes"] = labels.astype(arrays["classes"].dtype, copy=False)
        if not pixels.valid.all():
            arrays["classes"][~pixels.valid] = nodata_value(model.card.classes)
    return Part(
        arrays=arrays,
        frame=(),
        rims={},
        windows=0 if empty else windows,
        forward_seconds=seconds,
    )


def _cropped(
    model: Model, tiling: Tiling, row: int, col: int, pixels: Pixels, batch: int
) -> Part:
    """Keep the inner cell of every window: labels cannot be averaged."""
    block = tiling.block_window(row, col)
    arrays = _blank(block, model.card, ["classes"])
    windows, begin = 0, perf_counter()
    for cells, stack in batches(tiling, row, col, pixels, batch):
        predict = predictor(model, tiling, cells, pixels)
        answers = on_device(_checked_labels, model, stack, predict).result()
        for cell, labels in zip(cells, answers, strict=True):
            window = tiling.model_window(*cell)
            inside = window.pad(-tiling.margin).intersection(block)
            if inside is not None:
                inner = labels[inside.relative_to(window).slices]
                arrays["classes"][inside.relative_to(block).slices] = inner
        windows += len(cells)
    valid = pixels.valid_in(block)
    arrays["classes"][~valid] = nodata_value(model.card.classes)
    return Part(
        arrays=arrays,
        frame=(),
        rims={},
        windows=windows,
        forward_seconds=perf_counter() - begin,
    )


def _checked_labels(
    model: Model,
    stack: NDArray[Any],
    predict: Callable[[NDArray[Any]], Any] | None = None,
) -> NDArray[Any]:
    answer = (predict or model.predict)(stack)
    labels = answer if isinstance(answer, np.ndarray) else answer.cpu().numpy()
    expected = (stack.shape[0], *stack.shape[2:])
    if labels.shape != expected or labels.dtype.kind not in "iub":
        raise ModelError(
            f"model {model.card.name!r} gave {labels.dtype} {labels.shape}, its card "
            f"promises integer labels {expected}"
        )
    return labels


# --- models that answer scores -------------------------------------------------------


def blend_block(
    model: Model,
    tiling: Tiling,
    row: int,
    col: int,
    pixels: Pixels,
    names: Sequence[str],
    batch: int,
) -> Part:
    """Infer a block's windows and add up their scores; see `segment_block`."""
    card = model.card
    block = tiling.block_window(row, col)
    valid = pixels.valid_in(block)
    arrays = _blank(block, card, names)
    frame, rims = _blank_strips(tiling, row, col, card.channels)
    strips = [*frame, *rims.values()]
    timer = _Timer()
    windows = 0
    sums: RowSums | None = None
    for cells, answers in _predicted(
        model, batches(tiling, row, col, pixels, batch), timer
    ):
        sums = sums or RowSums(tiling, row, col, card, answers)
        for cell, scores in zip(cells, answers, strict=True):
            for rows, complete in sums.add(cell, scores):
                _keep(arrays, valid, strips, block, rows, complete, card)
        windows += len(cells)
    if sums is not None:
        for rows, complete in sums.rest():
            _keep(arrays, valid, strips, block, rows, complete, card)
        if not sums.finite():
            raise NotFiniteError(
                f"model {card.name!r} answered NaN or infinity in block {row},{col} "
                f"(rows {block.y} … {block.bottom - 1}, columns {block.x} … "
                f"{block.right - 1}); try --precision fp32, or look at the pixels there"
            )
    return Part(
        arrays=arrays,
        frame=tuple(frame),
        rims=rims,
        windows=windows,
        forward_seconds=timer.seconds,
    )


@dataclass(slots=True)
class _Timer:
    seconds: float = 0.0


def _predicted(
    model: Model,
    stacks: Iterator[tuple[list[tuple[int, int]], NDArray[Any]]],
    timer: _Timer,
) -> Iterator[tuple[list[tuple[int, int]], Any]]:
    """Yield cells and scores; the device works one batch ahead of the blend."""

    def forward(stack: NDArray[Any]) -> object:
        begin = perf_counter()
        try:
            return _checked_scores(model, stack)
        finally:
            timer.seconds += perf_counter() - begin

    ahead: deque[tuple[list[tuple[int, int]], Any]] = deque()
    for cells, stack in stacks:
        ahead.append((cells, on_device(forward, stack)))
        if len(ahead) > 1:
            cells, answer = ahead.popleft()  # noqa: PLW2901
            yield cells, answer.result()
    for cells, answer in ahead:
        yield cells, answer.result()


def _checked_scores(
    model: Model, stack: NDArray[Any]
) -> torch.Tensor | NDArray[np.float32]:
    """Return scores: a tensor on an accelerator, or contiguous float32 here."""
    answer = model.predict(stack)
    expected = (stack.shape[0], model.card.channels, *stack.shape[2:])
    if tuple(answer.shape) != expected:
        raise ModelError(
            f"model {model.card.name!r} gave scores {tuple(answer.shape)}, its card "
            f"promises {expected} (windows, classes, rows, columns)"
        )
    if not isinstance(answer, np.ndarray):
        if answer.device.type != "cpu":
            return answer
        answer = answer.float().contiguous().numpy()
    return np.ascontiguousarray(answer, dtype=np.float32)


def _blank_strips(
    tiling: Tiling, row: int, col: int, classes: int
) -> tuple[list[Strip], dict[tuple[int, int], Strip]]:
    """Return zero strips for the frame and for each neighbour's rim."""
    if tiling.margin == 0:
        return [], {}
    block = tiling.block_window(row, col)
    reach = block.pad(tiling.margin)
    neighbours = list(tiling.neighbours(row, col))
    rims = {
        n: shared
        for n in neighbours
        if (shared := reach.intersection(tiling.block_window(*n))) is not None
    }
    top = tiling.margin if row > 0 else 0
    bottom = tiling.margin if row < tiling.block_rows - 1 else 0
    left = tiling.margin if col > 0 else 0
    right = tiling.margin if col < tiling.block_cols - 1 else 0
    inner_top = min(block.y + top, block.bottom)
    inner_bottom = max(inner_top, block.bottom - bottom)
    inner_left = min(block.x + left, block.right)
    inner_right = max(inner_left, block.right - right)
    rectangles = (
        (block.y, inner_top, block.x, block.right),
        (inner_bottom, block.bottom, block.x, block.right),
        (inner_top, inner_bottom, block.x, inner_left),
        (inner_top, inner_bottom, inner_right, block.right),
    )
    frame = [Window.spanning(*r) for r in rectangles if r[0] < r[1] and r[2] < r[3]]

    def blank(window: Window) -> Strip:
        shape = (classes, window.height, window.width)
        return Strip(window=window, sums=np.zeros(shape, np.int32))

    return [blank(w) for w in frame], {n: blank(w) for n, w in rims.items()}


def _keep(
    arrays: Arrays,
    valid: NDArray[np.bool_],
    strips: Sequence[Strip],
    block: Window,
    rows: Window,
    sums: NDArray[np.int32] | torch.Tensor,
    card: Card,
) -> None:
    """Label the rows that lie in the block, keep the sums of those in a strip."""
    inside = rows.intersection(block)
    if inside is not None:
        complete = inside.relative_to(rows)
        _label(arrays, valid, sums, complete, inside.relative_to(block), card)
    for strip in strips:
        shared = rows.intersection(strip.window)
        if shared is not None:
            piece = sums[(slice(None), *shared.relative_to(rows).slices)]
            here = (slice(None), *shared.relative_to(strip.window).slices)
            strip.sums[here] = _here(piece)


def _here(array: NDArray[np.int32] | torch.Tensor) -> NDArray[np.int32]:
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()


class RowSums:
    """The sums of one row of windows, moved down as rows of cells are finished.

    What it yields is rows of pixels and sums whose first row is theirs; a view, to be
    used before asking for more.
    """

    def __init__(
        self, tiling: Tiling, row: int, col: int, card: Card, like: object
    ) -> None:
        """Begin at the block's first row of windows, on the device of `like`."""
        self._tiling = tiling
        self._activation: Activation = (
            card.activation if card.output == "logits" else "none"
        )
        cell_rows, _ = tiling.block_cells(row, col)
        reach = tiling.block_window(row, col).pad(tiling.margin)
        self._cell_row, self._last = cell_rows[0], cell_rows[-1]
        self._x, self._width = reach.x, reach.width
        shape = (card.channels, tiling.window, reach.width)
        self._sums: Any = np.zeros(shape, np.int32)
        if not isinstance(like, np.ndarray):
            import torch

            device = like.device  # type: ignore[attr-defined]
            self._sums = torch.zeros(shape, dtype=torch.int32, device=device)
        self._finite: list[Any] = []

    def add(self, cell: tuple[int, int], scores: Any) -> Iterator[tuple[Window, Any]]:  # noqa: ANN401
        """Add a window's scores; first yield the rows that it can no longer reach."""
        while self._cell_row < cell[0]:
            yield from self._advance()
        t = self._tiling
        window = t.model_window(*cell)
        self._finite.append(
            add_window(
                self._sums,
                scores,
                at_y=0,
                at_x=window.x - self._x,
                weight_y=self._weights(cell[0], t.cell_rows, window.height),
                weight_x=self._weights(cell[1], t.cell_cols, window.width),
                activation=self._activation,
            )
        )

    def rest(self) -> Iterator[tuple[Window, Any]]:
        """Yield all rows that are left."""
        while self._cell_row <= self._last:
            yield from self._advance()
        height = self._tiling.overlap
        if height:
            yield self._rows(height), self._sums

    def finite(self) -> bool:
        """Whether all scores were."""
        return all(bool(f) for f in self._finite)

    def _weights(self, cell: int, cells: int, side: int) -> NDArray[np.int32]:
        return ramp(side, self._tiling.overlap, before=cell > 0, after=cell < cells - 1)

    def _rows(self, height: int) -> Window:
        y = self._cell_row * self._tiling.stride - self._tiling.margin
        return Window(y=y, x=self._x, height=height, width=self._width)

    def _advance(self) -> Iterator[tuple[Window, Any]]:
        stride, overlap = self._tiling.stride, self._tiling.overlap
        yield self._rows(stride), self._sums
        self._sums[:, :overlap] = self._sums[:, stride : stride + overlap]
        self._sums[:, overlap:] = 0
        self._cell_row += 1
