"""Samples: drawn right, the same for any blocks, and ready to be labelled."""

import ast
import io
import json
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from xml.etree import ElementTree as ET

import geopandas
import numpy as np
import pyogrio
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS
from rich.console import Console
from scipy.stats import chisquare, kstest
from stores import write_masks
from tifs import write_tif

from geoseg.accuracy.evaluate import evaluate
from geoseg.accuracy.sampling import allocate, sample, sample_size
from geoseg.cli import run
from geoseg.core.classes import class_table
from geoseg.core.grid import Grid
from geoseg.errors import GeosegError

CLASSES = class_table(["water", "forest", "town"])
GRID = Grid(
    crs=CRS.from_epsg(32633).to_wkt(),
    transform=Affine(10.0, 0, 400_000, 0, -10.0, 5_300_000),
    height=300,
    width=400,
)


@pytest.fixture
def scene(tmp_path):
    values = np.zeros((300, 400), np.uint8)
    values[:, 100:] = 1
    values[:50, 350:] = 2
    values[200:, :40] = 255
    masks = write_masks(tmp_path / "m.zarr", values, grid=GRID, table=CLASSES)
    return masks, values, tmp_path


def test_olofsson_2014_plan_to_the_printed_digits():
    """Section 5.1.1 and Table 5: 641 points for a standard error of 0.01."""
    weights, users = [0.020, 0.015, 0.320, 0.645], [0.70, 0.60, 0.90, 0.95]
    assert sample_size(weights, users, standard_error=0.01) == 641
    pixels = np.array(weights) * 1e7
    assert allocate(pixels, 641, "proportional").tolist() == [13, 10, 205, 413]
    assert set(allocate(pixels, 641, "equal")) == {160, 161}


@given(
    sizes=st.lists(st.integers(0, 10**6), min_size=1, max_size=9),
    n=st.integers(1, 3000),
    minimum=st.integers(0, 40),
    how=st.sampled_from(["proportional", "equal", "neyman"]),
)
def test_allocation_adds_up_and_keeps_its_bounds(sizes, n, minimum, how):
    pixels = np.array(sizes)
    least = np.minimum(minimum, pixels)
    users = np.linspace(0.5, 0.99, len(sizes))
    if least.sum() > n:
        with pytest.raises(GeosegError, match="more than the"):
            allocate(pixels, n, how, users, minimum=minimum)
        return
    got = allocate(pixels, n, how, users, minimum=minimum)
    assert got.sum() == min(n, pixels.sum())
    assert (got <= pixels).all()
    assert (got >= least).all()


def test_neyman_gives_more_to_the_uncertain():
    even = allocate([1000, 1000], 100, "proportional")
    assert even.tolist() == [50, 50]
    got = allocate([1000, 1000], 100, "neyman", [0.5, 0.98])
    assert got[0] > 3 * got[1]
    with pytest.raises(GeosegError, match="needs the expected"):
        allocate([10, 10], 5, "neyman")


@pytest.mark.parametrize("design", ["stratified", "simple", "systematic"])
def test_same_seed_same_sample_whatever_the_blocks(scene, design):
    masks, _, tmp = scene
    one = geopandas.read_file(
        sample(masks, tmp / "a.gpkg", design=design, n=90), layer="samples"
    )
    other = geopandas.read_file(
        sample(masks, tmp / "b.gpkg", design=design, n=90, block=64), layer="samples"
    )
    assert one.equals(other)
    third = sample(masks, tmp / "c.gpkg", design=design, n=90, seed=1)
    assert not geopandas.read_file(third, layer="samples")[["row", "col"]].equals(
        one[["row", "col"]]
    )


def test_stratified_points_are_valid_distinct_and_in_their_stratum(scene):
    masks, values, tmp = scene
    path = sample(masks, tmp / "a.gpkg", n=200, minimum=40)
    got = geopandas.read_file(path, layer="samples")
    assert len(got) == 200
    assert not got.duplicated(["row", "col"]).any()
    here = values[got.row, got.col]
    assert (np.array(["water", "forest", "town"])[here] == got.stratum).all()
    sizes = np.bincount(values[values < 255])
    assert (got.stratum_pixels == sizes[here]).all()
    assert got.stratum.value_counts()["town"] == 40
    x, y = GRID.transform @ (got.col + 0.5, got.row + 0.5)
    assert np.allclose(got.geometry.x, x)
    assert np.allclose(got.geometry.y, y)
    assert got.crs.to_epsg() == 32633


