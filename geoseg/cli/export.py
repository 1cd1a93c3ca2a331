"""`geoseg export`."""

from __future__ import annotations

import click

from geoseg.cli.common_old import output_options, report
from geoseg.core.text import size


@click.command(
    epilog="""
\b
Example:
  geoseg export masks.zarr --out masks.tif
"""
)
@click.argument("masks")
@click.option("--out", required=True, metavar="FILE.tif", help="The file to write.")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
@output_options
def export(
    *, masks: str, out: str, overwrite: bool, quiet: bool, as_json: bool
) -> None:
    """Write MASKS as a cloud-optimised GeoTIFF: overviews, colours, class names.

    MASKS may also be another tool's class raster or Zarr. Any GIS opens the file. The
    names lie beside it, in FILE.tif.aux.xml for GDAL and in FILE.qml, a style that QGIS
    finds by itself: keep them together.
    """
    from geoseg.maps.cog import export as written

    path = written(masks, out, overwrite=overwrite)
    bytes_ = path.stat().st_size
    summary = {"file": str(path), "bytes": bytes_}
    report(summary, [f"{path}: {size(bytes_)}"], quiet=quiet, as_json=as_json)
