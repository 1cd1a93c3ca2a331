"""Many rasters side by side as one, and rasters stacked into one: bands, dates.

The first file's CRS, pixel size and alignment are the mosaic's. Files that share them,
to a tenth of a pixel, are pasted as they are; others are brought onto its pixels
(`onto`). Where files overlap, a pixel comes from the first, in the given order, that
has a valid one there; globs and folders are in the order of their names.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from affine import Affine

from geoseg.core.grid import Grid, Window, aligned, same_crs
from geoseg.errors import RasterError
from geoseg.rasters.bands import band_key, listed
from geoseg.rasters.numbers import alike
from geoseg.rasters.source import (
    Derived,
    Renamed,
    Source,
    SourceBand,
    check_inside,
    noted,
    steps_of,
    unique,
)
from geoseg.rasters.time_steps import floating, is_series, oldest_first, seen
from geoseg.rasters.unlike import dtypes_told, unlike
from geoseg.rasters.validity import all_valid, both, is_all_valid
from geoseg.rasters.warp import footprint, onto

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Joined:
    """Several sources as one, each on pixels of one grid."""

    name: str
    grid: Grid
    parts: tuple[Source, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """What holds the pixels of all of them."""
        return _common_dtype(self.parts)

    @property
    def identity(self) -> Mapping[str, Any]:
        """How many, and a digest of who they are."""
        return {"files": len(self.parts), "digest": digest(self.parts)}

    @property
    def notes(self) -> tuple[str, ...]:
        """What there is to say of any of them, each once."""
        return unique(note for part in self.parts for note in part.notes)

    def on_parts(self, change: Callable[[Source], Source]) -> Self:
        """Return the same, made of what `change` makes of each part."""
        return replace(self, parts=tuple(change(part) for part in self.parts))


def _common_dtype(parts: Sequence[Source]) -> np.dtype[Any]:
    return np.result_type(*{part.dtype for part in parts})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mosaic(Joined):
    """Sources side by side on one grid, in the order in which they win."""

    places: NDArray[np.int64]
    """(part, 4) first row, row after the last, first column, column after the last."""

    @property
    def bands(self) -> tuple[SourceBand, ...]:
        """The first one's bands."""
        return self.parts[0].bands

    def select(self, bands: Sequence[int]) -> Mosaic:
        """Return the source with only these bands (0-based), in this order."""
        return self.on_parts(lambda part: part.select(bands))

    def read(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read a window that lies inside the grid; see `Source.read`."""
        check_inside(self.name, self.grid, window)
        touching = list(self._touching(window))
        dtype = self.dtype
        if len(touching) == 1 and touching[0][1].intersection(window) == window:
            part, place = touching[0]
            if part.dtype == dtype:
                return part.read(window.relative_to(place))
        if is_series(self.bands):
            return self._read_series(window, touching)
        pixels = np.zeros((len(self.bands), window.height, window.width), dtype)
        valid = np.zeros((window.height, window.width), np.bool_)
        for part, place in touching:
            shared = place.intersection(window)
            if shared is None:
                continue
            rows, columns = shared.relative_to(window).slices
            have = valid[rows, columns]
            if not have.all():
                theirs = part.read(shared.relative_to(place))
                _paste(pixels[:, rows, columns], have, *theirs)
        return pixels, all_valid(valid.shape) if valid.all() else valid

    def _read_series(
        self, window: Window, touching: Sequence[tuple[Source, Window]]
    ) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Likewise of a series: what one part misses at a step another may show."""
        shape = (len(self.bands), window.height, window.width)
        pixels = np.full(shape, np.nan, self.dtype)
        for part, place in touching:
            shared = place.intersection(window)
            if shared is None:
                continue
            ours = pixels[:, *shared.relative_to(window).slices]
            theirs, valid = part.read(shared.relative_to(place))
            np.copyto(ours, theirs, where=np.isnan(ours) & valid, casting="same_kind")
        return pixels, seen(pixels, self.bands)

    def _touching(self, window: Window) -> Iterator[tuple[Source, Window]]:
        y, bottom, x, right = self.places.T
        touching = (
            (y < window.bottom)
            & (bottom > window.y)
            & (x < window.right)
            & (right > window.x)
        )
        for i in np.flatnonzero(touching):
            yield self.parts[i], Window.spanning(*(int(n) for n in self.places[i]))


def _paste(
    pixels: NDArray[np.generic],
    valid: NDArray[np.bool_],
    theirs: NDArray[np.generic],
    their_valid: NDArray[np.bool_],
) -> None:
    """Fill in place what is not valid yet with what is."""
    if is_all_valid(their_valid) and not valid.any():
        pixels[...] = theirs
        valid[...] = True
        return
    new = their_valid & ~valid
    np.copyto(pixels, theirs, where=new, casting="same_kind")
    valid |= new


def mosaic(sources: Sequence[Source], name: str) -> Source:
    """Return sources side by side; earlier ones win where they overlap.

    Raises:
        RasterError: Their bands differ in number, or one cannot be brought onto the
            first one's pixels.
    """
    if len(sources) == 1:
        return sources[0]
    first = sources[0]
    for other in sources:
        if len(other.bands) != len(first.bands):
            raise RasterError(
                f"rasters of one mosaic have the same bands: {first.name} has "
                f"{len(first.bands)} ({listed(first.bands)}), {other.name} has "
                f"{len(other.bands)} ({listed(other.bands)}); give those that are meant"
            )
        if steps_of(other.bands) != steps_of(first.bands):
            raise RasterError(
                f"rasters of one mosaic have the same steps in time: {first.name} has "
                f"{_steps(first)}, {other.name} has {_steps(other)}"
            )
    sources, otherwise = in_order(sources)
    sources, changed = alike([turned(s, first.grid) for s in sources])
    if not changed:
        changed = dtypes_told(sources)
    places = [_place(source, first.grid) for source in sources]
    y, x = min(p.y for p in places), min(p.x for p in places)
    bottom, right = max(p.bottom for p in places), max(p.right for p in places)
    joined = Mosaic(
        name=name,
        grid=first.grid[Window.spanning(y, bottom, x, right)],
        parts=tuple(
            _placed(source, first.grid, place)
            for source, place in zip(sources, places, strict=True)
        ),
        places=np.array(
            [(p.y - y, p.bottom - y, p.x - x, p.right - x) for p in places], np.int64
        ),
    )
    said = (otherwise, changed, *unlike(sources, first.grid))
    return noted(joined, *(f"{name}: {text}" for text in said if text))


def in_order(sources: Sequence[Source]) -> tuple[Sequence[Source], str | None]:
    """Return sources with their bands in the first one's order, and what was done."""
    first = _known_as(sources[0])
    known = [_known_as(source) for source in sources]
    others = [k for k in known if k != first]
    by_number = any(band.by_number for s in sources for band in s.bands)
    if not others or by_number:  # an order that was asked for
        return sources, None
    count = f"{len(others)} of its {len(sources)} rasters"
    if len({*first}) == len(first) and all({*k} == {*first} for k in others):
        ordered = [
            s if k == first else s.select([k.index(band) for band in first])
            for s, k in zip(sources, known, strict=True)
        ]
        return ordered, f"{count} have the bands in another order: they go by name"
    example = next(s for s, k in zip(sources, known, strict=True) if k != first)
    return sources, (
        f"{count} have other names for their bands ({listed(example.bands)} instead of "
        f"{listed(sources[0].bands)}): they are joined by position"
    )


def _known_as(source: Source) -> list[tuple[str, str | None]]:
    """Return what the bands of a source are known as, and their steps."""
    return [(b.common_name or band_key(b.name), b.step) for b in source.bands]


def _steps(source: Source) -> str:
    return ", ".join(steps_of(source.bands)) or "none"


def turned(source: Source, lattice: Grid) -> Source:
    """Return a source on the other side of 180 degrees where that is nearer.

    In degrees -179.5 is 180.5: neighbours across the antimeridian stay neighbours.
    """
    turn = _full_turn(lattice.crs)
    if turn is None or not same_crs(source.grid.crs, lattice.crs):
        return source
    middles = [(g.bounds[0] + g.bounds[2]) / 2 for g in (source.grid, lattice)]
    turns = round((middles[1] - middles[0]) / turn)
    if not turns:
        return source
    moved = Affine.translation(turns * turn, 0) @ source.grid.transform
    return Moved(source=source, target=replace(source.grid, transform=moved))


@cache
def _full_turn(crs: str | None) -> float | None:
    """Return how many units of a geographic CRS go once around, else None."""
    if crs is None:
        return None
    from pyproj import CRS

    known = CRS.from_user_input(crs)
    if not known.is_geographic:
        return None
    return 2 * np.pi / known.axis_info[0].unit_conversion_factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved(Derived):
    """A source whose pixels are said to lie elsewhere."""

    target: Grid
    """Where; of the same shape."""

    @property
    def grid(self) -> Grid:
        """Where its pixels are."""
        return self.target


def _place(source: Source, lattice: Grid) -> Window:
    """Return the pixels of `lattice`, unbounded, that the source covers."""
    exact = aligned(source.grid, lattice)
    if exact is not None:
        return exact
    if (source.grid.crs is None) != (lattice.crs is None):
        raise RasterError(
            f"{source.name} cannot join the mosaic: of it and the first raster one has "
            "a CRS and the other has none; set it with gdal_edit.py -a_srs"
        )
    try:
        return footprint(source.grid, lattice)
    except RasterError as error:
        raise RasterError(f"{source.name} cannot join the mosaic: {error}") from error


def _placed(source: Source, lattice: Grid, place: Window) -> Source:
    """Return the source on exactly the pixels of its place."""
    exact = aligned(source.grid, lattice) is not None
    return source if exact else onto(source, lattice[place])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stack(Joined):
    """Sources of one grid as the bands of one source."""

    layers: tuple[tuple[int, int], ...]
    """Which part, and which of its bands, each band is."""

    @property
    def bands(self) -> tuple[SourceBand, ...]:
        """Their bands, those of the oldest step first."""
        return tuple(self.parts[part].bands[band] for part, band in self.layers)

    @property
    def dtype(self) -> np.dtype[Any]:
        """What holds the pixels of all of them, and NaN of a series."""
        dtype = _common_dtype(self.parts)
        return floating(dtype) if is_series(self.bands) else dtype

    def select(self, bands: Sequence[int]) -> Stack:
        """Return the source with only these bands (0-based), in this order.

        The grid stays the finest of all of them, also where only coarser ones are left.
        """
        layers = [self.layers[b] for b in bands]
        kept = sorted({part for part, _ in layers})
        of_part = {p: sorted({b for q, b in layers if q == p}) for p in kept}
        return replace(
            self,
            parts=tuple(self.parts[p].select(of_part[p]) for p in kept),
            layers=tuple((kept.index(p), of_part[p].index(b)) for p, b in layers),
        )

    def read(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read a window that lies inside the grid; see `Source.read`."""
        check_inside(self.name, self.grid, window)
        shape = (len(self.layers), window.height, window.width)
        pixels = np.empty(shape, self.dtype)
        valid = all_valid((window.height, window.width))
        series = is_series(self.bands)
        for i, part in enumerate(self.parts):
            theirs, their_valid = part.read(window)
            valid = both(valid, their_valid)
            for band, (of, which) in zip(pixels, self.layers, strict=True):
                if of == i:
                    band[...] = theirs[which]
                    if series:
                        band[~their_valid] = np.nan
        return pixels, seen(pixels, self.bands) if series else valid


def stack(sources: Sequence[Source], name: str) -> Source:
    """Return sources as the bands of one source, on the grid of the finest of them.

    Bands of the oldest step come first, those without a step last.

    Raises:
        RasterError: They cannot be brought onto one grid.
    """
    finest = min(sources, key=lambda s: abs(s.grid.transform.determinant))
    grid = finest.grid
    parts = []
    for source in sources:
        if source.grid.crs is None and grid.crs is not None:
            raise RasterError(
                f"{source.name} has no CRS, unlike {finest.name}: they cannot be "
                "stacked; set it with gdal_edit.py -a_srs"
            )
        exact = aligned(source.grid, grid) == grid.window
        parts.append(source if exact else onto(source, grid))
    layers = [(p, b) for p, part in enumerate(parts) for b in range(len(part.bands))]
    order = oldest_first([parts[p].bands[b] for p, b in layers])
    return Stack(
        name=name,
        grid=grid,
        parts=tuple(parts),
        layers=tuple(layers[i] for i in order),
    )


def dated_stack(dated: Sequence[tuple[str | None, Source]]) -> Source:
    """Return rasters of one date each as one source, oldest first.

    Args:
        dated: ISO date of each, None where it tells itself; and the raster.

    Raises:
        RasterError: One has no date, two have the same, or they cannot be brought onto
            one grid.
    """
    parts: dict[str, Source] = {}
    for told, source in dated:
        own = steps_of(source.bands)
        step = told or (own[0] if len(own) == 1 else None)
        if step is None or len(own) > 1:
            raise RasterError(
                f"{source.name} has {f'{len(own)} dates' if own else 'no date'}: give "
                "{date: raster} for each, such as {'2025-04-01': 'april.tif'}"
            )
        if step in parts:
            raise RasterError(
                f"{source.name} and {parts[step].name} are both of {step}: lay those "
                "of one date together first"
            )
        bands = tuple(replace(band, step=step) for band in source.bands)
        parts[step] = Renamed(source=source, names=bands)
    sources, changed = alike([*parts.values()])
    name = f"{len(parts)} dates from {sources[0].name}"
    return noted(stack(sources, name), f"{name}: {changed}" if changed else None)


def digest(sources: Sequence[Source]) -> str:
    """Return one number for who all of them are."""
    told = json.dumps([dict(s.identity) for s in sources], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()
