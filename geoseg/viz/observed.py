"""What masks tell of how often their pixels were seen, added up block by block."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.dates import EPOCH
from geoseg.core.series_options import QUALITY
from geoseg.maps.arrays import SHARE, kind_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.core.grid import Window
    from geoseg.maps.reader import ClassReader

BLANK = kind_of(QUALITY[0], ()).fill
"""What no number of observations is."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Observed:
    """How often the pixels of a part of a map were seen, and when."""

    pixels: NDArray[np.int64]
    """(65535,) how many were seen so often."""
    clouds: NDArray[np.int64]
    """(255,) how many were masked in this share of what was seen, in 254ths."""
    days: tuple[int, int] | None
    """The first and the last, since 1970; None where nothing was seen."""

    def __add__(self, other: Observed) -> Observed:
        both = [d for d in (self.days, other.days) if d is not None]
        days = (min(d[0] for d in both), max(d[1] for d in both)) if both else None
        return Observed(
            pixels=self.pixels + other.pixels,
            clouds=self.clouds + other.clouds,
            days=days,
        )

    @property
    def counts(self) -> NDArray[np.intp]:
        """Which numbers of observations occur."""
        return np.flatnonzero(self.pixels)

    @property
    def mean(self) -> float:
        """Of the numbers of observations."""
        counts = self.counts
        return float(self.pixels[counts] @ counts / self.pixels.sum())

    @property
    def never(self) -> float:
        """Which share of the pixels was never seen."""
        return float(self.pixels[0] / self.pixels.sum())

    @property
    def cloudy(self) -> float | None:
        """Which share of what was seen was masked; None where nobody knows."""
        if not (total := self.clouds.sum()):
            return None
        return float(self.clouds @ (np.arange(SHARE + 1) / SHARE) / total)

    @property
    def dates(self) -> tuple[date, date] | None:
        """The first and the last."""
        if self.days is None:
            return None
        first, last = (EPOCH + timedelta(days=day) for day in self.days)
        return first, last


def tells(reader: ClassReader) -> bool:
    """Whether a map knows how often its pixels were seen."""
    return set(QUALITY) <= set(reader.arrays)


def observed(reader: ClassReader, window: Window) -> tuple[Observed, NDArray[Any]]:
    """Return how often the pixels of a window were seen: together, and each (y, x)."""
    found: list[Any] = [reader.read(name, window) for name in QUALITY]
    counts, clouds, first, last = found
    there = (counts > 0) & (counts < BLANK)
    days = (int(first[there].min()), int(last[there].max())) if there.any() else None
    total = Observed(
        pixels=np.bincount(counts.ravel(), minlength=BLANK + 1)[:BLANK],
        clouds=np.bincount(clouds.ravel(), minlength=256)[: SHARE + 1],
        days=days,
    )
    return total, counts
