"""`geoseg vectorize`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import click

from geoseg.cli.answers import step
from geoseg.cli.common import OutputOptions, client_of, print_summary
from geoseg.cli.options import command, takes
from geoseg.core.text import counted, redact, size
from geoseg.execution.options import ClusterOptions
from geoseg.vector.options import VectorizeOptions


@command(
    "geoseg vectorize masks.zarr --out regions.gpkg",
    "geoseg vectorize masks.zarr --out regions.gpkg --simplify 10 --min-area 500",
    "geoseg vectorize houses.zarr --out houses.gpkg --classes building --regularize",
    "geoseg vectorize landcover.tif --out towns.parquet --classes town,road",
)
@click.argument("masks")
@takes(VectorizeOptions)
@takes(ClusterOptions, "place")
@takes(OutputOptions, "output")
def vectorize(
    *,
    masks: str,
    options: VectorizeOptions,
    place: ClusterOptions,
    output: OutputOptions,
) -> None:
    """Turn MASKS (a store, or any class raster) into polygons without seams.

    Each region is one polygon, however many blocks it spans, with its class and its
    true area. Neighbours share their lines, so that simplifying tears no gaps. QGIS
    opens the .gpkg in class colours. Without --simplify lines follow the pixels; a
    pixel or two is a good start.
    """
    from geoseg.execution.progress import bar
    from geoseg.vector.vectorize import write_regions

    begun = perf_counter()
    with client_of(place) as client, bar("vectorize", quiet=output.silent) as show:
        path = write_regions(masks, options, client, show)
    seconds = perf_counter() - begun
    bytes_ = path.stat().st_size
    summary: dict[str, Any] = {
        "regions": str(path),
        "bytes": bytes_,
        "seconds": round(seconds, 3),
    }
    rows = _rows(path, options.layer)
    told = "" if rows is None else f"{counted(rows, 'region')}, "
    summary |= {"rows": rows}
    lines = [f"{path}: {told}{size(bytes_)} in {seconds:.1f} s"]
    if options.regularize:
        from geoseg.vector.footprints import summarize

        squared = summarize(path)
        summary |= {"footprints": asdict(squared)}
        lines.append(str(squared))
    lines.append(step("look", "view", redact(masks), "--regions", path))
    print_summary(summary, lines, output)


def _rows(path: Path, layer: str | None) -> int | None:
    """Return how many regions a file holds, where that is told at once."""
    import pyogrio

    if path.suffix.lower() == ".parquet":  # GDAL may lack the driver
        from pyarrow.parquet import read_metadata

        return int(read_metadata(path).num_rows)
    try:
        layers = pyogrio.list_layers(path)
        name = layer or next((n for n, kind in layers if kind), None)
        return int(pyogrio.read_info(path, layer=name)["features"])
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError):
        return None
