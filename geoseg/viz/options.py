"""What `geoseg report` and `geoseg view` are asked."""

from __future__ import annotations

import os
from typing import Annotated, Any

from pydantic import Field

from geoseg.core.label_options import LabelOptions
from geoseg.core.options import Cli, Options, Section


class PageOptions(LabelOptions):
    """What decides what stands in a report, wherever that lies."""

    raster: Annotated[
        Any, Cli(section=Section.MODEL, metavar="RASTER", location=True)
    ] = None
    """The image that close-ups show; default what the masks were made of."""
    reference: Annotated[
        str | os.PathLike[str] | None,
        Cli(section=Section.LABELS, metavar="FILE", location=True),
    ] = None
    """Points, polygons or a raster that tell what is true: adds accuracy, areas with
    intervals and the most wrong places."""
    evaluation: Annotated[
        Any, Cli(section=Section.LABELS, metavar="FILE.json", location=True)
    ] = None
    """What `geoseg evaluate --json` found, instead of --reference."""
    title: Annotated[str | None, Cli(section=Section.WRITTEN)] = None
    """Heading; default the masks' name."""


class ReportOptions(PageOptions):
    """What `geoseg report` is asked."""

    out: Annotated[
        str | os.PathLike[str] | None,
        Cli(section=Section.WRITTEN, metavar="FILE.html", location=True),
    ] = None
    """The page to write; default MASKS with .html."""
    overwrite: Annotated[bool, Cli(section=Section.WRITTEN)] = False
    """Replace a page that is there."""
    partial: Annotated[bool, Cli(section=Section.WRITTEN)] = False
    """Take masks that are not complete as they are, with a warning."""


class ViewOptions(Options):
    """What `geoseg view` is asked."""

    raster: Annotated[Any, Cli(metavar="RASTER", location=True)] = None
    """The image under the map; default what the masks were made of."""
    regions: Annotated[
        str | os.PathLike[str] | None, Cli(metavar="FILE", location=True)
    ] = None
    """Polygons to draw: .gpkg, .fgb, .parquet, .geojson, .shp."""
    beside: Annotated[Any, Cli(metavar="MASKS", location=True)] = None
    """Another class map, to be shown side by side."""
    basemap: Annotated[str | None, Cli(metavar="URL", location=True)] = None
    """A background map: tiles (https://…/{z}/{x}/{y}.png) or a WMS with its layers=."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Default: any free one."""
    partial: bool = False
    """Take masks that are not complete as they are, with a warning."""
