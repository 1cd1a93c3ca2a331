"""Sources: where pixels come from. The entry point to everything that opens rasters."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

from geoseg.core.text import redact
from geoseg.errors import RasterError
from geoseg.rasters.aoi import clipped
from geoseg.rasters.array import ArraySource, open_array
from geoseg.rasters.bands import choose, match_bands
from geoseg.rasters.file import RasterFile, open_file
from geoseg.rasters.mosaic import Joined
from geoseg.rasters.resample import at_resolution, resampled
from geoseg.rasters.several import files_meant, open_several
from geoseg.rasters.source import Derived, Source, SourceBand
from geoseg.rasters.stac import open_item, read_item

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
    "with_nodata",
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
    opened = _opened(source, nodata, bands)
    if bands is not None:
        opened = choose(opened, bands)
    if aoi is not None:
        opened = clipped(opened, aoi)
    if opened.grid.crs is None:
        warnings.warn(
            f"{opened.name} has no coordinate reference system; what is made of it "
            "will have none either",
            UserWarning,
            stacklevel=2,
        )
    return opened


def _opened(
    source: Any,  # noqa: ANN401 - as above
    nodata: float | None,
    wanted: Sequence[str] | None,
) -> Source:
    if isinstance(source, Source):
        return source
    if isinstance(source, dict):
        return open_item(source, nodata=nodata)
    if isinstance(source, str | os.PathLike):
        return _open_path(os.fspath(source), nodata, wanted)
    if type(source).__module__.partition(".")[0] == "xarray":
        return open_array(source, nodata=nodata)
    if isinstance(source, list | tuple) and source:
        paths = [os.fspath(path) for path in source]
        name = f"{len(paths)} rasters from {redact(paths[0])}"
        return open_several(paths, name=name, nodata=nodata, wanted=wanted)
    raise RasterError(
        f"a raster is a path, a URL, a list of paths, a STAC item, an xarray.DataArray "
        f"or a Source; got {type(source).__name__}"
    )


def _open_path(path: str, nodata: float | None, wanted: Sequence[str] | None) -> Source:
    if not path:
        raise RasterError("the path of the raster is empty")
    if path.split("?", maxsplit=1)[0].lower().endswith((".json", ".geojson")):
        return open_item(read_item(path), nodata=nodata)
    files = files_meant(path)
    if files is None:
        return open_file(path, nodata=nodata, wanted=wanted)
    return open_several(files, name=redact(path), nodata=nodata, wanted=wanted)


def with_nodata(source: Source, value: float | None) -> Source:
    """Return the source with `value` as nodata where it does not tell of any itself.

    What a model's card says of nodata is such a value. Rasters with a nodata tag, a
    mask or an alpha band, and sources that are not geoseg's own, stay as they are.
    """
    if value is None:
        return source
    if isinstance(source, RasterFile | ArraySource):
        return source.with_nodata(value)
    if isinstance(source, Derived | Joined):
        return source.on_parts(lambda part: with_nodata(part, value))
    return source
