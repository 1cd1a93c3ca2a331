"""Scenes of many dates on one grid: which count, their numbers, their masks."""

import json
import pickle
import warnings
from datetime import UTC, datetime

import numpy as np
import pytest
import rasterio
from dated_scenes import CRS, Scenes, whole
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.cli import run
from geoseg.core.grid import Window
from geoseg.core.series_options import QUALITY, SeriesOptions
from geoseg.errors import RasterError, SceneMissingError
from geoseg.rasters.aoi import clipped
from geoseg.rasters.observations import age, observations, scene
from geoseg.rasters.open import open_source
from geoseg.rasters.open_scenes import open_asked
from geoseg.rasters.quality_bands import hidden_pixels
from geoseg.rasters.reduce import chosen, reduced, taken

SEED = 18


@pytest.fixture
def scenes(tmp_path):
    return Scenes(tmp_path)


@pytest.fixture
def rng():
    return np.random.default_rng(SEED)


def opened(what, **how):
    names = ("bands", "aoi", "nodata", "quality", "beside")
    others = {name: how.pop(name) for name in names if name in how}
    options = SeriesOptions(**{"mask": ["none"], **how})
    return open_asked(what, options, **others)


def pixels_of(source):
    return source.read(source.grid.window)[0]


def nanmedian(stack):
    with warnings.catch_warnings(action="ignore"):
        return np.nanmedian(stack, axis=0)


# --- one observation ---


def test_tiles_of_one_overpass_count_once(scenes, rng):
    """Neighbours of one datatake, over midnight in UTC, with one pixel in common."""
    ground = [whole(rng) for _ in range(3)]
    for n, seen in enumerate(ground):
        for tile, part, at in (("A", np.s_[:, :10], 0), ("B", np.s_[:, 6:], 60)):
            scenes.add(
                f"{n}{tile}",
                f"2021-06-{n + 1:02d}T23:59:59Z"
                if tile == "A"
                else f"2021-06-{n + 2:02d}T00:00:09Z",
                {"red": seen[part]},
                at=(400_000 + at, 5_200_000),
                properties={
                    "s2:datatake_id": f"GS2A_2021060{n}T235001_03100{n}_N03.01"
                },
            )
    source = opened(scenes.save(), like=scenes.like(), reduce="mean", quality=True)
    mean, count, _, first, last = pixels_of(source)
    assert np.allclose(mean, np.mean(ground, axis=0) / 1e4, atol=1e-6)
    assert (count == 3).all()
    days = (datetime(2021, 6, 1, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)).days
    assert (first == days).all()
    assert (last == days + 2).all()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"id": "S2A_MSIL2A_20210807T101559_N0301_R065_T32TPS_20210807T1300"},
         {"id": "S2A_MSIL2A_20210807T101559_N0500_R065_T32TPS_20230101T130000"}, True),
        ({"id": "S2A_MSIL2A_20210807T101559_N0301_R065_T32TPS_20210807T130000"},
         {"id": "S2A_MSIL2A_20210807T101559_N0301_R065_T32TQS_20210807T130000"}, False),
        ({"id": "LC09_L2SP_193027_20240602_20240603_02_T2"},
         {"id": "LC09_L2SP_193027_20240602_20240610_02_T1"}, True),
        ({"id": "LC09_L2SP_193027_20240602_02_T1"},
         {"id": "LC09_L2SP_193028_20240602_02_T1"}, False),
        ({"id": "LC09_L2SP_193027_20240602_02_T1"},
         {"id": "LC09_L1TP_193027_20240602_20250601_02_T1"}, True),
        ({"id": "S2A_MSIL2A_20210807T101559_N0301_R065_T32TPS_20210807T130000"},
         {"id": "S2A_MSIL1C_20210807T101559_N0500_R065_T32TPS_20230101T130000"}, True),
        ({"id": "HLS.S30.T32TPS.2021158T101559.v1.5"},
         {"id": "HLS.S30.T32TPS.2021158T101559.v2.0"}, True),
        ({"id": "a"}, {"id": "b"}, False),
    ],
)  # fmt: skip
def test_processings_of_one_scene(one, other, same):
    """That of the surface stands for it, however new the other is."""
    assert (scene(one) == scene(other)) is same
    if "L1" in other["id"]:
        assert age(one) > age(other)


