"""What would run: cells, windows, blocks and memory, as pure arithmetic.

    |<--------- window -------->|          stride = window - overlap
    |margin|<-- stride -->|margin|         margin = overlap / 2
           |     cell     |     cell     | cells tile the raster from its corner,
           |<---- block: whole cells ----| blocks are whole cells and whole chunks

Every cell has exactly one window, so a raster has `ceil(H / stride)` times
`ceil(W / stride)` windows whatever the blocks. The window of a raster's last row or
column reaches past the raster; where the model can take it (`multiple`), it is cut to
what its cell needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from geoseg.core.grid import Window
from geoseg.errors import PlanError

CHUNK = 1024
"""Zarr chunks are whole cells, as near to this side as that allows."""
LARGEST_BLOCK = 2048
"""Larger blocks are no faster, and memory should not depend on the raster's size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How a raster is cut. Only `block` is free: it never changes the answer."""

    height: int
    """Rows of the raster."""
    width: int
    """Columns of the raster."""
    window: int
    """Side of what the model sees, in pixels."""
    overlap: int
    """What neighbouring windows share, in pixels."""
    multiple: int | None = None
    """Windows at the far edges are cut to a multiple of this; None: never cut."""
    chunk: int = 0
    """Side of a Zarr chunk in pixels, rounded to whole cells: it does not depend on the
    block. 0 means as near to `CHUNK` as that allows."""
    block: int = 0
    """Side of a block in pixels: whole chunks. 0 means one chunk."""

    def __post_init__(self) -> None:
        if self.window < 1 or self.height < 1 or self.width < 1:
            raise PlanError(
                f"window {self.window} px and raster {self.height} x {self.width} px "
                "must be at least 1"
            )
        if self.overlap < 0 or self.overlap % 2:
            raise PlanError(
                f"overlap {self.overlap} px must be even and at least 0: half of it is "
                "the margin on either side of a cell"
            )
        if 2 * self.overlap > self.window:
            raise PlanError(
                f"overlap {self.overlap} px is more than half the window "
                f"({self.window} px): use at most {self.window // 4 * 2}"
            )
        cells = max(1, round((self.chunk or CHUNK) / self.stride))
        object.__setattr__(self, "chunk", self.stride * cells)
        if self.block == 0:
            object.__setattr__(self, "block", self.chunk)
        if self.block < 1 or self.block % self.chunk:
            nearest = max(1, round(self.block / self.chunk)) * self.chunk
            raise PlanError(
                f"block {self.block} px must be a multiple of the chunk, {self.chunk} "
                f"px, or two blocks would write one chunk: use {nearest}"
            )

    @property
    def margin(self) -> int:
        """Pixels that a window sees beyond its cell, on every side."""
        return self.overlap // 2

    @property
    def stride(self) -> int:
        """Side of a cell."""
        return self.window - self.overlap

    @property
    def cell_rows(self) -> int:
        """Rows of cells, and so of windows."""
        return ceil(self.height / self.stride)

    @property
    def cell_cols(self) -> int:
        """Columns of cells, and so of windows."""
        return ceil(self.width / self.stride)

    @property
    def windows(self) -> int:
        """How many windows the raster has."""
        return self.cell_rows * self.cell_cols

    @property
    def block_rows(self) -> int:
        """Rows of blocks."""
        return ceil(self.height / self.block)

    @property
    def block_cols(self) -> int:
        """Columns of blocks."""
        return ceil(self.width / self.block)

    @property
    def blocks(self) -> int:
        """How many blocks the raster has."""
        return self.block_rows * self.block_cols

    @property
    def raster(self) -> Window:
        """The whole raster."""
        return Window(y=0, x=0, height=self.height, width=self.width)

    def block_at(self, row: int, col: int) -> Block:
        """Return a block by its row and column of blocks."""
        return Block(tiling=self, row=row, col=col)

    def each_block(self) -> Iterator[Block]:
        """Yield all blocks, row by row."""
        for row in range(self.block_rows):
            for col in range(self.block_cols):
                yield self.block_at(row, col)

    def cell_window(self, cell_row: int, cell_col: int) -> Window:
        """Return the pixels of a cell; it may reach outside the raster."""
        side = self.stride
        return Window(y=cell_row * side, x=cell_col * side, height=side, width=side)

    def model_window(self, cell_row: int, cell_col: int) -> Window:
        """Return what the model sees for a cell; it may reach outside the raster."""
        return Window(
            y=cell_row * self.stride - self.margin,
            x=cell_col * self.stride - self.margin,
            height=self._window_side(cell_row, self.cell_rows, self.height),
            width=self._window_side(cell_col, self.cell_cols, self.width),
        )

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Rows and columns of the windows that there are, the full one first."""
        rows, cols = (
            sorted({self._window_side(cell, cells, length) for cell in {0, cells - 1}})
            for cells, length in (
                (self.cell_rows, self.height),
                (self.cell_cols, self.width),
            )
        )
        return [(row, col) for row in reversed(rows) for col in reversed(cols)]

    def _window_side(self, cell: int, cells: int, length: int) -> int:
        if self.multiple is None or cell < cells - 1:
            return self.window
        needed = length - cell * self.stride + self.overlap
        return min(self.window, ceil(needed / self.multiple) * self.multiple)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What one task owns: a rectangle of whole cells. A small value that travels."""

    tiling: Tiling
    """How the raster is cut."""
    row: int
    """Row of blocks."""
    col: int
    """Column of blocks."""

    @property
    def key(self) -> tuple[int, int]:
        """Row and column, by which results are kept."""
        return self.row, self.col

    @property
    def name(self) -> str:
        """Row and column as a store names them, such as `3.14`."""
        return f"{self.row}.{self.col}"

    @property
    def window(self) -> Window:
        """The pixels that it owns."""
        tiling, side = self.tiling, self.tiling.block
        return Window.spanning(
            self.row * side,
            min((self.row + 1) * side, tiling.height),
            self.col * side,
            min((self.col + 1) * side, tiling.width),
        )

    @property
    def cells(self) -> tuple[range, range]:
        """Its rows and its columns of cells."""
        tiling = self.tiling
        per = tiling.block // tiling.stride
        return (
            range(self.row * per, min((self.row + 1) * per, tiling.cell_rows)),
            range(self.col * per, min((self.col + 1) * per, tiling.cell_cols)),
        )

    @property
    def reach(self) -> Window:
        """The smallest window around all model windows of its cells."""
        rows, cols = self.cells
        first = self.tiling.model_window(rows[0], cols[0])
        last = self.tiling.model_window(rows[-1], cols[-1])
        return Window.spanning(first.y, last.bottom, first.x, last.right)

    @property
    def neighbours(self) -> tuple[Block, ...]:
        """The up to eight blocks whose windows reach into this one, row by row."""
        tiling = self.tiling
        rows = range(max(0, self.row - 1), min(tiling.block_rows, self.row + 2))
        cols = range(max(0, self.col - 1), min(tiling.block_cols, self.col + 2))
        around = (tiling.block_at(r, c) for r in rows for c in cols)
        return tuple(block for block in around if block.key != self.key)


def auto_block(
    tiling: Tiling,
    *,
    bytes_per_pixel: float,
    budget: float,
    least: int = 3,
    largest: int = LARGEST_BLOCK,
) -> int:
    """Choose the side of a block: as large as memory allows, enough to share out.

    Args:
        tiling: The tiling, with any block.
        bytes_per_pixel: What one task holds per pixel of its block.
        budget: Bytes that one task may hold.
        least: How many blocks there are at least, where chunks allow it.
        largest: Side of the largest block, in pixels.

    Returns:
        A multiple of the chunk, in pixels: at most what fits in the budget, and small
        enough that there are so many blocks that reading, inference and writing overlap
        and no worker waits for the last one.
    """
    chunk = tiling.chunk
    fits = int((budget / bytes_per_pixel) ** 0.5) // chunk
    shared = int((tiling.height * tiling.width / least) ** 0.5) // chunk
    return max(1, min(fits, shared, largest // chunk)) * chunk
