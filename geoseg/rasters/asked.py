"""Scenes that are asked for, found and opened as one source with time.

What was found is written beside what is made of it, as `NAME.items.json`, and the same
question is answered by that list from then on, also when the archive has changed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geoseg.core.dates import ALWAYS, span
from geoseg.core.series_options import SeriesOptions
from geoseg.core.text import plain, redact
from geoseg.errors import RasterError
from geoseg.rasters.addresses import host_of, is_remote
from geoseg.rasters.catalogs import Query, read_json
from geoseg.rasters.file import Told, open_file
from geoseg.rasters.item_lists import QUESTION, write_list
from geoseg.rasters.places import area_of, area_of_grid
from geoseg.rasters.search import Found, find, question_of
from geoseg.rasters.series import open_series
from geoseg.rasters.source import unique
from geoseg.rasters.time import Series


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Scenes as they were found, and as one source."""

    series: Series
    found: Found


def open_asked(
    what: Any,  # noqa: ANN401 - whatever `find` takes
    options: SeriesOptions,
    *,
    bands: Sequence[str] | None = None,
    aoi: str | os.PathLike[str] | None = None,
    nodata: float | None = None,
    trust: Sequence[str] = (),
    pixel: float | None = None,
    quality: bool = False,
    beside: Path | None = None,
) -> Asked:
    """Return the scenes of a place and a time as one source; see `open_series`.

    Args:
        what: What tells scenes; see `search.find`.
        options: Which dates, masks, steps, reduction, grid.
        bands: By common or own names; default all that items have.
        aoi: Vector file; outside of its polygons is nodata.
        nodata: Means nodata in all bands.
        trust: Folders and hosts where rasters of items may lie.
        pixel: Size of pixels in metres, where no grid is given.
        quality: Whether bands tell how often a pixel was seen.
        beside: What is made of it; a list that lies there answers its question again.

    Raises:
        GeosegError: There are none, or they do not go together.
    """
    found = _found(what, options, aoi, tuple(trust), beside)
    series = open_series(
        found.items,
        options,
        bands=bands,
        aoi=aoi,
        nodata=nodata,
        trust=trust,
        pixel=pixel,
        quality=quality,
        name=_name(what, len(found.items)),
    )
    notes = unique((*found.notes, *series.notes))
    return Asked(series=replace(series, notes=notes), found=found)


def _found(
    what: Any,  # noqa: ANN401 - whatever `find` takes
    options: SeriesOptions,
    aoi: str | os.PathLike[str] | None,
    trust: tuple[str, ...],
    beside: Path | None,
) -> Found:
    area = area_of(aoi) if aoi is not None else None
    if area is None and options.like is not None:
        grid = open_file(os.fspath(options.like), Told(trust=trust)).grid
        area = area_of_grid(grid)
    dates = ALWAYS if options.dates is None else span(options.dates)
    query = Query(area=area, dates=dates, cloud=options.cloud)
    question = question_of(what, query, options.endpoint, options.dates_from)
    place = _archive_in(question)
    if beside is not None and place is not None:
        path = list_of(beside)
        if _question_in(path) == plain(question):
            kept = find(str(path), trust=(*trust, *filter(None, [host_of(place)])))
            note = f"scenes are those of {path.name}, which were found before"
            return replace(kept, question=question, notes=(note, *kept.notes))
    return find(
        what,
        aoi=area,
        dates=options.dates,
        cloud=options.cloud,
        endpoint=options.endpoint,
        dates_from=options.dates_from,
        trust=trust,
    )


def _archive_in(question: Mapping[str, Any]) -> str | None:
    """Return the archive that a question is for; None where it is for files."""
    what = question["what"]
    if isinstance(what, Mapping):
        found = what.get("archive")
        return None if found is None else str(found)
    return what if isinstance(what, str) and is_remote(what) else None


def write_items(asked: Asked, product: Path, sources: Sequence[str]) -> None:
    """Write the items that a product is made of beside it.

    Args:
        asked: The scenes.
        product: What is made of them.
        sources: Files that it must not take the place of.

    Raises:
        GeosegError: It would take the place of one, or cannot be written.
    """
    path = list_of(product)
    if path.exists():
        read = {Path(s).resolve() for s in sources if not is_remote(s)}
        if path.resolve() in read or _question_in(path) is None:
            raise RasterError(
                f"the list of items of {product} would take the place of {path}, which "
                "is no list of ours: choose another --out"
            )
    write_list(path, asked.found.items, asked.found.question or {})


def list_of(product: Path) -> Path:
    """Return where the list of items of a product lies."""
    return product.with_name(f"{product.stem}.items.json")


def _question_in(path: Path) -> Mapping[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found = read_json(str(path)).get(QUESTION)
    except RasterError:
        return None
    return found if isinstance(found, Mapping) else None


def _name(what: Any, count: int) -> str:  # noqa: ANN401 - as `find`
    if isinstance(what, str | os.PathLike):
        return redact(os.fspath(what))
    return f"{count} scenes"
