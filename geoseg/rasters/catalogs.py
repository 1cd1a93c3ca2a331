"""STAC catalogues: APIs, which are asked, and static ones, which are walked."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from geoseg.core.dates import ALWAYS, Span, item_moment, moment_of
from geoseg.core.extras import require
from geoseg.core.text import counted, did_you_mean, redact
from geoseg.errors import GeosegError, RasterError
from geoseg.rasters.addresses import host_of, squeezed
from geoseg.rasters.http import api_io, asking, text_of
from geoseg.rasters.named_files import absolute_href, allowed, read_bytes
from geoseg.rasters.places import footprint_of, overlap
from geoseg.rasters.stac import json_object
from geoseg.rasters.stac_assets import links_of

if TYPE_CHECKING:
    from datetime import datetime

    from pystac import Catalog, STACObject
    from pystac_client import Client, ItemSearch
    from shapely import Geometry

Item = Mapping[str, Any]

MOST_BYTES: Final = 200_000_000
"""Of a file of items."""
_MOST: Final = 20_000
"""Items of one search; of more, somebody has forgotten an area or dates."""
_PAGE: Final = 100
"""Items a page; some servers fail where an answer has more than 6 MB."""
_SIMPLE: Final = 20
"""Parts of an area that are searched one by one."""
_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which items are looked for."""

    area: Geometry | None = None
    """Where, in degrees; None for anywhere."""
    dates: Span = ALWAYS
    """When."""
    cloud: float | None = None
    """With at most so many clouds, in percent; those that do not tell are taken."""

    def is_near(self, item: Item) -> bool:
        """Whether an item may lie in the area; where it does not tell, it may."""
        if self.area is None:
            return True
        footprint = footprint_of(item)
        return footprint is None or overlap(footprint, self.area)

    def is_then(self, item: Item) -> bool:
        """Whether an item was sensed in the span; any was where there is none."""
        if self.dates == ALWAYS:
            return True
        moment = item_moment(item)
        return moment is not None and moment in self.dates

    def is_clear(self, item: Item) -> bool:
        """Whether an item has no more clouds than are taken, or does not tell."""
        told = cloud_of(item)
        return self.cloud is None or told is None or told <= self.cloud


def cloud_of(item: Item) -> float | None:
    """Return the clouds of an item, in percent, where it tells."""
    properties = item.get("properties")
    told = properties.get("eo:cloud_cover") if isinstance(properties, Mapping) else None
    if not isinstance(told, int | float) or isinstance(told, bool):
        return None
    return float(told) if 0 <= told <= 100 else None


def fetch_json(path: str) -> dict[str, Any]:
    """Return the JSON object of a file or URL; servers that are busy are asked again.

    Raises:
        UnavailableError: A server does not answer.
        RasterError: It cannot be read, or is no JSON object.
    """
    asked = path.lower().startswith(("http://", "https://"))
    if asked and find_spec("pystac_client") is not None:
        text: str | bytes = text_of(path)
    else:
        text = read_bytes(path, most=MOST_BYTES)
    return json_object(text, path, "STAC")


def is_api(catalog: Item) -> bool:
    """Whether a catalogue can be searched by its server."""
    return any(link.get("rel") == "search" for link in links_of(catalog))


def pages(path: str, first: Item) -> Iterator[Item]:
    """Yield a page of items and those that follow it, by the links of a server.

    Raises:
        UnavailableError: A server does not answer.
        RasterError: There are too many.
    """
    page, seen, count = first, {path}, 0
    while True:
        yield page
        follow = (k["href"] for k in links_of(page) if k.get("rel") == "next")
        path = absolute_href(next(follow, path), path)
        if path in seen or not host_of(path):
            return
        features = page.get("features")
        count += len(features) if isinstance(features, list) else 0
        _check_count(count, path)
        seen.add(path)
        page = fetch_json(path)


def _check_count(count: int, path: str) -> None:
    if count > _MOST:
        raise RasterError(
            f"{redact(path)} finds more than {_MOST:,} items: say where and when, with "
            "--aoi and --dates"
        )


# --- APIs ---


