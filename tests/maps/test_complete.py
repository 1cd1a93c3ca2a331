"""A map that is not complete is refused; or taken, with a word in what it becomes."""

import json
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio

import geoseg
from geoseg.cli import run
from geoseg.errors import IncompleteError
from geoseg.maps.complete import incomplete
from geoseg.maps.open import open_classes

HERE = {"crs": "EPSG:32633"}


@pytest.fixture
def part(make_store, tmp_path):
    """Return masks of which one block of four is missing."""
    labels = np.kron([[0, 1], [2, 255]], np.ones((256, 256))).astype(np.uint8)
    masks = make_store(tmp_path / "m.zarr", labels, done=False, **HERE)
    for key in ((0, 0), (0, 1), (1, 0)):
        masks.mark_done(key, {})
    return masks


COMMANDS = {
    "vectorize": ["--out", "r.gpkg"],
    "export": ["--out", "m.tif"],
    "report": ["--out", "r.html"],
    "sample": ["--n", "10", "--out", "p.gpkg"],
    "evaluate": ["--reference", "whole.zarr"],
    "compare": ["whole.zarr"],
}


@pytest.mark.filterwarnings("default:.*so is what is made of it:UserWarning")
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_refuse_and_write_nothing(
    part, make_store, tmp_path, monkeypatch, capsys, command
):
    monkeypatch.chdir(tmp_path)
    make_store("whole.zarr", part.read("classes", part.grid.window), **HERE)
    before = sorted(p.name for p in tmp_path.iterdir())
    line = [command, "m.zarr", *COMMANDS[command]]
    assert run(line) == 3
    told = capsys.readouterr()
    assert "25.0 % is missing (1 of 4 blocks)" in told.err
    assert told.err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert run([*line, "--partial"]) == 0
    assert "so is what is made of it" in capsys.readouterr().err


def test_a_map_that_was_copied_by_half_is_not_complete(
    make_store, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    labels = np.ones((512, 512), np.uint8)
    masks = make_store("m.zarr", labels)
    for key in ((0, 0), (0, 1), (1, 0)):
        masks.mark_done(key, {})
    assert run(["export", "m.zarr", "--out", "m.tif"]) == 3
    assert "25.0 % is missing (1 of 4 blocks): give `geoseg verify" in (
        capsys.readouterr().err
    )
    assert not Path("m.tif").exists()


def test_the_live_map_refuses_too(part):
    pytest.importorskip("uvicorn")
    with pytest.raises(IncompleteError):
        geoseg.view(part)


def test_what_is_made_of_it_says_so(part, tmp_path):
    lacks = "not complete: 25.0 % is missing (1 of 4 blocks)"
    with pytest.warns(UserWarning, match="so is what is made of it"):
        cog = geoseg.export(part, tmp_path / "m.tif", partial=True)
    with rasterio.open(cog) as file:
        assert file.tags()["INCOMPLETE"] == lacks
    with pytest.warns(UserWarning, match="so is what is made of it"):
        page = geoseg.report(part, tmp_path / "m.html", partial=True)
    assert "not complete" in page.read_text(encoding="utf-8")
    with pytest.warns(UserWarning, match="so is what is made of it"):
        regions = geoseg.vectorize(part, tmp_path / "r.gpkg", partial=True)
    assert lacks.encode() in regions.read_bytes()
    with pytest.warns(UserWarning, match="so is what is made of it"):
        points = geoseg.sample(part, tmp_path / "p.gpkg", n=9, partial=True)
    told = pyogrio.read_info(points, layer="samples")["layer_metadata"]
    assert told["DESCRIPTION"].endswith(lacks)


@pytest.mark.filterwarnings("default:.*so is what is made of it:UserWarning")
@pytest.mark.parametrize(
    "line",
    [
        ["evaluate", "whole.zarr", "--reference", "m.zarr"],
        ["segment", "m.zarr", "--model", "kmeans:2", "--out", "again.zarr"],
        ["plan", "m.zarr/classes", "--model", "kmeans:2"],
        ["classes", "m.zarr"],
        ["classes", "m.zarr", "--set", "1=water"],
    ],
)
def test_so_is_one_that_is_taken_as_a_raster(
    part, make_store, tmp_path, monkeypatch, capsys, line
):
    monkeypatch.chdir(tmp_path)
    make_store("whole.zarr", part.read("classes", part.grid.window), **HERE)
    assert run(line) == 3
    told = capsys.readouterr()
    assert "25.0 % is missing" in told.err
    assert "--partial" not in told.err  # which these do not have, or not for this
    assert not Path("again.zarr").exists()


def test_numbers_of_the_accessor_refuse(part):
    with pytest.warns(UserWarning, match="not complete"):
        data = part.dataset()
    with pytest.raises(IncompleteError, match=r"25.0 % is missing"):
        data.geoseg.areas()
    assert [c.name for c in data.geoseg.classes] == [c.name for c in part.classes]


@pytest.mark.filterwarnings("default:.*so is what is made of it:UserWarning")
@pytest.mark.parametrize("ending", ["geojson", "fgb", "parquet", "gpkg"])
def test_polygons_of_every_format_say_so(part, tmp_path, ending):
    regions = geoseg.vectorize(part, tmp_path / f"r.{ending}", partial=True)
    assert b"not complete: 25.0 % is missing (1 of 4 blocks)" in regions.read_bytes()
    if ending == "fgb":
        told = pyogrio.read_info(regions)["layer_metadata"]
        assert told["DESCRIPTION"].startswith("not complete")


def test_a_comparison_says_so(part, make_store, tmp_path):
    whole = make_store(tmp_path / "w.zarr", part.read("classes", part.grid.window))
    with pytest.warns(UserWarning, match="so is what is made of it"):
        found = geoseg.compare(whole, part, partial=True)
    assert found.to_dict()["notes"][0].endswith("is missing (1 of 4 blocks)")


def test_a_store_that_lost_its_record_is_not_taken_for_complete(part):
    part.storage.discard(".geoseg/run.json")
    with pytest.raises(IncompleteError, match=r"record is missing.*verify .*--repair"):
        open_classes(part.path)


def test_what_is_complete_lacks_nothing(part):
    assert incomplete(part).startswith("not complete")
    for key in np.ndindex(2, 2):
        part.mark_done(key, {})
    with pytest.raises(IncompleteError, match="all blocks are labelled, but its obj"):
        open_classes(part.path)
    part.finish({})
    assert incomplete(open_classes(part.path)) is None
    assert json.loads(json.dumps(part.record()))["complete"]
