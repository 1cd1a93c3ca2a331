"""What a local file, or an archive by any of GDAL's names, is made of."""

from __future__ import annotations

import gzip
import tarfile
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from geoseg.rasters.named_files import ARCHIVES, file_of

if TYPE_CHECKING:
    from collections.abc import Iterator


def parts(name: str) -> Iterator[IO[bytes]]:
    """Yield the file that a name means, or each one of its archive, open to read.

    Nothing where it does not lie on this machine, or is a folder.

    Args:
        name: What GDAL opens.

    Raises:
        OSError: It cannot be read, or is an archive in another.
    """
    holder = file_of(name)
    if not _is_file(holder):
        return
    if sum(name.count(archive) for archive in ARCHIVES) > 1:
        raise OSError("it is in an archive in another: unpack that first")
    if zipfile.is_zipfile(holder):
        yield from _zipped(holder)
    elif name.startswith("/vsitar/"):
        with tarfile.open(holder) as tar:
            yield from filter(None, map(tar.extractfile, tar))
    elif name.startswith(ARCHIVES):
        with gzip.open(holder) as unpacked:
            yield cast("IO[bytes]", unpacked)
        return
    with Path(holder).open("rb") as file:
        yield file


def _zipped(holder: str) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(holder) as archive:
        for each in archive.infolist():
            with archive.open(each) as part:
                yield part


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # a name may be too long for a path
        return False
