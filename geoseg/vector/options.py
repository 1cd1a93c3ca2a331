"""What `geoseg vectorize` is asked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Literal

from geoseg.core.options import Cli, Options, Section
from geoseg.core.text import AreaUnit

SimplifyMethod = Literal["visvalingam", "douglas-peucker"]


class RegionsOptions(Options):
    """What decides how masks become polygons, wherever those lie."""

    simplify: Annotated[float | None, Cli(section=Section.LINES, metavar="METRES")] = (
        None
    )
    """Lines move by this at most."""
    method: Annotated[SimplifyMethod, Cli(section=Section.LINES)] = "visvalingam"
    """How lines are simplified."""
    smooth: Annotated[bool | float, Cli(section=Section.LINES, metavar="[METRES]")] = (
        False
    )
    """Round corners; alone, as far as --simplify or two pixels."""
    regularize: Annotated[bool | float, Cli(section=Section.LINES, metavar="[IOU]")] = (
        False
    )
    """Square footprints of objects, or of one class, that then share so much with their
    pixels; alone 0.85."""
    min_area: Annotated[float | None, Cli(section=Section.LINES, metavar="M2")] = None
    """Smaller regions join the neighbour with the longest shared border."""
    classes: Annotated[
        Sequence[str | int] | None, Cli(section=Section.LINES, metavar="a,b")
    ] = None
    """Only these classes."""
    connectivity: Annotated[Literal[4, 8], Cli(section=Section.LINES)] = 4
    """8 joins pixels that touch at a corner."""
    stats: Annotated[
        str | os.PathLike[str] | None,
        Cli(section=Section.LINES, metavar="RASTER", location=True),
    ] = None
    """Add mean, min and max of its bands inside each region."""
    area_unit: Annotated[AreaUnit | None, Cli(section=Section.WRITTEN)] = None
    """Add a column `area_ha` or `area_km2` beside `area_m2`."""
    layer: Annotated[str | None, Cli(section=Section.WRITTEN, metavar="NAME")] = None
    """Layer name; `instances` draws objects, one row each. Default: that for the task
    instance, else regions. A GeoPackage that is there keeps its other layers."""
    block: Annotated[int | None, Cli(section=Section.SPEED, metavar="PX")] = None
    """Side of a block."""


class VectorizeOptions(RegionsOptions):
    """What `geoseg vectorize` is asked."""

    out: Annotated[
        str | os.PathLike[str],
        Cli(section=Section.WRITTEN, metavar="FILE", location=True),
    ]
    """Ends in .gpkg, .parquet, .fgb, .geojson or .shp."""
    overwrite: Annotated[bool, Cli(section=Section.WRITTEN)] = False
    """Replace a file that is there; with --layer, that layer of a GeoPackage."""
    partial: Annotated[bool, Cli(section=Section.WRITTEN)] = False
    """Take masks that are not complete as they are, with a warning."""
