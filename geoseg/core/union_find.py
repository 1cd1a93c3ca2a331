"""Which labels are one: the union-find of the compiled loops over pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def root(parent: Any, label: int) -> int:  # noqa: ANN401 - an array, in words
    """Return the label that stands for all that are one with a label.

    Paths are halved on the way (Tarjan and van Leeuwen, 1984).

    Args:
        parent: (label,) integers, a label that is one with each; itself for a root.
        label: Where to begin.
    """
    while parent[label] != label:
        parent[label] = parent[parent[label]]
        label = parent[label]
    return label


@njit(cache=True, nogil=True)
def join_pairs(count: int, pairs: Any) -> Any:  # noqa: ANN401 - arrays, in words
    """Return the smallest member of each one's set after joining pairs (n, 2)."""
    parent = np.arange(count)
    for i in range(len(pairs)):
        a, b = pairs[i, 0], pairs[i, 1]
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        while parent[b] != b:
            parent[b] = parent[parent[b]]
            b = parent[b]
        if a < b:
            parent[b] = a
        else:
            parent[a] = b
    for i in range(count):  # parents come before their children
        parent[i] = parent[parent[i]]
    return parent
