"""GeoPackages, looked into without GDAL."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from geoseg.core.text import redact
from geoseg.errors import RasterError
from geoseg.rasters.named_files import open_bytes, read_bytes

if TYPE_CHECKING:
    from sqlite3 import Connection

_SQLITE: Final = b"SQLite format 3\0"
_LARGEST: Final = 400_000_000
"""Bytes of one in an archive, which is read whole."""


def is_computed(file: str, layer: str) -> bool:
    """Whether a GeoPackage says by a view, or by XML in it, what is in a layer.

    False of any other file.

    Raises:
        RasterError: It cannot be read.
    """
    local = Path(file).is_file()
    try:
        with open_bytes(file) as opened:
            if opened.read(len(_SQLITE)) != _SQLITE:
                return False
        where = f"{Path(file).absolute().as_uri()}?mode=ro" if local else ":memory:"
        with closing(sqlite3.connect(where, uri=True)) as base:
            if not local:
                base.deserialize(read_bytes(file, most=_LARGEST))
            return _is_view(base, layer) or _has_xml(base)
    except (OSError, sqlite3.Error) as error:
        raise RasterError(f"cannot open {redact(file)}: {error}") from error


def _is_view(base: Connection, layer: str) -> bool:
    """Whether a layer, or a table that tells of it, is a view; SQL knows no case."""
    asked = "SELECT lower(name) FROM sqlite_master WHERE type = 'view'"
    views = {str(name) for (name,) in base.execute(asked)}
    return layer.lower() in views or any(v.startswith("gpkg_") for v in views)


def _has_xml(base: Connection) -> bool:
    """Whether metadata of GDAL's have domains of their own, such as `xml:GTI`."""
    asked = "SELECT count() FROM sqlite_master WHERE name LIKE 'gpkg_metadata'"
    if not base.execute(asked).fetchone()[0]:
        return False
    told = base.execute(
        "SELECT lower(metadata) FROM gpkg_metadata WHERE md_standard_uri LIKE ?",
        ("http://gdal.org",),
    )
    return any("domain" in str(t).replace("multidomain", "") for (t,) in told)
