"""How often each pixel of a source with time was seen, read with its pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING

import numpy as np

from geoseg.core.series_options import QUALITY
from geoseg.errors import RasterError
from geoseg.rasters.numbers import Converted
from geoseg.rasters.resample import OnGrid
from geoseg.rasters.source import Derived, Renamed, Source, SourceBand, by_step
from geoseg.rasters.time import QUALITY_BANDS, Seen, Series
from geoseg.rasters.time_steps import is_series

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.core.grid import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class OfDates(Derived):
    """A source of several dates, of no masks, with bands of `QUALITY` of them."""

    @property
    def bands(self) -> tuple[SourceBand, ...]:
        """The source's, and those of quality."""
        return (*self.source.bands, *QUALITY_BANDS)

    def read(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read a window that lies inside the grid; see `Source.read`."""
        pixels, valid = self.source.read(window)
        steps = {s: at for s, at in by_step(self.source.bands).items() if s is not None}
        seen = Seen.of([date.fromisoformat(step) for step in steps], window)
        for clear, places in zip(seen.clear, steps.values(), strict=True):
            clear[...] = np.isfinite(pixels[places]).any(axis=0)
        told = np.stack([seen.band(name) for name in QUALITY]).astype(pixels.dtype)
        return np.concatenate([pixels, told]), valid


def with_quality(source: Source) -> Source:
    """Return a source with bands of `QUALITY` after its own, so that one read is both.

    Raises:
        RasterError: It is not made of scenes of many dates, or not on their own grid.
    """
    if isinstance(source, Series):
        return source.with_quality()
    if isinstance(source, OnGrid):
        raise RasterError(
            f"--quality tells of the pixels that the scenes are put on, and "
            f"{source.name} is resampled after that: add --resolution native"
        )
    if not isinstance(source, Derived):
        if is_series(source.bands):
            return OfDates(source=source)
        raise RasterError(
            f"--quality tells how often scenes of many dates saw a pixel, and "
            f"{source.name} is of no dates: leave it out, or give scenes (stac:NAME, a "
            "list of items with --dates, or files with --dates-from names)"
        )
    inner = with_quality(source.source)
    if isinstance(source, Renamed):
        told = inner.bands[-len(QUALITY) :]
        return Renamed(source=inner, names=(*source.names, *told))
    if isinstance(source, Converted):
        told = inner.bands[-len(QUALITY) :]
        return replace(
            source,
            source=inner,
            factors=(*source.factors, *(1.0 for _ in told)),
            shifts=(*source.shifts, *(0.0 for _ in told)),
            bands_then=(*source.bands_then, *told),
        )
    return source.on_parts(with_quality)
