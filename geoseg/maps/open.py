"""Open any class map: masks, the class rasters and Zarrs of other tools, xarray."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

from geoseg.core.files import absolute
from geoseg.errors import MasksError
from geoseg.maps.complete import check_complete
from geoseg.maps.reader import ClassReader
from geoseg.rasters.zarrs import only_gdal_reads

if TYPE_CHECKING:
    import xarray as xr

ClassMap: TypeAlias = "str | os.PathLike[str] | ClassReader | xr.Dataset | xr.DataArray"
"""A class map of any kind: what `open_classes` takes."""


def open_classes(
    masks: ClassMap, *, partial: bool | None = False, unseen: bool = False
) -> ClassReader:
    """Return what reads the classes of any class map.

    Args:
        masks: A masks store, a class raster that GDAL opens or a Zarr of another tool,
            by path or URL; an xarray object; or what has been opened already.
        partial: Take a store that is not complete, with a warning; None: whoever asks
            cannot be told to.
        unseen: Do not look through a class raster of 8 bits for the classes that occur:
            its table has all that can.

    Raises:
        MasksError: There is no class map.
        RasterError: It cannot be read, or is not a class map.
        IncompleteError: The run that makes it is not complete.
    """
    reader = _opened(masks, unseen=unseen)
    check_complete(reader, partial=partial)
    return reader


def _opened(masks: ClassMap, *, unseen: bool) -> ClassReader:
    if isinstance(masks, str | os.PathLike):
        return _from_path(absolute(os.fspath(masks)), unseen=unseen)
    if _is_xarray(masks):
        from geoseg.maps.dataset import class_reader

        return class_reader(masks)
    if isinstance(masks, ClassReader):
        return masks
    raise MasksError(
        f"{type(masks).__name__} is not a class map: give a path, a URL, an xarray "
        "Dataset or DataArray, or what open_masks returns"
    )


def _from_path(path: str, *, unseen: bool) -> ClassReader:
    if Path(path).is_dir() or path.rstrip("/").endswith(".zarr"):
        from geoseg.maps.dataset import is_foreign_zarr, open_class_zarr
        from geoseg.maps.store import open_masks

        if not is_foreign_zarr(path):
            return open_masks(path)
        if not only_gdal_reads(path):
            return open_class_zarr(path)
    from geoseg.maps.geotiff import open_class_raster

    return open_class_raster(path, unseen=unseen)


def _is_xarray(data: object) -> TypeGuard[xr.Dataset | xr.DataArray]:
    """Whether this is of xarray, which is imported where it is."""
    if "xarray" not in sys.modules:
        return False
    import xarray as xr

    return isinstance(data, xr.Dataset | xr.DataArray)
