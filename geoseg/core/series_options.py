"""How scenes of many dates are searched, masked and reduced: what commands share."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import takewhile
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field

from geoseg.core.indices import INDICES
from geoseg.core.options import Cli, Options, Section
from geoseg.core.scene_masks import PREFIX

Resampling = Literal["auto", "nearest", "bilinear"]
DatesFrom = Literal["items", "names"]

COLLECTION: Final = "stac:"
"""What makes a name that of an archive's collection where rasters are taken."""
MASKED: Final = ("clouds", "shadows", "cirrus", "adjacent", "haze")
"""What is masked where nothing else is asked for; nodata and defects always are."""
MASKS: Final = (*MASKED, "snow", "water", "dark", "unclassified")
"""What of a quality band can be masked by name."""
QUALITY: Final = ("observations", "clouds", "first", "last")
"""What is told of each pixel: how often it was seen, which share of that was masked,
and when it was seen first and last, in days since 1970."""
_REDUCTIONS: Final = ("median", "medoid", "mean", "first", "best", "percentile")
_EVERY: Final = re.compile(
    r"date|day|week|month|year"
    r"|(?P<count>\d{1,4}) ?(?P<unit>days?|weeks?|months?|years?)"
)


def reduction_of(text: str | None) -> str | None:
    """Return a way of reducing, or raise ValueError.

    >>> reduction_of("percentile:25"), reduction_of("best:ndvi")
    ('percentile:25', 'best:ndvi')
    """
    if text is None:
        return None
    name, _, rest = text.partition(":")
    if name == "percentile" and _is_percentage(rest):
        return text
    if name == "best" and (not rest or rest in INDICES):
        return text
    if name in _REDUCTIONS[:4] and not rest:
        return text
    ways = (
        "median, medoid, mean, first, best, best:INDEX, percentile:0 … percentile:100"
    )
    known = ", ".join(INDICES)
    raise ValueError(f"write one of {ways}; an INDEX is one of {known}")


def _is_percentage(text: str) -> bool:
    try:
        return 0 <= float(text) <= 100
    except ValueError:
        return False


def every_of(text: str | None) -> str | None:
    """Return a spacing of steps, or raise ValueError.

    >>> every_of("10 days"), every_of("month")
    ('10 days', 'month')
    """
    if text is None:
        return None
    found = _EVERY.fullmatch(text.strip().lower())
    if found is None or found["count"] == "0":
        raise ValueError("write date, day, week, month, year, or such as '10 days'")
    return text.strip().lower()


def known_masks(names: Sequence[str] | None) -> Sequence[str] | None:
    """Return what is to be masked, or raise ValueError where it has no such name."""
    if names is None or list(names) == ["none"]:
        return names
    for name in quality_masks(names):
        if name not in MASKS:
            raise ValueError(
                f"{name!r} cannot be masked: write none, or some of {', '.join(MASKS)}"
            )
    return names


def quality_masks(names: Sequence[str]) -> list[str]:
    """Return which names are of quality bands: those before a model's."""
    return [*takewhile(lambda name: not name.startswith(PREFIX), names)]


def mask_model(names: Sequence[str]) -> str | None:
    """Return the model that masks scenes, with its classes, of what is to be masked.

    >>> mask_model(["snow", "model:clouds:thin", "thick"])
    'model:clouds:thin,thick'
    """
    return ",".join(names[len(quality_masks(names)) :]) or None


class FindOptions(Options):
    """Which scenes of many dates are looked for, and where."""

    dates: Annotated[
        str | Sequence[Any] | None,
        Cli(section=Section.TIME, metavar="2025-05/2025-09", parse=str),
    ] = None
    """A year, a month, a day, or two of them: both ends are in as a whole, in UTC."""
    cloud: Annotated[
        float | None, Field(ge=0, le=100), Cli(section=Section.TIME, metavar="PERCENT")
    ] = None
    """Take scenes with at most this cloud cover; those without the figure are taken."""
    endpoint: Annotated[
        str | None, Cli(section=Section.TIME, metavar="NAME|URL", location=True)
    ] = None
    """Archive that is searched."""
    dates_from: Annotated[DatesFrom, Cli(section=Section.TIME)] = "items"
    """Where the dates of scenes come from: their items, or the names of files."""


class SeriesOptions(FindOptions):
    """Which scenes of many dates are taken, and what is made of them."""

    reduce: Annotated[
        str | None, AfterValidator(reduction_of), Cli(section=Section.TIME)
    ] = None
    """How dates become one: median, medoid, mean, first, best (least clouds),
    best:INDEX, percentile:N."""
    every: Annotated[
        str | None,
        AfterValidator(every_of),
        Cli(section=Section.TIME, metavar="month|10 days|…"),
    ] = None
    """Keep steps in time, each reduced on its own: date, day, week, month, year, or a
    number of them."""
    mask: Annotated[
        Sequence[str] | None,
        AfterValidator(known_masks),
        Cli(section=Section.TIME, metavar="none|clouds,snow,…|model:MODEL"),
    ] = None
    """What is masked by the scenes' quality band; default clouds, shadows, cirrus and
    what is beside them. model:MODEL:class,…: what a model sees, last."""
    mask_buffer: Annotated[
        float, Field(ge=0, le=10_000), Cli(section=Section.TIME, metavar="METRES")
    ] = 0.0
    """Mask this far around clouds and shadows too."""
    like: Annotated[
        str | os.PathLike[str] | None,
        Cli(section=Section.TIME, metavar="FILE", location=True),
    ] = None
    """Raster whose grid is used; default the UTM zone, at the finest band's pixels."""
    crs: Annotated[str | None, Cli(section=Section.TIME, metavar="EPSG:…")] = None
    """Coordinate reference system to use instead of the UTM zone; zone:32632 for what
    lies in that zone alone; zones for a map of each (segment, plan)."""
    resampling: Annotated[Resampling, Cli(section=Section.TIME)] = "auto"
    """How scenes come onto other pixels; auto: nearest where pixels differ by whole
    factors, else bilinear (averages where they become larger)."""
    skip_missing: Annotated[bool, Cli(section=Section.TIME)] = False
    """Continue without files that cannot be read."""

    @property
    def series(self) -> SeriesOptions | None:
        """These options alone; None where nothing of them is asked for."""
        fields = SeriesOptions.model_fields
        if all(getattr(self, name) == fields[name].default for name in fields):
            return None
        return self.of(SeriesOptions)
