"""Open any class map: masks, the class rasters and Zarrs of other tools, xarray."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.errors import RegionsError

if TYPE_CHECKING:
    import xarray as xr

    from geoseg.maps.reader import ClassReader


def open_classes(
    masks: str | Path | ClassReader | xr.Dataset | xr.DataArray,
) -> ClassReader:
    """Return what reads the classes of anything that can be vectorized."""
    if hasattr(masks, "grid") and hasattr(masks, "read"):
        return masks  # type: ignore[return-value]
    if hasattr(masks, "encoding"):
        return _from_xarray(masks)
    path = str(masks)
    if Path(path).is_dir() or path.rstrip("/").endswith(".zarr"):
        from geoseg.maps.dataset import is_foreign_zarr, open_class_zarr
        from geoseg.maps.store import open_masks

        if is_foreign_zarr(path):
            return open_class_zarr(path)
        return open_masks(path)
    from geoseg.maps.geotiff import open_class_raster

    return open_class_raster(path)


def _from_xarray(data: Any) -> ClassReader:  # noqa: ANN401 - Dataset or DataArray
    """Read a store that a dataset came from, or an array that is in memory."""
    if hasattr(data, "data_vars"):
        if "classes" not in data:
            raise RegionsError(
                f"the dataset has no variable 'classes', only: {', '.join(data)}"
            )
        from geoseg.maps.dataset import class_reader

        return class_reader(data)
    from geoseg.maps.geotiff import from_array

    return from_array(data)
