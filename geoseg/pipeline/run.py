"""Pipelines: segment → vectorize → export → report as one job that can be run again.

What is done is noted beside the products, by the settings and inputs that it was made
of; the same command again does what is left. One run at a time; a log as JSON lines.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.core.text import redact
from geoseg.errors import ChangedError, GeosegError, Terminated, is_full
from geoseg.maps.lock import held
from geoseg.maps.storage import Storage
from geoseg.pipeline.job import META, PipelineRun, ending_of
from geoseg.pipeline.options import IfChanged
from geoseg.pipeline.product_paths import newest
from geoseg.pipeline.stages import STAGES, run_stage

if TYPE_CHECKING:
    from distributed import Client

    from geoseg.execution.progress import Progress
    from geoseg.pipeline.settings import Pipeline


def run_pipeline(
    pipeline: Pipeline,
    *,
    overwrite: bool = False,
    if_changed: IfChanged = "refuse",
    retries: int = 0,
    webhook: str | None = None,
    client: Client | None = None,
    day: str | None = None,
    show: Callable[[str, Progress], None] = lambda *_: None,
) -> dict[str, Any]:
    """Run the stages that are not done yet.

    Args:
        pipeline: What to run.
        overwrite: Begin again.
        if_changed: See `RunOptions`.
        retries: How often to try again at once what a rerun can finish.
        webhook: See `RunOptions`.
        client: A cluster that is open already, whatever the pipeline says.
        day: What `{date}` stands for; default today.
        show: Called with the stage and its progress after every block.

    Returns:
        The product of each stage, by its name, and seconds where it had to be made.

    Raises:
        LockedError: It is being run already.
        GeosegError: A stage failed; what is done stays done.
    """
    here, following = newest(pipeline, day)
    check_policy(pipeline, if_changed)
    runs: list[PipelineRun] = []

    def attempt(place: Pipeline, policy: IfChanged) -> dict[str, Any]:
        with ExitStack() as stack:
            runs.append(PipelineRun(place, overwrite, show, stack, policy, client))
            return _run(runs[-1])

    try:
        try:
            return _retried(lambda: attempt(here, if_changed), retries)
        except ChangedError as error:
            if if_changed != "new":
                raise
            text = f"{error.what}. A new run begins in {following.out}"
            warnings.warn(text, stacklevel=2)
        return _retried(lambda: attempt(following, "refuse"), retries)
    finally:
        if webhook and runs:
            runs[-1].post(webhook)


def check_policy(pipeline: Pipeline, if_changed: IfChanged) -> None:
    """Raise where a new run would have no place of its own."""
    if if_changed == "new" and not pipeline.fields & {"date", "number"}:
        raise GeosegError(
            f"--if-changed new needs {{date}} or {{number}} in out, by which runs are "
            f"told apart, and it is {redact(pipeline.out)}: out = 'out/{{date}}'"
        )


def _retried(attempt: Callable[[], dict[str, Any]], retries: int) -> dict[str, Any]:
    """Try, and again where the same command could finish what failed."""
    for left in range(retries, -1, -1):
        try:
            return attempt()
        except GeosegError as error:
            if not left or error.exit_status != 3 or is_full(error):
                raise
            warnings.warn(f"{error}. Trying again", stacklevel=2)
    raise AssertionError("unreachable: the last try returns or raises")


def _run(run: PipelineRun) -> dict[str, Any]:
    pipeline = run.pipeline
    Path(pipeline.out).mkdir(parents=True, exist_ok=True)
    with held(Storage(pipeline.out), f"{META}/lock"):
        if run.overwrite:
            run.forget()
        run.begin()
        with _told(run), _remedied():
            made = {
                name: run_stage(run, name, settings)
                for name in STAGES
                if (settings := getattr(pipeline, name)) is not None
            }
        run.log("pipeline", "done", status=0)
    return made


@contextmanager
def _remedied() -> Iterator[None]:
    """Say of masks of another raster what a pipeline can do about them."""
    try:
        yield
    except ChangedError as error:
        raise ChangedError(
            error.what,
            "--if-changed overwrite makes it again, --if-changed new keeps it and "
            "begins another, with {date} or {number} in out",
        ) from error


@contextmanager
def _told(run: PipelineRun) -> Iterator[None]:
    """Write into the log how it ended, if not well."""
    try:
        yield
    except (Exception, KeyboardInterrupt, Terminated) as error:
        if isinstance(error, ChangedError) and run.if_changed == "new":
            run.withdraw(error.what)
            raise
        event, facts = ending_of(error)
        _try_to_log(run, event, **facts)
        raise


def _try_to_log(run: PipelineRun, event: str, **facts: Any) -> None:  # noqa: ANN401
    """Write a last line; where there is no room for it, the error itself says so."""
    with suppress(OSError):
        run.log("pipeline", event, **facts)
