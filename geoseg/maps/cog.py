"""Masks → a cloud-optimised GeoTIFF with overviews, colour table and class names."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np

from geoseg.core.classes import nodata_value
from geoseg.core.discretion import discreet
from geoseg.core.files import (
    no_room,
    remove_left_beside,
    replace,
    replacing,
    target,
)
from geoseg.core.grid import squares
from geoseg.errors import MasksError
from geoseg.maps.complete import incomplete
from geoseg.maps.dataset import ClassDataset
from geoseg.maps.geotiff import ClassRaster
from geoseg.maps.open import open_classes
from geoseg.maps.reader import dtype_of, read_plain
from geoseg.maps.styles import raster_qml
from geoseg.rasters.cog import copy_as_cog
from geoseg.rasters.gdal import CACHE_BYTES, reporting_written

if TYPE_CHECKING:
    import xarray as xr

    from geoseg.maps.reader import ClassReader

_BEST_DEFLATE = 1032
"""Bytes that deflate puts into one at best (https://zlib.net/zlib_tech.html)."""
_GDAL_TYPES = {
    "uint8": "Byte", "int8": "Int8", "uint16": "UInt16", "int16": "Int16",
    "uint32": "UInt32", "int32": "Int32", "uint64": "UInt64", "int64": "Int64",
}  # fmt: skip
_SMALLEST = 1 << 15
"""Bytes of a map of a few pixels with its headers, tables and side files."""


@discreet
def export(
    masks: str | Path | ClassReader | xr.Dataset | xr.DataArray,
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    partial: bool = False,
) -> Path:
    """Write a map's classes as a cloud-optimised GeoTIFF.

    Class names lie in `<out>.aux.xml`, where GDAL looks for them, and in a style beside
    it, `.qml`, where QGIS does; colours, nodata and overviews (nearest, so classes stay
    classes) in the file itself. It is written beside and renamed when whole.

    Dtype and nodata are those of masks (8 bits and 255 up to 254 classes, else 16 and
    65535), or of another tool's map as it has them.

    Args:
        masks: Masks, their path or dataset; or another tool's class raster.
        out: The file to write.
        overwrite: Replace a file that is there.
        partial: Take masks that are not complete as they are, with a warning.

    Raises:
        MasksError: The file is there already, or cannot be written.
        IncompleteError: The masks are not complete.
        UnwrittenError: There is no room for it.
    """
    reader = open_classes(masks, partial=partial)
    file = target(out, (".tif", ".tiff"), overwrite=overwrite, error=MasksError)
    remove_left_beside(file)  # which may be what fills the disk
    _check_room(file, reader)
    with replacing(file) as part:
        folder = part.with_name(f"{part.name}-work")
        with reporting_written(file, MasksError):
            folder.mkdir()
            style = folder / "style.qml"
            style.write_text(raster_qml(reader.classes), encoding="utf-8")
            _write_whole(reader, folder, part)
            replace(style, file.with_suffix(".qml"))
            with suppress(
                FileNotFoundError
            ):  # no class has a name that GDAL would keep
                replace(f"{folder / part.name}.aux.xml", f"{file}.aux.xml")
    return file


def _check_room(file: Path, reader: ClassReader) -> None:
    """Raise where even the best compression would not fit.

    Libtiff writes lines of its own when a disk fills; where it is full, none is said.
    """
    least = max(_SMALLEST, reader.grid.pixels // _BEST_DEFLATE)
    free = shutil.disk_usage(file.parent).free
    if free < least:
        raise no_room(file, f"{free:,} bytes are free, at least {least:,} needed")


def _write_whole(reader: ClassReader, folder: Path, part: Path) -> None:
    """Write the file, and read it once more."""
    import rasterio

    tiles, described = folder / "tiles.tif", folder / "described.vrt"
    # GDAL's messages go to logging while there is an environment, closing too.
    with rasterio.Env(GDAL_NUM_THREADS="ALL_CPUS", GDAL_CACHEMAX=CACHE_BYTES):
        _write_tiles(reader, tiles)
    described.write_text(_vrt(reader, tiles), encoding="utf-8")
    whole = folder / part.name
    copy_as_cog(
        described,
        whole,
        compress="deflate",
        predictor="no",
        overview_resampling="nearest",
    )
    tiles.unlink()
    replace(whole, part)


def _write_tiles(masks: ClassReader, path: Path) -> None:
    """Copy the classes into an ordinary tiled GeoTIFF, chunk by chunk."""
    import rasterio

    grid, (dtype, nodata) = masks.grid, _stored(masks)
    blank = nodata_value(masks.classes)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=grid.height,
        width=grid.width,
        count=1,
        dtype=dtype,
        transform=grid.transform,
        tiled=True,
        blockxsize=512,
        blockysize=512,
        compress="zstd",
        zstd_level=1,
        bigtiff="if_safer",
        sparse_ok=True,
        num_threads="all_cpus",
    ) as file:
        for square in squares(grid, masks.chunk):
            plain = read_plain(masks, "classes", square)
            values = plain.astype(dtype)
            if nodata is not None:
                values[plain == blank] = nodata
            file.write(values, 1, window=square.spans)


def _stored(masks: ClassReader) -> tuple[np.dtype[Any], int | None]:
    """Return the dtype and nodata to write: a map of others keeps its own.

    It has none where the dtype cannot hold it; then no pixel has it.
    """
    if not isinstance(masks, ClassRaster | ClassDataset):
        return np.dtype(dtype_of(masks.classes)), nodata_value(masks.classes)
    name, nodata = masks.stored
    dtype = np.dtype(name).newbyteorder("=")
    limits = np.iinfo(dtype)
    inside = nodata is not None and limits.min <= nodata <= limits.max
    return dtype, nodata if inside else None


def _vrt(masks: ClassReader, tiles: Path) -> str:
    """Describe the tiles: georeference, nodata, colours, names. GDAL copies it all."""
    grid = masks.grid
    t = grid.transform
    geotransform = ", ".join(repr(float(v)) for v in (t.c, t.a, t.b, t.f, t.d, t.e))
    by_value = {c.value: c for c in masks.classes}
    values = range(max(by_value) + 1)
    names = "".join(
        f"<Category>{escape(by_value[v].name) if v in by_value else ''}</Category>"
        for v in values
    )
    entries = []
    for v in values:
        r, g, b = by_value[v].rgb if v in by_value else (0, 0, 0)
        alpha = 255 if v in by_value else 0
        entries.append(f'<Entry c1="{r}" c2="{g}" c3="{b}" c4="{alpha}"/>')
    srs = (
        f'<SRS dataAxisToSRSAxisMapping="{_axes(grid.crs)}">{escape(grid.crs)}</SRS>'
        if grid.crs
        else ""
    )
    dtype, nodata = _stored(masks)
    kind = _GDAL_TYPES[dtype.name]
    blank = "" if nodata is None else f"<NoDataValue>{nodata}</NoDataValue>"
    size = f'xSize="{grid.width}" ySize="{grid.height}"'
    lacks = incomplete(masks)
    told = f'<Metadata><MDI key="INCOMPLETE">{lacks}</MDI></Metadata>' if lacks else ""
    return f"""<VRTDataset rasterXSize="{grid.width}" rasterYSize="{grid.height}">
{srs}<GeoTransform>{geotransform}</GeoTransform>{told}
<VRTRasterBand dataType="{kind}" band="1"><Description>class</Description>
{blank}<ColorInterp>Palette</ColorInterp>
<CategoryNames>{names}</CategoryNames><ColorTable>{"".join(entries)}</ColorTable>
<SimpleSource><SourceFilename relativeToVRT="1">{tiles.name}</SourceFilename>
<SourceBand>1</SourceBand><SrcRect xOff="0" yOff="0" {size}/>
<DstRect xOff="0" yOff="0" {size}/></SimpleSource></VRTRasterBand></VRTDataset>"""


def _axes(wkt: str) -> str:
    """Return GDAL's axis mapping: rasters are x, y whatever the CRS's own order."""
    from pyproj import CRS

    first = CRS.from_user_input(wkt).axis_info[:1]
    return "2,1" if first and first[0].direction.lower() == "north" else "1,2"
