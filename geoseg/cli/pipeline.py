"""`geoseg run`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from geoseg.cli.common import OutputOptions, report
from geoseg.cli.options import command, takes
from geoseg.execution.options import ClusterOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from geoseg.execution.progress import Progress


@command(
    "geoseg run pipelines/water.toml",
    "geoseg run water.toml --set segment.raster=june.tif --set out=out/june",
    "geoseg run landcover.toml --cluster cluster/slurm.toml",
)
@click.argument("pipeline", type=click.Path(dir_okay=False), metavar="PIPELINE.toml")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Instead of what the file says, such as vectorize.simplify=5; repeatable.",
)
@click.option("--check", is_flag=True, help="Check the file, and run nothing.")
@click.option("--overwrite", is_flag=True, help="Begin again.")
@takes(ClusterOptions, "place")
@takes(OutputOptions, "output")
def run(
    *,
    pipeline: str,
    overrides: tuple[str, ...],
    check: bool,
    overwrite: bool,
    place: ClusterOptions,
    output: OutputOptions,
) -> None:
    """Run PIPELINE.toml: segment, vectorize, export, report as one job.

    The same command again does what is left; one run at a time. OUT/log.jsonl tells
    what happened. Exit status: 0 done; 2 the file or the input is wrong, or it is being
    run already; 3 some blocks failed or workers were lost, run it again; 130 and 143
    interrupted, run it again.
    """
    from geoseg.pipeline.run import run_pipeline
    from geoseg.pipeline.settings import opened_pipeline

    settings = opened_pipeline(pipeline, overrides, place)
    if check:
        report({"ok": True}, [f"{pipeline}: fine"], output)
        return
    with ExitStack() as stack:
        show = _bars(stack, quiet=output.silent)
        made = run_pipeline(settings, overwrite=overwrite, show=show)
    lines = [
        f"{stage}: {facts['product']}"
        + (f" in {facts['seconds']:.1f} s" if facts["made"] else " was there already")
        for stage, facts in made.items()
    ]
    report({"name": settings.name, "stages": made}, lines, output)


def _bars(stack: ExitStack, *, quiet: bool) -> Callable[[str, Progress], None]:
    """Return what shows a bar per stage, the last one's gone when the next begins."""
    from geoseg.execution.progress import bar

    bars: dict[str, Callable[[Progress], None]] = {}

    def show(stage: str, now: Progress) -> None:
        if stage not in bars:
            stack.close()
            bars[stage] = stack.enter_context(bar(stage, quiet=quiet))
        bars[stage](now)

    return show
