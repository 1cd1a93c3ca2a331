"""Single rasters: bit for bit what rasterio reads, whatever the window."""

import os
import pickle
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import rasterio
import small
from affine import Affine
from rasterio.enums import ColorInterp
from tifs import write_tif

from geoseg.core.grid import Window
from geoseg.errors import RasterError
from geoseg.models.card import Band
from geoseg.rasters.file import open_raster
from geoseg.rasters.gdal import Handles
from geoseg.rasters.open import (
    Source,
    SourceBand,
    for_model,
    match_bands,
    open_source,
    redact,
    with_nodata,
)
from geoseg.rasters.validity import is_all_valid, nodata_range, valid_pixels

UTM = {"crs": "EPSG:32633", "transform": Affine(10, 0, 500000, 0, -10, 5000000)}


def write(path, pixels, **profile):
    """Write (band, y, x) pixels as a GeoTIFF and return its path."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        return write_tif(path, pixels, **UTM | profile)


def noise(*shape, dtype="uint8", seed=0):
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


@dataclass
class Wanted:
    """What the card of a model says of its input."""

    bands: list
    numbers: str = "DN"
    nodata: float | None = None
    times: None = None


def names(source):
    return [band.name for band in source.bands]


def common(source):
    return [band.common_name for band in source.bands]


# --- parity with rasterio ---


def healthy(shared):
    for pattern in ("*.tif", "*.tiff", "*.TIF", "*.vrt"):
        for file in sorted(shared.rglob(pattern)):
            if "awkward" not in file.parts and "images" not in file.parts:
                yield file


def windows(height, width, count=3):
    rng = np.random.default_rng(1)
    for _ in range(count):
        h, w = (int(min(n, rng.integers(1, 90))) for n in (height, width))
        y, x = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
        yield Window(y=y, x=x, height=h, width=w)


def test_healthy_rasters_read_as_rasterio_reads_them_masked(shared):
    seen = 0
    for file in healthy(shared):
        source = open_source(file)
        with rasterio.open(file) as dataset:
            for window in windows(dataset.height, dataset.width):
                pixels, valid = source.read(window)
                at = ((window.y, window.bottom), (window.x, window.right))
                theirs = dataset.read(list(source.numbers), window=at, masked=True)
                mask = np.ma.getmaskarray(theirs)
                good = ~(mask.all(axis=0) if source.together else mask.any(axis=0))
                if theirs.dtype.kind == "f":
                    good &= np.isfinite(theirs.data).all(axis=0)
                assert pixels.tobytes() == theirs.data.tobytes(), file
                np.testing.assert_array_equal(valid, good, str(file))
        assert source.grid.transform == dataset.transform
        seen += 1
    assert seen > 50


# --- validity ---


@pytest.mark.parametrize(
    ("dtype", "nodata", "expected"),
    [
        ("uint8", 7, True),
        ("uint8", -9999, False),  # out of the dtype's range: means nothing
        ("uint8", 7.5, False),
        ("uint8", float("nan"), False),
        ("int16", -32768, True),
        ("uint16", 65535, True),
        ("int64", -(2**40), True),
        ("float32", float("nan"), True),
        ("float32", -9999, True),
        ("float32", -3.4028226550889045e38, True),
        ("float64", -1.7976931348623157e308, True),
    ],
)
def test_nodata_of_every_kind(dtype, nodata, expected):
    pixels = np.ones((2, 3, 4), dtype)
    if expected:
        pixels[1, 2, 3] = nodata
    valid = valid_pixels(pixels, [None, nodata])
    assert valid.sum() == 12 - expected
    assert bool(valid[2, 3]) is not expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_invalid_without_any_tag(value):
    pixels = np.zeros((1, 2, 2), np.float32)
    pixels[0, 0, 1] = value
    np.testing.assert_array_equal(
        valid_pixels(pixels, [None]), [[True, False], [True, True]]
    )


def test_float_nodata_is_compared_as_gdal_does(tmp_path):
    """A tag is decimal text: floats a few units in the last place off are meant too."""
    value = np.float32(-9999.9)
    steps = [value]
    for _ in range(12):
        steps.append(np.nextafter(steps[-1], np.float32(0)))
    pixels = np.array(steps, np.float32).reshape(1, 1, -1)
    path = write(tmp_path / "a.tif", pixels, nodata=float(value))
    with rasterio.open(path) as dataset:
        theirs = dataset.read_masks(1) != 0
    source = open_source(path)
    np.testing.assert_array_equal(source.read(source.grid.window)[1], theirs)
    assert 0 < theirs.sum() < theirs.size
    low, high = nodata_range(float(value), np.dtype("float32"))
    assert low < value < high


def test_all_valid_costs_nothing(tmp_path):
    source = open_source(write(tmp_path / "a.tif", noise(1, 8, 8)))
    assert is_all_valid(source.read(source.grid.window)[1])


def test_nodata_argument_overrides_the_tag(tmp_path):
    pixels = np.array([[[0, 1, 2, 3]]], np.uint8)
    path = write(tmp_path / "a.tif", pixels, nodata=0)
    assert open_source(path).read(Window(y=0, x=0, height=1, width=4))[1].tolist() == [
        [False, True, True, True]
    ]
    said = open_source(path, nodata=3)
    assert said.read(said.grid.window)[1].tolist() == [[True, True, True, False]]


def test_any_band_that_is_read_can_make_a_pixel_invalid(tmp_path):
    pixels = np.array([[[0, 1, 1]], [[1, 0, 1]]], np.uint8)
    source = open_source(write(tmp_path / "a.tif", pixels, nodata=0))
    assert source.read(source.grid.window)[1].tolist() == [[False, False, True]]
    second = source.select([1])
    assert second.read(second.grid.window)[1].tolist() == [[True, False, True]]


def test_masks_beside_or_inside_the_file(tmp_path):
    path = write(tmp_path / "a.tif", noise(2, 6, 5))
    mask = noise(6, 5, seed=3) > 100
    with rasterio.open(path, "r+") as dataset:
        dataset.write_mask(mask)
    source = open_source(path)
    for chosen in (source, source.select([1]), source.select([1, 0])):
        np.testing.assert_array_equal(chosen.read(source.grid.window)[1], mask)


def test_nodata_of_a_card_is_for_rasters_that_do_not_tell(tmp_path):
    pixels = np.array([[[0, 1, 2]]], np.uint8)
    silent = open_source(write(tmp_path / "a.tif", pixels))
    telling = open_source(write(tmp_path / "b.tif", pixels, nodata=2))
    for source, value, expected in [
        (silent, None, [True, True, True]),
        (silent, 0, [False, True, True]),
        (telling, 0, [True, True, False]),
    ]:
        said = with_nodata(source, value)
        assert said.read(said.grid.window)[1].tolist() == [expected]
    masked = write(tmp_path / "c.tif", pixels)
    with rasterio.open(masked, "r+") as dataset:
        dataset.write_mask(np.array([[True, False, True]]))
    said = with_nodata(open_source(masked), 0)
    assert said.read(said.grid.window)[1].tolist() == [[True, False, True]]


def test_scale_and_offset_are_not_applied(tmp_path):
    path = write(tmp_path / "a.tif", noise(1, 4, 4, dtype="int16"))
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = [0.0001], [1000]
    source = open_source(path)
    pixels, _ = source.read(source.grid.window)
    np.testing.assert_array_equal(pixels, noise(1, 4, 4, dtype="int16"))


# --- alpha ---


@pytest.fixture
def rgba(tmp_path):
    pixels = noise(4, 5, 6)
    pixels[3, 0, 0], pixels[3, 0, 1] = 0, 1
    path = write(tmp_path / "rgba.tif", pixels, photometric="RGB", alpha="YES")
    return path, pixels


def test_alpha_is_validity_and_no_band(rgba):
    path, pixels = rgba
    source = open_source(path)
    assert names(source) == ["red", "green", "blue"]
    read, valid = source.read(source.grid.window)
    np.testing.assert_array_equal(read, pixels[:3])
    np.testing.assert_array_equal(valid, pixels[3] != 0)


@pytest.mark.parametrize(
    ("bands", "expected"),
    [
        (["4", "1"], ["4", "red"]),
        (["red", "green", "blue", "nir"], ["red", "green", "blue", "nir"]),
    ],
)
def test_alpha_becomes_a_band_where_it_is_asked_for(rgba, bands, expected):
    path, pixels = rgba
    source = open_source(path, bands=bands)
    assert names(source) == expected
    read, valid = source.read(source.grid.window)
    assert valid.all()
    np.testing.assert_array_equal(read[expected.index(expected[0])], read[0])
    where = expected.index("nir" if "nir" in expected else "4")
    np.testing.assert_array_equal(read[where], pixels[3])


def test_a_fourth_band_with_a_name_is_not_alpha(tmp_path):
    path = write(tmp_path / "a.tif", noise(4, 5, 6), photometric="RGB", alpha="YES")
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = ("red", "green", "blue", "nir")
        assert dataset.colorinterp[3] == ColorInterp.alpha
    source = open_source(path)
    assert common(source) == ["red", "green", "blue", "nir"]
    assert source.read(source.grid.window)[1].all()


def test_near_infrared_that_is_tagged_alpha_is_asked_about(tmp_path, rgba):
    colour, pixels = rgba
    doubt = "band 4 is tagged as transparency"
    wanted = Wanted([Band(name="red"), Band(name="nir")])
    with pytest.raises(RasterError, match=f"lacks the band nir.*{doubt}.*--bands"):
        for_model(open_source(colour), wanted)
    rgb = Wanted([Band(name=n) for n in ("red", "green", "blue")])
    assert any(doubt in n for n in for_model(open_source(colour), rgb).notes)
    pixels[3] = 255 * (pixels[3] > 100)
    edged = write(tmp_path / "b.tif", pixels, photometric="RGB", alpha="YES")
    assert for_model(open_source(edged), rgb).notes == ()


# --- bands ---


@pytest.mark.parametrize(
    ("file", "name", "common_name"),
    [
        ("T33UUP_20210611T101031_B8A_20m.tif", "B8A", "nir08"),
        ("2018-10-13, Sentinel-2B L1C, B08.tif", "B08", "nir"),
        ("S2A_B04.tif", "B04", "red"),
        ("B02.tif", "B02", "blue"),
        ("LC08_L1TP_198029_B5.TIF", "B5", "nir08"),
        ("LE07_L2SP_198029_SR_B4.TIF", "SR_B4", "nir08"),
        ("HLS.L30.T17.B05.tif", "B05", "nir08"),
        ("scene_B4.tif", "B4", None),  # of which sensor?
        ("s1_grd_vv.tif", "VV", None),
        ("scene_red.tif", "red", "red"),
        ("redwood_forest.tif", "1", None),
        ("B4_report_7.tif", "B4", None),
    ],
)
def test_bands_from_file_names(tmp_path, file, name, common_name):
    source = open_source(write(tmp_path / file, noise(1, 4, 4)))
    assert source.bands == (SourceBand(name=name, common_name=common_name),)


def test_bands_from_descriptions_before_colours(tmp_path):
    path = write(tmp_path / "a.tif", noise(3, 4, 4), photometric="RGB")
    assert common(open_source(path)) == ["red", "green", "blue"]
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = ("Near Infrared", "Red", None)
    source = open_source(path)
    assert names(source) == ["Near Infrared", "Red", "blue"]
    assert common(source) == ["nir", "red", "blue"]


def test_bands_are_picked_by_number_and_by_name(tmp_path):
    path = write(tmp_path / "a.tif", noise(3, 4, 4), photometric="RGB")
    assert names(open_source(path, bands=["3", "1"])) == ["blue", "red"]
    assert names(open_source(path, bands=["Blue"])) == ["blue"]
    assert names(open_source(path, bands=["nir", "red", "green"])) == [
        "nir", "red", "green",
    ]  # fmt: skip
    picked = open_source(path, bands=["3", "1"])
    np.testing.assert_array_equal(
        picked.read(picked.grid.window)[0], noise(3, 4, 4)[[2, 0]]
    )


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        (["4"], r"has no band 4: its bands are 1, 2, 3$"),
        (["0"], r"has no band 0: its bands are 1, 2, 3$"),
        (["nir"], r"has no band nir: it has 3 bands \(red, green, blue\); give one"),
    ],
)
def test_bands_that_are_not_there(tmp_path, bands, message):
    path = write(tmp_path / "a.tif", noise(3, 4, 4), photometric="RGB")
    with pytest.raises(RasterError, match=message):
        open_source(path, bands=bands)


def described(tmp_path, *descriptions):
    path = write(tmp_path / "a.tif", noise(len(descriptions), 4, 4))
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = descriptions
        dataset.colorinterp = [ColorInterp.undefined] * len(descriptions)
    return open_source(path)


def test_match_by_name_then_common_name_in_any_case(tmp_path):
    source = described(tmp_path, "B02", "b3", "B8A", "RED")
    wanted = [Band(name="red"), Band(name="B8a"), Band(name="B03"), Band(name="B2")]
    assert match_bands(source, wanted) == (3, 2, 1, 0)
    assert match_bands(source, [Band(name="x", common_name="nir08")]) == (2,)
    assert match_bands(source, [Band(name="blue")]) == (0,)


def test_match_by_position_only_where_nothing_has_a_name(tmp_path):
    wanted = [Band(name="red"), Band(name="green")]
    assert match_bands(described(tmp_path, None, None), wanted) == (0, 1)
    with pytest.raises(RasterError, match="lacks the band red"):
        match_bands(described(tmp_path, None, "green"), wanted)
    with pytest.raises(RasterError, match="lacks the bands red, green"):
        match_bands(described(tmp_path, None, None, None), wanted)


def test_a_missing_band_is_named_with_what_there_is(tmp_path):
    source = described(tmp_path, "red", "green")
    with pytest.raises(RasterError) as caught:
        match_bands(source, [Band(name="red"), Band(name="B08", common_name="nir")])
    assert "lacks the band B08 (nir): it has 2 (red, green), the model wants 2 " in str(
        caught.value
    )
    assert "--bands" in str(caught.value)


def test_two_bands_that_may_be_meant_are_refused(tmp_path):
    path = write(tmp_path / "a.tif", noise(2, 4, 4))
    source = open_source(path, bands=["swir1", "swir16"])
    with pytest.raises(RasterError, match=r"may be any of its bands 1 \(swir1\), 2"):
        match_bands(source, [Band(name="B11", common_name="swir16")])


def test_numbers_are_an_order_whatever_names_say(tmp_path):
    """A file stored blue, green, red, which GDAL tags red, green, blue."""
    path = write(tmp_path / "bgr.tif", noise(3, 4, 4), photometric="RGB")
    wanted = [Band(name=n) for n in ("red", "green", "blue")]
    source = for_model(open_source(path, bands=["3", "2", "1"]), Wanted(wanted))
    np.testing.assert_array_equal(
        source.read(source.grid.window)[0], noise(3, 4, 4)[::-1]
    )
    assert [band.number for band in source.bands] == [3, 2, 1]
    assert "red <- band 3 (blue)" in source.notes[0]
    same = for_model(open_source(path, bands=["1", "2", "3"]), Wanted(wanted))
    np.testing.assert_array_equal(same.read(same.grid.window)[0], noise(3, 4, 4))
    assert same.notes == ()
    # More numbers than the model has bands are a choice: the names tell which.
    source = open_source(path, bands=["3", "2", "1"])
    assert match_bands(source, wanted[:2]) == (2, 1)


def test_some_bands_are_named_by_their_numbers(tmp_path):
    path = write(tmp_path / "a.tif", noise(4, 4, 4), photometric="RGB", alpha="NO")
    source = open_source(path, bands=["nir=4", "green=1"])
    assert names(source) == ["green", "2", "blue", "nir"]
    assert match_bands(source, [Band(name="nir"), Band(name="green")]) == (3, 0)
    source = open_source(path, bands=["red=1", "nir=4"])  # red is called so already
    assert names(source) == ["red", "green", "blue", "nir"]
    with pytest.raises(RasterError, match="'red' should be NAME=NUMBER"):
        open_source(path, bands=["nir=4", "red"])
    with pytest.raises(RasterError, match="has no band 7"):
        open_source(path, bands=["nir=7"])


def test_a_raster_without_names_is_taken_by_position_with_a_line(tmp_path):
    path = write(
        tmp_path / "a.tif", noise(4, 4, 4, dtype="uint16"), photometric="MINISBLACK"
    )
    wanted = Wanted([Band(name=n) for n in ("blue", "green", "red", "nir")])
    notes = " ".join(for_model(open_source(path), wanted).notes)
    assert "bands by position: blue <- band 1" in notes
    asked = open_source(path, bands=["4", "3", "2", "1"])
    assert "by position" not in " ".join(for_model(asked, wanted).notes)


def test_a_model_without_names_takes_named_bands_by_position(tmp_path):
    path = write(tmp_path / "a.tif", noise(3, 4, 4), photometric="RGB")
    wanted = Wanted([Band(name="1"), Band(name="2"), Band(name="3")])
    source = for_model(open_source(path), wanted)
    np.testing.assert_array_equal(source.read(source.grid.window)[0], noise(3, 4, 4))
    pairs = "1 <- band 1 (red), 2 <- band 2 (green), 3 <- band 3 (blue)"
    assert source.notes == (f"{path}: bands by position: {pairs}",)


def test_a_band_that_is_almost_called_so_is_asked_for(tmp_path):
    path = write(tmp_path / "a.tif", noise(3, 4, 4), photometric="RGB")
    with pytest.raises(RasterError, match=r"no band gren \(did you mean green\?\)"):
        open_source(path, bands=["gren"])
    for asked, meant in (("ndvj", "ndvi"), ("NDWI2", "ndwi")):
        with pytest.raises(RasterError, match=rf"did you mean {meant}\?"):
            for_model(open_source(path), Wanted([Band(name=asked)]))
    with pytest.raises(RasterError, match=r"lacks the band nir: "):  # not nbr
        for_model(open_source(path), Wanted([Band(name="nir")]))


@pytest.mark.parametrize("last", ["alpha", "Alpha"])
def test_alpha_that_is_called_alpha_stays_validity(rgba, last):
    path, pixels = rgba
    source = open_source(path, bands=["r", "g", "b", last])
    assert names(source) == ["r", "g", "b"]
    np.testing.assert_array_equal(source.read(source.grid.window)[1], pixels[3] != 0)


def test_alpha_that_is_given_a_name_and_number_is_a_band(rgba):
    path, pixels = rgba
    source = open_source(path, bands=["nir=4"])
    assert common(source) == ["red", "green", "blue", "nir"]
    read, valid = source.read(source.grid.window)
    np.testing.assert_array_equal(read[3], pixels[3])
    assert valid.all()


# --- nodata that nobody tells of ---


def test_a_picture_of_bytes_is_nodata_where_all_its_bands_are(tmp_path):
    pixels = noise(3, 8, 8).clip(1)
    pixels[2, 3, 3] = 0  # a red roof has no blue
    pixels[:, :, 0] = 0
    path = write(tmp_path / "a.tif", pixels, photometric="RGB", nodata=0)
    with rasterio.open(path) as dataset:
        theirs = dataset.dataset_mask() > 0
    for source in (open_source(path), open_source(path).select([2])):
        np.testing.assert_array_equal(source.read(source.grid.window)[1], theirs)
    strict = open_source(path, nodata_rule="any")
    assert not strict.read(strict.grid.window)[1][3, 3]
    reflectance = write(tmp_path / "b.tif", pixels.astype("uint16"), nodata=0)
    for rule, valid in (("auto", False), ("any", False), ("all", True)):
        source = open_source(reflectance, nodata_rule=rule)
        assert source.read(source.grid.window)[1][3, 3] == valid


@pytest.mark.parametrize("where", ["edge", "inside", "few"])
def test_a_constant_frame_without_a_tag_is_asked_for(tmp_path, where):
    pixels = noise(2, 700, 900, dtype="uint16") + 1
    frame = {
        "edge": np.s_[:, :60],
        "inside": np.s_[:, 300:400, 300:600],
        "few": np.s_[:, :2, :2],
    }[where]
    pixels[frame] = 0
    wanted = Wanted([Band(name="1"), Band(name="2")])
    path = write(tmp_path / "a.tif", pixels)
    told = for_model(open_source(path), wanted).notes
    assert len(told) == (where == "edge")
    if told:
        assert "% of a sample is 0 in all bands, out to its edge" in told[0]
        assert told[0].endswith("--nodata 0")
    assert for_model(open_source(path, nodata=0), wanted).notes == ()
    # Never applied by itself.
    source = for_model(open_source(path), wanted)
    assert source.read(source.grid.window)[1].all()


def test_a_frame_of_a_value_in_the_middle_is_asked_for(tmp_path):
    decibels = noise(1, 200, 300).astype("float32") / 8 - 20
    decibels[:, :20] = 0  # between the darkest and the brightest
    told = for_model(
        open_source(write(tmp_path / "s.tif", decibels)), Wanted([Band(name="1")])
    )
    assert told.notes[0].endswith("--nodata 0")


def test_a_frame_is_found_in_overviews_and_in_mosaics(tmp_path):
    pixels = noise(2, 700, 900, dtype="uint16") + 1
    pixels[:, :60] = 0
    wanted = Wanted([Band(name="1"), Band(name="2")])
    path = write(tmp_path / "a.tif", pixels, tiled=True, blockxsize=128, blockysize=128)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4, 8])
    assert "is 0 in all bands" in for_model(open_source(path), wanted).notes[0]
    moved = UTM["transform"] @ Affine.translation(900, 0)
    write(tmp_path / "b.tif", pixels, transform=moved)
    assert "is 0 in all bands" in for_model(open_source(tmp_path), wanted).notes[0]


# --- many bands ---


def test_opening_many_bands_takes_time_in_proportion(tmp_path):
    """Three times the bands, at most some four times the seconds; it was nine."""
    seconds = {}
    for count in (600, 1800):
        path = write(tmp_path / f"{count}.tif", noise(count, 2, 2), interleave="band")
        begun = time.process_time()
        assert len(open_source(path).bands) == count
        seconds[count] = time.process_time() - begun
    assert seconds[1800] < 6 * seconds[600] + 0.5


# --- recipes, threads ---


def test_a_source_travels_and_reads_from_many_threads(tmp_path):
    pixels = noise(2, 90, 80, dtype="uint16")
    path = write(tmp_path / "a.tif", pixels, tiled=True, blockxsize=16, blockysize=16)
    source = open_source(path)
    source.read(source.grid.window)  # it now holds an open dataset
    travelled = pickle.loads(pickle.dumps(source))
    assert isinstance(travelled, Source)

    def same(window):
        read, valid = travelled.read(window)
        return bool((read == pixels[:, *window.slices]).all() and valid.all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(same, windows(90, 80, count=200)))


def test_a_fork_opens_its_own(tmp_path, monkeypatch):
    """Two processes that share a file's descriptor move each other's position."""
    path = str(write(tmp_path / "a.tif", noise(1, 4, 4)))
    handles = Handles()
    ours = handles.get(path)
    assert handles.get(path) is ours
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert handles.get(path) is not ours


def test_few_files_stay_open(tmp_path):
    paths = [str(write(tmp_path / f"{i}.tif", noise(1, 4, 4))) for i in range(4)]
    handles = Handles(limit=2)
    opened = [handles.get(path) for path in paths]
    assert [dataset.closed for dataset in opened] == [True, True, False, False]


def test_a_file_that_is_replaced_is_noticed(tmp_path):
    path = write(tmp_path / "a.tif", noise(1, 4, 4))
    source = open_source(path)
    source.read(source.grid.window)
    time.sleep(0.01)
    write(path, noise(1, 4, 4, seed=9))
    with pytest.raises(RasterError, match=r"a.tif was replaced or changed"):
        source.read(source.grid.window)


def test_windows_outside_are_refused(tmp_path):
    source = open_source(write(tmp_path / "a.tif", noise(1, 4, 6)))
    with pytest.raises(RasterError, match=r"columns 4 … 7 are not inside its 4 x 6"):
        source.read(Window(y=0, x=4, height=1, width=3))


def test_a_file_is_the_same_from_any_folder(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tif", np.ones((1, 4, 5), np.uint8))
    monkeypatch.chdir(tmp_path)
    assert open_source("a.tif").identity == open_source(str(path)).identity


def test_identity_changes_with_the_file(tmp_path):
    path = write(tmp_path / "a.tif", noise(1, 4, 4))
    before = open_source(path).identity
    assert before == open_source(path).identity
    time.sleep(0.01)
    write(path, noise(1, 4, 4, seed=9))
    assert before != open_source(path).identity


# --- refusals ---


def test_what_is_no_raster(tmp_path):
    (tmp_path / "text.tif").write_text("no raster")
    (tmp_path / "empty").mkdir()
    for source, message in [
        (tmp_path / "none.tif", "cannot open .*none.tif: No such file or directory$"),
        (tmp_path / "text.tif", "text.tif: not recognized as being in a supported"),
        (tmp_path / "empty", "is a folder without rasters"),
        (f"{tmp_path}/*.img", r"no file matches .*\*\.img$"),
        ("", "path of the raster is empty"),
        (7, "a raster is a path, a URL, .* got int$"),
        ([], "a raster is a path, a URL, .* got list$"),
    ]:
        with pytest.raises(RasterError, match=message) as caught:
            open_source(source)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        "WMTS:https://host/Capabilities.xml,layer=ortho",
        "https://host/ows?LAYERS=ortho&SERVICE=WMS",
        "https://host/{z}/{x}/{y}.png",
        "tiles.xml",
    ],
)
def test_a_map_service_is_no_raster(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    Path("tiles.xml").write_text('<GDAL_WMS><Service name="TMS"/></GDAL_WMS>')
    with pytest.raises(RasterError, match=r"is a map service: .* gdal_translate"):
        open_source(given)


def test_a_broken_file_is_found_out_at_the_latest_when_it_is_read(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (1, 256, 256)).astype(np.uint8)
    path = Path(write(tmp_path / "a.tif", pixels, compress="deflate", blockysize=16))
    whole = open_raster(str(path), probe=False)
    data, before = path.read_bytes(), path.stat()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(RasterError, match=r"cannot open .*a.tif: "):
        open_source(path)
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # rot, not replacement
    with pytest.raises(RasterError, match=r"cannot read .*a.tif: ") as caught:
        whole.read(whole.grid.window)
    assert "\n" not in str(caught.value)


def test_no_crs_is_allowed_and_told(tmp_path):
    path = write(tmp_path / "a.tif", noise(1, 4, 4), crs=None)
    with pytest.warns(UserWarning, match="a.tif has no coordinate reference system"):
        source = open_source(path)
    assert source.grid.crs is None


def test_rotated_and_south_up_grids_are_kept(tmp_path):
    for transform in (
        Affine.translation(5e5, 5e6) @ Affine.rotation(30) @ Affine.scale(10, -10),
        Affine(10, 0, 5e5, 0, 10, 5e6),
    ):
        path = write(tmp_path / "a.tif", noise(1, 4, 4), transform=transform)
        assert open_source(path).grid.transform.almost_equals(transform)


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("https://me:pw@host/a/b.tif?sig=abc&x=1", "https://host/a/b.tif?…"),
        ("cannot open b.tif?sv=1&sig=abc, sorry", "cannot open b.tif?…, sorry"),
        ("/vsicurl/https://host/b.tif?token=abc", "/vsicurl/https://host/b.tif?…"),
        ("PG:dbname=x password=abc", "PG:dbname=x password=…"),
        ("s3://bucket/key.tif", "s3://bucket/key.tif"),
        ("/data/why? not.tif", "/data/why? not.tif"),
    ],
)
def test_secrets_are_not_shown(told, shown):
    assert redact(told) == shown


# --- over a network ---


class Ranges(BaseHTTPRequestHandler):
    """A file server that understands byte ranges, and asks for a signature."""

    def __init__(self, *args, folder, served):
        self.folder, self.served = folder, served
        super().__init__(*args)

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        path, _, query = self.path.partition("?")
        file = self.folder / path.lstrip("/")
        if query != "sig=SECRET" or not file.is_file():
            self.send_response(403 if file.is_file() else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = file.read_bytes()
        span = self.headers.get("Range")
        if span:
            first, last = span.removeprefix("bytes=").split("-")
            start, stop = int(first), min(int(last) + 1, len(data))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
            data = data[start:stop]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", '"v1"')
        self.end_headers()
        if body:
            self.served.append(len(data))
            self.wfile.write(data)

    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture
def server(tmp_path):
    served = []
    handler = partial(Ranges, folder=tmp_path, served=served)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", served
        httpd.shutdown()
        thread.join()


def test_a_remote_cog_is_read_in_part(server, tmp_path):
    url, served = server
    pixels = np.random.default_rng(0).integers(0, 255, (1, 2048, 2048)).astype(np.uint8)
    path = Path(
        write(tmp_path / "a.tif", pixels, tiled=True, blockxsize=256, blockysize=256)
    )
    source = open_source(f"{url}/a.tif?sig=SECRET")
    window = Window(y=700, x=900, height=60, width=50)
    read, valid = pickle.loads(pickle.dumps(source)).read(window)
    np.testing.assert_array_equal(read, pixels[:, *window.slices])
    assert valid.all()
    assert 0 < sum(served) < path.stat().st_size / 4
    assert len(served) <= 4  # header, its rest, and the four tiles at once or by row
    assert source.identity["etag"] == '"v1"'
    assert "SECRET" not in source.name + str(source.identity) + repr(source)


def test_a_remote_cog_is_fetched_by_blocks(server, tmp_path):
    """Each block its tiles, once: those at its rim come with its neighbour too."""
    from geoseg.inference.workflow import run_plan
    from geoseg.testing import LocalModel, identity_card

    url, served = server
    pixels = np.random.default_rng(0).random((3, 512, 512)).astype(np.float32)
    path = Path(
        write(tmp_path / "a.tif", pixels, tiled=True, blockxsize=64, blockysize=64)
    )
    model = LocalModel(card=identity_card(3, window=96, overlap=16))
    out = {}
    for source in (str(path), f"{url}/a.tif?sig=SECRET"):
        how = {"model": model, "block": 240, "bands": ["1", "2", "3"]}
        plan = small.make_plan(source, chunk=64, **how)
        masks, _ = run_plan(plan, out=tmp_path / f"{len(out)}.zarr", progress=False)
        out[source] = masks.read("classes", masks.grid.window)
    here, there = out.values()
    np.testing.assert_array_equal(here, there)
    most = (320 / 240) ** 2  # a block of 240 px and its margin touch 320 px of tiles
    assert path.stat().st_size < sum(served) < path.stat().st_size * most
    assert len(served) < 64 * 3  # tiles beside each other come together
    assert b"SECRET" not in b"".join(
        p.read_bytes() for p in (tmp_path / "1.zarr").rglob("*") if p.is_file()
    )


@pytest.mark.parametrize("file", ["a.tif?sig=WRONG_SECRET", "none.tif?sig=SECRET"])
def test_a_remote_refusal_says_why_and_no_secret(server, tmp_path, file):
    write(tmp_path / "a.tif", noise(1, 4, 4))
    with pytest.raises(
        RasterError, match=r"cannot open http://.*\.tif\?…: .*40"
    ) as caught:
        open_source(f"{server[0]}/{file}")
    assert "SECRET" not in str(caught.value)
    assert "\n" not in str(caught.value)


# --- bands that tell of others ---


@pytest.mark.parametrize("bands", [None, ["nir=2"]])
def test_flags_beside_bands_are_left_out_and_named(tmp_path, bands):
    called = ("B4", "B8", "QA60", "MSK_CLDPRB", "dataMask")
    pixels = noise(5, 4, 4)
    pixels[4] = 1
    pixels[4, 0, 0] = 0
    source = open_source(
        write_tif(tmp_path / "a.tif", pixels, names=called), bands=bands
    )
    assert len(source.bands) == 2
    assert "left out, as they are no bands to learn from: QA60, MSK" in source.notes[0]
    assert source.read(source.grid.window)[1].sum() == 15  # by dataMask


@pytest.mark.parametrize("bands", [["B4", "QA60"], ["1", "2"], ["red", "flags"]])
def test_flags_that_are_asked_for_are_bands(tmp_path, bands):
    path = write_tif(tmp_path / "a.tif", noise(2, 4, 4), names=("B4", "QA60"))
    source = open_source(path, bands=bands)
    assert (len(source.bands), source.notes) == (2, ())


def test_a_file_of_flags_alone_stays(tmp_path):
    path = write_tif(tmp_path / "a.tif", noise(1, 4, 4), names=("SCL",))
    assert names(open_source(path)) == ["SCL"]


def test_bands_that_only_landsat_8_has_say_which_they_are(tmp_path):
    called = ("SR_B4", "SR_B5", "SR_B6")
    path = write_tif(tmp_path / "a.tif", noise(3, 4, 4), names=called)
    assert common(open_source(path)) == ["red", "nir08", "swir16"]
