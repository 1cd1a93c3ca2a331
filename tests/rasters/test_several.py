"""Mosaics, stacks, other grids, areas: the window that is read changes nothing."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyogrio.raw
import pytest
import rasterio
import rioxarray  # noqa: F401 - gives arrays their .rio
import shapely
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import Resampling
from rasterio.features import geometry_mask
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_geom
from tifs import write_tif

from geoseg.core.grid import Grid, Window, aligned
from geoseg.errors import RasterError
from geoseg.rasters.bands import choose
from geoseg.rasters.file import open_raster
from geoseg.rasters.mosaic import Mosaic, Stack
from geoseg.rasters.nodata import suspected
from geoseg.rasters.open import (
    at_resolution,
    for_training,
    open_source,
    resampled,
    with_nodata,
)
from geoseg.rasters.resample import Resampled
from geoseg.rasters.source import Renamed, SourceBand
from geoseg.rasters.warp import Warped, onto

UTM = Affine(10, 0, 500000, 0, -10, 5000000)


def write(path, pixels, *, at=UTM, crs="EPSG:32633", **profile):
    """Write (band, y, x) pixels as a GeoTIFF of small tiles and return its path."""
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16}
    return write_tif(str(path), pixels, transform=at, crs=crs, **tiles, **profile)


def noise(*shape, dtype="uint16", seed=0):
    """Random pixels, a tenth of them 0."""
    pixels = np.random.default_rng(seed).integers(0, 3000, shape)
    return np.where(pixels < 300, 0, pixels).astype(dtype)


def whole(source):
    return source.read(source.grid.window)


def shift(x, y, scale=1.0):
    return UTM @ Affine.translation(x, y) @ Affine.scale(scale)


# --- any window is a crop of the whole, for sources of every kind ---


def single(folder):
    return open_source(write(folder / "a.tif", noise(3, 61, 73), nodata=0))


def pasted(folder):
    paths = [
        write(folder / f"{i}.tif", noise(2, 40, 50, seed=i), at=shift(*at), nodata=0)
        for i, at in enumerate([(0, 0), (45, 0), (10, 30), (120, 90)])
    ]
    return open_source(paths)


def brought_together(folder):
    """The second misaligned, the third coarser, the fourth finer and in another CRS."""
    paths = [
        write(folder / "0.tif", noise(1, 40, 50), nodata=0),
        write(
            folder / "1.tif", noise(1, 40, 50, seed=1), at=shift(40.4, 9.7), nodata=0
        ),
        write(folder / "2.tif", noise(1, 20, 20, seed=2), at=shift(-20, 20, 2.5)),
        write(
            folder / "3.tif",
            noise(1, 90, 90, seed=3),
            at=Affine(3.1, 0, 30000, 0, -3.1, 5020000),
            crs="EPSG:32634",
        ),
    ]
    return open_source(paths)


def stacked(folder):
    for band, size, scale in (("B02", 60, 1), ("B05", 30, 2), ("B01", 10, 6)):
        pixels = noise(1, size, size, seed=size)
        write(folder / f"S2A {band}.tif", pixels, at=shift(0, 0, scale), nodata=0)
    return open_source(folder)


def finer(folder):
    source = single(folder)
    return resampled(source, source.grid.resampled(y_factor=0.37, x_factor=0.61))


def coarser(folder):
    source = single(folder)
    return resampled(source, source.grid.resampled(y_factor=3.3, x_factor=2.0))


def turned(folder):
    source = single(folder)
    middle = (source.grid.width / 2, source.grid.height / 2)
    turn = Affine.translation(*middle) @ Affine.rotation(20) @ Affine.scale(0.8)
    back = Affine.translation(-40, -40)
    grid = Grid(crs=source.grid.crs, transform=UTM @ turn @ back, height=80, width=80)
    return onto(source, grid)


def another_crs(folder):
    source = single(folder)
    return onto(source, grid_in("EPSG:4326", source))


def within_an_area(folder):
    ring = [(3.2, 4.1), (70.7, 2.5), (50.3, 57.9), (11.1, 40.5)]
    area = write_area(folder / "aoi.gpkg", [shapely.Polygon([UTM @ p for p in ring])])
    return open_source(write(folder / "a.tif", noise(2, 61, 73), nodata=0), aoi=area)


def array(folder):
    return open_source(data_array(folder))


def dask_array(folder):
    return open_source(data_array(folder).chunk({"band": 1, "y": 17, "x": 23}))


def dataset(folder):
    layers = data_array(folder).drop_vars("band")
    return open_source(xr.Dataset({"red": layers[0], "nir": layers[2].chunk()}))


def renamed(folder):
    names = tuple(SourceBand(name=name) for name in "abc")
    return Renamed(source=single(folder), names=names)


def data_array(folder):
    array = xr.DataArray(
        noise(3, 61, 73),
        dims=("band", "y", "x"),
        coords={
            "band": ["red", "green", "nir"],
            "y": 5000000 - 10 * (np.arange(61) + 0.5),
            "x": 500000 + 10 * (np.arange(73) + 0.5),
        },
        name="scene",
    )
    return array.rio.write_crs("EPSG:32633").rio.write_nodata(0)


def grid_in(crs, source):
    with (
        rasterio.open(source.path) as dataset,
        WarpedVRT(dataset, crs=crs) as warped,
    ):
        return Grid(
            crs=warped.crs.to_wkt(),
            transform=warped.transform,
            height=warped.height,
            width=warped.width,
        )


def write_area(path, polygons, crs="EPSG:32633", **options):
    pyogrio.raw.write(
        path,
        geometry=np.array(shapely.to_wkb(polygons), object),
        field_data=[],
        fields=[],
        geometry_type="Unknown",
        crs=crs,
        **options,
    )
    return path


KINDS = (
    single, pasted, brought_together, stacked, finer, coarser, turned, another_crs,
    within_an_area, array, dask_array, dataset, renamed,
)  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """One source of each kind, and all of its pixels."""
    made = {}

    def get(kind):
        if kind not in made:
            source = kind(tmp_path_factory.mktemp(kind.__name__))
            made[kind] = (source, *whole(source))
        return made[kind]

    return get


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(data=st.data())
def test_any_window_is_a_crop_of_the_whole(kept, kind, data):
    source, pixels, valid = kept(kind)
    y = data.draw(st.integers(0, source.grid.height - 1))
    x = data.draw(st.integers(0, source.grid.width - 1))
    height = data.draw(st.integers(1, source.grid.height - y))
    width = data.draw(st.integers(1, source.grid.width - x))
    window = Window(y=y, x=x, height=height, width=width)
    read, read_valid = source.read(window)
    # What lies under nodata is free: a mosaic may have skipped reading it.
    expected, expected_valid = pixels[:, *window.slices], valid[window.slices]
    np.testing.assert_array_equal(read_valid, expected_valid)
    np.testing.assert_array_equal(read[:, read_valid], expected[:, expected_valid])


@pytest.mark.parametrize("kind", KINDS)
def test_sources_keep_the_contract(kept, kind):
    source, pixels, valid = kept(kind)
    shape = (len(source.bands), source.grid.height, source.grid.width)
    assert pixels.shape == shape
    assert valid.shape == shape[1:]
    assert valid.dtype == bool
    assert valid.any()
    assert pixels.dtype == source.dtype
    json.dumps(dict(source.identity))
    travelled = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(whole(travelled)[0], pixels)
    assert travelled.identity == source.identity
    order = [*range(len(source.bands))][::-1]
    mirrored = source.select(order)
    assert mirrored.bands == source.bands[::-1]
    assert mirrored.grid == source.grid
    read, read_valid = whole(mirrored)
    np.testing.assert_array_equal(read, pixels[::-1])
    np.testing.assert_array_equal(read_valid, valid)
    last = source.select(order[:1])
    assert last.bands == source.bands[-1:]
    assert (whole(last)[1] >= valid).mean() > 0.95  # one band has less that is nodata


# --- mosaics ---


def test_a_mosaic_is_what_gdal_makes_of_the_same_files(shared):
    folder = shared / "naip_urban_trees"
    source = open_source(folder / "images")
    with rasterio.open(folder / "santa_monica_2020_mosaic.vrt") as dataset:
        assert (source.grid.height, source.grid.width) == dataset.shape
        assert source.grid.transform.almost_equals(dataset.transform, 1e-9)
        for y, x in ((1400, 3300), (0, 0), (4000, 4000)):
            window = Window(y=y, x=x, height=700, width=700)
            at = ((y, y + 700), (x, x + 700))
            np.testing.assert_array_equal(
                source.read(window)[0], dataset.read(window=at)
            )


def test_the_sparse_vrt_mosaic_is_nodata_where_it_is_empty(shared):
    folder = shared / "naip_urban_trees"
    vrt = open_source(folder / "santa_monica_2020_mosaic.vrt")
    files = open_source(folder / "images")
    window = Window(y=1400, x=3300, height=700, width=700)
    pixels, valid = vrt.read(window)
    _, covered = files.read(window)
    assert 0 < covered.sum() < covered.size
    assert not valid[~covered].any()
    np.testing.assert_array_equal(valid, (pixels != 0).all(axis=0))


def test_neighbours_that_miss_the_grid_by_some_hundredths_are_pasted(shared):
    folder = shared / "drone_aerial_rgb/chilliwack_neighbour_tiles"
    source = open_source(folder)
    assert isinstance(source, Mosaic)
    assert (source.grid.height, source.grid.width) == (1998, 1332)
    for tile, (y, bottom, x, right) in zip(source.parts, source.places, strict=True):
        part, _ = source.read(Window.spanning(int(y), int(bottom), int(x), int(right)))
        np.testing.assert_array_equal(part, whole(tile)[0])


def test_the_first_valid_pixel_wins(tmp_path):
    one = np.array([[[1, 0, 1]]], np.uint8)
    two = np.array([[[2, 2, 0, 2]]], np.uint8)
    paths = [
        write(tmp_path / "one.tif", one, nodata=0),
        write(tmp_path / "two.tif", two, nodata=0),
    ]
    assert whole(open_source(paths))[0].tolist() == [[[1, 2, 1, 2]]]
    assert whole(open_source(paths[::-1]))[0].tolist() == [[[2, 2, 1, 2]]]
    assert whole(open_source(f"{tmp_path}/*.tif"))[0].tolist() == [[[1, 2, 1, 2]]]


@pytest.mark.parametrize(
    ("names", "dtype", "bands", "said"),
    [
        (("blue", "green", "red"), "uint16", [3, 2, 1], "have the bands in another or"),
        (
            ("a", "b", "c"),
            "uint16",
            [1, 2, 3],
            "have other names for their bands (a, b, c",
        ),
        (("red", "green", "blue"), "uint8", [1, 2, 3], "its rasters are of uint16, ui"),
        (("red", "green", "blue"), "uint16", [1, 2, 3], None),
    ],
)
def test_tiles_that_differ_are_joined_by_name_or_it_is_said(
    tmp_path, names, dtype, bands, said
):
    left = Affine(10, 0, 500_000, 0, -10, 5_000_000)
    right = left @ Affine.translation(4, 0)
    told = (("red", "green", "blue"), left, "uint16"), (names, right, dtype)
    for i, (called, at, kind) in enumerate(told):
        pixels = np.arange(1, 4, dtype=kind).repeat(16).reshape(3, 4, 4)
        write_tif(tmp_path / f"{i}.tif", pixels, names=called, dtype=kind, transform=at)
    source = open_source([tmp_path / "0.tif", tmp_path / "1.tif"])
    pixels, _ = source.read(source.grid.window)
    assert pixels[:, 0, 0].tolist() == [1, 2, 3]
    assert pixels[:, 0, 7].tolist() == bands
    assert said in source.notes[0] if said else source.notes == ()
    # likewise of rasters that one model learns from, unless an order is asked for
    each = [open_source(tmp_path / f"{i}.tif") for i in range(2)]
    by_name = bands == [3, 2, 1]
    learnt = for_training(each)[1]
    assert [b.name for b in learnt.bands] == [*(names[::-1] if by_name else names)]
    each = [choose(source, ["1", "2", "3"]) for source in each]
    assert [b.name for b in for_training(each)[1].bands] == [*names]


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (shift(40, 0, 2), "2 x 2 times as large"),
        (shift(40.5, 0), "a part of a pixel beside them"),
        (shift(40, 0) @ Affine.rotation(3), "turned"),
        (shift(40.05, 0), None),  # as neighbours of real tilings are
    ],
)
def test_tiles_on_other_pixels_are_said_to_be_interpolated(tmp_path, at, said):
    write(tmp_path / "a.tif", noise(1, 40, 40))
    write(tmp_path / "b.tif", noise(1, 40, 40), at=at)
    notes = " ".join(open_source(f"{tmp_path}/*.tif").notes)
    assert (f"b.tif, {said}: they are interp" in notes) if said else not notes


@pytest.mark.parametrize("tagged", [True, False])
def test_of_tiles_that_do_not_all_tell_of_nodata_the_others_are_asked(tmp_path, tagged):
    for i, nodata in enumerate((0, 65535 if tagged else None)):
        pixels = np.maximum(noise(2, 40, 40), 1)
        pixels[:, :9] = (0, 65535)[i]
        at = shift(40 * i, 0)
        write(tmp_path / f"{i}.tif", pixels, at=at, nodata=nodata)
    doubt = suspected(open_source(f"{tmp_path}/*.tif"))
    if tagged:
        assert doubt is None
    else:
        assert "1.tif: 22 % of a sample is 65535 in all bands" in doubt
        assert "gdal_edit.py -a_nodata 65535" in doubt


def test_a_fill_beside_the_nodata_that_is_tagged_is_asked_for(tmp_path):
    pixels = np.maximum(noise(2, 40, 40), 1).astype("float32")
    pixels[:, :9] = 0
    path = write(tmp_path / "a.tif", pixels, nodata=-9999)
    doubt = suspected(open_source(path))
    assert "22 % of a sample is 0 in all bands, out to its edge, and its" in doubt
    assert "--nodata 0 instead" in doubt
    assert suspected(open_source(path, nodata=0)) is None
    one = write(tmp_path / "b.tif", pixels[:1], nodata=-9999)  # such as the sea
    assert suspected(open_source(one)) is None


def test_a_band_of_one_sensor_is_not_that_of_another(tmp_path):
    for sensor, band, value, x in (
        ("LC08", "SR_B4", 1, 0), ("LC08", "SR_B5", 2, 0),
        ("LE07", "SR_B3", 3, 40), ("LE07", "SR_B4", 4, 40),
    ):  # fmt: skip
        pixels = np.full((1, 40, 40), value, np.uint16)
        write(tmp_path / f"{sensor}_{band}.tif", pixels, at=shift(x, 0))
    source = open_source(tmp_path)
    assert [band.common_name for band in source.bands] == ["red", "nir08"]
    pixels, valid = whole(source)
    assert valid.all()
    assert pixels[:, 0, [0, 40]].tolist() == [[1, 3], [2, 4]]


def test_quarters_in_four_crss_make_one_scene(shared):
    folder = shared / "awkward/multi_crs_neighbours"
    names = ("topleft_26711", "topright_32611", "bottomleft_4326", "bottomright_3857")
    paths = [folder / f"utmsmall_{name}.tif" for name in names]
    source = open_source(paths)
    assert sum("3 of its 4 rasters lie in another CRS" in n for n in source.notes) == 1
    pixels, valid = whole(source)
    with rasterio.open(paths[0]) as dataset:
        first = aligned(open_raster(str(paths[0])).grid, source.grid)
        np.testing.assert_array_equal(pixels[:, *first.slices], dataset.read())
    # The quarters were cut a pixel apart in two places, and reach 3 rows less far.
    assert valid[2:-6, 2:-4].mean() > 0.98
    assert valid[1:98, [47, 51, 55]].all()


def test_a_tile_index_is_a_mosaic(tmp_path):
    """GDAL's GTI: a vector file whose features are the footprints of rasters."""
    paths = [
        write(tmp_path / f"{i}.tif", noise(1, 16, 16, seed=i), at=shift(16 * i, 0))
        for i in range(3)
    ]
    files = open_source(paths)
    index = tmp_path / "tiles.gti.gpkg"
    boxes = [shapely.box(*file.grid.bounds) for file in files.parts]
    pyogrio.raw.write(
        index,
        geometry=np.array(shapely.to_wkb(boxes), object),
        field_data=[np.array(paths, object)],
        fields=["location"],
        geometry_type="Polygon",
        crs="EPSG:32633",
    )
    for path in (index, f"GTI:{index}"):
        source = open_source(path)
        assert source.grid == files.grid
        assert "mtime_ns" in source.identity
        np.testing.assert_array_equal(whole(source)[0], whole(files)[0])


