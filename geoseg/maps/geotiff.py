"""Class rasters that are not geoseg's own: a GeoTIFF, or an array in memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from threading import get_ident
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.classes import Class, default_color, nodata_value
from geoseg.core.grid import Grid, Window
from geoseg.errors import RasterError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import xarray as xr
    from numpy.typing import NDArray

_NARROW = ("uint8", "uint16")
_MOST = 65_535
_CACHE_MB = 512  # of decoded tiles, so that what two blocks share is decoded once


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRaster:
    """One band of class values that GDAL can read. A recipe: it can be pickled."""

    path: str
    """A path or URL."""
    grid: Grid
    """Where its pixels are."""
    classes: tuple[Class, ...]
    """Classes that it may have; named and coloured as the file says."""
    nodata: int | None
    """What `read` has for nodata, or None: then every pixel has a class."""
    chunk: int
    """Side of its tiles."""
    arrays: tuple[str, ...] = ("classes",)
    """It has nothing else."""
    blank: int | None = None
    """The file's nodata, where it has wider or signed integers; None elsewhere."""
    dtype: str | None = None
    """What pixels of such files are read as."""

    def read(self, name: str, window: Window) -> NDArray[Any]:  # noqa: ARG002 - one
        """Return the class values in a window inside the grid."""
        from rasterio.errors import RasterioError
        from rasterio.windows import Window as RasterioWindow

        at = RasterioWindow(window.x, window.y, window.width, window.height)
        try:
            read = _dataset(self.path, get_ident()).read(1, window=at)
        except RasterioError as error:
            raise RasterError(
                f"{self.path}: rows {window.y} … {window.bottom} cannot be read, the "
                f"file may be damaged: {error}"
            ) from error
        return self.narrowed(np.asarray(read))

    def narrowed(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values in the dtype of classes, the file's nodata as ours."""
        if self.dtype is None:
            return values
        if self.blank is None:
            return values.astype(self.dtype)
        assert self.nodata is not None, "they are set together"
        return np.where(values == self.blank, self.nodata, values).astype(self.dtype)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassArray:
    """Class values in memory."""

    values: NDArray[Any]
    """(y, x), uint8 or uint16."""
    grid: Grid
    """Where its pixels are."""
    classes: tuple[Class, ...]
    """Its class table."""
    nodata: int | None
    """The value that is no class, if any."""
    chunk: int = 256
    """Any block will do."""
    arrays: tuple[str, ...] = ("classes",)

    def read(self, name: str, window: Window) -> NDArray[Any]:  # noqa: ARG002 - one
        """Return the class values in a window."""
        return self.values[window.slices]


@lru_cache(maxsize=64)
def _dataset(path: str, thread: int) -> Any:  # noqa: ANN401, ARG001 - one per thread
    """Open a raster once per thread; GDAL's handles are not for sharing."""
    import rasterio

    with rasterio.Env(GDAL_CACHEMAX=_CACHE_MB):
        return rasterio.open(path)


def open_class_raster(path: str) -> ClassRaster:
    """Open a class raster.

    Names and colours come from category names, attribute table and colour table where
    the file has them; else a class is called `class_<value>`.

    Raises:
        RasterError: It cannot be opened, has other pixels than integers, classes below
            0 or above 65534, or more bands.
    """
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.open(path) as dataset:
            return _described(dataset, path)
    except RasterioError as error:
        raise RasterError(f"{path} cannot be opened as a raster: {error}") from error


def _described(dataset: Any, path: str) -> ClassRaster:  # noqa: ANN401 - rasterio's
    dtype = dataset.dtypes[0]
    if dataset.count != 1:
        raise RasterError(
            f"{path} has {dataset.count} bands; a class raster has one: extract it "
            "with gdal_translate -b"
        )
    if np.dtype(dtype).kind not in "iu":
        raise RasterError(
            f"{path} has {dtype} pixels; class values are integers: convert it with "
            "gdal_translate -ot, or classify it first"
        )
    transform = dataset.transform
    if dataset.gcps[0] and transform.is_identity:
        raise RasterError(
            f"{path} is placed by ground control points only: warp it with gdalwarp"
        )
    nodata = dataset.nodata
    if nodata is not None and (nodata != nodata or nodata != int(nodata)):  # noqa: PLR0124
        nodata = None  # no pixel can have it
    height, width = dataset.block_shapes[0]
    nodata = None if nodata is None else int(nodata)
    classes = _class_table(dataset, nodata)
    narrow = dtype in _NARROW
    inner = nodata if narrow or nodata is None else nodata_value(classes)
    return ClassRaster(
        path=path,
        grid=Grid(
            crs=dataset.crs.to_wkt() if dataset.crs else None,
            transform=transform,
            height=dataset.height,
            width=dataset.width,
        ),
        classes=classes,
        nodata=inner,
        chunk=height if height == width else 256,
        blank=None if narrow else nodata,
        dtype=None if narrow else _narrow_dtype(classes),
    )


def _narrow_dtype(classes: Sequence[Class]) -> str:
    return "uint8" if nodata_value(classes) == 255 else "uint16"


def _class_table(dataset: Any, nodata: int | None) -> tuple[Class, ...]:  # noqa: ANN401
    """Return classes for values that can occur, named and coloured by the file.

    In 8 bits that is every value; wider integers are looked through once.
    """
    values = set(range(256)) if dataset.dtypes[0] == "uint8" else _values(dataset)
    values -= {nodata}
    for wrong in (min(values, default=0), max(values, default=0)):
        if not 0 <= wrong <= 65534:
            raise RasterError(
                f"{dataset.name} has class value {wrong}; class values are 0 … 65534: "
                f"make it nodata with gdal_edit.py -a_nodata {wrong}"
            )
    names, colors = _category_names(dataset), _colors(dataset)
    shared = Counter(names.values())
    made = []
    for index, value in enumerate(sorted(values)):
        name = names.get(value) or f"class_{value}"
        if shared[name] > 1:
            name = f"{name} ({value})"
        color = colors.get(value) or default_color(index)
        made.append(Class(value=value, name=name, color=color))
    return tuple(made)


def _values(dataset: Any) -> set[int]:  # noqa: ANN401 - rasterio's
    """Return the values that occur, looking once at everything, in strips."""
    from rasterio.windows import Window as RasterioWindow

    seen: set[int] = set()
    rows = dataset.block_shapes[0][0]
    rows = max(rows, (1 << 22) // dataset.width // rows * rows)
    for y in range(0, dataset.height, rows):
        bottom = min(y + rows, dataset.height)
        strip = dataset.read(1, window=RasterioWindow(0, y, dataset.width, bottom - y))
        seen |= set(_distinct(strip).tolist())
        if len(seen) > _MOST:
            raise RasterError(
                f"{dataset.name} has more than {_MOST:,} values: is it a class raster?"
            )
    return seen


def _distinct(values: NDArray[Any]) -> NDArray[Any]:
    """Return the values that occur; fast where they lie close together."""
    low, high = int(values.min()), int(values.max())
    if high - low >= 1 << 16:
        return np.unique(values)
    seen = np.zeros(high - low + 1, np.bool_)
    seen[values.astype(np.int64) - low] = True
    return np.flatnonzero(seen) + low


def _colors(dataset: Any) -> dict[int, str]:  # noqa: ANN401 - rasterio's
    try:
        table = dataset.colormap(1)
    except ValueError:  # there is none
        return {}
    return {v: f"#{r:02X}{g:02X}{b:02X}" for v, (r, g, b, _) in table.items()}


def _category_names(dataset: Any) -> dict[int, str]:  # noqa: ANN401 - rasterio's
    """Return names by value, from the attribute table or category names in the file."""
    root = _description(dataset)
    return dict(_attribute_names(root)) or dict(_listed_names(root))


def _description(dataset: Any) -> Any:  # noqa: ANN401 - rasterio's in, XML out
    """Return what GDAL knows of a raster, as the XML of a VRT.

    rasterio has no door to category names and attribute tables; a VRT's text does.
    """
    from xml.etree import ElementTree as ET

    from rasterio.io import MemoryFile
    from rasterio.shutil import copy

    with MemoryFile(ext=".vrt") as memory:
        copy(dataset, memory.name, driver="VRT")
        memory.seek(0)
        return ET.fromstring(memory.read())  # noqa: S314 - GDAL wrote it just now


def _listed_names(root: Any) -> Iterator[tuple[int, str]]:  # noqa: ANN401 - XML
    for value, each in enumerate(root.iterfind(".//CategoryNames/Category")):
        if each.text and each.text.strip():
            yield value, each.text.strip()


def _attribute_names(root: Any) -> Iterator[tuple[int, str]]:  # noqa: ANN401 - XML
    """Return names by value from a raster attribute table.

    The value is the column used for values (GDAL's usage 5, or 3 and 4: a range) or
    called VALUE, else the row number; the name that used for names (2), or the first
    text column with "name" or "class" in its own.
    """
    table = root.find(".//GDALRasterAttributeTable")
    if table is None:
        return
    titles, usages, kinds = (
        [(f.findtext(tag) or "").strip() for f in table.iterfind("FieldDefn")]
        for tag in ("Name", "Usage", "Type")
    )
    by_usage = {usage: i for i, usage in reversed(list(enumerate(usages)))}
    lower = [t.lower() for t in titles]
    value = by_usage.get("5", by_usage.get("3"))
    if value is None and "value" in lower:
        value = lower.index("value")
    named = [
        i
        for i, (title, kind) in enumerate(zip(lower, kinds, strict=True))
        if kind == "2" and ("name" in title or "class" in title)
    ]
    name = by_usage.get("2", named[0] if named else None)
    if name is None:
        return
    for number, row in enumerate(table.iterfind("Row")):
        cells = [(f.text or "").strip() for f in row.iterfind("F")]
        if cells[name]:
            yield (number if value is None else int(float(cells[value]))), cells[name]


def from_array(
    array: xr.DataArray, classes: Sequence[Class] | None = None
) -> ClassArray:
    """Take class values from an `xarray.DataArray` with rioxarray's georeference.

    Raises:
        RasterError: It is not two-dimensional uint8 or uint16.
    """
    import rioxarray  # noqa: F401 - the accessor

    values = np.asarray(array.squeeze(drop=True).values)
    if values.ndim != 2 or values.dtype not in (np.uint8, np.uint16):
        raise RasterError(
            f"class values must be a (y, x) array of uint8 or uint16, got "
            f"{array.dtype} with dims {array.dims}"
        )
    crs, nodata = array.rio.crs, array.rio.nodata
    if nodata is None:
        nodata = array.rio.encoded_nodata
    nodata = None if nodata is None or nodata != nodata else int(nodata)  # noqa: PLR0124
    present = [int(v) for v in np.unique(values) if v != nodata]
    return ClassArray(
        values=values,
        grid=Grid(
            crs=crs.to_wkt() if crs else None,
            transform=array.rio.transform(),
            height=values.shape[0],
            width=values.shape[1],
        ),
        classes=tuple(
            classes
            or (
                Class(value=v, name=f"class_{v}", color=default_color(i))
                for i, v in enumerate(present)
            )
        ),
        nodata=nodata,
    )
