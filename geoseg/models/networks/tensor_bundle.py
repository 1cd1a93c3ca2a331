"""Weights of a TensorFlow SavedModel, read without TensorFlow.

A bundle is an index, a sorted table of LevelDB's format, and a data file. Sources:
`tensorflow/core/protobuf/tensor_bundle.proto`; LevelDB's `doc/table_format.md`;
Snappy's `format_description.txt`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geoseg.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48  # bytes: two block handles, padding, magic
_FLOAT = 1  # DT_FLOAT
_LARGEST = 1 << 31  # bytes of a data file that is read


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """Where a tensor lies in the data file."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int


def read_bundle(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Return the float32 tensors of a SavedModel's `variables` folder, by key.

    Raises:
        ModelError: The files are missing, damaged, or of another format.
    """
    index, data = folder / "variables.index", folder / "variables.data-00000-of-00001"
    for file in (index, data):
        if not file.is_file() or file.stat().st_size > _LARGEST:
            raise ModelError(f"{file} is missing or too large to be a model's weights")
    raw, content = index.read_bytes(), data.read_bytes()
    try:
        entries = {key: _entry(value) for key, value in _table(raw) if key}
        return {
            key: _tensor(content, entry)
            for key, entry in entries.items()
            if entry.dtype == _FLOAT
        }
    except (IndexError, ValueError) as error:
        raise ModelError(f"{index} is not a TensorFlow bundle: {error}") from error


def _tensor(content: bytes, entry: _Entry) -> NDArray[np.float32]:
    if entry.shard != 0 or entry.offset + entry.size > len(content):
        raise ValueError("a tensor lies outside the data file")
    values = np.frombuffer(content, "<f4", entry.size // 4, entry.offset)
    return values.reshape(entry.shape).astype(np.float32)


def _table(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the keys and values of a sorted table."""
    footer = raw[-_FOOTER:]
    if len(footer) < _FOOTER or int.from_bytes(footer[-8:], "little") != _MAGIC:
        raise ValueError("its last bytes are not those of a table")
    _, at = _handle(footer, 0)
    index, _ = _handle(footer, at)
    for _, handle in _block(raw, index):
        for key, value in _block(raw, _handle(handle, 0)[0]):
            yield key.decode(), value


def _handle(raw: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Return a block's (offset, size), and where reading goes on."""
    offset, at = _varint(raw, at)
    size, at = _varint(raw, at)
    return (offset, size), at


def _block(raw: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """Yield a block's entries; a key is told by what it shares with the one before."""
    offset, size = handle
    block = raw[offset : offset + size]
    if raw[offset + size] == 1:
        block = _unsnapped(block)
    elif raw[offset + size] != 0:
        raise ValueError("it is compressed in an unknown way")
    restarts = int.from_bytes(block[-4:], "little")
    end, at, key = len(block) - 4 * (restarts + 1), 0, b""
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + own]
        at += own
        yield key, block[at : at + length]
        at += length


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """Return a number of seven bits per byte, and where reading goes on."""
    number = shift = 0
    while True:
        byte = raw[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


def _unsnapped(raw: bytes) -> bytes:
    """Undo Snappy: a length, then literal bytes and copies of what came before."""
    length, at = _varint(raw, 0)
    out = bytearray()
    while at < len(raw):
        tag, kind = raw[at] >> 2, raw[at] & 3
        at += 1
        if kind == 0:
            more = max(0, tag - 59)  # so many bytes hold the length, where it is large
            count = 1 + (int.from_bytes(raw[at : at + more], "little") if more else tag)
            at += more
            out += raw[at : at + count]
            at += count
            continue
        if kind == 1:
            count, back = 4 + (tag & 7), tag >> 3 << 8 | raw[at]
            at += 1
        else:
            width = 2 if kind == 2 else 4
            count, back = 1 + tag, int.from_bytes(raw[at : at + width], "little")
            at += width
        if not 0 < back <= len(out) or len(out) + count > length:
            raise ValueError("a copy from before its beginning")
        for _ in range(count):
            out.append(out[-back])
    if len(out) != length:
        raise ValueError("it ends too early")
    return bytes(out)


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield a protobuf message's fields: number, and value or bytes."""
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(raw, at)
            yield tag >> 3, value
        elif kind == 2:
            length, at = _varint(raw, at)
            yield tag >> 3, raw[at : at + length]
            at += length
        elif kind in {1, 5}:
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of unknown kind {kind}")


def _entry(raw: bytes) -> _Entry:
    found: dict[int, int] = {}
    shape: list[int] = []
    for number, value in _fields(raw):
        if isinstance(value, int):
            found[number] = value
        elif number == 2:
            shape = [_dimension(v) for n, v in _fields(value) if n == 2]
    return _Entry(
        dtype=found.get(1, 0),
        shape=tuple(shape),
        shard=found.get(3, 0),
        offset=found.get(4, 0),
        size=found.get(5, 0),
    )


def _dimension(raw: int | bytes) -> int:
    fields = dict(_fields(raw)) if isinstance(raw, bytes) else {}
    size = fields.get(1, 0)
    return size if isinstance(size, int) else 0
