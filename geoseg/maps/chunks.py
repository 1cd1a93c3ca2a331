"""Chunks of an array as objects: read and written as zarr-python does, byte for byte.

Its own way takes several times as long as the codec, which is what the metadata of the
array name, out of the same numcodecs. Chunks that share an object, a shard, are left to
it: in memory where they are written, so that the object appears whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from itertools import product
from typing import TYPE_CHECKING, Any

import numcodecs
import numpy as np
import zarr
from zarr.core.metadata import ArrayV3Metadata
from zarr.storage import MemoryStore, StorePath

from geoseg.core.grid import Window
from geoseg.core.text import redact
from geoseg.errors import DamagedStoreError, first_line
from geoseg.rasters.unpacking import check_unpacked

if TYPE_CHECKING:
    from numcodecs.abc import Codec
    from numpy.typing import NDArray
    from zarr.core.buffer import Buffer


def object_shape(array: zarr.Array[Any]) -> tuple[int, ...]:
    """Return the shape of what lies in one object: a chunk, or a shard of several."""
    return array.shards or array.chunks


def object_grid(array: zarr.Array[Any]) -> tuple[int, ...]:
    """Return how many objects there may be along each axis of an array."""
    sides = zip(array.shape, object_shape(array), strict=True)
    return tuple(-(-length // side) for length, side in sides)


def chunks_in(array: zarr.Array[Any], window: Window) -> list[tuple[int, ...]]:
    """Return the indices of the objects of an array that a window touches, in order.

    Args:
        array: (y, x), or (class, y, x).
        window: Of its last two axes, in pixels.
    """
    height, width = object_shape(array)[-2:]
    ranges = [range(n) for n in object_grid(array)[:-2]] + [
        range(window.y // height, -(-window.bottom // height)),
        range(window.x // width, -(-window.right // width)),
    ]
    return list(product(*ranges))


def object_name(array: zarr.Array[Any], index: tuple[int, ...]) -> str:
    """Return an object of an array, by its index, as a name in the store."""
    return f"{array.path}/{array.metadata.encode_chunk_key(index)}"


def encoded(
    array: zarr.Array[Any], window: Window, values: NDArray[Any]
) -> Iterator[tuple[str, bytes | None]]:
    """Yield the objects of a window; None for those that hold the fill only.

    Args:
        array: (y, x), or (class, y, x).
        window: Whole objects of its last two axes, in pixels.
        values: What it holds there.
    """
    if array.shards is not None:
        yield from _encoded_by_zarr(array, window, values)
        return
    codecs, fill = _codecs(array), array.fill_value
    whole = np.empty(array.chunks, _stored_dtype(array))
    for index in chunks_in(array, window):
        chunk = _cut(array, window, values, index)
        name = object_name(array, index)
        # The first pixel tells most chunks apart from empty ones.
        if chunk.flat[0] == fill and bool((chunk == fill).all()):
            yield name, None
            continue
        if chunk.shape != whole.shape:
            whole[...] = fill  # beyond the array, at its far edges
        whole[tuple(map(slice, chunk.shape))] = chunk
        yield name, bytes(reduce(lambda data, codec: codec.encode(data), codecs, whole))


def _encoded_by_zarr(
    array: zarr.Array[Any], window: Window, values: NDArray[Any]
) -> Iterator[tuple[str, bytes | None]]:
    made: dict[str, Buffer] = {}
    store = StorePath(MemoryStore(made))
    twin = zarr.Array.from_dict(store, array.metadata.to_dict())
    twin[..., *window.slices] = values
    for index in chunks_in(array, window):
        data = made.pop(array.metadata.encode_chunk_key(index), None)
        yield object_name(array, index), None if data is None else data.to_bytes()


def decoded(
    array: zarr.Array[Any],
    window: Window,
    get: Callable[[list[str]], Iterable[bytes | None]],
) -> NDArray[Any]:
    """Return what an array holds in a window of its last two axes.

    Args:
        array: (y, x), or (class, y, x).
        window: Inside of it, in pixels.
        get: Returns objects by their names, None where there is none.
    """
    if array.shards is not None:  # parts of objects, which zarr asks for
        try:
            return np.asarray(array[..., *window.slices])
        except Exception as error:  # as below
            raise _damaged(array, f"a shard of {array.path}", error) from error
    codecs, chunks = _codecs(array), chunks_in(array, window)
    out = np.empty((*array.shape[:-2], window.height, window.width), array.dtype)
    whole = np.empty(array.chunks, _stored_dtype(array))  # for one chunk after another
    names = [object_name(array, index) for index in chunks]
    for name, index, data in zip(names, chunks, get(names), strict=True):
        inside, part = _placed(array, window, index)
        if data is None:
            out[inside] = array.fill_value
            continue
        try:
            out[inside] = _decode(data, codecs, whole)[part]
        except Exception as error:  # each codec has its own
            raise _damaged(array, name, error) from error
    return out


def _damaged(array: zarr.Array[Any], name: str, error: Exception) -> DamagedStoreError:
    store = redact(str(array.store)).removeprefix("file://")
    return DamagedStoreError(
        f"{store}: {name} is damaged ({first_line(error)}): geoseg verify --repair, "
        "and the command that made it makes that block again"
    )


def _decode(data: bytes, codecs: Sequence[Codec], whole: NDArray[Any]) -> NDArray[Any]:
    """Return the pixels of a chunk; in the array that is given, if it has a codec."""
    if codecs:
        check_unpacked(codecs[-1].codec_id, data, whole.nbytes)
    for codec in codecs[:0:-1]:
        data = codec.decode(data)
    if codecs:
        codecs[0].decode(data, out=whole)
        return whole
    return np.frombuffer(data, whole.dtype).reshape(whole.shape)


def _cut(
    array: zarr.Array[Any],
    window: Window,
    values: NDArray[Any],
    index: tuple[int, ...],
) -> NDArray[Any]:
    """Return what of a window's values lies in a chunk: a view."""
    return values[_placed(array, window, index)[0]]


def _placed(
    array: zarr.Array[Any], window: Window, index: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return where the pixels that chunk and window share lie, in window and chunk."""
    corner = (*[0] * (len(index) - 2), window.y, window.x)
    end = (*array.shape[:-2], window.bottom, window.right)
    inside, part = [], []
    for n, side, first, after in zip(index, array.chunks, corner, end, strict=True):
        low, high = max(n * side, first), min((n + 1) * side, after)
        inside.append(slice(low - first, high - first))
        part.append(slice(low - n * side, high - n * side))
    return tuple(inside), tuple(part)


def _stored_dtype(array: zarr.Array[Any]) -> np.dtype[Any]:
    """Return the dtype in the byte order that is stored; format 3 has it in a codec."""
    if isinstance(array.metadata, ArrayV3Metadata):
        return array.dtype.newbyteorder("<")
    return array.dtype


def _codecs(array: zarr.Array[Any]) -> list[Codec]:
    """Return what turns the bytes of a chunk into those of its object."""
    if isinstance(array.metadata, ArrayV3Metadata):
        told: list[dict[str, Any]] = [c.to_dict() for c in array.metadata.codecs]
        compressors = [c for c in told if c["name"] != "bytes"]
        return [
            numcodecs.get_codec({"id": c["name"], **c.get("configuration", {})})
            for c in compressors
        ]
    return list(array.compressors)