def from_api(url: str, collection: str | None, query: Query) -> list[Item]:
    """Return the items that an API finds, on all its pages, as it tells them.

    Clouds are not asked for: an API would leave out those that do not tell theirs.

    Raises:
        UnavailableError: It does not answer, or is busy for long.
        GeosegError: It has no such collection, refuses, or finds too many.
    """
    require("pystac_client", what="searching a STAC catalogue", extra="stac")
    from pystac_client import Client
    from pystac_client.warnings import PystacClientWarning

    found: list[Item] = []
    with asking(url), _understood(url), warnings.catch_warnings():
        # What it lacks of the specification matters to its maintainers.
        warnings.simplefilter("ignore", PystacClientWarning)
        client = Client.open(url, stac_io=api_io())
        links = client.get_links("search")
        for link in links:  # without a type pystac-client does not see them
            link.media_type = link.media_type or "application/geo+json"
        ways = {link.extra_fields.get("method", "GET") for link in links}
        search = client.search(
            method="POST" if "POST" in ways or not ways else "GET",
            collections=collection and [collection],
            datetime=_asked(query.dates),
            limit=_PAGE,
            **_where(query.area),
        )
        for page in _pages_of(search, url):
            found += page
            _check_count(len(found), url)
        if not found and collection is not None:
            _check_collection(client, collection, url)
    return found


