"""Shapefiles through GDAL, for programs that read nothing newer.

A shapefile is several files of one name. Its field names have ten characters, its parts
two gigabytes, and it holds one layer.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.errors import RegionsError, first_line, is_full
from geoseg.rasters.vectors import ogr
from geoseg.vector.rings import HEADER

if TYPE_CHECKING:
    from pathlib import Path

    from geoseg.vector.table import RegionLayer, Rows

BESIDE = (".dbf", ".shx", ".prj", ".cpg")
"""Endings of the files that belong to the one that is named."""
_SHORT = {"perimeter_m": "perim_m"}
_LONGEST = 10
_MANY = 20_000
"""Rows that are written at once."""


class Shapefile:
    """A shapefile of regions, while it is written."""

    def __init__(self, path: Path, layer: RegionLayer) -> None:
        self._path, self._layer = path, layer
        self._names = short_names([f.name for f in layer.fields])
        self._waiting: list[Rows] = []
        self._count = 0
        self._begun = False

    def write(self, rows: Rows) -> None:
        """Append rows; they reach the file some thousands at a time."""
        self._waiting.append(rows)
        self._count += len(rows)
        if self._count >= _MANY:
            self._flush()

    def _flush(self) -> None:
        from pyproj import CRS

        pyogrio = ogr()
        several, self._waiting, self._count = self._waiting, [], 0
        blobs = [blob for rows in several for blob in rows.blobs(HEADER)]
        columns: list[Any] = [
            np.concatenate([np.zeros(0), *(rows.columns[f.name] for rows in several)])
            if several
            else np.zeros(0, object if f.kind == "text" else float)
            for f in self._layer.fields
        ]
        data = [
            c.astype({"integer": np.int64, "real": np.float64, "text": object}[f.kind])
            for f, c in zip(self._layer.fields, columns, strict=True)
        ]
        try:
            pyogrio.raw.write(
                self._path, np.array(blobs, object), data, self._names,
                driver="ESRI Shapefile", geometry_type=self._layer.geometry_type,
                crs=CRS.from_user_input(self._layer.crs).to_wkt(), encoding="UTF-8",
                append=self._begun,
            )  # fmt: skip
        except (pyogrio.errors.DataSourceError, pyogrio.errors.FeatureError) as error:
            if is_full(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise RegionsError(
                f"the shapefile cannot be written ({first_line(error)}): write .gpkg"
            ) from error
        self._begun = True

    def close(self) -> None:
        """Write what waits; a file without rows is a file, too."""
        if self._waiting or not self._begun:
            self._flush()

    def abandon(self) -> None:
        """Forget what waits."""
        self._waiting = []


def short_names(names: list[str]) -> list[str]:
    """Return names of ten characters at most, each once.

    >>> short_names(["class_name", "perimeter_m", "red_mean_of", "red_mean_or"])
    ['class_name', 'perim_m', 'red_mean_o', 'red_mean_1']
    """
    found: list[str] = []
    for name in names:
        short = _SHORT.get(name, name)[:_LONGEST]
        for number in range(1, len(names)):
            if short not in found:
                break
            short = f"{short[: _LONGEST - len(str(number))]}{number}"
        found.append(short)
    return found
