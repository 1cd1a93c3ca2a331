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
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from geoseg.core.grid import Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Layers = tuple[NDArray[Any], ...]
    Part = tuple[Window, Layers]
    Decode = Callable[[Sequence[Part]], None]

CACHE_BYTES: Final = 256 << 20
"""What a process keeps of tiles at most."""
_OVERLAP: Final = 128
"""Pixels that neighbouring windows overlap by, mostly."""
_LEAST: Final = 64
"""Rows and columns of what is kept: strips of one row, and tiles of 16, are many."""


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

    def get(
        self,
        key: Hashable,
        tiles: Sequence[Window],
        decode: Callable[[Sequence[Window]], Sequence[Layers]],
    ) -> list[Layers]:
        """Return the layers of some tiles of a file; decode those that nobody has.

        Args:
            key: Which file.
            tiles: Row by row.
            decode: Reads rectangles of them, none where all are there.
        """
        found: dict[Window, Future[Layers]] = {}
        missing = []
        with self._lock:
            for tile in tiles:
                if (key, tile) not in self._kept:
                    self._kept[key, tile] = Future()
                    missing.append(tile)
                self._kept.move_to_end((key, tile))
                found[tile] = self._kept[key, tile]
        try:
            found_in = rectangles(missing)
            decoded = decode([rectangle for rectangle, _ in found_in])
            for (rectangle, inside), layers in zip(found_in, decoded, strict=True):
                for tile in inside:
                    copies = tuple(p.copy() for p in _part(layers, rectangle, tile))
                    self._keep(found[tile], copies)
        except BaseException as error:
            self._give_up({(key, tile): found[tile] for tile in missing}, error)
            raise
        return [found[tile].result() for tile in tiles]

    def _keep(self, tile: Future[Layers], layers: Layers) -> None:
        tile.set_result(layers)
        with self._lock:
            self._bytes += _size(layers)
            while self._bytes > self._limit and (old := self._oldest()) is not None:
                self._bytes -= _size(self._kept.pop(old).result())

    def _give_up(
        self, mine: Mapping[Hashable, Future[Layers]], error: BaseException
    ) -> None:
        """Forget tiles that were not decoded, and tell those who wait for them."""
        left = {key: tile for key, tile in mine.items() if not tile.done()}
        with self._lock:
            for key in left:
                del self._kept[key]
        for tile in left.values():
            tile.set_exception(error)

    def _oldest(self) -> Hashable | None:
        return next((key for key, tile in self._kept.items() if tile.done()), None)


def rectangles(tiles: Iterable[Window]) -> list[tuple[Window, list[Window]]]:
    """Return tiles, given row by row, as few rectangles, each with those inside."""
    runs: list[tuple[Window, list[Window]]] = []
    for tile in tiles:
        run = runs[-1][0] if runs else None
        if run and (run.y, run.bottom, run.right) == (tile.y, tile.bottom, tile.x):
            longer = Window.spanning(run.y, run.bottom, run.x, tile.right)
            runs[-1] = longer, [*runs[-1][1], tile]
        else:
            runs.append((tile, [tile]))
    found: list[tuple[Window, list[Window]]] = []
    for run, inside in runs:
        for i, (above, others) in enumerate(found):
            if (above.bottom, above.x, above.right) == (run.y, run.x, run.right):
                higher = Window.spanning(above.y, run.bottom, run.x, run.right)
                found[i] = higher, [*others, *inside]
                break
        else:
            found.append((run, inside))
    return found


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
        decode: Reads windows into such arrays, all that have to be read at once.
    """
    tile = _grouped(tile)
    inside, cut = parted(window, tile, raster)
    pixel = sum(layer.itemsize * len(layer) for layer in out)
    if not fits(sum(w.area for w in cut), pixel):
        decode([(window, out)])
        return
    whole = [] if inside is None else [(inside, _part(out, window, inside))]

    def decoded(parts: Sequence[Window]) -> list[Layers]:
        layers = [_like(out, part) for part in parts]
        decode([*whole, *zip(parts, layers, strict=True)])
        return layers

    kept = _CACHE.get(key, cut, decoded)
    for one, layers in zip(cut, kept, strict=True):
        shared = one.intersection(window)
        assert shared is not None
        parts = _part(out, window, shared), _part(layers, one, shared)
        for to, of in zip(*parts, strict=True):
            to[...] = of


def _grouped(tile: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of what is kept: a tile, or several that are small."""
    return tile[0] * -(-_LEAST // tile[0]), tile[1] * -(-_LEAST // tile[1])


def times_decoded(
    windows: Iterable[Sequence[Window]],
    *,
    tile: tuple[int, int],
    raster: Window,
    pixel: int,
) -> float:
    """Return how often each tile of a file is decoded, on an average.

    Args:
        windows: What each process reads, one after another, as by `read_tiled`.
        tile: Rows and columns of the file's tiles.
        raster: The whole file.
        pixel: Bytes per pixel.
    """
    tile, count = _grouped(tile), 0
    for one in windows:
        kept: OrderedDict[Window, None] = OrderedDict()
        area = 0
        for window in one:
            inside, cut = parted(window, tile, raster)
            count += 0 if inside is None else _tiles_in(inside, tile)
            new = [w for w in cut if w not in kept]
            count += len(new)
            if not fits(sum(w.area for w in cut), pixel):
                continue
            area += sum(w.area for w in new)
            for w in cut:
                kept[w] = None
                kept.move_to_end(w)
            while area * pixel > CACHE_BYTES:
                area -= kept.popitem(last=False)[0].area
    return count / _tiles_in(raster, tile)


def _tiles_in(window: Window, tile: tuple[int, int]) -> int:
    rows = -(-window.bottom // tile[0]) - window.y // tile[0]
    return rows * (-(-window.right // tile[1]) - window.x // tile[1])


def fits(pixels: int, pixel: int) -> bool:
    """Whether what windows cut of tiles is kept, by pixels and bytes per pixel."""
    return pixels * pixel <= CACHE_BYTES // 2


def _like(layers: Layers, window: Window) -> Layers:
    """Return empty arrays of a window, of the bands and dtypes of others."""
    shape = window.height, window.width
    return tuple(np.empty((len(layer), *shape), layer.dtype) for layer in layers)


def in_rows(parts: Iterable[Part], tile: tuple[int, int], most: int) -> list[Part]:
    """Cut windows of a file between its rows of tiles, each into so many at most."""
    found = []
    for window, out in parts:
        rows = range(window.y // tile[0], -(-window.bottom // tile[0]))
        step = tile[0] * -(-len(rows) // most)
        for y in range(rows.start * tile[0], window.bottom, step):
            first, after = max(y, window.y), min(y + step, window.bottom)
            piece = Window.spanning(first, after, window.x, window.right)
            found.append((piece, _part(out, window, piece)))
    return found


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
