"""Items of a place and a time, from files: what is taken, and in which order."""

import json

import numpy as np
import pytest
import shapely
from dated_scenes import Scenes as DatedScenes
from rasterio.transform import from_origin
from stac_server import found_items
from tifs import write_tif

import geoseg
from geoseg.core.series_options import SeriesOptions
from geoseg.errors import GeosegError, RasterError
from geoseg.rasters.open_scenes import open_asked
from geoseg.rasters.search import find
from geoseg.rasters.search_table import Scenes, lines_of
from geoseg.rasters.stac import open_items


def write(path, pixels):
    at = from_origin(600000, 5200000, 10, 10)
    write_tif(path, pixels, crs="EPSG:32632", transform=at)


def item(name, when, box=(10, 46, 11, 47), href=None, **properties):
    west, south, east, north = box
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": "scenes",
        "bbox": [*box],
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"datetime": when, **properties},
        "links": [],
        "assets": {"red": {"href": href or f"./{name}.tif", "type": "image/tiff"}},
    }


def save(path, items):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    return str(path)


def area(path, *boxes):
    """Write an area of interest of boxes in degrees."""
    features = [
        {"type": "Feature", "properties": {}, "geometry": item("", "", box)["geometry"]}
        for box in boxes
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return str(path)


def ids(found):
    return [one["id"] for one in found]


def test_items_are_chosen_by_date_clouds_and_place(tmp_path):
    path = save(
        tmp_path / "scenes.json",
        [
            item("late", "2025-09-30T23:59:59.5Z", **{"eo:cloud_cover": 10}),
            item("early", "2025-05-01T00:00:00Z", **{"eo:cloud_cover": 40}),
            item("before", "2025-05-01T01:00:00+02:00"),
            item("cloudy", "2025-06-01T00:00:00Z", **{"eo:cloud_cover": 41}),
            item("silent", "2025-07-01T00:00:00Z", **{"eo:cloud_cover": None}),
            item("beside", "2025-07-01T00:00:00Z", (11, 46, 12, 47)),
            item("early", "2025-05-01T00:00:00Z"),
            item("undated", None),
        ],
    )
    aoi = area(tmp_path / "aoi.geojson", (10.5, 46.5, 11, 47))
    found = find(path, aoi=aoi, dates="2025-05/2025-09", cloud=40)
    assert ids(found.items) == ["early", "silent", "late"]
    assert found.notes == (
        "1 item without a date: left out",
        "1 item of 3 without a cloud cover: taken",
    )
    assert found.items[0]["assets"]["red"]["href"] == str(tmp_path / "early.tif")
    assert ids(found_items(path, cloud=0)) == ["undated", "before", "beside", "silent"]


def test_a_list_may_be_longer_than_a_search(tmp_path, monkeypatch):
    monkeypatch.setattr("geoseg.rasters.catalogs._MOST", 2)
    days = [item(f"{n}", f"2025-05-0{n}T10:00:00Z") for n in range(1, 6)]
    path = save(tmp_path / "items.json", days)
    assert ids(found_items(path, dates="2025-05-03")) == ["3"]


def test_what_is_asked_is_told_by_its_content(tmp_path):
    one = save(tmp_path / "one.json", [item("a", "2025-05-01T00:00:00Z")])
    two = save(tmp_path / "two.json", [item("b", "2025-05-01T00:00:00Z")])
    aoi = area(tmp_path / "aoi.geojson", (10, 46, 11, 47))
    same = area(tmp_path / "same.geojson", (10, 46, 11, 47))
    questions = [
        find(one).question,
        find(two).question,
        find(one, dates="2025").question,
        find(one, cloud=40).question,
        find(one, aoi=aoi).question,
    ]
    assert len({json.dumps(q, sort_keys=True) for q in questions}) == 5
    assert find(one, aoi=same).question == questions[-1]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("scenes/none.tif", "there is no file scenes/none.tif"),
        ("scene.json", "there is no file scene.json"),
        ("stac:none.zarr", "there is no file none.zarr"),
        ("sentinel-2-l2b", r"no known archive has .* did you mean 'sentinel-2-l2a'"),
        ("none*.SAFE", "there is no file none"),
    ],
)
def test_a_mistyped_path_becomes_no_search(name, said):
    with pytest.raises(GeosegError, match=said):
        find(name, dates_from="names")