def test_the_newest_processing_stands_for_a_scene(scenes, rng):
    """Also where a cloud is masked in it only."""
    old, new = whole(rng), whole(rng)
    clear = np.full((16, 16), 4, np.uint8)
    cloudy = clear.copy()
    cloudy[:4] = 9
    scene_name = "S2A_MSIL2A_20210807T101559_N{}_R065_T32TPS_{}T120000"
    stored = (
        (scene_name.format("0500", "20230101"), new + 1000, "05.00", cloudy),
        (scene_name.format("0301", "20210807"), old, "03.01", clear),
    )
    for name, pixels, baseline, quality in stored:
        scenes.add(
            name,
            "2021-08-07T10:15:59Z",
            {"B04": pixels.astype(np.uint16)},
            quality=("SCL", quality, 10),
            properties={"s2:processing_baseline": baseline},
        )
    source = opened(scenes.save(), mask=None, bands=["red"])
    want = np.where(cloudy == 9, np.nan, new / 1e4)
    assert np.allclose(pixels_of(source)[0], want, equal_nan=True)
    assert any("newest" in note for note in source.notes)


def test_processings_without_a_products_name(scenes, rng):
    """Where the newest shows nothing the older one, left out, does not either."""
    new = whole(rng)
    new[:4] = 0
    for baseline, pixels in (("03.01", whole(rng)), ("05.00", new)):
        scenes.add(
            f"v{baseline}",
            "2021-08-07T10:15:59Z",
            {"B04": pixels},
            asset={"raster:bands": [{"nodata": 0, "scale": 1e-4}]},
            properties={
                "s2:mgrs_tile": "32TPS",
                "s2:datatake_id": f"GS2A_20210807T101559_031000_N{baseline}",
                "s2:processing_baseline": baseline,
            },
        )
    made = pixels_of(opened(scenes.save(), bands=["red"]))[0]
    want = np.where(new == 0, np.nan, new / 1e4)
    assert np.allclose(made, want, equal_nan=True)


def test_strips_of_one_tile_are_laid_together(scenes, rng):
    ground = whole(rng)
    for name, rows in (("T1", np.s_[:8]), ("T2", np.s_[8:])):
        half = np.zeros_like(ground)
        half[rows] = ground[rows]
        scenes.add(
            f"S2A_MSIL2A_20210807T101559_N0301_R065_T32TPS_20210807T{name[1]}20000",
            "2021-08-07T10:15:59Z",
            {"B04": half},
            properties={"s2:processing_baseline": "03.01"},
        )
    source = opened(scenes.save(), quality=True, bands=["red"])
    assert np.allclose(pixels_of(source)[0], ground / 1e4)
    assert (pixels_of(source)[1] == 1).all()


def test_a_platforms_solar_day_is_an_overpass():
    def item(name, when, lon, platform="landsat-9"):
        properties = {"datetime": when, "platform": platform}
        return {"id": name, "bbox": [lon, -30, lon + 1, -29], "properties": properties}

    days = [
        item("a", "2021-06-01T23:59:00Z", 150), item("b", "2021-06-02T00:01:00Z", 150),
        item("c", "2021-06-02T00:01:00Z", 150, "landsat-8"),
        item("d", "2021-06-02T23:59:00Z", 150), item("none", None, 150),
    ]  # fmt: skip
    found, notes = observations(days)
    assert [[i["id"] for i in o.items] for o in found] == [["a", "b"], ["c"], ["d"]]
    assert notes == ("1 item without a date is left out",)


# --- numbers ---


@pytest.mark.parametrize(
    ("properties", "asset", "tags", "scale", "offset"),
    [
        ({"s2:processing_baseline": "05.00"}, {}, {}, 1e-4, -0.1),
        ({"s2:processing_baseline": "03.01"}, {}, {}, 1e-4, 0),
        ({"s2:processing_baseline": "05.00", "earthsearch:boa_offset_applied": True},
         {"raster:bands": [{"scale": 1e-4, "offset": -0.1}]}, {}, 1e-4, 0),
        ({"s2:processing_baseline": "05.00", "earthsearch:boa_offset_applied": False},
         {"raster:bands": [{"scale": 1e-4, "offset": -0.1}]}, {}, 1e-4, -0.1),
        ({"s2:processing_baseline": "05.00"}, {}, (2e-4, -0.2), 2e-4, -0.2),
        ({}, {}, (2e-4, -0.2), 2e-4, -0.2),
        ({}, {"raster:bands": [{"scale": 2.75e-05, "offset": -0.2}]}, (1e-4, 0),
         2.75e-5, -0.2),
        ({"s2:processing_baseline": "05.00"},
         {"earthsearch:boa_offset_applied": True,
          "raster:bands": [{"scale": 1e-4, "offset": -0.1}]}, {}, 1e-4, 0),
        ({"earthsearch:boa_offset_applied": True}, {}, (1e-4, -0.1), 1e-4, 0),
        ({"sentinel:processing_baseline": "04.00"}, {}, {}, 1e-4, -0.1),
        ({"s2:datatake_id": "GS2A_20230101T101601_041000_N05.09"}, {}, {}, 1e-4, -0.1),
        ({"s2:product_uri": "S2A_MSIL2A_20230101T101601_N0509_R065_T32TPS_20230101T18"},
         {}, {}, 1e-4, -0.1),
        ({}, {}, {}, 1, 0),
    ],
)  # fmt: skip
def test_what_is_told_of_numbers_is_believed_in_order(
    scenes, rng, properties, asset, tags, scale, offset
):
    """The date is of no account: it is always one of 2023."""
    stored = whole(rng)
    item = scenes.add("one", "2023-01-01T10:00:00Z", {"B04": stored}, asset=asset)
    item["properties"] |= properties
    if tags:
        with rasterio.open(scenes.folder / "one-B04.tif", "r+") as file:
            file.scales, file.offsets = (tags[0],), (tags[1],)
    made = pixels_of(opened(scenes.save()))[0]
    assert np.allclose(made, stored * scale + offset, atol=1e-6)
    assert made.dtype == np.float32


