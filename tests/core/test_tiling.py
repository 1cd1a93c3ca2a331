"""Laws of the plan: cells cover exactly, windows are counted, blocks are whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoseg.core.tiling import Tiling, auto_block
from geoseg.errors import PlanError


@st.composite
def tilings(draw):
    window = draw(st.integers(8, 300))
    overlap = 2 * draw(st.integers(0, window // 4))
    tiling = Tiling(
        height=draw(st.integers(1, 3000)),
        width=draw(st.integers(1, 3000)),
        window=window,
        overlap=overlap,
        multiple=draw(st.sampled_from([None, 1, 8, 32])),
    )
    blocks = draw(st.integers(1, 3))
    return Tiling(
        height=tiling.height,
        width=tiling.width,
        window=window,
        overlap=overlap,
        multiple=tiling.multiple,
        block=blocks * tiling.chunk,
    )


@given(tilings())
def test_blocks_and_cells_cover_the_raster_exactly_once(tiling):
    rows = np.zeros(tiling.height, int)
    cell_rows = []
    for row in range(tiling.block_rows):
        window = tiling.block_window(row, 0)
        rows[window.y : window.bottom] += 1
        cell_rows += tiling.block_cells(row, 0)[0]
        assert window.y % tiling.chunk == 0
    assert (rows == 1).all()
    assert cell_rows == list(range(tiling.cell_rows))
    assert tiling.windows == -(-tiling.height // tiling.stride) * -(
        -tiling.width // tiling.stride
    )


@given(tilings())
def test_a_window_sees_its_cell_and_a_margin(tiling):
    for i in {0, tiling.cell_rows // 2, tiling.cell_rows - 1}:
        window = tiling.model_window(i, 0)
        cell_bottom = min((i + 1) * tiling.stride, tiling.height)
        assert window.y == i * tiling.stride - tiling.margin
        assert window.bottom >= cell_bottom + tiling.margin
        assert window.height <= tiling.window
        if tiling.multiple and window.height < tiling.window:
            assert window.height % tiling.multiple == 0


@given(tilings())
def test_only_the_eight_neighbours_reach_into_a_block(tiling):
    for row in range(min(tiling.block_rows, 4)):
        for col in range(min(tiling.block_cols, 4)):
            block = tiling.block_window(row, col)
            reach = block.pad(tiling.margin)
            for other_row in range(min(tiling.block_rows, 6)):
                other = tiling.block_window(other_row, col)
                if reach.intersection(other) and other_row != row:
                    assert (other_row, col) in set(tiling.neighbours(row, col))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"overlap": 7}, "must be even"),
        ({"overlap": 40}, "more than half the window"),
        ({"block": 100}, "use 1008"),
        ({"window": 0}, "must be at least 1"),
    ],
)
def test_numbers_that_do_not_go_together(numbers, message):
    with pytest.raises(PlanError, match=message):
        Tiling(**{"height": 100, "width": 100, "window": 64, "overlap": 16, **numbers})


def test_auto_block_fits_the_budget_and_gives_every_worker_some():
    tiling = Tiling(height=20_000, width=20_000, window=512, overlap=64)
    large = auto_block(tiling, bytes_per_pixel=10, budget=1e9)
    assert large % tiling.chunk == 0
    assert large**2 * 10 <= 1e9
    shared = auto_block(tiling, bytes_per_pixel=10, budget=1e12, workers=4)
    assert (20_000 / shared) ** 2 >= 12
    assert auto_block(tiling, bytes_per_pixel=10, budget=1) == tiling.chunk