def test_rasters_elsewhere_are_refused_or_listed(tmp_path):
    far = item("far", "2025-05-01T00:00:00Z", href="https://elsewhere.example/a.tif")
    path = save(tmp_path / "scenes.json", [far])
    with pytest.raises(RasterError, match="--trust elsewhere"):
        find(path)
    assert ids(find(path, check=False).items) == ["far"]
    assert ids(find(path, trust=("elsewhere.example",)).items) == ["far"]


def test_a_picture_elsewhere_is_left_out(tmp_path):
    """Archives serve pictures from elsewhere; who is not opened needs no trust."""
    one = item("a", "2025-05-01T00:00:00Z")
    for key, roles in (("rendered_preview", None), ("small", ["thumbnail"])):
        picture = {"href": "https://pictures.example/a.png", "type": "image/png"}
        one["assets"][key] = picture | ({"roles": roles} if roles else {})
    (found,) = found_items(save(tmp_path / "scenes.json", [one]))
    assert [*found["assets"]] == ["red"]


def test_files_of_known_archives_are_trusted_and_unsigned(tmp_path):
    href = "https://sentinel2l2a01.blob.core.windows.net/s2/a.tif"
    one = item("a", "2025-05-01T00:00:00Z", href=f"{href}?se=2030&sig=abc")
    found = found_items(save(tmp_path / "scenes.json", [one]))
    assert found[0]["assets"]["red"]["href"] == href


def test_across_180_degrees(tmp_path):
    """Footprints in two parts, drawn around the Earth, and beyond 180 are the same."""
    parts = item("parts", "2025-05-01T00:00:00Z")
    boxes = [(179.5, 0, 180, 1), (-180, 0, -179.5, 1)]
    rings = [item("", "", box)["geometry"]["coordinates"] for box in boxes]
    parts["geometry"] = {"type": "MultiPolygon", "coordinates": rings}
    around = item("around", "2025-05-02T00:00:00Z", (-179.5, 0, 179.5, 1))
    beyond = item("beyond", "2025-05-03T00:00:00Z", (179.5, 0, 180.5, 1))
    nothing = item("nothing", "2025-05-04T00:00:00Z", (179.5, 0, -179.5, 1))
    nothing["geometry"] = None
    away = item("away", "2025-05-04T00:00:00Z", (0, 0, 1, 1))
    items = [parts, around, beyond, nothing, away]
    path = save(tmp_path / "scenes.json", items)
    for west in (179.6, -179.7):
        aoi = area(tmp_path / "aoi.geojson", (west, 0.2, west + 0.1, 0.4))
        assert ids(found_items(path, aoi=aoi)) == ids(items)[:-1]


def test_scenes_of_this_machine_have_the_dates_of_their_names(tmp_path):
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) + 1
    for day, tile in (("20250503", "32TPS"), ("20250701", "32TPS")):
        folder = tmp_path / f"S2A_MSIL2A_{day}T101031_N0511_R022_T{tile}_{day}T150000"
        folder = (
            folder.with_suffix(".SAFE")
            / "GRANULE"
            / "L2A_T32TPS_A1"
            / "IMG_DATA"
            / "R10m"
        )
        folder.mkdir(parents=True)
        for band in ("B04_10m", "B08_10m", "TCI_10m", "SCL_20m"):
            write(folder / f"T{tile}_{day}T101031_{band}.tif", values)
    found = found_items(f"{tmp_path}/*.SAFE", dates_from="names", dates="2025-05")
    (one,) = found
    assert one["properties"]["datetime"] == "2025-05-03T10:10:31Z"
    assert one["properties"]["s2:processing_baseline"] == "05.11"
    assert {*one["assets"]} == {"B04", "B08", "scl"}
    assert one["assets"]["B04"]["raster:bands"] == [
        {"scale": 1e-4, "offset": -0.1, "nodata": 0}
    ]
    source = open_items(found)
    assert [b.common_name for b in source.bands] == ["red", "nir"]
    assert (source.read(source.grid.window)[0][0] == values).all()
    assert len(found_items([str(tmp_path)], dates_from="names")) == 2
    with pytest.raises(RasterError, match="--dates-from names"):
        find(f"{tmp_path}/*.SAFE")


