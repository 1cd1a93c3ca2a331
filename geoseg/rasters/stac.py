"""STAC items as sources: their assets' bands under their own and common names.

https://github.com/radiantearth/stac-spec: 1.0 with `eo:bands` and `raster:bands`, 1.1
with `bands`, and items that tell of neither, by the keys of their assets.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from geoseg.core.text import redact
from geoseg.errors import RasterError
from geoseg.rasters import gcps
from geoseg.rasters.archives import as_told, trusted_hosts
from geoseg.rasters.bands import (
    band_in_file_name,
    band_key,
    is_band_name,
    with_common_names,
)
from geoseg.rasters.file import NOTHING_TOLD, FileHints, RasterFile
from geoseg.rasters.gdal import is_remote, squeezed
from geoseg.rasters.mosaic import mosaic, stack
from geoseg.rasters.products import RASTER_SUFFIXES
from geoseg.rasters.references import (
    absolute_href,
    allowed,
    file_of,
    host_of,
    read_bytes,
)
from geoseg.rasters.several import open_all
from geoseg.rasters.source import Source, SourceBand, noted

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_BYTES: Final = 50_000_000
_NOT_PIXELS: Final = frozenset({
    "thumbnail", "overview", "visual", "metadata", "data-mask", "cloud", "snow-ice",
    "saturation", "water-mask", "cloud-shadow",
})  # fmt: skip
_PICTURES: Final = ("thumbnail", "overview", "preview", "rendered_preview")
_NO_BAND: Final = re.compile(
    r"visual|thumbnail|preview|rendered_preview|tilejson|scl|aot|wvp|(\w+_)?qa(_\w+)?"
    r"|cloud|snow|fmask|(.+_)?mask|(s[az]a|v[az]a)|granule_metadata|atran|cdist|drad"
    r"|emis|emsd|trad|urad|oa_\w+",
    re.IGNORECASE,
)
_METRES: Final = re.compile(r"_(\d+)m$")
_RASTER_TYPES: Final = ("image/tiff", "image/jp2", "image/vnd.stac.geotiff")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """A raster of an item."""

    key: str
    href: str
    bands: tuple[SourceBand, ...]
    """As the item tells; none where it does not."""
    nodata: float | None = None
    """As the item tells."""
    scaled: bool = False
    """Whether it tells what numbers mean."""
    rules: tuple[tuple[float, float], ...] = ()
    """Scale and offset of each of its bands, where it tells them and no names."""
    by_baseline: bool = False
    """Whether only its processing baseline does: what the file tells counts more."""
    resolution: float | None = None
    """Size of its pixels in metres, as the item tells."""


def read_items(path: str, trust: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the items of a JSON file or URL: an item, a search result, a collection.

    Their assets' addresses are made whole; they lie where `references.allowed` says.

    Raises:
        RasterError: It cannot be read, or holds no items.
    """
    found = json_object(read_bytes(path, most=_MAX_BYTES), path, "a STAC item")
    return [with_addresses(item, path, trust) for item in items_in(found, path)]


def items_in(found: Mapping[str, Any], path: str) -> list[dict[str, Any]]:
    """Return the items of an ItemCollection, or of a file that is one item.

    Raises:
        RasterError: It is neither.
    """
    items = found.get("features", [found])
    if not isinstance(items, list) or not all(isinstance(i, dict) for i in items):
        raise RasterError(f"{redact(path)} is not a collection of STAC items")
    return items


