"""A close-up of the polygons, beside the picture of the whole map."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.classes import Class
from geoseg.core.grid import Grid, Window

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.path import Path as Outline
    from numpy.typing import NDArray

SHARE = 8
"""How many close-ups fit along the longer side of the map."""


def lively_place(values: NDArray[np.int64], share: int = SHARE) -> Window:
    """Return the part of a map that has most classes, and most borders of those.

    Args:
        values: (y, x) classes; below 0 where there is none.
        share: The part is this many times shorter and narrower than the map.

    Returns:
        The part, in the pixels of `values`; parts without a class come last.
    """
    height, width = (max(1, n // share) for n in values.shape)
    changes = np.zeros(values.shape, np.bool_)
    changes[:, 1:] |= values[:, 1:] != values[:, :-1]
    changes[1:] |= values[1:] != values[:-1]
    best, found = (-1.0, -1, -1.0), Window(y=0, x=0, height=height, width=width)
    for y in range(0, values.shape[0] - height + 1, max(1, height // 2)):
        for x in range(0, values.shape[1] - width + 1, max(1, width // 2)):
            part = Window(y=y, x=x, height=height, width=width)
            seen = values[part.slices]
            valid = float((seen >= 0).mean())
            here = (
                np.floor(10 * valid),
                len(np.unique(seen)),
                changes[part.slices].mean(),
            )
            if here > best:
                best, found = here, part
    return found


def draw_polygons(
    axes: Axes,
    regions: str | os.PathLike[str],
    grid: Grid,
    part: Window,
    classes: Sequence[Class],
) -> None:
    """Draw the polygons of a part of a map, in class colours with outlines.

    Args:
        axes: Where; in pixels of the grid.
        regions: A file of polygons with `class_name`, in the grid's CRS.
        grid: The map's.
        part: What is seen of it.
        classes: The class table.
    """
    import pyogrio
    from matplotlib.collections import PathCollection

    corners = [
        grid.transform @ (x, y)
        for x in (part.x, part.right)
        for y in (part.y, part.bottom)
    ]
    xs, ys = zip(*corners, strict=True)
    found = pyogrio.read_dataframe(
        os.fspath(regions),
        layer=_layer(regions),
        columns=["class_name"],
        bbox=(min(xs), min(ys), max(xs), max(ys)),
    )
    colors = {c.name: c.color for c in classes}
    shapes = PathCollection(
        [_outline(shape, grid) for shape in found.geometry],
        facecolors=[colors.get(name, "white") for name in found["class_name"]],
        edgecolors="#16201D",
        linewidths=0.5,
    )
    axes.add_collection(shapes)
    axes.set_xlim(part.x, part.right)
    axes.set_ylim(part.bottom, part.y)


def _layer(regions: str | os.PathLike[str]) -> str:
    """Return the first layer with geometries; styles lie in a layer without."""
    import pyogrio

    found = {str(name): kind for name, kind in pyogrio.list_layers(os.fspath(regions))}
    return next(name for name, kind in found.items() if kind)


def _outline(shape: Any, grid: Grid) -> Outline:  # noqa: ANN401 - shapely's
    """Return a polygon, holes and all, as a path in pixels of the grid."""
    from matplotlib.path import Path as Outline

    back = ~grid.transform
    rings = []
    for ring in _rings(shape):
        xy = np.asarray(ring.coords)[:, :2]
        columns = back.a * xy[:, 0] + back.b * xy[:, 1] + back.c
        rows = back.d * xy[:, 0] + back.e * xy[:, 1] + back.f
        rings.append(Outline(np.column_stack([columns, rows]), closed=True))
    return Outline.make_compound_path(*rings)


def _rings(shape: Any) -> Iterator[Any]:  # noqa: ANN401 - shapely's
    for polygon in getattr(shape, "geoms", [shape]):
        yield polygon.exterior
        yield from polygon.interiors
