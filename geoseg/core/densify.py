"""Straight edges stay where they are drawn when they are brought into another CRS.

Only vertices are transformed; an edge between two of them is straight again, and lies
elsewhere than the curve that it should be. Long edges get vertices in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Transform = Callable[
    ["NDArray[np.float64]", "NDArray[np.float64]"],
    "tuple[NDArray[np.float64], NDArray[np.float64]]",
]
_ROUNDS = 3
_MOST_PIECES = 1000  # of one edge and round
_MOST_VERTICES = 50_000  # of a geometry: where there is no limit, as around a pole


def densified(
    geometries: NDArray[np.object_], there: Transform, tolerance: float
) -> NDArray[np.object_]:
    """Return geometries with vertices added where an edge would move.

    Args:
        geometries: (n,) of shapely, where their edges are straight.
        there: From x and y to x and y where they will be drawn.
        tolerance: How far, in the units that `there` returns, the middle of an edge may
            lie from where it should be.
    """
    import shapely

    out = np.array(geometries, object)
    for _ in range(_ROUNDS):
        number, length, off = _edges(out, there)
        long = off > tolerance
        if not long.any():
            break
        # A curve's distance from its chord grows with the square of the length.
        pieces = np.minimum(np.ceil(np.sqrt(off[long] / tolerance)), _MOST_PIECES)
        longest = np.full(len(out), np.inf)
        np.minimum.at(longest, number[long], length[long] / pieces)
        longest = np.maximum(longest, shapely.length(out) / _MOST_VERTICES)
        some = np.isfinite(longest)
        out[some] = shapely.segmentize(out[some], longest[some])
    return out


def _edges(
    geometries: NDArray[np.object_], there: Transform
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return each edge's geometry, its length, and how far its middle would move."""
    import shapely

    parts, owner = _lines(geometries)
    xy, line = shapely.get_coordinates(parts, return_index=True)
    same = np.flatnonzero(line[1:] == line[:-1])
    if not len(same):
        none = np.zeros(0)
        return none.astype(np.int64), none, none
    start, end = xy[same], xy[same + 1]
    moved = np.stack(there(xy[:, 0], xy[:, 1]), axis=1)
    middle = (start + end) / 2
    should = np.stack(there(middle[:, 0], middle[:, 1]), axis=1)
    off = np.hypot(*((moved[same] + moved[same + 1]) / 2 - should).T)
    length = np.hypot(*(end - start).T)
    return owner[line[same]], length, np.where(np.isfinite(off), off, 0)


def _lines(
    geometries: NDArray[np.object_],
) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """Return rings and lines of all geometries, and whose each is."""
    import shapely

    parts: Any = np.asarray(geometries, object)
    owner = np.arange(len(parts))
    for _ in range(2):  # collections of multiples
        parts, index = shapely.get_parts(parts, return_index=True)
        owner = owner[index]
    polygon = shapely.get_type_id(parts) == 3
    rings, index = shapely.get_rings(parts[polygon], return_index=True)
    return (
        np.concatenate([rings, parts[~polygon]]),
        np.concatenate([owner[polygon][index], owner[~polygon]]),
    )
