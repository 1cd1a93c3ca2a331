"""What stored numbers mean: by tags, products and items; asked for by the model."""

from dataclasses import dataclass

import numpy as np
import pytest
import rasterio
from affine import Affine
from tifs import write_tif

from geoseg.models.card import Band
from geoseg.rasters.numbers import as_reflectance, in_numbers
from geoseg.rasters.open import for_model, open_source

UTM = {"crs": "EPSG:32633", "transform": Affine(10, 0, 500000, 0, -10, 5000000)}


@dataclass
class Wanted:
    bands: tuple
    numbers: str = "DN"
    nodata: float | None = None
    times: None = None


def scaled(path, pixels, scale=1e-4, offset=-0.1, x=0, names=("red", "nir"), **more):
    transform = UTM["transform"] @ Affine.translation(x, 0)
    profile = UTM | {"transform": transform} | more
    names = names[: len(pixels)]
    return write_tif(path, pixels, names=names, scale=scale, offset=offset, **profile)


def ground(seed=0, shape=(2, 40, 50)):
    return np.random.default_rng(seed).integers(1, 6000, shape).astype("uint16")


def whole(source):
    return source.read(source.grid.window)


def test_the_numbers_of_a_file_stay_and_what_they_mean_is_known(tmp_path):
    source = open_source(scaled(tmp_path / "a.tif", ground(), nodata=0))
    assert {(b.scale, b.offset) for b in source.bands} == {(1e-4, -0.1)}
    np.testing.assert_array_equal(whole(source)[0], ground())


def test_reflectance_is_what_rasterio_reads_and_scales(tmp_path):
    pixels = ground()
    pixels[0, 3, 4] = 0
    path = scaled(tmp_path / "a.tif", pixels, nodata=0)
    source = open_source(path, units="reflectance")
    values, valid = whole(source)
    assert source.dtype == values.dtype == np.float32
    np.testing.assert_allclose(values, pixels * 1e-4 - 0.1, atol=1e-6)
    assert not valid[3, 4]
    assert valid.sum() == valid.size - 1
    assert any("number x 0.0001 - 0.1" in note for note in source.notes)
    assert source.identity != open_source(path).identity
    again = as_reflectance(source)
    assert again is source
    second = source.select([1])
    np.testing.assert_array_equal(whole(second)[0][0], values[1])


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ("DN", lambda dn: dn),
        ("reflectance", lambda dn: (dn * 1e-4 - 0.1).astype(np.float32)),
        ("s2-l2a-before-0400", lambda dn: np.clip(dn.astype(int) - 1000, 0, None)),
    ],
)
def test_a_model_gets_the_numbers_it_was_trained_on(tmp_path, numbers, expected):
    source = open_source(scaled(tmp_path / "a.tif", ground()))
    wanted = Wanted((Band(name="nir"), Band(name="red")), numbers)
    given = for_model(source, wanted)
    np.testing.assert_allclose(
        whole(given)[0], expected(ground())[[1, 0]], rtol=1e-6, atol=1e-6
    )
    assert len(given.notes) == 1
    assert given.dtype.kind == ("f" if numbers == "reflectance" else "u")


def test_dark_pixels_below_the_offset_are_dark_and_valid(tmp_path):
    pixels = np.full((1, 4, 4), 900, np.uint16)
    pixels[0, 0, 0] = 0
    source = open_source(scaled(tmp_path / "a.tif", pixels, nodata=0))
    values, valid = whole(in_numbers(source, "s2-l2a-before-0400"))
    assert values[0, 1, 1] == 0
    assert valid[1, 1]
    assert not valid[0, 0]


def test_what_is_not_known_is_said(tmp_path):
    path = scaled(tmp_path / "a.tif", ground(), scale=1, offset=0)
    given = in_numbers(open_source(path), "reflectance")
    np.testing.assert_array_equal(whole(given)[0], ground())
    assert "does not say how" in given.notes[0]
    bytes_ = scaled(tmp_path / "b.tif", ground().astype("uint8"), 1, 0)
    assert in_numbers(open_source(bytes_), "reflectance").notes == ()


def test_numbers_of_one_mosaic_are_of_one_kind(tmp_path):
    old, new = ground(1), ground(2)
    scaled(tmp_path / "a.tif", old, offset=0.0)
    scaled(tmp_path / "b.tif", new, offset=-0.1, x=50)
    source = open_source(tmp_path)
    values, _ = whole(source)
    np.testing.assert_array_equal(values[:, :, :50], old)
    np.testing.assert_array_equal(
        values[:, :, 50:], np.clip(new.astype(int) - 1000, 0, None)
    )
    assert "2 kinds" in source.notes[0]
    assert {b.offset for b in source.bands} == {0.0}


def test_rasters_that_are_silent_in_a_mosaic_are_left_and_named(tmp_path):
    scaled(tmp_path / "a.tif", ground(1), 1, 0)
    scaled(tmp_path / "b.tif", ground(2), x=50)
    source = open_source(tmp_path)
    np.testing.assert_array_equal(whole(source)[0][:, :, 50:], ground(2))
    assert "1 of its 2 rasters do not say" in source.notes[0]


def test_an_index_is_of_reflectance_where_the_file_says_how(tmp_path):
    from geoseg.models.classical.expression import parse
    from geoseg.models.load import model_recipe

    assert parse("ndvi").is_ratio
    assert parse("2.5*(nir-red)/(nir+6*red+1)").is_ratio
    assert not parse("(nir-red)/2").is_ratio
    assert model_recipe("threshold:ndvi:0.2").card.numbers == "reflectance"
    assert model_recipe("threshold:nir>1000").card.numbers == "DN"


def test_bands_of_which_only_some_tell_are_left_and_named(tmp_path):
    path = scaled(tmp_path / "a.tif", ground())
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (1.0, 1e-4), (0.0, 0.0)
    wanted = Wanted((Band(name="red"), Band(name="nir")), numbers="reflectance")
    source = for_model(open_source(path), wanted)
    np.testing.assert_array_equal(whole(source)[0], ground())
    assert "nir tells how its numbers become reflectance, red does not" in (
        " ".join(source.notes)
    )
    heat = open_source(path, bands=["lwir11", "nir"])  # which is none
    assert in_numbers(heat, "reflectance").dtype == np.float32


def test_floats_with_a_scale_may_be_in_units_already(tmp_path):
    path = scaled(tmp_path / "a.tif", ground().astype("float32"), offset=0)
    source = in_numbers(open_source(path), "reflectance")
    assert "its numbers are taken as reflectance: reflectance = number x 0.0001" in (
        " ".join(source.notes)
    )


def test_rasters_to_learn_from_are_of_one_kind_and_the_card_says_which(tmp_path):
    from geoseg.rasters.numbers import numbers_of
    from geoseg.rasters.open import for_training

    old = open_source(scaled(tmp_path / "a.tif", ground(1), offset=0.0))
    new = open_source(scaled(tmp_path / "b.tif", ground(2), offset=-0.1))
    silent = open_source(scaled(tmp_path / "c.tif", ground(3), 1, 0))
    assert numbers_of([old], "file") == "s2-l2a-before-0400"
    assert numbers_of([new], "file") == "DN"
    assert numbers_of([old, silent], "file") == "DN"
    assert numbers_of([new], "reflectance") == "reflectance"
    both = for_training([old, new])
    assert numbers_of(both, "file") == "s2-l2a-before-0400"
    np.testing.assert_array_equal(
        whole(both[1])[0], np.clip(ground(2).astype(int) - 1000, 0, None)
    )
    assert all("2 kinds" in s.notes[-1] for s in both)
