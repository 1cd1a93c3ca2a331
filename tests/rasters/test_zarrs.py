"""Zarrs of other tools: GDAL's, groups and arrays in them, and what has none."""

import json
import os
import shutil
import time

import numcodecs
import numpy as np
import pytest
import rasterio.shutil
import rioxarray  # noqa: F401 - gives arrays their .rio
import xarray as xr
from affine import Affine
from rasterio.crs import CRS
from tifs import write_tif

from geoseg.cli import run
from geoseg.core.grid import Window
from geoseg.errors import GeosegError, RasterError
from geoseg.maps.open import open_classes
from geoseg.rasters.open import open_source

HERE = Affine(10, 0, 500_000, 0, -10, 5_200_000)
CLASSES = np.ones((12, 16), np.uint8)
CLASSES[:, 8:] = 2
IMAGE = np.arange(4 * 12 * 16, dtype=np.uint16).reshape(4, 12, 16)


def write(path, pixels):
    return write_tif(path, pixels, crs="EPSG:32632", transform=HERE)


def grouped(path, group=None, **variables):
    """Write variables (y, x) with coordinates and a CRS."""
    places = {"y": 5_199_995.0 - 10 * np.arange(12)}
    places["x"] = 500_005.0 + 10 * np.arange(16)
    arrays = {n: (("y", "x"), v) for n, v in variables.items()}
    data = xr.Dataset(arrays, places).rio.write_crs("EPSG:32632")
    data.to_zarr(path, group=group, zarr_format=2, consolidated=False)


@pytest.mark.parametrize("version", ["ZARR_V2", "ZARR_V3"])
def test_what_gdal_writes_is_read(tmp_path, version):
    for name, pixels in (("map", CLASSES[None]), ("image", IMAGE)):
        tif, path = write(tmp_path / f"{name}.tif", pixels), tmp_path / f"{name}.zarr"
        rasterio.shutil.copy(tif, path, driver="Zarr", FORMAT=version)
        source = open_source(path)
        np.testing.assert_array_equal(source.read(source.grid.window)[0], pixels)
        assert source.grid.transform == HERE
    reader = open_classes(tmp_path / "map.zarr")
    assert reader.grid.transform == HERE
    assert "32632" in reader.grid.crs
    found = reader.read("classes", reader.grid.window)
    np.testing.assert_array_equal(found, CLASSES)


def test_arrays_come_in_the_order_of_their_names(tmp_path):
    names = [f"B{i}" for i in (11, 2, 1)]
    grouped(tmp_path / "a.zarr", **dict(zip(names, IMAGE, strict=False)))
    source = open_source(tmp_path / "a.zarr")
    assert [band.name for band in source.bands] == ["B1", "B2", "B11"]
    one = Window(y=0, x=0, height=1, width=1)
    assert source.read(one)[0].ravel().tolist() == [IMAGE[i, 0, 0] for i in (2, 1, 0)]


def test_a_group_or_an_array_in_a_store_is_named_by_its_path(tmp_path, capsys):
    grouped(tmp_path / "deep.zarr", "2024/maps", cover=CLASSES, other=CLASSES * 3)
    for opened in (open_source, open_classes):
        with pytest.raises(RasterError, match=r"but in 2024/maps: .*zarr/2024/maps"):
            opened(tmp_path / "deep.zarr")
    inside = tmp_path / "deep.zarr" / "2024" / "maps"
    assert len(open_source(inside).bands) == 2
    for name, factor in (("cover", 1), ("other", 3)):
        reader = open_classes(inside / name)
        found = reader.read("classes", reader.grid.window)
        np.testing.assert_array_equal(found, CLASSES * factor)
    shutil.move(inside, tmp_path / "plain")  # a store by any other name
    assert len(open_source(tmp_path / "plain").bands) == 2
    assert run(["info", str(tmp_path / "plain" / "cover")]) == 0
    assert capsys.readouterr().out.startswith("class map, 16 x 12 px")


def test_a_class_map_that_is_given_as_an_image_is_called_one(tmp_path, capsys):
    tif = write(tmp_path / "s.tif", IMAGE)
    masks = str(tmp_path / "m.zarr")
    line = ["--model", "kmeans:2", "--out", masks, "-q"]
    assert run(["segment", str(tif), *line]) == 0
    assert run(["plan", masks, "--model", "kmeans:2"]) == 0
    said = "is a class map of geoseg: its classes are taken as pixels"
    assert said in capsys.readouterr().out


def test_classes_with_their_confidence_are_a_reference(tmp_path, capsys):
    write(tmp_path / "m.tif", CLASSES[None])
    grouped(tmp_path / "r.zarr", classes=CLASSES, confidence=CLASSES / np.float32(3))
    line = ["evaluate", str(tmp_path / "m.tif"), "--reference"]
    assert run([*line, str(tmp_path / "r.zarr")]) == 0
    assert "1.000" in capsys.readouterr().out


