"""Nodata that nobody tells of: found, and asked for, never applied by itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from geoseg.core.grid import Grid, Window
from geoseg.rasters.array import ArraySource
from geoseg.rasters.file import RasterFile, with_alpha
from geoseg.rasters.gdal import environment
from geoseg.rasters.mosaic import Joined, Mosaic
from geoseg.rasters.source import Derived, Source, is_far

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEAST: Final = 0.02  # of the raster: less is dark water, or a white roof
_SIDE: Final = 64  # of a sample, in pixels
_PLACES: Final = 8  # samples along each side: the first and the last lie on the edges
_REMOTE_PLACES: Final = 2  # the corners: a sample fetches a tile
_TILES: Final = 4  # of a mosaic that are looked at, where only some tell of nodata
_WHOLE: Final = 512 * 512  # pixels that are read as they are
_SHADES: Final = 0.5  # of a sample of transparency that is in between
_FEW: Final = 16  # distinct values: a map of classes, in which any may be common


def with_nodata(source: Source, value: float | None) -> Source:
    """Return the source with `value` as nodata where it does not tell of any itself.

    What a model's card says of nodata is such a value. Rasters with a nodata tag, a
    mask or an alpha band, and sources that are not geoseg's own, stay as they are.
    """
    if value is None:
        return source
    if isinstance(source, RasterFile | ArraySource):
        return source.with_nodata(value)
    if isinstance(source, Derived | Joined):
        return source.on_parts(lambda part: with_nodata(part, value))
    return source


def is_silent(source: Source) -> bool:
    """Whether a source of ours says nothing of where it has no data."""
    if isinstance(source, RasterFile):
        told = any(n is not None for n in source.nodata) or any(source.masks)
        return not told and source.alpha is None and source.covered is None
    if isinstance(source, ArraySource):
        return source.nodata is None
    if isinstance(source, Derived):
        return is_silent(source.source)
    return isinstance(source, Joined) and all(map(is_silent, source.parts))


def suspected(source: Source) -> str | None:
    """Return a question about a value that may be nodata; None where there is none.

    Such a value is the lowest or the highest there is, or of more than bytes the one
    that is most common at the edge; it is the same in all bands, fills 2 % of the
    raster and more, and touches its edge. It is looked for in an overview of a
    file, or else in 64 places that are always the same and include the edges; of what
    is far away, in the four corners.
    """
    if not is_silent(source):
        doubt = alpha_doubt(source) or _of_silent_tiles(source)
        return doubt or _beside_its_tag(source)
    found = _suspect(source)
    if found is None:
        return None
    return f"{_told(source, *found)}; if it is: --nodata {found[0]:g}"


def _of_silent_tiles(source: Source) -> str | None:
    """Return a question about tiles that tell of no nodata, where others do."""
    source = _as_read(source)
    if not isinstance(source, Mosaic):
        return None
    silent = [part for part in source.parts if is_silent(part)]
    for part in silent[: 1 if is_far(source) else _TILES]:
        if (found := _suspect(part)) is not None:
            return (
                f"{_told(part, *found)}, unlike in other tiles; if it is: "
                f"gdal_edit.py -a_nodata {found[0]:g} {part.name}"
            )
    return None


def _beside_its_tag(source: Source) -> str | None:
    """Return a question about a file that tags one value and is filled with another.

    Of several bands of more than bytes, in which 255 is a white roof or a cloud.
    """
    source = _as_read(source)
    if not isinstance(source, RasterFile) or source.is_far or len(source.bands) < 2:
        return None
    told = {value for value in source.nodata if value is not None}
    if not told or source.dtype.itemsize == 1:
        return None
    found = _suspect(source)
    if found is None or found[0] in told:
        return None
    value, tag = found[0], min(told)
    return (
        f"{_seen(source, *found)}, and its nodata is {tag:g}; "
        f"if both are: gdalwarp -srcnodata {value:g} -dstnodata {tag:g} IN OUT.tif, or "
        f"--nodata {value:g} instead of that"
    )


def _as_read(source: Source) -> Source:
    """Return the file, array or mosaic that a source is made of."""
    while isinstance(source, Derived):
        source = source.source
    return source


def _told(source: Source, value: float, share: float) -> str:
    """Return what was seen of a value that nothing says to be nodata."""
    return f"{_seen(source, value, share)}, and nothing says that this is nodata"


def _seen(source: Source, value: float, share: float) -> str:
    """Return where a value was seen that may be nodata."""
    together = " in all bands" * (len(source.bands) > 1)
    return (
        f"{source.name}: {100 * share:.0f} % of a sample is {value:g}{together}, out "
        "to its edge"
    )


def _suspect(source: Source) -> tuple[float, float] | None:
    """Return a value that may be nodata, and its share of a sample."""
    values, edge = _sample(source)
    if not len(values) or len(np.unique(values)) <= _FEW:
        return None
    alike = (values == values[:, :1]).all(axis=1)
    suspects = [values.min(), values.max()]
    rim = values[alike & edge, 0]
    if values.dtype.itemsize > 1 and len(rim):  # 0 dB, or an index of 0
        found, counts = np.unique(rim, return_counts=True)
        suspects.append(found[counts.argmax()])
    for value in suspects:
        there = alike & (values[:, 0] == value)
        share = float(there.mean())
        if share >= _LEAST and bool((there & edge).any()):
            return float(value), share
    return None


def first_file(source: Source) -> RasterFile | None:
    """Return the file that a source is made of, or the first of several."""
    if isinstance(source, Derived):
        return first_file(source.source)
    if isinstance(source, Joined):
        return first_file(source.parts[0])
    return source if isinstance(source, RasterFile) else None


def alpha_doubt(source: Source) -> str | None:
    """Return a question about an alpha band that holds what a colour would.

    GDAL calls the fourth of four bytes alpha, and tools that use it tag it so, also
    where it is near infrared. Transparency is nearly always all or nothing.
    """
    if (file := first_file(source)) is None or (alpha := file.alpha) is None:
        return None
    whole = with_alpha(file)
    values, _ = _sample(whole.select([whole.numbers.index(alpha)]))
    between = (values > values.min(initial=0)) & (values < values.max(initial=0))
    if between.sum() <= _SHADES * between.size:
        return None
    return (
        f"{file.name}: band {alpha} is tagged as transparency, but most of a sample of "
        "it is neither clear nor opaque: if it is a colour, such as near infrared, "
        "name all bands, as in --bands red,green,blue,nir"
    )


def _sample(source: Source) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return valid pixels as (n, band), and which of them lie on the raster's edge."""
    read = _overview(source) if isinstance(source, RasterFile) else None
    parts = [read] if read is not None else _places(source)
    values = np.concatenate([p[:, v].T for p, v, _ in parts])
    edges = np.concatenate([e[v] for _, v, e in parts])
    return values, edges


