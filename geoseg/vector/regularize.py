"""Square footprints: straight walls and right angles, where that fits the pixels.

The walls of most buildings run in two directions, at right angles. A traced outline is
turned so that its own two directions are the axes; runs of edges along an axis become
one wall, where its pixels' edges lie on average; a slanted wall keeps its slant. Of
several such outlines, from a rectangle to ever finer ones, that with the largest
intersection over union with the pixels is taken, where each corner has its price.

A wall that reaches into ground that is not free steps back until it does not. What
cannot be squared gets straight lines, if need be inside of its pixels; where these do
not fit either, the outline stays. Everything here is in metres on a small plane.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from shapely import LinearRing, Polygon
    from shapely.geometry.base import BaseGeometry

MIN_IOU = 0.85
"""What a squared footprint must share with its pixels, as intersection over union."""
_TOLERANCES = (6.0, 4.0, 2.5, 1.5)
"""How far vertices of outlines may lie from the pixels' edges, in pixels."""
_CORNER = 0.006
"""How much more a footprint must share with its pixels for each corner it has."""
_STRAIGHT = 1.0
"""How far lines of outlines that cannot be squared may move, in pixels."""
_SLANTED = np.deg2rad(25)
"""Edges that lie further from both directions are slanted walls."""
_SHARPEST = 0.3
"""Sine of the sharpest corner between two walls."""
_STEPS_BACK = 4
"""How often walls may step back."""
_FURTHEST = 2.5
"""How far a wall may step back at once, in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Squared:
    """A footprint."""

    polygon: Polygon
    """The footprint, or the outline as it was."""
    is_square: bool
    """Whether its walls are at right angles, slanted ones aside."""


def square(
    outline: Polygon,
    pixel: float,
    taken: NDArray[np.float64],
    min_iou: float = MIN_IOU,
) -> Squared:
    """Square one footprint.

    Args:
        outline: Its outline along pixel edges, in metres.
        pixel: Side of a pixel in metres.
        taken: (n, 4, 2) corners of the pixels around it that it must not cover.
        min_iou: What it must share with its pixels.
    """
    best: tuple[float, Polygon] | None = None
    for angle in directions(outline, pixel):
        turned = _turned(outline, -angle)
        others = _rotated(taken, -angle)
        for walls in _plans(turned, pixel):
            price = _CORNER * sum(len(ring) for ring in walls)
            if best is not None and 1 - price <= best[0]:
                continue
            fitted = _stepped_back(walls, others, pixel)
            if fitted is None:
                continue
            kept = iou(fitted, turned)
            if kept >= min_iou and (best is None or kept - price > best[0]):
                best = kept - price, _turned(fitted, angle)
    if best is not None:
        return Squared(polygon=best[1], is_square=True)
    for straight in _straightened(outline, _STRAIGHT * pixel):
        if not len(_hit(straight, taken)) and iou(straight, outline) >= min_iou:
            return Squared(polygon=straight, is_square=False)
    return Squared(polygon=outline, is_square=False)


def _straightened(outline: Polygon, tolerance: float) -> Iterator[Polygon]:
    """Yield an outline with straight lines, and again so far in that it stays inside.

    Args:
        outline: Any outline.
        tolerance: How far lines may move.
    """
    import shapely

    inside = outline.buffer(-tolerance, join_style="mitre")
    for shape in (outline, inside):
        simple = shape.simplify(tolerance)
        if isinstance(simple, shapely.Polygon) and simple.area and simple.is_valid:
            yield simple


def directions(outline: Polygon, pixel: float) -> tuple[float, float]:
    """Return directions that an outline's walls may have, in radians, up to π/2 more.

    That of the smallest rectangle around it, and the mean of its edges' directions
    modulo a right angle, weighted by squared length, after staircases of pixel edges
    are straightened.
    """
    around = outline.minimum_rotated_rectangle.exterior
    simple = _from_a_corner(outline.exterior).simplify(1.5 * pixel)
    side = np.diff(_points(around), axis=0)[0]
    steps = np.diff(_points(simple), axis=0)
    # Four times the angle: directions at right angles become one.
    turn = np.exp(4j * np.arctan2(steps[:, 1], steps[:, 0]))
    mean = np.angle(((steps**2).sum(axis=1) * turn).sum()) / 4
    return float(np.arctan2(side[1], side[0])), float(mean)


def iou(one: BaseGeometry, other: BaseGeometry) -> float:
    """Return the area of what two shapes share by that of both together."""
    shared = one.intersection(other).area
    return float(shared / (one.area + other.area - shared))


def _points(ring: LinearRing) -> NDArray[np.float64]:
    return np.asarray(ring.coords, np.float64)[:, :2]


def _rotated(points: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    c, s = np.cos(angle), np.sin(angle)
    return np.asarray(points @ np.array([[c, s], [-s, c]]))


def _turned(polygon: Polygon, angle: float) -> Polygon:
    import shapely

    turned = shapely.transform(polygon, lambda xy: _rotated(xy, angle))
    assert isinstance(turned, shapely.Polygon)
    return turned


# --- walls ----------------------------------------------------------------------------

Walls = tuple["NDArray[np.float64]", ...]
"""Rings of walls, the exterior first; each (wall, 3): a, b, c of a x + b y = c, where
(a, b) has length 1."""


def _plans(outline: Polygon, pixel: float) -> Iterator[Walls]:
    """Yield the walls of squared footprints, the plainest first."""
    yield (_rectangle(outline),)
    for tolerance in _TOLERANCES:
        exterior = _ring_walls(outline.exterior, tolerance * pixel)
        if exterior is None:
            continue
        holes = (_ring_walls(hole, tolerance * pixel) for hole in outline.interiors)
        # A hole that has no walls is smaller than the tolerance.
        yield (exterior, *(h for h in holes if h is not None))


def _rectangle(outline: Polygon) -> NDArray[np.float64]:
    """Return the rectangle with an outline's centre and spread along both axes."""
    (x, y), (dx, dy) = _moments(outline)
    # A side w spreads by w / √12.
    w, h = np.sqrt(3) * dx, np.sqrt(3) * dy
    return np.array([[0, 1, y - h], [1, 0, x + w], [0, 1, y + h], [1, 0, x - w]])


