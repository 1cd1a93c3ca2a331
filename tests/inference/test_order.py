"""Which block comes next: every one once, neighbours on the same worker."""

from collections import Counter, deque

import numpy as np
import pytest

from geoseg.inference.order import BlockOrder


def worked_through(order, workers, per_worker=2):
    """Take blocks as workers of equal speed do; return them, and who had them."""
    hands, begun = deque(), []
    while True:
        while len(hands) < workers * per_worker and (key := order.next(workers)):
            order.begun(key)
            hands.append(key)
            begun.append((key, order.home(key)))
        if not hands:
            return begun
        order.ended(hands.popleft())


@pytest.mark.parametrize("workers", [1, 2, 5, 8, 70])
@pytest.mark.parametrize(
    ("shape", "across"), [((9, 14), 4), ((1, 30), 64), ((6, 1), 1)]
)
def test_every_block_once_and_work_is_shared_evenly(workers, shape, across):
    todo = np.random.default_rng(0).random(shape) > 0.2
    begun = worked_through(BlockOrder(todo, across), workers)
    assert sorted(key for key, _ in begun) == sorted(map(tuple, np.argwhere(todo)))
    had = Counter(home for _, home in begun)
    if len(begun) >= workers:
        assert max(had.values()) - min(had.values()) <= 2


def test_one_worker_goes_from_top_to_bottom_some_columns_at_a_time():
    begun = worked_through(BlockOrder(np.ones((3, 5), bool), 2), 1)
    assert [key for key, _ in begun] == [
        *((row, col) for row in range(3) for col in (0, 1)),
        *((row, col) for row in range(3) for col in (2, 3)),
        *((row, 4) for row in range(3)),
    ]


def test_neighbours_are_on_the_same_worker():
    shape = (32, 32)
    begun = worked_through(BlockOrder(np.ones(shape, bool), 11), 8)  # sqrt(32 x 32 / 8)
    home = np.zeros(shape, int)
    for key, worker in begun:
        home[key] = worker
    same = (home[1:] == home[:-1]).mean(), (home[:, 1:] == home[:, :-1]).mean()
    assert min(same) > 0.85  # dealt out one by one an eighth would be


def test_a_worker_that_comes_late_gets_half_of_what_is_left():
    order = BlockOrder(np.ones((4, 10), bool), 64)
    first = order.next(1)
    order.begun(first)
    second = order.next(2)
    assert (first, order.home(first)) == ((0, 0), 0)
    assert (second, order.home(second)) == ((2, 0), 1)
