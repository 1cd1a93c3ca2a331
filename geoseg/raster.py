"""Sources: where pixels come from. The one door to all rooms that open rasters."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

from geoseg.errors import RasterError
from geoseg.sources.bands import choose, match_bands
from geoseg.sources.file import RasterFile, open_file, with_every_band
from geoseg.sources.gdal import redact
from geoseg.sources.resample import at_resolution, resampled
from geoseg.sources.several import files_meant, open_several
from geoseg.sources.source import Source, SourceBand

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Source",
    "SourceBand",
    "at_resolution",
    "match_bands",
    "open_source",
    "redact",
    "resampled",
]


def open_source(
    source: Any,  # noqa: ANN401 - whatever pixels can come from
    *,
    bands: Sequence[str] | None = None,
    aoi: str | os.PathLike[str] | None = None,
    nodata: float | None = None,
) -> Source:
    """Return the source of pixels that `source` stands for.

    Args:
        source: A path or URL that GDAL can open (also `/vsis3/…`, `s3://…`, a VRT, a
            GTI tile index); a glob, a folder or a list of paths: a mosaic, or a stack
            of bands where single-band files are named like bands; a STAC item as dict,
            path or URL of its JSON; an xarray.DataArray or Dataset; or a Source.
        bands: 1-based numbers of the bands to use; or a name for each band; or the
            names of those to use. A number also means an alpha band, which otherwise
            is no band but tells which pixels are valid.
        aoi: Vector file with polygons, in any CRS. The grid is cropped to the pixels
            around them, and those whose centre lies outside are invalid.
        nodata: Pixel value that means nodata, whatever the raster itself says of it.

    A pixel is invalid if any of the source's bands is nodata, NaN, infinite or masked
    out there, or if its alpha is 0. Pixels are the stored numbers; scale and offset
    tags are not applied. A raster without CRS is allowed, with a UserWarning.

    Raises:
        RasterError: It cannot be opened, or is nothing that can be segmented.
    """
    opened = _opened(source, nodata)
    if bands is not None:
        opened = choose(_all_bands(opened, bands), bands)
    if aoi is not None:
        from geoseg.sources.aoi import clipped

        opened = clipped(opened, aoi)
    if opened.grid.crs is None:
        warnings.warn(
            f"{opened.name} has no coordinate reference system; what is made of it "
            "will have none either",
            UserWarning,
            stacklevel=2,
        )
    return opened


def _opened(source: Any, nodata: float | None) -> Source:  # noqa: ANN401 - as above
    if isinstance(source, Source):
        return source
    if isinstance(source, dict):
        from geoseg.sources.stac import open_item

        return open_item(source, nodata=nodata)
    if isinstance(source, str | os.PathLike):
        return _open_path(os.fspath(source), nodata)
    if type(source).__module__.partition(".")[0] == "xarray":
        from geoseg.sources.array import open_array

        return open_array(source, nodata=nodata)
    if isinstance(source, list | tuple) and source:
        paths = [os.fspath(path) for path in source]
        name = f"{len(paths)} rasters from {redact(paths[0])}"
        return open_several(paths, name=name, nodata=nodata)
    raise RasterError(
        f"a raster is a path, a URL, a list of paths, a STAC item, an xarray.DataArray "
        f"or a Source; got {type(source).__name__}"
    )


def _open_path(path: str, nodata: float | None) -> Source:
    if not path:
        raise RasterError("the path of the raster is empty")
    if path.split("?", maxsplit=1)[0].lower().endswith((".json", ".geojson")):
        from geoseg.sources.stac import open_item, read_item

        return open_item(read_item(path), nodata=nodata)
    files = files_meant(path)
    if files is None:
        return open_file(path, nodata=nodata)
    return open_several(files, name=redact(path), nodata=nodata)


def _all_bands(source: Source, wanted: Sequence[str]) -> Source:
    """Return the source with its alpha band among the others, if one asks for it."""
    if not isinstance(source, RasterFile) or source.alpha is None:
        return source
    asked = str(source.alpha) in (word.strip() for word in wanted)
    named = len(wanted) == len(source.bands) + 1
    return with_every_band(source) if asked or named else source
