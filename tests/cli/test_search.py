"""`geoseg search` and `geoseg.search`: a table, day by day; no pixel is read."""

import json

import pytest

import geoseg
from geoseg.cli import run
from geoseg.errors import GeosegError

BOX = (10.0, 46.0, 11.0, 47.0)


def item(name, when, box=BOX, **properties):
    west, south, east, north = box
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    asset = {"href": f"./{name}.tif", "type": "image/tiff", "file:size": 1_000_000}
    return {
        "type": "Feature",
        "id": name,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"datetime": when, **properties},
        "assets": {"red": asset, "thumbnail": {"href": "https://x.example/a.jpg"}},
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with an area and four scenes of three days, one of them elsewhere."""
    monkeypatch.chdir(tmp_path)
    half = (10.0, 46.0, 10.5, 47.0)
    items = [
        item("b", "2025-06-02T10:00:00Z", **{"eo:cloud_cover": 20, "platform": "s2b"}),
        item("a", "2025-05-01T10:00:00Z", half, **{"eo:cloud_cover": 40}),
        item("c", "2025-06-02T10:00:07Z", half, **{"eo:cloud_cover": 50}),
        item("d", "2025-07-02T10:00:00Z", (0, 0, 1, 1)),
    ]
    (tmp_path / "scenes.json").write_text(
        json.dumps({"type": "FeatureCollection", "features": items})
    )
    area = json.dumps(items[0]["geometry"])
    (tmp_path / "aoi.geojson").write_text(area)
    return tmp_path


def test_a_table_tells_dates_clouds_coverage_and_sizes(folder, capsys):
    assert run(["search", "scenes.json", "--aoi", "aoi.geojson"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == [
        "2025-05-01",
        "1",
        "40",
        "%",
        "50.0",
        "%",
        "1",
        "MB",
        "–",
    ]
    assert lines[2].split() == [
        "2025-06-02",
        "2",
        "30",
        "%",
        "100",
        "%",
        "2",
        "MB",
        "s2b",
    ]
    assert lines[3] == "3 scenes of 2 days, 3 MB"


def test_json_and_a_list_that_other_commands_take(folder, capsys):
    words = ["scenes.json", "--dates", "2025-06", "--json", "--out", "items.json"]
    assert run(["search", *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["scenes"] == 2
    assert told["bytes"] == 2_000_000
    assert told["days"][0]["items"] == ["b", "c"]
    written = json.loads((folder / "items.json").read_text())
    assert [f["id"] for f in written["features"]] == ["b", "c"]
    assert written["features"][0]["assets"]["red"]["href"] == "./b.tif"
    assert run(["search", *words]) == 2  # never over a file
    assert "items.json exists" in capsys.readouterr().err
    assert run(["search", "items.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scenes"] == 2


def test_nothing_is_found_and_that_is_said(folder, capsys):
    assert run(["search", "scenes.json", "--dates", "1999"]) == 0
    assert capsys.readouterr().out == "no scenes\n"


def test_python_gives_items_and_a_table(folder):
    scenes = geoseg.search("scenes.json", dates=("2025-06", None), cloud=20)
    assert [i["id"] for i in scenes.items] == ["b", "d"]
    assert scenes.notes == ("1 item of 2 without a cloud cover: taken",)
    assert list(scenes.table["date"]) == ["2025-06-02", "2025-07-02"]
    assert "2025-07-02" in repr(scenes)
    assert "2025-07-02" in scenes._repr_html_()
    assert [i["id"] for i in geoseg.search(scenes.items, cloud=0).items] == ["d"]
    with pytest.raises(GeosegError, match="dates 'summer'"):
        geoseg.search("scenes.json", dates="summer")


def test_hosts_that_will_be_asked_about_are_said(folder):
    far = item("far", "2025-05-01T00:00:00Z")
    far["assets"]["red"]["href"] = "https://files.example/a.tif"
    (folder / "far.json").write_text(json.dumps(far))
    (note,) = geoseg.search("far.json").notes
    assert note == "what opens these scenes needs --trust files.example"
    assert geoseg.search("far.json", trust=["files.example"]).notes == ()


def test_info_tells_what_a_list_is(folder, capsys):
    assert run(["info", "scenes.json", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["scenes"]) == ("items", 4)
    assert run(["info", "scenes.json"]) == 0
    assert "list of 4 STAC items" in capsys.readouterr().out
