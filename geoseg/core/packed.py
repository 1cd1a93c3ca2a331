"""Arrays as checked, compressed bytes: what is kept of blocks until all are there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
from numcodecs import Blosc
from numpy.lib.format import descr_to_dtype, dtype_to_descr

from geoseg.errors import DamagedPackError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Sums of confident classes repeat; shuffling bits first finds that at memory speed.
_CODEC = Blosc("lz4", clevel=1, shuffle=Blosc.BITSHUFFLE)


def pack_arrays(arrays: Mapping[str, NDArray[Any]], info: Mapping[str, Any]) -> bytes:
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
    check_sum = reduce(lambda sum_, part: crc32(part, sum_), parts, 0)
    return b"".join([*parts, check_sum.to_bytes(4, "little")])


def unpack(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays, read-only, and the values that `pack_arrays` packed.

    Raises:
        DamagedPackError: It is not what was written.
    """
    check_packed(data)
    return unpacked(data)


def check_packed(data: bytes) -> None:
    """Raise where data is not what `pack_arrays` packed.

    Raises:
        DamagedPackError: It is not.
    """
    if crc32(memoryview(data)[:-4]).to_bytes(4, "little") != data[-4:]:
        raise DamagedPackError("what is kept of a block is damaged")


def unpacked(
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
