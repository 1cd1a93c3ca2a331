"""How many pages a TIFF has, counted before GDAL looks for overviews in all of them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, BinaryIO, Final

from geoseg.core.text import redact
from geoseg.errors import RasterError

if TYPE_CHECKING:
    from collections.abc import Iterator

TIFF: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How a TIFF begins."""
_MOST: Final = 10_000
"""Pages; GDAL takes 4 kB and 60 microseconds for each, and longer for later ones."""


def check_pages(path: str) -> None:
    """Raise where a file on this machine is a TIFF of very many pages.

    Raises:
        RasterError: It is.
    """
    try:
        file = open(path, "rb")  # noqa: PTH123, SIM115
    except OSError:
        return  # GDAL says why
    with file:
        for count, _ in enumerate(_pages(file), 1):
            if count > _MOST:
                raise RasterError(
                    f"{redact(path)} is a TIFF of more than {_MOST:,} pages, which are "
                    "not looked through: split it, as with tiffsplit"
                )


def _pages(file: BinaryIO) -> Iterator[int]:
    """Yield where each page's tags begin; also of a chain that goes round, for ever."""
    head = file.read(16)
    if head[:4] not in TIFF:
        return
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    place, count, entry = ("Q", "Q", 20) if big else ("I", "H", 12)
    width, wide = struct.calcsize(place), struct.calcsize(count)
    at = head[8:16] if big else head[4:8]
    while len(at) == width and (offset := struct.unpack(order + place, at)[0]):
        yield offset
        try:
            file.seek(offset)
            tags = file.read(wide)
            if len(tags) < wide:
                return
            file.seek(offset + wide + entry * struct.unpack(order + count, tags)[0])
            at = file.read(width)
        except (OSError, OverflowError):  # an offset beyond what a file can have
            return
