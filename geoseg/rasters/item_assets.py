"""What a collection tells of the assets of all its items, where an item does not.

https://github.com/stac-extensions/item-assets, part of STAC since 1.1. It counts less
than what an item, its file or its processing baseline tells: a collection is written
once, and its scenes differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from geoseg.errors import RasterError
from geoseg.rasters.addresses import host_of, is_remote
from geoseg.rasters.named_files import absolute_href, allowed
from geoseg.rasters.stac_assets import (
    COLLECTIONS,
    baseline_of,
    is_raster,
    links_of,
    tells_names,
    tells_numbers,
)

Item = Mapping[str, Any]

_NUMBERS: Final = ("scale", "offset", "raster:scale", "raster:offset", "nodata")
_NAMES: Final = ("name", "eo:common_name", "common_name")
_ASIDE: Final = ("classification:classes", "file:values", "roles", "gsd")


class Collections:
    """Collections of items, each read once."""

    def __init__(self, read: Callable[[str], Mapping[str, Any]]) -> None:
        self._read = read
        self._known: dict[str, Mapping[str, Any]] = {}

    def complete(self, item: Item, by: str, trust: Sequence[str] = ()) -> Item:
        """Return an item with what its collection tells of its assets beside.

        Args:
            item: As it is told.
            by: The file, URL or API that tells it.
            trust: Folders and hosts where its collection may lie beside.

        Raises:
            UnavailableError: The server of its collection does not answer.
        """
        assets = item.get("assets")
        if not isinstance(assets, Mapping) or not _leaves_open(item):
            return item
        told = self._item_assets(_place_of(item, by, trust), item.get("collection"))
        completed = {
            key: _completed(asset, told[key]) if key in told else asset
            for key, asset in assets.items()
        }
        return {**item, "assets": completed} if told else item

    def _item_assets(self, place: str | None, name: object) -> Mapping[str, Any]:
        """Return what the collection of a name, at a place, tells of assets by key."""
        if place is None:
            return {}
        if place not in self._known:
            try:
                self._known[place] = self._read(place)
            except RasterError:  # there is none, or it may not be read
                self._known[place] = {}
        found = self._known[place]
        told = found.get("item_assets") if found.get("id") == name else None
        pairs = told.items() if isinstance(told, Mapping) else ()
        return {key: asset for key, asset in pairs if isinstance(asset, Mapping)}


def _leaves_open(item: Item) -> bool:
    """Whether there is a raster of which an item tells no names, or no numbers."""
    known = baseline_of(item) is not None
    rasters = [a for a in item["assets"].values() if isinstance(a, Mapping)]
    return any(
        not (tells_names(a) and (known or tells_numbers(a)))
        for a in rasters
        if is_raster(a)
    )


def _place_of(item: Item, by: str, trust: Sequence[str]) -> str | None:
    """Return where the collection of an item is told, None where it may not be read."""
    links = (k["href"] for k in links_of(item) if k.get("rel") == "collection")
    href, name = next(links, None), item.get("collection")
    if href is not None:
        try:
            return allowed(absolute_href(href, by), by, trust)
        except RasterError:
            return None
    if not isinstance(name, str):
        return None
    if host_of(by):
        return f"{by.rstrip('/')}/collections/{name}"
    beside = Path(by).parent / "collection.json"
    return str(beside) if not is_remote(by) and beside.is_file() else None


def _completed(asset: Any, told: Mapping[str, Any]) -> Any:  # noqa: ANN401 - as JSON has it
    """Return an asset with what its collection tells and itself does not."""
    if not isinstance(asset, Mapping):
        return asset
    listed = [told.get(key) for key in ("raster:bands", "bands", "eo:bands")]
    bands: list[Any] = next((b for b in listed if isinstance(b, list) and b), [{}])
    facts = [{**told, **b} for b in bands if isinstance(b, Mapping)]
    beside = {key: told[key] for key in _ASIDE if key in told}
    numbers = [{k: f[k] for k in _NUMBERS if k in f} for f in facts]
    found = {**beside, **asset}
    if any(numbers):
        found[COLLECTIONS] = numbers
    if not tells_names(asset) and tells_names(told):
        named = told.get("eo:bands") or told.get("bands") or [told]
        found["eo:bands"] = [{k: b[k] for k in _NAMES if k in b} for b in named]
    return found
