"""Rasters with their labels, ready to be cut into patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.classes import Class
from geoseg.core.grid import Grid, Window, squares
from geoseg.errors import LabelsError
from geoseg.inference.windows import reflect
from geoseg.labels import Labels, object_classes, read_objects
from geoseg.models.card import Band
from geoseg.models.classical.sample import sample_pixels
from geoseg.rasters.source import by_step, pixel_bytes
from geoseg.training.holdout import CELL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.rasters.open import Source, SourceBand

IGNORED = 255
"""In targets that are classes: a pixel that nothing is learned from."""
UNKNOWN = -1
"""In targets that are objects: a pixel that is unlabelled, or held out."""

_COUNTED_AT_ONCE = 1024
_MOST_IN_MEMORY = 2 << 30
_STATISTICS = 200_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledRaster:
    """A raster and what is known of it, as pixels and targets of any window.

    Small rasters are held in memory; of large ones windows are read when needed.
    """

    source: Source
    """Its bands are the model's, in the model's order."""
    labels: Labels
    """On the source's grid."""
    places: NDArray[np.uint8]
    """(65536,) place in the class table by class value; `IGNORED` for all others."""
    held: tuple[NDArray[Any], NDArray[np.bool_], NDArray[Any]] | None = None
    """Pixels, validity and targets of the whole raster."""
    first: int | None = None
    """Number of its first object: targets are which object a pixel is of, 0 for none.
    None: targets are places in the class table."""

    @property
    def grid(self) -> Grid:
        """Where its pixels are."""
        return self.source.grid

    @property
    def ignored(self) -> int:
        """In its targets: a pixel that nothing is learned from."""
        return IGNORED if self.first is None else UNKNOWN

    @property
    def target_dtype(self) -> np.dtype[Any]:
        """Of its targets."""
        return np.dtype(np.uint8 if self.first is None else np.int32)

    def read(
        self, window: Window
    ) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[Any]]:
        """Return pixels (band, y, x), validity and targets (y, x) of a window.

        The window may reach outside: pixels are reflected, and targets ignored there.
        """
        inside = window.intersection(self.grid.window)
        if inside == window:
            return self._read(window)
        rows = reflect(window.y, window.bottom, self.grid.height)
        columns = reflect(window.x, window.right, self.grid.width)
        span = Window.spanning(
            int(rows.min()),
            int(rows.max()) + 1,
            int(columns.min()),
            int(columns.max()) + 1,
        )
        pixels, valid, targets = self._read(span)
        at = np.ix_(rows - span.y, columns - span.x)
        targets = targets[at]
        y, x = np.arange(window.y, window.bottom), np.arange(window.x, window.right)
        outside = ((y < 0) | (y >= self.grid.height))[:, None] | (
            (x < 0) | (x >= self.grid.width)
        )[None, :]
        targets[outside] = self.ignored
        return pixels[:, at[0], at[1]], valid[at], targets

    def _read(
        self, window: Window
    ) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[Any]]:
        if self.held is not None:
            pixels, valid, targets = self.held
            at = window.slices
            return pixels[:, *at], valid[at], targets[at].copy()
        pixels, valid = self.source.read(window)
        targets = self._targets(window)
        targets[~valid] = self.ignored
        return pixels, valid, targets

    def _targets(self, window: Window) -> NDArray[Any]:
        if self.first is None:
            return np.asarray(self.places[self.labels.read(window)])
        numbers = read_objects(self.labels, window)
        numbers[numbers > 0] += self.first - 1
        return numbers.astype(self.target_dtype)


def make_scenes(
    pairs: Sequence[tuple[Source, Labels]],
    classes: Sequence[Class],
    *,
    objects: bool = False,
) -> tuple[LabelledRaster, ...]:
    """Return scenes; those that fit into memory together are read once.

    Args:
        pairs: rasters with their labels.
        classes: the class table.
        objects: targets are objects, numbered on from scene to scene, not classes.
    """
    places = np.full(65536, IGNORED, np.uint8)
    places[[c.value for c in classes]] = np.arange(len(classes))
    firsts: list[int | None] = [None] * len(pairs)
    if objects:
        counts = [len(object_classes(labels)) for _, labels in pairs]
        firsts = [1 + sum(counts[:i]) for i in range(len(counts))]
    scenes = [
        LabelledRaster(source=s, labels=t, places=places, first=first)
        for (s, t), first in zip(pairs, firsts, strict=True)
    ]
    size = sum(
        s.grid.pixels * (pixel_bytes(s.source) + s.target_dtype.itemsize + 1)
        for s in scenes
    )
    if size > _MOST_IN_MEMORY:
        return tuple(scenes)
    return tuple(replace(s, held=_whole(s)) for s in scenes)