def test_a_baseline_tells_nothing_of_floats(scenes):
    """Whoever has written reflectance has taken off the offset."""
    stored = np.linspace(-0.01, 0.9, 256, dtype=np.float32).reshape(16, 16)
    told = {"s2:processing_baseline": "05.09"}
    scenes.add("a", "2023-01-01T10:00:00Z", {"B04": stored}, properties=told)
    made = pixels_of(opened(scenes.save()))[0]
    assert np.array_equal(made[stored != 0], stored[stored != 0])


def test_each_band_of_an_item_has_its_own_nodata(scenes, rng):
    stored = np.stack([whole(rng), whole(rng)]).astype(np.int16)
    stored[:, :3], stored[:, 5:9] = 0, -9999
    about = {
        "eo:bands": [{"name": "red"}, {"name": "nir"}],
        "raster:bands": [{"nodata": 0}, {"nodata": -9999}],
    }
    scenes.add("a", "2023-01-01T10:00:00Z", {"image": stored}, asset=about)
    red, nir = pixels_of(opened(scenes.save(), bands=["red", "nir"]))
    assert np.array_equal(np.isnan(red), stored[0] == 0)
    assert np.array_equal(np.isnan(nir), stored[1] == -9999)


def test_a_pixel_below_zero_is_kept_and_nodata_is_not_scaled(scenes):
    stored = np.full((16, 16), 940, np.uint16)
    stored[:, :4] = 0
    properties = {"s2:processing_baseline": "05.09"}
    scenes.add("a", "2023-01-01T10:00:00Z", {"B04": stored}, properties=properties)
    made = pixels_of(opened(scenes.save()))[0]
    assert np.isnan(made[:, :4]).all()
    assert np.allclose(made[:, 4:], -0.006)


def test_a_band_that_an_item_lacks_is_missing_there(scenes, rng):
    one, two = whole(rng), whole(rng)
    scenes.add("a", "2021-01-01T00:00:00Z", {"red": one})
    scenes.add("b", "2021-02-01T00:00:00Z", {"red": two, "nir": two})
    red, nir = pixels_of(opened(scenes.save(), bands=["red", "nir"], reduce="mean"))
    assert np.allclose(red, (one / 2.0 + two / 2.0))
    assert np.allclose(nir, two)


def test_the_common_name_decides_which_band_is_meant(scenes, rng):
    """B05 is red edge to Sentinel-2 and near infrared to Landsat."""
    pixels = {key: whole(rng) for key in ("B04", "B05", "B08", "l5")}
    scenes.add("S2A_x", "2021-01-01T00:00:00Z", {k: pixels[k] for k in ("B05", "B08")})
    item = scenes.add("LC09_x", "2021-02-01T00:00:00Z", {"B05": pixels["l5"]})
    path = scenes.save()
    made = pixels_of(opened(path, bands=["nir"], reduce="mean"))[0]
    assert np.allclose(made, pixels["B08"] / 2.0 + pixels["l5"] / 2.0)
    with pytest.raises(RasterError, match="B05 is nir08 in some items and rededge071"):
        opened(path, bands=["B05"])
    with pytest.raises(RasterError, match="no item has a band swir16"):
        opened(path, bands=["swir16"])
    assert item["id"] == "LC09_x"


@pytest.mark.parametrize("key", ["visual", "TCI_10m", "true-color"])
def test_a_picture_is_no_band_where_there_is_one(scenes, rng, key):
    """Whatever it says of itself, and wherever it stands."""
    red, drawn = whole(rng), np.full((3, 16, 16), 9, np.uint8)
    item = scenes.add("a", "2021-05-03T00:00:00Z", {key: drawn, "B04": red})
    names = [
        {"name": b, "common_name": c} for b, c in (("B04", "red"), ("B03", "green"))
    ]
    item["assets"][key] |= {"gsd": 10, "eo:bands": [*names, {"name": "B02"}]}
    item["assets"]["B04"]["eo:bands"] = names[:1]
    assert np.array_equal(pixels_of(opened(scenes.save(), bands=["red"]))[0], red)
    shown = pixels_of(opened(scenes.save(), bands=["green"]))[0]
    assert (shown == 9).all()  # what nothing else shows
    assert np.array_equal(pixels_of(open_source(scenes.save()))[0], red)


