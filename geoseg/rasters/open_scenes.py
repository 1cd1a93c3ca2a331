"""Scenes that are asked for, found and opened as one source with time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import shapely

from geoseg.core.dates import ALWAYS, span
from geoseg.core.series_options import SeriesOptions
from geoseg.core.text import redact
from geoseg.errors import RasterError
from geoseg.rasters.catalogs import Query
from geoseg.rasters.file import FileHints, open_raster
from geoseg.rasters.kept_items import kept_items
from geoseg.rasters.places import area_of, area_of_grid, footprint_of
from geoseg.rasters.search import Found, find, question_of
from geoseg.rasters.series import open_series
from geoseg.rasters.source import unique
from geoseg.rasters.time import Series
from geoseg.rasters.zones import EACH, PREFIX, zones_of


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
    beside: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Series:
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
        beside: What is made of it: there the items are listed, and that list answers
            the same question from then on; see `kept_items`.
        overwrite: Whether a product of another question gives way.

    Raises:
        GeosegError: There are none, or they do not go together.
    """
    found = _found(what, options, aoi, tuple(trust), beside, overwrite=overwrite)
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
    return replace(series, notes=unique((*found.notes, *series.notes)))


def zones_asked(
    what: Any,  # noqa: ANN401 - whatever `find` takes
    options: SeriesOptions,
    *,
    aoi: str | os.PathLike[str] | None = None,
    trust: Sequence[str] = (),
) -> list[str]:
    """Return the UTM zones in which scenes show something of an area, or anything.

    As `zone:32632`, …, in the order of their codes.

    Raises:
        GeosegError: There are no scenes, or a grid is asked for too.
    """
    if options.like is not None:
        raise RasterError(
            f"--like gives one grid, --crs {EACH} makes one of each UTM zone: leave "
            "one out"
        )
    found = _found(what, options, aoi, tuple(trust), None, overwrite=False)
    drawn = [footprint_of(item) for item in found.items]
    known = [shape for shape in drawn if shape is not None]
    area = None if aoi is None else area_of(aoi)
    if area is None and not known:
        raise RasterError(f"{_name(what, 0)}: no scene says where it lies: give --aoi")
    if len(known) == len(drawn):
        shown = shapely.union_all(known)
        area = shown if area is None else area & shown
    return sorted(zone.replace("EPSG:", PREFIX) for zone in zones_of(area))


def _found(
    what: Any,  # noqa: ANN401 - whatever `find` takes
    options: SeriesOptions,
    aoi: str | os.PathLike[str] | None,
    trust: tuple[str, ...],
    beside: str | os.PathLike[str] | None,
    *,
    overwrite: bool,
) -> Found:
    area = area_of(aoi) if aoi is not None else None
    if area is None and options.like is not None:
        grid = open_raster(os.fspath(options.like), FileHints(trust=trust)).grid
        area = area_of_grid(grid)

    def search() -> Found:
        return find(
            what,
            aoi=area,
            dates=options.dates,
            cloud=options.cloud,
            endpoint=options.endpoint,
            dates_from=options.dates_from,
            trust=trust,
        )

    if beside is None:
        return search()
    dates = ALWAYS if options.dates is None else span(options.dates)
    query = Query(area=area, dates=dates, cloud=options.cloud)
    return kept_items(
        beside,
        question_of(what, query, options.endpoint, options.dates_from),
        search,
        sources=what if isinstance(what, list | tuple) else [what],
        overwrite=overwrite,
        trust=trust,
    )


def _name(what: Any, count: int) -> str:  # noqa: ANN401 - as `find`
    if isinstance(what, str | os.PathLike):
        return redact(os.fspath(what))
    return f"{count} scenes"