@contextmanager
def _understood(url: str) -> Iterator[None]:
    """Turn what pystac raises of answers that are no STAC into an error of a line."""
    from pystac.errors import STACError

    try:
        yield
    except (STACError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RasterError(
            f"{redact(url)} does not answer as a STAC API does: {squeezed(error, url)}"
        ) from error


def _pages_of(search: ItemSearch, url: str) -> Iterator[list[Item]]:
    """Yield the items of each page; one without any is not the last by that.

    pystac-client ends there, and items that follow would be missed in silence.

    Raises:
        RasterError: What is answered is no page of items, or there is no last page.
    """
    from pystac import Link

    answers, parameters = api_io(), search.get_parameters()
    asked: Any = search.url
    before: tuple[Any, Any] = (None, None)
    for _ in range(_MOST):
        page = answers.read_json(asked, method=search.method, parameters=parameters)
        items = page.get("features")
        if not isinstance(items, list) or not all(isinstance(i, dict) for i in items):
            raise RasterError(
                f"{redact(url)} answers a search with something other than items"
            )
        yield items
        more = next((k for k in links_of(page) if k.get("rel") == "next"), None)
        if more is None:
            return
        if (items, more) == before and items:
            raise RasterError(f"{redact(url)} answers with one page again and again")
        before = items, more
        asked = Link.from_dict(dict(more))
    raise RasterError(f"{redact(url)} answers with more than {_MOST:,} pages")


def _asked(dates: Span) -> str | None:
    """Return a span as APIs are asked for it; both ends are in, for them."""
    return None if dates == ALWAYS else dates.text


def _where(area: Geometry | None) -> dict[str, Any]:
    """Return how an API is asked for an area: by its box, or those of its parts."""
    if area is None:
        return {}
    import shapely

    parts = shapely.get_parts(shapely.union_all(shapely.envelope(_parts(area))))
    if len(parts) == 1:
        return {"bbox": [*map(float, parts[0].bounds)]}
    return {"intersects": shapely.MultiPolygon([*parts]).__geo_interface__}


def _parts(area: Geometry) -> Any:  # noqa: ANN401 - an array of geometries
    """Return the parts of an area; of many, both halves of the Earth's."""
    import shapely

    parts = shapely.get_parts(area)
    parts = parts[shapely.area(parts) > 0]
    if len(parts) <= _SIMPLE:
        return parts
    halves = [shapely.box(-180, -90, 0, 90), shapely.box(0, -90, 180, 90)]
    both = [area & half for half in halves]
    return shapely.get_parts([shapely.envelope(b) for b in both if b.area])


def _check_collection(client: Client, collection: str, url: str) -> None:
    """Raise where an API has no collection of a name."""
    if client.get_collection(collection) is not None:
        return
    known = [c.id for c in client.get_collections()]
    raise GeosegError(
        f"{redact(url)} has no collection {redact(collection)}"
        f"{did_you_mean(collection, known)}; it has {counted(len(known), 'collection')}"
    )


# --- static catalogues ---


def from_static(
    path: str, collection: str | None, query: Query, trust: Sequence[str] = ()
) -> Iterator[tuple[Item, str]]:
    """Yield the items of a static catalogue, and where each lies.

    What a collection says of its extent is believed: one elsewhere is not walked.

    Raises:
        UnavailableError: A server does not answer.
        RasterError: It has no such collection, or a file of it cannot be read, is
            nothing of STAC, or lies where it may not.
    """
    require("pystac", what="reading a STAC catalogue", extra="stac")
    seen, known = {path}, set[str]()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        level = [path]
        while level:
            below: dict[str, None] = {}
            for place, found in zip(level, pool.map(_catalog_at, level), strict=True):
                known.add(found.id)
                if _is_elsewhere(found, query):
                    continue
                own = (path, *trust)
                below |= dict.fromkeys(_linked(found, "child", place, own))
                if collection in {None, found.id} or not _is_collection(found):
                    items = list(_linked(found, "item", place, own))
                    for where, item in zip(
                        items, pool.map(_item_at, items), strict=True
                    ):
                        if collection in {None, found.id, item.get("collection")}:
                            yield item, where
            level = [place for place in below if place not in seen]
            seen.update(level)
    if collection is not None and collection not in known:
        raise RasterError(
            f"{redact(path)} has no collection {redact(collection)}"
            f"{did_you_mean(collection, known)}"
        )


def _catalog_at(place: str) -> Catalog:
    """Read a catalogue or collection, of whichever version of STAC."""
    from pystac import Catalog

    found = _object_at(place)
    if not isinstance(found, Catalog):
        raise RasterError(f"{redact(place)} is no STAC catalogue but an item")
    return found


def _item_at(place: str) -> dict[str, Any]:
    from pystac import Item as StacItem

    found = _object_at(place)
    if not isinstance(found, StacItem):
        raise RasterError(f"{redact(place)} is no STAC item, as its catalogue says")
    return found.to_dict(include_self_link=False, transform_hrefs=False)


def _object_at(place: str) -> STACObject:
    """Read what lies at a place as pystac has it, brought to the newest version."""
    import pystac
    from pystac.errors import STACError

    told = fetch_json(place)
    try:
        return pystac.read_dict(told, href=place)
    except (STACError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise RasterError(
            f"{redact(place)} does not follow the STAC specification: "
            f"{squeezed(error, place)}"
        ) from error


def _is_collection(found: Catalog) -> bool:
    return str(found.STAC_OBJECT_TYPE) == "Collection"


def _linked(
    found: Catalog, rel: str, place: str, own: tuple[str, ...]
) -> Iterator[str]:
    """Yield where the children or items of a catalogue lie.

    They lie below the catalogue's own folder, on its server, or where it is trusted.
    """
    root, *trust = own
    around = host_of(root) or str(Path(root).absolute().parent)
    for link in found.get_links(rel):
        href = link.get_href(transform_href=False)
        if href:
            where = allowed(absolute_href(href, place), place, [around, *trust])
            yield where if host_of(where) else os.path.normpath(where)


def _is_elsewhere(found: Catalog, query: Query) -> bool:
    """Whether a collection says that nothing of it lies where and when it is asked."""
    extent = getattr(found, "extent", None)
    if extent is None:
        return False
    boxes = [{"bbox": [*box]} for box in extent.spatial.bboxes if box]
    if boxes and not any(query.is_near(box) for box in boxes):
        return True
    spans = extent.temporal.intervals
    return bool(spans) and not any(_meet(query.dates, *span[:2]) for span in spans)


def _meet(dates: Span, start: datetime | None, end: datetime | None) -> bool:
    """Whether something lasted in a span."""
    first, last = (m and moment_of(m.isoformat()) for m in (start, end))
    late = first is not None and dates.end is not None and first >= dates.end
    early = last is not None and dates.start is not None and last < dates.start
    return not (late or early)
