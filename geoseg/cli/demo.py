"""`geoseg demo`."""

from __future__ import annotations

import click

from geoseg.cli.common_old import comma_list, output_options, report


@click.command(
    epilog="""
\b
Examples:
  geoseg demo
  geoseg demo --out /tmp/demo
  geoseg demo --scene scene.tif
"""
)
@click.option(
    "--out", default="demo", show_default=True, metavar="FOLDER", help="Where to."
)
@click.option("--scene", metavar="RASTER", help="A real scene instead.")
@click.option(
    "--bands",
    callback=comma_list,
    metavar="red,green,…",
    help="Names of that scene's bands in order, as in segment.",
)
@output_options
def demo(
    *,
    out: str,
    scene: str | None,
    bands: list[str] | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Go the whole way on a small scene: masks, polygons, picture, summary."""
    from geoseg.demo.run import run_demo

    summary = run_demo(out, scene=scene, bands=bands, quiet=quiet or as_json)
    report(summary.to_dict(), summary.lines(), quiet=quiet, as_json=as_json)
