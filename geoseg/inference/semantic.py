"""Semantic segmentation of one block: windows → sums → labels. Knows nothing of Dask.

A block's windows reach `margin` pixels into its neighbours. What they add there are the
block's *halo sums* for that neighbour; where neighbours add to the block is its
*border*:

    +------+--------------+------+    Rows of windows are finished one by one: once the
    | halo |     halo     | halo |    next row of windows cannot reach a row of pixels
    +------+==============+------+    any more, it is labelled and its sums forgotten.
    |      |    border    |      |
    | halo |  +--------+  | halo |    Only the sums of border and halo are kept, in a
    |      |  | labels |  |      |    *partial block*. When all eight neighbours have
    +------+==============+------+    theirs, halo sums are added to borders and those
    | halo |     halo     | halo |    are labelled.
    +------+--------------+------+
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from geoseg.core.tiling import Block
from geoseg.errors import ModelError
from geoseg.inference.device_queue import Stopwatch, in_turn
from geoseg.inference.windows import Cells, Pixels, predictor, read_windows
from geoseg.models.check import check_values
from geoseg.rasters.validity import valid_everywhere

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
class PartialSums:
    """Sums of a rectangle of pixels that are not complete yet."""

    window: Window
    """Where, in pixels of the raster."""
    sums: NDArray[np.int32]
    """(class, y, x)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialBlock:
    """What is known of a block before its neighbours' halo sums are there."""

    arrays: Arrays
    """Labels and the like; provisional on the border, final elsewhere."""
    border: tuple[PartialSums, ...] = ()
    """Own sums where neighbours add; disjoint."""
    halo: Mapping[tuple[int, int], PartialSums] = field(default_factory=dict)
    """What this block adds to each neighbour, by its key."""
    windows: int
    """How many windows were inferred."""
    forward_seconds: float
    """Time in the model."""
    otherwise: Mapping[str, Any] = field(default_factory=dict)
    """The card and batch that it was inferred by, where those are not the run's."""


def segment_block(
    source: Source,
    model: Model,
    block: Block,
    *,
    arrays: Sequence[str] = ("classes",),
    batch: int = 1,
) -> PartialBlock:
    """Infer a block's windows, each once, and add up their scores.

    Args:
        source: Its bands are the model's, in the model's order.
        model: The model.
        block: The block.
        arrays: Which arrays of the masks are wanted.
        batch: Windows in a batch.

    Raises:
        NotFiniteError: A score is NaN or infinite.
        ModelError: What the model answers has the wrong shape or dtype.
    """
    card = model.card
    pixelwise = card.multiple == 1 and block.tiling.overlap == 0
    if card.output == "labels" and pixelwise and not model.placed:
        pixels = read_windows(source, card, block.window)
        return with_quality_arrays(_pixelwise(model, block, pixels), block, pixels)
    pixels = read_windows(source, card, block.reach)
    if card.output == "labels":
        return with_quality_arrays(_cropped(model, block, pixels, batch), block, pixels)
    found = blend_block(model, block, pixels, arrays, batch)
    return with_quality_arrays(found, block, pixels)


def with_quality_arrays(
    found: PartialBlock, block: Block, pixels: Pixels
) -> PartialBlock:
    """Return a block with the arrays that tell how often its pixels were seen."""
    return replace(found, arrays=found.arrays | pixels.quality_in(block.window))


def finish_block(
    partial: PartialBlock, halo: Sequence[PartialSums], card: Card, block: Block
) -> Arrays:
    """Add the neighbours' halo sums to the border and label it.

    Args:
        partial: The block's own.
        halo: What each neighbour adds to this block, in any order.
        card: The model's card.
        block: The block.

    Returns:
        The block's final arrays.
    """
    arrays = {name: array.copy() for name, array in partial.arrays.items()}
    valid = arrays["classes"] != nodata_value(card.classes)
    for own in partial.border:
        sums = own.sums.copy()
        for theirs in halo:
            add_overlap(sums, own.window, theirs)
        here = own.window.relative_to(own.window)
        _label(arrays, valid, sums, here, own.window.relative_to(block.window), card)
    return arrays


def add_overlap(sums: NDArray[np.int32], where: Window, theirs: PartialSums) -> None:
    """Add to sums of a window, in place, what others have of its pixels."""
    if shared := where.overlap(theirs.window):
        here, there = shared
        sums[:, *here] += theirs.sums[:, *there]


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
    labels, best = labels_of(sums, complete, values_of(card))
    arrays["classes"][inside] = np.where(keep, labels, nodata_value(card.classes))
    if "confidence" in arrays:
        arrays["confidence"][inside] = np.where(keep, probability_bytes(best), 255)
    if "probabilities" in arrays:
        sums = _here(sums[:, *complete.slices])
        bytes_ = np.where(keep, probability_bytes(sums), np.uint8(255))
        arrays["probabilities"][:, *inside] = bytes_


