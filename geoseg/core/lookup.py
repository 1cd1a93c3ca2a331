"""Which pixel of one grid lies under the pixel centres of another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.grid import Grid, Window, same_crs

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STEP = 16
_TOLERANCE = 0.02
_MOST_READ = 1 << 24  # pixels of the other grid at once


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lookup:
    """Where in another grid each pixel of a window lies."""

    span: Window | None
    """The part of the other grid that is needed; None where they do not meet."""
    rows: NDArray[np.int64]
    """Rows of the other grid, counted from the span; (y, 1) or (y, x)."""
    columns: NDArray[np.int64]
    """Columns of the other grid, counted from the span; (1, x) or (y, x)."""

    def take(self, values: NDArray[Any], *, nothing: int) -> NDArray[Any]:
        """Return the span's pixels (y, x, …) under the window's, `nothing` outside."""
        height, width = values.shape[:2]
        rows = np.clip(self.rows, 0, height - 1)
        columns = np.clip(self.columns, 0, width - 1)
        out = values[rows, columns]
        out[(rows != self.rows) | (columns != self.columns)] = nothing
        return out


def look_up(
    read: Callable[[Window], NDArray[Any]],
    other: Grid,
    grid: Grid,
    window: Window,
    *,
    nothing: int,
    dtype: type[np.generic],
    pixel: tuple[int, ...] = (),
) -> NDArray[Any]:
    """Return what another grid holds at the centres of a window's pixels, (y, x, …).

    Args:
        read: From a window of the other grid to its pixels, (y, x, …).
        other: Where these are.
        grid: Whose pixel centres are looked up.
        window: Which of them; taken apart where it spans too many pixels of `other`.
        nothing: What stands outside of the other grid.
        dtype: Of the answer.
        pixel: Shape of what one pixel holds, such as (4,) for RGBA.
    """
    found = nearest_pixels(grid, window, other)
    if found.span is None:
        return np.full((window.height, window.width, *pixel), nothing, dtype)
    if found.span.area <= _MOST_READ or window.area == 1:
        return found.take(read(found.span), nothing=nothing).astype(dtype)
    tall = window.height >= window.width
    half = (window.height if tall else window.width) // 2
    y, x = (window.y + half, window.x) if tall else (window.y, window.x + half)
    first = (
        Window.spanning(window.y, y, window.x, window.right)
        if tall
        else Window.spanning(window.y, window.bottom, window.x, x)
    )
    second = Window.spanning(y, window.bottom, x, window.right)
    parts = [
        look_up(read, other, grid, w, nothing=nothing, dtype=dtype, pixel=pixel)
        for w in (first, second)
    ]
    return np.concatenate(parts, axis=0 if tall else 1)


def nearest_pixels(
    grid: Grid, window: Window, other: Grid, *, only_span: bool = False
) -> Lookup:
    """Find the pixels of `other` that hold the centres of a window's pixels.

    Between CRSs the exact transformation is taken at every 16th pixel and interpolated
    in between, unless that is off by more than 0.02 px of `other` anywhere it is
    checked; then every pixel is transformed exactly.

    Args:
        grid: whose pixel centres are looked up.
        window: which of them.
        other: where they are looked up.
        only_span: look at a few hundred pixels only, spread over the window, when
            nothing but the `span` is wanted.
    """
    y, x = np.arange(window.y, window.bottom), np.arange(window.x, window.right)
    if only_span:
        y, x = _thinned(y), _thinned(x)
    y_centres, x_centres = y.astype(np.float64) + 0.5, x.astype(np.float64) + 0.5
    if None in (grid.crs, other.crs) or same_crs(grid.crs, other.crs):
        rows, columns = _affine(grid, other, y_centres, x_centres)
    elif only_span:
        rows, columns = _exact(grid, other, y_centres, x_centres)
    else:
        rows, columns = _interpolated(grid, other, y_centres, x_centres)
    return _lookup(_floor(rows), _floor(columns), other)


def _floor(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Round down; what cannot be transformed lies outside of any raster."""
    limit = 2.0**40
    clean = np.nan_to_num(values, nan=-1, posinf=limit, neginf=-limit)
    # A centre that falls on an edge but for rounding belongs below and to the right.
    return np.floor(np.clip(clean, -limit, limit) + 1e-7).astype(np.int64)


