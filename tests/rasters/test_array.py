"""xarray objects and STAC items as sources."""

import json
import pickle
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import rioxarray
import xarray as xr
from affine import Affine
from tifs import write_tif

from geoseg.core.grid import Window
from geoseg.errors import RasterError, SourceChangedError
from geoseg.maps.dataset import class_reader
from geoseg.rasters.open import Source, check_unchanged, open_source

UTM = Affine(10, 0, 500000, 0, -10, 5000000)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(1, 3000, shape).astype("uint16")


def scene(pixels, *, dims=("band", "y", "x"), south_up=False, crs="EPSG:32633"):
    height, width = (pixels.shape[dims.index(d)] for d in ("y", "x"))
    y = 5000000 - 10 * (np.arange(height) + 0.5)
    coords = {
        "y": y[::-1] if south_up else y,
        "x": 500000 + 10 * (np.arange(width) + 0.5),
    }
    array = xr.DataArray(pixels, dims=dims, coords=coords)
    return array if crs is None else array.rio.write_crs(crs)


def whole(source):
    return source.read(source.grid.window)


# --- arrays ---


def test_an_array_is_the_file_it_was_read_from(shared):
    path = shared / "sen1floods11/S2/Spain_7370579_S2Hand.tif"
    file = open_source(path)
    window = Window(y=100, x=50, height=70, width=90)
    for options in ({}, {"chunks": {"x": 100, "y": 64}}):
        with rioxarray.open_rasterio(path, **options) as array:
            source = open_source(array)
            assert isinstance(source, Source)
            assert source.grid == file.grid
            assert [b.name for b in source.bands] == [b.name for b in file.bands]
            for ours, theirs in zip(
                source.read(window), file.read(window), strict=True
            ):
                np.testing.assert_array_equal(ours, theirs)


def test_south_up_arrays_keep_their_rows():
    pixels = noise(2, 5, 7)
    source = open_source(scene(pixels, south_up=True))
    assert source.grid.transform == Affine(10, 0, 500000, 0, 10, 5000000 - 50)
    np.testing.assert_array_equal(whole(source)[0], pixels)


@pytest.mark.parametrize("dims", [("y", "x", "band"), ("x", "band", "y")])
def test_dims_in_any_order(dims):
    pixels = noise(2, 5, 7)
    turned = np.moveaxis(pixels, [0, 1, 2], [dims.index(d) for d in ("band", "y", "x")])
    source = open_source(scene(turned, dims=dims))
    np.testing.assert_array_equal(whole(source)[0], pixels)
    assert source.grid.transform == UTM


def test_a_slice_is_where_it_is_not_where_it_came_from():
    array = scene(noise(1, 20, 30)).rio.write_transform(UTM)
    assert open_source(array).grid.transform == UTM
    part = open_source(array[:, 5:, 3:])
    assert part.grid.transform.almost_equals(UTM @ Affine.translation(3, 5))
    row = open_source(array[:, 5:6, 3:])
    assert row.grid.transform.almost_equals(UTM @ Affine.translation(3, 5))


def test_transform_without_coordinates():
    array = xr.DataArray(noise(5, 7), dims=("y", "x")).rio.write_crs("EPSG:32633")
    assert open_source(array.rio.write_transform(UTM)).grid.transform == UTM


def test_latitude_and_longitude_are_y_and_x():
    array = xr.DataArray(
        noise(3, 4),
        dims=("lat", "lon"),
        coords={"lat": np.float32([48.3, 48.2, 48.1]), "lon": [16.0, 16.1, 16.2, 16.3]},
    ).rio.write_crs("EPSG:4326")
    transform = open_source(array).grid.transform
    assert transform.almost_equals(Affine(0.1, 0, 15.95, 0, -0.1, 48.35), 1e-5)


@pytest.mark.parametrize(
    ("nodata", "said", "valid"),
    [(None, None, 4), (7, None, 3), (None, 7, 3), (7, 9, 4), (float("nan"), None, 4)],
)
def test_nodata_of_arrays(nodata, said, valid):
    array = scene(np.array([[[7, 8], [8, 8]]], np.int16))
    if nodata is not None:
        array.attrs["_FillValue"] = nodata
    assert whole(open_source(array, nodata=said))[1].sum() == valid


def test_nan_is_nodata_and_bool_is_bytes():
    array = scene(np.array([[[1, np.nan], [np.inf, 2]]], np.float32))
    assert whole(open_source(array))[1].tolist() == [[True, False], [False, True]]
    flags = open_source(scene(np.array([[[True, False]]])))
    assert flags.dtype == np.uint8
    assert whole(flags)[0].tolist() == [[[1, 0]]]