def test_a_window_opens_only_the_files_it_touches(tmp_path):
    paths = [
        write(tmp_path / f"{i:02}.tif", noise(1, 16, 16, seed=i), at=shift(16 * i, 0))
        for i in range(20)
    ]
    source = open_source(str(tmp_path))
    for path in paths[:5] + paths[7:]:
        Path(path).unlink()
    pixels, valid = source.read(Window(y=3, x=5 * 16 + 2, height=9, width=20))
    assert valid.all()
    np.testing.assert_array_equal(
        pixels[0, :, :14], noise(1, 16, 16, seed=5)[0, 3:12, 2:]
    )
    with pytest.raises(RasterError, match=r"cannot read .*00\.tif: "):
        source.read(Window(y=0, x=0, height=1, width=1))


def test_alpha_of_tiles_is_a_band_where_there_is_a_name_for_it(tmp_path):
    pixels = noise(4, 8, 8, dtype="uint8")
    for i in range(2):
        path = tmp_path / f"{i}.tif"
        write(path, pixels, at=shift(8 * i, 0), photometric="RGB", alpha="YES")
    plain = open_source(tmp_path)
    assert len(plain.bands) == 3
    assert not whole(plain)[1].all()
    named = open_source(tmp_path, bands=["red", "green", "blue", "nir"])
    assert whole(named)[1].all()
    np.testing.assert_array_equal(whole(named)[0][:, :, 8:], pixels)
    assert [b.name for b in open_source(tmp_path, bands=["4"]).bands] == ["4"]


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_nodata_of_a_card_reaches_every_part(tmp_path, dtype):
    write(tmp_path / "S2A B02.tif", noise(1, 12, 12, dtype=dtype))
    write(tmp_path / "S2A B03.tif", noise(1, 6, 6, dtype=dtype), at=shift(0, 0, 2))
    source = open_source(tmp_path)
    assert whole(source)[1].all()
    told = open_source(tmp_path, nodata=0)
    np.testing.assert_array_equal(whole(with_nodata(source, 0))[1], whole(told)[1])
    assert not whole(told)[1].all()