def json_object(text: str | bytes, path: str, what: str) -> dict[str, Any]:
    """Return what a file or URL says, or raise RasterError where it is not `what`."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RasterError(f"cannot open {redact(path)}: {error}") from error
    if not isinstance(found, dict):
        raise RasterError(f"{redact(path)} is not {what}: not a JSON object")
    return found


def with_addresses(
    item: Mapping[str, Any],
    by: str,
    trust: Sequence[str] = (),
    *,
    check: bool = True,
) -> dict[str, Any]:
    """Return an item with addresses that do not depend on where it lies.

    Signatures are cut off those that are signed anew whenever they are used. Pictures
    to look at that lie where they may not are left out.

    Args:
        item: As it is told.
        by: The file or URL that tells it.
        trust: Folders, files and hosts where its rasters may lie beside; those of
            archives that are known may always.
        check: Whether rasters elsewhere are refused, or only told where they are.

    Raises:
        RasterError: A raster lies where it may not.
    """
    assets = item.get("assets")
    if not isinstance(assets, Mapping):
        return dict(item)
    own = next((k["href"] for k in links_of(item) if k.get("rel") == "self"), "")
    by = own if host_of(own) and host_of(own) == host_of(by) else by
    known = (*trust, *trusted_hosts())
    found = {}
    for key, asset in assets.items():
        found[key] = asset
        if isinstance(asset, Mapping) and isinstance(asset.get("href"), str):
            href = absolute_href(as_told(asset["href"]), by)
            if check and _is_raster(asset):
                try:
                    href = allowed(href, by, known)
                except RasterError:
                    if not _is_picture(key, asset):
                        raise
                    del found[key]  # nobody opens it, and so nobody needs to trust it
                    continue
            elif not is_remote(href) and not host_of(by):
                href = str(Path(by).parent / href)
            found[key] = {**asset, "href": href}
    return {**item, "assets": found}


def _is_picture(key: str, asset: Mapping[str, Any]) -> bool:
    """Whether an asset is there to be looked at only."""
    roles = asset.get("roles")
    told = roles if isinstance(roles, list) else []
    return key in _PICTURES or any(role in _PICTURES for role in told)


def links_of(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the links of an item, a catalogue, or a page of search results."""
    return [k for k in _objects(found.get("links")) if isinstance(k.get("href"), str)]


def items_of(source: Any) -> list[Mapping[str, Any]] | None:  # noqa: ANN401 - anything
    """Return the items that Python values stand for; None where they are not items.

    Args:
        source: A dict (an item or a collection of them), pystac's Item or
            ItemCollection, or a list of items.
    """
    many = source if isinstance(source, list | tuple) else [source]
    found: list[Mapping[str, Any]] = []
    for one in many:
        if type(one).__module__.partition(".")[0] in {"pystac", "pystac_client"}:
            one = one.to_dict()  # noqa: PLW2901 - as its JSON from here on
        if not isinstance(one, Mapping):
            return None
        features = one.get("features")
        found += features if isinstance(features, list) else [one]
    return found or None


def open_items(
    items: Sequence[Mapping[str, Any]], *, told: FileHints = NOTHING_TOLD
) -> Source:
    """Return STAC items as one source: each a stack or a file, several a mosaic.

    Assets of one band each are stacked, on the grid of the finest; else the first
    asset with several bands is the source.

    Raises:
        RasterError: One is no item, has no rasters, or they cannot be opened.
    """
    if not items:
        raise RasterError("the collection holds no STAC items")
    opened = [_valid_item(item, told) for item in items]
    return mosaic(opened, f"{len(items)} STAC items from {opened[0].name}")


def _valid_item(item: Mapping[str, Any], told: FileHints) -> Source:
    """Open an item, or say why it is not one by the specification."""
    try:
        return _open_item(item, told)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RasterError(
            f"STAC item {item.get('id', '?')} does not follow the specification: "
            f"{squeezed(error)}"
        ) from error


