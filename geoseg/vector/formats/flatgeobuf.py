"""FlatGeobuf through GDAL, fed batch by batch."""

from __future__ import annotations

import errno
from queue import Queue
from threading import Thread
from typing import TYPE_CHECKING, Any

from geoseg.rasters.vectors import ogr
from geoseg.vector.formats.geoparquet import arrow_batch, arrow_schema

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from geoseg.vector.table import RegionLayer, Rows


class FlatGeobuf:
    """A FlatGeobuf file of regions, while it is written.

    GDAL pulls batches, `write` pushes them: a thread and a short queue stand between.
    GDAL sorts by a packed Hilbert R-tree when it closes the file.
    """

    def __init__(self, path: Path, layer: RegionLayer) -> None:
        self._layer, self._path = layer, path
        self._schema = arrow_schema(layer, box=False)
        self._queue: Queue[Any] = Queue(maxsize=2)
        self._error: BaseException | None = None
        self._ended = False
        self._thread = Thread(target=self._work, args=(path,), daemon=True)
        self._thread.start()

    def _batches(self) -> Iterator[Any]:
        while (batch := self._queue.get()) is not None:
            yield batch
        self._ended = True

    def _work(self, path: Path) -> None:
        import pyarrow as pa
        from pyproj import CRS

        pyogrio = ogr()
        reader = pa.RecordBatchReader.from_batches(self._schema, self._batches())
        try:
            pyogrio.write_arrow(
                reader, path, driver="FlatGeobuf", layer=self._layer.name,
                geometry_name="geometry", geometry_type=self._layer.geometry_type,
                crs=CRS.from_user_input(self._layer.crs).to_wkt(),
                **self._described(pyogrio),
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - carried to the writing thread
            self._error = error
            while not self._ended:  # so that nobody waits for a full queue
                self._ended = self._queue.get() is None

    def _described(self, pyogrio: Any) -> dict[str, str]:  # noqa: ANN401 - untyped
        """Return what the file says of itself, which GDAL can write from 3.9 on."""
        lacks = self._layer.lacks
        told = lacks is not None and pyogrio.__gdal_version__ >= (3, 9, 0)
        return {"DESCRIPTION": lacks} if told and lacks else {}

    def write(self, rows: Rows) -> None:
        """Append rows."""
        self._queue.put(arrow_batch(rows, self._layer, self._schema))

    def close(self) -> None:
        """Let GDAL build the index and close the file."""
        self.abandon()
        if self._error is not None:  # GDAL does not say that a disk is full
            said = str(self._error).replace(f"to dataset {self._path}", "to it")
            raise OSError(
                errno.ENOSPC, f"{said}; a FlatGeobuf takes twice its size"
            ) from self._error

    def abandon(self) -> None:
        """Close the file as it is."""
        self._queue.put(None)
        self._thread.join()