def object_places(
    pairs: Sequence[tuple[Source, Labels]], classes: Sequence[Class]
) -> NDArray[np.int64]:
    """Return the place in the class table of each object, by number: the first is 1."""
    places = np.zeros(65536, np.int64)
    places[[c.value for c in classes]] = np.arange(len(classes))
    values = np.concatenate([object_classes(labels) for _, labels in pairs])
    return np.asarray(places[values])


def _whole(
    scene: LabelledRaster,
) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[Any]]:
    grid = scene.grid
    shape = grid.height, grid.width
    pixels = np.empty((len(scene.source.bands), *shape), scene.source.dtype)
    valid, targets = np.empty(shape, bool), np.empty(shape, scene.target_dtype)
    for window in squares(grid, _COUNTED_AT_ONCE):
        at = window.slices
        pixels[:, *at], valid[at], targets[at] = scene.read(window)
    return pixels, valid, targets


def count_cells(scene: LabelledRaster, classes: int) -> NDArray[np.int64]:
    """Return labelled pixels per `CELL` px square: (cell row, cell column, class)."""
    grid = scene.grid
    out = np.zeros((-(-grid.height // CELL), -(-grid.width // CELL), classes), np.int64)
    for window in squares(grid, _COUNTED_AT_ONCE):
        if scene.labels.touches(window):
            targets = scene.read(window)[2]
            first = window.y // CELL, window.x // CELL
            part = _cells(targets, classes)
            rows = slice(first[0], first[0] + part.shape[0])
            out[rows, first[1] : first[1] + part.shape[1]] = part
    return out


def _cells(targets: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    height, width = targets.shape
    rows, columns = -(-height // CELL), -(-width // CELL)
    y, x = np.nonzero(targets != IGNORED)
    cell = (y // CELL) * columns + x // CELL
    flat = np.bincount(
        cell * classes + targets[y, x], minlength=rows * columns * classes
    )
    return flat.reshape(rows, columns, classes)


def check_classes(
    counts: NDArray[np.int64], classes: Sequence[Class], *, least: int = 2
) -> None:
    """Raise where there is nothing to tell apart.

    Args:
        counts: (class,) labelled pixels.
        classes: the class table.
        least: classes that are needed; one will do for objects.

    Raises:
        LabelsError: no class, or one only, has labelled pixels on valid ones.
    """
    found = [c.name for c, n in zip(classes, counts, strict=True) if n]
    if not found:
        raise LabelsError("no labelled pixel lies on a valid pixel of the rasters")
    if len(found) < least:
        raise LabelsError(
            f"the labels hold one class only, {found[0]!r}: label another, or say what "
            "unlabelled pixels are with --background"
        )


def scaled_bands(scenes: Sequence[LabelledRaster], seed: int) -> tuple[Band, ...]:
    """Return the bands with scaling from a seeded sample of the training rasters.

    Offset and scale are mean and standard deviation of pixels clipped to the range of
    all but one in a thousand on either side; of all steps in time together, so that
    each band of a series is there once, as a card has them.
    """
    count = max(1000, _STATISTICS // len(scenes))
    sample = np.concatenate(
        [sample_pixels(s.source, count=count, seed=seed) for s in scenes]
    ).astype(np.float64)
    if not len(sample):
        raise LabelsError("the training rasters hold no valid pixel")
    bands = scenes[0].source.bands
    return tuple(
        _scaled(bands[at[0]], sample[:, at], static=static)
        for at, static in _columns(bands)
    )


def _columns(bands: Sequence[SourceBand]) -> list[tuple[list[int], bool]]:
    """Return where each band is at each step in time, and whether it has none."""
    groups = by_step(bands)
    static = groups.pop(None, [])
    dated = [list(at) for at in zip(*groups.values(), strict=True)]
    return [*((at, False) for at in dated), *(([i], bool(groups)) for i in static)]


def _scaled(band: SourceBand, sample: NDArray[np.float64], *, static: bool) -> Band:
    """Return a band with the scaling of its pixels (pixel, step), NaN where missing."""
    values = sample[np.isfinite(sample)]
    if not len(values):
        raise LabelsError(f"no pixel of the training rasters shows band {band.name}")
    low, high = np.percentile(values, (0.1, 99.9))
    clipped = values.clip(low, high)
    return Band(
        name=band.name,
        common_name=band.common_name,
        offset=float(np.round(clipped.mean(), 6)),
        scale=float(np.round(clipped.std(), 6)) or 1.0,
        clip=(float(low), float(high)),
        static=static,
    )