def test_what_is_read_is_the_callers_own():
    pixels = noise(1, 4, 4)
    source = open_source(scene(pixels))
    read, _ = whole(source)
    read[...] = 0
    np.testing.assert_array_equal(whole(source)[0], pixels)


def test_dask_arrays_are_computed_window_by_window():
    chunks = []

    def chunk(block_info=None):
        chunks.append(block_info[None]["chunk-location"])
        return np.full(block_info[None]["chunk-shape"], 5, np.uint8)

    lazy = da.map_blocks(
        chunk,
        chunks=((2,), (10,) * 40, (10,) * 50),
        dtype=np.uint8,
        meta=np.empty(0, "u1"),
    )
    source = open_source(scene(lazy))
    pixels, valid = source.read(Window(y=95, x=200, height=10, width=20))
    assert (pixels == 5).all()
    assert valid.all()
    assert sorted(chunks) == [(0, 9, 20), (0, 9, 21), (0, 10, 20), (0, 10, 21)]


def test_a_failing_graph_is_one_line():
    def fail(block):
        raise ZeroDivisionError("first\nsecond")

    lazy = da.zeros((1, 4, 4), dtype=np.uint8).map_blocks(fail, dtype=np.uint8)
    source = open_source(scene(lazy))
    with pytest.raises(RasterError, match=r"^cannot read DataArray: first second$"):
        whole(source)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda a: a.assign_coords(band=["B02", "B8A"]), ["B02", "B8A"]),
        (lambda a: a.assign_coords(band=[1, 2]), ["1", "2"]),
        (lambda a: a.assign_attrs(long_name=("red", "nir")), ["red", "nir"]),
        (lambda a: a[0].rename("nir"), ["nir"]),
        (lambda a: a.expand_dims("time"), ["1", "2"]),
        (lambda a: a.rename(band="channel"), ["1", "2"]),
    ],
)
def test_band_names_of_arrays(change, names):
    source = open_source(change(scene(noise(2, 4, 4))))
    assert [b.name for b in source.bands] == names


def test_variables_of_a_dataset_are_bands():
    layers = scene(noise(2, 5, 6))
    dataset = xr.Dataset({"red": layers[0], "nir": layers[1].astype("float32"), "n": 3})
    source = open_source(dataset)
    assert [b.common_name for b in source.bands] == ["red", "nir"]
    assert source.dtype == np.float32
    np.testing.assert_array_equal(whole(source)[0], layers.values)
    single = open_source(xr.Dataset({"scene": layers}))
    assert len(single.bands) == 2


def test_identity_tells_arrays_apart():
    pixels = noise(1, 4, 4)
    one, same = open_source(scene(pixels)), open_source(scene(pixels.copy()))
    assert one.identity == same.identity
    assert one.identity != open_source(scene(pixels + np.uint16(1))).identity


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            xr.DataArray(np.zeros((2, 3)), dims=("a", "b")),
            "has dims a, b: a raster has",
        ),
        (scene(noise(2, 4, 4)).expand_dims(t=3), r"t \(3\), band \(2\) beside y and x"),
        (scene(np.zeros((1, 2, 2), complex)), "complex128 pixels: models read real"),
        (
            scene(noise(1, 3, 3)).assign_coords(x=[0.0, 1.0, 5.0]),
            "DataArray are not evenly spaced",
        ),
        (xr.Dataset({"a": 1}), "no variable with dims y and x"),
        (xr.Variable(("y", "x"), np.zeros((2, 2))), "not a Variable"),
    ],
)
def test_arrays_that_are_no_rasters(array, message):
    with pytest.raises(RasterError, match=message):
        open_source(array)


def stackstac_array(**coords):
    """Two bands as stackstac stacks them: coordinates are corners, attrs the truth."""
    return xr.DataArray(
        noise(2, 6, 8)[None],
        dims=("time", "band", "y", "x"),
        coords={
            "time": [np.datetime64("2022-06-01")],
            "band": ["B04", "B08"],
            "common_name": ("band", ["red", "nir"]),
            "epsg": 32632,
            "y": 5200020.0 - 10 * np.arange(6),
            "x": 399960.0 + 10 * np.arange(8),
            **coords,
        },
        attrs={"transform": Affine(10, 0, 399960, 0, -10, 5200020)},
    )


