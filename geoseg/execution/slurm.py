"""Workers as jobs of SLURM, through dask-jobqueue."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from geoseg.errors import ClusterError, GeosegError, MissingExtraError, first_line
from geoseg.execution.cluster_settings import Slurm
from geoseg.execution.resources import THREADS


def slurm_cluster(settings: Slurm) -> tuple[Any, list[str]]:
    """Return dask-jobqueue's cluster, and a list that grows by jobs that are refused.

    Raises:
        MissingExtraError: dask-jobqueue is not installed.
        GeosegError: There is no sbatch, or a directory cannot be made.
        ClusterError: Its scheduler does not start.
    """
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise MissingExtraError("kind = 'slurm'", "dask-jobqueue", "slurm") from error
    if shutil.which("sbatch") is None:
        raise GeosegError(
            "kind = 'slurm' submits its workers with sbatch, which is not on PATH: run "
            "it where SLURM's commands are, on a login node or in a job"
        )
    _make_directories(settings)
    refusals: list[str] = []
    try:
        cluster = SLURMCluster(job_cls=_noting_job(refusals), **slurm_options(settings))
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ClusterError(
            f"SLURM workers cannot be had: {first_line(error)}"
        ) from error
    return cluster, refusals


def slurm_options(settings: Slurm) -> dict[str, Any]:
    """Return the arguments of dask-jobqueue's cluster, by SLURM settings.

    Directories may have blanks: a directive of SLURM, and a shell, take quotes.
    """
    extra = [f"--gres=gpu:{settings.gpus}"] if settings.gpus else []
    if settings.log_directory is not None:
        logs = Path(settings.log_directory).absolute() / f"{settings.job_name}-%j"
        extra += [f'--output="{logs}.out"', f'--error="{logs}.err"']
    scratch = settings.local_directory
    # A short job works for half of its walltime at least.
    margin = min(settings.margin, settings.walltime_seconds // 2)
    lifetime = settings.walltime_seconds - margin
    per_process = max(1, settings.cores // settings.processes)
    return {
        "queue": settings.partition,
        "account": settings.account,
        "cores": settings.threads * settings.processes,
        "job_cpu": settings.cores,
        "processes": settings.processes,
        "memory": settings.memory,
        "walltime": settings.walltime,
        "interface": settings.interface,
        "local_directory": None if scratch is None else shlex.quote(scratch),
        "python": shlex.quote(settings.python or sys.executable),
        "job_name": settings.job_name,
        "job_extra_directives": [*extra, *settings.directives],
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
        ],
        "scheduler_options": {"dashboard_address": settings.dashboard},
        "shared_temp_directory": str(Path(settings.shared_directory).expanduser()),
        "security": True if settings.tls else None,
    }


def _noting_job(refusals: list[str]) -> type:
    """Return dask-jobqueue's job of SLURM that notes why it could not be submitted.

    Dask itself would log a traceback, take the job as started, and wait for it.
    """
    from dask_jobqueue.slurm import SLURMJob
    from distributed.deploy.spec import ProcessInterface

    class NotingJob(SLURMJob):  # type: ignore[misc]
        async def start(self) -> None:
            try:
                await super().start()
            except (OSError, RuntimeError, ValueError) as error:
                refusals.append(_words_of_sbatch(error))
                await ProcessInterface.start(self)

    return NotingJob


def _words_of_sbatch(error: Exception) -> str:
    """Return what sbatch printed, on one line."""
    lines = str(error).partition("stderr:")[2].split("\n")
    words = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in lines]
    return "; ".join(word.strip() for word in words if word.strip()) or first_line(
        error
    )


def _make_directories(settings: Slurm) -> None:
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