def test_every_pixel_is_as_likely_as_any_other(scene):
    """Rows and columns of a large simple sample are spread as the valid pixels are."""
    masks, values, tmp = scene
    path = sample(masks, tmp / "a.gpkg", design="simple", n=6000, seed=5)
    got = geopandas.read_file(path, layer="samples")
    valid_rows = np.nonzero(values < 255)[0]
    share = np.bincount(valid_rows, minlength=300).cumsum() / len(valid_rows)
    jitter = np.random.default_rng(0).random(6000) / 300
    assert kstest(share[got.row] - jitter, "uniform").pvalue > 0.001
    sizes = np.bincount(values[values < 255])
    drawn = np.bincount(values[got.row, got.col])
    assert chisquare(drawn, sizes / sizes.sum() * 6000).pvalue > 0.001


def test_systematic_points_lie_on_a_grid(scene):
    masks, values, tmp = scene
    got = geopandas.read_file(
        sample(masks, tmp / "a.gpkg", design="systematic", n=100), layer="samples"
    )
    assert 80 <= len(got) <= 120
    assert (values[got.row, got.col] < 255).all()
    assert len(set(got.row)) * len(set(got.col)) >= len(got)
    assert np.ptp(np.diff(sorted(set(got.row)))) <= 1


@pytest.mark.filterwarnings("ignore:classes with fewer than 2 points")
def test_the_form_lists_the_classes_and_hides_the_design(scene):
    masks, _, tmp = scene
    path = sample(masks, tmp / "a.gpkg", n=20)
    with closing(sqlite3.connect(path)) as db:
        ((table, qml, default),) = db.execute(
            "SELECT f_table_name, styleQML, useAsDefault FROM layer_styles"
        ).fetchall()
    assert (table, default) == ("samples", 1)
    root = ET.fromstring(qml.split("\n", 1)[1])
    kinds = {
        f.get("name"): f.find("editWidget").get("type")
        for f in root.findall("fieldConfiguration/field")
    }
    assert kinds["class"] == "ValueMap"
    assert kinds["stratum"] == kinds["design"] == "Hidden"
    entries = root.findall(
        "fieldConfiguration/field[@name='class']/editWidget/config/Option/Option/Option"
    )
    listed = [e.find("Option").get("value") for e in entries]
    assert listed == ["water", "forest", "town"]
    assert pyogrio.list_layers(path)[:, 0].tolist() == ["samples", "layer_styles"]
    assert geopandas.read_file(path, layer="samples")["class"].isna().all()


_IN_QGIS = """
import sys
from qgis.core import QgsApplication, QgsVectorLayer
app = QgsApplication([], False)
app.initQgis()
layer = QgsVectorLayer(sys.argv[1] + "|layername=samples", "samples", "ogr")
setups = {f.name(): layer.editorWidgetSetup(i) for i, f in enumerate(layer.fields())}
form = {name: setup.type() for name, setup in setups.items() if setup.type()}
listed = [name for row in setups["class"].config()["map"] for name in row.values()]
print([form, listed, [c.label() for c in layer.renderer().categories()]])
"""


def test_qgis_opens_the_form(scene):
    python = shutil.which("python3", path="/usr/bin")
    has = python and subprocess.run([python, "-c", "import qgis.core"], check=False)
    if not has or has.returncode:
        pytest.skip("QGIS for Python is not installed (Debian: python3-qgis)")
    masks, _, tmp = scene
    path = sample(masks, tmp / "a.gpkg", n=20)
    done = subprocess.run(
        [python, "-c", _IN_QGIS, path], capture_output=True, text=True, check=True,
        timeout=90, env=os.environ | {"QT_QPA_PLATFORM": "offscreen"},
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("[{")]
    form, listed, legend = ast.literal_eval(lines[0])
    assert form["class"] == "ValueMap"
    assert form["stratum"] == form["stratum_pixels"] == "Hidden"
    assert listed == ["water", "forest", "town"]
    assert legend == [*listed, "to do"]


@pytest.mark.parametrize(
    ("design", "estimator"),
    [("stratified", "stratified"), ("simple", "poststratified")],
)
def test_a_labelled_sample_brings_its_estimator(scene, design, estimator):
    masks, values, tmp = scene
    path = sample(masks, tmp / "a.gpkg", design=design, n=120)
    frame = geopandas.read_file(path, layer="samples")
    frame["class"] = np.array(["water", "forest", "town"])[values[frame.row, frame.col]]
    frame.loc[:9, "class"] = None  # not labelled yet
    frame.to_file(path, layer="samples", driver="GPKG")
    got = evaluate(masks, path)
    assert got.accuracy.estimator == estimator
    assert got.accuracy.n == 110
    assert got.accuracy.overall.value == 1.0
    sizes = np.bincount(values[values < 255])
    areas = [c.area.value for c in got.accuracy.per_class]
    assert areas == pytest.approx(sizes / sizes.sum(), rel=1e-3)


