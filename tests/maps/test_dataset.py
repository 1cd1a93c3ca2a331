"""Zarrs and arrays of other tools: their dims, coordinates, CRS and dtypes."""

import shutil
import subprocess

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 - gives arrays their .rio
import xarray as xr
from affine import Affine
from tifs import write_tif

from geoseg.errors import MasksError, RasterError
from geoseg.maps.open import open_classes

DEGREES = Affine(0.001, 0, 13, 0, -0.001, 52)
VALUES = np.zeros((40, 60), np.uint8)
VALUES[5:15, 10:30] = 1


def here(values=VALUES, dims=("lat", "lon"), dtype="f8", *, step=0.001):
    """Return a map near Berlin, its rows and columns called as you like."""
    y, x = dims
    places = {
        y: (52 - step * (np.arange(values.shape[0]) + 0.5)).astype(dtype),
        x: (13 + step * (np.arange(values.shape[1]) + 0.5)).astype(dtype),
    }
    return xr.DataArray(values, dims=dims, coords=places, name="cover")


def check(reader, values=VALUES, transform=DEGREES, epsg=4326):
    assert reader.grid.transform.almost_equals(transform, 1e-6)
    assert rasterio.crs.CRS.from_wkt(reader.grid.crs).to_epsg() == epsg
    np.testing.assert_array_equal(reader.read("classes", reader.grid.window), values)
    assert [c.value for c in reader.classes] == sorted({*np.unique(values).tolist()})


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kind", ["zarr", "dataset", "array"])
@pytest.mark.parametrize(
    "dims",
    [("lat", "lon"), ("latitude", "longitude"), ("y", "x"), ("Y", "X"),
     ("northing", "easting")],
)  # fmt: skip
def test_rows_and_columns_are_known_by_name(tmp_path, dims, kind, turned):
    array = here(dims=dims).rio.set_spatial_dims(*dims[::-1]).rio.write_crs(4326)
    array = array.transpose() if turned else array
    if kind == "zarr":
        array.to_dataset().to_zarr(tmp_path / "m.zarr", zarr_format=2)
        check(open_classes(tmp_path / "m.zarr"))
    else:
        check(open_classes(array if kind == "array" else array.to_dataset()))


def test_dims_of_any_name_are_known_by_cf_attributes():
    array = here(dims=("j", "i"))
    array.j.attrs["standard_name"] = "latitude"
    array.i.attrs["axis"] = "X"
    array = array.rio.set_spatial_dims("i", "j").rio.write_crs(4326)
    check(open_classes(array.transpose()))


def test_what_has_no_place_is_refused():
    nowhere = xr.DataArray(VALUES, dims=("lat", "lon"))
    assert open_classes(nowhere).grid.crs is None
    with pytest.raises(RasterError, match="neither coordinates lat and lon nor a Geo"):
        open_classes(nowhere.rio.write_crs(4326))
    with pytest.raises(RasterError, match="dims a, b, of which none are known"):
        open_classes(xr.DataArray(VALUES, dims=("a", "b")))
    with pytest.raises(MasksError, match="one array"):
        open_classes(xr.DataArray(np.stack([VALUES] * 2), dims=("time", "y", "x")))


def test_single_layers_of_other_dims_are_left_out():
    check(open_classes(here().rio.write_crs(4326).expand_dims(time=1, band=1)))


@pytest.mark.parametrize("dtype", ["bool", "i1", "i4", "i8", "u8", "u2"])
@pytest.mark.parametrize("wrap", [xr.DataArray.to_dataset, lambda array: array])
def test_integers_of_any_width_are_classes(dtype, wrap):
    check(open_classes(wrap(here(VALUES.astype(dtype)).rio.write_crs(4326))))


def test_values_that_xarray_decoded_are_classes_again():
    array = here(np.where(VALUES == 0, np.nan, VALUES)).rio.write_crs(4326)
    reader = open_classes(array)
    assert [c.value for c in reader.classes] == [1]
    read = reader.read("classes", reader.grid.window)
    np.testing.assert_array_equal(read == 1, VALUES == 1)
    assert (read[VALUES == 0] == 255).all()
    with pytest.raises(RasterError, match=r"pixels such as 0.5; class values are int"):
        open_classes(here(VALUES * 0.5).rio.write_crs(4326))


def test_coordinates_in_float32_are_evenly_spaced():
    array = here(dtype="f4")
    array["lon"] = (array.lon + np.float32(100)).astype("f4")
    reader = open_classes(array.rio.write_crs(4326))
    assert reader.grid.transform.almost_equals(
        Affine.translation(100, 0) @ DEGREES, 1e-5
    )
    uneven = here().assign_coords(lat=np.geomspace(1, 2, 40))
    with pytest.raises(RasterError, match="not evenly spaced"):
        open_classes(uneven)


@pytest.mark.parametrize(
    "told",
    [
        {"_CRS": {"wkt": rasterio.crs.CRS.from_epsg(4326).to_wkt()}},
        {"_CRS": {"url": "http://www.opengis.net/def/crs/EPSG/0/4326"}},
        {"proj:code": "EPSG:4326"},
        {"proj:epsg": 4326},
    ],
)
@pytest.mark.parametrize("on", ["array", "group"])
def test_the_crs_is_found_where_other_tools_keep_it(tmp_path, told, on):
    data = here().to_dataset()
    (data["cover"] if on == "array" else data).attrs.update(told)
    data.to_zarr(tmp_path / "m.zarr", zarr_format=2)
    check(open_classes(tmp_path / "m.zarr"))


@pytest.mark.skipif(shutil.which("gdal_translate") is None, reason="no GDAL here")
def test_a_zarr_of_gdal_is_read(tmp_path):
    write_tif(
        tmp_path / "m.tif",
        VALUES,
        dtype="uint8",
        crs=4326,
        transform=DEGREES,
        nodata=255,
    )
    line = ["gdal_translate", "-q", "-of", "Zarr"]
    subprocess.run([*line, tmp_path / "m.tif", tmp_path / "m.zarr"], check=True)
    check(open_classes(tmp_path / "m.zarr"))


def test_what_is_no_class_map_is_refused():
    for thing in (3, None, VALUES):
        with pytest.raises(MasksError, match="is not a class map: give a path"):
            open_classes(thing)
