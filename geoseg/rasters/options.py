"""What `geoseg compose` is asked."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import Field

from geoseg.core.options import Cli, Section
from geoseg.core.raster_options import BandsOptions
from geoseg.core.series_options import SeriesOptions


class ComposeOptions(BandsOptions, SeriesOptions):
    """What `geoseg compose` is asked."""

    resolution: Annotated[
        float | None,
        Field(gt=0),
        Cli(section=Section.MODEL, metavar="METRES"),
    ] = None
    """Pixel size; default the finest band's."""
    quality: Annotated[bool, Cli(section=Section.WRITTEN)] = False
    """Add how often each pixel was seen, the share of clouds, and the first and last
    date."""
    out: Annotated[
        str | os.PathLike[str] | None,
        Cli(section=Section.WRITTEN, metavar="FILE.tif|FILE.zarr", location=True),
    ] = None
    """The image to write."""
    dtype: Annotated[
        Literal["float32", "int16"], Cli(section=Section.WRITTEN, name="--dtype")
    ] = "float32"
    """float32: nodata is NaN; int16: reflectance x 10 000, with a scale tag, nodata
    -32768."""
    overwrite: Annotated[bool, Cli(section=Section.WRITTEN)] = False
    """Replace what is there."""