def values_of(card: Card) -> NDArray[Any]:
    """Return the class table's values, in channel order, in the dtype of labels."""
    dtype = np.uint8 if nodata_value(card.classes) == 255 else np.uint16
    return np.array([c.value for c in card.classes], dtype=dtype)


def blank(block: Window, card: Card, names: Sequence[str]) -> Arrays:
    """Return a block's arrays without a valid pixel."""
    shape = (block.height, block.width)
    shapes = {"probabilities": (len(card.classes), *shape)}
    nodata, dtype = nodata_value(card.classes), values_of(card).dtype
    return {
        name: np.full(
            shapes.get(name, shape),
            nodata if name == "classes" else 255,
            dtype if name == "classes" else np.uint8,
        )
        for name in names
    }


# --- models that answer labels -------------------------------------------------------


def _pixelwise(model: Model, block: Block, pixels: Pixels) -> PartialBlock:
    """Label a block at once: each pixel by itself, so windows do not matter.

    It does not stand in the device's queue: it is the processor's own work, and as many
    blocks as there are cores are at it.
    """
    arrays = blank(block.window, model.card, ["classes"])
    watch, windows = Stopwatch(), 0
    if pixels.valid.any():
        with watch.running():
            stack = pixels.values[None]
            labels = _checked_labels(model, model.predict(stack), stack.shape)
        windows = len(block.cells[0]) * len(block.cells[1])
        labels = _check_classes(model.card, labels[0], pixels.valid)
        arrays["classes"] = labels.astype(arrays["classes"].dtype, copy=False)
        if not valid_everywhere(pixels.valid):
            arrays["classes"][~pixels.valid] = nodata_value(model.card.classes)
    return PartialBlock(arrays=arrays, windows=windows, forward_seconds=watch.seconds)


def _cropped(model: Model, block: Block, pixels: Pixels, batch: int) -> PartialBlock:
    """Keep the inner cell of every window: labels cannot be averaged."""
    tiling, arrays = block.tiling, blank(block.window, model.card, ["classes"])
    ask, watch, windows = predictor(model, block, pixels), Stopwatch(), 0
    valid = pixels.valid_in(block.window)

    def labels_of_windows(cells: Cells, stack: NDArray[Any]) -> NDArray[Any]:
        return _checked_labels(model, ask(cells, stack), stack.shape)

    asking = in_turn(labels_of_windows, model, block, pixels, batch, watch)
    for cells, answers in asking:
        for cell, labels in zip(cells, answers, strict=True):
            window = tiling.model_window(*cell)
            inside = window.pad(-tiling.margin).intersection(block.window)
            if inside is not None:
                inner = labels[inside.relative_to(window).slices]
                at = inside.relative_to(block.window).slices
                arrays["classes"][at] = _check_classes(model.card, inner, valid[at])
        windows += len(cells)
    arrays["classes"][~valid] = nodata_value(model.card.classes)
    return PartialBlock(arrays=arrays, windows=windows, forward_seconds=watch.seconds)


def _checked_labels(
    model: Model,
    answer: Any,  # noqa: ANN401 - array or tensor
    shape: tuple[int, ...],
) -> NDArray[Any]:
    """Return labels as an array; raise where they are not what the card promises."""
    labels = answer if isinstance(answer, np.ndarray) else answer.cpu().numpy()
    expected = (shape[0], *shape[2:])
    if labels.shape != expected or labels.dtype.kind not in "iub":
        raise wrong_labels(model.card, labels, expected)
    return np.asarray(labels)


def _check_classes(
    card: Card, labels: NDArray[Any], valid: NDArray[np.bool_]
) -> NDArray[Any]:
    """Return labels; raise where one that is kept lies beyond the card's classes."""
    values = [c.value for c in card.classes]
    if labels.size and (labels.min() < min(values) or labels.max() > max(values)):
        check_values(card, labels[valid])
    return labels


def wrong_labels(card: Card, labels: Any, expected: tuple[int, ...]) -> ModelError:  # noqa: ANN401 - array or tensor
    """Return what to say where labels are not what the card promises."""
    return ModelError(
        f"model {card.name!r} gave {labels.dtype} {tuple(labels.shape)}, its card "
        f"promises integer labels {expected}"
    )


# --- models that answer scores -------------------------------------------------------


