"""Which scenes there are of a place and a time: items of STAC, wherever they are told.

The entry point is `find`. What stands for a collection is decided by its form alone: a
path that is there, a URL, or a name. A path that is not there is an error; it never
becomes a search.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from geoseg.core.dates import ALWAYS, item_moment, span
from geoseg.core.series_options import COLLECTION, DatesFrom
from geoseg.core.text import counted, redact
from geoseg.errors import RasterError
from geoseg.rasters.addresses import host_of, is_remote
from geoseg.rasters.archives import archive_for
from geoseg.rasters.catalogs import (
    Item,
    Query,
    cloud_of,
    fetch_json,
    from_api,
    from_static,
    is_api,
    pages,
)
from geoseg.rasters.item_assets import Collections
from geoseg.rasters.item_lists import PARQUET, read_parquet
from geoseg.rasters.named_files import file_of
from geoseg.rasters.observations import age
from geoseg.rasters.places import area_of
from geoseg.rasters.product_files import RASTER_SUFFIXES
from geoseg.rasters.scenes import scene_items
from geoseg.rasters.stac import items_in, items_of, with_addresses
from geoseg.rasters.stac_assets import links_of

if TYPE_CHECKING:
    from shapely import Geometry

_NAME: Final = re.compile(r"\w[\w.:+-]*")
_FILES: Final = frozenset({
    *RASTER_SUFFIXES, *PARQUET, ".json", ".geojson", ".zarr", ".vrt", ".nc", ".zip",
    ".safe", ".gpkg", ".toml",
})  # fmt: skip
_PATHS: Final = (type(Path()), Path)
_OF_API: Final = re.compile(r"(.+)/collections/[^/]+(?<!\.json)")
_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)

FoundItem = tuple[Item, str, tuple[str, ...]]
"""An item, the file or URL that tells it, and what its archive is trusted with."""


@dataclass(frozen=True)
class Found:
    """What a search has found."""

    items: list[dict[str, Any]]
    """Items of STAC, oldest first; addresses of their files are whole and unsigned."""
    notes: tuple[str, ...] = ()
    """What was taken or left out for want of knowledge, a line each."""
    question: Mapping[str, Any] | None = None
    """What was searched for, as JSON has it."""
    area: Geometry | None = None
    """Where, in degrees."""


def find(
    what: Any,  # noqa: ANN401 - whatever can tell items
    *,
    aoi: str | os.PathLike[str] | Geometry | None = None,
    dates: str | Sequence[Any] | None = None,
    cloud: float | None = None,
    endpoint: str | None = None,
    dates_from: DatesFrom = "items",
    trust: Sequence[str] = (),
    check: bool = True,
) -> Found:
    """Return the items of a place and a time.

    Args:
        what: A file with an ItemCollection, an item or a GeoParquet of items; a static
            catalogue, as a path or URL; the URL of an API or of one of its collections;
            the name of a collection, also with `stac:` before it; scenes of this
            machine (files, folders, globs), with `dates_from="names"`; pystac's items
            or dicts; or a list of any of these.
        aoi: Vector file with polygons, or a geometry in degrees.
        dates: A span as `geoseg.core.dates.span` takes it.
        cloud: Most clouds, in percent; items that do not tell are taken.
        endpoint: Name or URL of the archive that is searched.
        dates_from: Where scenes have their dates from.
        trust: Folders, files and hosts where rasters of items may lie.
        check: Whether rasters elsewhere are refused, or listed like all others.

    Raises:
        UnavailableError: A server does not answer.
        GeosegError: Something is not there, cannot be read, or may not be.
    """
    area = area_of(aoi) if isinstance(aoi, str | os.PathLike) else aoi
    query = Query(
        area=area, dates=ALWAYS if dates is None else span(dates), cloud=cloud
    )
    told = _told(what, endpoint, query, tuple(trust), dates_from)
    items, notes = _chosen(told, query, check=check)
    question = question_of(what, query, endpoint, dates_from)
    asked = _archive_asked(question["what"]) if endpoint is None else None
    return Found(
        items=items,
        notes=(f"searched in {asked}", *notes) if asked else notes,
        question=question,
        area=area,
    )


def _archive_asked(what: Any) -> str | None:  # noqa: ANN401 - of a question
    """Return the archive that nobody named."""
    return what.get("archive") if isinstance(what, dict) else None


def _chosen(
    told: Iterator[FoundItem], query: Query, *, check: bool
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Return those items that are looked for, each once and in order, and notes."""
    newest: dict[tuple[str, str], FoundItem] = {}
    for item, by, trust in told:
        if item.get("type") != "Feature":
            raise RasterError(
                f"{redact(by)} holds something other than STAC items: type is "
                f"{item.get('type')!r} instead of 'Feature'"
            )
        key = str(item.get("collection")), str(item.get("id"))
        if key not in newest or age(item) > age(newest[key][0]):
            newest[key] = item, by, trust
    found = []
    undated = 0
    collections = Collections(fetch_json)
    for item, by, trust in newest.values():
        if not (query.is_clear(item) and query.is_near(item)):
            continue
        if query.is_then(item):
            item = collections.complete(item, by, trust)  # noqa: PLW2901 - and no less
            found.append(with_addresses(item, by, trust, check=check))
        else:
            undated += item_moment(item) is None
    items = sorted(found, key=_order)
    notes = []
    if undated:
        notes.append(f"{counted(undated, 'item')} without a date: left out")
    silent = sum(cloud_of(item) is None for item in items)
    if query.cloud is not None and silent:
        notes.append(
            f"{counted(silent, 'item')} of {len(items):,} without a cloud cover: taken"
        )
    return items, tuple(notes)


