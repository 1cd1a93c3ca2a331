"""A layer in a GeoPackage that holds others: on a copy, in which they stay as they are.

What QGIS or GDAL have drawn is never touched in place: the file is copied, the layer of
the same name is taken out of the copy, and the copy replaces the file when it is whole.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from geoseg.errors import RegionsError

if TYPE_CHECKING:
    from pathlib import Path

# Where the tables of a GeoPackage and its extensions name the layer that a row is of.
_ROWS = (
    ("gpkg_contents", "table_name"),
    ("gpkg_geometry_columns", "table_name"),
    ("gpkg_extensions", "table_name"),
    ("gpkg_ogr_contents", "table_name"),
    ("gpkg_data_columns", "table_name"),
    ("gpkg_metadata_reference", "table_name"),
    ("layer_styles", "f_table_name"),
)


def copy_without(source: Path, target: Path, layer: str) -> None:
    """Copy a GeoPackage, without a layer.

    Raises:
        RegionsError: It is not a GeoPackage, or what is called so is not a layer of
            features.
    """
    with (
        closing(sqlite3.connect(source)) as old,
        closing(sqlite3.connect(target, isolation_level=None)) as new,
    ):
        old.backup(new)
        # Of a file that was written ahead, another program would look for a log beside.
        new.execute("PRAGMA journal_mode = DELETE")
        new.execute("BEGIN")
        _take_out(new, source, layer)
        new.execute("COMMIT")


def has_layer(path: Path, layer: str) -> bool:
    """Whether a GeoPackage has a layer of this name, whatever its case.

    Raises:
        RegionsError: It is not a GeoPackage.
    """
    with closing(sqlite3.connect(path)) as db:
        return _kind(db, path, layer) is not None


def _kind(db: sqlite3.Connection, path: Path, layer: str) -> tuple[str, str] | None:
    """Return a layer's own name and what it holds; None where there is none."""
    try:
        found: tuple[str, str] | None = db.execute(
            "SELECT table_name, data_type FROM gpkg_contents "
            "WHERE lower(table_name) = lower(?)",
            (layer,),
        ).fetchone()
    except sqlite3.DatabaseError as error:
        raise RegionsError(
            f"{path} is not a GeoPackage, so no layer is added to it: choose another "
            "name"
        ) from error
    return found


def _take_out(db: sqlite3.Connection, path: Path, layer: str) -> None:
    found = _kind(db, path, layer)
    if found is None:
        return
    name, kind = found
    if kind != "features":
        raise RegionsError(
            f"{layer} in {path} holds {kind} and not features: choose another --layer"
        )
    tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master")}
    geometry = db.execute(
        "SELECT column_name FROM gpkg_geometry_columns WHERE table_name = ?", (name,)
    ).fetchone()
    index = f"rtree_{name}_{geometry[0]}" if geometry else ""
    for table in (index, name):
        if table in tables:
            db.execute(f'DROP TABLE "{table}"')
    for table, column in _ROWS:
        if table in tables:
            db.execute(f'DELETE FROM "{table}" WHERE "{column}" = ?', (name,))  # noqa: S608
    if "gpkg_metadata" in tables and "gpkg_metadata_reference" in tables:
        db.execute(
            "DELETE FROM gpkg_metadata WHERE id NOT IN (SELECT md_file_id FROM "
            "gpkg_metadata_reference UNION SELECT md_parent_id FROM "
            "gpkg_metadata_reference WHERE md_parent_id IS NOT NULL)"
        )
