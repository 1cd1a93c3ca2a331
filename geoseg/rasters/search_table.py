"""What a search has found, day by day: clouds, coverage of the area, bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.core.dates import item_moment
from geoseg.core.files import target
from geoseg.core.options import keywords
from geoseg.core.series_options import DatesFrom
from geoseg.core.text import counted, percent, size
from geoseg.rasters.addresses import host_of, is_remote
from geoseg.rasters.archives import trusted_hosts
from geoseg.rasters.catalogs import Item, cloud_of
from geoseg.rasters.item_lists import write_list
from geoseg.rasters.places import footprint_of, share_of
from geoseg.rasters.product_files import RASTER_SUFFIXES
from geoseg.rasters.search import Found, find
from geoseg.rasters.search_options import SearchOptions

if TYPE_CHECKING:
    from pandas import DataFrame
    from shapely import Geometry

_UNKNOWN = "–"
_PICTURES = frozenset(
    {"thumbnail", "overview", "visual", "preview", "rendered_preview", "metadata"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """The scenes of one day, in UTC."""

    date: str | None
    """None of those that tell no date."""
    items: tuple[str, ...]
    """Their ids."""
    platforms: tuple[str, ...]
    cloud: float | None
    """Their clouds, in percent, by how much of the area each shows; None where no scene
    tells."""
    coverage: float | None
    """Which part of the area they show, 0 … 1; None where no area is asked for."""
    bytes: int | None
    """How large their files are; None where one does not tell."""


@dataclass(frozen=True)
class Scenes:
    """What a search has found."""

    found: Found

    @property
    def items(self) -> list[dict[str, Any]]:
        """Items of STAC, oldest first, which `segment` and others take."""
        return self.found.items

    @property
    def notes(self) -> tuple[str, ...]:
        """What was taken or left out for want of knowledge, a line each."""
        return self.found.notes

    @cached_property
    def days(self) -> tuple[Day, ...]:
        """Day by day, oldest first."""
        groups: dict[str | None, list[Item]] = {}
        for item in self.items:
            moment = item_moment(item)
            key = None if moment is None else f"{moment:%Y-%m-%d}"
            groups.setdefault(key, []).append(item)
        return tuple(_day(d, items, self.found.area) for d, items in groups.items())

    @property
    def table(self) -> DataFrame:
        """Day by day, as a table of pandas."""
        import pandas as pd

        columns = ["date", "items", "cloud", "coverage", "bytes", "platforms"]
        rows = [{name: getattr(day, name) for name in columns} for day in self.days]
        return pd.DataFrame(rows, columns=columns)

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return "\n".join(lines_of(self))

    def _repr_html_(self) -> str:
        shown = self.table
        return str(shown.assign(items=shown["items"].map(len)).to_html(index=False))


def searched(what: Any, options: SearchOptions) -> Scenes:  # noqa: ANN401 - as `search`
    """Search, and write what is found where that is asked for."""
    file = None
    if options.out is not None:
        endings = (".json", ".geojson")
        file = target(options.out, endings, overwrite=options.overwrite)
    found = find(
        what,
        aoi=options.aoi,
        dates=options.dates,
        cloud=options.cloud,
        endpoint=options.endpoint,
        dates_from=options.dates_from,
        trust=tuple(options.trust or ()),
        check=False,
    )
    if file is not None:
        write_list(file, found.items, found.question)
    strange = _strange(found.items, options)
    return Scenes(replace(found, notes=(*found.notes, *strange)))


def _strange(items: Sequence[Item], options: SearchOptions) -> tuple[str, ...]:
    """Return a note where files lie on hosts that other commands will ask about."""
    known = {*trusted_hosts(), *(host_of(t) or t for t in options.trust or ())}
    hosts = {
        host_of(asset["href"])
        for item in items
        for key, asset in _assets(item)
        if _is_data(key, asset)
    }
    unknown = sorted(hosts - known - {""})
    if not unknown:
        return ()
    words = " ".join(f"--trust {host}" for host in unknown[:5])
    return (f"what opens these scenes needs {words}",)


def _assets(item: Item) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield what an item has of files."""
    assets = item.get("assets")
    for key, asset in assets.items() if isinstance(assets, Mapping) else ():
        if isinstance(asset, Mapping) and isinstance(asset.get("href"), str):
            yield key, asset