@pytest.mark.parametrize("first", ["east", "west"])
def test_neighbours_across_the_antimeridian_stay_neighbours(tmp_path, first):
    places = {"east": 179, "west": -180}
    order = sorted(places, key=lambda name: name != first)
    for i, name in enumerate(order):
        at = Affine(0.1, 0, places[name], 0, -0.1, -16)
        write(
            tmp_path / f"{i}.tif",
            noise(1, 10, 10, seed=places[name] % 7),
            crs="EPSG:4326",
            at=at,
        )
    source = open_source(tmp_path)
    assert (source.grid.height, source.grid.width) == (10, 20)
    pixels, valid = whole(source)
    assert valid.all()
    np.testing.assert_array_equal(pixels[0, :, :10], noise(1, 10, 10, seed=179 % 7)[0])
    np.testing.assert_array_equal(pixels[0, :, 10:], noise(1, 10, 10, seed=-180 % 7)[0])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"bands": 2}, r"same bands: .*a.tif has 1 \(1\), .*b.tif has 2 .*give those"),
        ({"crs": None}, r"b.tif cannot join the mosaic: .* the other has none; set it"),
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_what_cannot_be_one_mosaic(tmp_path, other, message):
    write(tmp_path / "a.tif", noise(1, 4, 4))
    pixels = noise(other.get("bands", 1), 4, 4)
    write(tmp_path / "b.tif", pixels, crs=other.get("crs", "EPSG:32633"))
    with pytest.raises(RasterError, match=message):
        open_source(tmp_path)


