"""Runs of windows: taken in order, and added so that none overlap."""

from collections import deque

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from geoseg.core.packed import pack_arrays, unpack
from geoseg.inference.block_steps import _apart
from geoseg.inference.work import Run, given_back, taken_of


@given(
    lengths=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), max_size=6),
    size=st.integers(1, 20),
)
def test_windows_are_taken_in_order_and_given_back(lengths, size):
    """Some blocks of (rows, columns), whose rows wait one after the other."""
    waiting = deque(
        Run(work, row, 0, columns)
        for work, (rows, columns) in enumerate(lengths)
        for row in range(rows)
    )
    before = [(run.work, *cell) for run in waiting for cell in run.cells]
    taken = taken_of(waiting, size)
    took = [(run.work, *cell) for run in taken for cell in run.cells]
    assert took == before[:size]
    given_back(taken, waiting)
    assert [(run.work, *cell) for run in waiting for cell in run.cells] == before
    assert all(run.rows == 1 for run in waiting)


@given(
    first=st.integers(0, 5),
    stride=st.integers(2, 6),
    count=st.integers(1, 6),
    more=st.integers(0, 9),
    data=st.data(),
)
def test_windows_that_are_added_at_once_do_not_overlap(
    first, stride, count, more, data
):
    side = data.draw(st.integers(stride, 2 * stride))
    # The last window begins inside at least.
    length = first + (count - 1) * stride + 1 + more
    seen = []
    for which, inside in _apart(first, side, count, stride, length):
        windows = list(range(count))[which]
        begins = [first + window * stride for window in windows]
        ends = [begin + inside for begin in begins]
        assert all(e <= b for e, b in zip(ends, begins[1:], strict=False))
        assert all(
            end == min(b + side, length) for b, end in zip(begins, ends, strict=True)
        )
        seen += windows
    assert sorted(seen) == list(range(count))


def test_what_is_packed_is_as_safetensors_reads_it():
    from safetensors.numpy import load

    arrays = {
        "sums": np.arange(24, dtype=np.int32).reshape(2, 3, 4),
        "none": np.zeros((0, 3), np.uint8),
        "table": np.zeros(3, [("key", "i8"), ("of", "u2")]),
    }
    data = pack_arrays(arrays, {"windows": 4})
    found, info = unpack(data)
    assert info == {"windows": 4}
    assert found.keys() == arrays.keys() == load(data[:-4]).keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
