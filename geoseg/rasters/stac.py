"""A STAC item as a source: its assets' bands under their own and common names.

https://github.com/radiantearth/stac-spec (1.0 with `eo:bands`, 1.1 with `bands`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urljoin

from geoseg.core.text import redact
from geoseg.errors import RasterError
from geoseg.rasters.bands import band_key, with_common_names
from geoseg.rasters.gdal import is_remote, one_line
from geoseg.rasters.mosaic import stack
from geoseg.rasters.several import RASTER_SUFFIXES, open_all
from geoseg.rasters.source import Renamed, Source, SourceBand

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MAX_BYTES: Final = 50_000_000
_NOT_PIXELS: Final = frozenset({"thumbnail", "overview", "visual", "metadata"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """A raster of an item."""

    key: str
    href: str
    bands: tuple[SourceBand, ...]
    """As the item tells; none where it does not."""


def read_item(path: str) -> dict[str, Any]:
    """Return an item from its JSON, a file or a URL.

    Raises:
        RasterError: It cannot be read, or is no JSON object.
    """
    try:
        item = json.loads(_read(path))
    except (OSError, ValueError) as error:
        raise RasterError(
            f"cannot open {redact(path)}: {one_line(error, path)}"
        ) from error
    if not isinstance(item, dict):
        raise RasterError(f"{redact(path)} is no STAC item: not a JSON object")
    here = path if is_remote(path) else str(Path(path).absolute())
    return {**item, "links": [{"rel": "self", "href": here}]}


def _read(path: str) -> bytes:
    if path.lower().startswith(("http://", "https://")):
        from urllib.request import urlopen

        with urlopen(path, timeout=20) as answer:  # noqa: S310 - http or https
            data: bytes = answer.read(_MAX_BYTES + 1)
    else:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise RasterError(f"{redact(path)} is larger than {_MAX_BYTES:,} bytes")
    return data


def open_item(item: Mapping[str, Any], *, nodata: float | None = None) -> Source:
    """Return the bands of a STAC item as one source.

    Assets of one band each are stacked, on the grid of the finest; else the first
    asset with several bands is the source.

    Raises:
        RasterError: It is no item, has no rasters, or they cannot be opened.
    """
    name = f"STAC item {item.get('id', '?')}"
    if item.get("type") != "Feature" or not isinstance(item.get("assets"), Mapping):
        raise RasterError(
            f"{name} is none: type is {item.get('type')!r} instead of 'Feature', or "
            "there are no assets; collections and catalogs are not rasters"
        )
    assets = list(_rasters(item))
    if not assets:
        raise RasterError(
            f"{name} has no rasters among its assets ({', '.join(item['assets'])})"
        )
    chosen = _single_bands(assets) or assets[:1]
    opened = open_all([asset.href for asset in chosen], nodata=nodata)
    named = [_named(s, a) for s, a in zip(opened, chosen, strict=True)]
    return named[0] if len(named) == 1 else stack(named, name)


def _rasters(item: Mapping[str, Any]) -> Iterator[Asset]:
    base = next(
        (k["href"] for k in item.get("links", []) if k.get("rel") == "self"), ""
    )
    for key, asset in item["assets"].items():
        if not isinstance(asset, Mapping):
            continue
        href = str(asset.get("href", ""))
        suffix = Path(href.split("?", maxsplit=1)[0]).suffix.lower()
        if suffix not in RASTER_SUFFIXES or _NOT_PIXELS & set(asset.get("roles") or ()):
            continue
        yield Asset(key=key, href=_absolute(href, base), bands=_bands(asset))


def _absolute(href: str, base: str) -> str:
    if is_remote(href) or href.startswith("/") or not base:
        return href
    if is_remote(base):
        return urljoin(base, href)
    return str(Path(base).parent / href)


def _bands(asset: Mapping[str, Any]) -> tuple[SourceBand, ...]:
    told = asset.get("bands") or asset.get("eo:bands") or ()
    names = [str(b.get("name", "")) for b in told]
    common = [b.get("eo:common_name", b.get("common_name")) for b in told]
    if not all(n or c for n, c in zip(names, common, strict=True)):
        return ()
    guessed = with_common_names(names)
    return tuple(
        SourceBand(name=n or str(c), common_name=c or g.common_name)
        for n, c, g in zip(names, common, guessed, strict=True)
    )


def _single_bands(assets: Sequence[Asset]) -> list[Asset]:
    """Return the assets of one band each, the first of those that show the same."""
    found: dict[str, Asset] = {}
    for asset in assets:
        if len(asset.bands) == 1:
            found.setdefault(band_key(asset.bands[0].name), asset)
    return list(found.values())


def _named(source: Source, asset: Asset) -> Source:
    if not asset.bands or len(asset.bands) != len(source.bands):
        return source
    return Renamed(source=source, names=asset.bands)
