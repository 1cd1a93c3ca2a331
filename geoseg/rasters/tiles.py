"""Tiles of files that windows cut: decoded once, kept for the windows beside.

GDAL keeps decoded tiles too, but for each thread alone, since a thread needs its own
handles: what one thread decoded at the edge of its block the next would decode again.

    +------+------+------+    A window covers some tiles whole (#), which no other needs
    | cut  | cut  | cut  |    and which are read straight into place, and cuts others.
    |   +--+------+--+   |    Those are decoded whole, once per process, and kept until
    +---|--+------+--|---+    there is no room for more.
    | cut  |  #   | cut  |
    +---|--+------+--|---+
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from geoseg.core.grid import Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Layers = tuple[NDArray[Any], ...]
    Decode = Callable[[Window, Layers], None]

CACHE_BYTES: Final = 192 << 20
"""What a process keeps of tiles at most."""
_OVERLAP: Final = 128
"""Pixels that neighbouring windows overlap by, mostly."""
_MOST: Final = 512
"""Tiles that a window may cut; more are rows of a striped file, which GDAL keeps."""


class TileCache:
    """Decoded tiles, the most recently used ones, shared by all threads of a process.

    Who asks for a tile that another thread is at work on waits for that one.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.clear()

    def clear(self) -> None:
        """Forget everything, as in a forked process, whose other threads are gone."""
        self._lock = Lock()
        self._kept: OrderedDict[Hashable, Future[Layers]] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable, decode: Callable[[], Layers]) -> Layers:
        """Return the layers of a tile; decode them where nobody has."""
        with self._lock:
            found = self._kept.get(key)
            tile = found or self._kept.setdefault(key, Future())
            self._kept.move_to_end(key)
        if found is not None:
            return found.result()
        try:
            layers = decode()
        except BaseException as error:
            with self._lock:
                self._kept.pop(key, None)
            tile.set_exception(error)
            raise
        tile.set_result(layers)
        with self._lock:
            self._bytes += _size(layers)
            while self._bytes > self._limit and (old := self._oldest()) is not None:
                self._bytes -= _size(self._kept.pop(old).result())
        return layers

    def _oldest(self) -> Hashable | None:
        return next((key for key, tile in self._kept.items() if tile.done()), None)


def _size(layers: Layers) -> int:
    return sum(layer.nbytes for layer in layers)


_CACHE: Final = TileCache(CACHE_BYTES)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_CACHE.clear)


def read_tiled(
    key: Hashable,
    window: Window,
    out: Layers,
    *,
    tile: tuple[int, int],
    raster: Window,
    decode: Decode,
) -> None:
    """Read a window of a file, what it cuts of tiles through the cache.

    Args:
        key: Stands for the file, its version and its bands, within this process.
        window: Inside the raster.
        out: Arrays (band, y, x) that are filled.
        tile: Rows and columns of the file's tiles.
        raster: The whole file.
        decode: Reads a window into such arrays, by a handle of the calling thread.
    """
    inside, cut = parted(window, tile, raster)
    pixel = sum(layer.itemsize * len(layer) for layer in out)
    if len(cut) > _MOST or not fits(sum(w.area for w in cut), pixel):
        decode(window, out)
        return
    if inside is not None:
        decode(inside, _part(out, window, inside))
    for whole in cut:
        shared = whole.intersection(window)
        assert shared is not None
        read = partial(_decoded, whole, out, decode)
        layers = _CACHE.get((key, whole), read)
        for to, of in zip(
            _part(out, window, shared), _part(layers, whole, shared), strict=True
        ):
            to[...] = of


def fits(pixels: int, pixel: int) -> bool:
    """Whether what windows cut of tiles is kept, by pixels and bytes per pixel."""
    return pixels * pixel <= CACHE_BYTES // 2


def _decoded(window: Window, like: Layers, decode: Decode) -> Layers:
    layers = tuple(
        np.empty((len(layer), window.height, window.width), layer.dtype)
        for layer in like
    )
    decode(window, layers)
    return layers


def _part(layers: Layers, where: Window, part: Window) -> Layers:
    """Return views of what layers that lie at `where` hold of a part of it."""
    y, x = part.relative_to(where).slices
    return tuple(layer[:, y, x] for layer in layers)


def parted(
    window: Window, tile: tuple[int, int], raster: Window
) -> tuple[Window | None, list[Window]]:
    """Return what of a window is whole tiles, and the tiles that neighbours need too.

    Args:
        window: Inside the raster.
        tile: Rows and columns of the tiles, which begin at the raster's corner.
        raster: Tiles at its far edges end there.
    """
    rows = list(_along(window.y, window.bottom, tile[0], raster.height))
    cols = list(_along(window.x, window.right, tile[1], raster.width))
    whole = [r for r in rows if r[2]], [c for c in cols if c[2]]
    inside = None
    if whole[0] and whole[1]:
        (y, _, _), (_, bottom, _) = whole[0][0], whole[0][-1]
        (x, _, _), (_, right, _) = whole[1][0], whole[1][-1]
        inside = Window.spanning(y, bottom, x, right)
    cut = [
        Window.spanning(r[0], r[1], c[0], c[1])
        for r in rows
        for c in cols
        if not (r[2] and c[2])
    ]
    return inside, cut


def _along(
    first: int, after: int, side: int, length: int
) -> Iterator[tuple[int, int, bool]]:
    """Yield the tiles along one axis: first, after, whether no neighbour needs it."""
    # A whole tile next to a cut one is cut by the neighbour, whose window overlaps.
    low = first if first % side == 0 else first + _OVERLAP
    high = after if after % side == 0 or after == length else after - _OVERLAP
    for start in range(first // side * side, after, side):
        end = min(start + side, length)
        yield start, end, low <= start and end <= high
