"""Bands that items leave to their files: several in one file, of which no item tells.

Deliveries of orders often are so: an item names a file, and the file its bands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from geoseg.errors import SceneMissingError
from geoseg.rasters.layers import Layer, Reading, layer_file
from geoseg.rasters.scene_bands import item_name
from geoseg.rasters.stac_assets import is_picture, rasters_of

if TYPE_CHECKING:
    from geoseg.rasters.common_grid import Headers

Item = Mapping[str, Any]

_AT_ONCE: Final = 16


def with_bands_of_files(items: Sequence[Item], headers: Headers) -> list[Item]:
    """Return items that name the bands of their files where they named none at all.

    Args:
        items: The scenes, their addresses made whole.
        headers: How the headers of their files are read.

    Raises:
        SceneMissingError: One cannot be had.
    """

    def told(item: Item) -> Item:
        try:
            named = {key: _named(item, key, headers) for key in _silent(item)}
        except SceneMissingError:
            if headers.skip:
                return item
            raise
        assets = {
            key: {**item["assets"][key], "eo:bands": names}
            for key, names in named.items()
            if names
        }
        return {**item, "assets": {**item["assets"], **assets}} if assets else item

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(told, items))


def _silent(item: Item) -> list[str]:
    """Return the assets of an item whose bands are known to their files only."""
    if not isinstance(item.get("assets"), Mapping):
        return []
    rasters = list(rasters_of(item))
    if any(asset.bands for asset in rasters if not is_picture(asset)):
        return []
    return [
        asset.key
        for asset in rasters
        if not asset.bands
        and len(item["assets"][asset.key].get("raster:bands") or ()) != 1
    ]


def _named(item: Item, key: str, headers: Headers) -> list[dict[str, str]]:
    """Return the bands of an asset by its file; none where that has one only."""
    href = str(item["assets"][key]["href"])
    layer = Layer(scene=item_name(item), key=key, href=href)
    file = layer_file(layer, Reading(trust=headers.trust), headers.handles)
    if len(file.bands) < 2 or file.numbers != tuple(range(1, len(file.bands) + 1)):
        return []
    return [
        {"name": b.name} | ({"common_name": b.common_name} if b.common_name else {})
        for b in file.bands
    ]