def _lookup(rows: NDArray[np.int64], columns: NDArray[np.int64], other: Grid) -> Lookup:
    hit_rows = rows[(rows >= 0) & (rows < other.height)]
    hit_columns = columns[(columns >= 0) & (columns < other.width)]
    if not hit_rows.size or not hit_columns.size:
        return Lookup(span=None, rows=rows, columns=columns)
    span = Window.spanning(
        int(hit_rows.min()),
        int(hit_rows.max()) + 1,
        int(hit_columns.min()),
        int(hit_columns.max()) + 1,
    )
    return Lookup(span=span, rows=rows - span.y, columns=columns - span.x)


def _affine(
    grid: Grid, other: Grid, y: NDArray[np.float64], x: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    t = ~other.transform @ grid.transform
    if t.b == 0 and t.d == 0:
        return (t.e * y + t.f)[:, None], (t.a * x + t.c)[None, :]
    columns, rows = t @ (x[None, :], y[:, None])
    return rows, columns


def _exact(
    grid: Grid, other: Grid, y: NDArray[np.float64], x: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from pyproj import Transformer

    there = Transformer.from_crs(grid.crs, other.crs, always_xy=True)
    places = there.transform(*(grid.transform @ (x[None, :], y[:, None])))
    with np.errstate(invalid="ignore"):  # what lies nowhere there is infinite
        columns, rows = ~other.transform @ places
    return rows, columns


def _interpolated(
    grid: Grid, other: Grid, y: NDArray[np.float64], x: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y_nodes, x_nodes = _nodes(y), _nodes(x)
    nodes = _exact(grid, other, y_nodes, x_nodes)
    y_check, x_check = _middles(y_nodes), _middles(x_nodes)
    checks = _exact(grid, other, y_check, x_check)
    errors = [
        np.abs(_bilinear(n, y_nodes, x_nodes, y_check, x_check) - c)
        for n, c in zip(nodes, checks, strict=True)
    ]
    if not all(np.isfinite(e).all() and e.max() <= _TOLERANCE for e in errors):
        return _exact(grid, other, y, x)
    rows, columns = (_bilinear(n, y_nodes, x_nodes, y, x) for n in nodes)
    return rows, columns


def _nodes(axis: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.unique(np.append(axis[::_STEP], axis[-1]))


def _middles(nodes: NDArray[np.float64]) -> NDArray[np.float64]:
    return (nodes[1:] + nodes[:-1]) / 2 if len(nodes) > 1 else nodes


def _bilinear(
    values: NDArray[np.float64],
    y_nodes: NDArray[np.float64],
    x_nodes: NDArray[np.float64],
    y: NDArray[np.float64],
    x: NDArray[np.float64],
) -> NDArray[np.float64]:
    along_x = _linear(values, x_nodes, x)
    return _linear(along_x.T, y_nodes, y).T


def _linear(
    values: NDArray[np.float64], nodes: NDArray[np.float64], at: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Interpolate along the last axis."""
    if len(nodes) == 1:
        return np.repeat(values, len(at), axis=-1)
    i = np.clip(np.searchsorted(nodes, at, side="right") - 1, 0, len(nodes) - 2)
    t = (at - nodes[i]) / (nodes[i + 1] - nodes[i])
    return values[..., i] * (1 - t) + values[..., i + 1] * t


def _thinned(axis: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.unique(
        np.linspace(axis[0], axis[-1], min(len(axis), 64)).astype(np.int64)
    )
