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
from threading import Lock
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
from numcodecs import Blosc
from numpy.lib.format import descr_to_dtype, dtype_to_descr
from safetensors.numpy import load, save

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
    data = _RECENT.get(_key(masks, name)) or masks.state.get(name)
    found = _unpack(data, only)
    _RECENT.put(_key(masks, name), data)
    return found


def remove_partials(masks: Masks, blocks: Iterable[tuple[int, int]]) -> None:
    """Remove what is kept of blocks (row, column): their neighbours are done, too."""
    names = [f"{kind}/{r}.{c}" for kind in (HALO, PARTIAL) for r, c in blocks]
    for name in names:
        _RECENT.drop(_key(masks, name))
    masks.state.discard_all(names)


def pack(arrays: Mapping[str, NDArray[Any]], info: Mapping[str, Any]) -> bytes:
    """Return arrays and JSON-able values as bytes, compressed and with a check sum."""
    tensors = {name: _encode(array) for name, array in arrays.items()}
    kinds = {n: [dtype_to_descr(a.dtype), *a.shape] for n, a in arrays.items()}
    header = {"info": dict(info), "arrays": kinds}
    data = bytes(save(tensors, {"geoseg": json.dumps(header)}))
    return data + crc32(data).to_bytes(4, "little")


def unpack(
    data: bytes, only: str | None = None
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays, read-only, and the values that `pack` packed.

    Args:
        data: What `pack` returned.
        only: The one array that is wanted; None: all.

    Raises:
        DamagedPartialError: It is not what was written.
    """
    data, check = data[:-4], data[-4:]
    if crc32(data).to_bytes(4, "little") != check:
        raise DamagedPartialError("what is kept of a block is damaged")
    # The header is safetensors': 8 bytes of length, then JSON.
    length = int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["geoseg"])
    tensors = load(data)
    arrays = {
        name: _decode(tensors[name], _dtype(kind), shape)
        for name, (kind, *shape) in header["arrays"].items()
        if only in (None, name)
    }
    return arrays, header["info"]


def _dtype(kind: str | list[list[str]]) -> np.dtype[Any]:
    """Return the dtype of its description in JSON, which knows no tuples."""
    if isinstance(kind, str):
        return np.dtype(kind)
    return descr_to_dtype([(name, of) for name, of in kind])


def _decode(
    data: NDArray[np.uint8], dtype: np.dtype[Any], shape: list[int]
) -> NDArray[Any]:
    if 0 in shape:  # Blosc cannot give back what it made of nothing
        return np.zeros(shape, dtype)
    return np.frombuffer(_CODEC.decode(data.tobytes()), dtype).reshape(shape)


def _encode(array: NDArray[Any]) -> NDArray[np.uint8]:
    return np.frombuffer(_CODEC.encode(np.ascontiguousarray(array)), np.uint8)


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
    arrays, header = unpack(data, only)
    sums = {
        name: PartialSums(
            window=Window(y=y, x=x, height=height, width=width), sums=arrays.pop(name)
        )
        for name, (y, x, height, width) in header["windows"].items()
        if name in arrays
    }
    return sums, arrays, header["info"]