@pytest.mark.parametrize("part", [np.s_[:, :, :, :], np.s_[:, :, 2:5, 3:]])
def test_coordinates_that_are_corners_are_heard(part):
    array = stackstac_array()[part]
    source = open_source(array)
    y, x = float(array.y[0]), float(array.x[0])
    assert source.grid.transform == Affine(10, 0, x, 0, -10, y)
    assert source.grid.crs is not None
    assert [b.common_name for b in source.bands] == ["red", "nir"]
    assert "half a pixel" in source.notes[0]


def test_coordinates_that_are_centres_stay_centres():
    array = stackstac_array(
        y=5200015.0 - 10 * np.arange(6), x=399965.0 + 10 * np.arange(8)
    )
    source = open_source(array)
    assert source.grid.transform == Affine(10, 0, 399960, 0, -10, 5200020)
    assert source.notes == ()


def test_degrees_without_a_crs_are_taken_for_wgs84():
    array = xr.DataArray(
        noise(4, 5),
        dims=("lon", "lat"),
        coords={"lon": 10 + np.arange(4) / 10, "lat": 50 - np.arange(5) / 10},
    )
    source = open_source(array)
    assert (source.grid.height, source.grid.width) == (5, 4)
    np.testing.assert_array_equal(whole(source)[0][0], noise(4, 5).T)
    assert "EPSG:4326" in source.notes[0]
    assert '"EPSG",4326' in source.grid.crs


def test_scale_and_offset_of_an_array_are_known():
    array = scene(noise(1, 4, 4)).assign_attrs(scale_factor=1e-4, add_offset=-0.1)
    assert {(b.scale, b.offset) for b in open_source(array).bands} == {(1e-4, -0.1)}


@pytest.mark.parametrize("version", [2, 3])
def test_a_zarr_of_images_is_what_was_written(tmp_path, version):
    pixels = noise(2, 8, 10)
    y, x = 5e6 - 10 * np.arange(8.0), 4e5 + 10 * np.arange(10.0)
    images = xr.Dataset(
        {
            name: (("y", "x"), band, {"_FillValue": 0})
            for name, band in zip(("red", "nir"), pixels, strict=True)
        },
        coords={"y": y, "x": x},
    ).rio.write_crs("EPSG:32633")
    path = tmp_path / "images.zarr"
    images.to_zarr(path, zarr_format=version, consolidated=False)
    source = pickle.loads(pickle.dumps(open_source(path)))
    at = [[b.name for b in source.bands].index(name) for name in ("red", "nir")]
    read, valid = whole(source)
    np.testing.assert_array_equal(read[at], pixels)
    np.testing.assert_array_equal(valid, (pixels != 0).all(axis=0))
    assert source.grid.transform @ (0, 0) == (399995, 5000005)
    before = source.identity
    images.isel(y=slice(None, None, -1)).to_zarr(
        path, mode="w", zarr_format=version, consolidated=False
    )
    assert open_source(path).identity != before


def test_opening_a_zarr_reads_no_pixels(tmp_path):
    at = {"y": 5e6 - 10 * np.arange(8), "x": 5e5 + 10 * np.arange(8)}
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    both = dict.fromkeys(("red", "nir"), (("y", "x"), values))
    xr.Dataset(both, at).to_zarr(tmp_path / "s.zarr", zarr_format=2)
    for chunk in tmp_path.glob("s.zarr/*/0.0"):
        chunk.write_bytes(b"no chunk")
    source = open_source(str(tmp_path / "s.zarr"))
    assert {band.name for band in source.bands} == {"red", "nir"}
    with pytest.raises(RasterError, match="cannot read"):
        source.read(source.grid.window)


def test_arrays_without_crs_are_told():
    with pytest.warns(UserWarning, match="DataArray has no coordinate reference"):
        open_source(scene(noise(1, 3, 3), crs=None))


def netcdf(path, array, names=("red", "nir")):
    """Write variables as CF has them, of scipy's netCDF: big-endian, read lazily."""
    dataset = array.assign_coords(band=list(names)).to_dataset("band")
    dataset.to_netcdf(path, engine="scipy")
    return xr.open_dataset(path, engine="scipy")


def test_a_dataset_of_a_file_is_that_file_not_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    pixels = noise(2, 5, 7).astype("int16")
    with netcdf(tmp_path / "a.nc", scene(pixels)) as dataset:
        source = open_source(dataset)
        Path("output.txt").write_text("of the run itself")
        check_unchanged(source)
        np.testing.assert_array_equal(whole(source)[0], pixels)
        again = write_tif(tmp_path / "b.tif", pixels)
        again.replace(tmp_path / "a.nc")
        with pytest.raises(SourceChangedError, match="replaced or changed"):
            check_unchanged(source)


