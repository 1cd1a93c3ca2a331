"""What every source offers, whatever its pixels come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from geoseg.core.text import counted
from geoseg.errors import RasterError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from geoseg.core.grid import Grid, Window


class Named(Protocol):
    """A band by its names: one of a raster, or one that a model wants."""

    @property
    def name(self) -> str:
        """Its own name, such as `B08`."""

    @property
    def common_name(self) -> str | None:
        """STAC common name, such as `nir`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceBand:
    """One band of a source."""

    name: str
    """Its description, its file's band name (`B08`), or `1`, `2`, … where unnamed."""
    common_name: str | None = None
    """STAC common name (`red`, `nir`, …) where it can be known, else None."""
    scale: float = 1.0
    """What a stored number is multiplied by to be in physical units: reflectance from 0
    to 1, mostly."""
    offset: float = 0.0
    """What is added after that."""
    number: int | None = field(default=None, compare=False)
    """Its 1-based number in the file; None where it lies in no file."""
    by_number: bool = field(default=False, compare=False)
    """Whether it was asked for by its number: such bands are the model's, in order."""
    step: str | None = None
    """Start of the step in time that it shows, as an ISO date (`2025-04-01`); None of a
    source without time, and of what does not change (elevation)."""
    is_reflectance: bool = field(default=False, compare=False)
    """Whether its numbers are known to be reflectance themselves."""

    @property
    def is_scaled(self) -> bool:
        """Whether its numbers are not in physical units themselves."""
        return (self.scale, self.offset) != (1.0, 0.0)


@runtime_checkable
class Source(Protocol):
    """Where pixels come from: a recipe that can be pickled, never an open handle.

    `read` may be called from several threads at once. What it returns for a pixel does
    not depend on the window that the pixel was read in. Pixels are the stored numbers;
    what they mean stands in the bands' scale and offset (`geoseg.rasters.numbers`).

    A source with time has the bands of each of its steps one after the other, oldest
    first, each with its `step`. What a band does not show at a step is NaN there, and
    never taken from another date; sources of several steps have floating pixels.
    """

    @property
    def name(self) -> str:
        """Short name for messages; secrets in URLs are not part of it."""

    @property
    def grid(self) -> Grid:
        """Where its pixels are."""

    @property
    def bands(self) -> tuple[SourceBand, ...]:
        """Its bands, in the order of the first axis of what `read` returns."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of its pixels."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """JSON-able facts that change when the pixels may have (size, mtime, etag)."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was heard, guessed or left out, a line each, that changes the map."""

    def select(self, bands: Sequence[int]) -> Source:
        """Return the source with only these bands (0-based), in this order."""

    def read(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read a window that lies inside the grid.

        Returns:
            Pixels (band, y, x) in `dtype`, and which pixels are valid, (y, x) bool: in
            no band nodata, masked out, NaN or infinite; nor transparent; and inside the
            AOI. With time: in all bands of at least one step, and in all bands without
            one. Where every pixel is valid the latter may be a read-only broadcast of
            one True, which costs no memory: copy it before writing into it.
        """


def check_inside(name: str, grid: Grid, window: Window) -> None:
    """Raise RasterError where `window` is empty or reaches outside of `grid`."""
    if (
        window.height < 1
        or window.width < 1
        or window.intersection(grid.window) != window
    ):
        raise RasterError(
            f"{name}: rows {window.y} … {window.bottom}, columns {window.x} … "
            f"{window.right} are not inside its {grid.height} x {grid.width} pixels"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """A source made of another one: what a kind does not change is the other's."""

    source: Source

    @property
    def name(self) -> str:
        """Short name for messages."""
        return self.source.name

    @property
    def grid(self) -> Grid:
        """Where its pixels are."""
        return self.source.grid

    @property
    def bands(self) -> tuple[SourceBand, ...]:
        """The source's bands."""
        return self.source.bands

    @property
    def dtype(self) -> np.dtype[Any]:
        """The source's dtype."""
        return self.source.dtype

    @property
    def identity(self) -> Mapping[str, Any]:
        """Facts that change when the pixels may have."""
        return self.source.identity

    @property
    def notes(self) -> tuple[str, ...]:
        """The source's."""
        return self.source.notes

    def select(self, bands: Sequence[int]) -> Self:
        """Return the source with only these bands (0-based), in this order."""
        return self.on_parts(lambda part: part.select(bands))

    def on_parts(self, change: Callable[[Source], Source]) -> Self:
        """Return the same, made of what `change` makes of its source."""
        return replace(self, source=change(self.source))

    def read(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read a window that lies inside the grid; see `Source.read`."""
        return self.source.read(window)


@dataclass(frozen=True, slots=True, kw_only=True)
class Renamed(Derived):
    """A source whose bands are called otherwise."""

    names: tuple[SourceBand, ...]
    """A name for each band of `source`, in its order."""

    def __post_init__(self) -> None:
        if len(self.names) != len(self.source.bands):
            raise RasterError(
                f"{self.name} has {counted(len(self.source.bands), 'band')}, but "
                f"{len(self.names)} names were given"
            )

    @property
    def bands(self) -> tuple[SourceBand, ...]:
        """The names that were given."""
        return self.names

    def select(self, bands: Sequence[int]) -> Renamed:
        """Return the source with only these bands (0-based), in this order."""
        return Renamed(
            source=self.source.select(bands), names=tuple(self.names[b] for b in bands)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted(Derived):
    """A source of which there is more to say."""

    more: tuple[str, ...]
    """What, a line each."""

    @property
    def notes(self) -> tuple[str, ...]:
        """The source's, and more."""
        return unique((*self.source.notes, *self.more))


def steps_of(bands: Sequence[SourceBand]) -> tuple[str, ...]:
    """Return the steps in time that bands show, in their order; empty without time."""
    return unique(band.step for band in bands if band.step is not None)


def by_step(bands: Sequence[SourceBand]) -> dict[str | None, list[int]]:
    """Return the places of the bands of each step (0-based), in the order of steps."""
    groups: dict[str | None, list[int]] = {}
    for i, band in enumerate(bands):
        groups.setdefault(band.step, []).append(i)
    return groups


def noted(source: Source, *more: str | None) -> Source:
    """Return the source with more notes, of which None says nothing."""
    said = tuple(text for text in more if text)
    return Noted(source=source, more=said) if said else source


def unique(notes: Iterable[str]) -> tuple[str, ...]:
    """Return each note once, in the order in which they first come."""
    return tuple(dict.fromkeys(notes))


def reading_bytes(source: Source) -> int:
    """Return what a read takes at most beside what it returns, where that is much.

    Sources that hold many dates at once say it; others take little more.
    """
    own = int(getattr(source, "reading_bytes", 0))
    return max([own, *map(reading_bytes, _inner(source))])


def is_far(source: Source) -> bool:
    """Whether any of a source's pixels come over a network."""
    return getattr(source, "is_far", False) or any(map(is_far, _inner(source)))


def pixel_bytes(source: Source) -> int:
    """Return the bytes of a pixel, all bands together."""
    return len(source.bands) * source.dtype.itemsize


def tile_of(source: Source) -> tuple[int, int] | None:
    """Return rows and columns of what is decoded at once, of a source that is one file.

    None where it is made of several, or read on another grid than its own.
    """
    while (inner := getattr(source, "source", None)) and inner.grid == source.grid:
        source = inner
    return getattr(source, "tile", None)


def _inner(source: Source) -> list[Source]:
    """Return the sources that one is made of."""
    inner = [*getattr(source, "parts", ())]
    if hasattr(source, "source"):
        inner.append(source.source)
    return inner
