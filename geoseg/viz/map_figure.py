"""Maps as figures of matplotlib (extra `plot`): a PNG, or axes in a notebook."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.classes import Class
from geoseg.core.extras import require
from geoseg.core.files import written
from geoseg.core.grid import Grid, Window
from geoseg.maps.open import open_classes
from geoseg.viz.closeup import draw_polygons, lively_window
from geoseg.viz.picture import (
    class_overview,
    colour_table,
    north,
    open_image,
    scale_bar,
)
from geoseg.viz.statistics import MapStatistics, map_statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from numpy.typing import NDArray

    from geoseg.maps.reader import ClassReader

_SIZE = 1200  # of a map in a notebook
_MANY = 16  # classes in a legend: so many colours can be told apart
_LETTERS = 36  # of a line of its legend


def draw_masks(
    masks: Any,  # noqa: ANN401 - whatever holds class values
    out: str | os.PathLike[str],
    *,
    raster: Any = None,  # noqa: ANN401 - whatever open_source takes
    regions: str | os.PathLike[str] | None = None,
    title: str | None = None,
    size: int = 1600,
) -> Path:
    """Draw masks as a PNG, with scale bar, north arrow, legend and shares of classes.

    Args:
        masks: Masks, their path or dataset; or another tool's class raster.
        out: The PNG to write.
        raster: The raster the masks were made from: drawn on the left, in true colour
            where its bands' names tell which those are.
        regions: The polygons made of them: a close-up of the liveliest part is drawn on
            the right, and its place on the map.
        title: Above the map.
        size: Longest side of the map in pixels of the picture, at most.

    Returns:
        The file written.

    Raises:
        GeosegError: There are no such masks, or the picture cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    new_figure = require("matplotlib.figure", what="the picture", extra="plot").Figure
    reader = open_classes(masks)
    found = map_statistics(reader, size=size, places=0)
    panels = [("classes", colour_table(found.classes)[found.picture])]
    if raster is not None:
        panels.insert(0, ("image", open_image(raster, beside=reader).small(size)))
    names = [name for name, _ in panels]
    names += ["polygons of the part in the box"] * (regions is not None)
    figure = _page(new_figure, names, found.grid, title)
    for axes, (_, rgba) in zip(figure.axes, panels, strict=False):
        axes.imshow(rgba, interpolation="none", aspect=axes.get_aspect())
    whole = figure.axes[len(panels) - 1]
    _scale_bar(whole, found.grid)
    if regions is not None:
        _close_up(whole, figure.axes[-1], found, regions)
    for axes in figure.axes:
        _north_arrow(axes, found.grid)
    _shares_below(figure, found)
    path = Path(out)
    with written(path) as part:
        figure.savefig(part, dpi=150, format="png")
    return path


def draw_map(
    reader: ClassReader,
    axes: Axes | None,
    *,
    raster: Any = None,  # noqa: ANN401 - whatever open_source takes
    opacity: float = 1.0,
    legend: bool = True,
) -> Axes:
    """Draw a map in class colours, over an image where one is given.

    Args:
        reader: Any class map; only a picture's worth of pixels is read.
        axes: Where to draw, in the map's own coordinates; None for a new figure.
        raster: The image under it, of any CRS and resolution.
        opacity: Of the map: 0 shows the image only.
        legend: Whether to name the classes that are in sight.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    values, grid = class_overview(reader, _SIZE), reader.grid
    axes = _new_axes() if axes is None else axes
    if raster is not None:
        height, width = values.shape
        small = grid.resampled(
            y_factor=grid.height / height, x_factor=grid.width / width
        )
        _draw_pixels(axes, grid, open_image(raster, beside=reader).on(small))
    table = colour_table(reader.classes)
    table[:, 3] = np.rint(table[:, 3] * opacity)
    _draw_pixels(axes, grid, table[values])
    if legend:
        there = set(np.unique(values).tolist())
        shown = [c for c in reader.classes if c.value in there]
        handles = [_patch(c, c.name, opacity) for c in shown[:_MANY]]
        if len(shown) > _MANY:
            handles.append(_patch(None, f"and {len(shown) - _MANY} more"))
        axes.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0),
            borderaxespad=0, frameon=False,
            fontsize="x-small" if len(handles) > 12 else "medium",
        )  # fmt: skip
    return axes


def _new_axes() -> Axes:
    plt = require("matplotlib.pyplot", what="drawing", extra="plot")
    made: Axes = plt.subplots(figsize=(7.5, 6), layout="constrained")[1]
    return made


def _page(
    new_figure: Callable[..., Figure],
    names: Sequence[str],
    grid: Grid,
    title: str | None,
) -> Figure:
    """Return a page of empty panels, each as wide and tall as the map."""
    size = grid.pixel_size_m or (1.0, 1.0)
    aspect = size[0] / size[1]
    tall = min(max(grid.height * aspect / grid.width, 0.3), 3.0)
    side = 6.4 if tall <= 1 else 6.4 / tall
    figure = new_figure(
        figsize=(max(side * len(names), 4.0) + 0.3, side * tall + 1.4),
        layout="constrained",
        facecolor="white",
    )
    for axes, name in zip(
        np.atleast_1d(figure.subplots(1, len(names))), names, strict=True
    ):
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_aspect(aspect)
        if len(names) > 1:
            axes.set_title(name, fontsize=11)
    if title:
        figure.suptitle(title)
    return figure


def _close_up(
    whole: Axes, axes: Axes, found: MapStatistics, regions: str | os.PathLike[str]
) -> None:
    """Draw the polygons of the liveliest part, and a box around it on the map."""
    from matplotlib.patches import Rectangle

    window = lively_window(found.picture, found.nodata_value)
    for color, width in (("white", 3.5), ("black", 1.5)):
        box = Rectangle(
            (window.x - 0.5, window.y - 0.5), window.width, window.height,
            fill=False, edgecolor=color, linewidth=width,
        )  # fmt: skip
        whole.add_patch(box)
    y, x = (
        full / shown
        for full, shown in zip(
            (found.grid.height, found.grid.width), found.picture.shape, strict=True
        )
    )
    part = Window.spanning(
        round(window.y * y),
        round(window.bottom * y),
        round(window.x * x),
        round(window.right * x),
    )
    draw_polygons(axes, regions, found.grid, part, found.classes)


def _shares_below(figure: Figure, found: MapStatistics) -> None:
    """Name the classes that there are, with their share of the area that has one."""
    shown = [
        _patch(c, f"{c.name}  {100 * share:.1f} %")
        for c, share in zip(found.classes, found.shares.tolist(), strict=True)
        if share
    ]
    if found.nodata:
        shown.append(_patch(None, "nodata"))
    columns = max(1, min(len(shown), int(figure.get_size_inches()[0] / 1.6)))
    figure.legend(
        handles=shown, loc="outside lower center", ncols=columns, frameon=False
    )


def _patch(of: Class | None, label: str, opacity: float = 1.0) -> Patch:
    """Return a class's entry in a legend; None is nodata."""
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Patch

    color = to_rgba("white" if of is None else of.color, opacity)
    return Patch(
        facecolor=color, edgecolor="0.4", linewidth=0.5, label=fill(label, _LETTERS)
    )


