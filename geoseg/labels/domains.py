"""The names that a GeoPackage gives to the codes of a column: its coded domain."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

# GeoPackage 1.3, annex F.9 (Schema): what a column's constraint is, and its values.
_NAMES: Final = """
    SELECT c.value, c.description
    FROM gpkg_data_columns d JOIN gpkg_data_column_constraints c
      ON lower(c.constraint_name) = lower(d.constraint_name)
    WHERE c.constraint_type = 'enum' AND d.column_name = ?
      AND (d.table_name = ? OR ? IS NULL)
"""


def coded_names(path: str, column: str, layer: str | None) -> dict[str, str]:
    """Return the name of each code of a column; none where it has no coded domain.

    Args:
        path: A file of features; only of a GeoPackage on this machine it is told.
        column: Its column.
        layer: Its layer; None for the only one.
    """
    file = Path(path)
    if file.suffix.lower() != ".gpkg" or not file.is_file():
        return {}
    address = f"{file.absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(address, uri=True)) as opened:
            rows = opened.execute(_NAMES, (column, layer, layer)).fetchall()
    except sqlite3.Error:  # without these tables, as most are
        return {}
    return {str(code).strip(): str(name).strip() for code, name in rows if name}
