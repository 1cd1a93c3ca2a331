"""What another raster holds inside each region: mean, min and max by exactextract."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.text import redact
from geoseg.errors import MissingExtraError
from geoseg.rasters.gdal import environment, open_dataset, reporting
from geoseg.vector.rings import HEADER
from geoseg.vector.table import Field, Rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from geoseg.core.grid import Grid

_OPS = ("mean", "min", "max")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Fields from a raster: each band's mean, min and max inside each region.

    Pixels count by the part of them that the polygon covers (Baston 2023,
    exactextract); nodata does not count. Regions beside the raster get NULL.
    """

    path: str
    """The raster."""
    names: tuple[str, ...]
    """Field names, three per band."""
    crs: str
    """CRS of the regions."""
    raster_crs: str | None
    """CRS of the raster."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """What rows have besides."""
        return tuple(Field(name=name, kind="real") for name in self.names)

    @staticmethod
    def of(path: str | Path, grid: Grid) -> Statistics:
        """Return the statistics of a raster for regions on a grid.

        Raises:
            MissingExtraError: exactextract is not installed.
            RasterError: The raster cannot be opened.
        """
        try:
            import exactextract  # noqa: F401 - only to say so early
        except ImportError as error:
            raise MissingExtraError(
                "statistics of a raster", "exactextract", "stats"
            ) from error
        path = str(path)
        with (
            reporting("open for statistics", redact(path), path),
            environment(path),
            open_dataset(path) as dataset,
        ):
            bands = _band_names(dataset.descriptions)
            crs = dataset.crs.to_wkt() if dataset.crs else None
        return Statistics(
            path=path,
            names=tuple(f"{band}_{op}" for band in bands for op in _OPS),
            crs=str(grid.crs),
            raster_crs=crs,
        )

    def added(self, rows: Rows) -> Rows:
        """Return rows with the raster's statistics as further columns."""
        import geopandas
        import shapely
        from exactextract import exact_extract

        shapes = shapely.from_wkb(list(map(bytes, rows.blobs(HEADER))))
        frame = geopandas.GeoDataFrame(geometry=shapes, crs=self.crs)
        if self.raster_crs is None:
            frame = frame.set_crs(None, allow_override=True)
        elif frame.crs != self.raster_crs:
            frame = frame.to_crs(self.raster_crs)
        with (
            reporting("read", redact(self.path), self.path),
            environment(self.path),
            open_dataset(self.path) as dataset,
        ):
            found: Any = exact_extract(
                dataset, frame, list(_OPS), output="pandas",
                strategy="raster-sequential",
            )  # fmt: skip
        columns = dict(rows.columns)
        several = len(self.names) > len(_OPS)
        for index, name in enumerate(self.names):
            op = _OPS[index % len(_OPS)]
            key = f"band_{index // len(_OPS) + 1}_{op}" if several else op
            columns[name] = np.asarray(found[key], np.float64)
        return Rows(polygons=rows.polygons, columns=columns)


def _band_names(descriptions: Sequence[str | None]) -> list[str]:
    """Return field names for bands: what they are called, else b1, b2."""
    names: list[str] = []
    for index, text in enumerate(descriptions, start=1):
        name = re.sub(r"\W+", "_", (text or "").lower()).strip("_")
        taken = not name or name in names
        names.append(f"b{index}" if taken else name)
    return names