@pytest.mark.parametrize(
    ("asset", "properties"),
    [
        ({"eo:common_name": "red"}, {}),
        ({}, {"eo:bands": [{"name": "x", "common_name": "red"}]}),
        ({}, {"bands": [{"name": "x", "eo:common_name": "red"}]}),
        ({"eo:bands": [1]}, {"eo:bands": [{"name": "1"}, {"common_name": "red"}]}),
    ],
)
def test_bands_are_told_by_assets_or_items(scenes, rng, asset, properties):
    red, when = whole(rng), "2021-05-03T00:00:00Z"
    scenes.add("a", when, {"x": red}, asset=asset, properties=properties)
    assert np.array_equal(pixels_of(opened(scenes.save(), bands=["red"]))[0], red)


def test_a_band_that_the_file_lacks_is_no_other_one(scenes, rng):
    pixels = np.array([whole(rng), whole(rng)])
    item = scenes.add("a", "2021-05-03T00:00:00Z", {"image": pixels})
    item["assets"]["image"]["eo:bands"] = [{"name": b} for b in ("red", "green", "nir")]
    made = pixels_of(opened(scenes.save(), bands=["green"]))[0]
    assert np.array_equal(made, pixels[1])
    with pytest.raises(RasterError, match="image has 2 bands, not band 3"):
        opened(scenes.save(), bands=["nir"])


# --- masks ---


SCL = np.arange(12, dtype=np.uint8).reshape(1, 3, 4)


@pytest.mark.parametrize(
    ("kind", "values", "names", "left"),
    [
        ("SCL", SCL, None, {2, 4, 5, 6, 7, 11}),
        ("SCL", SCL, ["clouds", "snow"], {2, 3, 4, 5, 6, 7, 10}),
        ("SCL", SCL, ["water", "dark"], {3, 4, 5, 7, 8, 9, 10, 11}),
        ("QA_PIXEL", 1 << SCL[:, :2].astype(np.uint16), None, {5, 6, 7}),
        ("QA_PIXEL", 1 << SCL[:, :2].astype(np.uint16), ["snow"], {1, 2, 3, 4, 6, 7}),
        ("Fmask", 1 << SCL[:, :2], None, {4, 5, 6, 7}),
        ("Fmask", np.full((1, 1, 1), 255, np.uint8), None, set()),
        ("UDM2", np.eye(8, dtype=np.uint8).reshape(8, 2, 4), None, {0, 1, 3, 6}),
        ("UDM2", np.arange(5, dtype=np.uint8).reshape(1, 1, 5), ["snow"], {0, 2}),
        ("UDM2", np.arange(5, dtype=np.uint8).reshape(1, 1, 5), None, {0}),
    ],
)
def test_what_quality_bands_mask(kind, values, names, left):
    nothing, hidden = hidden_pixels(kind, values, names)
    assert set(np.flatnonzero(~(nothing | hidden).ravel())) == left


def test_of_several_quality_bands_the_finest_counts(scenes, rng):
    """Nor does JPEG 2000 where there is a GeoTIFF, in whatever order they are told."""
    red, scl = whole(rng), np.full((16, 16), 4, np.uint8)
    scl[:4] = 9
    item = scenes.add(
        "a", "2021-05-03T00:00:00Z", {"red": red}, quality=("SCL_20m", scl, 10)
    )
    gone = {"href": "./gone.tif", "type": "image/tiff"}
    item["assets"] = {
        "SCL_60m": gone,
        "red-jp2": {"href": "./gone.jp2", "eo:bands": [{"name": "red"}]},
        **item["assets"],
    }  # fmt: skip
    made = pixels_of(opened(scenes.save(), mask=None, bands=["red"]))[0]
    assert np.array_equal(np.isnan(made), scl == 9)


def test_masks_twice_as_coarse_and_grown(scenes, rng):
    red = whole(rng)
    scl = np.full((8, 8), 4, np.uint8)
    scl[3, 3] = 9
    scenes.add("a", "2021-05-03T00:00:00Z", {"B04": red}, quality=("SCL", scl, 20))
    path = scenes.save()
    like = scenes.like(13, 13, at=(400_010, 5_199_990))
    made = pixels_of(opened(path, mask=None, like=like))[0]
    masked = np.kron(scl, np.ones((2, 2)))[1:14, 1:14] == 9
    assert np.array_equal(np.isnan(made), masked)
    grown = pixels_of(opened(path, mask=None, like=like, mask_buffer=10))[0]
    assert np.isnan(grown).sum() == 4 + 8
    share = pixels_of(opened(path, mask=["clouds"], like=like, quality=True))[2]
    assert np.array_equal(share == 1, masked)


