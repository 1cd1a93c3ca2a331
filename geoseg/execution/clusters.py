"""Where workers come from, as a context. Knows nothing of segmentation.

    this process · processes of this machine · one per GPU · SLURM, PBS, LSF, SGE ·
    Kubernetes · SSH · the address of a running scheduler

What listens, listens on localhost unless the cluster spans machines.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.core.extras import require
from geoseg.errors import ClusterError, GeosegError, MissingExtraError, first_line
from geoseg.execution.resources import PROCESSES, THREADS, cores, feeding_threads
from geoseg.execution.versions import check_versions

if TYPE_CHECKING:
    from distributed import Client

    from geoseg.execution.cluster_settings import (
        Address,
        ClusterSpec,
        Gpus,
        Jobs,
        Kubernetes,
        Local,
        Ssh,
    )

RECONNECT = "300s"
"""How long a lost scheduler is waited for."""


@contextmanager
def open_client(
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    cluster: str | os.PathLike[str] | None = None,
    wait: float | str | None = None,
) -> Iterator[Client | None]:
    """Open a client to where the work shall run.

    Args:
        workers: Processes of a cluster on this machine, which ends with the context.
        scheduler: Address of a running scheduler, such as `tcp://host:8786` or
            `tls://host:8786` (certificates as Dask's settings say).
        cluster: A settings file, see `cluster/` in the repository.
        wait: How long to wait for the workers of a cluster, such as `10min`.

    Yields:
        A client, or None where nothing is given: this process then does the work.

    Raises:
        GeosegError: More than one is given, or the settings are wrong.
        ClusterError: Workers cannot be had.
    """
    if workers is None and scheduler is None and cluster is None:
        yield None
        return
    from geoseg.execution.cluster_settings import chosen_cluster, waited_for

    spec = chosen_cluster(workers, scheduler, cluster)
    with cluster_client(spec if wait is None else waited_for(spec, wait)) as client:
        yield client


@contextmanager
def cluster_client(settings: ClusterSpec) -> Iterator[Client]:
    """Start, or connect to, the cluster that settings describe."""
    import dask
    import distributed  # noqa: F401 - or all of its settings went with those set here

    places: Mapping[str, Any] = {
        "local": _local,
        "gpus": _gpus,
        **dict.fromkeys(("slurm", "pbs", "lsf", "sge"), _jobs),
        "kubernetes": _kubernetes,
        "ssh": _ssh,
        "address": _address,
    }
    with dask.config.set(settings.dask), places[settings.kind](settings) as client:
        yield client


def check_cluster(settings: ClusterSpec) -> None:
    """Raise where a cluster can never be had here, as far as that is known at once.

    Raises:
        GeosegError: There is no GPU, no such host, or no command that submits jobs.
    """
    if settings.kind == "gpus":
        _gpus_of(settings)
    elif settings.kind == "ssh":
        _check_hosts(settings)
    elif settings.kind in {"slurm", "pbs", "lsf", "sge"}:
        from geoseg.execution.jobqueue import submit_command

        submit_command(settings)


def _client(where: Any, **options: Any) -> Client:  # noqa: ANN401 - Dask's
    """Connect without becoming the client of all of Dask in this process."""
    from distributed import Client

    return Client(where, set_as_default=False, **options)


@contextmanager
def _closing(opened: Any) -> Iterator[Any]:  # noqa: ANN401 - Dask's
    """Close a cluster or client at the end; one that is slow to go is no error.

    Its processes end with this one at the latest.
    """
    try:
        yield opened
    finally:
        with suppress(TimeoutError):
            opened.close()


# --- an address -----------------------------------------------------------------------


@contextmanager
def connected(
    address: str,
    security: Any = None,  # noqa: ANN401 - Dask's Security
) -> Iterator[Client]:
    """Connect to a running scheduler, and check that both sides are alike."""
    from geoseg.core.text import redact

    # Of a connection that is lost we tell ourselves, on one line.
    for name in ("client", "core", "comm", "utils", "batched"):
        logging.getLogger(f"distributed.{name}").setLevel(logging.CRITICAL)
    options = {} if security is None else {"security": security}
    host = address.rpartition("://")[2].rpartition(":")[0]
    host = host.rpartition("@")[2].strip("[]")
    if _is_unknown(host):
        raise GeosegError(
            f"no machine is called {host!r} here: is {redact(address)} the scheduler's "
            "address, tcp://host:port?"
        )
    try:
        # Once with little patience; then with much, for when the connection is lost.
        _client(address, timeout="20s", **options).close()
        client = _client(address, timeout=RECONNECT, **options)
    except (OSError, ValueError, TypeError, TimeoutError, RuntimeError) as error:
        reason = redact(first_line(error))
        raise ClusterError(
            f"no Dask scheduler answers at {redact(address)}: is it running, is the "
            "address tcp://host:port, and with tls:// are the certificates right? "
            f"({reason})"
        ) from error
    with client:
        check_versions(client)
        yield client


def _is_unknown(host: str) -> bool:
    """Whether a name has no address; not where nobody can be asked."""
    try:
        socket.getaddrinfo(host, None)
    except socket.gaierror as error:
        return error.errno == socket.EAI_NONAME
    except (OSError, UnicodeError):
        return False
    return False


@contextmanager
def _address(settings: Address) -> Iterator[Client]:
    with connected(settings.address, settings.security()) as client:
        yield client


# --- this machine ---------------------------------------------------------------------


@contextmanager
def local_cluster(
    workers: int,
    *,
    threads: int = 2,
    memory: str = "auto",
    dashboard: str | None = "127.0.0.1:8787",
) -> Iterator[Client]:
    """Start worker processes on this machine that share its cores; localhost only."""
    import dask
    from distributed import LocalCluster

    _check_temporary_folder()
    with _own_threads(), ExitStack() as stack:
        # Dask gives up a worker that does not come back within 15 s after its death,
        # and starts no other; on a busy machine, starting again takes longer.
        stack.enter_context(
            dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"})
        )
        try:
            with _own_threads(), warnings.catch_warnings():
                # The dashboard's port may be taken: another is used, which is fine.
                warnings.filterwarnings("ignore", message="Port .* is already in use")
                cluster = LocalCluster(
                    n_workers=workers,
                    threads_per_worker=threads,
                    memory_limit=memory,
                    host="127.0.0.1",
                    dashboard_address=dashboard,
                    env=_environment(workers),
                    preload=["geoseg.execution.clusters"],
                    # How blocks failed is one line of the run's, without tracebacks.
                    silence_logs=logging.CRITICAL,
                )
        except (OSError, RuntimeError, TimeoutError) as error:
            # As where one is killed before it has begun.
            raise ClusterError(
                f"worker processes did not start ({first_line(error)}); what is done "
                "stays done, and the same command resumes"
            ) from error
        stack.enter_context(_closing(cluster))
        yield stack.enter_context(_closing(_client(cluster)))


def _check_temporary_folder() -> None:
    """Raise where there is no room for what workers put aside.

    Raises:
        GeosegError: No such folder can be written.
    """
    try:
        tempfile.gettempdir()
    except OSError as error:
        raise GeosegError(
            "worker processes need a folder for temporary files, and none can be "
            "written here: name one, as in TMPDIR=/scratch/me"
        ) from error


@contextmanager
def _own_threads() -> Iterator[None]:
    """Let this process compute with as many threads as before.

    Dask tells its workers by variables of the process that starts them to compute with
    one, and leaves it so; but the client reads, and takes statistics of rasters, too.
    """
    before = {name: os.environ.get(name) for name in THREADS}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _environment(processes: int) -> dict[str, str]:
    """Return the environment of one of several processes that share this machine."""
    return dict.fromkeys(THREADS, str(max(1, cores() // processes)))


def dask_setup(worker: Any) -> None:  # noqa: ANN401, ARG001 - called by Dask
    """Leave Ctrl-C and SIGTERM to the client, whose workers end when it has finished.

    A terminal and a batch system tell all processes of a group at once.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def _local(settings: Local) -> Iterator[Client]:
    workers = settings.workers or max(1, cores() // 4)
    with local_cluster(
        workers,
        threads=settings.threads,
        memory=settings.memory,
        dashboard=settings.dashboard,
    ) as client:
        yield client


def gpu_names() -> list[str]:
    """Return the GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` has them."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [name for name in allowed.split(",") if name.strip() not in {"", "-1"}]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--list-gpus"],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(i) for i, line in enumerate(listed.splitlines()) if line.strip()]


def gpu_workers(
    gpus: list[str], *, threads: int, memory: str | float
) -> dict[str, dict[str, Any]]:
    """Return what `SpecCluster` starts: a process per GPU that sees no other."""
    from distributed import Nanny

    return {
        f"gpu-{gpu}": {
            "cls": Nanny,
            "options": {
                "nthreads": threads,
                "memory_limit": memory,
                "host": "127.0.0.1",
                "preload": ["geoseg.execution.clusters"],
                "env": {**_environment(len(gpus)), "CUDA_VISIBLE_DEVICES": gpu},
            },
        }
        for gpu in gpus
    }


def _gpus_of(settings: Gpus) -> list[str]:
    gpus = settings.gpus or gpu_names()
    if not gpus:
        raise GeosegError(
            "kind = 'gpus' starts a process per GPU, and there is none here: use "
            "kind = 'local', or name them, gpus = ['0', '1']"
        )
    return gpus


@contextmanager
def _gpus(settings: Gpus) -> Iterator[Client]:
    from distributed import Scheduler, SpecCluster

    gpus = _gpus_of(settings)
    threads = settings.threads
    if "threads" not in settings.model_fields_set:
        threads = feeding_threads(cores(), len(gpus))
    with _own_threads():
        cluster = SpecCluster(
            scheduler={
                "cls": Scheduler,
                "options": {
                    "host": "127.0.0.1",
                    "port": 0,
                    "dashboard_address": settings.dashboard,
                    "dashboard": settings.dashboard is not None,
                },
            },
            workers=gpu_workers(gpus, threads=threads, memory=settings.memory),
        )
    with _own_threads(), _closing(cluster), _closing(_client(cluster)) as client:
        yield client


# --- others' machines -----------------------------------------------------------------


@contextmanager
def _growing(
    cluster: Any,  # noqa: ANN401 - one of Dask's
    settings: Jobs | Kubernetes,
) -> Iterator[Client]:
    """Let a cluster grow with the work, up to `workers`, and shrink to `minimum`."""
    import dask

    processes = 1 if settings.kind == "kubernetes" else settings.processes
    grown = {
        "geoseg.workers": settings.workers,
        "geoseg.memory": settings.memory_bytes / processes,
        "geoseg.slots": settings.workers * settings.threads,
        # What a block takes is not known before the first is done; guess high, so that
        # workers come at once and not one after the other.
        "distributed.scheduler.default-task-durations": {
            **dask.config.get("distributed.scheduler.default-task-durations", {}),
            "geoseg-infer": "60s",
        },
    }
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(grown))
        stack.enter_context(cluster)
        cluster.adapt(
            minimum=settings.minimum,
            maximum=settings.workers,
            wait_count=settings.idle_checks,
            interval="2s",
        )
        client = stack.enter_context(_client(cluster))
        check_versions(client)  # workers that come later are compared as they come
        yield client


@contextmanager
def _jobs(settings: Jobs) -> Iterator[Client]:
    import dask

    from geoseg.execution.jobqueue import queue_cluster

    cluster, refusals = queue_cluster(settings)
    link = dask.config.get("distributed.dashboard.link")
    listens = (settings.dashboard or "").rpartition(":")[0]
    if listens not in {"", "0.0.0.0", "[::]"}:  # noqa: S104 - then Dask's link is right
        link = link.replace("{host}", listens)
    with (
        dask.config.set(
            {"geoseg.refusals": refusals, "distributed.dashboard.link": link}
        ),
        _growing(cluster, settings) as client,
    ):
        yield client


def kubernetes_spec(settings: Kubernetes) -> dict[str, Any]:
    """Return the `DaskCluster` resource that settings describe."""
    from dask_kubernetes.operator import make_cluster_spec

    limits: dict[str, Any] = {"cpu": str(settings.cpus), "memory": settings.memory}
    spec: dict[str, Any] = make_cluster_spec(
        name=settings.name,
        image=settings.image,
        n_workers=settings.minimum,
        resources={"requests": dict(limits), "limits": dict(limits)},
        env={**settings.env, **dict.fromkeys(THREADS, str(settings.cpus))},
        worker_command="dask-worker",
    )
    pods = [spec["spec"]["worker"]["spec"], spec["spec"]["scheduler"]["spec"]]
    container = pods[0]["containers"][0]
    container["args"] += ["--nthreads", str(settings.threads)]
    if settings.gpus:
        container["resources"]["limits"]["nvidia.com/gpu"] = settings.gpus
    if settings.node_selector:
        pods[0]["nodeSelector"] = dict(settings.node_selector)
    for pod in pods:
        pod["securityContext"] = {"runAsNonRoot": True, "runAsUser": 1000}
    return spec


@contextmanager
def _kubernetes(settings: Kubernetes) -> Iterator[Client]:
    operator = require(
        "dask_kubernetes.operator", what="kind = 'kubernetes'", extra="kubernetes"
    )
    try:
        cluster = operator.KubeCluster(
            namespace=settings.namespace,
            custom_cluster_spec=kubernetes_spec(settings),
            shutdown_on_close=True,
        )
    except Exception as error:
        raise ClusterError(
            f"a Kubernetes cluster cannot start: {first_line(error)}"
        ) from error
    with _growing(cluster, settings) as client:
        yield client


def _may_be_aliases(connect: Mapping[str, Any]) -> bool:
    """Whether SSH may know hosts that have no address here."""
    elsewhere = {"config", "tunnel", "proxy_command"} & {*connect}
    return bool(elsewhere) or Path("~/.ssh/config").expanduser().is_file()


def _check_hosts(settings: Ssh) -> None:
    unknown = [host for host in settings.hosts if _is_unknown(host)]
    if unknown and not _may_be_aliases(settings.connect):
        raise GeosegError(
            f"kind = 'ssh': no machine is called {', '.join(unknown)} here: see hosts "
            "in the cluster's file"
        )


@contextmanager
def _ssh(settings: Ssh) -> Iterator[Client]:
    from distributed import SSHCluster

    _check_hosts(settings)
    try:
        cluster = SSHCluster(
            [settings.scheduler or settings.hosts[0], *settings.hosts],
            connect_options=dict(settings.connect),
            worker_options={
                "nthreads": settings.threads,
                "dashboard_address": "127.0.0.1:0",
                "preload": ["geoseg.execution.resources"],
                "env": {PROCESSES: str(max(Counter(settings.hosts).values()))},
            },
            scheduler_options={"dashboard_address": settings.dashboard},
            remote_python=settings.python,
        )
    except ImportError as error:
        raise MissingExtraError("kind = 'ssh'", "asyncssh", "ssh") from error
    except Exception as error:
        raise ClusterError(f"SSH workers cannot start: {first_line(error)}") from error
    with cluster, _client(cluster) as client:
        check_versions(client)
        yield client