def test_loose_files_are_scenes_by_their_names(tmp_path):
    values = np.ones((8, 8), np.uint16)
    for name in ("a_2025-05-03_red", "a_2025-05-03_nir", "a_2025-06-03_red", "b_x"):
        write(tmp_path / f"{name}.tif", values)
    found = found_items([f"{tmp_path}/a_*.tif"], dates_from="names")
    assert [(one["id"], [*one["assets"]]) for one in found] == [
        ("a_2025-05-03", ["nir", "red"]),
        ("a_2025-06-03", ["red"]),
    ]
    with pytest.raises(RasterError, match="b_x has no date such as 2025"):
        found_items([f"{tmp_path}/b_x.tif"], dates_from="names")


def test_masks_and_pictures_lie_beside_loose_scenes(tmp_path):
    """They are no scenes of their own, nor does one show in another's bands."""
    values = np.ones((8, 8), np.uint16)
    files = {
        "T32TPS_20250503T101031": ("B04_10m", "B08_10m", "TCI_10m", "SCL_20m"),
        "LC09_L2SP_193027_20250504_20250505_02_T1": ("SR_B4", "QA_PIXEL", "QA_RADSAT"),
        "20250505_100000_12_2461_3B": ("AnalyticMS_SR_clip", "udm2_clip"),
        "20250506_100000_3B_AnalyticMS": ("SR", "DN_udm"),
    }
    for name, kinds in files.items():
        for kind in kinds:
            write(tmp_path / f"{name}_{kind}.tif", values)
    found = found_items([str(tmp_path)], dates_from="names")
    assert [[*one["assets"]] for one in found] == [
        ["B04", "B08", "scl"],
        ["SR_B4", "qa_pixel"],
        ["1", "udm2"],
        ["1", "dn_udm"],
    ]
    source = open_asked([str(tmp_path)], SeriesOptions(dates_from="names"))
    assert all(scene.quality for scene in source.scenes)


def places_in(value, place=()):
    """Yield the way to every value in a JSON object."""
    if place:
        yield place
    inside = value.items() if isinstance(value, dict) else ()
    inside = enumerate(value) if isinstance(value, list) else inside
    for key, one in inside:
        yield from places_in(one, (*place, key))


def test_files_on_this_machine_may_be_urls(tmp_path):
    scenes = DatedScenes(tmp_path)
    pixels = np.full((4, 4), 7, np.uint8)
    one = scenes.add("a", "2025-05-01T10:00:00Z", {"red": pixels})
    one["assets"]["red"]["href"] = (tmp_path / "a-red.tif").as_uri()
    for what in ([one], scenes.save()):
        shown = geoseg.compose(what, mask=["none"])
        np.testing.assert_array_equal(shown.values[0], pixels)


def test_items_of_any_make_are_taken_or_refused_on_one_line():
    good = item("a", "2025-05-01T00:00:00Z", **{"eo:cloud_cover": 5})
    good["links"] = [{"rel": "self", "href": "https://x.example/a.json"}]
    how = {"aoi": shapely.box(10, 46, 11, 47), "dates": "2025", "cloud": 50}
    said = []
    for way in places_in(good):
        for value in (
            None,
            1,
            "x",
            [],
            {},
            ["a", {}],
            True,
            "../x.tif",
            "https://[::1",
        ):
            made = json.loads(json.dumps(good))
            holder = made
            for key in way[:-1]:
                holder = holder[key]
            holder[way[-1]] = value
            try:
                said.append("".join(lines_of(Scenes(find([made], **how)))))
            except GeosegError as error:
                said.append(str(error))
    assert said
    assert not [text for text in said if "\n" in text]
