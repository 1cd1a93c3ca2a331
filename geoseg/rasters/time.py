"""A source with time: scenes of many dates on one grid, masked, reduced pixel by pixel.

```text
items ─ observations (what one overpass saw) ─ steps in time
          │
          │  for each cell of the grid, band by band
          ├── the scenes that touch it: opened, put on the grid, float32 reflectance
          ├── masked by their quality bands; those of one overpass laid together
          └── the dates of a step reduced to one value: median, medoid, …
```

Which scenes count is decided once for each cell of a lattice, and everything else by
the pixel itself: what is read of it does not depend on the window.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import numpy as np

from geoseg.core.dates import EPOCH
from geoseg.core.grid import Grid, Window, squares
from geoseg.core.series_options import QUALITY
from geoseg.rasters.aoi import inside_area
from geoseg.rasters.covers import covering
from geoseg.rasters.layers import (
    Layer,
    Opened,
    Placed,
    Reading,
    place_layer,
    read_layer,
)
from geoseg.rasters.one_scene import OneScene
from geoseg.rasters.quality_bands import hidden_pixels
from geoseg.rasters.reduce import by_pixel, chosen, laid, reduced, taken
from geoseg.rasters.source import SourceBand, check_inside
from geoseg.rasters.time_steps import is_series, seen
from geoseg.rasters.validity import all_valid, valid_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from shapely import Geometry

    from geoseg.core.scene_masks import SceneMasker

T = TypeVar("T")
R = TypeVar("R")

_ROOM: Final = 192_000_000
"""Bytes that the dates of one cell may take."""
_SIDES: Final = (1024, 512, 256, 128)
_REMOTE_AT_ONCE: Final = 16
QUALITY_BANDS: Final = tuple(SourceBand(name=name) for name in QUALITY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """An item as the layers that are read of it."""

    name: str
    layers: tuple[Layer | None, ...]
    """For each band of the series; None where the item lacks it."""
    quality: Layer | None
    """Its quality band, where pixels are masked by it."""

    @property
    def is_used(self) -> bool:
        """Whether any of its bands is read: none is where it lacks or lost them."""
        return any(layer is not None for layer in self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overpass:
    """An observation of a series."""

    moment: datetime
    scenes: tuple[int, ...]
    """In the order in which they count where they overlap."""
    rank: float
    """The lower the better, for `best`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step in time."""

    label: str | None
    """Its start as an ISO date; None where there is only one."""
    overpasses: tuple[int, ...]
    """Oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Series:
    """Scenes of many dates as one source: float32, NaN where nothing was seen.

    Its bands are those of the oldest step, then of the next. A pixel is valid where all
    bands of at least one step are there.
    """

    name: str
    grid: Grid
    all_bands: tuple[SourceBand, ...]
    """Of every step one after the other, then those of `QUALITY` where asked for."""
    picked: tuple[int, ...]
    """Which of them are read."""
    depth: int
    """How many bands a step has."""
    scored: int
    """How many layers of a scene, after those of the bands, only score dates."""
    scenes: tuple[Scene, ...]
    overpasses: tuple[Overpass, ...]
    steps: tuple[Step, ...]
    rule: str
    """How dates are reduced; see `series_options.reduction_of`."""
    masks: tuple[str, ...] | None
    """What is masked by name; None: what usually is."""
    masker: SceneMasker | None = None
    """What of each scene is masked by what it sees."""
    looked: tuple[SourceBand, ...] = ()
    """The bands that it looks at: the last layers of a scene."""
    buffer: int
    """How many pixels around what is masked are masked too."""
    reading: Reading
    covers: tuple[bytes | None, ...]
    """What each scene covers of the grid, in pixels, as WKB; None: it may be all."""
    cell: int
    """Side of the lattice's cells in pixels."""
    area: bytes | None = None
    """Polygons in pixels, as WKB; outside is nodata."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    opened: Opened = field(default_factory=Opened, repr=False)

    @property
    def bands(self) -> tuple[SourceBand, ...]:
        """The bands that are read."""
        return tuple(self.all_bands[i] for i in self.picked)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Always float32."""
        return np.dtype(np.float32)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Which scenes, and what is made of them."""
        return self.facts

    def select(self, bands: Sequence[int]) -> Series:
        """Return the source with only these bands (0-based), in this order."""
        return replace(self, picked=tuple(self.picked[b] for b in bands))

    def with_quality(self) -> Series:
        """Return the source with the bands of `QUALITY` after those that are read."""
        made = self.depth * len(self.steps)
        numbers = range(made, made + len(QUALITY_BANDS))
        return replace(
            self,
            all_bands=(*self.all_bands[:made], *QUALITY_BANDS),
            picked=(*(p for p in self.picked if p < made), *numbers),
        )

    @property
    def used(self) -> tuple[list[Scene], list[Overpass]]:
        """The scenes of which something is read, and what overpasses they are of."""
        scenes = [scene for scene in self.scenes if scene.is_used]
        seen = (
            o for o in self.overpasses if any(self.scenes[s].is_used for s in o.scenes)
        )
        return scenes, [*seen]

    @property
    def tells_quality(self) -> bool:
        """Whether bands of `QUALITY` are read."""
        return any(band >= self.depth * len(self.steps) for band in self.picked)

    @property
    def reading_bytes(self) -> int:
        """How many bytes a read takes at most beside what it returns."""
        together = self.depth + self.scored if by_pixel(self.rule) else 1
        dates, bands = len(self.overpasses), len(self.all_bands)
        told = 3 * dates * self.tells_quality  # what each saw, of a band and of all
        looking = 0.0
        if self.masker is not None:
            looking = self.masker.working_bytes(self.cell + 2 * self.buffer)
        pixels = self.cell**2 * (_bytes_per_pixel(dates, together, bands) + told)
        return pixels + int(looking)

    def read(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read a window that lies inside the grid; see `Source.read`."""
        check_inside(self.name, self.grid, window)
        shape = (len(self.picked), window.height, window.width)
        pixels = np.full(shape, np.nan, np.float32)
        for part in squares(window, self.cell):
            self._fill(part, pixels[:, *part.relative_to(window).slices])
        return pixels, self._valid(pixels)

    def _valid(self, pixels: NDArray[np.float32]) -> NDArray[np.bool_]:
        made = self.depth * len(self.steps)
        kept = [i for i, band in enumerate(self.picked) if band < made]
        if not kept:  # of the quality of any pixel there is something to tell
            return all_valid(cast("tuple[int, int]", pixels.shape[1:]))
        bands = [self.bands[i] for i in kept]
        if is_series(bands):
            return seen(pixels[kept], bands)
        return valid_pixels(pixels[kept], [None] * len(kept))

    def _fill(self, part: Window, out: NDArray[np.float32]) -> None:
        """Fill a window (band, y, x) that lies in one cell."""
        inside = None if self.area is None else inside_area(self.area, part)
        if inside is not None and not inside.any():
            return
        touching = self._touching(part)
        kept = tuple(
            (i, scenes)
            for i, o in enumerate(self.overpasses)
            if (scenes := tuple(s for s in o.scenes if s in touching))
        )
        cut = _Cut(self, part, kept)
        cut.fill(out)
        if inside is not None:
            out[:, ~inside] = np.nan

    def _touching(self, part: Window) -> set[int]:
        side = self.cell
        y, x = part.y // side * side, part.x // side * side
        return set(covering(self._outlines(), y, y + side, x, x + side))

    def _outlines(self) -> Sequence[Geometry | None]:
        import shapely

        def made() -> list[Geometry | None]:
            # Not prepared: GEOS fills in what it prepares while it is asked, and
            # threads that ask at once crash. A rectangle is quick without.
            return [None if c is None else shapely.from_wkb(c) for c in self.covers]

        return cast("list[Geometry | None]", self.opened.get("outlines", made))

    def one(self, number: int) -> OneScene | None:
        """Return what a scene shows to a masker; None where it lacks a band."""
        scene = self.scenes[number]
        layers = [la for la in scene.layers[-len(self.looked) :] if la is not None]
        if self.masker is None or len(layers) < len(self.looked):
            return None
        bands = tuple(
            replace(band, is_reflectance=layer.told_by != "file")
            for band, layer in zip(self.looked, layers, strict=True)
        )
        return OneScene(
            name=scene.name,
            grid=self.grid,
            bands=bands,
            layers=tuple(layers),
            placed=self.placed,
        )

    def placed(self, layer: Layer) -> Placed:
        """Return a layer on the grid, opened once per process."""
        key = layer.href, layer.numbers, layer.kind
        opened = self.opened
        return cast(
            "Placed",
            opened.get(key, lambda: place_layer(layer, self.reading, opened.handles)),
        )


