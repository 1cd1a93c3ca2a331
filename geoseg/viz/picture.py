"""The map as a picture: classes in their colours, legend, scale bar, north arrow.

Whatever the size of the masks, they are looked at tile by tile and only a picture's
worth of pixels is held. Needs matplotlib (extra `plot`), and no screen.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.classes import Class, nodata_value
from geoseg.core.grid import Grid, Window
from geoseg.errors import GeosegError, MissingExtraError
from geoseg.viz.closeup import draw_polygons, lively_place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from geoseg.rasters.file import RasterFile
    from geoseg.rasters.open import Source

_TILE = 2048
_NODATA_RGB = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class _Labels:
    """Class values that can be read window by window."""

    read: Callable[[Window], NDArray[Any]]
    grid: Grid
    classes: tuple[Class, ...]
    nodata: int


def draw_masks(
    masks: Any,  # noqa: ANN401 - whatever holds class values
    out: str | os.PathLike[str],
    *,
    raster: Any = None,  # noqa: ANN401 - whatever open_source takes
    regions: str | os.PathLike[str] | None = None,
    classes: Sequence[Class] | None = None,
    grid: Grid | None = None,
    title: str | None = None,
    size: int = 1000,
) -> Path:
    """Draw masks as a PNG.

    Each pixel of the picture shows the class that most of the masks' pixels under it
    have, so that nothing is over- or underrepresented.

    Args:
        masks: Masks, their path, the dataset that `segment` returns, or a (y, x) array
            of class values.
        out: The PNG to write.
        raster: The raster the masks were made from: drawn on the left, in true colour
            where its bands' names tell which those are.
        regions: The polygons made of them: a close-up of the liveliest part is drawn on
            the right, and its place on the map.
        classes: The class table; needed with an array.
        grid: Where the pixels of an array are; without it there is no scale bar.
        title: Above the map.
        size: Longest side of the map in pixels of the picture.

    Returns:
        The file written.

    Raises:
        GeosegError: There are no such masks, or an array comes without classes.
        MissingExtraError: matplotlib is not installed.
    """
    figure_class = _figure_class()
    labels = _labels(masks, classes, grid)
    values, factor = class_overview(
        labels.read, labels.grid.window, labels.classes, size=size
    )
    panels = [] if raster is None else [(raster_overview(raster, size), "image")]
    panels.append((_coloured(values, labels.classes), "classes"))
    figure = _page(figure_class, panels, labels.grid, title, regions is not None)
    _legend(figure, labels, values)
    for axes in figure.axes:
        _north(axes, labels.grid)
    _scale_bar(figure.axes[len(panels) - 1], labels.grid, factor)
    if regions is not None:
        part = lively_place(values)
        _mark(figure.axes[len(panels) - 1], part)
        whole = Window(
            y=part.y * factor,
            x=part.x * factor,
            height=part.height * factor,
            width=part.width * factor,
        )
        draw_polygons(figure.axes[-1], regions, labels.grid, whole, labels.classes)
    return _save(figure, Path(out))


def class_overview(
    read: Callable[[Window], NDArray[Any]],
    frame: Window,
    classes: Sequence[Class],
    *,
    size: int,
) -> tuple[NDArray[np.int64], int]:
    """Return the majority class of every square of pixels.

    Args:
        read: Returns class values (y, x) of a window inside the frame.
        frame: All pixels there are.
        classes: The class table.
        size: At most so many squares along the longer side.

    Returns:
        (y, x) indices into the class table, -1 where nodata prevails; and how many
        pixels a square has on a side. Ties go to the class that comes first.
    """
    factor = max(1, math.ceil(max(frame.height, frame.width) / size))
    shape = -(-frame.height // factor), -(-frame.width // factor)
    out = np.full(shape, -1, np.int64)
    for tile in _tiles(frame, max(1, _TILE // factor) * factor):
        values = read(tile)
        y, x = tile.y // factor, tile.x // factor
        counts = np.stack(
            [_per_square(values == c.value, factor) for c in classes]
            + [_per_square(~np.isin(values, [c.value for c in classes]), factor)]
        )
        winner = counts.argmax(0)
        winner[winner == len(classes)] = -1
        out[y : y + winner.shape[0], x : x + winner.shape[1]] = winner
    return out, factor


def raster_overview(raster: Any, size: int) -> NDArray[np.uint8]:  # noqa: ANN401
    """Return a small picture of a raster, (y, x, 3) uint8, white where nodata.

    Red, green and blue where the bands' names tell; else near infrared, red, green;
    else the first bands. Stretched between the 2nd and 98th percentile of each.

    Args:
        raster: Whatever `open_source` takes.
        size: Longest side in pixels.
    """
    from geoseg.rasters.open import open_source

    source = open_source(raster)
    source = source.select(_shown_bands(source))
    pixels, valid = _small(source, size)
    stretched = np.stack([_stretched(band, valid) for band in pixels], axis=-1)
    stretched = np.broadcast_to(stretched, (*valid.shape, 3)).copy()
    stretched[~valid] = _NODATA_RGB
    return stretched


def _shown_bands(source: Source) -> list[int]:
    names = [band.common_name or band.name for band in source.bands]
    for wanted in (("red", "green", "blue"), ("nir", "red", "green")):
        if all(name in names for name in wanted):
            return [names.index(name) for name in wanted]
    return [0, 1, 2] if len(names) >= 3 else [0]


def _small(source: Source, size: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the source at a picture's size: from a file's overviews, or averaged."""
    from geoseg.rasters.file import RasterFile
    from geoseg.rasters.open import resampled

    grid = source.grid
    factor = max(1.0, max(grid.height, grid.width) / size)
    grid = grid.resampled(y_factor=factor, x_factor=factor)
    if isinstance(source, RasterFile) and factor > 1:
        overview = _from_overviews(source, grid, factor)
        if overview is not None:
            return overview
    return resampled(source, grid).read(grid.window)


