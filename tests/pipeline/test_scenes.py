"""Many scenes by one pipeline: named, shared out, tabled, resumed, one store each."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from tifs import write_tif

import geoseg
import geoseg.pipeline.scenes
from geoseg.cli import run as geoseg_run
from geoseg.errors import GeosegError
from geoseg.maps.store import open_masks
from geoseg.pipeline.scenes import list_scenes


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    """Return a folder with six small scenes, one of them without its bands."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "scenes").mkdir()
    for i in range(6):
        values = rng.integers(1, 3000, (1 if i == 4 else 2, 64, 64)).astype("uint16")
        write_tif(
            tmp_path / "scenes" / f"s{i}.tif",
            values,
            names=("green", "nir")[: len(values)],
            nodata=0,
            transform=Affine(10, 0, 500_000 + 640 * i, 0, -10, 5_000_000),
        )
    (tmp_path / "w.toml").write_text(
        'name = "W"\nout = "out"\n[segment]\nmodel = "threshold:ndwi>0.1"\n[export]\n'
    )
    return tmp_path


def table(folder):
    with (Path(folder) / "scenes.csv").open() as file:
        return {row["scene"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize("where", [[], ["--workers", "1"]], ids=["here", "worker"])
def test_a_store_per_scene_a_table_and_again(scenes, capsys, where):
    line = ["run", "w.toml", "--scenes", "scenes/*.tif", *where]
    assert geoseg_run(line) == 2, "one scene has no such bands, and a rerun not either"
    said = capsys.readouterr()
    assert "6 scenes: 5 done, 1 failed\nlook: geoseg status out\n" in said.out
    assert "s4: " in said.err
    assert "nir" in said.err
    rows = table("out")
    assert [r["state"] for r in rows.values()] == [*["done"] * 4, "failed", "done"]
    assert rows["s4"]["status"] == "2"
    assert "nir" in rows["s4"]["error"]
    for name in ("s0", "s5"):
        assert open_masks(rows[name]["masks"]).is_complete
        assert Path(f"out/{name}/map.tif").is_file()
    with rasterio.open("out/s0/map.tif") as a, rasterio.open("out/s5/map.tif") as b:
        assert (a.transform.c, b.transform.c) == (500_000, 503_200)
    found = json.loads(Path("out/status.json").read_text())
    assert found["scenes"] == {"done": 5, "failed": 1}
    assert geoseg_run(["status", "out"]) == 2
    assert "of 6 blocks" not in capsys.readouterr().out
    assert found["stages"]["scenes"]["blocks"] == 6
    # Again, with what was wrong mended: the rest is there.
    with rasterio.open("scenes/s0.tif") as file:
        profile, values = file.profile, file.read()
    with rasterio.open("scenes/s4.tif", "w", **profile) as file:
        file.write(values)
        file.descriptions = ("green", "nir")
    assert geoseg_run([*line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"unchanged": 5, "done": 1}


def test_scenes_of_a_pipeline_file_in_python(scenes):
    text = (scenes / "w.toml").read_text()
    (scenes / "deep").mkdir()
    (scenes / "deep" / "w.toml").write_text(f'scenes = "../scenes/s[01].tif"\n{text}')
    found = geoseg.run("deep/w.toml", overrides=["out=o/{date}/{raster}/{number}"])
    assert [f["state"] for f in found.values()] == ["done", "done"]
    (folder,) = (scenes / "o").iterdir()
    assert {p.name for p in folder.iterdir()} >= {"s0", "s1", "scenes.csv"}
    assert (folder / "s0" / "1" / "masks.zarr").is_dir()
    again = geoseg.run("deep/w.toml", overrides=["out=o/{date}/{raster}/{number}"])
    assert [f["state"] for f in again.values()] == ["unchanged", "unchanged"]


def test_lists_and_tables(scenes):
    (scenes / "list.txt").write_text("# two\nscenes/s0.tif\n\nscenes/s1.tif\n")
    assert [s.name for s in list_scenes("list.txt")] == ["s0", "s1"]
    (scenes / "t.csv").write_text(
        "raster,name,segment.nodata\nscenes/s0.tif,lake,\nscenes/s1.tif,pond,7\n"
    )
    assert geoseg_run(["run", "w.toml", "--scenes", "t.csv", "-q"]) == 0
    record = open_masks("out/pond/masks.zarr").record()
    assert record["settings"]["nodata"] == 7
    assert "nodata" not in open_masks("out/lake/masks.zarr").record()["settings"]
    (scenes / "deep").mkdir()
    assert [s.name for s in list_scenes(["a/x.tif", "b/x.tif"])] == ["a-x", "b-x"]
    assert [s.name for s in list_scenes(["a/x.tif", "b/X.tif"])] == ["a-x", "b-X"]
    for wrong, said in (
        ("none/*.tif", "no file is called like that"),
        ("none.txt", "none.txt cannot be read"),
        (["x.tif", "x.vrt"], "two scenes are called 'x'"),
        (["x.tif", "X.tif"], "two scenes are called 'x'"),
    ):
        with pytest.raises(GeosegError, match=said):
            list_scenes(wrong)
    (scenes / "t.csv").write_text("path\nscenes/s0.tif\n")
    with pytest.raises(GeosegError, match="no column raster: its columns are path"):
        list_scenes("t.csv")


def test_failures_are_tried_again_when_all_others_are_done(scenes, monkeypatch):
    order = []
    real = geoseg.pipeline.scenes.run_pipeline

    def sometimes(pipeline, **more):
        name = Path(pipeline.out).name
        order.append(name)
        if name == "s0" and order.count(name) == 1:
            raise geoseg.errors.ClusterError("gone")
        return real(pipeline, **more)

    monkeypatch.setattr(geoseg.pipeline.scenes, "run_pipeline", sometimes)
    made = geoseg.run("w.toml", scenes=["scenes/s[012].tif"], retries=1)
    assert order == ["s0", "s1", "s2", "s0"]
    assert made["s0"]["state"] == "done"
    assert made["s0"]["tries"] == 2
    assert table("out")["s0"]["tries"] == "2"


def test_check_looks_at_every_scene(scenes, capsys):
    line = ["run", "w.toml", "--check", "--scenes"]
    assert geoseg_run([*line, "scenes/s[0-3].tif"]) == 0
    assert "fine, 4 scenes" in capsys.readouterr().out
    Path("scenes/s1.tif").write_text("none")
    assert geoseg_run([*line, "scenes/*.tif"]) == 2
    said = capsys.readouterr().err
    assert "s1: cannot open" in said
    assert "s4: " in said
    assert "nir" in said
    assert "w.toml: 4 of 6 scenes can run" in said
    assert not Path("out").exists()
