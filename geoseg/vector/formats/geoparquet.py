"""GeoParquet 1.1: WKB, a bbox column to filter by, row groups of neighbours."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg._version import __version__
from geoseg.core.extras import require
from geoseg.vector.rings import HEADER

if TYPE_CHECKING:
    from pathlib import Path

    from geoseg.vector.table import RegionLayer, Rows

_GROUP = 50_000  # rows
_BOX = ("xmin", "ymin", "xmax", "ymax")


class GeoParquet:
    """A GeoParquet file of regions, while it is written."""

    def __init__(self, path: Path, layer: RegionLayer) -> None:
        self._layer = layer
        self._schema = arrow_schema(layer, box=True)
        import pyarrow.parquet as pq

        self._file = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._waiting: list[Any] = []
        self._count = 0
        self._box = np.array([np.inf, np.inf, -np.inf, -np.inf])

    def write(self, rows: Rows) -> None:
        """Append rows; they reach the file when there are enough for a row group."""
        self._waiting.append(arrow_batch(rows, self._layer, self._schema))
        self._count += len(rows)
        box = rows.polygons.box
        self._box[:2] = np.minimum(self._box[:2], box[:, :2].min(axis=0))
        self._box[2:] = np.maximum(self._box[2:], box[:, 2:].max(axis=0))
        if self._count >= _GROUP:
            self._flush()

    def _flush(self) -> None:
        """Write what waits, neighbours beside each other."""
        import pyarrow as pa
        from geopandas import GeoSeries

        table = pa.Table.from_batches(self._waiting, self._schema)
        box = table.column("bbox").combine_chunks()
        x0, y0, x1, y1 = (np.asarray(box.field(name)) for name in _BOX)
        middles = GeoSeries.from_xy((x0 + x1) / 2, (y0 + y1) / 2)
        order = np.argsort(middles.hilbert_distance(), kind="stable")
        self._file.write_table(table.take(pa.array(order)), row_group_size=_GROUP)
        self._waiting, self._count = [], 0

    def close(self) -> None:
        """Write the last row group and the metadata."""
        if self._waiting:
            self._flush()
        self._file.add_key_value_metadata(
            {
                "geo": json.dumps(self._geo()),
                "geoseg": json.dumps(dict(self._layer.provenance)),
            }
        )
        self._file.close()

    def abandon(self) -> None:
        """Close the file as it is."""
        self._file.close()

    def _geo(self) -> dict[str, Any]:
        from pyproj import CRS

        column: dict[str, Any] = {
            "encoding": "WKB",
            "geometry_types": [self._layer.geometry_type],
            "crs": CRS.from_user_input(self._layer.crs).to_json_dict(),
            "orientation": "counterclockwise",
            "edges": "planar",
            "covering": {"bbox": {name: ["bbox", name] for name in _BOX}},
        }
        if np.isfinite(self._box).all():
            column["bbox"] = self._box.tolist()
        return {
            "version": "1.1.0",
            "primary_column": "geometry",
            "columns": {"geometry": column},
            "creator": {"library": "geoseg", "version": __version__},
        }


def arrow_schema(layer: RegionLayer, *, box: bool) -> Any:  # noqa: ANN401 - untyped library
    """Return the Arrow schema of a layer.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    pa = require("pyarrow", what="this output", extra="parquet")
    kinds = {"integer": pa.int64(), "real": pa.float64(), "text": pa.string()}
    columns = [pa.field(f.name, kinds[f.kind]) for f in layer.fields]
    if box:
        struct = pa.struct([pa.field(n, pa.float64(), nullable=False) for n in _BOX])
        columns.append(pa.field("bbox", struct, nullable=False))
    geometry = pa.field(
        "geometry", pa.binary(), metadata={"ARROW:extension:name": "geoarrow.wkb"}
    )
    return pa.schema([*columns, geometry])


def arrow_batch(rows: Rows, layer: RegionLayer, schema: Any) -> Any:  # noqa: ANN401
    """Return rows as an Arrow record batch."""
    import pyarrow as pa

    arrays = [
        pa.array(rows.columns[f.name], schema.field(f.name).type, from_pandas=True)
        for f in layer.fields
    ]
    if "bbox" in schema.names:
        parts = [pa.array(np.ascontiguousarray(c)) for c in rows.polygons.box.T]
        arrays.append(
            pa.StructArray.from_arrays(parts, fields=list(schema.field("bbox").type))
        )
    arrays.append(pa.array(list(rows.blobs(HEADER)), pa.binary()))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
