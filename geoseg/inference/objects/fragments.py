"""Pixel loops over the objects of windows: renumber, take apart, compare, paint.

A fragment is a 4-connected piece of one object inside a rectangle. Two windows that see
a bend of the same snake, one as two arms and the other as one, agree on the fragments.
"""

# ruff: noqa: ANN401 - numba infers the types of arrays; docstrings say what they hold
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from geoseg.core.union_find import join, root

if TYPE_CHECKING:
    from numpy.typing import NDArray

compiled = njit(cache=True, nogil=True)

NEVER = np.iinfo(np.int32).max


@compiled
def measure_objects(labels: Any, cell: tuple[int, int, int, int], count: int) -> Any:
    """Measure the objects of a rectangle.

    Args:
        labels: (y, x) 0 … count.
        cell: First and after-last row, first and after-last column of a rectangle.
        count: Number of objects.

    Returns:
        (count + 1, 7) int64: first row, first column, after-last row, after-last
        column, pixels inside the rectangle, position of the first pixel (`NEVER` where
        there is none), all pixels.
    """
    measured = np.zeros((count + 1, 7), np.int64)
    measured[:, :2] = NEVER
    measured[:, 5] = NEVER
    y0, y1, x0, x1 = cell
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label == 0:
                continue
            row = measured[label]
            if row[5] == NEVER:
                row[5] = y * width + x
                row[0] = y
            row[1] = min(row[1], x)
            row[2] = y + 1
            row[3] = max(row[3], x + 1)
            row[6] += 1
            if y0 <= y < y1 and x0 <= x < x1:
                row[4] += 1
    return measured


@compiled
def renumber(labels: Any, numbers: Any) -> Any:
    """Return (y, x) int32 `numbers[labels]`."""
    out = np.empty(labels.shape, np.int32)
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            out[y, x] = numbers[labels[y, x]]
    return out


@compiled
def take_apart(labels: Any) -> Any:
    """Number the fragments of a rectangle in reading order of their first pixels.

    Args:
        labels: (y, x) objects, 0 for none.

    Returns:
        The fragment of each pixel (y, x) int32, 0 for none; the object of each fragment
        and the number of its pixels, both with an entry for 0.
    """
    piece, parent = _scan(labels)
    number = np.zeros(len(parent), np.int32)
    count = 0
    for i in range(1, len(parent)):
        if parent[i] == i:
            count += 1
            number[i] = count
        else:
            number[i] = number[root(parent, i)]
    owner = np.zeros(count + 1, np.int32)
    size = np.zeros(count + 1, np.int64)
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            fragment = number[piece[y, x]]
            piece[y, x] = fragment
            if fragment:
                owner[fragment] = labels[y, x]
                size[fragment] += 1
    return piece, owner, size


@compiled
def _scan(labels: Any) -> Any:
    """Number pieces row by row; the lowest number of each is its own parent."""
    height, width = labels.shape
    piece = np.zeros((height, width), np.int32)
    parent = np.zeros(height * width + 1, np.int32)
    n = 0
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label == 0:
                continue
            left = piece[y, x - 1] if x > 0 and labels[y, x - 1] == label else 0
            above = piece[y - 1, x] if y > 0 and labels[y - 1, x] == label else 0
            if left and above and left != above:
                join(parent, left, above)
            elif not left and not above:
                n += 1
                parent[n] = n
                left = n
            piece[y, x] = max(left, above)
    return piece, parent[: n + 1]


@compiled
def shared_runs(one: Any, other: Any) -> Any:
    """Return runs of pixels along rows that have a number in both rectangles.

    Returns:
        (run, 3) int64: the number in the one, in the other, and the pixels.
    """
    height, width = one.shape
    runs = np.empty((64, 3), np.int64)
    n = 0
    for y in range(height):
        a, b = 0, 0
        for x in range(width):
            p, q = one[y, x], other[y, x]
            if p == 0 or q == 0:
                a = 0
                continue
            if p == a and q == b:
                runs[n - 1, 2] += 1
                continue
            a, b = p, q
            if n == len(runs):
                grown = np.empty((2 * n, 3), np.int64)
                grown[:n] = runs
                runs = grown
            runs[n, 0], runs[n, 1], runs[n, 2] = p, q, 1
            n += 1
    return runs[:n]


@compiled
def paint(owner: Any, labels: Any, first: int, group: Any, rank: Any) -> None:
    """Give pixels to the groups of a window's objects where they rank before others.

    Args:
        owner: (y, x) int32, the group of each pixel, -1 for none; changed in place.
        labels: (y, x) the window's objects there, 0 for none.
        first: Where the window's objects begin in `group`.
        group: (object,) int32 the group that may have its pixels here, or -1.
        rank: (group,) int32, the lowest goes first.
    """
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            label = labels[y, x]
            if label == 0:
                continue
            mine = group[first + label - 1]
            if mine < 0:
                continue
            there = owner[y, x]
            if there < 0 or rank[mine] < rank[there]:
                owner[y, x] = mine


def shared_counts(
    one: NDArray[np.int32], other: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Count the pixels that each pair of numbers shares.

    Args:
        one: (y, x) numbers, 0 for none.
        other: (y, x) likewise.

    Returns:
        (pair,) the number in the one, the number in the other, and shared pixels,
        sorted by the numbers.
    """
    runs = shared_runs(one, other)
    if not len(runs):
        none = np.zeros(0, np.int64)
        return none, none, none
    width = int(runs[:, 1].max()) + 1
    keys, index = np.unique(runs[:, 0] * width + runs[:, 1], return_inverse=True)
    pixels = np.bincount(index.ravel(), runs[:, 2], len(keys)).astype(np.int64)
    return keys // width, keys % width, pixels
