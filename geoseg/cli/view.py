"""`geoseg view`."""

from __future__ import annotations

import click

from geoseg.cli.options import command, takes
from geoseg.core.text import redact
from geoseg.viz.options import ViewOptions


@command(
    "geoseg view masks.zarr",
    "geoseg view masks.zarr --raster scene.tif --regions regions.gpkg",
    "geoseg view 2026.zarr --beside 2025.zarr",
    "geoseg view somebody-elses-landcover.tif --port 8900 --no-browser",
)
@click.argument("masks")
@takes(ViewOptions)
@click.option(
    "--no-browser", is_flag=True, help="Print the map's address; open no browser."
)
def view(*, masks: str, options: ViewOptions, no_browser: bool) -> None:
    """Show MASKS as a map in the browser; Ctrl-C ends it.

    Only this machine can see the map. It opens at once at any size: overviews that the
    masks lack are made while you look, and kept for the next time. MASKS may also be
    another tool's class raster; with --partial, masks that are still being written.

    Names and colours of classes can be changed by clicking; they are written to MASKS.
    """
    from geoseg.viz.view import view as serve

    with serve(masks, **dict(options)) as server:
        click.echo(f"{server.url} shows {redact(masks)}; Ctrl-C ends it")
        if not no_browser:
            click.launch(server.url)
        server.wait()
