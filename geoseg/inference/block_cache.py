"""Parts of blocks on their way: kept beside the masks until neighbours are there.

A part lies in the store from the moment that its block is inferred until it is
labelled, so a killed worker or client loses at most the blocks that were being
inferred, and a block needs nothing from a neighbour but one small object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
from numcodecs import Blosc
from safetensors.numpy import load, save

from geoseg.core.grid import Window
from geoseg.errors import MasksError
from geoseg.inference.semantic import Part, Strip
from geoseg.maps.store import PARTS, RIMS, Masks

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Sums of confident classes repeat; shuffling bits first finds that at memory speed.
_CODEC = Blosc("lz4", clevel=1, shuffle=Blosc.BITSHUFFLE)


class DamagedPartError(MasksError):
    """A part is not what was written: a disk that filled or failed."""


def write_part(masks: Masks, row: int, col: int, part: Part) -> None:
    """Keep a part: first the rims, one object per neighbour, then the part itself.

    The part's own object says that the block is inferred, so it comes last.
    """
    for (to_row, to_col), rim in part.rims.items():
        name = f"{RIMS}/{to_row}.{to_col}/{row}.{col}"
        masks.storage.put(name, _pack({"rim": rim}, {}, {}))
    facts = {"windows": part.windows, "forward_seconds": part.forward_seconds}
    frame = {f"frame{i}": strip for i, strip in enumerate(part.frame)}
    masks.storage.put(f"{PARTS}/{row}.{col}", _pack(frame, part.arrays, facts))


def read_part(masks: Masks, row: int, col: int) -> Part:
    """Return a part that `write_part` kept, without its rims.

    Raises:
        FileNotFoundError: There is none.
        DamagedPartError: It is not what was written.
    """
    strips, arrays, facts = _unpack(masks.storage.get(f"{PARTS}/{row}.{col}"))
    return Part(arrays=arrays, frame=tuple(strips.values()), rims={}, **facts)


def read_rim(masks: Masks, row: int, col: int, neighbour: tuple[int, int]) -> Strip:
    """Return what a neighbour adds to a block; raises as `read_part`."""
    name = f"{RIMS}/{row}.{col}/{neighbour[0]}.{neighbour[1]}"
    return _unpack(masks.storage.get(name))[0]["rim"]


def remove_part(masks: Masks, row: int, col: int) -> None:
    """Forget a block's part and the rims kept for it."""
    masks.storage.remove(f"{RIMS}/{row}.{col}")
    masks.storage.discard(f"{PARTS}/{row}.{col}")


def pack(arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> bytes:
    """Return arrays and JSON-able facts as bytes, compressed and with a check sum."""
    tensors = {name: _encode(array) for name, array in arrays.items()}
    kinds = {name: [a.dtype.str, *a.shape] for name, a in arrays.items()}
    header = {"facts": dict(facts), "arrays": kinds}
    data = bytes(save(tensors, {"geoseg": json.dumps(header)}))
    return data + crc32(data).to_bytes(4, "little")


def unpack(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays, read-only, and facts that `pack` packed.

    Raises:
        DamagedPartError: It is not what was written.
    """
    data, check = data[:-4], data[-4:]
    if crc32(data).to_bytes(4, "little") != check:
        raise DamagedPartError("a part of a block is damaged")
    # The header is safetensors': 8 bytes of length, then JSON.
    length = int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["geoseg"])
    tensors = load(data)
    arrays = {
        name: _decode(tensors[name], np.dtype(dtype), shape)
        for name, (dtype, *shape) in header["arrays"].items()
    }
    return arrays, header["facts"]


def _decode(
    data: NDArray[np.uint8], dtype: np.dtype[Any], shape: list[int]
) -> NDArray[Any]:
    if 0 in shape:  # Blosc cannot give back what it made of nothing
        return np.zeros(shape, dtype)
    return np.frombuffer(_CODEC.decode(data.tobytes()), dtype).reshape(shape)


def _encode(array: NDArray[Any]) -> NDArray[np.uint8]:
    return np.frombuffer(_CODEC.encode(np.ascontiguousarray(array)), np.uint8)


def _pack(
    strips: dict[str, Strip], arrays: dict[str, NDArray[Any]], facts: dict[str, Any]
) -> bytes:
    windows = {
        name: [s.window.y, s.window.x, s.window.height, s.window.width]
        for name, s in strips.items()
    }
    sums = {name: strip.sums for name, strip in strips.items()}
    return pack({**arrays, **sums}, {"facts": facts, "strips": windows})


def _unpack(
    data: bytes,
) -> tuple[dict[str, Strip], dict[str, NDArray[Any]], dict[str, Any]]:
    arrays, told = unpack(data)
    strips = {
        name: Strip(
            window=Window(y=y, x=x, height=height, width=width), sums=arrays.pop(name)
        )
        for name, (y, x, height, width) in told["strips"].items()
    }
    return strips, arrays, told["facts"]
