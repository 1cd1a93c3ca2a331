"""Which block comes next: every one once, neighbours on the same worker."""

from collections import Counter, deque

import numpy as np
import pytest

from geoseg.core.tiling import Tiling
from geoseg.inference.order import BlockOrder, cells_of, share_at_work
from geoseg.inference.planning import shared_out


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


def cut(side, block, width=None):
    sides = {"height": side, "width": width or side, "window": 512, "overlap": 64}
    return Tiling(**sides, block=block)


@pytest.mark.parametrize(("side", "width"), [(9000, 7100), (448, 448), (20000, 900)])
def test_windows_are_counted_by_block(side, width):
    tiling = cut(side, 1792, width)
    counted = [[len(x) for x in block.cells] for block in tiling.each_block()]
    assert cells_of(tiling).ravel().tolist() == [high * wide for high, wide in counted]
    assert cells_of(tiling).sum() == tiling.windows


@pytest.mark.parametrize(
    ("side", "workers", "largest", "taken"),
    [
        (32768, 8, 3584, 2688),  # 9 x 9 whole blocks are one too many for 8 x 10
        (10980, 4, 3584, 1792),
        (36000, 8, 3584, 3584),  # as good as any
        (65536, 8, 3584, 3584),  # of 361 blocks the last ones hardly count
        (32768, 1, 3584, 3584),
        (16384, 8, 896, 896),  # a chunk is not cut
    ],
)
def test_blocks_share_out_among_workers(side, workers, largest, taken):
    before, after = cut(side, largest), shared_out(cut(side, largest), workers)
    assert after.block == taken
    share = share_at_work(after, workers)
    assert share > 0.975
    assert taken == largest or share > share_at_work(before, workers) + 0.01


def test_workers_have_as_many_windows_in_hand():
    """All that is left is in hand at once, as of cards that many threads read for."""
    tiling = cut(32768, 3584)
    order = BlockOrder(np.ones((10, 10), bool), 4, cells_of(tiling))
    loads = Counter()
    while (key := order.next(8)) is not None:
        order.begun(key)
        loads[order.home(key)] += int(cells_of(tiling)[key])
    assert max(loads.values()) - min(loads.values()) <= 64  # one block
