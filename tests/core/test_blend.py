"""Laws of the blend: weights add up, order does not matter, probabilities hold."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from geoseg.core.blend import (
    SCORE,
    WEIGHT,
    WEIGHT_1D,
    add_window,
    labels_of,
    probability_bytes,
    ramp,
)
from geoseg.core.grid import Window

FULL = np.full(8, WEIGHT_1D, np.int32)


@given(st.integers(0, 100), st.integers(0, 50))
def test_overlapping_ramps_add_up_to_one(half, inner):
    overlap = 2 * half
    side = 2 * overlap + inner + 1
    weights = ramp(side, overlap, before=True, after=True)
    assert (weights >= 0).all()
    assert (weights[:overlap] + weights[side - overlap :] == WEIGHT_1D).all()
    assert (weights[overlap : side - overlap] == WEIGHT_1D).all()
    assert abs(weights - weights[::-1]).max() <= 1  # both sides alike, but for rounding
    flat = ramp(side, overlap, before=False, after=False)
    assert (flat == WEIGHT_1D).all()


# Without a fill, which most of an array would be.
scores = arrays(
    np.float32, (3, 8, 8), elements=st.floats(-80, 80, width=32), fill=st.nothing()
)


def summed(scores, activation, **where):
    sums = np.zeros(where.pop("shape", scores.shape), np.int32)
    finite = add_window(
        sums,
        scores,
        at_y=where.get("at_y", 0),
        at_x=where.get("at_x", 0),
        weight_y=FULL,
        weight_x=FULL,
        activation=activation,
    )
    return sums, finite


@given(scores)
def test_softmax_is_that_of_numpy(values):
    sums, finite = summed(values, "softmax")
    exact = np.exp(values.astype(float) - values.max(0))
    exact /= exact.sum(0)
    assert finite
    assert np.abs(sums / WEIGHT - exact * SCORE).max() <= 1.0


@given(scores)
def test_sigmoid_is_that_of_numpy(values):
    sums, _ = summed(values, "sigmoid")
    exact = 1 / (1 + np.exp(-values.astype(float)))
    assert np.abs(sums / WEIGHT - exact * SCORE).max() <= 1.0


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
@given(values=scores)
def test_a_gpu_adds_the_same(activation, values):
    """The torch way agrees with the compiled one to a unit in the last place."""
    here, _ = summed(values, activation)
    there = torch.zeros(values.shape, dtype=torch.int32)
    finite = add_window(
        there,
        torch.from_numpy(values),
        at_y=0,
        at_x=0,
        weight_y=FULL,
        weight_x=FULL,
        activation=activation,
    )
    assert bool(finite)
    assert np.abs(here - there.numpy()).max() <= WEIGHT


@given(st.integers(-7, 7), st.integers(-7, 7))
def test_what_lies_outside_is_left_out(at_y, at_x):
    values = np.ones((1, 8, 8), np.float32)
    sums, _ = summed(values, "none", at_y=at_y, at_x=at_x)
    expected = np.zeros((8, 8), np.int32)
    expected[max(0, at_y) : 8 + at_y, max(0, at_x) : 8 + at_x] = SCORE * WEIGHT
    assert (sums[0] == expected).all()
    there = torch.zeros((1, 8, 8), dtype=torch.int32)
    add_window(
        there,
        torch.from_numpy(values),
        at_y=at_y,
        at_x=at_x,
        weight_y=FULL,
        weight_x=FULL,
        activation="none",
    )
    assert (there.numpy()[0] == expected).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
def test_what_is_not_finite_is_noticed(bad, activation):
    values = np.zeros((3, 8, 8), np.float32)
    values[1, 7, 7] = bad
    assert not summed(values, activation)[1]


@given(arrays(np.int32, (4, 5, 6), elements=st.integers(0, 3)))
def test_the_first_of_equal_classes_wins(sums):
    values = np.array([7, 3, 9, 1], np.uint8)
    whole = Window(y=0, x=0, height=5, width=6)
    labels, best = labels_of(sums, whole, values)
    assert (labels == values[sums.argmax(0)]).all()
    assert (best == sums.max(0)).all()
    there, best_there = labels_of(torch.from_numpy(sums), whole, values)
    assert (there == labels).all()
    assert (best_there == best).all()


def test_probability_bytes_are_rounded_and_leave_255_free():
    sums = np.array([0, SCORE * WEIGHT // 2, SCORE * WEIGHT], np.int32)
    assert probability_bytes(sums).tolist() == [0, 127, 254]
