"""Points and polygons laid on a grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.grid import Window
from geoseg.labels.names import UNLABELLED, LabelKind, Labels, with_class

if TYPE_CHECKING:
    from affine import Affine
    from numpy.typing import NDArray
    from shapely import STRtree

_CORE = 4.0
"""Square pixels that must be left of a polygon inside its outline."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PointLabels(Labels):
    """Points on a grid; where several lie in one pixel, `read` shows the last."""

    kind: LabelKind = "points"
    rows: NDArray[np.int64]
    """Row of each point."""
    columns: NDArray[np.int64]
    """Column of each point."""
    values: NDArray[np.uint16]
    """Class value of each point."""
    attributes: Mapping[str, NDArray[Any]]
    """The other columns of the file, one entry per point."""
    unlabelled: Mapping[str, NDArray[Any]]
    """The same of the file's points without a class."""

    def inside(self, window: Window) -> NDArray[np.intp]:
        """Return the indices of the points in a window."""
        y, x = self.rows - window.y, self.columns - window.x
        hit = (y >= 0) & (y < window.height) & (x >= 0) & (x < window.width)
        return np.flatnonzero(hit)

    def touches(self, window: Window) -> bool:
        """Whether the window holds points."""
        return self.inside(window).size > 0

    def read(self, window: Window) -> NDArray[np.uint16]:
        """Return class values, (y, x)."""
        out = np.full((window.height, window.width), UNLABELLED, np.uint16)
        hit = self.inside(window)
        out[self.rows[hit] - window.y, self.columns[hit] - window.x] = self.values[hit]
        return out


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PolygonLabels(Labels):
    """Polygons on a grid, in the order in which they are painted."""

    kind: LabelKind = "polygons"
    tree: STRtree
    values: NDArray[np.uint16]
    """Class value of each polygon of the tree."""

    def inside(self, window: Window) -> NDArray[np.intp]:
        """Return the indices of the polygons that may reach into a window."""
        import shapely

        bounds = self.grid[window].bounds
        return np.sort(np.asarray(self.tree.query(shapely.box(*bounds)), np.intp))

    def touches(self, window: Window) -> bool:
        """Whether polygons may reach into the window."""
        return self.inside(window).size > 0

    def paint(
        self, window: Window, values: NDArray[Any], *, nothing: int
    ) -> NDArray[np.uint32]:
        """Return one value per polygon as pixels, (y, x); the last painted stays."""
        from rasterio.features import rasterize

        shape = window.height, window.width
        hit = self.inside(window)
        if not hit.size:
            return np.full(shape, nothing, np.uint32)
        pairs = zip(self.tree.geometries[hit], values[hit].tolist(), strict=True)
        painted = rasterize(
            pairs,
            out_shape=shape,
            transform=self.grid[window].transform,
            fill=nothing,
            dtype="uint32",
        )
        return np.asarray(painted, np.uint32)

    def read(self, window: Window) -> NDArray[np.uint16]:
        """Return class values, (y, x)."""
        return self.paint(window, self.values, nothing=UNLABELLED).astype(np.uint16)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutlinedLabels(Labels):
    """Polygons whose pixels near their outline are a class of their own."""

    inner: PolygonLabels
    """The polygons as they are."""
    painted: PolygonLabels
    """Each of them as outline, and what is left inside painted over it."""

    def touches(self, window: Window) -> bool:
        """Whether polygons may reach into the window."""
        return self.inner.touches(window)

    def read(self, window: Window) -> NDArray[np.uint16]:
        """Return class values, (y, x)."""
        return self.painted.read(window)


def outlined(labels: PolygonLabels, width: float, name: str) -> OutlinedLabels:
    """Return polygons with a class along their outlines, on the inner side.

    Neighbours that touch are so separated by both outlines. A polygon too narrow for an
    outline of that width gets one of half of it, or of half of that, so that none is
    lost.

    Args:
        labels: polygons.
        width: of the outlines, in pixels of the grid.
        name: of their class; added to the table where it is not in it.
    """
    import shapely

    table, value = with_class(labels.classes, name)
    to_pixels, back = ~labels.grid.transform, labels.grid.transform
    shapes = moved(np.asarray(labels.tree.geometries), to_pixels)
    inside = np.full(len(shapes), None, object)
    for part in (width, width / 2, width / 4):
        narrow = np.array([shape is None for shape in inside], bool)
        shrunk = shapely.buffer(shapes[narrow], -part)
        inside[narrow] = np.where(shapely.area(shrunk) >= _CORE, shrunk, None)
    narrow = np.array([shape is None for shape in inside], bool)
    inside[narrow] = shapes[narrow]
    both = np.stack([shapes, inside], axis=1).ravel()
    values = np.stack([np.full_like(labels.values, value), labels.values], axis=1)
    painted = replace(
        labels,
        classes=table,
        tree=shapely.STRtree(moved(both, back)),
        values=values.ravel(),
    )
    return OutlinedLabels(**painted.described(), inner=labels, painted=painted)


def moved(shapes: NDArray[np.object_], transform: Affine) -> NDArray[np.object_]:
    """Return geometries in the other coordinates of an affine transform."""
    import shapely

    a, b, c, d, e, f = tuple(transform)[:6]
    matrix, shift = np.array([[a, d], [b, e]]), np.array([c, f])
    moved = shapely.transform(shapes, lambda points: points @ matrix + shift)
    return np.asarray(moved, object)