def test_the_crs_of_netcdf_may_be_among_the_variables(tmp_path):
    with netcdf(tmp_path / "a.nc", scene(noise(2, 5, 7).astype("int16"))) as dataset:
        assert "spatial_ref" in dataset.data_vars
        assert "UTM zone 33N" in open_source(dataset).grid.crs
        classes = (dataset.drop_vars("nir") > 9).astype("uint8")
        classes = classes.assign(spatial_ref=dataset.spatial_ref)
        classes.red.attrs["grid_mapping"] = "spatial_ref"
        assert "UTM zone 33N" in class_reader(classes).grid.crs


@pytest.mark.parametrize(("dtype", "held"), [(">u2", "uint16"), ("float16", "float32")])
def test_pixels_are_held_as_models_know_them(dtype, held):
    array = scene(noise(2, 5, 7).astype(dtype))
    source = open_source(array)
    pixels, _ = whole(source)
    assert pixels.dtype == source.dtype == np.dtype(held)
    assert pixels.dtype.isnative
    np.testing.assert_array_equal(pixels, array.values)


def test_nodata_of_whole_numbers_may_stand_in_the_encoding():
    array = scene(noise(2, 5, 7))
    array[0, 2, 3] = 0
    array.encoding["_FillValue"] = 0
    assert not whole(open_source(array))[1][2, 3]
    packed = array.copy()
    packed.encoding |= {"scale_factor": 0.5}  # of the numbers in the file
    assert whole(open_source(packed))[1].all()


def test_variables_of_rioxarray_are_called_by_their_bands(tmp_path):
    path = write_tif(tmp_path / "a.tif", noise(2, 5, 7), names=["red", "nir"])
    with rioxarray.open_rasterio(path, band_as_variable=True) as dataset:
        bands = open_source(dataset).bands
        assert [b.common_name for b in bands] == ["red", "nir"]
        for name in dataset.data_vars:
            del dataset[name].attrs["long_name"]
        assert [b.name for b in open_source(dataset).bands] == ["1", "2"]


def test_a_place_of_each_pixel_is_no_grid():
    y, x = np.mgrid[50:51:5j, 8:9:7j]
    at = {"lat": (("y", "x"), y), "lon": (("y", "x"), x)}
    array = xr.DataArray(noise(5, 7), dims=("y", "x"), coords=at)
    with pytest.warns(UserWarning, match="no coordinate reference system"):
        notes = open_source(array).notes
    assert "a latitude and a longitude of each pixel" in notes[0]


# --- STAC items ---


def write(path, pixels, scale=1, at=None):
    write_tif(path, pixels, transform=at or UTM @ Affine.scale(scale))


@pytest.fixture
def item(tmp_path):
    """An item of two bands, 10 and 20 m, with much that is no band beside them."""
    (tmp_path / "assets").mkdir()
    write(tmp_path / "assets/x1.tif", noise(1, 8, 10))
    write(tmp_path / "assets/x2.tif", noise(1, 4, 5, seed=1), scale=2)
    write(tmp_path / "assets/visual.tif", noise(3, 8, 10))
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "scene-1",
        "links": [{"rel": "self", "href": str(tmp_path / "item.json")}],
        "assets": {
            "thumbnail": {"href": "./assets/t.png", "roles": ["thumbnail"]},
            "visual": {"href": "./assets/visual.tif", "roles": ["visual"]},
            "metadata": {"href": "./assets/m.xml"},
            "B04": {
                "href": "./assets/x1.tif",
                "roles": ["data"],
                "eo:bands": [{"name": "B04", "common_name": "red"}],
            },
            "B04-again": {"href": "./gone.tif", "eo:bands": [{"name": "B4"}]},
            "swir": {
                "href": "./assets/x2.tif",
                "bands": [{"name": "B11", "eo:common_name": "swir16"}],
            },
        },
    }


def test_an_item_is_a_stack_of_its_bands(item, tmp_path):
    (tmp_path / "item.json").write_text(json.dumps({**item, "links": []}))
    for given in (item, tmp_path / "item.json"):
        source = open_source(given)
        assert source.name == "STAC item scene-1"
        assert [(b.name, b.common_name) for b in source.bands] == [
            ("B04", "red"),
            ("B11", "swir16"),
        ]
        assert (source.grid.height, source.grid.width) == (8, 10)
        np.testing.assert_array_equal(whole(source)[0][0], noise(1, 8, 10)[0])
        assert pickle.loads(pickle.dumps(source)).bands == source.bands


