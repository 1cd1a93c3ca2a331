"""Partial blocks on their way: kept beside the masks until neighbours are there.

A partial block lies in the store from the moment that its block is inferred until it is
labelled, so a killed worker or client loses at most the blocks that were being
inferred, and a block needs nothing from a neighbour but one small object.

    parts/3.4    of block 3,4: its labels, and sums of its border
    rims/3.4     its halo sums, for all neighbours; until those are done, too

What this process wrote or read lately it does not ask the store for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import astuple
from threading import Lock
from typing import TYPE_CHECKING, Any

from geoseg.core.grid import Window
from geoseg.core.packed import check_packed, pack_arrays, unpacked
from geoseg.core.tiling import Block
from geoseg.inference.semantic import PartialBlock, PartialSums
from geoseg.maps.state import HALO, PARTIAL
from geoseg.maps.store import Masks

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RECENT_BYTES = 64 << 20
"""What a process remembers of them at most."""


class _Recent:
    """Objects that this process wrote or read, the latest ones."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable) -> bytes | None:
        with self._lock:
            return self._kept.get(key)

    def put(self, key: Hashable, data: bytes) -> None:
        self.drop(key)
        with self._lock:
            self._kept[key] = data
            self._bytes += len(data)
            while self._bytes > _RECENT_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[1])

    def drop(self, key: Hashable) -> None:
        with self._lock:
            self._bytes -= len(self._kept.pop(key, b""))


_RECENT = _Recent()


_HOW = ("windows", "forward_seconds", "otherwise")


def _key(masks: Masks, name: str) -> Hashable:
    return masks.path, masks.run, name


def write_partial(masks: Masks, block: Block, partial: PartialBlock) -> None:
    """Keep a partial block: first its halo sums, then itself.

    The block's own object says that it is inferred, so it comes last.
    """
    halo = {f"{row}.{col}": sums for (row, col), sums in partial.halo.items()}
    _put(masks, f"{HALO}/{block.name}", _pack(halo, {}, {}))
    border = {f"border{i}": sums for i, sums in enumerate(partial.border)}
    packed = _pack(border, partial.arrays, how_inferred(partial))
    _put(masks, f"{PARTIAL}/{block.name}", packed)


def how_inferred(found: Any) -> dict[str, Any]:  # noqa: ANN401 - a block of any task
    """Return what is kept of how a block was inferred, beside what was found."""
    return {name: getattr(found, name) for name in _HOW}


def _put(masks: Masks, name: str, data: bytes) -> None:
    masks.state.put(name, data)
    _RECENT.put(_key(masks, name), data)


def read_partial(masks: Masks, block: Block) -> PartialBlock:
    """Return what `write_partial` kept, without the halo sums.

    Raises:
        FileNotFoundError: There is none.
        DamagedPackError: It is not what was written.
    """
    border, arrays, info = _read(masks, f"{PARTIAL}/{block.name}")
    return PartialBlock(arrays=arrays, border=tuple(border.values()), **info)


def read_halo(masks: Masks, block: Block, neighbour: Block) -> PartialSums:
    """Return what a neighbour adds to a block; raises as `read_partial`."""
    return _read(masks, f"{HALO}/{neighbour.name}", block.name)[0][block.name]


def _read(masks: Masks, name: str, only: str | None = None) -> _Unpacked:
    data = _RECENT.get(_key(masks, name))
    if data is None:
        data = masks.state.get(name)
        check_packed(data)
        _RECENT.put(_key(masks, name), data)
    return _unpack(data, only)


def remove_partials(masks: Masks, blocks: Iterable[tuple[int, int]]) -> None:
    """Remove what is kept of blocks (row, column): their neighbours are done, too."""
    names = [f"{kind}/{r}.{c}" for kind in (HALO, PARTIAL) for r, c in blocks]
    for name in names:
        _RECENT.drop(_key(masks, name))
    masks.state.discard_all(names)


def _pack(
    sums: dict[str, PartialSums],
    arrays: dict[str, NDArray[Any]],
    info: dict[str, Any],
) -> bytes:
    windows = {name: [*astuple(s.window)] for name, s in sums.items()}
    values = {name: s.sums for name, s in sums.items()}
    return pack_arrays({**arrays, **values}, {"info": info, "windows": windows})


_Unpacked = tuple[dict[str, PartialSums], "dict[str, NDArray[Any]]", dict[str, Any]]
"""Sums and arrays by name, and what is noted of them."""


def _unpack(data: bytes, only: str | None) -> _Unpacked:
    arrays, header = unpacked(data, only)
    sums = {
        name: PartialSums(
            window=Window(y=y, x=x, height=height, width=width), sums=arrays.pop(name)
        )
        for name, (y, x, height, width) in header["windows"].items()
        if name in arrays
    }
    return sums, arrays, header["info"]
