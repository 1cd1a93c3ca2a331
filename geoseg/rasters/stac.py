"""STAC items as sources: their assets' bands under their own and common names.

https://github.com/radiantearth/stac-spec: 1.0 with `eo:bands` and `raster:bands`, 1.1
with `bands`, and items that tell of neither, by the keys of their assets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from geoseg.core.text import redact
from geoseg.errors import RasterError
from geoseg.rasters import gcps
from geoseg.rasters.addresses import host_of, is_remote, squeezed
from geoseg.rasters.archives import as_told, trusted_hosts
from geoseg.rasters.bands import band_key
from geoseg.rasters.file import NOTHING_TOLD, FileHints, RasterFile
from geoseg.rasters.gdal import no_pixels
from geoseg.rasters.item_assets import Collections
from geoseg.rasters.mosaic import mosaic, stack
from geoseg.rasters.named_files import absolute_href, allowed, read_bytes
from geoseg.rasters.several import open_all
from geoseg.rasters.source import Source, noted
from geoseg.rasters.stac_assets import (
    Asset,
    baseline_of,
    is_picture,
    is_raster,
    links_of,
    rasters_of,
    size_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_BYTES: Final = 50_000_000
_PICTURES: Final = ("thumbnail", "overview", "preview", "rendered_preview")


def read_items(path: str, trust: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the items of a JSON file or URL: an item, a search result, a collection.

    Their assets' addresses are made whole; they lie where `named_files.allowed` says.

    Raises:
        RasterError: It cannot be read, or holds no items.
    """
    found = json_object(read_bytes(path, most=_MAX_BYTES), path, "a STAC item")
    collections = Collections(_collection_at)
    return [
        with_addresses(collections.complete(item, path, trust), path, trust)
        for item in items_in(found, path)
    ]


def _collection_at(path: str) -> dict[str, Any]:
    return json_object(read_bytes(path, most=_MAX_BYTES), path, "a STAC collection")


def items_in(found: Mapping[str, Any], path: str) -> list[dict[str, Any]]:
    """Return the items of an ItemCollection, or of a file that is one item.

    Raises:
        RasterError: It is neither.
    """
    items = found.get("features", [found])
    if not isinstance(items, list) or not all(isinstance(i, dict) for i in items):
        raise RasterError(f"{redact(path)} is not a collection of STAC items")
    if items and all(map(_is_plain_feature, items)):
        raise no_pixels(redact(path))
    return items


def _is_plain_feature(item: Mapping[str, Any]) -> bool:
    return item.get("type") == "Feature" and not {"assets", "stac_version"} & {*item}


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
            if check and is_raster(asset):
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


def items_of(source: Any) -> list[Mapping[str, Any]] | None:  # noqa: ANN401 - anything
    """Return the items that Python values stand for; None where they are not items.

    Args:
        source: A dict (an item or a collection of them), pystac's Item or
            ItemCollection, a search of pystac-client or our own, or a list of items.
    """
    held = getattr(source, "items", None)  # what our own search has found
    source = held if isinstance(held, list) else source
    many = source if isinstance(source, list | tuple) else [source]
    found: list[Mapping[str, Any]] = []
    for one in many:
        if type(one).__module__.partition(".")[0] in {"pystac", "pystac_client"}:
            of = getattr(one, "item_collection_as_dict", None) or one.to_dict
            one = of()  # noqa: PLW2901 - as its JSON from here on
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
    told = {n for a in chosen for n in a.nodata if n is not None}
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


def _chosen(assets: Sequence[Asset], words: Sequence[str] | None) -> list[Asset]:
    """Return the assets to open: a band each, or one that has more bands than those.

    The panchromatic band, finer than all others, is opened where it is asked for.
    """
    single = _single_bands(assets)
    wanted = _wanted(single, words)
    largest = max(assets, key=lambda a: (not is_picture(a), len(a.bands)))
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
            found[key] = min(found.get(key, asset), asset, key=size_of)
    return list(found.values())


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
    if told.nodata is None:
        source = source.with_nodata(*asset.nodata)
    if len(asset.rules) == len(source.bands):
        bands = tuple(
            own
            if asset.by_baseline and own.is_scaled
            else replace(own, scale=scale, offset=offset)
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