def _scale_bar(axes: Axes, grid: Grid) -> None:
    bar = scale_bar(grid)
    if bar is None:
        return
    share, name = bar
    axes.plot(
        [0.03, 0.03 + share], [0.04, 0.04], color="black", linewidth=3,
        solid_capstyle="butt", path_effects=_halo(5), transform=axes.transAxes,
    )  # fmt: skip
    axes.text(
        0.03 + share / 2, 0.052, name, ha="center", va="bottom", fontsize=9,
        path_effects=_halo(2.5), transform=axes.transAxes,
    )  # fmt: skip


def _north_arrow(axes: Axes, grid: Grid) -> None:
    """Draw an arrow to grid north, wherever the rows of the raster run."""
    angle = north(grid)
    if angle is None:
        return
    dx, dy = (0.05 * f(math.radians(angle)) for f in (math.sin, math.cos))
    axes.annotate(
        "N",
        xy=(0.94 + dx, 0.92 + dy),
        xytext=(0.94 - dx, 0.92 - dy),
        xycoords="axes fraction",
        ha="center",
        va="center",
        fontsize=10,
        path_effects=_halo(2.5),
        arrowprops={"arrowstyle": "-|>", "color": "black", "path_effects": _halo(3)},
    )


def _halo(width: float) -> list[Any]:
    """Return a white outline, so that marks are seen on any colour."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=width, foreground="white")]


def _draw_pixels(axes: Axes, grid: Grid, rgba: NDArray[np.uint8]) -> None:
    """Draw a picture of a whole grid; of a rotated one in rows and columns."""
    t = grid.transform
    extent = (0.0, float(grid.width), float(grid.height), 0.0)
    names = "column", "row"
    if grid.is_rectilinear:
        right, bottom = t @ (grid.width, grid.height)
        extent = (t.c, right, bottom, t.f)
        names = _axis_names(grid)
    axes.imshow(rgba, extent=extent, interpolation="nearest")
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    axes.set_aspect(_aspect(grid))
    axes.ticklabel_format(useOffset=False, style="plain")
    axes.locator_params(axis="x", nbins=5)  # metres have seven digits


def _axis_names(grid: Grid) -> tuple[str, str]:
    if grid.crs is None:
        return "x", "y"
    from pyproj import CRS

    crs = CRS.from_user_input(grid.crs)
    if crs.is_geographic:
        return "longitude [°]", "latitude [°]"
    unit = crs.axis_info[0].unit_name if crs.axis_info else "metre"
    short = {"metre": "m", "US survey foot": "ft", "foot": "ft"}.get(unit, unit)
    return f"x [{short}]", f"y [{short}]"


def _aspect(grid: Grid) -> float:
    """Return how tall a unit of y is drawn, in units of x, so that shapes are true."""
    size = grid.pixel_size_m
    if size is None or not grid.is_rectilinear:
        return 1.0
    t = grid.transform
    return float((size[0] / abs(t.e)) / (size[1] / abs(t.a)))
