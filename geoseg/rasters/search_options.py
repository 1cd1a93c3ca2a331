"""What `geoseg search` is asked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated

from geoseg.core.options import Cli, Section
from geoseg.core.series_options import FindOptions


class SearchOptions(FindOptions):
    """Which scenes are looked for, and where they are written down."""

    aoi: Annotated[
        str | os.PathLike[str] | None,
        Cli(section=Section.MODEL, metavar="FILE", location=True),
    ] = None
    """Polygons of the place."""
    trust: Annotated[
        Sequence[str] | None,
        Cli(section=Section.MODEL, metavar="PATH|HOST", repeats=True, location=True),
    ] = None
    """Where a static catalogue may lie beside its own folder and host."""
    out: Annotated[
        str | os.PathLike[str] | None,
        Cli(section=Section.WRITTEN, metavar="FILE.json", location=True),
    ] = None
    """File to write the items into, which other commands take as a raster."""
    overwrite: Annotated[bool, Cli(section=Section.WRITTEN)] = False
    """Replace a file that is there."""