def told(path, **changed):
    """Change what the metadata of an array say of it."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


@pytest.mark.parametrize("chunk", [2**31, 4096, 1])
def test_coordinates_longer_than_any_raster_are_not_read(tmp_path, chunk):
    path = tmp_path / "a.zarr"
    grouped(path, red=CLASSES)
    told(path / "red/.zarray", shape=[2**31, 16])
    told(path / "y/.zarray", shape=[2**31], chunks=[chunk])
    begun = time.process_time()
    for look in (open_source, open_classes):
        with pytest.raises(GeosegError, match="y has 2,147,483,648 values"):
            look(path)
    assert time.process_time() - begun < 2


def test_links_out_of_a_zarr_are_not_followed(tmp_path):
    path, other = tmp_path / "a.zarr", tmp_path / "b.zarr"
    for folder in (path, other):
        grouped(folder, red=CLASSES)
    shutil.rmtree(path / "red")
    (path / "red").symlink_to(other / "red", target_is_directory=True)
    for look in (open_source, open_classes):
        with pytest.raises(GeosegError, match="leads out of it"):
            look(path)
    (path / "red").unlink()
    shutil.copytree(other / "red", path / "kept")
    (path / "red").symlink_to("kept", target_is_directory=True)
    (tmp_path / "link.zarr").symlink_to(path)
    assert open_source(tmp_path / "link.zarr").grid.height == 12


def test_coordinates_and_pixels_that_cannot_be_read_are_told_on_one_line(tmp_path):
    path = tmp_path / "a.zarr"
    grouped(path, red=CLASSES)
    for name in ("red/0.0", "y/0"):
        (path / name).write_bytes(b"no")
        with pytest.raises(GeosegError, match="cannot"):
            open_classes(path)


BOMB = np.zeros(100 << 20, np.uint8)
PACKED = {
    "blosc": numcodecs.Blosc("zstd").encode(BOMB),
    "zstd": numcodecs.Zstd().encode(BOMB),
    "zstd of unknown length": b"\x28\xb5\x2f\xfd\x00\x38" + b"\x02\x00\x10\0" * 800,
    "lz4": numcodecs.LZ4().encode(BOMB),
    "gzip": numcodecs.GZip().encode(BOMB),
    "zlib": numcodecs.Zlib().encode(BOMB),
    "bz2": numcodecs.BZ2().encode(BOMB),
    "lzma": numcodecs.LZMA().encode(BOMB),
}


@pytest.mark.parametrize("kind", PACKED)
def test_chunks_do_not_unpack_to_far_more_than_they_hold(tmp_path, kind):
    path = tmp_path / "a.zarr"
    grouped(path, red=CLASSES)
    told(path / "red/.zarray", compressor={"id": kind.partition(" ")[0]})
    (path / "red/0.0").write_bytes(PACKED[kind])
    begun = time.process_time()
    with pytest.raises(GeosegError, match="says that it unpacks to"):
        open_source(path).read(Window(y=0, x=0, height=12, width=16))
    with pytest.raises(GeosegError, match="says that it unpacks to"):
        open_classes(path).read("classes", Window(y=0, x=0, height=12, width=16))
    assert time.process_time() - begun < 3


def test_the_folder_of_many_bands_is_looked_through_once(tmp_path, monkeypatch):
    path = tmp_path / "a.zarr"
    grouped(path, **{f"b{i}": CLASSES for i in range(40)})
    looked, real = [], os.stat
    monkeypatch.setattr(os, "stat", lambda *a, **k: looked.append(a) or real(*a, **k))
    source = open_source(path)
    assert len(source.bands) == 40
    assert len(looked) < 40 * 40


@pytest.mark.parametrize("key", ["_CRS", "proj:wkt2", "proj:code", "crs", "crs_wkt"])
def test_a_crs_that_is_a_file_or_an_address_is_not_looked_for(tmp_path, key):
    path, text = tmp_path / "a.zarr", str(tmp_path / "crs.txt")
    (tmp_path / "crs.txt").write_text(CRS.from_epsg(32632).to_wkt())
    grouped(path, red=CLASSES)
    shutil.rmtree(path / "spatial_ref")
    told(path / "red/.zattrs", grid_mapping="", **{key: text})
    if key == "_CRS":
        told(path / "red/.zattrs", _CRS={"url": text})
    assert open_source(path).grid.crs is None
    assert open_classes(path).grid.crs is None


@pytest.mark.parametrize("key", ["crs", "proj:code", "proj:wkt2"])
@pytest.mark.parametrize("text", [
    "EPSG:32632", "+init=epsg:32632", "+proj=utm +zone=32",
    "http://www.opengis.net/def/crs/EPSG/0/32632", CRS.from_epsg(32632).to_wkt(),
])  # fmt: skip
def test_a_crs_is_understood_as_it_is_written(tmp_path, key, text):
    path = tmp_path / "a.zarr"
    grouped(path, red=CLASSES)
    shutil.rmtree(path / "spatial_ref")
    told(path / "red/.zattrs", grid_mapping="", **{key: text})
    assert "zone 32" in open_source(path).grid.crs
