"""From STAC items and what is asked to a source with time; no pixel is read yet."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from geoseg.core.dates import ALWAYS, Span, span
from geoseg.core.grid import Grid
from geoseg.core.scene_masks import SceneMasker, masker_of
from geoseg.core.series_options import (
    SeriesOptions,
    every_of,
    mask_model,
    quality_masks,
)
from geoseg.core.text import counted, redact
from geoseg.errors import RasterError, SceneMissingError
from geoseg.rasters.addresses import is_remote
from geoseg.rasters.aoi import area_on_grid
from geoseg.rasters.catalogs import cloud_of
from geoseg.rasters.common_grid import Headers, common_grid, zone_in_pixels, zones_note
from geoseg.rasters.covers import covers_of
from geoseg.rasters.file_bands import with_bands_of_files
from geoseg.rasters.file_versions import local_facts
from geoseg.rasters.layers import Layer, Opened, Reading, most_handles, open_layer
from geoseg.rasters.observations import Observation, observations
from geoseg.rasters.reduce import by_pixel, index_bands
from geoseg.rasters.scene_bands import (
    Entry,
    bands_asked,
    entries_of,
    item_name,
    layers_of,
    quality_layer,
)
from geoseg.rasters.series_notes import (
    by_quality,
    masks_told,
    numbers_told,
    refuse_averages,
    unlooked,
)
from geoseg.rasters.source import SourceBand, unique
from geoseg.rasters.time import Overpass, Scene, Series, Step, cell_side
from geoseg.rasters.zones import only_zone

if TYPE_CHECKING:
    from shapely import Geometry

Item = Mapping[str, Any]

_UNITS: Final = {"day": 1, "week": 7, "month": 1, "year": 12}
_MOST_STEPS: Final = 1000
_AT_ONCE: Final = 16


def open_series(
    items: Sequence[Item],
    options: SeriesOptions,
    *,
    bands: Sequence[str] | None = None,
    aoi: str | os.PathLike[str] | None = None,
    nodata: float | None = None,
    trust: Sequence[str] = (),
    pixel: float | None = None,
    quality: bool = False,
    name: str = "scenes",
) -> Series:
    """Return scenes of many dates as one source.

    Args:
        items: STAC items as dicts, those of the dates that are asked for, their
            addresses made whole; see `search.find`.
        options: Which masks, steps, reduction, grid.
        bands: Which bands, by common or own names; default all that items have.
        aoi: Vector file; outside of its polygons is nodata.
        nodata: Means nodata in all bands, whatever items and files say.
        trust: What VRTs among the files may name.
        pixel: Size of pixels in metres, where no grid is given; default the finest.
        quality: Whether bands tell how often a pixel was seen; see `QUALITY`.
        name: What the source is called in messages.

    Raises:
        RasterError: No item is left, a band is in none, there is no such grid.
        SceneMissingError: A file whose header is needed cannot be had.
    """
    wanted = ALWAYS if options.dates is None else span(options.dates)
    if not items:
        raise RasterError(f"{name}: there is no scene of that place and time")
    handles = Opened()
    headers = Headers(
        bands=bands,
        trust=tuple(trust),
        handles=handles.handles,
        skip=options.skip_missing,
        name=name,
    )
    items = with_bands_of_files(items, headers)
    grid = common_grid(items, options, headers, aoi=aoi, pixel=pixel)
    area = _area(aoi, options, grid)
    there = _touching(items, grid, area, name)
    seen, more = observations([item for item, _ in there])
    if not seen:
        raise RasterError(
            f"{name}: {counted(len(there), 'scene')} without a date, which an image of "
            "many dates needs"
        )
    by_id = {id(item): cover for item, cover in there}
    flat = [item for o in seen for item in o.items]
    entries = [entries_of(item) for item in flat]
    read = _bands_read(entries, bands, options, name)
    reading = Reading(
        grid=grid, resampling=options.resampling, nodata=nodata, trust=tuple(trust)
    )
    scenes = [
        _scene(item, read.all, known, options)
        for item, known in zip(flat, entries, strict=True)
    ]
    gone: tuple[str, ...] = ()
    if options.skip_missing:
        scenes, gone = _without_missing(scenes, reading, handles, name)
    used = [scene for scene in scenes if scene.is_used]
    steps = _steps(seen, options.every, wanted)
    depth, scored = len(read.shown), len(read.scored)
    reflectance, numbers = numbers_told(scenes, depth, reading, handles.handles)
    refuse_averages(scenes, read.shown, steps, _rule(options), name)
    all_bands = tuple(
        replace(band, step=step.label, is_reflectance=reflectance)
        for step in steps
        for band in read.shown
    )
    rule = _rule(options)
    together = depth + scored if by_pixel(rule) else 1
    masks = None if options.mask is None else tuple(quality_masks(options.mask))
    made = Series(
        name=name,
        grid=grid,
        all_bands=all_bands,
        picked=tuple(range(len(all_bands))),
        depth=depth,
        scored=scored,
        scenes=tuple(scenes),
        overpasses=tuple(_overpasses(seen)),
        steps=tuple(steps),
        rule=rule,
        masks=masks,
        masker=read.masker,
        looked=read.looked,
        buffer=_buffer(options.mask_buffer, grid),
        reading=reading,
        covers=tuple(_wkb(by_id[id(item)]) for item in flat),
        cell=cell_side(len(seen), together, len(all_bands)),
        area=None if area is None else area.wkb,
        facts={
            **_facts(flat, options, grid, area, rule, gone),
            **_looks(read.masker, masks),
        },
        notes=unique(
            (
                *zones_note(options, aoi),
                *more,
                *numbers,
                *masks_told(used, options),
                *unlooked(used, len(read.looked)),
                *gone,
            )
        ),
        opened=Opened(limit=most_handles()),
    )
    return made.with_quality() if quality else made


@dataclass(frozen=True, slots=True, kw_only=True)
class _BandsRead:
    """Which bands of scenes are read, and what for."""

    shown: tuple[SourceBand, ...]
    scored: tuple[SourceBand, ...]
    """By which the rule chooses among dates."""
    looked: tuple[SourceBand, ...]
    """What the masker looks at."""
    masker: SceneMasker | None

    @property
    def all(self) -> tuple[SourceBand, ...]:
        return (*self.shown, *self.scored, *self.looked)


def _bands_read(
    entries: Sequence[Sequence[Entry]],
    bands: Sequence[str] | None,
    options: SeriesOptions,
    name: str,
) -> _BandsRead:
    shown = bands_asked(entries, bands, name)
    score = index_bands(_rule(options))
    called = mask_model(options.mask or ())
    masker = None if called is None else masker_of(called)
    return _BandsRead(
        shown=shown,
        scored=bands_asked(entries, score, name) if score else (),
        looked=() if masker is None else bands_asked(entries, masker.wants, name),
        masker=masker,
    )


def _rule(options: SeriesOptions) -> str:
    return options.reduce or "median"


# --- where ---


def _touching(
    items: Sequence[Item], grid: Grid, area: Geometry | None, name: str
) -> list[tuple[Item, Geometry | None]]:
    """Return the items that reach into what is asked for, and what each covers."""
    whole = _box(grid) if area is None else area
    covers = covers_of(items, grid)
    there = [
        (item, cover)
        for item, cover in zip(items, covers, strict=True)
        if cover is None or cover.intersects(whole)
    ]
    if not there:
        raise RasterError(
            f"{name}: none of the {counted(len(items), 'scene')} touches the "
            f"{'grid' if area is None else 'area of interest'}"
        )
    return there


def _area(
    aoi: str | os.PathLike[str] | None, options: SeriesOptions, grid: Grid
) -> Geometry | None:
    """Return what outside of which is nodata, in pixels; None where nothing is."""
    area = None if aoi is None else area_on_grid(os.fspath(aoi), grid)
    zone = None if options.like is not None else only_zone(options.crs)
    if zone is None:
        return area
    inside = zone_in_pixels(zone, grid)
    return inside if area is None else area & inside


def _box(grid: Grid) -> Geometry:
    import shapely

    edge = 0.05  # footprints are rounded
    return shapely.box(edge, edge, grid.width - edge, grid.height - edge)


def _wkb(cover: Geometry | None) -> bytes | None:
    return None if cover is None else bytes(cover.wkb)


def _buffer(metres: float, grid: Grid) -> int:
    if not metres:
        return 0
    size = grid.pixel_size_m
    if size is None:
        raise RasterError(
            "--mask-buffer is in metres, and the grid does not say how large its "
            "pixels are"
        )
    return math.ceil(metres / min(size))


# --- scenes ---


def _scene(
    item: Item,
    bands: Sequence[SourceBand],
    entries: Sequence[Entry],
    options: SeriesOptions,
) -> Scene:
    masked = by_quality(options)
    return Scene(
        name=item_name(item),
        layers=layers_of(item, bands, entries),
        quality=quality_layer(item) if masked else None,
    )


def _overpasses(seen: Sequence[Observation]) -> Iterator[Overpass]:
    first = 0
    for observation in seen:
        clouds = [cloud_of(i) for i in observation.items]
        known = [c for c in clouds if c is not None]
        yield Overpass(
            moment=observation.moment,
            scenes=tuple(range(first, first + len(observation.items))),
            rank=sum(known) / len(known) if known else math.inf,
        )
        first += len(observation.items)


def _without_missing(
    scenes: Sequence[Scene], reading: Reading, handles: Opened, name: str
) -> tuple[list[Scene], tuple[str, ...]]:
    """Return scenes without the layers that cannot be had, and say which.

    Where the quality band cannot be had the scene is left out: it may be all clouds.
    """
    layers = unique_layers(scenes)

    def missing(layer: Layer) -> bool:
        try:
            open_layer(layer, reading, handles.handles)
        except SceneMissingError:
            return True
        return False

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        gone = {
            layer
            for layer, lost in zip(layers, pool.map(missing, layers), strict=True)
            if lost
        }
    kept, told = [], []
    for scene in scenes:
        if scene.quality in gone:
            told.append(f"{scene.name} (its quality band)")
            none = (None,) * len(scene.layers)
            kept.append(replace(scene, layers=none, quality=None))
            continue
        lost = [la.key for la in scene.layers if la in gone and la is not None]
        if lost:
            told.append(f"{scene.name} ({', '.join(lost)})")
        left = tuple(None if la in gone else la for la in scene.layers)
        kept.append(replace(scene, layers=left))
    if not any(layer for scene in kept for layer in scene.layers):
        raise SceneMissingError(f"{name}: no file of any scene can be read")
    return kept, tuple(f"missing: {each}" for each in told)


def unique_layers(scenes: Iterable[Scene]) -> list[Layer]:
    """Return all layers of scenes, each once."""
    found = (la for s in scenes for la in (*s.layers, s.quality) if la is not None)
    return list(dict.fromkeys(found))


def _looks(masker: SceneMasker | None, masks: Sequence[str] | None) -> dict[str, Any]:
    """Return what the facts say of a model that masks, wherever it lies."""
    if masker is None:
        return {}
    return {"mask": list(masks or ()), "masked_by": dict(masker.identity)}


# --- steps ---


def _steps(seen: Sequence[Observation], every: str | None, wanted: Span) -> list[Step]:
    """Return steps in time, oldest first; also those in which nothing was seen."""
    if every is None:
        return [Step(label=None, overpasses=tuple(range(len(seen))))]
    if every_of(every) == "date":
        days: dict[str, list[int]] = {}
        for i, o in enumerate(seen):
            days.setdefault(o.moment.date().isoformat(), []).append(i)
        return [Step(label=d, overpasses=tuple(days[d])) for d in sorted(days)]
    start = wanted.start or seen[0].moment
    end = wanted.end or seen[-1].moment + timedelta(microseconds=1)
    starts = list(_starts(start, end, every))
    places: dict[int, list[int]] = {i: [] for i in range(len(starts))}
    for number, observation in enumerate(seen):
        at = sum(s <= max(observation.moment, starts[0]) for s in starts) - 1
        places[at].append(number)
    return [
        Step(label=begun.date().isoformat(), overpasses=tuple(places[i]))
        for i, begun in enumerate(starts)
    ]


def _starts(start: datetime, end: datetime, every: str) -> Iterator[datetime]:
    """Yield where steps begin: whole months and years, or days from the start on."""
    words = every.split() if " " in every else [every]
    text = words[-1].lstrip("0123456789")
    count = int(every.removesuffix(text).strip() or 1)
    unit = text.removesuffix("s")
    for i in range(_MOST_STEPS + 1):
        if unit in {"day", "week"}:
            midnight = datetime(start.year, start.month, start.day, tzinfo=UTC)
            begun = midnight + timedelta(days=i * count * _UNITS[unit])
        else:
            first = start.year * 12 + (start.month - 1 if unit == "month" else 0)
            months = first + i * count * _UNITS[unit]
            begun = datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)
        if begun >= end:
            return
        yield begun
    raise RasterError(f"--every {every} makes more than {_MOST_STEPS} steps")


# --- what it is ---


def _facts(
    items: Sequence[Item],
    options: SeriesOptions,
    grid: Grid,
    area: Geometry | None,
    rule: str,
    gone: Sequence[str],
) -> Mapping[str, Any]:
    told = [
        {
            "id": item.get("id"),
            "updated": (item.get("properties") or {}).get("updated"),
            "assets": {
                key: _file_facts(str(asset.get("href")))
                for key, asset in sorted(item["assets"].items())
                if isinstance(asset, Mapping)
            },
        }
        for item in items
    ]
    remote = any(
        is_remote(str(asset.get("href")))
        for item in items
        for asset in item["assets"].values()
        if isinstance(asset, Mapping)
    )
    text = json.dumps(told, sort_keys=True, default=str)
    return {
        "scenes": len(items),
        "digest": hashlib.sha256(text.encode()).hexdigest(),
        "reduce": rule,
        "every": options.every,
        "mask": None if options.mask is None else list(options.mask),
        "mask_buffer": options.mask_buffer,
        "resampling": options.resampling,
        "dates": None if options.dates is None else span(options.dates).text,
        "crs": grid.crs,
        "transform": list(grid.transform)[:6],
        "shape": [grid.height, grid.width],
        "area": None if area is None else hashlib.sha256(area.wkb).hexdigest(),
        "missing": list(gone),
        "remote": remote,
    }


def _file_facts(href: str) -> tuple[str, Mapping[str, Any]]:
    """Return an address without what signs it, and what a local file is now.

    Where that lies does not count: a list beside a product says it in another way.
    """
    if is_remote(href):
        return redact(href.partition("?")[0]), {}
    return Path(href).name, dict(local_facts(href))
