"""Union-find against the transitive closure, compiled and in Python."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from geoseg.core.union_find import find_root, join, join_pairs, root

PAIRS = st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30)


def closure(pairs):
    """Return the smallest label that each of 20 is one with."""
    sets = [{i} for i in range(20)]
    for a, b in pairs:
        both = sets[a] | sets[b]
        for i in both:
            sets[i] = both
    return [min(s) for s in sets]


@given(PAIRS)
def test_the_smallest_label_stands_for_all(pairs):
    expected = closure(pairs)
    table = np.array(pairs, np.int64).reshape(-1, 2)
    assert join_pairs(20, table).tolist() == expected
    parent = np.arange(20, dtype=np.int32)
    for a, b in pairs:
        assert join(parent, a, b) == min(root(parent, a), root(parent, b))
    assert [root(parent, i) for i in range(20)] == expected
    by_name = {i: int(p) for i, p in enumerate(parent)}
    assert [find_root(by_name, i) for i in range(20)] == expected
