"""What other files a file of HDF reads its arrays from; netCDF-4 is HDF5."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from geoseg.core.text import redact
from geoseg.errors import RasterError, first_line

if TYPE_CHECKING:
    from h5py import File

DRIVERS: Final = frozenset(
    {"netCDF", "HDF5", "HDF5Image", "BAG", "S102", "S104", "S111", "HDF4", "HDF4Image"}
)
"""Those of GDAL that open files of HDF."""
_HDF4: Final = b"\x0e\x03\x13\x01"
_CLASSIC: Final = b"CDF"  # of netCDF before 4: all is in the file
_SPECIAL: Final = 0x4000
"""This bit of a tag says that bytes are kept in another way, which they say first."""
_ELSEWHERE: Final = 2


def named_in(file: BinaryIO, name: str) -> tuple[str, ...]:
    """Return the files that arrays lie in, or are linked from, as they are named.

    Args:
        file: Of HDF or netCDF, opened for reading.
        name: For messages.

    Raises:
        RasterError: It cannot be read.
    """
    import h5py

    try:
        begins = file.read(4)
        if begins == _HDF4:
            return _of_hdf4(file)
        if begins.startswith(_CLASSIC):
            return ()
        file.seek(0)
        with h5py.File(file, "r") as opened:
            return _of_hdf5(opened)
    except (
        OSError,
        RuntimeError,
        KeyError,
        ValueError,
        TypeError,
        struct.error,
    ) as error:
        raise RasterError(f"cannot open {redact(name)}: {first_line(error)}") from error


def _of_hdf5(file: File) -> tuple[str, ...]:
    import h5py

    found: dict[str, None] = {}

    def link(place: bytes, about: Any) -> None:  # noqa: ANN401 - of h5py
        if about.type == h5py.h5l.TYPE_EXTERNAL:
            found[os.fsdecode(file.id.links.get_val(place)[0])] = None

    def array(_: str, node: Any) -> None:  # noqa: ANN401
        if not isinstance(node, h5py.Dataset):
            return
        # Raw bytes are looked for in the working folder.
        found.update((os.path.abspath(part[0]), None) for part in node.external or ())  # noqa: PTH100
        if node.is_virtual:
            found.update((part.file_name, None) for part in node.virtual_sources())

    file.id.links.visit(link, info=True)
    file.visititems(array)
    found.pop(".", None)  # itself
    return tuple(found)


def _of_hdf4(file: BinaryIO) -> tuple[str, ...]:
    """Return the files of external elements; see `hfile.h` and `hextelt.c` of HDF4."""
    found: dict[str, None] = {}
    seen, block = set(), 4
    while block and block not in seen:
        seen.add(block)
        file.seek(block)
        count, block = struct.unpack(">HI", file.read(6))
        for tag, _, offset, _ in struct.iter_unpack(">HHII", file.read(12 * count)):
            if not tag & _SPECIAL or tag & 0x8000:
                continue
            here = file.tell()
            file.seek(offset)
            kind, _, _, length = struct.unpack(">HIII", file.read(14).ljust(14, b"\0"))
            if kind == _ELSEWHERE:
                found[os.fsdecode(file.read(min(length, 4096)))] = None
            file.seek(here)
    return tuple(found)
