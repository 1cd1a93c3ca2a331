"""`geoseg report`."""

from __future__ import annotations

import click

from geoseg.cli.common import OutputOptions, print_file
from geoseg.cli.options import command, takes
from geoseg.viz.options import ReportOptions


@command(
    "geoseg report masks.zarr",
    "geoseg report masks.zarr --reference points.gpkg --out landcover.html",
    "geoseg report masks.zarr --reference truth.tif --map 1=building --map 0=other",
    "geoseg report somebody-elses-landcover.tif --raster scene.tif --out page.html",
)
@click.argument("masks")
@takes(ReportOptions)
@takes(OutputOptions, "output")
def report(*, masks: str, options: ReportOptions, output: OutputOptions) -> None:
    """Write one HTML page about MASKS: map, areas, close-ups, seams, run facts.

    MASKS may also be another tool's class raster or Zarr. The page is complete in
    itself: it can be mailed, printed, and read without a network. With --reference it
    says how right the map is, and shows where it is most wrong.
    """
    from geoseg.execution.progress import steps
    from geoseg.viz.report.write import write_page

    with steps("looking at the map", quiet=output.silent) as progress:
        path = write_page(masks, options, progress=progress)
    print_file(path, output, "open it in a browser")
