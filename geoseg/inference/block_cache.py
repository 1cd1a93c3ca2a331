"""Partial blocks on their way: kept beside the masks until neighbours are there.

A partial block lies in the store from the moment that its block is inferred until it is
labelled, so a killed worker or client loses at most the blocks that were being
inferred, and a block needs nothing from a neighbour but one small object.

    parts/3.4    of block 3,4: its labels, and sums of its border
    rims/3.4     its halo sums, for all neighbours; until those are done, too

What this process wrote or read lately it does not ask the store for.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import astuple
from functools import reduce
from threading import Lock
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
from numcodecs import Blosc
from numpy.lib.format import descr_to_dtype, dtype_to_descr

from geoseg.core.grid import Window
from geoseg.core.tiling import Block
from geoseg.errors import MasksError
from geoseg.inference.semantic import PartialBlock, PartialSums
from geoseg.maps.state import HALO, PARTIAL
from geoseg.maps.store import Masks

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Sums of confident classes repeat; shuffling bits first finds that at memory speed.
_CODEC = Blosc("lz4", clevel=1, shuffle=Blosc.BITSHUFFLE)


_RECENT_BYTES = 64 << 20
"""What a process remembers of them at most."""


class DamagedPartialError(MasksError):
    """What is kept of a block is not what was written: a disk that filled or failed."""


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


def _key(masks: Masks, name: str) -> Hashable:
    return masks.path, masks.run, name


def write_partial(masks: Masks, block: Block, partial: PartialBlock) -> None:
    """Keep a partial block: first its halo sums, then itself.

    The block's own object says that it is inferred, so it comes last.
    """
    halo = {f"{row}.{col}": sums for (row, col), sums in partial.halo.items()}
    _put(masks, f"{HALO}/{block.name}", _pack(halo, {}, {}))
    info = {"windows": partial.windows, "forward_seconds": partial.forward_seconds}
    border = {f"border{i}": sums for i, sums in enumerate(partial.border)}
    _put(masks, f"{PARTIAL}/{block.name}", _pack(border, partial.arrays, info))


def _put(masks: Masks, name: str, data: bytes) -> None:
    masks.state.put(name, data)
    _RECENT.put(_key(masks, name), data)


def read_partial(masks: Masks, block: Block) -> PartialBlock:
    """Return what `write_partial` kept, without the halo sums.

    Raises:
        FileNotFoundError: There is none.
        DamagedPartialError: It is not what was written.
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
        _check(data)
        _RECENT.put(_key(masks, name), data)
    return _unpack(data, only)


def remove_partials(masks: Masks, blocks: Iterable[tuple[int, int]]) -> None:
    """Remove what is kept of blocks (row, column): their neighbours are done, too."""
    names = [f"{kind}/{r}.{c}" for kind in (HALO, PARTIAL) for r, c in blocks]
    for name in names:
        _RECENT.drop(_key(masks, name))
    masks.state.discard_all(names)


def pack(arrays: Mapping[str, NDArray[Any]], info: Mapping[str, Any]) -> bytes:
    """Return arrays and JSON-able values as bytes, compressed and with a check sum.

    The layout is that of safetensors, whose own writer copies what it is given several
    times; while bytes are copied in one piece, no other thread can go on.
    """
    pieces = {name: _encode(array) for name, array in arrays.items()}
    ends = np.cumsum([len(piece) for piece in pieces.values()]).tolist()
    kinds = {n: [dtype_to_descr(a.dtype), *a.shape] for n, a in arrays.items()}
    header: dict[str, Any] = {
        "__metadata__": {
            "geoseg": json.dumps({"info": dict(info), "arrays": kinds}),
        }
    }
    for (name, piece), end in zip(pieces.items(), ends, strict=True):
        offsets = [end - len(piece), end]
        header[name] = {"dtype": "U8", "shape": [len(piece)], "data_offsets": offsets}
    told = json.dumps(header).encode()
    parts = [len(told).to_bytes(8, "little"), told, *pieces.values()]
    return b"".join([*parts, _check_sum(parts).to_bytes(4, "little")])


def _check_sum(parts: Iterable[bytes | memoryview]) -> int:
    return reduce(lambda sum_, part: crc32(part, sum_), parts, 0)


def unpack(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays, read-only, and the values that `pack` packed.

    Raises:
        DamagedPartialError: It is not what was written.
    """
    _check(data)
    return _unpacked(data)


def _check(data: bytes) -> None:
    all_but = memoryview(data)[:-4]
    if _check_sum([all_but]).to_bytes(4, "little") != data[-4:]:
        raise DamagedPartialError("what is kept of a block is damaged")


def _unpacked(
    data: bytes, only: str | None = None
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return what `unpack` does, of data that was checked; of arrays perhaps one."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    told = json.loads(header["__metadata__"]["geoseg"])
    view = memoryview(data)[8 + length :]
    arrays = {
        name: _decode(view[slice(*header[name]["data_offsets"])], _dtype(kind), shape)
        for name, (kind, *shape) in told["arrays"].items()
        if only in (None, name)
    }
    return arrays, told["info"]


def _dtype(kind: str | list[list[str]]) -> np.dtype[Any]:
    """Return the dtype of its description in JSON, which knows no tuples."""
    if isinstance(kind, str):
        return np.dtype(kind)
    return descr_to_dtype([(name, of) for name, of in kind])


def _decode(data: memoryview, dtype: np.dtype[Any], shape: list[int]) -> NDArray[Any]:
    if 0 in shape:  # Blosc cannot give back what it made of nothing
        return np.zeros(shape, dtype)
    return np.frombuffer(_CODEC.decode(data), dtype).reshape(shape)


def _encode(array: NDArray[Any]) -> bytes:
    return bytes(_CODEC.encode(np.ascontiguousarray(array)))


def _pack(
    sums: dict[str, PartialSums],
    arrays: dict[str, NDArray[Any]],
    info: dict[str, Any],
) -> bytes:
    windows = {name: [*astuple(s.window)] for name, s in sums.items()}
    values = {name: s.sums for name, s in sums.items()}
    return pack({**arrays, **values}, {"info": info, "windows": windows})


_Unpacked = tuple[dict[str, PartialSums], "dict[str, NDArray[Any]]", dict[str, Any]]
"""Sums and arrays by name, and what is noted of them."""


def _unpack(data: bytes, only: str | None = None) -> _Unpacked:
    arrays, header = _unpacked(data, only)
    sums = {
        name: PartialSums(
            window=Window(y=y, x=x, height=height, width=width), sums=arrays.pop(name)
        )
        for name, (y, x, height, width) in header["windows"].items()
        if name in arrays
    }
    return sums, arrays, header["info"]
