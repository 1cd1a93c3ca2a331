"""Which labels are one: the union-find of the compiled loops, and of Python's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


def find_root(parent: Any, label: int) -> int:  # noqa: ANN401 - as below
    """Return the label that stands for all that are one with a label.

    Paths are halved on the way (Tarjan and van Leeuwen, 1984).

    Args:
        parent: Of each label one that it is one with, or itself: an array of integers,
            or in Python any mapping or list.
        label: Where to begin.
    """
    while parent[label] != label:
        parent[label] = parent[parent[label]]
        label = parent[label]
    return label


root = njit(cache=True, nogil=True)(find_root)
"""`find_root` for compiled loops."""


@njit(cache=True, nogil=True)
def join(parent: Any, one: int, other: int) -> int:  # noqa: ANN401 - an array, in words
    """Make two labels one and return their root: the smaller of both roots."""
    one, other = root(parent, one), root(parent, other)
    if one < other:
        parent[other] = one
        return one
    parent[one] = other
    return other


@njit(cache=True, nogil=True)
def join_pairs(count: int, pairs: Any) -> Any:  # noqa: ANN401 - arrays, in words
    """Return the smallest member of each one's set after joining pairs (n, 2)."""
    parent = np.arange(count)
    for i in range(len(pairs)):
        join(parent, pairs[i, 0], pairs[i, 1])
    for i in range(count):  # parents come before their children
        parent[i] = parent[parent[i]]
    return parent