# --- stacks ---


def test_a_folder_of_bands_is_a_stack(shared):
    folder = shared / "s2_rachel_carson"
    source = open_source(folder)
    assert isinstance(source, Stack)
    assert [b.name for b in source.bands] == [f"B0{i}" for i in range(1, 9)]
    assert source.bands[7].common_name == "nir"
    window = Window(y=900, x=1000, height=300, width=200)
    with rasterio.open(folder / "s2_stack_8band.vrt") as dataset:
        at = ((window.y, window.bottom), (window.x, window.right))
        np.testing.assert_array_equal(source.read(window)[0], dataset.read(window=at))
        assert source.grid.transform == dataset.transform


def test_landsat_bands_are_a_stack_with_common_names(shared):
    source = open_source(shared / "landsat8_scenes/oregon_whole_scene_150m/*.TIF")
    assert [b.common_name for b in source.bands] == ["blue", "green", "red"]


def test_coarser_bands_are_brought_to_the_finest(tmp_path):
    source = stacked(tmp_path)
    assert [b.name for b in source.bands] == ["B01", "B02", "B05"]
    assert (source.grid.height, source.grid.width) == (60, 60)
    pixels, valid = whole(source)
    np.testing.assert_array_equal(pixels[1][valid], noise(1, 60, 60, seed=60)[0][valid])