def _moments(outline: Polygon) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the centre of a polygon and its standard deviations in x and y."""
    centre = np.array(outline.centroid.coords[0])
    twice, squares = 0.0, np.zeros(2)
    for ring in (outline.exterior, *outline.interiors):
        p = _points(ring) - centre
        p, q = p[:-1], p[1:]
        cross = p[:, 0] * q[:, 1] - q[:, 0] * p[:, 1]
        sign = np.sign(cross.sum()) * (1 if ring is outline.exterior else -1)
        twice += sign * cross.sum()
        squares += sign * ((p * p + p * q + q * q) * cross[:, None]).sum(axis=0)
    return centre, np.sqrt(np.maximum(squares / (6 * twice), 0))


def _ring_walls(ring: LinearRing, tolerance: float) -> NDArray[np.float64] | None:
    """Return one wall per run of edges in the same direction; None where too few."""
    points = _points(_from_a_corner(ring).simplify(tolerance))
    if len(points) < 4:
        return None
    steps = np.diff(points, axis=0)
    angle = np.arctan2(steps[:, 1], steps[:, 0])
    quarter = np.round(angle / (np.pi / 2))
    slanted = np.abs(angle - quarter * np.pi / 2) > _SLANTED
    slanted &= np.hypot(*steps.T) > 2 * tolerance  # else it is a corner that was cut
    kind = np.where(slanted, -1 - np.arange(len(steps)), quarter % 2)
    begins = np.flatnonzero(kind != np.roll(kind, 1))
    if len(begins) < 3:
        return None
    order = np.roll(np.arange(len(steps)), -begins[0])
    return _walls(points[:-1][order], steps[order], kind[order], begins - begins[0])


def _walls(
    first: NDArray[np.float64],
    steps: NDArray[np.float64],
    kind: NDArray[np.float64],
    begins: NDArray[np.intp],
) -> NDArray[np.float64]:
    """Return the wall that each run of edges is: along x, along y, or of its own.

    Args:
        first: (edge, 2) where edges begin.
        steps: (edge, 2) from there to where they end.
        kind: (edge,) 0 along x, 1 along y, negative for a slanted one.
        begins: (run,) first edge of each run.
    """
    length = np.hypot(*steps.T)
    weighted = (first + steps / 2) * length[:, None]
    middle = (
        np.add.reduceat(weighted, begins) / np.add.reduceat(length, begins)[:, None]
    )
    own = steps[begins][:, ::-1] * (1, -1) / length[begins, None]
    normal = np.where(
        kind[begins, None] < 0, own, np.eye(2)[::-1][kind[begins].astype(int) % 2]
    )
    return np.column_stack([normal, (normal * middle).sum(axis=1)])


def _from_a_corner(ring: LinearRing) -> LinearRing:
    """Return a ring that begins far from its middle: simplifying keeps that vertex."""
    import shapely

    points = _points(ring)[:-1]
    far = np.argmax(((points - points.mean(axis=0)) ** 2).sum(axis=1))
    return shapely.LinearRing(np.roll(points, -far, axis=0))


def _corners(ring: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return where each wall begins, (wall, 2); None where two hardly cross."""
    before = ring[np.arange(-1, len(ring) - 1)]
    (a, b, c), (d, e, f) = before.T, ring.T
    across = a * e - b * d
    if (np.abs(across) < _SHARPEST).any():
        return None
    return np.asarray(
        np.stack([c * e - b * f, a * f - c * d], axis=1) / across[:, None]
    )


