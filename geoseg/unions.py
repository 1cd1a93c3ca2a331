"""Which labels are one: the union-find of the compiled loops over pixels."""

from __future__ import annotations

from typing import Any

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
