"""Options and output that commands share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def cluster_options(function: F) -> F:
    """Add `--workers`, `--scheduler` and `--cluster`."""
    for option in (
        click.option(
            "--cluster",
            type=click.Path(dir_okay=False),
            metavar="FILE.toml",
            help="Workers as a file says: GPUs, SLURM, Kubernetes, SSH, an address.",
        ),
        click.option(
            "--scheduler",
            metavar="ADDRESS",
            help="Use a running Dask scheduler, such as tcp://host:8786.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(1),
            metavar="N",
            help="Start N worker processes on this machine; default: this process.",
        ),
    ):
        function = option(function)
    return function


def output_options(function: F) -> F:
    """Add `--quiet` and `--json`."""
    for option in (
        click.option(
            "--json", "as_json", is_flag=True, help="Print the summary as JSON."
        ),
        click.option("--quiet", "-q", is_flag=True, help="No progress, no summary."),
    ):
        function = option(function)
    return function


def report(
    summary: Mapping[str, Any], lines: list[str], *, quiet: bool, as_json: bool
) -> None:
    """Print a summary, as one JSON object or as lines for people."""
    if as_json:
        click.echo(json.dumps(summary))
    elif not quiet:
        for line in lines:
            click.echo(line)


def comma_list(
    _: click.Context, __: click.Parameter, value: str | None
) -> list[str] | None:
    """Turn `red,green` into a list."""
    return None if value is None else [v.strip() for v in value.split(",") if v.strip()]


def number_list(
    _: click.Context, __: click.Parameter, value: str | None
) -> list[float] | None:
    """Turn `0.5,1,2` into numbers."""
    try:
        return None if value is None else [float(v) for v in value.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not numbers such as 0.5,1,2") from error


def one_or_more(
    _: click.Context, __: click.Parameter, values: tuple[str, ...]
) -> str | list[str]:
    """Turn an option that may be repeated into a text, or a list of them."""
    return values[0] if len(values) == 1 else list(values)


_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


def byte_count(
    _: click.Context, __: click.Parameter, value: str | None
) -> float | None:
    """Turn `8GB`, `500MB` or a number of bytes into bytes."""
    if value is None:
        return None
    match = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]?)i?b?\s*", value.lower())
    if match is None:
        raise click.BadParameter(f"{value!r} is not a size such as 8GB or 500MB")
    return float(match[1]) * _UNITS[match[2]]


def resolution(_: click.Context, __: click.Parameter, value: str) -> str | float:
    """Turn `model`, `native` or metres into what `segment` takes."""
    if value in {"model", "native"}:
        return value
    try:
        return float(value)
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is neither model, native nor a number of metres"
        ) from error