def test_without_a_quality_band_it_is_said(scenes, rng):
    scenes.add("a", "2021-05-03T00:00:00Z", {"red": whole(rng)})
    notes = opened(scenes.save(), mask=None).notes
    assert any("no quality band" in note for note in notes)
    item = scenes.items[0]
    item["assets"] |= dict.fromkeys(("udm", "x_udm2"), item["assets"]["red"])
    notes = opened(scenes.save(), mask=["clouds", "water"]).notes
    (note,) = (note for note in notes if "--mask" in note)
    assert note.startswith(
        "--mask water: quality bands of these scenes tell of clouds,"
    )
    assert opened(scenes.save(), mask=None).scenes[0].quality.key == "x_udm2"
    del item["assets"]["x_udm2"]
    assert opened(scenes.save(), mask=None).scenes[0].quality.key == "udm"


def test_without_a_date_there_is_no_image_of_dates(scenes, rng):
    dates = {"start_datetime": "2021-05-03T00:00:00Z", "end_datetime": "2021-05-05"}
    scenes.add("a", {"datetime": "", **dates}, {"red": whole(rng)})
    assert opened(scenes.save()).overpasses[0].moment.day == 4
    scenes.items[0]["properties"] = {"datetime": None}
    with pytest.raises(RasterError, match="1 scene without a date"):
        opened(scenes.save())


# --- dates and steps ---


def test_steps_are_labelled_by_their_start_and_may_be_empty(scenes, rng):
    red = {m: whole(rng) for m in (5, 7, 8)}
    for month, pixels in red.items():
        scenes.add(f"{month}", f"2021-{month:02d}-20T00:00:00Z", {"red": pixels})
    middle = {"datetime": None, "start_datetime": "2021-07-30T00:00:00Z",
              "end_datetime": "2021-08-10T00:00:00Z"}  # fmt: skip
    scenes.add("long", middle, {"red": whole(rng, high=101)})
    source = opened(
        scenes.save(), dates="2021-05/2021-08", every="month", reduce="first"
    )
    assert [b.step for b in source.bands] == [
        "2021-05-01", "2021-06-01", "2021-07-01", "2021-08-01"
    ]  # fmt: skip
    pixels, valid = source.read(source.grid.window)
    assert np.isnan(pixels[1]).all()
    assert valid.all()
    assert np.allclose(pixels[2], red[7])
    assert (pixels[3] == 400).all()  # the middle of July 30 … August 10 is in August
    only = source.select([1]).read(source.grid.window)
    assert not only[1].any()


@pytest.mark.parametrize(
    ("every", "labels"),
    [
        ("10 days", ["2021-05-01", "2021-05-11", "2021-05-21", "2021-05-31"]),
        ("week", [f"2021-05-{d:02d}" for d in (1, 8, 15, 22, 29)]),
        ("year", ["2021-01-01"]),
        ("date", ["2021-05-03", "2021-05-30"]),
    ],
)
def test_spacings_of_steps(scenes, rng, every, labels):
    for day in (30, 3):
        scenes.add(f"{day}", f"2021-05-{day:02d}T10:00:00Z", {"red": whole(rng)})
    source = opened(scenes.save(), dates="2021-05", every=every)
    assert [b.step for b in source.bands] == labels


# --- places ---


def test_what_does_not_touch_the_grid_is_never_opened(scenes, rng):
    red = whole(rng)
    scenes.add("a", "2021-05-03T00:00:00Z", {"red": red})
    for name, at in (("gone", (400_200, 5_200_000)), ("far", (600_000, 5_200_000))):
        scenes.add(name, "2021-05-04T00:00:00Z", {"red": whole(rng)}, at=at)
        (scenes.folder / f"{name}-red.tif").unlink()
    assert np.allclose(pixels_of(opened(scenes.save(), like=scenes.like()))[0], red)


def test_the_file_says_where_pixels_lie(scenes, rng):
    red = whole(rng)
    scenes.add("a", "2021-05-03T00:00:00Z", {"red": red}, asset={
        "proj:epsg": 32633, "proj:shape": [4, 4], "proj:transform": [9, 0, 0, 0, -9, 0]
    })  # fmt: skip
    assert np.allclose(pixels_of(opened(scenes.save()))[0], red)


def test_across_the_antimeridian(scenes, rng):
    """A scene of zone 60 and one of zone 1 on one grid; footprints are in parts."""
    values = {"E": 400, "W": 800}
    for name, crs, x in (("E", "EPSG:32660", 828_000), ("W", "EPSG:32601", 166_000)):
        pixels = np.full((60, 60), values[name], np.uint16)
        scenes.add(name, "2021-05-03T00:00:00Z", {"red": pixels}, res=100,
                   at=(x, 203_000), crs=crs, nodata=0)  # fmt: skip
    like = scenes.like(30, 60, res=100, at=(831_500, 201_500), crs="EPSG:32660")
    source = opened(scenes.save(), like=like)
    assert len(source.scenes) == 2
    made = pixels_of(source)[0]
    assert set(np.unique(made[np.isfinite(made)])) <= {400, 800}
    assert (made == 800).any()