def _order(item: Item) -> tuple[datetime, str, str]:
    moment = item_moment(item) or _EARLIEST
    return moment, str(item.get("collection")), str(item.get("id"))


# --- what stands for items ---


def _told(
    what: Any,  # noqa: ANN401 - whatever can tell items
    endpoint: str | None,
    query: Query,
    trust: tuple[str, ...],
    dates_from: DatesFrom,
) -> Iterator[FoundItem]:
    """Yield the items that something tells, of anywhere and any time maybe."""
    if isinstance(what, os.PathLike):
        what = os.fspath(what)
    if isinstance(what, str):
        yield from _named(what, endpoint, query, trust, dates_from)
        return
    if isinstance(what, list | tuple) and {*map(type, what)} & {str, *_PATHS}:
        names = [os.fspath(one) for one in what]
        if dates_from == "names":
            yield from _scenes(names, trust, dates_from)
        else:
            for one in names:
                yield from _named(one, endpoint, query, trust, dates_from)
        return
    items = items_of(what)
    if items is None:
        raise RasterError(
            "scenes are the name of a collection, a path, a URL, STAC items, or a list "
            f"of these; got {type(what).__name__}"
        )
    for item in items:  # whoever hands items over vouches for them
        yield item, str(Path.cwd() / "items"), (*trust, *places_of(item))


def places_of(item: Item) -> Iterator[str]:
    """Yield the hosts and files that an item names."""
    assets = item.get("assets")
    for asset in assets.values() if isinstance(assets, Mapping) else ():
        href = asset.get("href") if isinstance(asset, Mapping) else None
        if isinstance(href, str):
            place = file_of(href)
            yield host_of(place) or place


def _named(
    name: str,
    endpoint: str | None,
    query: Query,
    trust: tuple[str, ...],
    dates_from: DatesFrom,
) -> Iterator[FoundItem]:
    """Yield the items of a path, a URL or a collection."""
    plain = name.removeprefix(COLLECTION)
    place = Path(plain)
    if is_remote(plain) or place.is_file():
        whole = plain if is_remote(plain) else str(place.absolute())
        yield from _at(whole, query, trust, dates_from)
    elif (place / "catalog.json").is_file():
        whole = str(place.absolute() / "catalog.json")
        yield from _at(whole, query, trust, dates_from)
    elif place.exists() or glob.has_magic(plain):
        yield from _scenes([plain], trust, dates_from)
    elif not _NAME.fullmatch(plain) or place.suffix.lower() in _FILES:
        raise RasterError(f"there is no file {redact(plain)}")
    else:
        archive = archive_for(endpoint, plain)[1]
        yield from _archived(archive.url, plain, query, (*archive.hosts, *trust))


