"""`geoseg export`."""

from __future__ import annotations

import click

from geoseg.cli.common import OutputOptions, print_file
from geoseg.cli.options import command, takes
from geoseg.maps.options import ExportOptions


@command("geoseg export masks.zarr --out masks.tif")
@click.argument("masks")
@takes(ExportOptions)
@takes(OutputOptions, "output")
def export(*, masks: str, options: ExportOptions, output: OutputOptions) -> None:
    """Write MASKS as a cloud-optimised GeoTIFF: overviews, colours, class names.

    MASKS may also be another tool's class raster or Zarr. Any GIS opens the file. The
    names lie beside it, in FILE.tif.aux.xml for GDAL and in FILE.qml, a style that QGIS
    finds by itself: keep them together.
    """
    from geoseg.maps.cog import export as write

    path = write(masks, **dict(options))
    print_file(path, output, f"open it in QGIS, with {path.stem}.qml beside it")
