"""The law: what changes the map and was not told is said by every command, and kept."""

import html
import json
import shlex

import numpy as np
import pytest
from affine import Affine
from tifs import write_tif

import geoseg
from geoseg.cli import run
from geoseg.maps.provenance import provenance

NDVI, NIR = "threshold:ndvi:0.4", "threshold:nir>1000"
PLANET = "20230601_101010_12_2461_3B_AnalyticMS_SR.tif"
AREA = (
    '{"type": "Polygon", "coordinates": [[[9.0, 46.955], [9.003, 46.955], '
    "[9.003, 46.952], [9.0, 46.955]]]}"
)


def write(path, pixels, scale=None):
    names = ("blue", "green", "red", "nir")
    at = Affine(10, 0, 500_000, 0, -10, 5_200_000)
    write_tif(
        path, pixels, names=names, scale=scale, offset=-0.1, crs="EPSG:32632",
        transform=at,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notes")
    pixels = np.random.default_rng(0).integers(1, 3000, (4, 48, 48), "uint16")
    write(folder / "plain.tif", pixels)
    write(folder / "scaled.tif", pixels, 1e-4)
    write(folder / PLANET, pixels)
    pixels[:, :8] = 0
    write(folder / "collar.tif", pixels)
    data = {"href": "./plain.tif", "type": "image/tiff", "roles": ["data"]}
    names = ("blue", "green", "red", "nir")
    data["bands"] = [{"name": n, "nodata": 0, "raster:scale": 1e-4} for n in names]
    item = {
        "type": "Feature", "stac_version": "1.1.0", "id": "x", "geometry": None,
        "properties": {"datetime": "2023-01-01T00:00:00Z"}, "links": [],
        "assets": {"data": data},
    }  # fmt: skip
    (folder / "item.json").write_text(json.dumps(item))
    return folder


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"plain.tif --model {NDVI}", "does not say how its uint16 numbers become"),
        (f"plain.tif --model {NIR} --units reflectance", "changes nothing"),
        (f"plain.tif --model {NDVI} --bands 1,2", "nir <- band 1 (blue)"),
        (f"collar.tif --model {NIR}", "--nodata 0"),
        (f"scaled.tif --model {NIR}", "(--units reflectance uses that)"),
        (f"scaled.tif --model {NIR} --units reflectance", "number x 0.0001 - 0.1"),
        (f"scaled.tif --model {NDVI}", "its numbers are taken as reflectance"),
        (f"{PLANET} --model {NDVI}", "PlanetScope: 0 is nodata"),
        (f"item.json --model {NDVI}", "nodata is 0 by the item"),
    ],
)
def test_every_note_is_said_and_kept(folder, tmp_path, monkeypatch, capsys, line, said):
    monkeypatch.chdir(folder)
    out, report = str(tmp_path / "m.zarr"), tmp_path / "r.html"
    words = shlex.split(line)
    raster, model, rest = words[0], words[2], words[3:]
    spoken = {}
    for name, command in {
        "plan": ["plan", *words],
        "check": ["model", "check", model, raster, *rest],
        "segment": ["segment", *words, "--out", out],
        "info": ["info", out],
        "report": ["report", out, "--out", str(report)],
    }.items():
        assert run(command) == 0, command
        heard = capsys.readouterr()
        spoken[name] = heard.out + heard.err
    spoken["report"] = html.unescape(report.read_text(encoding="utf-8"))
    notes = provenance(geoseg.open_masks(out))["notes"]
    assert any(said in note for note in notes)
    for note in notes:
        assert [n for n, text in spoken.items() if note not in text] == [], note


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("collar.tif", "--nodata 0"),
        ("plain.tif --units reflectance", "--units reflectance changes nothing"),
        ("scaled.tif", "(--units reflectance uses that)"),
        ("scaled.tif --units reflectance", "number x 0.0001 - 0.1"),
        (PLANET, "PlanetScope: 0 is nodata"),
        ("item.json", "nodata is 0 by the item"),
    ],
)
def test_training_says_them_too(folder, monkeypatch, capsys, line, said):
    monkeypatch.chdir(folder)
    (folder / "area.geojson").write_text(AREA)
    train = f"train {line} --labels area.geojson --arch forest --out model"
    assert run(train.split()) == 2, "labels without classes are refused, after that"
    heard = capsys.readouterr().err.splitlines()
    assert any(t.startswith("geoseg: warning: ") and said in t for t in heard)


@pytest.mark.filterwarnings("default:.*no class anywhere")
@pytest.mark.parametrize("way", [(), ("--shards",), ("--zarr-format", "3")])
def test_a_map_of_nothing_is_said(tmp_path, capsys, way):
    raster = tmp_path / "blank.tif"
    write_tif(raster, np.zeros((2, 40, 40), "u1"), names=("red", "nir"), nodata=0)
    command = ["segment", str(raster), "--model", NDVI, "-q", *way]
    for _ in range(2):  # as it is made, and as it is found
        assert run([*command, "--out", str(tmp_path / "blank.zarr")]) == 0
        assert "no class anywhere" in capsys.readouterr().err
    pixels = np.zeros((2, 40, 40), "u1")
    pixels[:, 20, 20] = 1
    write_tif(raster, pixels, names=("red", "nir"), nodata=0)
    assert run([*command, "--out", str(tmp_path / "one.zarr")]) == 0
    assert "no class anywhere" not in capsys.readouterr().err
