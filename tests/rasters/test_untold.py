"""What items do not tell in the usual place: names, numbers and classes of bands."""

import json
import re

import numpy as np
import pytest
import rasterio
from dated_scenes import Scenes, whole

import geoseg
from geoseg.core.series_options import SeriesOptions
from geoseg.errors import RasterError, SceneMissingError
from geoseg.rasters import layers
from geoseg.rasters.open import open_source
from geoseg.rasters.open_scenes import open_asked
from geoseg.rasters.scene_bands import bands_there, entries_of

SEED = 29


@pytest.fixture
def scenes(tmp_path):
    return Scenes(tmp_path)


@pytest.fixture
def rng():
    return np.random.default_rng(SEED)


def opened(what, *, bands=None, **how):
    options = SeriesOptions(**{"mask": ["none"], **how})
    return open_asked(what, options, bands=bands)


def pixels_of(source):
    return source.read(source.grid.window)[0]


def test_scale_and_offset_of_a_band_without_a_name(scenes, rng):
    """As MODIS' temperature has them, in `raster:bands` only."""
    stored = whole(rng)
    about = {"raster:bands": [{"scale": 0.02, "offset": 1.5}], "roles": ["data"]}
    scenes.add("a", "2022-02-02T00:00:00Z", {"LST_Day_1km": stored}, asset=about)
    source = opened(scenes.save())
    assert [band.name for band in source.bands] == ["LST_Day_1km"]
    assert np.allclose(pixels_of(source)[0], stored * 0.02 + 1.5)


def test_whole_numbers_that_nobody_explains_are_said(scenes, rng):
    about = {"roles": ["data"]}
    scenes.add("a", "2022-02-02T00:00:00Z", {"red": whole(rng)}, asset=about)
    assert any("the numbers of red" in note for note in opened(scenes.save()).notes)
    scenes.items.clear()
    floats = {"vv": rng.random((16, 16), np.float32)}
    scenes.add("b", "2022-02-02T00:00:00Z", floats, asset=about)
    assert not any("numbers" in note for note in opened(scenes.save("b.json")).notes)


@pytest.mark.parametrize("named", [True, False])
def test_several_bands_of_a_file_of_which_the_item_tells_none(scenes, rng, named):
    """As orders of PlanetScope come; the first band alone was taken, in silence."""
    stored = np.stack([whole(rng) for _ in range(4)])
    item = scenes.add("a", "2022-02-02T00:00:00Z", {"analytic": stored})
    if named:
        with rasterio.open(scenes.folder / "a-analytic.tif", "r+") as file:
            file.descriptions = ("blue", "green", "red", "nir")
    source = opened(scenes.save())
    assert np.array_equal(pixels_of(source), stored)
    wanted = ["nir", "red"] if named else ["4", "3"]
    item["assets"]["analytic"]["raster:bands"] = [{"scale": 1e-4}] * 4
    made = pixels_of(opened(scenes.save(), bands=wanted))
    assert np.allclose(made, stored[[3, 2]] / 1e4)


@pytest.mark.parametrize("rule", [None, "mean", "percentile:50"])
def test_classes_are_not_averaged(scenes, rule):
    """Between trees (2) and bare ground (8) lies none of them: it was 5."""
    about = {"classification:classes": [{"value": 2, "name": "trees"}]}
    for year, value in ((2020, 2), (2021, 8)):
        pixels = np.full((16, 16), value, np.uint8)
        scenes.add(str(year), f"{year}-07-01T00:00:00Z", {"map": pixels}, asset=about)
    path = scenes.save()
    with pytest.raises(RasterError, match="map holds classes"):
        opened(path, reduce=rule)
    assert (pixels_of(opened(path, reduce="first")) == 2).all()
    kept = pixels_of(opened(path, reduce=rule, every="year"))
    assert (kept[0] == 2).all()
    assert (kept[1] == 8).all()


def test_classes_come_onto_other_pixels_as_they_are(scenes, rng):
    about = {"file:values": [{"values": [1], "summary": "water"}]}
    stored = rng.choice(np.array([1, 200], np.uint8), (16, 16))
    scenes.add("a", "2021-07-01T00:00:00Z", {"data": stored}, asset=about)
    like = scenes.like(height=20, width=20, res=7)
    assert set(np.unique(pixels_of(opened(scenes.save(), like=like)))) <= {1, 200}


