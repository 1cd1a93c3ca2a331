"""Regions as rows: from finished features to columns, and on to a file, streamed."""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from geoseg.core.discretion import discreet
from geoseg.core.files import free_in, no_room, replace, replacing, target
from geoseg.errors import RegionsError, first_line, is_full
from geoseg.rasters.vectors import open_vectors
from geoseg.vector.formats.geopackage_copy import copy_without, has_layer
from geoseg.vector.formats.shapefile import BESIDE, Shapefile
from geoseg.vector.table import RegionLayer, Writer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import geopandas


ENDINGS = {
    ".gpkg": "GPKG",
    ".parquet": "Parquet",
    ".fgb": "FlatGeobuf",
    ".geojson": "GeoJSON",
    ".shp": "ESRI Shapefile",
}
"""Formats by file ending, with GDAL's names."""


@contextmanager
def writing_file(
    out: str | Path, *, overwrite: bool, layer: str | None = None
) -> Iterator[Path]:
    """Give a temporary path beside `out`; rename it to `out` when all went well.

    Files that killed runs of this machine left are removed.

    Args:
        out: The file to write.
        overwrite: Whether one that is there may be replaced, or its layer.
        layer: Only this layer of a GeoPackage that is there is written: the temporary
            file is a copy of the others.

    Raises:
        RegionsError: `out` cannot be written, exists, or is in use.
    """
    kept = (
        layer if Path(out).suffix.lower() == ".gpkg" and Path(out).is_file() else None
    )
    replaced = overwrite or kept is not None
    path = target(out, [*ENDINGS], overwrite=replaced, error=RegionsError)
    if path.exists():
        _refuse_in_use(path)
    if kept is not None and not overwrite and has_layer(path, kept):
        raise RegionsError(
            f"{path} has a layer {kept}: --overwrite replaces it and leaves the "
            "others; or choose another --layer"
        )
    try:
        with replacing(path) as beside:
            _check_writable(path, beside)
            begun = path.stat() if kept is not None else None
            if kept is not None:
                copy_without(path, beside, kept)
            with _together(path, beside):
                yield beside
            if begun is not None:
                _refuse_changed(path, begun)
    except (OSError, sqlite3.Error) as error:
        if is_full(error):
            said = getattr(error, "strerror", None) or first_line(error)
            raise no_room(path, f"{said}, {free_in(path.parent)}") from error
        if isinstance(error, OSError):
            raise  # it may be about what is read
        raise RegionsError(f"{path} cannot be written: {error}") from error


@contextmanager
def _together(path: Path, beside: Path) -> Iterator[None]:
    """Put the other files of a shapefile in place just before the one that is named."""
    others = BESIDE if path.suffix.lower() == ".shp" else ()
    try:
        yield
        for ending in others:
            replace(beside.with_suffix(ending), path.with_suffix(ending))
    finally:
        for ending in others:
            beside.with_suffix(ending).unlink(missing_ok=True)


def _refuse_changed(path: Path, begun: os.stat_result) -> None:
    """Raise where another program has written into a file that was copied."""
    _refuse_in_use(path)
    now = path.stat()
    if (now.st_mtime_ns, now.st_size) != (begun.st_mtime_ns, begun.st_size):
        raise RegionsError(
            f"{path} was changed by another program meanwhile, so it stays as it is: "
            "run this again"
        )


def _check_writable(path: Path, beside: Path) -> None:
    try:
        beside.touch()
    except OSError as error:
        raise RegionsError(
            f"{path} cannot be written: {error.strerror} ({path.parent})"
        ) from error
    beside.unlink()


def _refuse_in_use(path: Path) -> None:
    """Raise where replacing the file would pull it from under another program."""
    if not os.access(path, os.W_OK):
        raise RegionsError(f"{path} is read-only: change its permissions or the name")
    if path.suffix.lower() != ".gpkg":
        return
    busy = RegionsError(
        f"{path} is in use by another program, such as QGIS: close it there first"
    )
    if path.with_name(path.name + "-wal").exists():
        raise busy
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            raise busy from error
        raise RegionsError(f"{path} cannot be replaced: {error}") from error
    except sqlite3.DatabaseError as error:
        raise RegionsError(
            f"{path} is not a GeoPackage, so it is not overwritten: choose another name"
        ) from error
    finally:
        connection.close()


def open_writer(path: Path, layer: RegionLayer) -> Writer:
    """Create a file for a layer; the ending chooses the format."""
    ending = path.suffix.lower()
    if ending == ".gpkg":
        from geoseg.vector.formats.geopackage import GeoPackage

        return GeoPackage(path, layer)
    if ending == ".parquet":
        from geoseg.vector.formats.geoparquet import GeoParquet

        return GeoParquet(path, layer)
    if ending == ".geojson":
        from geoseg.vector.formats.geojson import GeoJson

        return GeoJson(path, layer)
    if ending == ".shp":
        return Shapefile(path, layer)
    from geoseg.vector.formats.flatgeobuf import FlatGeobuf

    return FlatGeobuf(path, layer)


@discreet
def read_regions(path: str | Path, layer: str | None = None) -> geopandas.GeoDataFrame:
    """Read a file of regions.

    Args:
        path: A file that `vectorize` wrote.
        layer: Layer name; default the first with geometries.

    Returns:
        One row per region.

    Raises:
        RegionsError: There is no such file or layer.
    """
    if not Path(path).exists():
        raise RegionsError(f"{path} does not exist")
    file = open_vectors(path, "the regions", RegionsError)
    if file is None:
        raise RegionsError(f"{path} cannot be read as regions: it holds no features")
    name = layer or next((n for n, kind in file.layers.items() if kind), None)
    arrow = find_spec("pyarrow") is not None  # quicker, and an extra
    return file.read(file.only_layer(name), use_arrow=arrow)