def _from_overviews(
    source: RasterFile, grid: Grid, factor: float
) -> tuple[NDArray[Any], NDArray[np.bool_]] | None:
    """Return the file at a picture's size, or None where its overviews are too fine.

    Without overviews GDAL would decode every tile once for each line of the picture.
    """
    from geoseg.rasters.gdal import environment, open_dataset

    with environment(source.path), open_dataset(source.path) as dataset:
        coarsest = max(dataset.overviews(source.numbers[0]), default=1)
        if coarsest * 4 < factor:
            return None
        shape = (len(source.numbers), grid.height, grid.width)
        read = dataset.read(list(source.numbers), out_shape=shape, masked=True)
    nothing = np.asarray(np.ma.getmaskarray(read).any(axis=0), np.bool_)
    return read.data, ~nothing


def _stretched(band: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    if not valid.any():
        return np.zeros(band.shape, np.uint8)
    values = band.astype(np.float64)
    low, high = np.percentile(values[valid], [2, 98])
    part = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    return np.asarray(np.rint(255 * part**0.8), np.uint8)


def _labels(
    masks: Any,  # noqa: ANN401 - see draw_masks
    classes: Sequence[Class] | None,
    grid: Grid | None,
) -> _Labels:
    if isinstance(masks, np.ndarray):
        return _array_labels(masks, classes, grid)
    from geoseg.maps.store import Masks, open_masks

    if not isinstance(masks, Masks):
        encoding = getattr(masks, "encoding", {})
        masks = open_masks(os.fspath(encoding.get("source", masks)))
    return _Labels(
        read=lambda window: masks.read("classes", window),
        grid=masks.grid,
        classes=masks.classes,
        nodata=masks.nodata,
    )


def _array_labels(
    values: NDArray[Any], classes: Sequence[Class] | None, grid: Grid | None
) -> _Labels:
    from affine import Affine

    if classes is None or values.ndim != 2:
        raise GeosegError(
            f"an array of shape {values.shape} can be drawn as (y, x) class values "
            "with classes=[Class(...), ...]"
        )
    height, width = values.shape
    place = grid or Grid(
        crs=None, transform=Affine.identity(), height=height, width=width
    )
    return _Labels(
        read=lambda window: values[window.slices],
        grid=place,
        classes=tuple(classes),
        nodata=nodata_value(classes),
    )


def _tiles(frame: Window, side: int) -> Iterator[Window]:
    for y in range(0, frame.height, side):
        for x in range(0, frame.width, side):
            bottom, right = min(y + side, frame.height), min(x + side, frame.width)
            yield Window.spanning(y, bottom, x, right)


def _per_square(chosen: NDArray[np.bool_], factor: int) -> NDArray[np.int64]:
    """Count the chosen pixels of every square; those at the edges may be cut."""
    rows = np.arange(0, chosen.shape[0], factor)
    columns = np.arange(0, chosen.shape[1], factor)
    down = np.add.reduceat(chosen, rows, axis=0, dtype=np.int32)
    return np.asarray(np.add.reduceat(down, columns, axis=1, dtype=np.int64))


def _coloured(values: NDArray[np.int64], classes: Sequence[Class]) -> NDArray[np.uint8]:
    table = np.array([*(c.rgb for c in classes), (_NODATA_RGB,) * 3], np.uint8)
    return table[values]


def _figure_class() -> Callable[..., Figure]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("the picture", "matplotlib", "plot") from error
    return Figure


def _page(
    figure_class: Callable[..., Figure],
    panels: Sequence[tuple[NDArray[np.uint8], str]],
    grid: Grid,
    title: str | None,
    more: bool,
) -> Figure:
    """Return a page with the panels, and with an empty one after them for more."""
    size = grid.pixel_size_m or (1.0, 1.0)
    aspect = size[0] / size[1]
    height, width = panels[-1][0].shape[:2]
    tall = min(max(height * aspect / width, 0.3), 3.0)
    side = 6.4 if tall <= 1 else 6.4 / tall
    names = [
        *(name for _, name in panels),
        *(["polygons of the part in the box"] * more),
    ]
    figure = figure_class(
        figsize=(max(side * len(names), 4.0) + 0.3, side * tall + 1.4),
        layout="constrained",
        facecolor="white",
    )
    every = np.atleast_1d(figure.subplots(1, len(names)))
    for axes, name in zip(every, names, strict=True):
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_aspect(aspect)
        if len(names) > 1:
            axes.set_title(name, fontsize=11)
    for axes, (picture, _) in zip(every, panels, strict=False):
        axes.imshow(picture, interpolation="none", aspect=aspect)
    if title:
        figure.suptitle(title)
    return figure


def _mark(axes: Axes, part: Window) -> None:
    """Draw a box around the part of the map that the close-up shows."""
    from matplotlib.patches import Rectangle

    for color, width in (("white", 3.5), ("black", 1.5)):
        box = Rectangle(
            (part.x - 0.5, part.y - 0.5), part.width, part.height,
            fill=False, edgecolor=color, linewidth=width,
        )  # fmt: skip
        axes.add_patch(box)


def _legend(figure: Figure, labels: _Labels, values: NDArray[np.int64]) -> None:
    """Name the classes that there are, with their share of the valid pixels."""
    from matplotlib.patches import Patch

    counts = np.bincount(values[values >= 0], minlength=len(labels.classes))
    total = max(int(counts.sum()), 1)
    shown = [
        Patch(
            facecolor=c.color,
            edgecolor="0.4",
            linewidth=0.5,
            label=f"{c.name}  {100 * n / total:.1f} %",
        )
        for c, n in zip(labels.classes, counts, strict=True)
        if n
    ]
    if (values < 0).any():
        shown.append(
            Patch(facecolor="white", edgecolor="0.4", linewidth=0.5, label="nodata")
        )
    width, _ = figure.get_size_inches()
    columns = max(1, min(len(shown), int(width / 1.6)))
    figure.legend(
        handles=shown, loc="outside lower center", ncols=columns, frameon=False
    )


def _scale_bar(axes: Axes, grid: Grid, factor: int) -> None:
    """Draw a bar of a round length near a fifth of the map's width."""
    size = grid.pixel_size_m
    if size is None:
        return
    metres = round_length(grid.width * size[1] / 5)
    length = metres / size[1] / factor
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    x = left + 0.03 * (right - left)
    y = bottom + 0.04 * (top - bottom)
    axes.plot(
        [x, x + length], [y, y], color="black", linewidth=3, solid_capstyle="butt",
        path_effects=_halo(5),
    )  # fmt: skip
    name = f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"
    axes.text(
        x + length / 2, y + 0.012 * (top - bottom), name,
        ha="center", va="bottom", fontsize=9, path_effects=_halo(2.5),
    )  # fmt: skip


def round_length(length: float) -> float:
    """Return the largest of 1, 2, 5 x 10^n that is not above a length.

    >>> round_length(8192)
    5000.0
    """
    power = 10.0 ** math.floor(math.log10(length))
    return max(step * power for step in (1.0, 2.0, 5.0) if step * power <= length)


def _north(axes: Axes, grid: Grid) -> None:
    """Draw an arrow to grid north, wherever the rows of the raster run."""
    if grid.crs is None:
        return
    inverse = ~grid.transform
    right, down = inverse.b, inverse.e
    length = math.hypot(right, down)
    dx, dy = 0.05 * right / length, -0.05 * down / length
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
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=width, foreground="white")]


def _save(figure: Figure, path: Path) -> Path:
    """Write the PNG beside and rename it, so that half a picture is never there."""
    part = path.with_name(f".{path.name}.part")
    try:
        figure.savefig(part, dpi=150, format="png")
        part.replace(path)
    except OSError as error:
        raise GeosegError(
            f"the picture {path} cannot be written: {error.strerror or error}"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return path
