"""Polygons of a part of a map, in the map's pixels, read from a file when asked for."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.core.grid import same_crs
from geoseg.core.text import plain
from geoseg.errors import RegionsError
from geoseg.rasters.shapes import into_pixels
from geoseg.rasters.vectors import ogr, open_vectors, parquet_crs

if TYPE_CHECKING:
    import geopandas

    from geoseg.core.grid import Grid

MOST = 4000
"""With more polygons in view than this, none are drawn: one would see a blot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionsFile:
    """A file of polygons."""

    path: str
    layer: str | None
    """Layer in the file; None where the format has none."""
    crs: str
    """WKT of its CRS."""
    grid: Grid
    """The map's."""

    def seen(
        self, left: float, top: float, right: float, bottom: float, pixel: float
    ) -> dict[str, Any]:
        """Return what lies in a rectangle of the map as GeoJSON, in the map's pixels.

        Args:
            left: First column.
            top: First row.
            right: Last column.
            bottom: Last row.
            pixel: How large a pixel of the screen is, in pixels of the map.

        Returns:
            A FeatureCollection; without features, and `more`, where there are too many.
        """
        import shapely

        x = sorted(min(max(v, 0.0), self.grid.width) for v in (left, right))
        y = sorted(min(max(v, 0.0), self.grid.height) for v in (top, bottom))
        pixel = min(max(pixel, 0.0), max(self.grid.height, self.grid.width))
        found = self.within(x[0], y[0], x[1], y[1], most=MOST + 1)
        if len(found) > MOST:
            return {"type": "FeatureCollection", "features": [], "more": True}
        # The sea's outline is long: what is a screen away is cut off.
        wide, high = (max(1.0, far - near) for near, far in (x, y))
        box = x[0] - wide, y[0] - high, x[1] + wide, y[1] + high
        shapes = shapely.clip_by_rect(found.geometry.to_numpy(), *box)
        return {**_geojson(found.set_geometry(shapes), pixel / 2), "more": False}

    def at(self, row: float, column: float) -> dict[str, Any] | None:
        """Return the polygon at a point of the map, as a GeoJSON feature."""
        import shapely

        found = self.within(column, row, column + 1e-6, row + 1e-6)
        here = found[found.geometry.intersects(shapely.Point(column, row))]
        features: list[dict[str, Any]] = _geojson(here[:1], 0)["features"]
        return features[0] if features else None

    def within(
        self,
        left: float,
        top: float,
        right: float,
        bottom: float,
        *,
        most: int | None = None,
    ) -> geopandas.GeoDataFrame:
        """Return what touches a rectangle of the map, geometries in the map's pixels.

        Args:
            left: First column.
            top: First row.
            right: Last column.
            bottom: Last row.
            most: Polygons to read at most.
        """
        import shapely

        found = self._read(self._bounds(left, top, right, bottom), most)
        crs = None if self._same_crs else self.crs
        shapes = shapely.transform(
            found.geometry.to_numpy(),
            into_pixels(self.grid, crs, self.path),
            interleaved=False,
        )
        return found.set_geometry(shapes, crs=None)

    def _bounds(
        self, left: float, top: float, right: float, bottom: float
    ) -> tuple[float, float, float, float]:
        """Return a rectangle of the map as bounds in the polygons' CRS."""
        corners = [
            self.grid.transform @ (x, y) for x in (left, right) for y in (top, bottom)
        ]
        xs, ys = zip(*corners, strict=True)
        bounds = min(xs), min(ys), max(xs), max(ys)
        if self._same_crs:
            return bounds
        from pyproj import Transformer

        there = Transformer.from_crs(self.grid.crs, self.crs, always_xy=True)
        a, b, c, d = there.transform_bounds(*bounds)
        return float(a), float(b), float(c), float(d)

    @property
    def _same_crs(self) -> bool:
        return self.grid.crs is None or same_crs(self.grid.crs, self.crs)

    def _read(
        self, bounds: tuple[float, float, float, float], most: int | None
    ) -> geopandas.GeoDataFrame:
        if self.layer is None:
            import geopandas

            found = geopandas.read_parquet(self.path, bbox=bounds)
            return found if most is None else found[:most]
        some: geopandas.GeoDataFrame = ogr().read_dataframe(
            self.path,
            layer=self.layer,
            bbox=bounds,
            max_features=most,
            fid_as_index=True,
        )
        return some


def _geojson(found: geopandas.GeoDataFrame, tolerance: float) -> dict[str, Any]:
    """Return polygons as a FeatureCollection, simplified by a tolerance in pixels."""
    import shapely

    shapes = found.geometry.to_numpy()
    if tolerance > 0:
        shapes = shapely.simplify(shapes, tolerance, preserve_topology=False)
        shapes = shapely.transform(shapes, lambda xy: xy.round(2))
    table = found.drop(columns=found.geometry.name)
    rows = zip(table.index, table.to_dict("records"), shapes, strict=True)
    features = [
        {
            "type": "Feature",
            "id": int(number),
            "properties": plain(row, text=str),
            "geometry": json.loads(shapely.to_geojson(shape)),
        }
        for number, row, shape in rows
        if not shape.is_empty
    ]
    return {"type": "FeatureCollection", "features": features}


def open_regions(path: str | os.PathLike[str], grid: Grid) -> RegionsFile:
    """Open a file of polygons to be looked at.

    Raises:
        RegionsError: It cannot be read, or is nowhere.
    """
    file = Path(path)
    if not file.exists():
        raise RegionsError(f"the regions {path} do not exist")
    if file.suffix.lower() == ".parquet":
        crs = parquet_crs(str(file), "the regions", RegionsError)
        return RegionsFile(path=str(file), layer=None, crs=crs, grid=grid)
    opened = open_vectors(file, "the regions", RegionsError)
    if opened is None:
        raise RegionsError(f"{path} cannot be read as regions: it holds no features")
    first = next((n for n, kind in opened.layers.items() if kind), None)
    name = opened.only_layer(first)
    crs = ogr().read_info(file, layer=name)["crs"]
    return RegionsFile(path=str(file), layer=name, crs=crs or grid.crs or "", grid=grid)