@dataclass(frozen=True, slots=True, kw_only=False)
class _Cut:
    """A part of a cell, with the scenes that count there."""

    series: Series
    window: Window
    kept: tuple[tuple[int, tuple[int, ...]], ...]
    """Overpasses, each with those of its scenes that touch the cell."""

    def fill(self, out: NDArray[np.float32]) -> None:
        """Fill all bands that are picked, (band, y, x)."""
        s = self.series
        told = None
        if s.tells_quality:
            days = [s.overpasses[o].moment.date() for o, _ in self.kept]
            told = Seen.of(days, self.window)
        masks = self._masks()
        last = s.depth * len(s.steps)
        which = {band for band in s.picked if band < last}
        at = {band: [i for i, b in enumerate(s.picked) if b == band] for band in which}
        # Of quality alone all bands tell, else those that are read anyway.
        wanted = sorted({band % s.depth for band in which}) or [*range(s.depth)]
        made = (self._by_pixel if by_pixel(s.rule) else self._by_band)(
            wanted, masks, told
        )
        for band, values in made:
            for i in at.get(band, ()):
                out[i] = values
        if told is not None:
            for i, band in enumerate(s.picked):
                if band >= last:
                    out[i] = told.band(QUALITY[band - last])

    def _steps(self) -> Iterator[tuple[int, list[int]]]:
        """Yield each step with the places in `kept` of its overpasses, oldest first."""
        place = {overpass: i for i, (overpass, _) in enumerate(self.kept)}
        for number, step in enumerate(self.series.steps):
            yield number, [place[o] for o in step.overpasses if o in place]

    def _by_band(
        self, bands: Sequence[int], masks: _Masks, told: Seen | None
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        s, shape = self.series, (self.window.height, self.window.width)
        stack = np.empty((len(self.kept), *shape), np.float32)
        for band in bands:
            seen = self._stack(band, masks, stack, wanted=told is not None)
            if told is not None:
                told.add(stack, seen)
            for number, places in self._steps():
                order = self._best_first(places) if s.rule == "best" else places
                dates = stack if order == [*range(len(stack))] else stack[order]
                values = reduced(s.rule, dates, np.empty(shape, np.float32))
                yield number * s.depth + band, values

    def _best_first(self, places: Sequence[int]) -> list[int]:
        ranks = [self.series.overpasses[self.kept[p][0]].rank for p in places]
        return [p for _, p in sorted(zip(ranks, places, strict=True))]

    def _by_pixel(
        self, bands: Sequence[int], masks: _Masks, told: Seen | None
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        s, shape = self.series, (self.window.height, self.window.width)
        stack = np.empty((s.depth + s.scored, len(self.kept), *shape), np.float32)
        for band in range(len(stack)):
            seen = self._stack(band, masks, stack[band], wanted=told is not None)
            if told is not None and band in bands:
                told.add(stack[band], seen)
        for number, places in self._steps():
            dates = stack[:, places]
            score = (dates[-2], dates[-1]) if s.scored else None
            which = chosen(dates[: s.depth].swapaxes(0, 1), score)
            for band in bands:
                yield number * s.depth + band, taken(dates[band], which)

    def _stack(
        self, band: int, masks: _Masks, out: NDArray[np.float32], *, wanted: bool
    ) -> list[NDArray[np.bool_]]:
        """Fill one band of all overpasses; return what they saw, masked or not."""

        def fill(place: int) -> NDArray[np.bool_]:
            return self._lay(self.kept[place][1], band, masks, out[place])

        seen = list(self._each(fill, range(len(self.kept))))
        return seen if wanted else []

    def _lay(
        self,
        scenes: Sequence[int],
        band: int,
        masks: _Masks,
        out: NDArray[np.float32],
    ) -> NDArray[np.bool_]:
        """Lay scenes of one overpass together: the first that saw a pixel counts."""
        s = self.series
        out[...] = np.nan
        claimed = np.zeros(out.shape, np.bool_)
        for number in scenes:
            layer = s.scenes[number].layers[band]
            if layer is None:
                continue
            values, valid = read_layer(s.placed(layer), layer, self.window)
            laid(values[0], valid, masks.get(number), claimed, out)
            if number != scenes[-1] and claimed.all():
                break
        return claimed

    def _masks(self) -> _Masks:
        """Return where scenes saw nothing, and what is masked, by their numbers."""
        s = self.series
        numbers = [
            n
            for _, scenes in self.kept
            for n in scenes
            if s.scenes[n].quality is not None or s.one(n) is not None
        ]
        return dict(zip(numbers, self._each(self._mask, numbers), strict=True))

    def _mask(self, number: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        s = self.series
        layer, scene = s.scenes[number].quality, s.one(number)
        around = self.window.pad(s.buffer).intersection(s.grid.window)
        assert around is not None
        nothing = np.zeros((around.height, around.width), np.bool_)
        hidden = nothing.copy()
        if layer is not None and layer.kind is not None:
            values, valid = read_layer(s.placed(layer), layer, around)
            nothing, hidden = hidden_pixels(layer.kind, values, s.masks)
            nothing = nothing | ~valid
            hidden &= valid
        if s.masker is not None and scene is not None:
            hidden |= s.masker.masked(scene, around)
        if s.buffer:
            hidden = _grown(hidden, s.buffer)
        at = self.window.relative_to(around).slices
        return nothing[at], hidden[at]

    def _each(self, function: Callable[[T], R], of: Sequence[T]) -> Iterator[R]:
        """Call a function for each, remote scenes side by side: each is a wait."""
        if self.series.facts.get("remote") and len(of) > 1:
            return _readers(os.getpid()).map(function, of)
        return map(function, of)


_Masks = dict[int, "tuple[NDArray[np.bool_], NDArray[np.bool_]]"]


@cache
def _readers(process: int) -> ThreadPoolExecutor:  # noqa: ARG001 - one for each
    return ThreadPoolExecutor(_REMOTE_AT_ONCE, thread_name_prefix="geoseg-scenes")


def _grown(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """Return a mask with all that is at most so many pixels away."""
    if not mask.any():
        return mask
    from scipy.ndimage import distance_transform_edt

    near: NDArray[np.bool_] = distance_transform_edt(~mask) <= pixels
    return near


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What of each pixel is known of its quality, overpass by overpass."""

    days: NDArray[np.float32]
    """(overpass,) when each was, in days since 1970."""
    seen: NDArray[np.bool_]
    """(overpass, y, x) whether it saw the pixel in any band, masked or not."""
    clear: NDArray[np.bool_]
    """(overpass, y, x) whether it has a value in any band."""

    @classmethod
    def of(cls, days: Sequence[date], window: Window) -> Seen:
        """Return that nothing is known, of overpasses or dates, oldest first."""
        shape = (len(days), window.height, window.width)
        return cls(
            days=np.array([(day - EPOCH).days for day in days], np.float32),
            seen=np.zeros(shape, np.bool_),
            clear=np.zeros(shape, np.bool_),
        )

    def add(
        self, stack: NDArray[np.float32], seen: Sequence[NDArray[np.bool_]]
    ) -> None:
        """Add what one band tells."""
        for i, one in enumerate(seen):
            self.seen[i] |= one
            self.clear[i] |= ~np.isnan(stack[i])

    def band(self, name: str) -> NDArray[np.float32]:
        """Return one of `QUALITY`, (y, x)."""
        count: NDArray[np.float32] = self.clear.sum(axis=0, dtype=np.float32)
        if name == "observations":
            return count
        if name == "clouds":
            seen = self.seen.sum(axis=0, dtype=np.float32)
            with np.errstate(invalid="ignore", divide="ignore"):
                share: NDArray[np.float32] = (seen - count) / seen
            return share
        if not len(self.days):
            return np.full(count.shape, np.nan, np.float32)
        at = np.argmax(self.clear if name == "first" else self.clear[::-1], axis=0)
        days = self.days if name == "first" else self.days[::-1]
        return np.where(count > 0, days[at], np.float32(np.nan))


def cell_side(dates: int, together: int, bands: int) -> int:
    """Return the side of cells whose dates fit into memory.

    Args:
        dates: How many there are.
        together: How many bands of theirs are held at once.
        bands: How many are made.
    """
    pixel = _bytes_per_pixel(dates, together, bands)
    return next((s for s in _SIDES if s * s * pixel <= _ROOM), _SIDES[-1])


def _bytes_per_pixel(dates: int, together: int, bands: int) -> int:
    """Return what a pixel takes: dates twice, masks, results, one layer being read."""
    return dates * (8 * together + 3) + 8 * bands + 32