def _open_item(item: Mapping[str, Any], told: FileHints) -> Source:
    name = f"STAC item {item.get('id', '?')}"
    if item.get("type") != "Feature" or not isinstance(item.get("assets"), Mapping):
        kind = item.get("type")
        what = "has no assets" if kind == "Feature" else f"is a {kind}, not a Feature"
        raise RasterError(
            f"{name} {what}: an item has rasters as assets; collections and catalogs "
            "are searched, geoseg search COLLECTION --endpoint FILE_OR_URL"
        )
    assets = list(rasters_of(item))
    if not assets:
        raise RasterError(
            f"{name} has no rasters among its assets ({', '.join(item['assets'])})"
        )
    chosen = _chosen(assets, told.wanted)
    opened = open_all(
        [a.href for a in chosen],
        replace(
            told,
            count=len(chosen[0].bands),
            product=not any(a.scaled for a in chosen),
        ),
    )
    named = [
        gcps.on_control_points(_named(s, a, told), s.control)
        for s, a in zip(opened, chosen, strict=True)
    ]
    joined = named[0] if len(named) == 1 else stack(named, name)
    return noted(joined, *(f"{name}: {n}" for n in _notes(item, chosen, assets)))


def _notes(
    item: Mapping[str, Any], chosen: Sequence[Asset], assets: Sequence[Asset]
) -> Iterator[str]:
    told = {a.nodata for a in chosen if a.nodata is not None}
    if told:
        yield f"nodata is {', '.join(f'{n:g}' for n in sorted(told))} by the item"
    if any(a.scaled for a in chosen):
        band = next(b for a in chosen if a.scaled for b in a.bands)
        yield (
            f"reflectance = number x {band.scale:g} {band.offset:+g} by the item"
            f"{_baseline_told(item)}"
        )
    if len(chosen) == 1 < len(assets):
        others = ", ".join(a.key for a in assets if a is not chosen[0])
        yield f"asset {chosen[0].key} is used; left out: {others}"


def _baseline_told(item: Mapping[str, Any]) -> str:
    baseline = baseline_of(item)
    return "" if baseline is None else f", processing baseline {baseline:05.2f}"


def _is_raster(asset: Mapping[str, Any]) -> bool:
    href = str(asset.get("href", ""))
    suffix = Path(href.split("?", maxsplit=1)[0]).suffix.lower()
    told = str(asset.get("type", "")).startswith(_RASTER_TYPES)
    return suffix in RASTER_SUFFIXES or (told and not suffix and is_remote(href))


def rasters_of(item: Mapping[str, Any], *, pixels: bool = True) -> Iterator[Asset]:
    """Yield the rasters among an item's assets.

    Args:
        item: As its JSON has it.
        pixels: Whether pictures and files of quality are left out.

    Raises:
        RasterError: One lies where GDAL would read what nobody named.
    """
    base = next((k["href"] for k in links_of(item) if k.get("rel") == "self"), "")
    for key, asset in item["assets"].items():
        if not isinstance(asset, Mapping) or not _is_raster(asset):
            continue
        if pixels and _NOT_PIXELS & set(asset.get("roles") or ()):
            continue
        href = str(asset["href"])
        # Whoever hands over an item names its hosts and paths, but not what GDAL's
        # virtual files make of them.
        target = file_of(href)
        allowed(href, "the item", [host_of(target) or target])
        bands, by_baseline = _bands(key, asset, item)
        if pixels and len(bands) < 2 and _NO_BAND.fullmatch(key):
            continue
        yield Asset(
            key=key,
            href=_absolute(href, base),
            bands=bands,
            nodata=_nodata_of(asset, item),
            rules=() if bands else _untold(asset, item),
            resolution=_resolution(key, asset),
            scaled=any(band.is_scaled for band in bands),
            by_baseline=by_baseline,
        )


def _absolute(href: str, base: str) -> str:
    if is_remote(href) or href.startswith("/") or not base:
        return href
    if is_remote(base):
        return f"{base.rpartition('/')[0]}/{href.removeprefix('./')}"
    return str(Path(base).parent / href)


