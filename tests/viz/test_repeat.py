"""A report says how its map is made again: the command and the pipeline do so."""

import re
import shlex
from html import unescape

import numpy as np
import pytest
import xarray as xr
from affine import Affine
from tifs import write_tif

import geoseg
from geoseg.cli import run
from geoseg.maps.provenance import facts_of
from geoseg.maps.store import open_masks
from geoseg.viz.report.repeat import repeated


@pytest.fixture
def scene(tmp_path):
    """A scene with bands, in a folder beside that of the maps."""
    (tmp_path / "data").mkdir()
    (tmp_path / "maps").mkdir()
    rows, columns = np.mgrid[:90, :120]
    bands = np.stack([rows + 1, 200 - columns, columns + 1]).astype("uint16")
    path = tmp_path / "data" / "a scene.tif"
    return write_tif(
        path,
        bands,
        names=("green", "red", "nir"),
        transform=Affine(10, 0, 480_000, 0, -10, 5_460_000),
        nodata=0,
    )


def classes(path):
    masks = open_masks(str(path))
    return masks.read("classes", masks.grid.window)


def pieces(page):
    text = page.read_text(encoding="utf-8")
    return [
        unescape(re.sub(r"</?span>", "", found))
        for found in re.findall(r"<pre[^>]*>(.*?)</pre>", text, re.DOTALL)
    ]


def test_command_and_pipeline_of_a_report_make_the_map_again(
    scene, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    out = "maps/water.zarr"
    options = ["--model", "threshold:ndwi>0.25", "--nodata", "7"]
    assert run(["segment", "data/a scene.tif", *options, "--out", out, "-q"]) == 0
    assert run(["report", out]) == 0
    command, pipeline = pieces(tmp_path / "maps" / "water.html")
    first = classes(tmp_path / out)
    words = shlex.split(command)
    assert words[:3] == ["geoseg", "segment", "../data/a scene.tif"]
    assert words[-2:] == ["--out", "water.zarr"]
    assert str(tmp_path) not in command + pipeline, "no folders of this machine"
    monkeypatch.chdir(tmp_path / "maps")
    assert run([*words[1:-1], "again.zarr", "-q"]) == 0
    np.testing.assert_array_equal(classes("again.zarr"), first)
    (tmp_path / "maps" / "p.toml").write_text(pipeline)
    assert run(["run", "p.toml", "-q"]) == 0
    np.testing.assert_array_equal(classes("water-again/masks.zarr"), first)
    facts = dict(facts_of(open_masks("water.zarr")))
    assert facts["Settings"].startswith("nodata 7")
    page = (tmp_path / "maps" / "water.html").read_text(encoding="utf-8")
    assert "<dt>Nodata</dt>" in page
    assert 'class="locator"' in page
    assert page.count('<i style="left: ') >= 1


def test_options_are_told_as_they_are_spelled(scene, tmp_path):
    geoseg.segment(
        scene, model="kmeans:2", out=tmp_path / "m.zarr", bands=["3", "1"],
        trust=["a b"], progress=False,
    )  # fmt: skip
    told = repeated(open_masks(str(tmp_path / "m.zarr")))
    assert told is not None
    assert told["command"] == (
        "geoseg segment 'data/a scene.tif' --model kmeans:2 --bands 3,1 "
        "--trust 'a b' --out m.zarr"
    )
    assert 'bands = ["3", "1"]' in told["pipeline"]


def test_what_has_no_words_is_not_repeated(tmp_path):
    array = xr.DataArray(np.arange(2500.0).reshape(50, 50), dims=("y", "x"))
    with pytest.warns(UserWarning, match="no coordinate reference"):
        geoseg.segment(array, model="otsu:1", out=tmp_path / "m.zarr", progress=False)
    assert repeated(open_masks(str(tmp_path / "m.zarr"))) is None
    assert repeated(object()) is None