def test_around_a_pole(scenes, rng):
    """No outline of it closes in degrees; it is drawn with few vertices."""
    red = whole(rng)
    place = {"at": (-80, 80), "crs": "EPSG:3031"}
    scenes.add("a", "2021-05-03T00:00:00Z", {"red": red}, **place)
    path, like = scenes.save(), scenes.like(**place)
    assert np.array_equal(pixels_of(opened(path, like=like))[0], red)


def test_two_platforms_of_one_date_are_one_step(scenes, rng):
    both = [whole(rng), whole(rng)]
    for platform, pixels in zip(("sentinel-2a", "sentinel-2b"), both, strict=True):
        told = {"platform": platform}
        when = "2021-05-03T10:00:00Z"
        scenes.add(platform, when, {"red": pixels}, properties=told)
    source = opened(scenes.save(), every="date")
    assert [band.step for band in source.bands] == ["2021-05-03"]
    assert np.allclose(pixels_of(source)[0], np.mean(both, axis=0))


def test_outside_an_area_is_nodata(scenes, rng, tmp_path):
    red = whole(rng)
    item = scenes.add("a", "2021-05-03T00:00:00Z", {"red": red})
    west, south, east, north = item["bbox"]
    ring = [[west, south], [(west + east) / 2, south], [west, north], [west, south]]
    aoi = tmp_path / "aoi.geojson"
    aoi.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    source = opened(scenes.save(), aoi=str(aoi))
    made, valid = source.read(source.grid.window)
    assert 0.1 < valid.mean() < 0.9
    assert np.array_equal(np.isfinite(made[0]), valid)
    exact = opened(scenes.save(), aoi=str(aoi), like=scenes.like())
    assert exact.grid.height == exact.grid.width == 16
    x, y, small = (west + east) / 2, (south + north) / 2, (north - south) / 160
    ring = [[x, y], [x + small, y], [x, y + small], [x, y]]  # where pixels meet
    aoi.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    for open_it in (
        lambda: opened(scenes.save(), aoi=str(aoi)),
        lambda: clipped(open_source(tmp_path / "a-red.tif"), aoi),
    ):
        with pytest.raises(RasterError, match="no pixel's centre lies in it"):
            open_it()


def test_whole_factors_are_nearest_and_others_bilinear(scenes, rng):
    coarse = whole(rng, (8, 8))
    scenes.add("a", "2021-05-03T00:00:00Z", {"red": coarse}, res=20)
    path = scenes.save()
    made = pixels_of(opened(path, like=scenes.like()))[0]
    assert np.array_equal(made, np.kron(coarse, np.ones((2, 2))))
    between = pixels_of(opened(path, like=scenes.like(), resampling="bilinear"))[0]
    assert not np.isin(between, coarse).all()
    off = pixels_of(opened(path, like=scenes.like(at=(400_003, 5_199_997))))[0]
    assert not np.isin(off, coarse).all()


# --- what is gone ---


def test_a_file_that_is_gone(scenes, rng, monkeypatch):
    monkeypatch.setattr("geoseg.rasters.layers._PAUSE", 0)
    one = whole(rng)
    scenes.add("a", "2021-05-03T00:00:00Z", {"red": one, "nir": one})
    scenes.add("b", "2021-05-13T00:00:00Z", {"red": whole(rng), "nir": one})
    (scenes.folder / "b-red.tif").unlink()
    path = scenes.save()
    with pytest.raises(SceneMissingError, match="STAC item b: its red cannot be read"):
        pixels_of(opened(path))
    out = scenes.folder / "out.tif"
    asked = ["compose", path, "--mask", "none", "--out", str(out), "-q"]
    assert run(asked) == 3
    assert not out.exists()
    assert run([*asked, "--skip-missing"]) == 0
    with rasterio.open(out) as made:
        assert json.loads(made.tags()["GEOSEG_MISSING"]) == ["STAC item b (red)"]
        assert np.allclose(made.read(1), one)


