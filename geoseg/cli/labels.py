"""Options about labels that commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def pairs(
    _: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> dict[str, str] | None:
    """Turn `--map a=b --map c=d` into a mapping."""
    found = dict(value.partition("=")[::2] for value in values)
    if any(not key or not text for key, text in found.items()):
        raise click.BadParameter(f"write it as {option.metavar}")
    return found or None


def numbers(
    context: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> dict[str, float] | None:
    """Turn `--expect forest=0.9` into numbers by name."""
    try:
        found = {k: float(v) for k, v in (pairs(context, option, values) or {}).items()}
    except ValueError as error:
        raise click.BadParameter(f"write it as {option.metavar}: {error}") from error
    return found or None


def label_options(function: F) -> F:
    """Add what says how a file of labels is read."""
    for option in (
        click.option("--strict", is_flag=True, help="Refuse rasters on another grid."),
        click.option(
            "--order",
            type=click.Choice(["last", "first", "smallest"]),
            default="last",
            show_default=True,
            help="Which of overlapping polygons wins.",
        ),
        click.option("--background", help="Class of pixels that nothing covers."),
        click.option("--constant", help="Class of all features."),
        click.option(
            "--map",
            "mapping",
            multiple=True,
            callback=pairs,
            metavar="NAME=CLASS",
            help="Another name for a label's class, or `ignore`; repeatable.",
        ),
        click.option("--layer", help="Layer of a file with several."),
        click.option("--column", help="Column with class names or values."),
    ):
        function = option(function)
    return function
