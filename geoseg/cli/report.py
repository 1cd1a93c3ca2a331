"""`geoseg report`."""

from __future__ import annotations

from typing import Any

import click

from geoseg.cli.common_old import output_options
from geoseg.cli.common_old import report as say
from geoseg.cli.labels import label_options
from geoseg.core.text import size


@click.command(
    epilog="""
\b
Examples:
  geoseg report masks.zarr
  geoseg report masks.zarr --reference points.gpkg --out landcover.html
  geoseg report masks.zarr --reference truth.tif --map 1=building --map 0=other
  geoseg report somebody-elses-landcover.tif --raster scene.tif --out page.html
"""
)
@click.argument("masks")
@click.option(
    "--out", metavar="FILE.html", help="The page to write; default MASKS with .html."
)
@click.option(
    "--raster",
    metavar="RASTER",
    help="The image that close-ups show; default what the masks were made of.",
)
@click.option(
    "--reference",
    metavar="FILE",
    help="Points, polygons or a raster that tell what is true: adds accuracy, areas "
    "with intervals and the most wrong places.",
)
@label_options
@click.option(
    "--evaluation",
    metavar="FILE.json",
    help="What `geoseg evaluate --json` found, instead of --reference.",
)
@click.option("--title", help="Heading; default the masks' name.")
@click.option("--overwrite", is_flag=True, help="Replace a page that is there.")
@output_options
def report(
    *,
    masks: str,
    out: str | None,
    quiet: bool,
    as_json: bool,
    **options: Any,  # noqa: ANN401 - those of geoseg.report, as declared above
) -> None:
    """Write one HTML page about MASKS: map, areas, close-ups, seams, run facts.

    MASKS may also be another tool's class raster or Zarr. The page is complete in
    itself: it can be mailed, printed, and read without a network. With --reference it
    says how right the map is, and shows where it is most wrong.
    """
    from geoseg.execution.progress import steps
    from geoseg.viz.report import report as written

    with steps("looking at the map", quiet=quiet or as_json) as progress:
        path = written(masks, out, progress=progress, **options)
    bytes_ = path.stat().st_size
    summary = {"file": str(path), "bytes": bytes_}
    say(summary, [f"{path}: {size(bytes_)}"], quiet=quiet, as_json=as_json)
