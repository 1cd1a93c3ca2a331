"""Models that learn from scenes of many dates: an image of them, or steps in time."""

import json

import numpy as np
import pytest
from dated_scenes import Scenes

import geoseg
from geoseg.cli import run as cli
from geoseg.models.folder import open_folder

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SIDE = 160
X, Y = 400_000, 5_200_000


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two months in which one crop is bright first and the other then; with clouds."""
    rng, scenes = np.random.default_rng(1), Scenes(tmp_path_factory.mktemp("dates"))
    left = np.broadcast_to(np.arange(SIDE) // 20 % 2 == 0, (SIDE, SIDE))
    for n, bright in enumerate((left, ~left)):
        red = np.where(bright, 3000, 1000) + rng.integers(0, 200, (SIDE, SIDE))
        scl = rng.choice(np.array([4, 9], np.uint8), (SIDE // 2,) * 2, p=[0.9, 0.1])
        scenes.add(f"s{n}", f"2022-0{n + 5}-10T10:00:00Z", {"B04": red.astype("u2")},
                   quality=("SCL", scl, 20), collection="sentinel-2-l2a",
                   properties={"s2:processing_baseline": "03.00"})  # fmt: skip
    features = [
        {
            "type": "Feature",
            "properties": {"class": "early" if column % 2 == 0 else "late"},
            "geometry": {"type": "Polygon", "coordinates": [_box(column, row)]},
        }
        for column in range(8)
        for row in range(8)
    ]
    labels = scenes.folder / "labels.geojson"
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}}
    labels.write_text(
        json.dumps({"type": "FeatureCollection", "crs": crs, "features": features})
    )
    return scenes.save(), str(labels), left


def _box(column, row):
    west, north = X + column * 200 + 30, Y - row * 200 - 30
    east, south = west + 140, north - 140
    return [[west, north], [east, north], [east, south], [west, south], [west, north]]


def test_steps_in_time_tell_what_one_image_cannot(made, tmp_path, capsys):
    path, labels, left = made
    dates = ["--dates", "2022-05/2022-06", "--every", "month"]
    words = ["train", path, "--labels", labels, *dates, "--out", str(tmp_path / "m")]
    words += ["--arch", "forest", "--scales", "none", "--trees", "10"]
    assert cli([*words, "--validation", "0"]) == 0, capsys.readouterr().err
    card = open_folder(tmp_path / "m").card
    assert [band.name for band in card.step_bands] == ["red"]
    assert (card.times.count, card.times.every) == (2, "month")
    assert card.numbers == "reflectance"
    found = geoseg.segment(path, model=tmp_path / "m", out=tmp_path / "m.zarr",
                           dates="2022-05/2022-06", every="month",
                           progress=False)["classes"].to_numpy()  # fmt: skip
    names = {c.name: c.value for c in card.classes}
    seen = found != 255
    assert seen.mean() > 0.95
    right = (found == names["early"]) == left
    assert right[seen].mean() > 0.9


def test_an_image_of_all_dates(made, tmp_path, capsys):
    path, labels, _ = made
    how = ["--dates", "2022-05", "--reduce", "median"]
    words = [
        "train",
        path,
        "--labels",
        labels,
        "--arch",
        "forest",
        "--trees",
        "5",
        *how,
    ]
    assert cli([*words, "--out", str(tmp_path / "m"), "--validation", "0"]) == 0
    card = open_folder(tmp_path / "m").card
    assert card.times is None
    assert card.numbers == "reflectance"
    line = ["segment", path, *how, "--model", str(tmp_path / "m")]
    assert cli([*line, "--out", str(tmp_path / "m.zarr"), "-q"]) == 0


def test_as_many_steps_of_each(made, tmp_path, capsys):
    path, labels, _ = made
    other = path.replace("scenes.json", "one.json")
    items = json.loads(open(path).read())  # noqa: PTH123, SIM115
    items["features"] = items["features"][:1]
    with open(other, "w") as file:  # noqa: PTH123
        json.dump(items, file)
    words = ["train", path, other, "--labels", labels, "--arch", "forest"]
    assert cli([*words, "--every", "date", "--out", str(tmp_path / "m")]) == 2
    assert "show 2, 1 steps in time" in capsys.readouterr().err