def blend_block(
    model: Model, block: Block, pixels: Pixels, names: Sequence[str], batch: int
) -> PartialBlock:
    """Infer a block's windows and add up their scores; see `segment_block`."""
    out = _Blended(block, model.card, pixels, names)
    ask, watch, windows = predictor(model, block, pixels), Stopwatch(), 0

    def scores_of_windows(cells: Cells, stack: NDArray[Any]) -> Any:  # noqa: ANN401
        return _checked_scores(model, ask(cells, stack), stack.shape)

    sums: RowSums | None = None
    asking = in_turn(scores_of_windows, model, block, pixels, batch, watch)
    for cells, answers in asking:
        sums = sums or RowSums(block, model.card, answers)
        for cell, scores in zip(cells, answers, strict=True):
            out.keep(sums.add(cell, scores))
        windows += len(cells)
    if sums is not None:
        out.keep(sums.rest())
        if not sums.finite():
            raise NotFiniteError(not_finite(model.card, block))
    return PartialBlock(
        arrays=out.arrays,
        border=tuple(out.border),
        halo=out.halo,
        windows=windows,
        forward_seconds=watch.seconds,
    )


def not_finite(card: Card, block: Block) -> str:
    """Return what is said of scores that are NaN or infinite."""
    window, (row, col) = block.window, block.key
    return (
        f"model {card.name!r} answered NaN or infinity in block {row},{col} (rows "
        f"{window.y} … {window.bottom - 1}, columns {window.x} … {window.right - 1}); "
        "try --precision fp32, or look at the pixels there"
    )


def _checked_scores(
    model: Model,
    answer: Any,  # noqa: ANN401 - array or tensor
    shape: tuple[int, ...],
) -> torch.Tensor | NDArray[np.float32]:
    """Return scores: a tensor on an accelerator, or contiguous float32 here."""
    expected = (shape[0], model.card.channels, *shape[2:])
    if tuple(answer.shape) != expected:
        raise ModelError(
            f"model {model.card.name!r} gave scores {tuple(answer.shape)}, its card "
            f"promises {expected} (windows, classes, rows, columns)"
        )
    if not isinstance(answer, np.ndarray):
        if answer.device.type != "cpu":
            return answer  # type: ignore[no-any-return]
        answer = answer.float().contiguous().numpy()
    return np.ascontiguousarray(answer, dtype=np.float32)


class _Blended:
    """The arrays of a block and the sums that are kept of it, as they fill."""

    def __init__(
        self, block: Block, card: Card, pixels: Pixels, names: Sequence[str]
    ) -> None:
        self._window, self._card = block.window, card
        self._valid = pixels.valid_in(block.window)
        self.arrays = blank(block.window, card, names)
        self.border = [zeros(window, card) for window in border_of(block)]
        self.halo = {key: zeros(w, card) for key, w in halo_of(block).items()}

    def keep(self, complete: Iterator[tuple[Window, Any]]) -> None:
        """Label rows that lie in the block, keep sums of those in border and halo."""
        for rows, sums in complete:
            inside = rows.intersection(self._window)
            if inside is not None:
                done = inside.relative_to(rows)
                where = inside.relative_to(self._window)
                _label(self.arrays, self._valid, sums, done, where, self._card)
            for kept in (*self.border, *self.halo.values()):
                if shared := rows.overlap(kept.window):
                    here, there = shared
                    kept.sums[:, *there] = _here(sums[:, *here])


def zeros(window: Window, card: Card) -> PartialSums:
    """Return sums of a window to which nothing was added yet."""
    shape = (card.channels, window.height, window.width)
    return PartialSums(window=window, sums=np.zeros(shape, np.int32))


def halo_of(block: Block) -> dict[tuple[int, int], Window]:
    """Return where a block's windows reach into each neighbour, by its key."""
    reach = block.window.pad(block.tiling.margin)
    shared = {n.key: reach.intersection(n.window) for n in block.neighbours}
    return {key: window for key, window in shared.items() if window is not None}


def border_of(block: Block) -> list[Window]:
    """Return the rectangles of a block that neighbours' windows reach, disjoint."""
    window, raster, margin = block.window, block.tiling.raster, block.tiling.margin
    top = min(window.y + margin * (window.y > 0), window.bottom)
    bottom = max(top, window.bottom - margin * (window.bottom < raster.bottom))
    left = min(window.x + margin * (window.x > 0), window.right)
    right = max(left, window.right - margin * (window.right < raster.right))
    rectangles = (
        (window.y, top, window.x, window.right),
        (bottom, window.bottom, window.x, window.right),
        (top, bottom, window.x, left),
        (top, bottom, right, window.right),
    )
    return [Window.spanning(*r) for r in rectangles if r[0] < r[1] and r[2] < r[3]]


def _here(array: NDArray[np.int32] | torch.Tensor) -> NDArray[np.int32]:
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()


class RowSums:
    """The sums of one row of windows, moved down as rows of cells are finished.

    What it yields is rows of pixels and sums whose first row is theirs; a view, to be
    used before asking for more.
    """

    def __init__(self, block: Block, card: Card, like: object) -> None:
        """Begin at the block's first row of windows, on the device of `like`."""
        self._tiling = tiling = block.tiling
        self._activation: Activation = (
            card.activation if card.output == "logits" else "none"
        )
        self._cell_row, self._last = block.cells[0][0], block.cells[0][-1]
        reach = block.window.pad(tiling.margin)
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