def _bands(
    key: str, asset: Mapping[str, Any], item: Mapping[str, Any]
) -> tuple[tuple[SourceBand, ...], bool]:
    """Return an asset's bands, and whether only the baseline tells of their numbers."""
    told = _objects(asset.get("bands")) or _objects(asset.get("eo:bands"))
    names = [str(b.get("name", "")) for b in told]
    common = [b.get("eo:common_name", b.get("common_name")) for b in told]
    if not told or not all(n or c for n, c in zip(names, common, strict=True)):
        name = _from_key(key, asset)
        names, common = ([name], [None]) if name else ([], [])
    sensor = f"{item.get('collection', '')} {item.get('id', '')}"
    guessed = with_common_names(
        [n or str(c) for n, c in zip(names, common, strict=True)], sensor
    )
    words = with_common_names(
        [band_in_file_name(g.name) or "" for g in guessed], sensor
    )
    common = [c or w.common_name for c, w in zip(common, words, strict=True)]
    rules = _rules(asset, item, len(names))
    bands = tuple(
        replace(g, common_name=c or g.common_name, scale=scale, offset=offset)
        for g, c, (scale, offset) in zip(guessed, common, rules, strict=True)
    )
    return bands, not any(_is_told(facts) for facts in _facts(asset, len(names)))


def _objects(value: Any) -> list[Mapping[str, Any]]:  # noqa: ANN401 - as JSON has it
    return (
        [b for b in value if isinstance(b, Mapping)] if isinstance(value, list) else []
    )


def _from_key(key: str, asset: Mapping[str, Any]) -> str | None:
    """Return the band that an asset's key tells of, where it tells of one."""
    roles = set(asset.get("roles") or ("data",))
    if not roles & {"data", "reflectance"}:
        return None
    name = band_in_file_name(key) or key
    return name if is_band_name(name) else None


def _rules(
    asset: Mapping[str, Any], item: Mapping[str, Any], count: int
) -> list[tuple[float, float]]:
    """Return scale and offset of each band."""
    return [_rule(facts, item) for facts in _facts(asset, count)]


def _untold(
    asset: Mapping[str, Any], item: Mapping[str, Any]
) -> tuple[tuple[float, float], ...]:
    """Return scale and offset of each band of an asset that names none."""
    told = _objects(asset.get("raster:bands")) or _objects(asset.get("bands"))
    facts = _facts(asset, len(told) or 1)
    return tuple(_rule(f, item) for f in facts) if any(map(_is_told, facts)) else ()


def _facts(asset: Mapping[str, Any], count: int) -> list[Mapping[str, Any]]:
    """Return what an asset tells of each of its bands."""
    told = _objects(asset.get("raster:bands")) or _objects(asset.get("bands"))
    told = told if len(told) == count else [{}] * count
    return [{**asset, **band} for band in told]


def _is_told(facts: Mapping[str, Any]) -> bool:
    """Whether scale or offset are told."""
    names = ("raster:scale", "scale", "raster:offset", "offset")
    return any(_number(facts.get(name)) is not None for name in names)


def _rule(facts: Mapping[str, Any], item: Mapping[str, Any]) -> tuple[float, float]:
    """Return scale and offset by what a band and its item tell.

    Earth Search takes the offset of baseline 04.00 off the pixels, says so in
    `earthsearch:boa_offset_applied`, and leaves it in `raster:bands`
    (https://github.com/Element84/earth-search/issues/9). Planetary Computer's items
    tell of the baseline only.
    """
    scale = _number(facts.get("raster:scale", facts.get("scale")))
    offset = _number(facts.get("raster:offset", facts.get("offset")))
    properties = item.get("properties") or {}
    applied = any(
        value is True
        for name, value in properties.items()
        if name.endswith("boa_offset_applied")
    )
    baseline = baseline_of(item)
    if scale is None and offset is None and baseline is not None:
        return 1e-4, -0.1 if baseline >= 4 and not applied else 0.0
    return scale or 1.0, 0.0 if applied else offset or 0.0


def baseline_of(item: Mapping[str, Any]) -> float | None:
    """Return the processing baseline of a Sentinel-2 item, where it tells."""
    properties = item.get("properties")
    if not isinstance(properties, Mapping):
        return None
    told = properties.get("s2:processing_baseline")
    told = told or (
        properties.get("processing:version")
        if "sentinel-2" in f"{item.get('collection')} {properties.get('constellation')}"
        else None
    )
    return _number(str(told).lstrip("Nn")) if told else None