def test_tiles_of_bands_are_mosaicked_and_then_stacked(tmp_path):
    for i, tile in enumerate(("T33UUP", "T33UVP")):
        for band in ("B02", "B03"):
            path = tmp_path / f"{tile}_20210611T101031_{band}.tif"
            write(path, noise(1, 8, 8, seed=i), at=shift(8 * i, 0))
    source = open_source(tmp_path)
    assert [b.common_name for b in source.bands] == ["blue", "green"]
    assert (source.grid.height, source.grid.width) == (8, 16)


# --- other grids ---


def test_an_average_over_whole_pixels_is_exact(tmp_path):
    pixels = noise(2, 60, 80).clip(1)
    source = open_source(write(tmp_path / "a.tif", pixels))
    coarse = resampled(source, source.grid.resampled(y_factor=3, x_factor=4))
    blocks = pixels.reshape(2, 20, 3, 20, 4).astype(np.float64).mean(axis=(2, 4))
    np.testing.assert_array_equal(whole(coarse)[0], np.rint(blocks))


@pytest.mark.parametrize("factor", [0.31, 0.5, 0.77, 1.9, 3.3])
def test_resampling_is_gdals(tmp_path, factor):
    """Average and bilinear as GDAL's warper computes them without approximating."""
    pixels = noise(1, 200, 240, dtype="float32").clip(1)
    source = open_source(write(tmp_path / "a.tif", pixels))
    grid = source.grid.resampled(y_factor=factor, x_factor=factor)
    ours, _ = whole(resampled(source, grid))
    method = Resampling.average if factor > 1 else Resampling.bilinear
    with (
        rasterio.open(source.path) as dataset,
        WarpedVRT(
            dataset,
            resampling=method,
            tolerance=1e-9,
            transform=grid.transform,
            height=grid.height,
            width=grid.width,
        ) as warped,
    ):
        theirs = warped.read()
    inner = (slice(None), slice(3, -3), slice(3, -3))  # borders are each one's choice
    np.testing.assert_allclose(ours[inner], theirs[inner], rtol=1e-4)


