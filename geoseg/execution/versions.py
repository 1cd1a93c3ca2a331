"""Whether both sides of a cluster have the same packages."""

from __future__ import annotations

import importlib.metadata
import platform
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from geoseg.errors import ClusterError, first_line

if TYPE_CHECKING:
    from distributed import Client

MUST_AGREE = ("python", "geoseg", "dask", "distributed", "cloudpickle")
"""Packages whose versions must be the same on both sides: tasks travel between them."""
SHOULD_AGREE = ("numpy", "numba", "torch", "zarr", "rasterio")
"""Packages whose versions may change an answer by rounding: a warning says so."""
ANSWERS_WITHIN = 120.0
"""Seconds in which a worker answers that imports all of geoseg from a slow disk."""


class SilentWorkerError(ClusterError, TimeoutError):
    """A worker does not answer: a plan says so, a run asks again."""


def versions() -> dict[str, str | None]:
    """Return the versions here of what matters to a map."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in (*MUST_AGREE[1:], *SHOULD_AGREE):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def check_versions(client: Client) -> None:
    """Refuse a cluster whose packages are not ours; warn where rounding may differ.

    Raises:
        ClusterError: Python (up to its minor version), geoseg, Dask, or what pickles
            tasks are different on the scheduler or a worker.
    """
    try:
        there = client.run_on_scheduler(versions)
    except ImportError as error:
        raise _lacking("the scheduler", error) from error
    _compare("the scheduler", there)
    check_workers(client, None)


def check_workers(client: Client, addresses: Iterable[str] | None) -> None:
    """Compare some workers, or all, with this client; those that are gone are not.

    Raises:
        ClusterError: As `check_versions`.
    """
    workers = None if addresses is None else sorted(addresses)
    for address, answer in answers_of(client, versions, workers=workers).items():
        if isinstance(answer, ImportError):
            raise _lacking(f"worker {address}", answer)
        if not isinstance(answer, BaseException):
            _compare(f"worker {address}", answer)


def answers_of(
    client: Client,
    function: Callable[..., Any],
    *args: Any,  # noqa: ANN401
    workers: list[str] | None = None,
) -> dict[str, Any]:
    """Return by address what workers, or all, answer beside their tasks, or the error.

    Raises:
        SilentWorkerError: One does not answer, for as long as importing all may take.
    """
    try:
        answers: dict[str, Any] = client.run(
            function,
            *args,
            workers=workers,
            on_error="return",
            callback_timeout=ANSWERS_WITHIN,
        )
    except TimeoutError as error:
        # A process that hangs does not tell the scheduler that it is alive, either.
        heard = client.run_on_scheduler(_silent)
        quiet = [a for a in heard if workers is None or a in workers]
        raise SilentWorkerError(
            f"{', '.join(quiet) or 'a worker'} did not answer for "
            f"{ANSWERS_WITHIN:.0f} s: does it hang? End it, or restart the workers"
        ) from error
    return answers


def _silent(dask_scheduler: Any) -> list[str]:  # noqa: ANN401 - Dask's
    """Return the workers that have not been heard of, while one did not answer."""
    since = time.time() - ANSWERS_WITHIN / 2
    return sorted(
        address
        for address, worker in dask_scheduler.workers.items()
        if worker.last_seen < since
    )


def _compare(place: str, theirs: Mapping[str, Any]) -> None:
    here = versions()
    if wrong := _different(here, theirs, MUST_AGREE):
        raise ClusterError(
            f"{place} is not like this client: {wrong}; install the same everywhere"
        )
    if rounding := _different(here, theirs, SHOULD_AGREE):
        warnings.warn(
            f"{place} may round differently: {rounding}", UserWarning, stacklevel=3
        )


def _lacking(place: str, error: BaseException) -> ClusterError:
    return ClusterError(
        f"{place} lacks a package ({first_line(error)}): install geoseg "
        f"{versions()['geoseg']} there, and on every worker"
    )


def _different(
    here: Mapping[str, str | None],
    there: Mapping[str, str | None],
    names: tuple[str, ...],
) -> str:
    def short(name: str, version: str | None) -> str | None:
        if name == "python" and version is not None:
            return version.rpartition(".")[0]
        return version

    return ", ".join(
        f"{name} {there.get(name)} there, {here[name]} here"
        for name in names
        if short(name, here[name]) != short(name, there.get(name))
    )
