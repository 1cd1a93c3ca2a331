"""What another raster holds inside each region: mean, min and max by exactextract."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.extras import require
from geoseg.core.grid import Grid, Window, same_crs
from geoseg.errors import RasterError
from geoseg.rasters.open import open_source
from geoseg.rasters.shapes import drawn_for, into_pixels
from geoseg.vector.rings import HEADER
from geoseg.vector.table import Field, Rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.rasters.source import Source

_OPS = ("mean", "min", "max")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Fields from a raster: each band's mean, min and max inside each region.

    Pixels count by the part of them that the polygon covers (Baston 2023,
    exactextract); nodata does not count, nor what a mask or alpha band leaves out.
    Regions beside the raster get NULL.
    """

    bands: tuple[Source, ...]
    """The raster, band by band."""
    names: tuple[str, ...]
    """Field names, three per band."""
    crs: str | None
    """CRS of the regions."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """What rows have besides."""
        return tuple(Field(name=name, kind="real") for name in self.names)

    @staticmethod
    def of(path: str | os.PathLike[str], grid: Grid) -> Statistics:
        """Return the statistics of a raster for regions on a grid.

        Raises:
            MissingExtraError: exactextract is not installed.
            RasterError: The raster cannot be opened, or has no CRS.
        """
        require("exactextract", what="statistics of a raster", extra="stats")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # no CRS: said below
            source = open_source(os.fspath(path))
        if source.grid.crs is None:
            raise RasterError(
                f"{source.name} has no CRS, so statistics of it would lie anywhere: "
                "give it one first, as with gdal_edit.py -a_srs"
            )
        names = _field_names([band.name for band in source.bands])
        return Statistics(
            bands=tuple(source.select([i]) for i in range(len(source.bands))),
            names=tuple(f"{name}_{op}" for name in names for op in _OPS),
            crs=grid.crs,
        )

    def added(self, rows: Rows) -> Rows:
        """Return rows with the raster's statistics as further columns."""
        import geopandas
        import shapely
        from exactextract import exact_extract

        shapes = np.asarray(shapely.from_wkb(list(rows.blobs(HEADER))))
        # exactextract wants to see the same CRS on both; both are in pixels.
        crs = self.bands[0].grid.crs
        frame = geopandas.GeoDataFrame(geometry=self._in_pixels(shapes), crs=crs)
        found: Any = exact_extract(
            [_as_raster(band, f"b{i}") for i, band in enumerate(self.bands)],
            frame, list(_OPS), output="pandas", strategy="raster-sequential",
        )  # fmt: skip
        columns = dict(rows.columns)
        for index, name in enumerate(self.names):
            band, op = divmod(index, len(_OPS))
            key = f"b{band}_{_OPS[op]}" if len(self.bands) > 1 else _OPS[op]
            columns[name] = np.asarray(found[key], np.float64)
        return Rows(polygons=rows.polygons, columns=columns)

    def _in_pixels(self, shapes: NDArray[np.object_]) -> NDArray[np.object_]:
        """Return regions in pixels of the raster: column, and row counted from below.

        There every raster is a square grid with north up, however it lies on the map.
        """
        import shapely

        grid = self.bands[0].grid
        same = self.crs is None or same_crs(self.crs, grid.crs)
        there = into_pixels(grid, None if same else self.crs, "the regions")
        drawn = shapes if same else drawn_for(grid, shapes, str(self.crs), there)
        moved = shapely.transform(drawn, there, interleaved=False)
        return np.asarray(
            shapely.transform(moved, lambda xy: xy * (1, -1) + (0, grid.height))
        )


def _as_raster(band: Source, name: str) -> Any:  # noqa: ANN401 - untyped library
    """Return a band as exactextract reads rasters, its pixels squares of size 1."""
    from exactextract.raster import RasterSource

    class Band(RasterSource):  # type: ignore[misc]
        def res(self) -> tuple[float, float]:
            return 1.0, 1.0

        def extent(self) -> tuple[float, float, float, float]:
            return 0.0, 0.0, float(band.grid.width), float(band.grid.height)

        def nodata_value(self) -> float:
            return float("nan")

        def srs_wkt(self) -> str | None:
            return band.grid.crs

        def read_window(self, x0: int, y0: int, nx: int, ny: int) -> Any:  # noqa: ANN401
            if not nx or not ny:  # asked for the dtype
                return np.zeros((ny, nx), np.float64)
            pixels, valid = band.read(Window(y=y0, x=x0, height=ny, width=nx))
            # Whether masks of arrays are honoured depends on exactextract's version.
            return np.where(valid, pixels[0].astype(np.float64), np.nan)

    raster = Band()
    raster.set_name(name)
    return raster


def _field_names(bands: Sequence[str]) -> list[str]:
    """Return different field names for bands: what they are called, else b1, b2."""
    names: list[str] = []
    for index, text in enumerate(bands, start=1):
        name = re.sub(r"\W+", "_", text.lower()).strip("_")
        if not name or name.isdigit() or name in names:
            name = f"b{index}"
        while name in names:
            name += "_"
        names.append(name)
    return names
