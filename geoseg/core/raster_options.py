"""How rasters are read: what every command that opens one is asked alike."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from geoseg.core.options import Cli, Options, Section

NodataRule = Literal["auto", "any", "all"]
Units = Literal["file", "reflectance"]


class BandsOptions(Options):
    """Which bands are read where, and what is nodata in them."""

    aoi: Annotated[
        str | os.PathLike[str] | None,
        Cli(section=Section.MODEL, metavar="FILE", location=True),
    ] = None
    """Polygons; outside is nodata."""
    bands: Annotated[
        Sequence[str] | None, Cli(section=Section.MODEL, metavar="red,green,…")
    ] = None
    """Names of the raster's bands in order, NAME=NUMBER for some, or the numbers of
    those to use, in the model's order."""
    nodata: Annotated[float | None, Cli(section=Section.MODEL)] = None
    """A pixel value that is nodata, whatever the raster says of it."""
    trust: Annotated[
        Sequence[str] | None,
        Cli(section=Section.MODEL, metavar="PATH|HOST", repeats=True, location=True),
    ] = None
    """What a VRT, tile index or STAC item may name beside its own folder and host."""


class RasterOptions(BandsOptions):
    """How a raster is read."""

    nodata_rule: Annotated[NodataRule, Cli(section=Section.MODEL)] = "auto"
    """A pixel is nodata where any band is, or where all are; auto: all for pictures of
    bytes with red, green and blue, any for all others."""
    units: Annotated[Units, Cli(section=Section.MODEL)] = "file"
    """Numbers as stored, or as reflectance where the raster says how."""

    @property
    def of_source(self) -> dict[str, Any]:
        """How a raster is read, as keywords of `open_source`."""
        values = {name: getattr(self, name) for name in RasterOptions.model_fields}
        return {**values, "trust": tuple(self.trust or ())}