def test_an_item_of_one_raster_is_that_raster(item, tmp_path):
    item["assets"] = {
        "image": {
            "href": "assets/visual.tif",
            "roles": ["data"],
            "bands": [{"name": n} for n in ("red", "green", "nir")],
        }
    }
    source = open_source(item)
    assert [b.common_name for b in source.bands] == ["red", "green", "nir"]
    np.testing.assert_array_equal(whole(source)[0], noise(3, 8, 10))


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_an_item_tells_nodata_and_what_numbers_mean(item, tmp_path, version):
    facts = {"nodata": 0, "scale": 1e-4, "offset": -0.1}
    for asset in (item["assets"]["B04"], item["assets"]["swir"]):
        if version == "1.0":
            asset["raster:bands"] = [facts]
        else:
            asset["nodata"] = 0
            names = asset.pop("eo:bands", None) or asset["bands"]
            told = {"raster:scale": 1e-4, "raster:offset": -0.1}
            asset["bands"] = [{**names[0], **told}]
    write(
        tmp_path / "assets/x1.tif",
        np.pad(noise(1, 7, 10).clip(1), ((0, 0), (1, 0), (0, 0))),
    )
    source = open_source(item)
    assert {(b.scale, b.offset) for b in source.bands} == {(1e-4, -0.1)}
    assert not whole(source)[1][0].any()
    assert any("nodata is 0 by the item" in note for note in source.notes)
    assert any("x 0.0001 -0.1 by the item" in note for note in source.notes)
    told = open_source(item, nodata=65535)
    assert whole(told)[1].all()


@pytest.mark.parametrize(
    ("properties", "offset"),
    [
        ({"s2:processing_baseline": "02.14"}, 0.0),
        ({"s2:processing_baseline": "05.09"}, -0.1),
        ({"s2:processing_baseline": "N0301"}, 0.0),
        ({"s2:processing_baseline": "0400"}, -0.1),
        (
            {
                "s2:processing_baseline": "05.09",
                "earthsearch:boa_offset_applied": True,
            },
            0.0,
        ),
    ],
)
def test_the_baseline_of_an_item_is_heard(item, properties, offset):
    source = open_source({**item, "properties": properties})
    assert {(b.scale, b.offset) for b in source.bands} == {(1e-4, offset)}


def test_an_item_without_bands_goes_by_keys_and_roles(item):
    files = item["assets"]["B04"]["href"], item["assets"]["swir"]["href"]
    item["assets"] = {
        "scl": {"href": "./gone.tif", "roles": ["data"]},
        "aot": {"href": "./gone.tif", "roles": ["data"]},
        "preview": {"href": "./gone.tif"},
        "red": {"href": files[0], "roles": ["data"]},
        "swir16": {"href": files[1], "roles": ["data", "reflectance"]},
    }
    source = open_source(item)
    assert [b.common_name for b in source.bands] == ["red", "swir16"]


def test_bands_of_an_item_are_chosen_before_they_are_opened(item):
    item["assets"]["gone"] = {
        "href": "./gone.tif",
        "eo:bands": [{"name": "B08", "common_name": "nir"}],
    }
    source = open_source(item, bands=["swir16", "B4"])
    assert [b.common_name for b in source.bands] == ["swir16", "red"]


def test_an_item_with_many_bands_in_one_file_is_that_file_not_its_pan(item):
    item["assets"] = {
        "pan": {"href": "./assets/x1.tif", "eo:bands": [{"name": "pan"}]},
        "ms": {
            "href": "./assets/visual.tif",
            "eo:bands": [{"name": f"nbart_{n}"} for n in ("red", "green", "nir")],
        },
    }
    source = open_source(item)
    assert [b.common_name for b in source.bands] == ["red", "green", "nir"]
    assert "asset ms is used; left out: pan" in source.notes[0]
    assert [b.name for b in open_source(item, bands=["pan"]).bands] == ["pan"]


