"""Sources with time: what is seen at which step, and which steps a model means.

The bands of such a source are those of its oldest step, then of the next
(`SourceBand.step`); bands without a step, such as elevation, do not change. What a band
does not show at a step is NaN. A pixel is valid where at least one step shows it in all
of its bands, and all bands without a step do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from geoseg.core.times import Times
from geoseg.errors import RasterError
from geoseg.rasters.bands import match_bands, matched
from geoseg.rasters.source import (
    Named,
    Renamed,
    Source,
    SourceBand,
    by_step,
    noted,
    steps_of,
)
from geoseg.rasters.validity import all_valid

if TYPE_CHECKING:
    from numpy.typing import NDArray


def is_series(bands: Sequence[SourceBand]) -> bool:
    """Whether bands show several steps in time: then NaN is what a step does not."""
    return len(steps_of(bands)) > 1


def floating(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of floats that holds all numbers of a dtype, and NaN."""
    if dtype.kind == "f":
        return dtype
    return np.dtype(np.float32 if dtype.itemsize <= 2 else np.float64)


def seen(
    pixels: NDArray[np.floating[Any]], bands: Sequence[SourceBand]
) -> NDArray[np.bool_]:
    """Return which pixels of a series are valid, (y, x).

    Args:
        pixels: (band, y, x), NaN where a band shows nothing.
        bands: Tell the step of each.
    """
    groups = by_step(bands)
    always = groups.pop(None, [])
    anywhere = np.zeros(pixels.shape[1:], np.bool_)
    for places in groups.values():
        if not anywhere.all():
            anywhere |= np.isfinite(pixels[places]).all(axis=0)
    if always:
        anywhere &= np.isfinite(pixels[always]).all(axis=0)
    shape = (pixels.shape[1], pixels.shape[2])
    return all_valid(shape) if anywhere.all() else anywhere


def of_each_band(
    bands: Sequence[SourceBand],
    pixels: NDArray[Any],
    valid: NDArray[np.bool_],
    sums: NDArray[np.float64],
    out_valid: NDArray[np.bool_],
    kernel: Callable[..., None],
    places: tuple[Any, ...],
) -> None:
    """Bring pixels onto others: of a series each band by what itself shows.

    Args:
        bands: Tell whether it is a series.
        pixels: (band, y, x) of the source.
        valid: (y, x).
        sums: (band, y, x), zeros, to be filled.
        out_valid: (y, x) of those, False, to be filled.
        kernel: Called with pixels, which are valid, `places`, sums and which of those
            are; does it for bands that are valid in the same pixels.
        places: What tells it where pixels come.
    """
    pixels, valid = np.ascontiguousarray(pixels), np.ascontiguousarray(valid)
    if not is_series(bands):
        kernel(pixels, valid, *places, sums, out_valid)
        return
    for i, band in enumerate(pixels):
        there = np.zeros_like(out_valid)
        shown = valid & np.isfinite(band)
        kernel(pixels[i : i + 1], shown, *places, sums[i : i + 1], there)
        sums[i][~there] = np.nan
    out_valid[...] = seen(sums, bands)


def oldest_first(bands: Sequence[SourceBand]) -> list[int]:
    """Return the places of bands, oldest step first, those without a step last."""
    return sorted(
        range(len(bands)), key=lambda i: (bands[i].step is None, bands[i].step or "")
    )


def iso_day(moment: Any, where: str) -> str:  # noqa: ANN401 - a date of any library
    """Return a moment as an ISO date, of a period that of its start.

    Raises:
        RasterError: It is none, or only of another calendar.
    """
    moment = getattr(moment, "start_time", moment)
    try:
        if isinstance(moment, str):
            return datetime.fromisoformat(moment.strip().upper()).date().isoformat()
        if isinstance(moment, date):
            return moment.isoformat()[:10]
        if hasattr(moment, "strftime"):  # of cftime, maybe the 30th of February
            return date.fromisoformat(moment.strftime("%Y-%m-%d")).isoformat()
        return str(np.datetime64(moment, "D").item().isoformat())  # NaT is None
    except (AttributeError, TypeError, ValueError) as error:
        raise RasterError(
            f"{where}: {moment} is not a date: leave it out, or bring the dates into "
            "the usual calendar, as array.convert_calendar('standard') does"
        ) from error


class WantedBand(Named, Protocol):
    """A band that a model wants, perhaps of a step in time."""

    @property
    def time(self) -> int | None:
        """Which of the model's steps it shows, 0 the oldest; None: of no step."""


def matched_in_time(
    source: Source, wanted: Sequence[WantedBand], times: Times | None
) -> Source:
    """Return the source with the bands that a model wants, each of its step.

    Raises:
        RasterError: A step or a band is missing, which is named; or two could be meant.
    """
    steps = steps_of(source.bands)
    if times is None and len(steps) <= 1:
        return matched(source, wanted)
    if times is None:
        raise RasterError(
            f"there are {len(steps)} dates of {source.name} ({steps[0]} … "
            f"{steps[-1]}), but the model takes one: choose it, make one image of them "
            '(--reduce without --every), or say "times" in the card of a model that '
            "takes several"
        )
    if not steps and times.count > 1:
        raise RasterError(
            f"{source.name} has no dates, but the model takes {times.told}: give an "
            "array with a dim time, or {date: raster} for each"
        )
    picked = times.pick(steps, source.name) if steps else (None,)
    groups = by_step(source.bands)
    at: list[int] = [0] * len(wanted)
    notes: list[str] = []
    for k, step in enumerate(picked):
        places = [i for i, w in enumerate(wanted) if w.time == k]
        pool = groups[step]
        _match(source, pool, [wanted[i] for i in places], at, places, step)
        if k == 0:
            first = matched(source.select(pool), [wanted[i] for i in places])
            notes = [n for n in first.notes if n not in source.notes]
    fixed = [i for i, w in enumerate(wanted) if w.time is None]
    if fixed:  # else what a first step shows, where an array repeats it at each
        pool = groups.get(None) or groups[picked[0]]
        _match(source, pool, [wanted[i] for i in fixed], at, fixed, None)
    if times.count > 1:
        notes.append(
            f"{source.name}: {times.count} dates, {', '.join(map(str, picked))}: where "
            "one shows nothing the model gets its fill; what none shows is nodata"
        )
    chosen = source.select(at)
    bands = [
        replace(b, step=None) if i in fixed else b for i, b in enumerate(chosen.bands)
    ]
    if bands != [*chosen.bands]:
        chosen = Renamed(source=chosen, names=tuple(bands))
    return noted(chosen, *notes)


def _match(
    source: Source,
    pool: Sequence[int],
    wanted: Sequence[WantedBand],
    at: list[int],
    places: Sequence[int],
    step: str | None,
) -> None:
    """Write into `at[places]` which bands of a pool are wanted."""
    try:
        found = match_bands(source.select(pool), wanted)
    except RasterError as error:
        raise RasterError(f"at {step}: {error}" if step else str(error)) from error
    for place, i in zip(places, found, strict=True):
        at[place] = pool[i]