def _archived(
    url: str, collection: str | None, query: Query, trust: tuple[str, ...]
) -> Iterator[FoundItem]:
    """Yield the items of a collection, or of all, of an API or static catalogue."""
    if is_api(fetch_json(url)):
        for item in from_api(url, collection, query):
            yield item, url, trust
    else:
        for item, place in from_static(url, collection, query, trust):
            yield item, place, (_around(url), *trust)


def _around(path: str) -> str:
    """Return the server, or the folder, of a file."""
    return host_of(path) or str(Path(path).absolute().parent)


def _at(
    path: str, query: Query, trust: tuple[str, ...], dates_from: DatesFrom
) -> Iterator[FoundItem]:
    """Yield the items of a file or URL, by what it holds."""
    plain = path.split("?", maxsplit=1)[0].lower()
    if plain.endswith(PARQUET):
        for item in read_parquet(path):
            yield item, path, trust
        return
    if not plain.startswith("http") and not plain.endswith((".json", ".geojson")):
        yield from _scenes([path], trust, dates_from)
        return
    found = fetch_json(path)
    if found.get("type") == "Catalog":
        yield from _archived(path, None, query, trust)
    elif found.get("type") == "Collection":
        root = _root_api(found, path)
        place = path if root is None else root
        yield from _archived(place, str(found.get("id")), query, trust)
    else:
        for page in pages(path, found):
            for item in items_in(page, path):
                yield item, path, trust


def _root_api(found: Item, path: str) -> str | None:
    """Return the API that a collection is of; None where it is of none."""
    if not host_of(path):
        return None
    root = next((k["href"] for k in links_of(found) if k.get("rel") == "root"), "")
    below = _OF_API.fullmatch(path.partition("?")[0].rstrip("/"))
    place = below[1] if below else root
    if host_of(place) != host_of(path):
        return None
    return place if is_api(fetch_json(place)) else None


def _scenes(
    paths: Sequence[str], trust: tuple[str, ...], dates_from: DatesFrom
) -> Iterator[FoundItem]:
    """Yield scenes of this machine as items."""
    if dates_from != "names":
        raise RasterError(
            f"{redact(paths[0])} holds no STAC items; where scenes have their dates in "
            "their names, say --dates-from names"
        )
    for item in scene_items(paths, trust):
        yield item, str(Path.cwd() / "items"), (*trust, *places_of(item))


# --- what was asked ---


def question_of(
    what: Any,  # noqa: ANN401 - as `find` takes it
    query: Query,
    endpoint: str | None,
    dates_from: DatesFrom = "items",
) -> dict[str, Any]:
    """Return a search as JSON has it: another search has another one.

    Files count by what is in them, wherever they are; an archive by its address.
    """
    area = None
    if query.area is not None:
        area = hashlib.sha256(query.area.normalize().wkb).hexdigest()
    asked = {
        "what": _what(what, endpoint),
        "area": area,
        "dates": query.dates.text,
        "cloud": query.cloud,
        "dates_from": dates_from,
    }
    return {key: value for key, value in asked.items() if value is not None}


def _what(what: Any, endpoint: str | None) -> Any:  # noqa: ANN401 - JSON
    if isinstance(what, str | os.PathLike):
        plain = os.fspath(what).removeprefix(COLLECTION)
        is_list = plain.lower().endswith((".json", ".geojson", *PARQUET))
        if is_list and Path(plain).is_file():
            data = Path(plain).read_bytes()
            return {
                "file": Path(plain).name,
                "digest": hashlib.sha256(data).hexdigest(),
            }
        if is_remote(plain) or Path(plain).exists() or glob.has_magic(plain):
            return redact(plain)
        return {"collection": plain, "archive": archive_for(endpoint, plain)[1].url}
    if isinstance(what, list | tuple) and {*map(type, what)} & {str, *_PATHS}:
        return [_what(one, endpoint) for one in what]
    told = json.dumps(items_of(what), sort_keys=True, default=str)
    return {"items": hashlib.sha256(told.encode()).hexdigest()}