# --- free ground ----------------------------------------------------------------------


def _stepped_back(
    walls: Walls, taken: NDArray[np.float64], pixel: float
) -> Polygon | None:
    """Return what walls enclose, after they left what is taken; None where nothing."""
    import shapely

    rings = [w.copy() for w in walls]
    for _ in range(_STEPS_BACK):
        corners = [_corners(ring) for ring in rings]
        if any(c is None for c in corners):
            return None
        polygon = shapely.Polygon(corners[0], corners[1:])
        if not polygon.is_valid or polygon.is_empty:
            return None
        hit = _hit(polygon, taken)
        if not len(hit):
            return polygon
        if not _step_back(rings, corners, hit, pixel):  # type: ignore[arg-type]
            return None
    return None


def _hit(polygon: Polygon, taken: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the pixels (n, 4, 2) that a polygon covers some of."""
    import shapely

    left, bottom, right, top = polygon.bounds
    low, high = taken.min(axis=1), taken.max(axis=1)
    near = (low < (right, top)).all(axis=1) & (high > (left, bottom)).all(axis=1)
    some = taken[near]
    if not len(some):
        return np.asarray(some)
    shapely.prepare(polygon)
    pixels = shapely.polygons(some)
    met = shapely.intersects(polygon, pixels)
    some, pixels = some[met], pixels[met]
    return np.asarray(some[~shapely.touches(polygon, pixels)])


def _step_back(
    rings: list[NDArray[np.float64]],
    corners: list[NDArray[np.float64]],
    hit: NDArray[np.float64],
    pixel: float,
) -> bool:
    """Move walls inwards, in place, each before the pixels that lie nearest to it.

    Returns:
        Whether no wall would have to step back too far.
    """
    first = np.concatenate(corners)
    after = np.concatenate([np.roll(c, -1, axis=0) for c in corners])
    along = after - first
    length = np.maximum(np.hypot(*along.T), 1e-12)
    left = along[:, ::-1] * (-1, 1) / length[:, None]
    inward = left * np.repeat(
        [_side(c) * (-1 if i else 1) for i, c in enumerate(corners)],
        [len(c) for c in corners],
    )[:, None]  # fmt: skip
    # (pixel, wall): how deep inside, and how far beside the wall the pixel lies.
    from_first = hit[:, :, None, :] - first
    depth = (from_first * inward).sum(axis=-1).max(axis=1)
    place = (from_first.mean(axis=1) * (along / length[:, None])).sum(axis=-1)
    beside = np.maximum(np.maximum(-place, place - length), 0)
    nearest = np.argmin(np.hypot(np.maximum(depth, 0), beside), axis=1)
    back = np.zeros(len(first))
    np.maximum.at(back, nearest, depth[np.arange(len(hit)), nearest])
    if back.max() > _FURTHEST * pixel:
        return False
    at = 0
    for ring in rings:
        mine = slice(at, at + len(ring))
        outward = (inward[mine] * ring[:, :2]).sum(axis=1)
        ring[:, 2] += np.sign(outward) * (back[mine] + 1e-6 * pixel * (back[mine] > 0))
        at += len(ring)
    return True


def _side(corners: NDArray[np.float64]) -> int:
    """Return 1 where a ring's inside is to its left, else -1."""
    x, y = corners.T
    return 1 if (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() > 0 else -1