def test_a_constant_stays_constant_and_a_ramp_stays_a_ramp(tmp_path):
    ramp = np.broadcast_to(np.arange(64, dtype=np.float32) + 0.5, (1, 64, 64))
    source = open_source(write(tmp_path / "a.tif", ramp))
    for factor in (0.4, 1.0, 2.0, 3.0):
        grid = source.grid.resampled(y_factor=factor, x_factor=factor)
        values = whole(resampled(source, grid))[0][0, :, 3:-3]
        expected = (np.arange(grid.width) + 0.5)[3:-3] * factor
        np.testing.assert_allclose(values, expected[None, :] + 0 * values, rtol=1e-6)


def test_only_valid_pixels_take_part(tmp_path):
    pixels = np.array([[[10, 20, 0, 0], [30, 0, 0, 5]]], np.uint8)
    source = open_source(write(tmp_path / "a.tif", pixels, nodata=0))
    coarse = resampled(source, source.grid.resampled(y_factor=2, x_factor=2))
    values, valid = whole(coarse)
    assert valid.tolist() == [[True, False]]
    assert values[0, 0, 0] == 20


def test_the_same_grid_is_the_same_source(tmp_path):
    source = open_source(write(tmp_path / "a.tif", noise(1, 8, 8)))
    assert resampled(source, source.grid) is source
    assert at_resolution(source, 10.0) is source


