"""What `geoseg export` and `geoseg verify` are asked."""

from __future__ import annotations

import os
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
    """Restore what is told twice, and forget what is damaged, so that the same segment
    command makes it again."""