def test_classes_too_thin_for_an_interval_are_said_before_the_work(scene):
    masks, _, tmp = scene
    with pytest.warns(UserWarning, match=r"town \(1\)\).*--minimum"):
        sample(masks, tmp / "a.gpkg", n=50)


@pytest.mark.parametrize("waits", [False, True])
def test_a_class_without_labelled_points_is_named_and_no_area_is_made_of_it(
    scene, waits
):
    masks, _, tmp = scene
    path = sample(masks, tmp / "a.gpkg", n=60, minimum=5)
    frame = geopandas.read_file(path, layer="samples")
    frame["class"] = frame["stratum"]
    town = frame["stratum"] == "town"
    if waits:
        frame.loc[town, "class"] = None
    else:  # as when none was drawn
        frame = frame[~town]
    frame.to_file(path, layer="samples", driver="GPKG")
    got = evaluate(masks, path)
    water, forest, _ = got.mapped_m2
    (said,) = (note for note in got.accuracy.notes if "left out" in note)
    assert "(town, 25.0 ha; 2.2 % of the area)" in said
    areas = [area.value for area in got.areas_m2()]
    assert areas == pytest.approx([water, forest, 0])
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(got.tables())
    assert "1.000 (≥ 0." in console.export_text(), "all right, of a few points"


def test_class_maps_of_other_tools_are_sampled_and_evaluated(scene):
    import xarray as xr

    masks, values, tmp = scene
    raster = tmp / "map.tif"
    write_tif(
        raster,
        values,
        dtype="uint8",
        crs=GRID.crs,
        transform=GRID.transform,
        nodata=255,
    )
    array = xr.open_dataarray(raster, engine="rasterio", mask_and_scale=False)
    ours = sample(masks, tmp / "ours.gpkg", n=60, minimum=9)
    places = geopandas.read_file(ours, layer="samples")[["row", "col"]]
    for k, theirs in enumerate((raster, array)):
        drawn = sample(theirs, tmp / f"{k}.gpkg", n=60, minimum=9)
        found = geopandas.read_file(drawn, layer="samples")
        assert found[["row", "col"]].equals(places)
        frame = found.assign(**{"class": found["stratum"]})
        frame.to_file(drawn, layer="samples")
        got = evaluate(theirs, drawn).accuracy
        assert got.overall.value == 1
        assert got.estimator == "stratified"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n": 0}, "cannot be drawn"),
        ({"n": 10, "minimum": 9}, "more than the 10"),
        ({"design": "clever"}, "design 'clever': input should be 'stratified'"),
        ({"expected": {"glacier": 0.5}}, "no class glacier"),
        ({"expected": {"town": 5}}, "not between 0 and 1"),
        ({"out": "a.shp"}, "must end in .gpkg"),
        ({"out": "nowhere/a.gpkg"}, "does not exist"),
    ],
)
def test_bad_numbers_are_one_line(scene, settings, words):
    masks, _, tmp = scene
    out = tmp / settings.get("out", "a.gpkg")
    with pytest.raises(GeosegError, match=words):
        sample(masks, **settings | {"out": out})
    assert not out.exists()


@pytest.mark.filterwarnings("ignore:classes with fewer than 2 points")
def test_labelled_work_is_not_overwritten(scene):
    masks, _, tmp = scene
    sample(masks, tmp / "a.gpkg", n=5)
    with pytest.raises(GeosegError, match="exists"):
        sample(masks, tmp / "a.gpkg", n=5)
    sample(masks, tmp / "a.gpkg", n=6, overwrite=True)
    assert len(geopandas.read_file(tmp / "a.gpkg", layer="samples")) == 6


def test_the_command_line_computes_how_many(scene, capsys):
    """Equation 13 of Olofsson et al. (2014), with the map's own shares."""
    masks, values, tmp = scene
    command = [
        "sample", masks.path, "--out", str(tmp / "a.gpkg"), "--expect", "town=0.6",
        "--expect", "water=0.95", "--standard-error", "0.02", "--allocation", "neyman",
        "--json",
    ]  # fmt: skip
    assert run(command) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert said.err == ""
    sizes, users = np.bincount(values[values < 255]), [0.95, 0.8, 0.6]
    assert found["n"] == sample_size(sizes, users, standard_error=0.02)
    shares = allocate(sizes, found["n"], "neyman", users)
    assert list(found["strata"].values()) == sorted(shares.tolist(), reverse=True)
    for wrong, words in (
        (["--n", "5"], "--n or --standard-error"),
        (["--expect", "town"], "CLASS=ACCURACY"),
        (["--expect", "town=high"], "CLASS=ACCURACY"),
    ):
        assert run([*command, "--overwrite", *wrong]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
