"""Where workers come from, as a context: this process, a local cluster, an address."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from geoseg.distribute import cores
from geoseg.errors import GeosegError

if TYPE_CHECKING:
    from distributed import Client


@contextmanager
def open_client(
    *, workers: int | None = None, scheduler: str | None = None
) -> Iterator[Client | None]:
    """Open a client to where the work shall run.

    Args:
        workers: Processes of a cluster on this machine, which ends with the context.
        scheduler: Address of a running scheduler, such as `tcp://host:8786`.

    Yields:
        A client, or None where neither is given: this process then does the work.
    """
    if workers and scheduler:
        raise GeosegError(
            "--workers starts a cluster here, --scheduler uses another: give one"
        )
    if scheduler:
        with _connected(scheduler) as client:
            yield client
    elif workers:
        with local_cluster(workers) as client:
            yield client
    else:
        yield None


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    from distributed import Client

    try:
        client = Client(address, timeout="20s")
    except (OSError, ValueError, TimeoutError) as error:
        raise GeosegError(
            f"no Dask scheduler answers at {address}: is it running, and is the "
            "address tcp://host:port?"
        ) from error
    with client:
        yield client


@contextmanager
def local_cluster(workers: int) -> Iterator[Client]:
    """Start worker processes on this machine that share its cores; localhost only."""
    if workers < 1:
        raise GeosegError(f"--workers {workers} must be at least 1")
    from distributed import Client, LocalCluster

    threads = str(max(1, cores() // workers))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    with warnings.catch_warnings():
        # The dashboard's port may be taken: another is used, which is fine.
        warnings.filterwarnings("ignore", message="Port .* is already in use")
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=2,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:8787",
            env=dict.fromkeys(names, threads),
        )
    with cluster, Client(cluster) as client:
        yield client
