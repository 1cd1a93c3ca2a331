"""What `--cluster FILE.toml` may say: one kind of cluster, and how large."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, field_validator, model_validator

from geoseg.core.text import bytes_of, redact, seconds_of
from geoseg.core.toml_settings import Settings, checked_as, read_toml
from geoseg.errors import GeosegError
from geoseg.execution.resources import feeding_threads

_ADDRESS = re.compile(r"(?:[a-z]+://)?(?:\[[^\s@\]]+\]|[^\s@:/]+):\d+")
_FORM = "tcp://host:port, such as tcp://localhost:8786"
_WALLTIME = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)")


class _Common(Settings):
    threads: int = Field(default=2, ge=1)
    """Blocks in work at once in a process; one computes, the others read and write. A
    process with a GPU has as many as feed it, its share of the cores and four, unless
    this is given."""
    dashboard: str | None = "127.0.0.1:8787"
    """Where the dashboard listens; null for none."""
    dask: Mapping[str, Any] = Field(default_factory=dict)
    """Any of Dask's own settings, such as "distributed.worker.memory.spill" = 0.7."""


class Local(_Common):
    """Processes on this machine."""

    kind: Literal["local"]
    workers: int | None = Field(default=None, ge=1)
    """Processes; default one per four cores."""
    memory: str = "auto"
    """Of a process; it is restarted at 95 % of that."""


class Gpus(_Common):
    """A process per GPU of this machine; each sees its own."""

    kind: Literal["gpus"]
    gpus: list[str] = Field(default_factory=list)
    """Which; default all."""
    memory: str = "auto"
    """Main memory of a process."""


class _Growing(_Common):
    workers: int = Field(ge=1)
    """How many there are at most."""
    minimum: int = Field(default=0, ge=0)
    """How many there are at least."""
    idle_checks: int = Field(default=30, ge=1)
    """Checks, one every two seconds, that find a worker idle before it ends."""
    memory: str
    """Of a job, or of a worker."""

    @field_validator("memory")
    @classmethod
    def _is_size(cls, value: str) -> str:
        bytes_of(value)
        return value

    @property
    def memory_bytes(self) -> int:
        """The memory in bytes."""
        return int(bytes_of(self.memory) or 0)

    @model_validator(mode="before")
    @classmethod
    def _feeds_gpus(cls, given: Any) -> Any:  # noqa: ANN401 - what a file holds
        if not isinstance(given, Mapping) or "threads" in given or "gpus" not in given:
            return given
        its = given.get("cores", given.get("cpus", 4))
        had = [its, given.get("processes", 1), given["gpus"]]
        if not all(type(n) is int and n > 0 for n in had):  # said when it is looked at
            return given
        return {**given, "threads": feeding_threads(had[0], had[1])}