_Part = tuple["NDArray[np.generic]", "NDArray[np.bool_]", "NDArray[np.bool_]"]


def _places(source: Source) -> list[_Part]:
    grid, far = source.grid, is_far(source)
    if grid.pixels <= _WHOLE and not far:
        return [_place(source, grid.window)]
    places = _REMOTE_PLACES if far else _PLACES
    height, width = min(_SIDE, grid.height), min(_SIDE, grid.width)
    rows = set(np.linspace(0, grid.height - height, places).astype(int).tolist())
    columns = set(np.linspace(0, grid.width - width, places).astype(int).tolist())
    windows = [
        Window(y=y, x=x, height=height, width=width)
        for y, x in product(sorted(rows), sorted(columns))
    ]
    with ThreadPoolExecutor(len(windows) if far else 1) as pool:
        return list(pool.map(partial(_place, source), windows))


def _place(source: Source, window: Window) -> _Part:
    pixels, valid = source.read(window)
    return pixels, valid, _edge(window, source.grid)


def _edge(window: Window, grid: Grid) -> NDArray[np.bool_]:
    """Return which pixels of a window lie on the edge of the grid, (y, x)."""
    rows, columns = np.arange(window.height), np.arange(window.width)
    outer_rows = np.isin(rows + window.y, (0, grid.height - 1))
    outer_columns = np.isin(columns + window.x, (0, grid.width - 1))
    return np.asarray(outer_rows[:, None] | outer_columns[None])


def _overview(source: RasterFile) -> _Part | None:
    """Return a file's coarsest overview, or None where it has none that is small."""
    with environment(source.path, far=source.is_far):
        dataset = source.handles.get(source.path)
        factor = max(dataset.overviews(source.numbers[0]), default=1)
        height, width = dataset.height // factor, dataset.width // factor
        if factor == 1 or not 0 < height * width <= 4 * _WHOLE:
            return None
        shape = (len(source.numbers), height, width)
        pixels = dataset.read(list(source.numbers), out_shape=shape)
    grid = Grid(crs=None, transform=source.grid.transform, height=height, width=width)
    return pixels, np.ones((height, width), np.bool_), _edge(grid.window, grid)