def test_a_shift_down_and_as_far_left_is_a_shift(tmp_path):
    source = open_source(write(tmp_path / "a.tif", noise(1, 8, 8)))
    moved = replace(
        source.grid, transform=source.grid.transform @ Affine.translation(-2, 2)
    )
    values, valid = whole(resampled(source, moved))
    np.testing.assert_array_equal(values[:, :6, 2:], noise(1, 8, 8)[:, 2:, :6])
    assert valid[:6, 2:].all()
    assert valid.sum() == 36


def test_resolution_is_in_metres_on_the_ground(tmp_path):
    source = open_source(write(tmp_path / "a.tif", noise(1, 100, 120)))
    coarse = at_resolution(source, 25)
    assert (coarse.grid.height, coarse.grid.width) == (40, 48)
    assert coarse.grid.pixel_size_m == pytest.approx((25, 25), rel=1e-3)
    assert coarse.identity != source.identity


@pytest.mark.parametrize("metres", [0, -1, float("nan"), float("inf")])
def test_resolutions_that_are_none(tmp_path, metres):
    source = open_source(write(tmp_path / "a.tif", noise(1, 8, 8)))
    with pytest.raises(RasterError, match="is not above 0"):
        at_resolution(source, metres)


@pytest.mark.filterwarnings("ignore:.*no coordinate reference system")
def test_resolution_without_crs_is_refused(tmp_path):
    source = open_source(write(tmp_path / "a.tif", noise(1, 8, 8), crs=None))
    with pytest.raises(RasterError, match="no CRS that tells how large its pixels"):
        at_resolution(source, 2)


def test_other_axes_are_refused(tmp_path):
    source = open_source(write(tmp_path / "a.tif", noise(1, 8, 8)))
    turned_grid = replace(source.grid, transform=UTM @ Affine.rotation(3))
    with pytest.raises(RasterError, match="do not run along each other"):
        resampled(source, turned_grid)


def test_warping_is_gdals(tmp_path):
    pixels = noise(2, 150, 170).clip(1)
    source = open_source(write(tmp_path / "a.tif", pixels))
    # Finer than the source in both directions, else GDAL widens its kernel.
    grid = grid_in("EPSG:4326", source).resampled(y_factor=0.6, x_factor=0.7)
    warped = onto(source, grid)
    assert isinstance(warped, Warped)
    ours, valid = whole(warped)
    with (
        rasterio.open(source.path) as dataset,
        WarpedVRT(
            dataset,
            crs="EPSG:4326",
            transform=grid.transform,
            height=grid.height,
            width=grid.width,
            resampling=Resampling.bilinear,
            tolerance=1e-9,
            add_alpha=True,
        ) as vrt,
    ):
        theirs = vrt.read()
    np.testing.assert_array_equal(valid, theirs[2] > 0)
    gap = np.abs(ours.astype(int) - theirs[:2])[:, valid]
    assert gap.max() <= 1  # where a half is rounded
    assert (gap > 0).mean() < 1e-3


