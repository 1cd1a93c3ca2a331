"""`geoseg vectorize`."""

from __future__ import annotations

from dataclasses import asdict
from time import perf_counter
from typing import Any

import click

from geoseg.cli.common_old import cluster_options, comma_list, output_options, report
from geoseg.core.text import size


@click.command(
    epilog="""
\b
Examples:
  geoseg vectorize masks.zarr --out regions.gpkg
  geoseg vectorize masks.zarr --out regions.gpkg --simplify 10 --min-area 500
  geoseg vectorize houses.zarr --out houses.gpkg --classes building --regularize
  geoseg vectorize landcover.tif --out towns.parquet --classes town,road
"""
)
@click.argument("masks")
@click.option(
    "--out", required=True, metavar="FILE", help="Ends in .gpkg, .parquet or .fgb."
)
@click.option(
    "--simplify", type=float, metavar="METRES", help="Lines move by this at most."
)
@click.option(
    "--method",
    type=click.Choice(["visvalingam", "douglas-peucker"]),
    default="visvalingam",
    show_default=True,
    help="How lines are simplified.",
)
@click.option(
    "--smooth",
    is_flag=False,
    flag_value=0.0,
    default=None,
    type=float,
    metavar="[METRES]",
    help="Round corners; alone, as far as --simplify or two pixels.",
)
@click.option(
    "--regularize",
    is_flag=False,
    flag_value=0.0,
    default=None,
    type=float,
    metavar="[IOU]",
    help="Square footprints of objects, or of one class, that then share so much with "
    "their pixels; alone 0.85.",
)
@click.option(
    "--min-area",
    type=float,
    metavar="M2",
    help="Smaller regions join the neighbour with the longest shared border.",
)
@click.option(
    "--classes", callback=comma_list, metavar="a,b", help="Only these classes."
)
@click.option(
    "--connectivity",
    type=click.Choice(["4", "8"]),
    default="4",
    show_default=True,
    help="8 joins pixels that touch at a corner.",
)
@click.option(
    "--stats",
    metavar="RASTER",
    help="Add mean, min and max of its bands inside each region.",
)
@click.option(
    "--layer",
    metavar="NAME",
    help="Layer name; `instances` draws objects, one row each. Default: that for the "
    "task instance, else regions.",
)
@click.option("--block", type=int, metavar="PX", help="Side of a block.")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
@cluster_options
@output_options
def vectorize(
    *,
    masks: str,
    out: str,
    smooth: float | None,
    regularize: float | None,
    connectivity: str,
    workers: int | None,
    scheduler: str | None,
    cluster: str | None,
    quiet: bool,
    as_json: bool,
    **options: Any,  # noqa: ANN401 - those of geoseg.vectorize, as declared above
) -> None:
    """Turn MASKS (a store, or any class raster) into polygons without seams.

    Each region is one polygon, however many blocks it spans, with its class and its
    true area. Neighbours share their lines, so that simplifying tears no gaps. QGIS
    opens the .gpkg in class colours. Without --simplify lines follow the pixels; a
    pixel or two is a good start.
    """
    from geoseg.execution.clusters import open_client
    from geoseg.execution.progress import bar
    from geoseg.vector.vectorize import vectorize as run

    begun = perf_counter()
    with (
        open_client(workers=workers, scheduler=scheduler, cluster=cluster) as client,
        bar("vectorize", quiet=quiet or as_json) as show,
    ):
        path = run(
            masks,
            out,
            smooth=False if smooth is None else smooth or True,
            regularize=False if regularize is None else regularize or True,
            connectivity=8 if connectivity == "8" else 4,
            client=client,
            progress=show,
            **options,
        )
    seconds = perf_counter() - begun
    bytes_ = path.stat().st_size
    summary: dict[str, Any] = {
        "regions": str(path),
        "bytes": bytes_,
        "seconds": round(seconds, 3),
    }
    lines = [f"{path}: {size(bytes_)} in {seconds:.1f} s"]
    if regularize is not None:
        from geoseg.vector.footprints import summarize

        squared = summarize(path)
        summary |= {"footprints": asdict(squared)}
        lines.append(str(squared))
    report(summary, lines, quiet=quiet, as_json=as_json)
