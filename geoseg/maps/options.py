"""What `geoseg export`, `geoseg verify` and `geoseg classes` are asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated

from geoseg.core.options import Cli, Options, Section


class ExportOptions(Options):
    """What `geoseg export` is asked."""

    out: Annotated[
        str | os.PathLike[str],
        Cli(section=Section.WRITTEN, metavar="FILE.tif", location=True),
    ]
    """The file to write."""
    overwrite: Annotated[bool, Cli(section=Section.WRITTEN)] = False
    """Replace a file that is there."""
    partial: Annotated[bool, Cli(section=Section.WRITTEN)] = False
    """Take masks that are not complete as they are, with a warning."""


class VerifyOptions(Options):
    """What `geoseg verify` is asked."""

    repair: bool = False
    """Restore metadata from its second copy and remove damaged blocks, so that the same
    segment command computes them again."""


class ClassesOptions(Options):
    """What `geoseg classes` is asked."""

    names: Annotated[
        Mapping[str, str] | None, Cli(name="--set", metavar="CLASS=NAME:#RRGGBB")
    ] = None
    """Name of a class, by value or name, colour, or both; repeatable."""
    merge: Annotated[Mapping[str, str] | None, Cli(metavar="CLASS,CLASS=NAME")] = None
    """Make one class of several, named so; repeatable."""
    legend: Annotated[
        str | os.PathLike[str] | None, Cli(metavar="FILE.toml", location=True)
    ] = None
    """Names and colours of a file, a line each: 1 = "water:#0072B2"."""
