"""What STAC items tell of their assets: bands, names, numbers, nodata.

https://github.com/radiantearth/stac-spec: 1.0 with `eo:bands` and `raster:bands`, 1.1
with `bands`, and items that tell of neither, by the keys of their assets.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from geoseg.rasters.addresses import host_of, is_remote
from geoseg.rasters.bands import band_in_file_name, with_common_names
from geoseg.rasters.named_files import allowed, file_of
from geoseg.rasters.product_files import RASTER_SUFFIXES
from geoseg.rasters.sensors import is_band_name
from geoseg.rasters.source import SourceBand

if TYPE_CHECKING:
    from collections.abc import Iterator


_NOT_PIXELS: Final = frozenset({
    "thumbnail", "overview", "visual", "metadata", "data-mask", "cloud", "snow-ice",
    "saturation", "water-mask", "cloud-shadow",
})  # fmt: skip


_NO_BAND: Final = re.compile(
    r"(?:visual|thumbnail|preview|overview|rendered_preview|tilejson|scl|aot|wvp|tci)"
    r"(?:_\d+m)?|(\w+_)?browse|(\w+_)?qa(_\w+)?(\.tif)?|(\w+_)?udm2?(_\w+)?"
    r"|cloud|snow|fmask|(.+_)?mask|(s[az]a|v[az]a)|granule_metadata|atran|cdist|drad"
    r"|emis|emsd|trad|urad|oa_\w+",
    re.IGNORECASE,
)


_BY_THE_WAY: Final = "by the way"
"""Where facts of a band hold what counts less than its file and baseline."""
_IN_NAME: Final = re.compile(r"\bS2[A-D]_MSIL[12][AC]_\d{8}T\d{6}_N(\d\d)(\d\d)_")
_IN_TAKE: Final = re.compile(r"^GS2[A-D]_\d{8}T\d{6}_\d+_N(\d\d\.\d\d)$")
_METRES: Final = re.compile(r"_(\d+)m$")
_PICTURE: Final = re.compile(
    r"(?:^|[_-])(?:visual|tci|true[_-]?colou?r|rgb|overview|preview)(?:[_-]|$)",
    re.IGNORECASE,
)


COLLECTIONS: Final = "geoseg:collection"
"""Where an asset holds what its collection tells of the numbers of its bands."""
_RASTER_TYPES: Final = ("image/tiff", "image/jp2", "image/vnd.stac.geotiff")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """A raster of an item."""

    key: str
    href: str
    bands: tuple[SourceBand, ...]
    """As the item tells; none where it does not."""
    nodata: tuple[float | None, ...] = (None,)
    """As the item tells, of all its bands, or of each where they differ."""
    scaled: bool = False
    """Whether it tells what numbers mean."""
    rules: tuple[tuple[float, float], ...] = ()
    """Scale and offset of each of its bands, where it tells them and no names."""
    applied: bool = False
    """Whether it says that an offset was taken off already; files do not know."""
    by_baseline: bool = False
    """Whether only its baseline or collection does: what the file tells counts more."""
    resolution: float | None = None
    """Size of its pixels in metres, as the item tells."""
    classes: bool = False
    """Whether its numbers are classes, as the item tells."""
    elsewhere: tuple[str, ...] = ()
    """Other addresses of the same file, as the item tells; may hold credentials."""


def links_of(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the links of an item, a catalogue, or a page of search results."""
    return [k for k in _objects(found.get("links")) if isinstance(k.get("href"), str)]


def is_raster(asset: Mapping[str, Any]) -> bool:
    """Whether an asset is a raster, by its address or its media type."""
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
        if not isinstance(asset, Mapping) or not is_raster(asset):
            continue
        if pixels and _NOT_PIXELS & set(asset.get("roles") or ()):
            continue
        href = str(asset["href"])
        # Whoever hands over an item names its hosts and paths, but not what GDAL's
        # virtual files make of them.
        target = file_of(href)
        allowed(href, "the item", [host_of(target) or target])
        bands = _bands(key, asset, item)
        facts = _facts(asset, len(bands) or len(_band_objects(asset)) or 1)
        if pixels and len(bands) < 2 and _NO_BAND.fullmatch(key):
            continue
        yield Asset(
            key=key,
            href=_absolute(href, base),
            bands=bands,
            nodata=_nodata_of(key, asset, item),
            rules=() if bands else _untold(facts, item),
            resolution=_resolution(key, asset),
            scaled=any(band.is_scaled for band in bands),
            applied=any(_is_applied(f, item) for f in facts),
            by_baseline=not any(map(_is_told, facts)),
            classes=_holds_classes(asset),
            elsewhere=_alternates(asset),
        )