@pytest.mark.parametrize("lost", ["SCL", "red"])
def test_a_scene_that_is_left_out_is_not_counted(scenes, rng, monkeypatch, lost):
    """Without its quality band it was said to be there, and not masked."""
    monkeypatch.setattr("geoseg.rasters.layers._PAUSE", 0)
    one, clear = whole(rng), np.full((16, 16), 4, np.uint8)
    for name, day, red in (("a", "03", one), ("b", "13", one + 4)):
        quality = ("SCL", clear, 10)
        scenes.add(name, f"2021-05-{day}T00:00:00Z", {"red": red}, quality=quality)
    (scenes.folder / f"b-{lost}.tif").unlink()
    out = scenes.folder / "out.tif"
    asked = ["compose", scenes.save(), "--skip-missing", "--out", str(out), "-q"]
    assert run(asked) == 0
    with rasterio.open(out) as made:
        tags = made.tags()
        assert np.allclose(made.read(1), one)
    assert "not masked" not in tags["GEOSEG_NOTES"]
    assert (tags["GEOSEG_SCENES"], tags["GEOSEG_OBSERVATIONS"]) == ("1", "1")
    assert tags["GEOSEG_FIRST"] == tags["GEOSEG_LAST"]
    assert "missing: STAC item b" in tags["GEOSEG_NOTES"]


# --- reductions ---


def stacks():
    values = st.one_of(st.just(np.nan), st.floats(-1, 2, width=32))
    return st.integers(1, 60).flatmap(
        lambda n: st.lists(values, min_size=4 * n, max_size=4 * n).map(
            lambda v: np.array(v, np.float32).reshape(n, 2, 2)
        )
    )


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
@given(stacks(), st.floats(0, 100))
@settings(max_examples=30)
def test_reductions_equal_numpy(stack, percent):
    def made(rule):
        return reduced(rule, stack, np.empty((2, 2), np.float32))

    def same(one, other):
        return np.allclose(one, other, rtol=1e-6, atol=1e-6, equal_nan=True)

    assert np.array_equal(made("median"), np.nanmedian(stack, 0), equal_nan=True)
    wide = stack.astype(np.float64)
    assert same(made("mean"), np.nanmean(wide, 0))
    assert same(made(f"percentile:{percent}"), np.nanpercentile(wide, percent, 0))
    there = ~np.isnan(stack)
    first = np.take_along_axis(stack, there.argmax(0)[None], 0)[0]
    assert np.array_equal(made("first"), np.where(there.any(0), first, np.nan), True)


def test_the_medoid_is_nearest_to_all_others(rng):
    stack = rng.random((7, 3, 4, 4)).astype(np.float32)
    stack[2] = np.nan
    apart = np.linalg.norm(stack[:, None].astype(float) - stack[None], axis=2)
    want = np.nanargmin(np.where(np.isnan(stack[:, 0]), np.nan, np.nansum(apart, 1)), 0)
    which = chosen(stack, None)
    assert np.array_equal(which, want)
    nothing = chosen(np.full((3, 2, 2, 2), np.nan, np.float32), None)
    assert np.isnan(taken(stack[:3, 0, :2, :2], nothing)).all()


def test_best_by_clouds_and_by_an_index(scenes, rng):
    dates = [(30, 400, 1200), (None, 404, 400), (5, 1200, 1204)]
    for n, (cloud, red, nir) in enumerate(dates):
        bands = {
            "red": np.full((8, 8), red, np.uint16),
            "nir": np.full((8, 8), nir, np.uint16),
        }
        properties = {"eo:cloud_cover": cloud}
        scenes.add(
            f"{n}", f"2021-05-{n + 1:02d}T00:00:00Z", bands, properties=properties
        )
    path = scenes.save()
    assert (pixels_of(opened(path, reduce="best", bands=["red"])) == 1200).all()
    assert (pixels_of(opened(path, reduce="best:ndvi", bands=["red"])) == 400).all()
    assert (
        pixels_of(opened(path, reduce="medoid", bands=["red", "nir"]))[0] == 400
    ).all()