class _Jobs(_Growing):
    """Jobs of a batch system, by dask-jobqueue."""

    account: str | None = None
    """What is billed: account or project."""
    cores: int = Field(default=4, ge=1)
    """Of a job."""
    processes: int = Field(default=1, ge=1)
    """Of a job; one per GPU."""
    memory: str = "16GB"
    """Of a job."""
    gpus: int = Field(default=0, ge=0)
    """Of a job."""
    walltime: str = "01:00:00"
    """Of a job: `[D-]HH:MM:SS` or `MM:SS`."""
    margin: int = Field(default=300, ge=10)
    """Seconds before the walltime's end at which workers begin to hand over; at most
    half of it."""
    interface: str | None = None
    """Network interface by which workers reach the scheduler."""
    tls: bool = True
    """Encrypt, with certificates made for this run."""
    shared_directory: str = "~/.cache/geoseg"
    """Where the certificates lie, readable by the jobs."""
    log_directory: str | None = None
    local_directory: str | None = None
    """Fast local disk of the nodes."""
    python: str | None = None
    """On the nodes; default this one."""
    job_name: str = "geoseg-worker"
    directives: list[str] = Field(default_factory=list)
    """More lines for the head of the job script, such as "--constraint=a100"."""
    prologue: list[str] = Field(default_factory=list)
    """Shell lines before the worker starts, such as "module load cuda"."""

    @field_validator("walltime")
    @classmethod
    def _is_walltime(cls, value: str) -> str:
        if not _WALLTIME.fullmatch(value):
            raise ValueError(f"{value!r} is not a walltime such as 12:00:00")
        return value

    @field_validator("shared_directory")
    @classmethod
    def _is_one_word(cls, value: str) -> str:
        if any(character.isspace() for character in value):
            raise ValueError(
                f"{value!r} has a space, which dask-jobqueue cannot pass to its jobs"
            )
        return value

    @property
    def walltime_seconds(self) -> int:
        """The walltime in seconds."""
        match = _WALLTIME.fullmatch(self.walltime)
        assert match is not None
        days, hours, minutes, seconds = (int(n or 0) for n in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


class Slurm(_Jobs):
    """Jobs of SLURM."""

    kind: Literal["slurm"]
    partition: str | None = None


class Pbs(_Jobs):
    """Jobs of PBS."""

    kind: Literal["pbs"]
    queue: str | None = None
    resources: str | None = None
    """For `-l`, instead of what cores, memory and gpus say."""


class Lsf(_Jobs):
    """Jobs of LSF."""

    kind: Literal["lsf"]
    queue: str | None = None


class Sge(_Jobs):
    """Jobs of Grid Engine, whose names for cores, memory and GPUs are each site's."""

    kind: Literal["sge"]
    queue: str | None = None
    parallel_environment: str = "smp"
    """What several cores of one machine are asked for by."""
    resources: str | None = None
    """For `-l`, such as "mem_free=16G,gpu=1"."""

    @model_validator(mode="after")
    def _says_what_gpus_are(self) -> Self:
        if self.gpus and self.resources is None:
            raise ValueError(
                "Grid Engine has a name of each site's for GPUs: say it in resources, "
                f"such as resources = 'gpu={self.gpus}'"
            )
        return self


Jobs = Slurm | Pbs | Lsf | Sge


class Kubernetes(_Growing):
    """A DaskCluster of the dask-kubernetes operator."""

    kind: Literal["kubernetes"]
    name: str = "geoseg"
    namespace: str = "default"
    image: str
    cpus: int = Field(default=4, ge=1)
    """Of a worker."""
    memory: str = "16Gi"
    """Of a worker."""
    gpus: int = Field(default=0, ge=0)
    """Of a worker."""
    node_selector: Mapping[str, str] = Field(default_factory=dict)
    env: Mapping[str, str] = Field(default_factory=dict)


class Ssh(_Common):
    """Machines that are reached by SSH."""

    kind: Literal["ssh"]
    hosts: list[str] = Field(min_length=1)
    """Those with a worker; a name twice is two workers."""
    scheduler: str | None = None
    """Where the scheduler runs; default the first host."""
    python: str | None = None
    """On the hosts."""
    connect: Mapping[str, Any] = Field(default_factory=dict)
    """For asyncssh.connect, such as username."""


class Address(_Common):
    """A scheduler that runs already."""

    kind: Literal["address"]
    address: str
    """tcp://host:port or tls://host:port"""
    tls_ca: str | None = None
    """Certificate of the authority, a PEM file."""
    tls_cert: str | None = None
    """Certificate of this client."""
    tls_key: str | None = None
    """Its private key."""

    @field_validator("address")
    @classmethod
    def _is_address(cls, value: str) -> str:
        if not _ADDRESS.fullmatch(value):
            raise ValueError(f"{redact(value)} is not an address: {_FORM}")
        return value

    def security(self) -> Any:  # noqa: ANN401 - Dask's Security or None
        """Return the certificates as Dask wants them; None without."""
        if self.tls_ca is None:
            return None
        from distributed import Security

        return Security(
            tls_ca_file=self.tls_ca,
            tls_client_cert=self.tls_cert,
            tls_client_key=self.tls_key,
            require_encryption=True,
        )


ClusterSpec = Annotated[
    Local | Gpus | Slurm | Pbs | Lsf | Sge | Kubernetes | Ssh | Address,
    Field(discriminator="kind"),
]
_ADAPTER: TypeAdapter[ClusterSpec] = TypeAdapter(ClusterSpec)


def read_cluster(path: str | os.PathLike[str]) -> ClusterSpec:
    """Read the settings of a cluster; GeosegError says on one line what is wrong."""
    return checked_as(_ADAPTER, read_toml(path), os.fspath(path), ClusterSpec)


def waited_for(spec: ClusterSpec, wait: float | str) -> ClusterSpec:
    """Return settings with how long workers are waited for, unless the file says so.

    Args:
        spec: Of a cluster.
        wait: Seconds, or a time such as `10min`.
    """
    dask = {"geoseg.wait": seconds_of(wait), **spec.dask}
    return spec.model_copy(update={"dask": dask})


def chosen_cluster(
    workers: int | None,
    scheduler: str | None,
    cluster: str | os.PathLike[str] | None,
) -> ClusterSpec:
    """Return the cluster that one of `--workers`, `--scheduler`, `--cluster` asks for.

    Raises:
        GeosegError: More than one is given, or it is wrong.
    """
    if sum(given is not None for given in (workers, scheduler, cluster)) != 1:
        raise GeosegError(
            "--workers starts a cluster here, --scheduler uses another and --cluster "
            "says which in a file: give one"
        )
    if cluster is not None:
        return read_cluster(cluster)
    if scheduler is not None:
        if not _ADDRESS.fullmatch(scheduler):
            raise GeosegError(
                f"--scheduler {redact(scheduler)} is not an address: {_FORM}; "
                "certificates of tls:// go into a --cluster file"
            )
        return Address(kind="address", address=scheduler)
    values = {"kind": "local", "workers": workers}
    return checked_as(_ADAPTER, values, "--workers", ClusterSpec)