def test_of_assets_that_show_a_band_the_finest_counts(item):
    files = [a["href"] for a in item["assets"].values() if "eo:bands" in a][:1]
    red = {"roles": ["data"], "eo:bands": [{"name": "B04"}]}
    item["assets"] = {
        "B04_20m": {**red, "href": item["assets"]["swir"]["href"]},
        "B04_10m": {**red, "href": files[0]},
        "oa_fmask": {"href": "./gone.tif", "eo:bands": [{"name": "oa_fmask"}]},
    }
    source = open_source(item)
    assert (len(source.bands), source.grid.height) == (1, 8)


def test_an_item_tells_what_numbers_mean_of_bands_that_it_does_not_name(item):
    facts = {"nodata": 0, "scale": 1e-4, "offset": -0.1}
    item["assets"] = {
        "asset": {"href": "./assets/visual.tif", "raster:bands": [facts] * 3}
    }
    source = open_source(item)
    assert {(b.scale, b.offset) for b in source.bands} == {(1e-4, -0.1)}


@pytest.mark.parametrize("given", ["list", "collection", "file"])
def test_several_items_are_a_mosaic(item, tmp_path, given):
    east = UTM @ Affine.translation(10, 0)
    for name, at in (("y1", east), ("y2", east @ Affine.scale(2))):
        size = 1 if name == "y1" else 2
        pixels = noise(1, 8 // size, 10 // size, seed=5)
        write(tmp_path / f"assets/{name}.tif", pixels, at=at)
    other = json.loads(json.dumps({**item, "id": "scene-2"}).replace("/x", "/y"))
    collection = {"type": "FeatureCollection", "features": [item, other]}
    (tmp_path / "found.json").write_text(json.dumps(collection))
    source = open_source(
        {
            "list": [item, other],
            "collection": collection,
            "file": tmp_path / "found.json",
        }[given]
    )
    assert (source.grid.height, source.grid.width) == (8, 20)
    np.testing.assert_array_equal(
        whole(source)[0][0, :, 10:], noise(1, 8, 10, seed=5)[0]
    )


def test_an_item_file_names_nothing_outside_its_folder(item, tmp_path):
    item["assets"]["B04"]["href"] = "http://127.0.0.1:9/x1.tif"
    (tmp_path / "item.json").write_text(json.dumps(item))
    with pytest.raises(RasterError, match=r"it is on 127.0.0.1:9; .*--trust 127.0.0.1"):
        open_source(tmp_path / "item.json")
    item["assets"]["B04"]["href"] = "../../etc/x.tif"
    (tmp_path / "item.json").write_text(json.dumps(item))
    with pytest.raises(RasterError, match="not below that file's folder"):
        open_source(tmp_path / "item.json")


@pytest.mark.parametrize(
    "change",
    [
        {"assets": {"a": {"href": 7, "roles": 5, "type": None}}},
        {"links": [{"rel": "self"}]},
        {"links": 5},
        {"properties": [1]},
        {"assets": {"B04": {"href": "a.tif", "bands": [{"name": "B04"}, 3]}}},
    ],
)
def test_items_that_are_not_as_they_should_be_are_one_line(item, change):
    with pytest.raises(RasterError) as caught:
        open_source({**item, "assets": {"B04": {"href": "gone.tif"}}, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "href",
    [
        "/vsicurl?header_file=/etc/passwd&url=http%3A%2F%2Fhost%2Fa.tif",
        "/vsisubfile/0_100,/etc/a.tif",
        "<VRTDataset/>.tif",
    ],
)
def test_an_item_does_not_use_virtual_files(item, href):
    item["assets"]["B04"] |= {"href": href, "type": "image/tiff"}
    with pytest.raises(RasterError, match=r"it is not opened|is not opened"):
        open_source(item)


def test_what_is_no_item(item, tmp_path, shared):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    item["assets"]["B04"]["href"] = "assets/none.tif"
    for given, message in [
        (
            {"type": "Collection", "id": "c"},
            "STAC item c is a Collection, not a Feature",
        ),
        ({"type": "Feature", "id": "e", "assets": {}}, "STAC item e has no rasters"),
        (item, r"cannot open .*assets/none\.tif: No such file"),
        (tmp_path / "broken.json", r"cannot open .*broken\.json: Expecting property"),
        (tmp_path / "list.json", r"list\.json is not a STAC item: not a JSON object"),
        (tmp_path / "none.json", r"cannot open .*none\.json: .*No such file"),
        (
            shared / "banepa_buildings/stac-item.json",
            r"has no rasters among its assets \(chips, labels\)",
        ),
    ]:
        with pytest.raises(RasterError, match=message) as caught:
            open_source(given)
        assert "\n" not in str(caught.value)
