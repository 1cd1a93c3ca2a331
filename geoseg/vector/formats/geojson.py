"""GeoJSON by RFC 7946: longitude and latitude on WGS 84, written as rows come."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.errors import RegionsError
from geoseg.vector.rings import HEADER

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from geoseg.vector.table import RegionLayer, Rows

_DECIMALS = 8
"""Of a degree: a millimetre."""


class GeoJson:
    """A GeoJSON file of regions, while it is written.

    Vertices that regions share have the same longitude and latitude, so that neighbours
    stay neighbours. Rings run as the RFC has them: counterclockwise outside.
    """

    def __init__(self, path: Path, layer: RegionLayer) -> None:
        from pyproj import Transformer

        self._layer = layer
        self._to_degrees = Transformer.from_crs(layer.crs, "OGC:CRS84", always_xy=True)
        self._file = path.open("w", encoding="utf-8")
        head = {"type": "FeatureCollection", "name": layer.name}
        if layer.lacks is not None:
            head["description"] = layer.lacks
        self._file.write(f'{json.dumps(head)[:-1]}, "features": [')
        self._comma = "\n"

    def write(self, rows: Rows) -> None:
        """Append rows, a feature a line."""
        import shapely

        geometries = shapely.from_wkb(list(rows.blobs(HEADER)))
        placed = shapely.transform(geometries, self._degrees)
        bounds = shapely.bounds(placed)
        if (bounds[:, 2] - bounds[:, 0] > 180).any():
            raise RegionsError(
                "a region crosses the 180th meridian, where GeoJSON wants it cut in "
                "two: write .gpkg, .parquet or .fgb"
            )
        texts = shapely.to_geojson(placed)
        columns = {f.name: rows.columns[f.name].tolist() for f in self._layer.fields}
        for i, geometry in enumerate(texts):
            facts = json.dumps({k: _plain(v[i]) for k, v in columns.items()})
            self._file.write(
                f'{self._comma}{{"type": "Feature", "properties": {facts}, '
                f'"geometry": {geometry}}}'
            )
            self._comma = ",\n"

    def _degrees(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        found = np.column_stack(self._to_degrees.transform(*points.T))
        if not np.isfinite(found).all():
            raise RegionsError(
                "a region has corners without longitude and latitude: write .gpkg, "
                ".parquet or .fgb, which keep the masks' CRS"
            )
        return np.round(found, _DECIMALS)

    def close(self) -> None:
        """End the collection."""
        self._file.write("\n]}\n")
        self._file.close()

    def abandon(self) -> None:
        """Close the file as it is."""
        self._file.close()


def _plain(value: Any) -> Any:  # noqa: ANN401 - a number, a text or None
    """Return a value as JSON has it; what is unknown as null."""
    return None if isinstance(value, float) and not np.isfinite(value) else value
