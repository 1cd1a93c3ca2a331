"""A close-up of the polygons, beside the figure of the whole map."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.classes import Class
from geoseg.core.grid import Grid, Window
from geoseg.viz.regions import open_regions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.path import Path as Outline
    from numpy.typing import NDArray

SHARE = 8
"""How many close-ups fit along the longer side of the map."""


def lively_window(
    values: NDArray[np.integer[Any]], nodata: int, share: int = SHARE
) -> Window:
    """Return the part of a map that has most classes, and most borders of those.

    Args:
        values: (y, x) classes.
        nodata: The value that is no class.
        share: The part is this many times shorter and narrower than the map.

    Returns:
        The part, in the pixels of `values`; parts without a class come last.
    """
    height, width = (max(1, n // share) for n in values.shape)
    changes = np.zeros(values.shape, np.bool_)
    changes[:, 1:] |= values[:, 1:] != values[:, :-1]
    changes[1:] |= values[1:] != values[:-1]

    def liveliness(window: Window) -> tuple[float, int, float]:
        classes = values[window.slices]
        valid = float((classes != nodata).mean())
        borders = float(changes[window.slices].mean())
        return np.floor(10 * valid), len(np.unique(classes)), borders

    windows = [
        Window(y=y, x=x, height=height, width=width)
        for y in range(0, values.shape[0] - height + 1, max(1, height // 2))
        for x in range(0, values.shape[1] - width + 1, max(1, width // 2))
    ]
    return max(windows, key=liveliness)


def draw_polygons(
    axes: Axes,
    regions: str | os.PathLike[str],
    grid: Grid,
    window: Window,
    classes: Sequence[Class],
) -> None:
    """Draw the polygons of a part of a map, in class colours with outlines.

    Args:
        axes: Where; in pixels of the grid.
        regions: A file of polygons with `class_name`.
        grid: The map's.
        window: What is shown of it.
        classes: The class table.
    """
    from matplotlib.collections import PathCollection

    file = open_regions(regions, grid)
    found = file.within(window.x, window.y, window.right, window.bottom)
    colors = {c.name: c.color for c in classes}
    shapes = PathCollection(
        [_outline(shape) for shape in found.geometry],
        facecolors=[colors.get(name, "white") for name in found["class_name"]],
        edgecolors="#16201D",
        linewidths=0.5,
    )
    axes.add_collection(shapes)
    axes.set_xlim(window.x, window.right)
    axes.set_ylim(window.bottom, window.y)


def _outline(shape: Any) -> Outline:  # noqa: ANN401 - shapely's
    """Return a polygon, holes and all, as a path."""
    import shapely
    from matplotlib.path import Path as Outline

    rings = shapely.get_rings(shape)
    return Outline.make_compound_path(
        *(Outline(shapely.get_coordinates(ring), closed=True) for ring in rings)
    )
