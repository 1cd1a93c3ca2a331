"""Laws of the plan: cells cover exactly, windows are counted, blocks are whole."""

import pickle
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoseg.core.grid import Window
from geoseg.core.tiling import Tiling, auto_block
from geoseg.errors import PlanError


@st.composite
def tilings(draw):
    window = draw(st.integers(8, 300))
    tiling = Tiling(
        height=draw(st.integers(1, 3000)),
        width=draw(st.integers(1, 3000)),
        window=window,
        overlap=2 * draw(st.integers(0, window // 4)),
        multiple=draw(st.sampled_from([None, 1, 8, 32])),
        chunk=draw(st.sampled_from([0, 300, 700])),
    )
    return replace(tiling, block=draw(st.integers(1, 3)) * tiling.chunk)


@given(tilings())
def test_blocks_and_cells_cover_the_raster_exactly_once(tiling):
    pixels = np.zeros((tiling.height, tiling.width), np.uint8)
    cells = np.zeros((tiling.cell_rows, tiling.cell_cols), np.uint8)
    for block in tiling.each_block():
        pixels[block.window.slices] += 1
        rows, cols = block.cells
        cells[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1] += 1
        assert (block.window.y % tiling.chunk, block.window.x % tiling.chunk) == (0, 0)
        assert block.window.y == rows[0] * tiling.stride
        assert block.window.x == cols[0] * tiling.stride
    assert (pixels == 1).all()
    assert (cells == 1).all()
    assert tiling.windows == cells.size
    assert cells.shape == (
        -(-tiling.height // tiling.stride),
        -(-tiling.width // tiling.stride),
    )


@given(tilings())
def test_a_window_sees_its_cell_and_a_margin(tiling):
    sides = (
        (tiling.cell_rows, tiling.height, lambda w: (w.y, w.bottom, w.height)),
        (tiling.cell_cols, tiling.width, lambda w: (w.x, w.right, w.width)),
    )
    for axis, (count, length, of) in enumerate(sides):
        for i in {0, count // 2, count - 1}:
            cell = (i, 0) if axis == 0 else (0, i)
            begin, end, side = of(tiling.model_window(*cell))
            assert begin == i * tiling.stride - tiling.margin
            assert end >= min((i + 1) * tiling.stride, length) + tiling.margin
            assert side <= tiling.window
            if tiling.multiple and side < tiling.window:
                assert side % tiling.multiple == 0
            square = tiling.cell_window(*cell)
            assert of(square)[:2] == (i * tiling.stride, (i + 1) * tiling.stride)


@given(tilings())
def test_a_block_reaches_as_far_as_its_windows(tiling):
    for block in islice(tiling.each_block(), 12):
        rows, cols = block.cells
        windows = [tiling.model_window(r, c) for r in rows for c in cols]
        reach = block.reach
        assert (reach.y, reach.x) == (
            min(w.y for w in windows),
            min(w.x for w in windows),
        )
        assert (reach.bottom, reach.right) == (
            max(w.bottom for w in windows),
            max(w.right for w in windows),
        )


@given(tilings(), st.data())
def test_the_eight_neighbours_are_those_whose_margin_lies_in_a_block(tiling, data):
    tiling = replace(tiling, block=tiling.chunk)
    block = tiling.block_at(
        data.draw(st.integers(0, tiling.block_rows - 1)),
        data.draw(st.integers(0, tiling.block_cols - 1)),
    )
    assert block.key == (block.row, block.col)
    assert block.name == f"{block.row}.{block.col}"
    touching = [
        other.key
        for other in tiling.each_block()
        if other != block and other.window.pad(1).intersection(block.window)
    ]
    assert [n.key for n in block.neighbours] == touching
    reached = {
        other.key
        for other in tiling.each_block()
        if other.window.pad(tiling.margin).intersection(block.window)
    }
    assert reached <= {block.key, *touching}


def test_blocks_of_a_raster_that_is_wider_than_high():
    """In numbers, so that rows and columns cannot be taken for each other."""
    tiling = Tiling(height=100, width=250, window=48, overlap=8, chunk=40, block=80)
    assert (tiling.block_rows, tiling.block_cols, tiling.blocks) == (2, 4, 8)
    block = tiling.block_at(1, 2)
    assert block.window == Window(y=80, x=160, height=20, width=80)
    assert block.cells == (range(2, 3), range(4, 6))
    assert block.reach == Window(y=76, x=156, height=48, width=88)
    around = [n.key for n in block.neighbours]
    assert around == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 3)]
    assert [n.key for n in tiling.block_at(0, 0).neighbours] == [(0, 1), (1, 0), (1, 1)]
    assert pickle.loads(pickle.dumps(block)) == block


def test_chunks_are_whole_cells_and_do_not_depend_on_blocks():
    tiling = Tiling(height=5000, width=5000, window=512, overlap=64)
    assert tiling.chunk == tiling.block == 896
    assert replace(tiling, block=1792).chunk == 896
    assert Tiling(height=9, width=9, window=48, overlap=12, chunk=64).chunk == 72
    assert Tiling(height=9, width=9, window=48, overlap=12, chunk=1).chunk == 36


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
    shared = auto_block(tiling, bytes_per_pixel=10, budget=1e12, least=12)
    assert (20_000 / shared) ** 2 >= 12
    assert auto_block(tiling, bytes_per_pixel=10, budget=1) == tiling.chunk


def test_blocks_are_small_enough_to_be_shared_out():
    tiling = Tiling(height=2000, width=3000, window=64, overlap=16, chunk=48)
    room = {"bytes_per_pixel": 1, "budget": 1e12, "largest": 1 << 20}
    side = auto_block(tiling, **room, least=16)
    assert 16 * side**2 <= 2000 * 3000 < 16 * (side + tiling.chunk) ** 2
