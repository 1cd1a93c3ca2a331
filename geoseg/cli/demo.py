"""`geoseg demo`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from geoseg.cli.common import OutputOptions, print_summary
from geoseg.cli.options import command, takes
from geoseg.core.options import Cli, Options


class DemoOptions(Options):
    """What `geoseg demo` is asked."""

    out: Annotated[str, Cli(metavar="FOLDER", location=True)] = "demo"
    """Folder to write."""
    scene: Annotated[str | None, Cli(metavar="RASTER", location=True)] = None
    """A real scene instead."""
    bands: Annotated[Sequence[str] | None, Cli(metavar="red,green,…")] = None
    """Names of that scene's bands in order, as in segment."""


@command("geoseg demo", "geoseg demo --out /tmp/demo", "geoseg demo --scene scene.tif")
@takes(DemoOptions)
@takes(OutputOptions, "output")
def demo(*, options: DemoOptions, output: OutputOptions) -> None:
    """Run the whole workflow on a small scene: masks, polygons, picture, summary."""
    from geoseg.demo.run import run_demo

    summary = run_demo(quiet=output.silent, **dict(options))
    print_summary(summary.to_dict(), summary.lines(), output)