@keywords(SearchOptions, searched)
def search(
    what: Any,  # noqa: ANN401 - whatever can tell items
    *,
    aoi: str | os.PathLike[str] | None = None,
    dates: str | Sequence[Any] | None = None,
    cloud: float | None = None,
    endpoint: str | None = None,
    dates_from: DatesFrom = "items",
    trust: Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Scenes:
    """Return which scenes there are of a place and a time; no pixel is read.

    Args:
        what: The name of a collection, such as `sentinel-2-l2a`; the URL of an API or
            of one of its collections; a static catalogue; a file with an
            ItemCollection, an item or a GeoParquet of items; scenes of this machine;
            pystac's items or dicts; or a list of any of these.
        aoi: Vector file with polygons.
        dates: A year, a month, a day, or two of them, as in `2025-05/2025-09`: both
            ends are in as a whole, in UTC.
        cloud: Most clouds, in percent; scenes that do not tell are taken.
        endpoint: Name or URL of the archive that is searched; default the one that is
            known to have the collection.
        dates_from: Where scenes have their dates from: their items, or their `names`.
        trust: Where a static catalogue may lie beside its own folder and host.
        out: File to write the items into, which other functions take as a raster.
        overwrite: Replace the file where it is there.

    Raises:
        UnavailableError: A server does not answer; the same call can succeed later.
        GeosegError: Something is not there, cannot be read, or may not be.
    """
    raise NotImplementedError  # `searched` runs


def _day(date: str | None, items: Sequence[Item], area: Geometry | None) -> Day:
    """Return what there is of one day."""
    import shapely

    shown = [footprint_of(item) for item in items]
    shares = [1.0] * len(items)
    coverage = None
    if area is not None:
        shares = [0.0 if s is None else share_of(area, s) for s in shown]
        known = [s for s in shown if s is not None]
        coverage = share_of(area, shapely.union_all(known)) if known else None
    clouds = [(cloud_of(i), share) for i, share in zip(items, shares, strict=True)]
    told = [(cloud, share) for cloud, share in clouds if cloud is not None]
    weight = sum(share for _, share in told)
    sizes = [_bytes(item) for item in items]
    every = all(s is not None for s in sizes)
    return Day(
        date=date,
        items=tuple(str(item.get("id")) for item in items),
        platforms=tuple(sorted({p for item in items if (p := _platform(item))})),
        cloud=sum(c * share for c, share in told) / weight if weight else None,
        coverage=coverage,
        bytes=sum(s or 0 for s in sizes) if every else None,
    )


def _platform(item: Item) -> str | None:
    properties = item.get("properties")
    told = properties.get("platform") if isinstance(properties, Mapping) else None
    return told if isinstance(told, str) else None


def _bytes(item: Item) -> int | None:
    """Return how large the rasters of an item are; None where one does not tell."""
    total = 0
    for key, asset in _assets(item):
        if not _is_data(key, asset):
            continue
        told = asset.get("file:size")
        if told is None and not is_remote(asset["href"]):
            try:
                told = Path(asset["href"]).stat().st_size
            except OSError:
                return None
        if not isinstance(told, int):
            return None
        total += told
    return total


def _is_data(key: str, asset: Mapping[str, Any]) -> bool:
    """Whether an asset is pixels to work with, and no picture or text."""
    roles = asset.get("roles")
    if key in _PICTURES or any(r in _PICTURES for r in _texts(roles)):
        return False
    plain = str(asset["href"]).split("?", maxsplit=1)[0]
    is_image = str(asset.get("type", "")).startswith("image/")
    return is_image or Path(plain).suffix.lower() in RASTER_SUFFIXES


def _texts(value: object) -> list[str]:
    many = value if isinstance(value, list) else []
    return [one for one in many if isinstance(one, str)]


def lines_of(scenes: Scenes) -> list[str]:
    """Return what was found as people read it."""
    if not scenes.days:
        return ["no scenes"]
    rows = [("date", "scenes", "clouds", "coverage", "size", "platform")]
    rows += [
        (
            day.date or _UNKNOWN,
            str(len(day.items)),
            _UNKNOWN if day.cloud is None else f"{day.cloud:.0f} %",
            _UNKNOWN if day.coverage is None else percent(day.coverage),
            _UNKNOWN if day.bytes is None else size(day.bytes),
            ", ".join(day.platforms) or _UNKNOWN,
        )
        for day in scenes.days
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    told = [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(row[i].rjust(widths[i]) for i in range(1, 5)),
                row[5],
            ]
        )
        for row in rows
    ]
    total = total_bytes(scenes.days)
    much = "" if total is None else f", {size(total)}"
    days, count = len(scenes.days), len(scenes)
    return [*told, f"{counted(count, 'scene')} of {counted(days, 'day')}{much}"]


def total_bytes(days: Sequence[Day]) -> int | None:
    """Return how large all files are; None where one does not tell."""
    if any(day.bytes is None for day in days):
        return None
    return sum(day.bytes or 0 for day in days)