def _resolution(key: str, asset: Mapping[str, Any]) -> float | None:
    """Return how large an asset's pixels are, by its bands, itself, or its key."""
    facts = next(iter(_facts(asset, 1)), {})
    told = facts.get("raster:spatial_resolution", facts.get("spatial_resolution"))
    in_key = _METRES.search(key)
    return _number(told or asset.get("gsd") or (in_key[1] if in_key else None))


def _nodata_of(asset: Mapping[str, Any], item: Mapping[str, Any]) -> float | None:
    """Return an asset's nodata value; of Sentinel-2 it is 0 where nothing is told."""
    told = _nodata(asset)
    return 0.0 if told is None and baseline_of(item) is not None else told


def _nodata(asset: Mapping[str, Any]) -> float | None:
    """Return the nodata value of an asset, or of all its bands alike."""
    told = _objects(asset.get("raster:bands")) or _objects(asset.get("bands"))
    values = {_number(b.get("nodata", asset.get("nodata"))) for b in told or [{}]}
    return values.pop() if len(values) == 1 else None


def _number(value: Any) -> float | None:  # noqa: ANN401 - as JSON has it
    try:
        number = None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number is not None and math.isfinite(number) else None


def _chosen(assets: Sequence[Asset], words: Sequence[str] | None) -> list[Asset]:
    """Return the assets to open: a band each, or one that has more bands than those.

    The panchromatic band, finer than all others, is opened where it is asked for.
    """
    single = _single_bands(assets)
    wanted = _wanted(single, words)
    largest = max(assets, key=lambda a: len(a.bands))
    if wanted is None and len(largest.bands) > len(single):
        return [largest]
    coloured = [a for a in single if "pan" not in _names(a)]
    return wanted or coloured or single or list(assets[:1])


def _single_bands(assets: Sequence[Asset]) -> list[Asset]:
    """Return the assets of one band each; of those that show the same the finest."""
    found: dict[str, Asset] = {}
    for asset in assets:
        if len(asset.bands) == 1:
            key = band_key(asset.bands[0].name)
            if _metres(asset) < _metres(found.get(key)):
                found[key] = asset
            found.setdefault(key, asset)
    return list(found.values())


def _metres(asset: Asset | None) -> float:
    return math.inf if asset is None or not asset.resolution else asset.resolution


def _wanted(assets: Sequence[Asset], words: Sequence[str] | None) -> list[Asset] | None:
    """Return the assets that `--bands` asks for by name; None where it does not."""
    keys = [band_key(word) for word in words or ()]
    if not keys or any(key.isdigit() or "=" in key for key in keys):
        return None
    found = []
    for key in keys:
        called = (
            a for a in assets if key in {band_key(n) for n in (a.key, *_names(a)) if n}
        )
        asset = next(called, None)
        if asset is None:
            return None
        found.append(asset)
    return found


def _names(asset: Asset) -> tuple[str | None, ...]:
    return asset.bands[0].name, asset.bands[0].common_name


def _named(source: RasterFile, asset: Asset, told: FileHints) -> Source:
    """Return a file with what the item tells of it; its own tags count less."""
    silent = not any(n is not None for n in source.nodata)
    if asset.nodata is not None and told.nodata is None and silent:
        source = source.with_nodata(asset.nodata)
    if len(asset.rules) == len(source.bands):
        bands = tuple(
            replace(own, scale=scale, offset=offset)
            for own, (scale, offset) in zip(source.bands, asset.rules, strict=True)
        )
        return replace(source, bands=bands)
    if not asset.bands or len(asset.bands) != len(source.bands):
        return source
    bands = tuple(
        replace(
            theirs
            if asset.scaled and not (asset.by_baseline and own.is_scaled)
            else replace(theirs, scale=own.scale, offset=own.offset),
            number=own.number,
        )
        for theirs, own in zip(asset.bands, source.bands, strict=True)
    )
    return replace(source, bands=bands)
