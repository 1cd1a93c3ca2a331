"""From a block of a source to the model's windows: reading, reflecting, filling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.grid import Window
from geoseg.core.series_options import QUALITY
from geoseg.core.tiling import Block, Tiling
from geoseg.maps.arrays import stored
from geoseg.models.fill import may_lack, put_fill
from geoseg.rasters.validity import valid_everywhere

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.core.grid import Grid
    from geoseg.models.card import Card
    from geoseg.rasters.open import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """What the windows of one block see."""

    reach: Window
    """Where it is; it may reach outside the raster, where pixels are reflected."""
    values: NDArray[Any]
    """(band, y, x), the fill under nodata."""
    valid: NDArray[np.bool_]
    """(y, x)."""
    quality: NDArray[Any] | None = None
    """(4, y, x) of `QUALITY`, NaN where there is nothing to tell; None: not asked."""

    def quality_in(self, window: Window) -> dict[str, NDArray[Any]]:
        """Return arrays of the masks that tell how often pixels were seen, by name."""
        if self.quality is None:
            return {}
        inside = self.quality[:, *window.relative_to(self.reach).slices]
        return {
            name: stored(name, values)
            for name, values in zip(QUALITY, inside, strict=True)
        }

    def cut(self, window: Window) -> NDArray[Any]:
        """Return the pixels of a window inside the reach, (band, y, x)."""
        return self.values[:, *window.relative_to(self.reach).slices]

    def valid_in(self, window: Window) -> NDArray[np.bool_]:
        """Return which pixels of a window inside the reach are valid, (y, x)."""
        return self.valid[window.relative_to(self.reach).slices]


def reflect(first: int, after: int, length: int) -> NDArray[np.intp]:
    """Return indices first … after-1 folded into 0 … length-1 at the edges.

    The edge pixel is not repeated (NumPy's `reflect`); any distance is folded.

    >>> reflect(-2, 5, 3).tolist()
    [2, 1, 0, 1, 2, 1, 0]
    """
    period = max(1, 2 * (length - 1))
    folded = np.abs(np.arange(first, after)) % period
    return np.minimum(folded, period - folded) if length > 1 else folded * 0


def tiling_of(
    grid: Grid, card: Card, *, overlap: int | None = None, chunk: int = 0
) -> Tiling:
    """Return how a raster is cut into a model's windows; blocks are of one chunk.

    Args:
        grid: The raster's.
        card: The model's.
        overlap: Pixels that windows share; None: as the card says.
        chunk: About the side of the store's chunks in pixels; 0: the usual one.
    """
    return Tiling(
        height=grid.height,
        width=grid.width,
        window=card.window,
        overlap=card.overlap if overlap is None else overlap,
        multiple=card.multiple,
        chunk=chunk,
    )


def read_windows(source: Source, card: Card, reach: Window) -> Pixels:
    """Read what the windows of a block see.

    Pixels outside the raster are reflected at its edges. Under nodata the card's fill
    is put, so that what the file holds there never matters.

    Args:
        source: Its bands are the card's, in the card's order; then, where they are
            wanted, those of `QUALITY`.
        card: Tells the fill.
        reach: Around all the windows; it may reach outside the raster.
    """
    grid = source.grid
    rows = reflect(reach.y, reach.bottom, grid.height)
    cols = reflect(reach.x, reach.right, grid.width)
    window = Window.spanning(
        int(rows.min()), int(rows.max()) + 1, int(cols.min()), int(cols.max()) + 1
    )
    values, valid = source.read(window)
    if reach != window:
        inside = reach.intersection(grid.window)
        assert inside is not None
        folded = rows - window.y, cols - window.x, inside.relative_to(reach)
        values, valid = _reflected(values, *folded), _reflected(valid, *folded)
    count = len(card.bands)
    return Pixels(
        reach=reach,
        values=_filled(values[:count], valid, card),
        valid=valid,
        quality=values[count:] if len(values) > count else None,
    )


def _reflected(
    pixels: NDArray[Any], rows: NDArray[np.intp], cols: NDArray[np.intp], inside: Window
) -> NDArray[Any]:
    """Return `pixels[..., rows[:, None], cols]`.

    Index arrays cost several times a copy, so only what is outside goes by them.

    Args:
        pixels: (…, y, x).
        rows: Row of each row of the result.
        cols: Column likewise.
        inside: Where, in the result, rows and columns follow each other.
    """
    out = np.empty((*pixels.shape[:-2], len(rows), len(cols)), pixels.dtype)
    y, x = inside.slices
    first, left = rows[inside.y], cols[inside.x]
    lines = pixels[..., first : first + inside.height, :]
    out[..., y, x] = lines[..., left : left + inside.width]
    for side in (slice(0, inside.x), slice(inside.right, None)):
        out[..., y, side] = lines[..., cols[side]]
    for side in (slice(0, inside.y), slice(inside.bottom, None)):
        out[..., side, :] = pixels[..., rows[side], :][..., cols]
    return out


def _filled(values: NDArray[Any], valid: NDArray[np.bool_], card: Card) -> NDArray[Any]:
    everywhere = valid_everywhere(valid) and not may_lack(values, card)
    if everywhere or not valid.any():  # of which no window is looked at
        return values
    if not values.flags.writeable:
        values = values.copy()
    put_fill(values, valid, card)
    return values


Cells = list[tuple[int, int]]
"""Rows and columns of some cells, whose windows are asked at once."""


def batches(
    block: Block, pixels: Pixels, size: int
) -> Iterator[tuple[Cells, NDArray[Any]]]:
    """Yield the windows of a block that hold a valid pixel, as batches of one shape.

    Args:
        block: The block.
        pixels: What its windows see.
        size: Windows in a batch at most.

    Yields:
        The cells, row by row, and what their windows see (n, band, y, x).
    """
    cells: Cells = []
    shape: tuple[int, int] | None = None
    for cell in cells_with_data(block, pixels):
        window = block.tiling.model_window(*cell)
        if cells and (shape != (window.height, window.width) or len(cells) == size):
            yield cells, _stack(block, cells, pixels)
            cells = []
        shape = window.height, window.width
        cells.append(cell)
    if cells:
        yield cells, _stack(block, cells, pixels)


def cells_with_data(block: Block, pixels: Pixels) -> Iterator[tuple[int, int]]:
    """Yield the cells of a block whose windows hold a valid pixel, row by row."""
    tiling = block.tiling
    everywhere = valid_everywhere(pixels.valid)
    for cell in product(*block.cells):
        inside = tiling.model_window(*cell).intersection(tiling.raster)
        if everywhere or (inside and pixels.valid_in(inside).any()):
            yield cell


def _stack(block: Block, cells: Cells, pixels: Pixels) -> NDArray[Any]:
    return np.stack([pixels.cut(block.tiling.model_window(*cell)) for cell in cells])


def predictor(
    model: Any,  # noqa: ANN401 - a `Model` or an `InstanceModel`
    block: Block,
    pixels: Pixels,
) -> Callable[[Cells, NDArray[Any]], Any]:
    """Return a function that asks a model about the windows of some cells of a block.

    A model that depends on where its windows lie (`placed`) gets that too.
    """
    if not model.placed:
        return lambda _, stack: model.predict(stack)

    def predict_at(cells: Cells, stack: NDArray[Any]) -> Any:  # noqa: ANN401
        windows = [block.tiling.model_window(*cell) for cell in cells]
        valid = np.stack([pixels.valid_in(window) for window in windows])
        return model.predict_at(stack, windows, valid)

    return predict_at
