"""Every command ends with the answer and the next step; `info` knows everything."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import rioxarray
from landscape.scene import write_scene

import geoseg
from geoseg.cli import run as geoseg_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers")
    write_scene(folder / "scene.tif", folder / "truth.tif", 256, 256, 3)
    geoseg.segment(folder / "scene.tif", model="otsu:ndwi", out=folder / "m.zarr")
    geoseg.vectorize(folder / "m.zarr", out=folder / "r.gpkg")
    return folder


@pytest.fixture(autouse=True)
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def said(capsys, *words):
    assert geoseg_run([*words]) == 0
    return capsys.readouterr().out.splitlines()


def test_what_is_opened_is_said_before_libraries_are_loaded(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert geoseg_run(["info", "absent.tif"]) == 2
    assert capsys.readouterr().err.startswith("opening absent.tif\ngeoseg: ")
    assert geoseg_run(["info", "absent.tif", "--json"]) == 2
    assert "opening" not in capsys.readouterr().err


def test_segment_ends_with_areas_and_the_next_step(capsys, tmp_path):
    out = str(tmp_path / "my masks.zarr")
    line = ["segment", "scene.tif", "--model", "otsu:ndwi", "--out", out]
    lines = said(capsys, *line)
    assert lines[-1] == f"look: geoseg view '{out}' --raster scene.tif"
    rows = [text.split() for text in lines[1:-1]]
    assert [row[0] for row in rows] == ["other", "water"]
    assert {row[2] for row in rows} == {"ha"}
    masks = geoseg.open_masks(out)
    valid = (masks.read("classes", masks.grid.window) != 255).sum()
    hectares = sum(float(row[1]) for row in rows)
    assert hectares == pytest.approx(valid / 100, rel=0.005), "pixels of 10 m"
    found = json.loads(said(capsys, *line, "--json")[0])["areas"]
    total = sum(row["area_m2"] for row in found.values())
    assert total == pytest.approx(1e4 * hectares, rel=0.005)
    assert said(capsys, *line, "--quiet") == []


def test_other_commands_end_with_a_next_step(capsys, tmp_path):
    for words, ends in (
        (["vectorize", "m.zarr", "--out", str(tmp_path / "r.gpkg")], "look: geoseg"),
        (["export", "m.zarr", "--out", str(tmp_path / "m.tif")], "m.qml beside it"),
        (["report", "m.zarr", "--out", str(tmp_path / "r.html")], "in a browser"),
        (["sample", "m.zarr", "--n", "20", "--out", str(tmp_path / "p.gpkg")],
         "then: geoseg evaluate m.zarr"),
    ):  # fmt: skip
        assert ends in said(capsys, *words)[-1], words
    found = said(capsys, "evaluate", "m.zarr", "--reference", str(tmp_path / "m.tif"))
    assert found[0].strip().startswith("m.zarr against")
    assert "wrong: geoseg report m.zarr --reference " in found[-1]
    regions = said(capsys, "vectorize", "m.zarr", "--out", str(tmp_path / "r.fgb"))
    assert " regions, " in regions[0]


@pytest.mark.parametrize(
    ("thing", "first", "last"),
    [
        ("scene.tif", "raster, 256 x 256 px, 10 x 10 m, uint16", "try: geoseg plan"),
        ("truth.tif", "raster, 256 x 256 px", "classes: geoseg classes truth.tif"),
        ("m.zarr", "class map, 256 x 256 px, complete", "look: geoseg view m.zarr"),
        ("r.gpkg", "polygons: ", "columns: class_id"),
        ("otsu:ndwi", "name        otsu:ndwi", ""),
    ],
)
def test_info_of_anything(capsys, thing, first, last):
    lines = said(capsys, "info", thing)
    assert lines[0].startswith(first)
    assert lines[-1].startswith(last)
    assert json.loads(said(capsys, "info", thing, "--json")[0])["what"] == thing


def test_info_names_the_layers_of_a_file(capsys, tmp_path):
    file = str(tmp_path / "two.gpkg")
    for layer in ("water", "other"):
        said(capsys, "vectorize", "m.zarr", "--out", file, "--layer", layer)
    assert said(capsys, "info", file)[-1] == "layers: water, other; this is water"


def test_info_of_images_in_a_zarr_and_of_an_item(capsys, tmp_path):
    item = Path("item.json")
    image = {"image": {"href": "./scene.tif"}}
    told = {"type": "Feature", "id": "s", "assets": image}
    item.write_text(json.dumps(told))
    scene = rioxarray.open_rasterio("scene.tif").rename("scene")
    scene.attrs.pop("long_name")
    scene.to_zarr(tmp_path / "s.zarr", zarr_format=2)
    for thing in (item, tmp_path / "s.zarr"):
        assert said(capsys, "info", str(thing))[0].startswith("raster, 256 x 256 px")


def test_info_of_nothing(capsys):
    assert geoseg_run(["info", "none.tif"]) == 2
    assert "there is no file none.tif" in capsys.readouterr().err


def test_plan_says_how_long_it_will_take(capsys):
    """Measured: a model that sleeps for each of four windows."""
    Path("slow.py").write_text(
        "import time\n"
        "from geoseg.models.card import Band\n"
        "from geoseg.testing import LocalModel, identity_card\n"
        "class Slow(LocalModel):\n"
        "    def predict(self, pixels):\n"
        "        time.sleep(0.2 * len(pixels))\n"
        "        return super().predict(pixels.astype('f4') / 65535)\n"
        "def make():\n"
        "    bands = tuple(Band(name=n) for n in ('blue', 'green', 'red', 'nir'))\n"
        "    return Slow(card=identity_card(4, bands=bands, window=64, overlap=8))\n"
    )
    line = ["plan", "scene.tif", "--model", "slow.py:make", "--time"]
    before = {p.name for p in Path().iterdir()} | {"__pycache__"}
    found = json.loads(said(capsys, *line, "--json")[0])
    assert found["time"]["windows"] == 4
    whole = 0.2 * found["windows"]
    assert 0.3 * whole < found["time"]["seconds"] < 6 * whole
    assert found["time"]["limit"] == "model"
    assert found["time"]["stages"]["model"] == min(found["time"]["stages"].values())
    *_, time, limit, _ = said(capsys, *line)
    assert "measured on 4 windows" in time
    assert limit.split()[:3] == ["limit", "the", "model:"]
    assert {p.name for p in Path().iterdir()} <= before, "nothing is kept"


def test_the_shell_completes_commands_and_options(capsys):
    for shell in ("bash", "zsh", "fish"):
        assert any("_GEOSEG_COMPLETE" in t for t in said(capsys, "completion", shell))
    code = "import sys; sys.argv = ['geoseg']; from geoseg.cli import main; main()"
    for words, number, found in (
        ("geoseg vec", 1, "vectorize"),
        ("geoseg vectorize --simp", 2, "--simplify"),
    ):
        env = {**os.environ, "_GEOSEG_COMPLETE": "bash_complete", "COMP_WORDS": words}
        env["COMP_CWORD"] = str(number)
        answer = subprocess.run(
            [sys.executable, "-c", code],
            env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert answer.stdout.split() == [f"plain,{found}"]


def test_what_libraries_say_among_themselves_is_silent(capsys):
    """Nobody who makes a map can do anything about it; `--log-level debug` has it."""
    from geoseg.cli import _one_line

    geoseg_run(["completion", "bash"])
    capsys.readouterr()
    place = "/env/site-packages/{}/core.py"
    for library in ("pyproj", "pyogrio", "geopandas"):
        _one_line(UserWarning("noise"), UserWarning, place.format(library), 1)
    _one_line(RuntimeWarning("noise"), RuntimeWarning, "numpy/core.py", 1)
    assert capsys.readouterr().err == ""
    _one_line(UserWarning("heard"), UserWarning, place.format("geoseg"), 1)
    assert "heard" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("scene.tif", b"", "is empty: known are rasters"),
        ("letter.docx", b"PK\3\4 a letter", "nothing that geoseg knows"),
        ("mine.py", b"print(1)", "named with its function, mine.py:make"),
        ("legend.toml", b'1 = "water"', "nothing that geoseg knows"),
        ("net.safetensors", b"\0\0", "has no card beside it"),
    ],
)
def test_info_says_of_what_it_does_not_know_what_it_does(
    tmp_path, monkeypatch, capsys, name, content, said
):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    assert geoseg_run(["info", name]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_info_of_a_pipeline_and_of_a_collection(tmp_path, capsys):
    file = tmp_path / "water.toml"
    file.write_text(
        'name = "Water"\nout = "out"\n[segment]\nraster = "s.tif"\nmodel = "otsu:nir"\n'
        "[report]\n"
    )
    assert geoseg_run(["info", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"pipeline Water: segment, report, into {tmp_path}/out"
    assert lines[1] == f"try: geoseg run {file} --check"
    assert geoseg_run(["info", "stac:sentinel-2-l2a"]) == 0
    assert "geoseg search sentinel-2-l2a" in capsys.readouterr().out
