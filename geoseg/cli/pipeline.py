"""`geoseg run` and `geoseg status`."""

from __future__ import annotations

import json
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click

from geoseg.cli.answers import area_lines, areas, step
from geoseg.cli.common import OutputOptions, print_summary
from geoseg.cli.log import say
from geoseg.cli.options import command, takes
from geoseg.core.options import Cli, Options
from geoseg.core.text import counted, plain, redact
from geoseg.errors import GeosegError
from geoseg.execution.options import ClusterOptions
from geoseg.pipeline.options import RunOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from geoseg.execution.progress import Progress
    from geoseg.pipeline.scenes import SceneOutcome

_SHOWN = 10
"""Scenes that failed, and warnings, that are said one by one."""


@command(
    "geoseg run pipelines/water.toml",
    "geoseg run water.toml --set segment.raster=june.tif --set out=out/june",
    "geoseg run water.toml --scenes 'scenes/*.tif' --workers 4 --retries 1",
    "geoseg run landcover.toml --cluster cluster/slurm.toml",
)
@click.argument("pipeline", type=click.Path(dir_okay=False), metavar="PIPELINE.toml")
@takes(RunOptions)
@click.option(
    "--check",
    is_flag=True,
    help="Check file, raster, model, bands, memory and disk; run nothing.",
)
@takes(ClusterOptions, "place")
@takes(OutputOptions, "output")
@click.pass_context
def run(
    context: click.Context,
    *,
    pipeline: str,
    options: RunOptions,
    check: bool,
    place: ClusterOptions,
    output: OutputOptions,
) -> None:
    """Run PIPELINE.toml: segment, vectorize, export, report as one job.

    The same command again does what is left; one run at a time. OUT/log.jsonl tells
    what happened, and `geoseg status OUT` how it is. With --scenes each scene has a
    folder below OUT and a line in OUT/scenes.csv; one that fails stops no other.

    Exit status: 0 done; 2 the file or the input is wrong, or it is being run already; 3
    some blocks or scenes failed or workers were lost, run it again; 130 and 143
    interrupted, run it again.
    """
    if check:
        _check(pipeline, options, place, output)
        return
    from geoseg.execution.progress import steps
    from geoseg.pipeline.entry import policy, run_many
    from geoseg.pipeline.run import run_pipeline
    from geoseg.pipeline.settings import opened_pipeline

    with steps("scenes", quiet=output.silent) as show_scenes:
        many = run_many(pipeline, options, place, show_scenes)
    if many is not None:
        context.exit(_tell_scenes(*many, output))
    settings = opened_pipeline(pipeline, options.overrides or (), place)
    with ExitStack() as stack:
        show = _bars(stack, quiet=output.silent)
        made = run_pipeline(settings, show=show, **policy(options))
    lines = [
        f"{stage}: {facts['product']}"
        + (f" in {facts['seconds']:.1f} s" if facts["made"] else " was there already")
        for stage, facts in made.items()
    ]
    found = {}
    if not output.silent or output.as_json:
        masks = made["segment"]["product"]
        found = areas(masks)
        lines += [*area_lines(found), step("look", "view", redact(masks))]
    print_summary(
        {"name": settings.name, "stages": made, "areas": found}, lines, output
    )


def _tell_scenes(
    outcomes: list[SceneOutcome], folder: str, output: OutputOptions
) -> int:
    """Say what became of scenes, and return the exit status."""
    from geoseg.pipeline.scenes import TABLE, status_of

    errors = {o.scene: o.error for o in outcomes if o.state == "failed"}
    _tell_failed(errors, f"failed: see {Path(folder) / TABLE}")
    for text, count in _counted(note for o in outcomes for note in o.notes):
        more = f" (of {count} scenes)" if count > 1 else ""
        say("warning", f"{text}{more}")
    states = [o.state for o in outcomes]
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    told = ", ".join(f"{count:,} {state}" for state, count in counts.items())
    print_summary(
        {"counts": counts, "scenes": [plain(o) for o in outcomes]},
        [
            f"{counted(len(outcomes), 'scene')}: {told}",
            step("look", "status", redact(folder)),
        ],
        output,
    )
    return status_of(outcomes)


def _tell_failed(errors: Mapping[str, str], rest: str) -> None:
    """Say what is wrong with scenes, by their names, and of too many what `rest` is."""
    for scene, error in islice(errors.items(), _SHOWN):
        say("error", f"{scene}: {error}")
    if len(errors) > _SHOWN:
        say("error", f"{counted(len(errors) - _SHOWN, 'more scene')} {rest}")


def _counted(texts: Iterable[str]) -> list[tuple[str, int]]:
    """Return the texts that occur most, and how often."""
    from collections import Counter

    return Counter(texts).most_common(_SHOWN)


def _check(
    path: str, options: RunOptions, place: ClusterOptions, output: OutputOptions
) -> None:
    """Say whether a run can work, or raise why not."""
    from geoseg.cli.segment import plan_lines, plan_summary
    from geoseg.pipeline.check import check_pipeline, check_scenes
    from geoseg.pipeline.scenes import read_scenes
    from geoseg.pipeline.settings import opened_pipeline

    found = read_scenes(path, options.scenes, options.overrides or (), place)
    if found is not None:
        pipelines, _ = found
        wrong = check_scenes(pipelines)
        _tell_failed(wrong, "cannot run")
        count = counted(len(pipelines), "scene")
        if wrong:
            fine = len(pipelines) - len(wrong)
            raise GeosegError(f"{path}: {fine:,} of {count} can run")
        lines = [f"{path}: fine, {count}"]
        print_summary({"ok": True, "scenes": len(pipelines)}, lines, output)
        return
    plan, processes = check_pipeline(
        opened_pipeline(path, options.overrides or (), place)
    )
    summary = plan_summary(plan, processes)
    lines = [*plan_lines(plan, summary), f"{path}: fine"]
    print_summary({"ok": True, **summary}, lines, output)


class StatusOptions(Options):
    """How a status is said."""

    prometheus: Annotated[bool, Cli()] = False
    """Print it in the text format of Prometheus, for its textfile collector."""


@command("geoseg status out/water", "geoseg status out/water --json")
@click.argument("out")
@takes(StatusOptions)
@takes(OutputOptions, "output")
@click.pass_context
def status(
    context: click.Context, *, out: str, options: StatusOptions, output: OutputOptions
) -> None:
    """Show the state of the run in OUT: at work, done, failed or killed.

    OUT is the folder of a pipeline's products. Programs read OUT/status.json, or this
    with --json. Exit status: 0 where the run is done or at work; else what it ended
    with, and 3 where it was killed.
    """
    from geoseg.pipeline.status import (
        exit_status_of,
        lines_of,
        metrics_of,
        read_status,
    )

    found = read_status(out)
    if options.prometheus:
        click.echo("\n".join(metrics_of(out, found)))
    elif output.as_json:
        click.echo(json.dumps(found))
    else:
        print_summary(found, list(lines_of(out, found)), output)
    context.exit(exit_status_of(found))


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
