"""A background map of somebody's server, where the user names one; never by default.

The live map is drawn in its own pixels, so tiles are fetched here, in Web Mercator, and
put on the map's grid. The browser asks nobody but this machine.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from urllib.request import Request, urlopen

import numpy as np
from affine import Affine

from geoseg._version import __version__
from geoseg.core.grid import Grid, Window
from geoseg.core.lookup import look_up, nearest_pixels
from geoseg.errors import GeosegError, first_line
from geoseg.viz.picture import encode
from geoseg.viz.view.classes_layer import TILE, tile_window

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_HALF = math.pi * 6_378_137
"""Half the width of Web Mercator, in metres."""
_DEEPEST = 19
_KEPT = 256
_PATIENCE = 10
_PAUSE = 5.0
"""Seconds for which a server that does not answer is left alone."""
_MOST = 16 << 20
"""Bytes of a tile; one that is longer is not a tile."""


@dataclass(slots=True, kw_only=True, eq=False)
class Basemap:
    """Tiles by URL on the map's grid."""

    url: str
    grid: Grid
    """The map's."""
    problem: str = ""
    """Why the last tile did not come."""
    _again: float = 0.0
    _fetch: Callable[[int, int, int], NDArray[np.uint8]] = field(init=False)

    def __post_init__(self) -> None:
        self._fetch = lru_cache(_KEPT)(self._fetched)

    @property
    def credit(self) -> str:
        """Whose map it is, as its makers ask to be named."""
        host = urlsplit(self.url).hostname or ""
        osm = host.endswith("openstreetmap.org")
        return f"{host}, © OpenStreetMap contributors" if osm else host

    def tile(self, z: int, x: int, y: int) -> bytes:
        """Return a tile of the map's grid as PNG, clear where there is nothing."""
        # Twice as fine and averaged, so that words on it stay legible.
        window = tile_window(z, x, y)
        factor = window.width / TILE / 2
        grid = self.grid[window].resampled(y_factor=factor, x_factor=factor)
        fine = self._on(grid).reshape(TILE, 2, TILE, 2, 4)
        return encode(fine.mean(axis=(1, 3)).astype(np.uint8), "PNG")

    def _on(self, grid: Grid) -> NDArray[np.uint8]:
        world = mercator(_DEEPEST)
        span = nearest_pixels(grid, grid.window, world, only_span=True).span
        if span is None:
            return np.zeros((grid.height, grid.width, 4), np.uint8)
        ratio = math.sqrt(span.area / grid.pixels)
        zoom = max(0, _DEEPEST - int(math.log2(max(2 * ratio, 1))))
        return look_up(
            lambda part: self._read(zoom, part), mercator(zoom), grid, grid.window,
            nothing=0, dtype=np.uint8, pixel=(4,),
        )  # fmt: skip

    def _read(self, zoom: int, window: Window) -> NDArray[np.uint8]:
        """Return a window of the world in a zoom, RGBA, put together from tiles."""
        out = np.zeros((window.height, window.width, 4), np.uint8)
        for y in range(window.y // TILE, -(-window.bottom // TILE)):
            for x in range(window.x // TILE, -(-window.right // TILE)):
                tile = Window(y=y * TILE, x=x * TILE, height=TILE, width=TILE)
                shared = window.overlap(tile)
                assert shared is not None, "only tiles that meet the window"
                here, there = shared
                out[here] = self._tile_or_nothing(zoom, x, y)[there]
        return out

    def _tile_or_nothing(self, zoom: int, x: int, y: int) -> NDArray[np.uint8]:
        if time.monotonic() < self._again:
            return _nothing()
        try:
            found = self._fetch(zoom, x, y)
        except (OSError, ValueError) as error:
            self._again = time.monotonic() + _PAUSE
            host = urlsplit(self.url).hostname
            self.problem = f"{host} does not send the basemap: {first_line(error)}"
            return _nothing()
        self.problem = ""
        return found

    def _fetched(self, zoom: int, x: int, y: int) -> NDArray[np.uint8]:
        from PIL import Image

        asked = Request(  # noqa: S310 - checked to be http(s)
            tile_url(self.url, zoom, x, y), headers={"User-Agent": AGENT}
        )
        try:
            with urlopen(asked, timeout=_PATIENCE) as answer:  # noqa: S310
                data = answer.read(_MOST)
        except HTTPError as error:
            if error.code not in {204, 404}:
                raise
            return _nothing()  # beyond what the server has
        picture = Image.open(BytesIO(data), formats=("PNG", "JPEG", "WEBP", "GIF"))
        if max(picture.size) > 4 * TILE:
            raise ValueError(f"a tile has {picture.width} x {picture.height} pixels")
        return np.asarray(picture.convert("RGBA").resize((TILE, TILE)))


def _nothing() -> NDArray[np.uint8]:
    return np.zeros((TILE, TILE, 4), np.uint8)


AGENT = f"geoseg/{__version__}"
"""Who asks, as the terms of tile servers want to know."""


def open_basemap(url: str, grid: Grid) -> Basemap:
    """Return a background map by URL, such as `https://…/{z}/{x}/{y}.png` or of a WMS.

    Args:
        url: A template of tiles in Web Mercator with `{z}`, `{x}` and `{y}`, or the
            address of a WMS that names its layers: `https://…?layers=roads`.
        grid: The map's.

    Raises:
        GeosegError: It is neither, or the map has no CRS.
    """
    if urlsplit(url).scheme not in {"http", "https"}:
        raise GeosegError(
            "a basemap has an address that begins with https:// or http://"
        )
    if not _is_wms(url) and not all(part in url for part in ("{z}", "{x}", "{y}")):
        raise GeosegError(
            "a basemap is a template of tiles, with {z}, {x} and {y} in it, or the "
            "address of a WMS with its layers, such as https://example.org/wms?layers=a"
        )
    if grid.crs is None:
        raise GeosegError("a map without a CRS has no place on a basemap")
    return Basemap(url=url, grid=grid)


def _is_wms(url: str) -> bool:
    return any(key.lower() == "layers" for key, _ in parse_qsl(urlsplit(url).query))


def mercator(zoom: int) -> Grid:
    """Return the pixels of the whole world in tiles of a zoom."""
    side = TILE << zoom
    step = 2 * _HALF / side
    transform = Affine(step, 0, -_HALF, 0, -step, _HALF)
    return Grid(crs="EPSG:3857", transform=transform, height=side, width=side)


def tile_url(url: str, zoom: int, x: int, y: int) -> str:
    """Return the address of one tile.

    >>> tile_url("https://a.org/{z}/{x}/{y}.png", 3, 2, 1)
    'https://a.org/3/2/1.png'
    """
    if not _is_wms(url):
        known = {"{z}": zoom, "{x}": x, "{y}": y, "{s}": "a", "{r}": ""}
        for name, value in known.items():
            url = url.replace(name, str(value))
        return url
    parts = urlsplit(url)
    side = 2 * _HALF / (1 << zoom)
    left, top = -_HALF + x * side, _HALF - y * side
    given = {key.lower(): value for key, value in parse_qsl(parts.query)}
    wanted: dict[str, Any] = {
        "service": "WMS", "request": "GetMap", "version": "1.1.1", "styles": "",
        "format": "image/png", "transparent": "true",
    }  # fmt: skip
    wanted |= given
    reference = "crs" if wanted["version"] >= "1.3" else "srs"
    wanted |= {
        reference: "EPSG:3857", "width": TILE, "height": TILE,
        "bbox": f"{left},{top - side},{left + side},{top}",
    }  # fmt: skip
    return urlunsplit(parts._replace(query=urlencode(wanted)))