def _absolute(href: str, base: str) -> str:
    if is_remote(href) or href.startswith("/") or not base:
        return href
    if is_remote(base):
        return f"{base.rpartition('/')[0]}/{href.removeprefix('./')}"
    return str(Path(base).parent / href)


def _bands(
    key: str, asset: Mapping[str, Any], item: Mapping[str, Any]
) -> tuple[SourceBand, ...]:
    """Return an asset's bands, as far as they are named."""
    told = _told_of_bands(key, asset, item)
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
    facts = _facts(asset, len(names), told)
    rules = [_rule(each, item) for each in facts]
    return tuple(
        replace(g, common_name=c or g.common_name, scale=scale, offset=offset)
        for g, c, (scale, offset) in zip(guessed, common, rules, strict=True)
    )


def _told_of_bands(
    key: str, asset: Mapping[str, Any], item: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    """Return what is told of the bands of an asset: by it, else by its item."""
    told = _objects(asset.get("bands")) or _objects(asset.get("eo:bands"))
    if told:
        return told
    if "eo:common_name" in asset:  # of its only band, as STAC 1.1 has it
        return [{"name": key, "eo:common_name": asset["eo:common_name"]}]
    properties = item.get("properties") or {}
    every = _objects(properties.get("bands")) or _objects(properties.get("eo:bands"))
    places = asset.get("eo:bands")  # in what the item lists, until STAC 0.8
    if isinstance(places, list) and {*places} <= {*range(len(every))}:
        return [every[place] for place in places]
    return [band for band in every if band.get("name") == key]


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


def _untold(
    facts: Sequence[Mapping[str, Any]], item: Mapping[str, Any]
) -> tuple[tuple[float, float], ...]:
    """Return scale and offset of each band of an asset that names none."""
    told = any(_is_told(f) or _is_told(f[_BY_THE_WAY]) for f in facts)
    return tuple(_rule(f, item) for f in facts) if told else ()


def _band_objects(asset: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what STAC 1.0 or 1.1 tells of the numbers of each band of an asset."""
    return _objects(asset.get("raster:bands")) or _objects(asset.get("bands"))


def _facts(
    asset: Mapping[str, Any], count: int, named: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Return what an asset tells of each of its bands.

    Args:
        asset: As the item has it.
        count: How many bands there are.
        named: What tells their names, which may tell of their numbers by the way.
    """
    told = _fitting(_band_objects(asset), count)
    common, named = _fitting(asset.get(COLLECTIONS), count), _fitting(named, count)
    return [
        {**asset, **band, _BY_THE_WAY: {**by_all, **by_name}}
        for band, by_all, by_name in zip(told, common, named, strict=True)
    ]


def _fitting(told: Any, count: int) -> Sequence[Mapping[str, Any]]:  # noqa: ANN401 - as JSON has it
    """Return what is told of so many bands; nothing of each where it is of others."""
    found = _objects(told)
    return found if len(found) == count else [{}] * count


def _alternates(asset: Mapping[str, Any]) -> tuple[str, ...]:
    """Return other addresses of a file, by the extension that lists them."""
    told = asset.get("alternate")
    others = told.values() if isinstance(told, Mapping) else ()
    return tuple(
        str(o["href"]) for o in others if isinstance(o, Mapping) and "href" in o
    )


def _holds_classes(asset: Mapping[str, Any]) -> bool:
    """Whether an asset's numbers are classes, by the extensions that list them."""
    told = [asset, *_band_objects(asset)]
    return "file:values" in asset or any("classification:classes" in t for t in told)


def tells_names(asset: Mapping[str, Any]) -> bool:
    """Whether an asset itself names its bands."""
    told = (*_objects(asset.get("bands")), *_objects(asset.get("eo:bands")), asset)
    return any({"eo:common_name", "common_name"} & {*b} for b in told) or any(
        b.get("name") for b in told[:-1]
    )


def tells_numbers(asset: Mapping[str, Any]) -> bool:
    """Whether an asset itself says what the numbers of a band mean."""
    return any(_is_told({**asset, **b}) for b in (*_band_objects(asset), {}))


def _is_told(facts: Mapping[str, Any]) -> bool:
    """Whether scale or offset are told."""
    return _scale_and_offset(facts) != (None, None)


def _scale_and_offset(facts: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return scale and offset as they are told, under the names of STAC 1.0 or 1.1."""
    return (
        _number(facts.get("raster:scale", facts.get("scale"))),
        _number(facts.get("raster:offset", facts.get("offset"))),
    )


def _rule(facts: Mapping[str, Any], item: Mapping[str, Any]) -> tuple[float, float]:
    """Return scale and offset by what a band and its item tell.

    Earth Search takes the offset of baseline 04.00 off the pixels, says so in
    `earthsearch:boa_offset_applied`, and leaves it in `raster:bands`
    (https://github.com/Element84/earth-search/issues/9). Planetary Computer's items
    tell of the baseline only, and those of some archives leave it to their collection.
    """
    scale, offset = _scale_and_offset(facts)
    applied = _is_applied(facts, item)
    if scale is None and offset is None:
        if (baseline := baseline_of(item)) is not None:
            return 1e-4, -0.1 if baseline >= 4 and not applied else 0.0
        scale, offset = _scale_and_offset(facts[_BY_THE_WAY])
    return scale or 1.0, 0.0 if applied else offset or 0.0


def _is_applied(facts: Mapping[str, Any], item: Mapping[str, Any]) -> bool:
    """Whether a band, its asset or its item says that its offset was taken off."""
    told = {**(item.get("properties") or {}), **facts}
    return any(
        str(value).lower() in {"true", "1"}
        for name, value in told.items()
        if name.endswith("boa_offset_applied")
    )


def baseline_of(item: Mapping[str, Any]) -> float | None:
    """Return the processing baseline of a Sentinel-2 item, where it tells.

    As a property, or in the name of its product or of its datatake.
    """
    properties = item.get("properties")
    if not isinstance(properties, Mapping):
        return None
    told = property_of(item, ":processing_baseline") or (
        properties.get("processing:version")
        if "sentinel-2" in f"{item.get('collection')} {properties.get('constellation')}"
        else None
    )
    if told:
        number = _number(str(told).lstrip("Nn"))
        return number / 100 if number is not None and number >= 100 else number  # N0301
    if match := _IN_NAME.search(words_of(item)):
        return float(f"{match[1]}.{match[2]}")
    match = _IN_TAKE.search(str(property_of(item, ":datatake_id") or ""))
    return float(match[1]) if match else None


def property_of(item: Mapping[str, Any], ending: str) -> Any:  # noqa: ANN401 - as JSON has it
    """Return an item's first property whose name ends so, whatever its prefix."""
    told = item.get("properties")
    pairs = sorted(told.items()) if isinstance(told, Mapping) else []
    return next((v for k, v in pairs if k.endswith(ending) and v), None)


def words_of(item: Mapping[str, Any]) -> str:
    """Return all that may hold the name of an item's product."""
    told = item.get("properties")
    title = told.get("title") if isinstance(told, Mapping) else None
    product = property_of(item, ":product_uri") or property_of(item, ":product_id")
    return f"{item.get('id', '')} {product or title or ''}"


def _resolution(key: str, asset: Mapping[str, Any]) -> float | None:
    """Return how large an asset's pixels are, by its bands, itself, or its key."""
    facts = next(iter(_facts(asset, 1)), {})
    told = facts.get("raster:spatial_resolution", facts.get("spatial_resolution"))
    in_key = _METRES.search(key)
    return _number(told or asset.get("gsd") or (in_key[1] if in_key else None))


def _nodata_of(
    key: str, asset: Mapping[str, Any], item: Mapping[str, Any]
) -> tuple[float | None, ...]:
    """Return the nodata value of all bands of an asset, or of each where they differ.

    Of Sentinel-2 it is 0 where nothing is told.
    """
    told = _band_objects(asset) or [{}]
    values = tuple(_number(b.get("nodata", asset.get("nodata"))) for b in told)
    if {*values} == {None} and baseline_of(item) is not None:
        return (0.0,)
    if {*values} == {None}:
        told = _objects(asset.get(COLLECTIONS)) or _told_of_bands(key, asset, item)
        values = tuple(_number(b.get("nodata")) for b in told) or values
    return values[:1] if len({*values}) == 1 else values


def _number(value: Any) -> float | None:  # noqa: ANN401 - as JSON has it
    try:
        number = None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number is not None and math.isfinite(number) else None


def size_of(asset: Asset) -> tuple[bool, float, bool]:
    """Return what orders assets of one band: the finest, and of those GeoTIFFs, first.

    Archives that offer both keep JPEG 2000 where it is slow, or not to be had. Pictures
    to look at, which name the bands that they show, come after all others.
    """
    is_jp2 = asset.href.partition("?")[0].lower().endswith(".jp2")
    return is_picture(asset), asset.resolution or math.inf, is_jp2


def is_picture(asset: Asset) -> bool:
    """Whether an asset is there to be looked at, by its key."""
    return _PICTURE.search(asset.key) is not None
