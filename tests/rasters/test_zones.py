"""UTM zones: each place lies in one, and an area in several is said to."""

import json

import numpy as np
import pytest
import shapely
from dated_scenes import Scenes
from pyproj import Transformer

import geoseg
from geoseg.cli import run as cli
from geoseg.core.geodesy import measure
from geoseg.core.series_options import SeriesOptions
from geoseg.errors import RasterError
from geoseg.rasters.open_scenes import open_asked
from geoseg.rasters.zones import extent_of, only_zone, several_zones, zone_of, zones_of


def test_each_place_lies_in_one_zone():
    for lon in range(-179, 180, 2):
        for lat in (-79, -1, 1, 83):
            (zone,) = zones_of(shapely.box(lon - 0.1, lat - 0.1, lon + 0.1, lat + 0.1))
            assert zone == zone_of(lon, lat)
            assert extent_of(zone).contains(shapely.Point(lon, lat))


def test_an_area_across_a_border_is_said():
    area = shapely.box(11.0, 46.0, 12.5, 47.0)
    shares = zones_of(area)
    assert [*shares] == ["EPSG:32632", "EPSG:32633"]
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["EPSG:32632"] == pytest.approx(2 / 3)
    said = several_zones(area, "EPSG:32632")
    assert "2 UTM zones, EPSG:32632 (66.7 %), EPSG:32633 (33.3 %)" in said
    assert "--crs zone:32632" in said
    assert several_zones(shapely.box(7, 46, 8, 47), "EPSG:32632") is None
    assert [*zones_of(shapely.box(7, -1, 8, 2))] == ["EPSG:32632", "EPSG:32732"]


def test_what_is_no_zone_is_said():
    assert only_zone(None) is None
    assert only_zone("EPSG:3035") is None
    assert only_zone("zone:EPSG:32760") == "EPSG:32760"
    for wrong in ("zone:32", "zone:32661", "zone:3035"):
        with pytest.raises(RasterError, match="is no UTM zone"):
            only_zone(wrong)


@pytest.fixture(scope="module")
def border(tmp_path_factory):
    """Two scenes of one overpass on both sides of 12 degrees east, and an area."""
    folder = tmp_path_factory.mktemp("border")
    scenes = Scenes(folder)
    for n, crs in enumerate(("EPSG:32632", "EPSG:32633")):
        there = Transformer.from_crs("OGC:CRS84", crs, always_xy=True)
        x, y = (round(v, -3) for v in there.transform(12.0, 46.0))
        pixels = np.full((200, 200), 1000 + n, np.uint16)
        place = {"at": (x - 10_000, y + 10_000), "res": 100, "crs": crs}
        scenes.add(f"s{n}", f"2025-05-01T10:00:0{n}Z", {"red": pixels}, **place)
    west, south, east, north = 11.95, 45.97, 12.07, 46.03
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    aoi = folder / "aoi.geojson"
    aoi.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    return scenes.save(), aoi


def shown(border, crs):
    """Return a series of both scenes, its valid pixels, and their true area."""
    path, aoi = border
    series = open_asked(path, SeriesOptions(crs=crs), aoi=aoi)
    grid = series.grid
    _, valid = series.read(grid.window)
    areas = np.broadcast_to(measure(grid).areas_of(grid.window), valid.shape)
    return series, valid, float(areas[valid].sum())


def test_an_area_in_two_zones_is_put_on_one_and_that_is_said(border):
    series, valid, _ = shown(border, None)
    assert sum("UTM zones" in note for note in series.notes) == 1
    assert valid.any()


def test_a_map_of_each_zone_covers_all_once(border):
    """Pixels lie in their zone alone; areas of both are true, and add up."""
    total = 0.0
    for zone in ("32632", "32633"):
        series, valid, area = shown(border, f"zone:{zone}")
        rows, columns = np.nonzero(valid)
        x, y = series.grid.transform @ (columns + 0.5, rows + 0.5)
        back = Transformer.from_crs(f"EPSG:{zone}", "OGC:CRS84", always_xy=True)
        lon, _ = back.transform(x, y)
        assert (lon <= 12.0).all() if zone == "32632" else (lon >= 12.0).all()
        assert not any("UTM zones" in note for note in series.notes)
        total += area
    whole = shown(border, "EPSG:3035")[2]
    assert total == pytest.approx(whole, rel=0.01)
    assert shown(border, None)[2] == pytest.approx(whole, rel=0.01)
    with pytest.raises(RasterError, match=r"EPSG:32633, .* nowhere in the UTM zone"):
        shown(border, "zone:32601")


def test_a_store_of_each_zone_in_one_command(border, tmp_path, capsys):
    path, aoi = border
    words = [path, "--aoi", str(aoi), "--model", "threshold:red>0.11", "--crs", "zones"]
    assert cli(["plan", *words, "--json"]) == 0
    plans = json.loads(capsys.readouterr().out)["zones"]
    assert [plan["zone"] for plan in plans] == ["zone:32632", "zone:32633"]
    line = ["segment", *words, "--out", str(tmp_path / "m.zarr"), "--json"]
    assert cli(line) == 0
    done = json.loads(capsys.readouterr().out)["zones"]
    stores = [tmp_path / "m-32632.zarr", tmp_path / "m-32633.zarr"]
    assert [run["masks"] for run in done] == [str(store) for store in stores]
    total = sum(a["area_m2"] for run in done for a in run["areas"].values())
    assert total == pytest.approx(shown(border, "EPSG:3035")[2], rel=0.01)
    assert cli(line) == 0  # nothing is left to do
    assert not any(z["pixels"] for z in json.loads(capsys.readouterr().out)["zones"])
    regions = tmp_path / "regions.gpkg"
    for store in stores:
        out = ["--out", str(regions), "--layer", store.stem.replace("-", "_")]
        assert cli(["vectorize", str(store), *out, "-q"]) == 0
        page = str(tmp_path / f"{store.stem}.html")
        assert cli(["report", str(store), "--out", page, "-q"]) == 0
    drawn = [geoseg.read_regions(regions, layer=f"m_{n}") for n in (32632, 32633)]
    assert [frame.crs.to_epsg() for frame in drawn] == [32632, 32633]
    assert sum(f["area_m2"].sum() for f in drawn) == pytest.approx(total, rel=1e-6)
    for wrong in (["--like", path], ["compose"]):
        if wrong == ["compose"]:
            line = ["compose", path, "--crs", "zones", "--out", str(tmp_path / "a.tif")]
        else:
            line = ["plan", *words, *wrong]
        assert cli(line) == 2
        assert "--crs zones" in capsys.readouterr().err
