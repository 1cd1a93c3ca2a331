"""Sources: where pixels come from. The one door to all rooms that open rasters."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.sources.bands import choose, match_bands
from geoseg.sources.file import open_file
from geoseg.sources.gdal import redact
from geoseg.sources.source import Source, SourceBand

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Source", "SourceBand", "match_bands", "open_source", "redact"]


def open_source(
    source: Any,  # noqa: ANN401 - whatever pixels can come from
    *,
    bands: Sequence[str] | None = None,
    aoi: str | Path | None = None,
    nodata: float | None = None,
) -> Source:
    """Return the source of pixels that `source` stands for."""
    opened = (
        source
        if isinstance(source, Source)
        else open_file(os.fspath(source), nodata=nodata)
    )
    if bands is not None:
        opened = choose(opened, bands)
    if opened.grid.crs is None:
        warnings.warn(
            f"{opened.name} has no coordinate reference system; what is made of it "
            "will have none either",
            UserWarning,
            stacklevel=2,
        )
    return opened
