"""`geoseg demo`."""

from __future__ import annotations

import click

from geoseg.cli.common import comma_list, output_options, report


@click.command(
    epilog="""
\b
Examples:
  geoseg demo
  geoseg demo --size 1024 --out /tmp/demo
  geoseg demo --scene scene.tif
"""
)
@click.option(
    "--out", default="demo", show_default=True, metavar="FOLDER", help="Where to."
)
@click.option(
    "--size",
    type=click.IntRange(64),
    default=4096,
    show_default=True,
    metavar="PX",
    help="Rows and columns of the generated scene.",
)
@click.option("--seed", type=int, default=None, help="Another seed, another landscape.")
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
    size: int,
    seed: int | None,
    scene: str | None,
    bands: list[str] | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Go the whole way on a generated landscape: masks, polygons, picture, summary."""
    from geoseg.demo.run import SEED, run_demo

    summary = run_demo(
        out,
        size=size,
        seed=SEED if seed is None else seed,
        scene=scene,
        bands=bands,
        quiet=quiet or as_json,
    )
    report(summary.to_dict(), summary.lines(), quiet=quiet, as_json=as_json)
