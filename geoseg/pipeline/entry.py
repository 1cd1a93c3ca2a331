"""`geoseg.run`: a pipeline file, once or for each of many scenes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from geoseg.core.discretion import discreet
from geoseg.core.options import checked
from geoseg.core.text import plain
from geoseg.execution.options import ClusterOptions
from geoseg.pipeline.options import IfChanged, RunOptions
from geoseg.pipeline.product_paths import today
from geoseg.pipeline.run import run_pipeline
from geoseg.pipeline.scenes import SceneOutcome, read_scenes, run_scenes
from geoseg.pipeline.settings import opened_pipeline

if TYPE_CHECKING:
    from geoseg.execution.progress import Progress


@discreet
def run(
    path: str | os.PathLike[str],
    *,
    overrides: Sequence[str] | None = None,
    scenes: Sequence[str] | None = None,
    overwrite: bool = False,
    if_changed: IfChanged = "refuse",
    retries: int = 0,
    webhook: str | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    cluster: str | os.PathLike[str] | None = None,
    wait: float | str = "10min",
    progress: Callable[[str, Progress], None] = lambda *_: None,
) -> dict[str, Any]:
    """Run a pipeline file; the same call again does what is left.

    Args:
        path: The TOML file.
        overrides: `key=value` that win over the file, such as `vectorize.simplify=5`.
        scenes: Run once for each of these rasters: files, globs, lists (`.txt`, a path
            a line) or tables (`.csv` with a column `raster`).
        overwrite: Begin again.
        if_changed: What becomes of masks whose raster has changed since: `refuse`
            stops; `new` makes others, in a folder that `{date}` or `{number}` in `out`
            tells from the last; `overwrite` makes them again. Where only model or
            settings have, `refuse` makes them again too.
        retries: How often to try again at once what a rerun can finish.
        webhook: Web address that is told how the run ended, as JSON, by POST.
        workers: Processes on this machine, whatever the file says.
        scheduler: Address of a running Dask scheduler, whatever the file says.
        cluster: File that says where workers come from, whatever the pipeline says.
        wait: How long to wait for the workers of a cluster, such as `90s`.
        progress: Called with a stage and its progress after every block; not of scenes.

    Returns:
        The product of each stage, by its name, and seconds where it had to be made. Of
        scenes: what became of each, by its name; one that failed has an `error`.

    Raises:
        GeosegError: The file is wrong or a stage failed; what is done stays done.
        LockedError: It is being run already.
    """
    options = checked(
        RunOptions,
        {
            "overrides": overrides,
            "scenes": scenes,
            "overwrite": overwrite,
            "if_changed": if_changed,
            "retries": retries,
            "webhook": webhook,
        },
    )
    place = ClusterOptions(
        workers=workers, scheduler=scheduler, cluster=cluster, wait=wait
    )
    many = run_many(path, options, place)
    if many is not None:
        return {outcome.scene: plain(outcome) for outcome in many[0]}
    pipeline = opened_pipeline(path, options.overrides or (), place)
    return run_pipeline(pipeline, show=progress, **policy(options))


def run_many(
    path: str | os.PathLike[str],
    options: RunOptions,
    place: ClusterOptions,
    show: Callable[[int, int], None] = lambda *_: None,
) -> tuple[list[SceneOutcome], str] | None:
    """Run a pipeline file for each of its scenes; None where there are none.

    Returns:
        What became of each, and the folder with the table of them.
    """
    found = read_scenes(path, options.scenes, options.overrides or (), place)
    if found is None:
        return None
    pipelines, folder = found
    day = today()
    folder = folder.replace("{date}", day)
    outcomes = run_scenes(pipelines, folder, day=day, show=show, **policy(options))
    return outcomes, folder


def policy(options: RunOptions) -> dict[str, Any]:
    """Return how often, what becomes of what is there, who is told, as keywords."""
    return options.model_dump(include={"overwrite", "if_changed", "retries", "webhook"})
