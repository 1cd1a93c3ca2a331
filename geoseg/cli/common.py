"""Options and output that commands share."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from geoseg.cli.log import say
from geoseg.core.options import Cli, Options
from geoseg.core.text import plain, redact, size
from geoseg.execution.options import ClusterOptions

if TYPE_CHECKING:
    from distributed import Client


class OutputOptions(Options):
    """What a command says when it is done."""

    quiet: Annotated[bool, Cli(short="-q")] = False
    """No progress, no summary."""
    as_json: Annotated[bool, Cli(name="--json")] = False
    """Print the summary as JSON."""

    @property
    def silent(self) -> bool:
        """Whether there is no progress, as nobody would read it."""
        return self.quiet or self.as_json


def client_of(place: ClusterOptions) -> AbstractContextManager[Client | None]:
    """Open a client to where the work shall be done; None for this process."""
    from geoseg.execution.clusters import open_client

    return open_client(**dict(place))


def print_summary(
    summary: Mapping[str, Any], lines: list[str], output: OutputOptions
) -> None:
    """Print a summary, as one JSON object or as lines for people."""
    if output.as_json:
        click.echo(json.dumps(plain(summary)))
    elif not output.quiet:
        for line in lines:
            click.echo(_below_here(redact(line)))


def _below_here(line: str) -> str:
    """Return a line with paths below the working directory as one would type them."""
    try:
        folder = Path.cwd()
    except FileNotFoundError:  # it was deleted
        return line
    here = os.path.join(folder, "")  # noqa: PTH118 - with a separator at its end
    return re.sub(rf"(?<![\w./\\-]){re.escape(here)}(?=[^\s/])", "", line)


def print_file(path: Path, output: OutputOptions, use: str) -> None:
    """Print that a file was written, how large it is, and what opens it."""
    bytes_ = path.stat().st_size
    line = f"{path}: {size(bytes_)}; {use}"
    print_summary({"file": str(path), "bytes": bytes_}, [line], output)


def tell(notes: Iterable[str]) -> None:
    """Say on stderr what was heard, guessed or left out, whatever else is quiet."""
    for note in notes:
        say("note", note)


def one_or_more(values: tuple[str, ...]) -> str | list[str]:
    """Return the one argument, or the list of several."""
    return values[0] if len(values) == 1 else list(values)
