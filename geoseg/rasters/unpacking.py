"""What a compressed chunk of a Zarr unpacks to, told before it is unpacked.

A codec makes whatever a chunk's bytes say, and zarr looks at the size afterwards: two
megabytes may say two gigabytes.
"""

from __future__ import annotations

import bz2
import lzma
import math
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import zarr
from zarr.codecs._v2 import V2Codec
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.registry import register_pipeline

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer

_WIDENED: Final = 8
"""Times that filters may make a chunk longer: bytes that are stored as float64."""
_ALWAYS: Final = 1 << 26
"""Bytes that any chunk may unpack to."""
_DEFLATED: Final = 1032
"""Bytes that zlib packs into one, at most."""
_ZSTD_BLOCK: Final = 1 << 17
_STEP: Final = 1 << 20
_ZLIB: Final = dict.fromkeys(("gzip", "zlib"), lambda: zlib.decompressobj(wbits=47))
_STREAMS: Final[dict[str, Callable[[], Any]]] = {
    **_ZLIB,
    "bz2": bz2.BZ2Decompressor,
    "lzma": lzma.LZMADecompressor,
}


def check_unpacked(codec: str, data: Any, size: int) -> None:  # noqa: ANN401
    """Raise where a chunk would unpack to far more than it holds.

    Args:
        codec: The name of what unpacks it; the size that others make is not looked for.
        data: The bytes of the chunk.
        size: Bytes that its shape and dtype make.

    Raises:
        ValueError: It would.
    """
    most = max(size * _WIDENED, _ALWAYS)
    found = _size(codec.rpartition(".")[2], memoryview(data).cast("B"), most)
    if found > most:
        raise ValueError(
            f"a chunk of {size:,} bytes says that it unpacks to {found:,} or more"
        )


def _size(codec: str, data: memoryview, most: int) -> int:
    """Return how many bytes data unpack to, or a number above the most."""
    if codec in {"blosc", "lz4"}:
        return int.from_bytes(data[4:8] if codec == "blosc" else data[:4], "little")
    if codec == "zstd":
        return _zstd_size(data)
    if codec not in _STREAMS or (codec in _ZLIB and len(data) * _DEFLATED <= most):
        return 0
    return _streamed(_STREAMS[codec](), data, most)


def _zstd_size(data: memoryview) -> int:
    """Return what a frame of zstd says, or the most that its blocks can hold."""
    if len(data) < 6 or bytes(data[:4]) != b"\x28\xb5\x2f\xfd":
        return 0  # the codec says what is wrong
    flags = data[4]
    single = flags >> 5 & 1
    at = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    length = (single, 2, 4, 8)[flags >> 6]
    if length:
        told = int.from_bytes(data[at : at + length], "little")
        return told + 256 * (length == 2)  # as the format has it
    blocks, last = 0, False
    while not last and at + 3 <= len(data):
        header = int.from_bytes(data[at : at + 3], "little")
        last, kind = bool(header & 1), header >> 1 & 3
        at += 3 + (1 if kind == 1 else header >> 3)  # one byte, many times
        blocks += 1
    return blocks * _ZSTD_BLOCK


def _streamed(decoder: Any, data: memoryview, most: int) -> int:  # noqa: ANN401
    """Return what is unpacked piece by piece, none of which is kept."""
    found, rest = 0, bytes(data)
    while found <= most and not decoder.eof:
        try:
            made = len(decoder.decompress(rest, _STEP))
        except (zlib.error, OSError, EOFError, lzma.LZMAError):
            return found  # as the codec will say
        rest = getattr(decoder, "unconsumed_tail", b"")
        found += made
        if not made and not rest:
            break
    return found


class CheckedPipeline(BatchedCodecPipeline):
    """Zarr's way from bytes to pixels, which looks at sizes first."""

    async def decode_batch(
        self, chunk_bytes_and_specs: Iterable[tuple[Buffer | None, ArraySpec]]
    ) -> Iterable[NDBuffer | None]:
        """Return chunks, of which none unpacks to far more than it holds."""
        chunks = list(chunk_bytes_and_specs)
        for data, spec in chunks:
            if data is None:
                continue
            for name in self._unpackers():
                size = math.prod(spec.shape) * spec.dtype.to_native_dtype().itemsize
                check_unpacked(name, data.as_numpy_array(), size)
        return await super().decode_batch(chunks)

    def _unpackers(self) -> list[str]:
        """Return the codec that the bytes of an object meet first."""
        if isinstance(self.array_bytes_codec, V2Codec):
            codec = self.array_bytes_codec
            first = codec.compressor or (codec.filters or (None,))[-1]
            return [first.codec_id] if first else []
        return [str(c.to_dict()["name"]) for c in self.bytes_bytes_codecs[-1:]]


def check_chunks() -> None:
    """Have zarr look at sizes from now on, unless somebody has set another way.

    For the whole process: the chunks of a shard are read in the way that holds then.
    """
    zarrs, ours = (
        f"{way.__module__}.{way.__qualname__}"
        for way in (BatchedCodecPipeline, CheckedPipeline)
    )
    if zarr.config.get("codec_pipeline.path") == zarrs:
        register_pipeline(CheckedPipeline)
        zarr.config.set({"codec_pipeline.path": ours})
