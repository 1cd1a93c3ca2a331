"""What a stage is made of: whatever lies behind the names that its options have."""

import zipfile

import geopandas
import numpy as np
import rasterio
import shapely

from geoseg.pipeline.fingerprints import inputs_of
from geoseg.viz.options import PageOptions


def _vrt(raster, path):
    with rasterio.open(raster) as source:
        wide, high = source.width, source.height
        geo = ", ".join(map(str, source.transform.to_gdal()))
        crs = source.crs.to_wkt()
    path.write_text(
        f'<VRTDataset rasterXSize="{wide}" rasterYSize="{high}"><SRS>{crs}</SRS>'
        f"<GeoTransform>{geo}</GeoTransform>"
        '<VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename '
        f'relativeToVRT="1">{raster.name}</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    return str(path)


def _raster(path, value):
    with rasterio.open(
        path, "w", driver="GTiff", width=9, height=9, count=1, dtype="uint8",
        crs="EPSG:32633", transform=rasterio.Affine(10, 0, 0, 0, -10, 90),
    ) as file:  # fmt: skip
        file.write(np.full((1, 9, 9), value, np.uint8))
    return path


def _labels(path, name):
    boxes = [shapely.box(0, 0, 9, 9)]
    frame = geopandas.GeoDataFrame({"class": [name]}, geometry=boxes, crs=32633)
    frame.to_file(path)
    return str(path)


def test_what_lies_behind_a_reference_counts(tmp_path):
    """A shapefile's classes are in another file, and a VRT's pixels too."""
    raster = _raster(tmp_path / "a.tif", 1)
    shape, vrt = _labels(tmp_path / "a.shp", "lake"), _vrt(raster, tmp_path / "a.vrt")
    zipped = f"/vsizip/{tmp_path}/a.zip/a.tif"
    names = [shape, vrt, str(raster), str(tmp_path / "*.shp"), zipped]

    def look():
        return [inputs_of(PageOptions(reference=name)) for name in names]

    def pack():
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.write(raster, "a.tif")

    pack()
    before = look()
    assert look() == before
    _labels(tmp_path / "a.shp", "wood")
    _raster(raster, 2)
    pack()
    same = [then == now for then, now in zip(before, look(), strict=True)]
    assert same == [False] * 5