def test_much_finer_sources_are_averaged_before_they_are_warped(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (1, 400, 400)).astype(np.uint8)
    source = open_source(write(tmp_path / "a.tif", pixels))
    grid = grid_in("EPSG:4326", source).resampled(y_factor=20, x_factor=20)
    warped = onto(source, grid)
    assert isinstance(warped.source, Resampled)
    values = whole(warped)[0][whole(warped)[1][None]]
    assert values.std() < 15  # of single pixels it would be 70


# --- areas of interest ---


def test_an_area_is_where_pixel_centres_are(tmp_path):
    ring = [(3.2, 4.1), (70.7, 2.5), (50.3, 57.9), (11.1, 40.5)]
    hole = [(30, 20), (40, 20), (40, 30), (30, 30)]
    polygon = shapely.Polygon([UTM @ p for p in ring], [[UTM @ p for p in hole]])
    path = write(tmp_path / "a.tif", noise(2, 61, 73))
    source = open_source(path, aoi=write_area(tmp_path / "aoi.gpkg", [polygon]))
    assert source.crop == Window(y=2, x=3, height=56, width=68)
    assert source.grid.transform == shift(3, 2)
    outside = geometry_mask([polygon], (61, 73), UTM)
    np.testing.assert_array_equal(whole(source)[1], ~outside[source.crop.slices])


def test_an_area_in_another_crs(tmp_path):
    ring = [(3.2, 4.1), (70.7, 2.5), (50.3, 57.9), (11.1, 40.5)]
    polygon = shapely.Polygon([UTM @ p for p in ring])
    there = transform_geom("EPSG:32633", "EPSG:4326", shapely.geometry.mapping(polygon))
    aoi = write_area(
        tmp_path / "a.geojson", [shapely.geometry.shape(there)], "EPSG:4326"
    )
    source = open_source(write(tmp_path / "a.tif", noise(1, 61, 73)), aoi=aoi)
    outside = geometry_mask([polygon], (61, 73), UTM)
    np.testing.assert_array_equal(whole(source)[1], ~outside[source.crop.slices])


def test_footprints_of_buildings_are_their_labels(shared):
    folder = shared / "banepa_buildings"
    source = open_source(
        folder / "banepa_train_rgb.tif", aoi=folder / "buildings_3857.gpkg"
    )
    with rasterio.open(folder / "banepa_train_labels.tif") as dataset:
        labels = dataset.read(1)
    window = Window(y=300, x=700, height=900, width=800)
    _, valid = source.read(window)
    there = window.shift(y=source.crop.y, x=source.crop.x)
    np.testing.assert_array_equal(valid, labels[there.slices] == 1)


def test_areas_that_are_none(tmp_path):
    raster = write(tmp_path / "a.tif", noise(1, 8, 8))
    far = write_area(tmp_path / "far.gpkg", [shapely.box(0, 0, 9, 9)])
    points = write_area(tmp_path / "points.gpkg", [shapely.Point(500000, 5000000)])
    layers = tmp_path / "layers.gpkg"
    write_area(layers, [shapely.box(500000, 4999960, 500040, 5000000)], layer="one")
    write_area(layers, [shapely.box(0, 0, 9, 9)], layer="two", append=True)
    for aoi, message in [
        (far, r"far.gpkg does not touch .*a.tif: it spans rows"),
        (points, r"points.gpkg has no polygons among its 1 features$"),
        (layers, r"layers.gpkg has layers one, two: say which, as in '.*=one'$"),
        (f"{layers}|layername=x", r"cannot read the area of interest .*'x'"),
        (tmp_path / "none.gpkg", r"cannot read the area of interest .*none.gpkg"),
        (raster, r"cannot read the area of interest|has no polygons"),
    ]:
        with pytest.raises(RasterError, match=message) as caught:
            open_source(raster, aoi=aoi)
        assert "\n" not in str(caught.value)
    source = open_source(raster, aoi=f"{layers}|layername=one")
    assert (source.grid.height, source.grid.width) == (4, 4)
