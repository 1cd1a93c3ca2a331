"""What `geoseg run` is asked beside its file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from geoseg.core.options import Cli, Options

IfChanged = Literal["refuse", "new", "overwrite"]


def _web_address(value: str | None) -> str | None:
    if value is not None and not value.startswith(("http://", "https://")):
        raise ValueError("it is not a web address such as https://host/path")
    return value


class RunOptions(Options):
    """How a pipeline file is run."""

    overrides: Annotated[
        Sequence[str] | None, Cli(name="--set", metavar="KEY=VALUE", repeats=True)
    ] = None
    """Instead of what the file says, such as vectorize.simplify=5; repeatable."""
    scenes: Annotated[
        Sequence[str] | None, Cli(metavar="RASTERS", repeats=True, location=True)
    ] = None
    """Run once for each of these rasters: files, a quoted glob, a list (.txt, a path a
    line) or a table (.csv with a column raster); repeatable."""
    overwrite: bool = False
    """Begin again."""
    if_changed: IfChanged = "refuse"
    """Where the raster has changed since the masks were made: stop, make new ones
    where {date} or {number} in `out` says, or overwrite them. Where only model or
    settings have, `refuse` overwrites too."""
    retries: Annotated[int, Field(ge=0), Cli(metavar="N")] = 0
    """Try up to N times more, at once, where a rerun can finish (status 3)."""
    webhook: Annotated[
        str | None, AfterValidator(_web_address), Cli(metavar="URL", location=True)
    ] = None
    """POST how the run ended, as in status.json, to this web address."""