@pytest.mark.parametrize(
    "key",
    [
        "scl_60m",
        "SCL_20m",
        "AOT_10m",
        "wvp_10m",
        "TCI_10m",
        "overview",
        "QA_PIXEL.TIF",
        "browse",
    ],
)
def test_what_is_beside_the_bands_is_none_of_them(scenes, rng, key):
    item = scenes.add("a", "2022-02-02T00:00:00Z", {"red": whole(rng), key: whole(rng)})
    assert bands_there([entries_of(item)]) == ["red"]


RED: dict = {"eo:bands": [{"name": "B4", "common_name": "red"}], "roles": ["data"]}


def collection(folder, asset, name="scenes"):
    told = {"type": "Collection", "id": name, "item_assets": {"image": asset}}
    (folder / "collection.json").write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("of_all", "own", "properties", "tags", "scale", "offset"),
    [
        ({"raster:bands": [{"scale": 2e-5, "offset": -0.2}]}, {}, {}, (), 2e-5, -0.2),
        ({"bands": [{"eo:common_name": "red"}], "raster:scale": 2e-5}, {}, {}, (),
         2e-5, 0),
        ({"raster:bands": [{"scale": 2e-5}]}, {}, {}, (1e-4, -0.1), 1e-4, -0.1),
        ({"raster:bands": [{"scale": 2e-5}]}, {},
         {"s2:processing_baseline": "05.00"}, (), 1e-4, -0.1),
        ({"raster:bands": [{"scale": 2e-5}]}, {"raster:bands": [{"scale": 1e-3}]}, {},
         (), 1e-3, 0),
        ({"raster:bands": [{"scale": 1}, {"scale": 2}]}, {}, {}, (), 1, 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("linked", [True, False])
def test_a_collection_tells_what_its_items_leave_open(
    scenes, rng, of_all, own, properties, tags, scale, offset, linked
):
    """`item_assets` count less than the item, its file and its baseline."""
    stored = whole(rng)
    item = scenes.add("a", "2022-02-02T00:00:00Z", {"image": stored}, asset=own)
    item["properties"] |= properties
    if linked:
        item["links"].append({"rel": "collection", "href": "./collection.json"})
    if tags:
        with rasterio.open(scenes.folder / "a-image.tif", "r+") as file:
            file.scales, file.offsets = (tags[0],), (tags[1],)
    collection(scenes.folder, RED | of_all)
    source = opened(scenes.save())
    assert [band.common_name for band in source.bands] == ["red"]
    assert np.allclose(pixels_of(source)[0], stored * scale + offset, atol=1e-6)


def test_nodata_and_classes_of_a_collection(scenes):
    stored = np.repeat(np.array([[0, 3, 8, 9]], np.uint8), 4, 0)
    scenes.add("a", "2022-02-02T00:00:00Z", {"image": stored})
    classes = [{"value": 3, "name": "water"}]
    told = {"bands": [{"name": "map", "nodata": 9}], "classification:classes": classes}
    collection(scenes.folder, told)
    source = opened(scenes.save())
    assert source.scenes[0].layers[0].classes
    assert np.array_equal(np.isnan(pixels_of(source)[0]), stored == 9)
    single = scenes.folder / "item.json"
    single.write_text(json.dumps(scenes.items[0]))
    assert not open_source(str(single)).read(source.grid.window)[1][:, 3].any()


@pytest.mark.parametrize(
    ("name", "href"),
    [("others", "./collection.json"), ("scenes", "https://host.example/c.json")],
)
def test_another_collection_tells_nothing(scenes, rng, name, href):
    stored = whole(rng)
    item = scenes.add("a", "2022-02-02T00:00:00Z", {"image": stored})
    item["links"].append({"rel": "collection", "href": href})
    collection(scenes.folder, {"raster:bands": [{"scale": 2e-5}]}, name)
    assert np.allclose(pixels_of(opened(scenes.save()))[0], stored)


def test_numbers_told_with_the_names_of_bands(scenes, rng):
    """As the Brazil Data Cube has them, in `eo:bands` of an item."""
    stored = whole(rng).astype(np.int16)
    stored[:2] = -9999
    band = {"name": "BAND15", "common_name": "red", "scale": 1e-4, "nodata": -9999}
    told = {"eo:bands": [band]}
    item = scenes.add("a", "2022-02-02T00:00:00Z", {"BAND15": stored})
    item["properties"] |= told
    made = pixels_of(opened(scenes.save(), bands=["red"]))[0]
    want = np.where(stored == -9999, np.nan, stored / 1e4)
    assert np.allclose(made, want, equal_nan=True)


DEA = {
    "ga_s2am_ard_3": {"nbart_nir_1": "nir", "nbart_swir_2": "swir16"},
    "ga_ls8c_ard_3": {"nbart_nir": "nir08", "nbart_swir_2": "swir22"},
}


def test_bands_and_masks_of_digital_earth_australia(scenes, rng):
    """`nbart_swir_2` is another band in Sentinel-2 than in Landsat."""
    fmask = rng.integers(0, 6, (16, 16)).astype(np.uint8)
    stored = {}
    for n, (name, bands) in enumerate(DEA.items()):
        stored[name] = {band: whole(rng) for band in bands}
        scenes.add(name, f"2022-0{n + 1}-02T00:00:00Z", stored[name],
                   quality=("oa_fmask", fmask, 10), collection=name)  # fmt: skip
        for band in bands:
            scenes.items[-1]["assets"][band]["eo:bands"] = [{"name": band}]
        entries = entries_of(scenes.items[-1])
        assert [e.guessed for e in entries] == [*bands.values()]
    path = scenes.save()
    with pytest.raises(RasterError, match="swir16 in some items and swir22"):
        opened(path, bands=["nbart_swir_2"])
    made = pixels_of(opened(path, bands=["swir22"], mask=["clouds", "snow"]))[0]
    want = stored["ga_ls8c_ard_3"]["nbart_swir_2"]
    hidden = np.isin(fmask, (0, 2, 4))
    assert np.allclose(made, np.where(hidden, np.nan, want), equal_nan=True)


def test_a_mask_of_planet_is_no_band_of_the_scene(scenes, rng):
    keys = {"20220202_3B_AnalyticMS_SR_clip_tif": np.stack([whole(rng)] * 4)}
    item = scenes.add("a", "2022-02-02T00:00:00Z", keys)
    udm = np.zeros((8, 16, 16), np.uint8)
    item["assets"] |= scenes.add("b", "2022-02-02T00:00:00Z", {"x_udm2": udm})["assets"]
    scenes.items.pop()
    assert len(opened(scenes.save()).bands) == 4


def test_pictures_alone_are_no_scenes(scenes, rng):
    about = {"roles": ["visual"]}
    scenes.add("a", "2022-02-02T00:00:00Z", {"visual": whole(rng)}, asset=about)
    path = scenes.save()
    for like in (None, scenes.like()):
        with pytest.raises(RasterError, match="no rasters but pictures"):
            opened(path, like=like)


def test_where_else_a_file_lies_is_said(scenes, rng, monkeypatch):
    monkeypatch.setattr(layers, "_PAUSE", 0)
    item = scenes.add("a", "2022-02-02T00:00:00Z", {"red": whole(rng)})
    other = "https://user:secret@files.example/a.tif?sig=hidden"
    told = {"href": "./gone.tif", "alternate": {"https": {"href": other}}}
    item["assets"]["red"] |= told
    with pytest.raises(SceneMissingError) as failed:
        opened(scenes.save())
    assert "files.example/a.tif" in str(failed.value)
    assert not {"secret", "hidden"} & {*re.split(r"\W", str(failed.value))}


def test_what_a_search_has_found_is_composed(scenes, rng):
    stored = whole(rng).astype(np.float32)
    scenes.add("a", "2022-02-02T00:00:00Z", {"red": stored})
    made = geoseg.compose(geoseg.search(scenes.save()), mask=["none"])
    assert np.array_equal(made.values[0], stored)