# --- laws ---


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Seven scenes of two zones and sizes, two of one overpass, with masks."""
    rng, scenes = np.random.default_rng(SEED), Scenes(tmp_path_factory.mktemp("many"))
    for n in range(7):
        other = n % 3 == 0
        place = {"crs": CRS, "at": (400_000 + 130 * n, 5_200_000 - 70 * n)}
        if other:
            place = {"crs": "EPSG:32633", "at": (-58_600 + 100 * n, 5_218_500)}
        scl = rng.choice(
            np.array([4, 9, 3, 11], np.uint8), (20, 20), p=[0.7, 0.1, 0.1, 0.1]
        )
        scenes.add(
            f"s{n}", f"2021-05-{1 + n // 2 * 3:02d}T10:00:{n:02d}Z",
            {"red": whole(rng, (40, 40)), "nir": whole(rng, (40, 40))},
            quality=("SCL", scl, 20), nodata=0, properties={"platform": "p"}, **place,
        )  # fmt: skip
    return scenes


@pytest.fixture(scope="module", params=["median", "medoid", "best"])
def series(request, many):
    like = many.like(80, 90)
    return opened(many.save(), like=like, mask=None, reduce=request.param, quality=True,
                  every="10 days", dates="2021-05", mask_buffer=20)  # fmt: skip


def test_there_is_something_in_it(series):
    pixels = pixels_of(series)
    assert 0.05 < np.isfinite(pixels[0]).mean() < 0.95


@given(st.data())
@settings(max_examples=25)
def test_a_pixel_does_not_depend_on_the_window(series, data):
    y, x = (data.draw(st.integers(0, n - 1)) for n in (80, 90))
    window = Window(
        y=y,
        x=x,
        height=data.draw(st.integers(1, 80 - y)),
        width=data.draw(st.integers(1, 90 - x)),
    )
    rows, columns = window.slices
    pixels, valid = series.read(window)
    every, all_valid = series.read(series.grid.window)
    assert np.array_equal(pixels, every[:, rows, columns], equal_nan=True)
    assert np.array_equal(valid, all_valid[rows, columns])


def test_the_order_of_items_does_not_matter(series, many):
    again = Scenes(many.folder, list(reversed(many.items)))
    like = str(many.folder / "like.tif")
    other = opened(again.save("other.json"), like=like, mask=None, quality=True,
                   reduce=series.rule, every="10 days", dates="2021-05",
                   mask_buffer=20)  # fmt: skip
    assert np.array_equal(pixels_of(other), pixels_of(series), equal_nan=True)
    assert other.identity == series.identity


def test_it_travels_and_selects(series):
    there = pickle.loads(pickle.dumps(series))
    chosen_bands = there.select([2, 0])
    want = pixels_of(series)[[2, 0]]
    assert np.array_equal(pixels_of(chosen_bands), want, equal_nan=True)
    assert [b.name for b in series.bands[-4:]] == list(QUALITY)


def test_it_equals_rasterio_and_numpy(many):
    """Nearest scenes of the grid's own zone, without time: GDAL lays them the same."""
    from rasterio.vrt import WarpedVRT

    like = many.like(80, 90)
    ours = [i for i in many.items if i["id"] in {"s1", "s2", "s4", "s5"}]
    path = Scenes(many.folder, ours).save("own.json")
    made = pixels_of(
        opened(path, like=like, bands=["red"], mask=None, resampling="nearest")
    )
    seen = []
    with rasterio.open(like) as grid:
        for item in ours:
            layers = []
            for key in ("red", "SCL"):
                with (
                    rasterio.open(many.folder / item["assets"][key]["href"]) as file,
                    WarpedVRT(file, crs=grid.crs, transform=grid.transform, nodata=0,
                              height=grid.height, width=grid.width) as warped,
                ):  # fmt: skip
                    layers.append(warped.read(1).astype(float))
            seen.append(
                np.where(
                    (layers[0] == 0) | np.isin(layers[1], (0, 3, 9)), np.nan, layers[0]
                )
            )
    saw4 = np.zeros((80, 90), bool)
    first = ours[2]
    with (
        rasterio.open(many.folder / first["assets"]["red"]["href"]) as file,
        rasterio.open(like) as grid,
    ):
        y, x = (
            round((grid.transform.f - file.transform.f) / 10),
            round((file.transform.c - grid.transform.c) / 10),
        )
        saw4[y : y + 40, x : x + 40] = True
    joined = np.where(saw4, seen[2], seen[3])
    want = nanmedian(np.stack([seen[0], seen[1], joined]))
    assert np.array_equal(made[0], want.astype(np.float32), equal_nan=True)


@pytest.mark.filterwarnings("ignore")  # its own
def test_it_equals_odc_stac(many):
    """The same scenes by the library that most people use, to the last rounding."""
    odc = pytest.importorskip("odc.stac")
    pystac = pytest.importorskip("pystac")
    like = many.like(80, 90)
    ours = [i for i in many.items if i["id"] in {"s1", "s4"}]
    path = Scenes(many.folder, ours).save("odc.json")
    made = pixels_of(opened(path, like=like, bands=["red", "nir"], mask=None))
    items = [pystac.Item.from_dict(i) for i in ours]
    for item in items:
        for asset in item.assets.values():
            asset.href = str(many.folder / asset.href.rpartition("/")[2])
    with rasterio.open(like) as grid:
        from odc.geo.geobox import GeoBox

        box = GeoBox((grid.height, grid.width), grid.transform, grid.crs)
    loaded = odc.load(items, bands=["red", "nir", "SCL"], geobox=box, nodata=0)
    clear = ~loaded["SCL"].isin([0, 1, 3, 8, 9, 10])
    for band, ours_ in zip(("red", "nir"), made, strict=True):
        seen = loaded[band].where((loaded[band] != 0) & clear)
        with warnings.catch_warnings(action="ignore"):
            want = seen.median("time").values
        assert np.allclose(ours_, want, rtol=1e-6, equal_nan=True)
