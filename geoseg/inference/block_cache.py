"""Partial blocks on their way: kept beside the masks until neighbours are there.

A partial block lies in the store from the moment that its block is inferred until it is
labelled, so a killed worker or client loses at most the blocks that were being
inferred, and a block needs nothing from a neighbour but one small object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import astuple
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


class DamagedPartialError(MasksError):
    """What is kept of a block is not what was written: a disk that filled or failed."""


def write_partial(masks: Masks, block: Block, partial: PartialBlock) -> None:
    """Keep a partial block: first the halo sums, one object per neighbour, then itself.

    The block's own object says that it is inferred, so it comes last.
    """
    for (row, col), sums in partial.halo.items():
        name = f"{HALO}/{row}.{col}/{block.name}"
        masks.state.put(name, _pack({"halo": sums}, {}, {}))
    info = {"windows": partial.windows, "forward_seconds": partial.forward_seconds}
    border = {f"border{i}": sums for i, sums in enumerate(partial.border)}
    name = f"{PARTIAL}/{block.name}"
    masks.state.put(name, _pack(border, partial.arrays, info))


def read_partial(masks: Masks, block: Block) -> PartialBlock:
    """Return what `write_partial` kept, without the halo sums.

    Raises:
        FileNotFoundError: There is none.
        DamagedPartialError: It is not what was written.
    """
    data = masks.state.get(f"{PARTIAL}/{block.name}")
    border, arrays, info = _unpack(data)
    return PartialBlock(arrays=arrays, border=tuple(border.values()), **info)


def read_halo(masks: Masks, block: Block, neighbour: Block) -> PartialSums:
    """Return what a neighbour adds to a block; raises as `read_partial`."""
    name = f"{HALO}/{block.name}/{neighbour.name}"
    return _unpack(masks.state.get(name))[0]["halo"]


def remove_partial(masks: Masks, block: Block) -> None:
    """Remove what is kept of a block and the halo sums kept for it."""
    masks.state.remove(f"{HALO}/{block.name}")
    masks.state.discard(f"{PARTIAL}/{block.name}")


def pack(arrays: Mapping[str, NDArray[Any]], info: Mapping[str, Any]) -> bytes:
    """Return arrays and JSON-able values as bytes, compressed and with a check sum."""
    tensors = {name: _encode(array) for name, array in arrays.items()}
    kinds = {n: [dtype_to_descr(a.dtype), *a.shape] for n, a in arrays.items()}
    header = {"info": dict(info), "arrays": kinds}
    data = bytes(save(tensors, {"geoseg": json.dumps(header)}))
    return data + crc32(data).to_bytes(4, "little")


def unpack(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays, read-only, and the values that `pack` packed.

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


def _unpack(
    data: bytes,
) -> tuple[dict[str, PartialSums], dict[str, NDArray[Any]], dict[str, Any]]:
    arrays, header = unpack(data)
    sums = {
        name: PartialSums(
            window=Window(y=y, x=x, height=height, width=width), sums=arrays.pop(name)
        )
        for name, (y, x, height, width) in header["windows"].items()
    }
    return sums, arrays, header["info"]
