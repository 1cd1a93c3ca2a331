"""Workers as jobs of SLURM, PBS, LSF or Grid Engine, through dask-jobqueue."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from geoseg.core.extras import require
from geoseg.errors import ClusterError, GeosegError, first_line
from geoseg.execution.cluster_settings import Jobs, Lsf, Pbs, Sge, Slurm
from geoseg.execution.resources import THREADS

_SUBMITS = {"slurm": "sbatch", "pbs": "qsub", "lsf": "bsub", "sge": "qsub"}


def queue_cluster(settings: Jobs) -> tuple[Any, list[str]]:
    """Return dask-jobqueue's cluster, and a list that grows by jobs that are refused.

    Raises:
        MissingExtraError: dask-jobqueue is not installed.
        GeosegError: There is no sbatch, qsub or bsub, or a directory cannot be made.
        ClusterError: Its scheduler does not start.
    """
    kind, name = settings.kind, settings.kind.upper()
    dask_jobqueue = require("dask_jobqueue", what=f"kind = {kind!r}", extra="slurm")
    submit_command(settings)
    _make_directories(settings)
    refusals: list[str] = []
    make = getattr(dask_jobqueue, f"{name}Cluster")
    try:
        job = _noting_job(make.job_cls, refusals)
        cluster = make(job_cls=job, **job_options(settings))
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ClusterError(
            f"{name} workers cannot start: {first_line(error)}"
        ) from error
    return cluster, refusals


def submit_command(settings: Jobs) -> str:
    """Return the command that submits jobs.

    Raises:
        GeosegError: It is not on PATH.
    """
    kind, name = settings.kind, settings.kind.upper()
    submits = _SUBMITS[kind]
    if shutil.which(submits) is None:
        raise GeosegError(
            f"kind = {kind!r} submits its workers with {submits}, which is not on "
            f"PATH: run it where {name}'s commands are, on a login node or in a job"
        )
    return submits


def job_options(settings: Jobs) -> dict[str, Any]:
    """Return the arguments of dask-jobqueue's cluster, by settings.

    Directories may have blanks: a directive of SLURM, and a shell, take quotes.
    """
    scratch = settings.local_directory
    # A short job works for half of its walltime at least.
    margin = min(settings.margin, settings.walltime_seconds // 2)
    lifetime = settings.walltime_seconds - margin
    per_process = max(1, settings.cores // settings.processes)
    common = {
        "cores": settings.threads * settings.processes,
        "processes": settings.processes,
        "memory": settings.memory,
        "interface": settings.interface,
        "local_directory": None if scratch is None else shlex.quote(scratch),
        "python": shlex.quote(settings.python or sys.executable),
        "job_name": settings.job_name,
        "job_script_prologue": [
            *(f"export {name}={per_process}" for name in THREADS),
            *settings.prologue,
        ],
        # Workers hand over their work before the walltime ends, not all at once.
        "worker_extra_args": [
            "--lifetime",
            f"{lifetime}s",
            "--lifetime-stagger",
            f"{min(margin, lifetime // 4)}s",
            "--dashboard-address",  # in the clear, so not for the network
            "127.0.0.1:0",
        ],
        "scheduler_options": {"dashboard_address": settings.dashboard},
        "shared_temp_directory": str(Path(settings.shared_directory).expanduser()),
        "security": True if settings.tls else None,
    }
    own = {"slurm": _of_slurm, "pbs": _of_pbs, "lsf": _of_lsf, "sge": _of_sge}
    return {**common, **own[settings.kind](settings)}  # type: ignore[operator]


def _of_slurm(settings: Slurm) -> dict[str, Any]:
    extra = [f"--gres=gpu:{settings.gpus}"] if settings.gpus else []
    if settings.log_directory is not None:
        logs = Path(settings.log_directory).absolute() / f"{settings.job_name}-%j"
        extra += [f'--output="{logs}.out"', f'--error="{logs}.err"']
    return {
        "queue": settings.partition,
        "account": settings.account,
        "job_cpu": settings.cores,
        "walltime": settings.walltime,
        "job_extra_directives": [*extra, *settings.directives],
    }


def _of_pbs(settings: Pbs) -> dict[str, Any]:
    megabytes = settings.memory_bytes >> 20
    asked = f"select=1:ncpus={settings.cores}:mem={megabytes}MB"
    gpus = f":ngpus={settings.gpus}" if settings.gpus else ""
    return {
        "queue": settings.queue,
        "account": settings.account,
        "resource_spec": settings.resources or f"{asked}{gpus}",
        "walltime": _hours(settings.walltime_seconds),
        "log_directory": settings.log_directory,
        "job_extra_directives": settings.directives,
    }


def _of_lsf(settings: Lsf) -> dict[str, Any]:
    gpus = [f'-gpu "num={settings.gpus}"'] if settings.gpus else []
    return {
        "queue": settings.queue,
        "project": settings.account,
        "ncpus": settings.cores,
        "mem": settings.memory_bytes,
        "walltime": _hours(settings.walltime_seconds)[:-3],  # LSF has no seconds
        "log_directory": settings.log_directory,
        "job_extra_directives": [*gpus, *settings.directives],
    }


def _of_sge(settings: Sge) -> dict[str, Any]:
    several = [f"-pe {settings.parallel_environment} {settings.cores}"]
    return {
        "queue": settings.queue,
        "project": settings.account,
        "resource_spec": settings.resources,
        "walltime": _hours(settings.walltime_seconds),
        "log_directory": settings.log_directory,
        "job_extra_directives": [*several, *settings.directives],
    }


def _hours(seconds: int) -> str:
    """Return a walltime as all batch systems read it.

    >>> _hours(129_600)
    '36:00:00'
    """
    minutes, rest = divmod(seconds, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest:02}"


def _noting_job(job: type, refusals: list[str]) -> type:
    """Return dask-jobqueue's job that notes why it could not be submitted.

    Dask itself would log a traceback, take the job as started, and wait for it.
    """
    from distributed.deploy.spec import ProcessInterface

    class NotingJob(job):  # type: ignore[misc]
        async def start(self) -> None:
            try:
                await super().start()
            except (OSError, RuntimeError, ValueError) as error:
                refusals.append(_words_of_queue(error))
                await ProcessInterface.start(self)

    return NotingJob


def _words_of_queue(error: Exception) -> str:
    """Return what sbatch, qsub or bsub printed, on one line."""
    lines = str(error).partition("stderr:")[2].split("\n")
    words = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in lines]
    return "; ".join(word.strip() for word in words if word.strip()) or first_line(
        error
    )


def _make_directories(settings: Jobs) -> None:
    for name, value in (
        ("shared_directory", settings.shared_directory),
        ("log_directory", settings.log_directory),
    ):
        if value is None:
            continue
        try:
            folder = Path(value).expanduser()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (OSError, RuntimeError) as error:
            raise GeosegError(
                f"{name} = {value!r} cannot be made ({first_line(error)}): name one "
                "that the compute nodes see, and that you may write"
            ) from error
