"""What `geoseg evaluate`, `geoseg sample` and `geoseg compare` are asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from geoseg.core.label_options import LabelOptions
from geoseg.core.options import Cli, Options, Section

Design = Literal["auto", "census", "stratified", "random", "counts"]
SampleDesign = Literal["stratified", "systematic", "simple"]
Allocation = Literal["proportional", "equal", "neyman"]


class EvaluateOptions(LabelOptions):
    """What `geoseg evaluate` is asked."""

    reference: Annotated[
        str | Path, Cli(section=Section.LABELS, metavar="FILE", location=True)
    ]
    """Points, polygons or a class raster; any CRS and grid."""
    map_classes: Annotated[
        Mapping[str, str] | None,
        Cli(section=Section.LABELS, name="--map-class", metavar="CLASS=CLASS"),
    ] = None
    """Count a class of the map as another, to merge them; repeatable."""
    within: Annotated[
        str | Path | tuple[float, float, float, float] | None,
        Cli(section=Section.LABELS, metavar="FILE", location=True),
    ] = None
    """Polygons to look inside."""
    design: Annotated[Design, Cli(section=Section.ESTIMATES)] = "auto"
    """How the reference was drawn."""
    confidence: Annotated[float, Field(gt=0, lt=1), Cli(section=Section.ESTIMATES)] = (
        0.95
    )
    """Level of the intervals."""
    finite_population: Annotated[bool, Cli(section=Section.ESTIMATES)] = False
    """Shrink standard errors by how much of a stratum was sampled."""
    boundary: Annotated[float | None, Cli(section=Section.ESTIMATES, metavar="PX")] = (
        None
    )
    """Score boundaries too."""
    objects: Annotated[bool, Cli(section=Section.ESTIMATES)] = False
    """Score instances too."""
    block: Annotated[int, Field(gt=0), Cli(section=Section.SPEED, metavar="PX")] = 2048
    """Side of a block. Never changes the figures."""
    partial: Annotated[bool, Cli(section=Section.WRITTEN)] = False
    """Take masks that are not complete as they are, with a warning."""


class SampleOptions(Options):
    """What `geoseg sample` is asked."""

    out: Annotated[
        str | os.PathLike[str],
        Cli(section=Section.WRITTEN, metavar="FILE.gpkg", location=True),
    ]
    """The points to write."""
    design: SampleDesign = "stratified"
    """At random in each class, on a square grid, or at random over the whole map."""
    n: int | None = None
    """How many points; default 500."""
    standard_error: Annotated[float | None, Field(gt=0), Cli(metavar="SE")] = None
    """Of overall accuracy: as many points as it takes, instead of --n."""
    expected: Annotated[
        Mapping[str, float] | None, Cli(name="--expect", metavar="CLASS=ACCURACY")
    ] = None
    """User's accuracy expected of a class, 0.8 unless said; for --standard-error and
    neyman; repeatable."""
    allocation: Allocation = "proportional"
    """How a stratified sample is shared."""
    minimum: int = 0
    """At least so many in each class."""
    seed: int = 0
    """Another seed, another sample."""
    block: Annotated[int, Field(gt=0), Cli(metavar="PX")] = 2048
    """Side of a block. Never changes the sample."""
    overwrite: Annotated[bool, Cli(section=Section.WRITTEN)] = False
    """Replace a file that is there."""
    partial: Annotated[bool, Cli(section=Section.WRITTEN)] = False
    """Take masks that are not complete as they are, with a warning."""


class CompareOptions(Options):
    """What `geoseg compare` is asked."""

    block: Annotated[int, Field(gt=0), Cli(metavar="PX")] = 2048
    """Side of a block. Never changes the figures."""
    partial: bool = False
    """Take masks that are not complete as they are, with a warning."""
