"""Class rasters that are not geoseg's own: one band of integers that GDAL opens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.classes import Class, nodata_value
from geoseg.core.grid import Grid, Window
from geoseg.core.text import redact
from geoseg.errors import RasterError
from geoseg.maps.reader import dtype_of
from geoseg.maps.values import table_of, values_that_occur
from geoseg.rasters.addresses import is_remote
from geoseg.rasters.gdal import Handles, environment, open_dataset, reporting
from geoseg.rasters.header import check_blocks
from geoseg.rasters.references import contents, opened_with

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

_NARROW = ("uint8", "uint16")
_HANDLES = Handles(limit=64)
_AT_ONCE = 1 << 22
"""Pixels that are looked at at once for the values that occur."""


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
    dtype: str | None = None
    """What pixels of wider or signed integers are read as; None of others."""
    overview: int | None = None
    """GDAL's number of an overview that is read instead of full resolution."""
    names: tuple[tuple[int, str], ...] = ()
    """Class values that the file names, with their names."""
    colors: tuple[tuple[int, str], ...] = ()
    """Values that it has colours for."""
    stored: tuple[str, int | None] = ("uint8", None)
    """The dtype of the file, and the nodata that it tells."""

    def table(self, values: Iterable[int]) -> tuple[Class, ...]:
        """Return the class table, given the values that occur."""
        names = dict(self.names)
        return table_of(
            sorted({*values, *names} - {self.nodata}), names, dict(self.colors)
        )

    def attributes(self) -> dict[str, Any]:
        """Return nothing: it is not geoseg's own."""
        return {}

    def read(self, name: str, window: Window) -> NDArray[Any]:  # noqa: ARG002 - one
        """Return the class values (y, x) in a window inside the grid.

        Raises:
            RasterError: The file cannot be read, or opened any more.
        """
        what = f"read rows {window.y} … {window.bottom} of"
        with reporting(what, redact(self.path), self.path), environment(self.path):
            values = np.asarray(
                _HANDLES.get(self.path, self.overview).read(1, window=window.spans)
            )
        return self._narrowed(values)

    def _narrowed(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values in the dtype of classes, the file's nodata as ours."""
        if self.dtype is None:
            return values
        _, blank = self.stored
        if blank is None:
            return values.astype(self.dtype)
        assert self.nodata is not None, "they are set together"
        return np.where(values == blank, self.nodata, values).astype(self.dtype)


def open_class_raster(path: str, *, unseen: bool = False) -> ClassRaster:
    """Open a class raster.

    Names and colours come from category names, attribute table and colour table where
    the file has them; else a class is called `class_<value>`.

    Args:
        path: A path or URL.
        unseen: Do not look through 8 bits for the classes that occur: the table has all
            that can. `ClassRaster.table` gives that of the values which did.

    Raises:
        RasterError: It cannot be opened, has other pixels than integers, classes below
            0 or above 65534, or more bands.
    """
    name = redact(path)
    inside = contents(path)  # what a VRT names is looked through before GDAL sees it
    with environment(path), reporting("open", name, path), open_dataset(path) as file:
        opened_with(file, path, inside)
        return _described(file, path, name, unseen=unseen or is_remote(file.name))


def _described(dataset: Any, path: str, name: str, *, unseen: bool) -> ClassRaster:  # noqa: ANN401 - rasterio's
    dtype = dataset.dtypes[0]
    if dataset.count != 1:
        raise RasterError(
            f"{name} has {dataset.count} bands, and a class raster has one: of an "
            "image geoseg segment makes it; of a band, gdal_translate -b 1 IN OUT.tif"
        )
    if np.dtype(dtype).kind not in "iu":
        raise RasterError(
            f"{name} has {dtype} pixels, and classes are whole numbers: where they "
            "are, gdal_translate -ot Byte -a_nodata 255 IN OUT.tif; if not, classify "
            "it first"
        )
    check_blocks(dataset, name)
    transform = dataset.transform
    if dataset.gcps[0] and transform.is_identity:
        raise RasterError(
            f"{name} is placed by ground control points only: warp it with gdalwarp"
        )
    grid = Grid(
        crs=dataset.crs.to_wkt() if dataset.crs else None,
        transform=transform,
        height=dataset.height,
        width=dataset.width,
    )
    nodata = dataset.nodata
    if nodata is not None and (nodata != nodata or nodata != int(nodata)):  # noqa: PLR0124
        nodata = None  # no pixel can have it
    height, width = dataset.block_shapes[0]
    nodata = None if nodata is None else int(nodata)
    values = _values(dataset, nodata, name, unseen=unseen)
    names, colors = _category_names(dataset), _colors(dataset)
    classes = table_of(sorted({*values, *names} - {nodata}), names, colors)
    narrow = dtype in _NARROW
    inner = nodata if narrow or nodata is None else nodata_value(classes)
    return ClassRaster(
        path=path,
        grid=grid,
        classes=classes,
        nodata=inner,
        chunk=height if height == width else 256,
        dtype=None if narrow else dtype_of(classes).__name__,
        names=tuple(names.items()),
        colors=tuple(colors.items()),
        stored=(dtype, nodata),
    )


def _values(dataset: Any, nodata: int | None, name: str, *, unseen: bool) -> list[int]:  # noqa: ANN401 - rasterio's
    """Return the values that occur; where 8 bits stay unseen, all that can."""
    remedy = "make it nodata with gdal_edit.py -a_nodata {value}"
    unseen = unseen and dataset.dtypes[0] == "uint8"
    pieces = [np.arange(256, dtype=np.uint8)] if unseen else _rows(dataset)
    return values_that_occur(pieces, nodata=nodata, name=name, remedy=remedy)


def _rows(dataset: Any) -> Iterator[NDArray[Any]]:  # noqa: ANN401 - rasterio's
    """Yield all of a band, some rows of tiles at a time; of a wide one their parts."""
    rows, columns = dataset.block_shapes[0]
    rows = max(rows, _AT_ONCE // dataset.width // rows * rows)
    columns = max(columns, _AT_ONCE // rows // columns * columns)
    for y in range(0, dataset.height, rows):
        bottom = min(y + rows, dataset.height)
        for x in range(0, dataset.width, columns):
            right = min(x + columns, dataset.width)
            yield dataset.read(1, window=((y, bottom), (x, right)))


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

    rasterio offers no category names and attribute tables; a VRT's text does.
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
    text column with "name" or "class" in its own, or the only one of texts.
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
    texts = [i for i, kind in enumerate(kinds) if kind == "2"]
    named = [i for i in texts if "name" in lower[i] or "class" in lower[i]]
    named = named or texts * (len(texts) == 1)
    name = by_usage.get("2", named[0] if named else None)
    if name is None:
        return
    for number, row in enumerate(table.iterfind("Row")):
        cells = [(f.text or "").strip() for f in row.iterfind("F")]
        if cells[name]:
            yield (number if value is None else int(float(cells[value]))), cells[name]
