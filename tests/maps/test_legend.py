"""The legend of another tool's class raster is what occurs in it, in its own width."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from tifs import write_tif

from geoseg.maps.cog import export
from geoseg.maps.open import open_classes


@pytest.mark.parametrize("nodata", [0, 77, None])
def test_eight_bits_hold_only_the_classes_that_occur(tmp_path, nodata):
    values = np.random.default_rng(2).choice([10, 95, 200], (60, 90)).astype(np.uint8)
    if nodata is not None:
        values[:9] = nodata
    path = tmp_path / "map.tif"
    write_tif(
        path,
        values,
        dtype="uint8",
        transform=Affine(10, 0, 0, 0, -10, 0),
        nodata=nodata,
    )
    assert [c.value for c in open_classes(path).classes] == [10, 95, 200]
    with rasterio.open(export(path, tmp_path / "cog.tif")) as written:
        assert written.dtypes == ("uint8",)
        assert written.nodata == nodata
        assert np.array_equal(written.read(1), values)
