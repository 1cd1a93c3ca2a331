"""Whether both sides of a cluster have the same packages."""

from __future__ import annotations

import importlib.metadata
import platform
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from geoseg.errors import ClusterError, first_line

if TYPE_CHECKING:
    from distributed import Client

MUST_AGREE = ("python", "geoseg", "dask", "distributed", "cloudpickle")
"""Packages whose versions must be the same on both sides: tasks travel between them."""
SHOULD_AGREE = ("numpy", "numba", "torch", "zarr", "rasterio")
"""Packages whose versions may change an answer by rounding: a warning says so."""


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
    answers = client.run(versions, workers=workers, on_error="return")
    for address, answer in answers.items():
        if isinstance(answer, ImportError):
            raise _lacking(f"worker {address}", answer)
        if not isinstance(answer, BaseException):
            _compare(f"worker {address}", answer)


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
