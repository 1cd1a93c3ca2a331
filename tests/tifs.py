"""Small rasters for tests, as GeoTIFFs."""

import numpy as np
import rasterio
from affine import Affine

UTM = Affine(10, 0, 500_000, 0, -10, 5_000_000)


def write_tif(
    path, values, *, names=None, scale=None, offset=0.0, dtype=None, driver="GTiff",
    crs="EPSG:32633", transform=UTM, **profile,
):  # fmt: skip
    """Write pixels (band, y, x), or (y, x) of one band; return the path."""
    values = np.asarray(values, dtype)
    values = values if values.ndim == 3 else values[None]
    count, height, width = values.shape
    with rasterio.open(
        path, "w", driver=driver, count=count, height=height, width=width,
        dtype=values.dtype, crs=crs, transform=transform, **profile,
    ) as file:  # fmt: skip
        file.write(values)
        if names:
            file.descriptions = names
        if scale is not None:
            file.scales, file.offsets = (scale,) * count, (offset,) * count
    return path
