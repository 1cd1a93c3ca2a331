"""Pipelines: checked before anything runs, run as a whole, again, and one at a time."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from landscape.scene import write_scene

import geoseg.pipeline.run
from geoseg.cli import run as geoseg_run
from geoseg.errors import GeosegError, LockedError
from geoseg.maps.legend import name_classes
from geoseg.maps.lock import held
from geoseg.maps.storage import Storage
from geoseg.maps.store import open_masks
from geoseg.pipeline.product_paths import stem_of
from geoseg.pipeline.run import run_pipeline
from geoseg.pipeline.settings import read_pipeline

PIPELINES = Path(__file__).resolve().parents[2] / "pipelines"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    write_scene(folder / "scene.tif", folder / "truth.tif", 512, 512, 7)
    return str(folder / "scene.tif")


@pytest.fixture
def water(tmp_path, scene):
    """Return the water pipeline, copied, with its raster beside it."""
    shutil.copy(PIPELINES / "water.toml", tmp_path)
    shutil.copy(scene, tmp_path)
    return str(tmp_path / "water.toml")


def log(folder):
    lines = (Path(folder) / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def events(folder):
    return [(line["stage"], line["event"]) for line in log(folder)]


def refusal(path, *overrides):
    with pytest.raises(GeosegError) as error:
        read_pipeline(path, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- the file -------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(PIPELINES.glob("*.toml")), ids=lambda p: p.stem)
def test_the_files_to_copy_are_right(path):
    pipeline = read_pipeline(path)
    assert pipeline.description
    assert Path(pipeline.out).is_relative_to(
        PIPELINES
    )  # paths are relative to the file


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("segment.modle=x", "segment.modle is not known: did you mean model?"),
        ("vectorise.simplify=1", "vectorise is not known: did you mean vectorize?"),
        (
            "vectorize.min_aera=1",
            "vectorize.min_aera is not known: did you mean min_area",
        ),
        (
            "vectorize.simplify=much",
            "vectorize.simplify: input should be a valid number",
        ),
        ("segment.task=things", "segment.task: input should be 'semantic', 'instance'"),
        (
            "cluster.kind=slrum",
            "cluster.kind = 'slrum' is not known: did you mean slurm?",
        ),
        ("cluster={kind='local', worker=2}", "did you mean workers?"),
        ("out", "--set 'out' is not key=value"),
        ("out.x=1", "out is not a table"),
        ("out=s3://bucket/out", "out: 's3://bucket/out' is not a folder: the log"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(water, override, said):
    assert said in refusal(water, override)
    assert not (Path(water).parent / "out").exists()


def test_a_file_that_is_none(tmp_path):
    assert "cannot be read" in refusal(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    assert "is not TOML" in refusal(tmp_path / "bad.toml")
    (tmp_path / "empty.toml").write_text("")
    assert "out is missing; segment is missing" in refusal(tmp_path / "empty.toml")


def test_names_of_archives_and_hosts_are_no_paths(tmp_path):
    (tmp_path / "mine.json").touch()
    (tmp_path / "scenes.toml").write_text(
        'out = "out"\n[segment]\nmodel = "otsu:ndwi"\nraster = "stac:sentinel-2-l2a"\n'
        'aoi = "a.gpkg"\nendpoint = "cdse"\ntrust = ["files.example", "mine.json"]\n'
    )
    segment = read_pipeline(tmp_path / "scenes.toml").segment
    assert segment.raster == "stac:sentinel-2-l2a"
    assert segment.endpoint == "cdse"
    assert segment.aoi == str(tmp_path / "a.gpkg")
    assert segment.trust == ["files.example", str(tmp_path / "mine.json")]
    assert stem_of(segment.raster) == "sentinel-2-l2a"


def test_overrides_win_and_are_relative_to_where_one_is(water):
    pipeline = read_pipeline(
        water, ["out=here", "vectorize.simplify=2.5", "segment.raster=['a', 'b']"]
    )
    assert pipeline.out == "here"
    assert pipeline.segment.raster == ["a", "b"]
    assert pipeline.vectorize.simplify == 2.5
    assert read_pipeline(water).segment.raster == str(Path(water).parent / "scene.tif")
    assert read_pipeline(water).segment.model == "otsu:ndwi"  # no path
    (Path(water).parent / "a.py").touch()
    (Path(water).parent / "water.toml").write_text(
        'out = "out"\n[segment]\nraster = "scene.tif"\nmodel = ["a.py:f", "otsu:nir"]'
    )
    several = [str(Path(water).parent / "a.py:f"), "otsu:nir"]
    assert read_pipeline(water).segment.model == several


def test_the_cluster_may_be_a_file_or_a_table(water, tmp_path):
    (tmp_path / "two.toml").write_text('kind = "local"\nworkers = 2\n')
    for text in (
        f"cluster={tmp_path / 'two.toml'}",
        "cluster={kind='local',workers=2}",
    ):
        assert read_pipeline(water, [text]).cluster.workers == 2
    assert "cannot be read" in refusal(water, "cluster=none.toml")


def test_the_cluster_may_be_an_option(water, tmp_path, capsys):
    """Which wins over the file; `--check` reads both."""
    (tmp_path / "two.toml").write_text('kind = "local"\nworkers = "two"\n')
    line = ["run", water, "--check", "--set", "cluster={kind='local', workers=0}"]
    assert geoseg_run(line) == 2
    assert geoseg_run([*line, "--workers", "2"]) == 0
    assert geoseg_run([*line, "--scheduler", "tcp://127.0.0.1:1"]) == 0
    assert geoseg_run([*line, "--cluster", str(tmp_path / "two.toml")]) == 2
    assert "two.toml: workers: input should be a valid" in capsys.readouterr().err
    assert geoseg_run([*line, "--workers", "2", "--scheduler", "tcp://h:1"]) == 2


# --- running --------------------------------------------------------------------------


def test_the_whole_way_and_again(water, tmp_path):
    out = tmp_path / "out" / "water"
    assert geoseg_run(["run", water, "--quiet"]) == 0
    assert open_masks(str(out / "masks.zarr")).record()["complete"]
    regions = pyogrio.read_dataframe(out / "water.gpkg", layer="regions")
    assert len(regions) > 1
    with rasterio.open(out / "water.tif") as file:
        classes = file.read(1)
    truth = rasterio.open(tmp_path / "scene.tif").read(1) != 0
    assert set(np.unique(classes[truth])) == {0, 1}
    assert "</html>" in (out / "report.html").read_text()
    stages = ["segment", "vectorize", "export", "report"]
    assert [s for s, e in events(out) if e == "done"] == [*stages, "pipeline"]
    told = {"log.jsonl", "status.json"}
    before = {p: p.stat().st_mtime_ns for p in out.iterdir() if p.name not in told}
    assert geoseg_run(["run", water, "--quiet"]) == 0
    assert [s for s, e in events(out) if e == "skipped"] == stages
    after = {p: p.stat().st_mtime_ns for p in out.iterdir() if p.name not in told}
    assert {p.name: t for p, t in after.items() if p.is_file()} == {
        p.name: t for p, t in before.items() if p.is_file()
    }


def test_only_what_changed_is_made_again(water, tmp_path):
    out = tmp_path / "out" / "water"
    run_pipeline(read_pipeline(water))
    made = run_pipeline(read_pipeline(water, ["vectorize.simplify=30"]))
    assert {name for name, facts in made.items() if facts["made"]} == {"vectorize"}
    (out / "report.html").unlink()
    made = run_pipeline(read_pipeline(water, ["vectorize.simplify=30"]))
    assert {name for name, facts in made.items() if facts["made"]} == {"report"}
    with pytest.warns(UserWarning, match=r"begun with other settings .*made again"):
        made = run_pipeline(read_pipeline(water, ["segment.model=threshold:ndwi>0.3"]))
    assert all(facts["made"] for facts in made.values())
    assert "overwritten" in [e["event"] for e in log(out)]


def test_another_model_at_the_same_path_is_noticed(water, tmp_path):
    """All is made again, of the new one."""
    code = (
        "import numpy as np\nfrom geoseg import Band, Card, Class\n"
        "def make():\n"
        "    card = Card(name='mine', bands=(Band(name='nir'),), classes=("
        "Class(value=0, name='a', color='#000000'), "
        "Class(value=1, name='b', color='#ffffff')), output='labels', "
        "window=128, overlap=0)\n"
        "    return card, lambda x: (x[:, 0] > LIMIT).astype('uint8')\n"
    )
    (tmp_path / "mine.py").write_text(code.replace("LIMIT", "1500"))
    settings = [f"segment.model={tmp_path}/mine.py:make"]
    run_pipeline(read_pipeline(water, settings))
    made = run_pipeline(read_pipeline(water, settings))
    assert not any(facts["made"] for facts in made.values())
    (tmp_path / "mine.py").write_text(code.replace("LIMIT", "500"))
    product = tmp_path / "out" / "water" / "water.tif"
    before = product.read_bytes()
    with pytest.warns(UserWarning, match="mine has changed: its weights, .*made again"):
        made = run_pipeline(read_pipeline(water, settings))
    assert all(facts["made"] for facts in made.values())
    assert product.read_bytes() != before


def test_what_somebody_edited_is_not_lost(water, tmp_path):
    out = tmp_path / "out" / "water"
    run_pipeline(read_pipeline(water))
    mine = geopandas.GeoDataFrame(
        {"n": ["mine"]}, geometry=[shapely.box(0, 0, 9, 9)], crs="EPSG:32633"
    )
    mine.to_file(out / "water.gpkg", layer="my_labels")
    with pytest.warns(UserWarning, match="it stays as it is"):
        made = run_pipeline(read_pipeline(water))
    assert not made["vectorize"]["made"]
    with pytest.warns(UserWarning, match=r"is now .*water\.gpkg\.edited-1\.gpkg"):
        made = run_pipeline(read_pipeline(water, ["vectorize.simplify=30"]))
    assert made["vectorize"]["made"]
    aside = pyogrio.list_layers(out / "water.gpkg.edited-1.gpkg")[:, 0]
    assert "my_labels" in aside
    assert "my_labels" not in pyogrio.list_layers(out / "water.gpkg")[:, 0]


def test_names_and_styles_that_somebody_gave_do_not_go_in_silence(water, tmp_path):
    out = tmp_path / "out" / "water"
    run_pipeline(read_pipeline(water))
    run_pipeline(read_pipeline(water))
    called = [c.name for c in open_masks(out / "masks.zarr").classes]
    (out / "water.qml").write_text("<qgis>mine</qgis>")
    with pytest.warns(UserWarning, match=r"water\.tif was changed .* stays as it is"):
        assert not run_pipeline(read_pipeline(water))["export"]["made"]
    name_classes(out / "masks.zarr", names={called[-1]: "lake"})
    with pytest.warns(UserWarning, match=r"is now .*water\.tif\.edited-1\.tif"):
        assert run_pipeline(read_pipeline(water))["export"]["made"]
    assert "mine" in (out / "water.tif.edited-1.qml").read_text()
    assert "lake" in (out / "water.qml").read_text()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        run_pipeline(read_pipeline(water, ["segment.model=otsu:ndvi"]))
    said = re.compile(r"called .*lake, and are .* now: geoseg classes --set")
    assert any(said.search(str(w.message)) for w in warned)


@pytest.mark.parametrize(
    ("stage", "product"),
    [("vectorize", "water.gpkg"), ("export", "water.tif"), ("report", "report.html")],
)
def test_a_damaged_product_is_made_again(water, tmp_path, stage, product):
    path = tmp_path / "out" / "water" / product
    run_pipeline(read_pipeline(water))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=r"is damaged: .*now .*\.damaged-1"):
        made = run_pipeline(read_pipeline(water))
    assert {name for name, facts in made.items() if facts["made"]} == {stage}
    assert len(path.read_bytes()) > 1000


def test_a_damaged_chunk_is_inferred_again(water, tmp_path):
    masks = tmp_path / "out" / "water" / "masks.zarr"
    run_pipeline(read_pipeline(water))
    chunk = next(p for p in (masks / "classes").rglob("*") if p.name[0].isdigit())
    before = chunk.read_bytes()
    chunk.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    with pytest.warns(UserWarning, match="is damaged, and made again"):
        made = run_pipeline(read_pipeline(water))
    assert made["segment"]["made"]
    assert chunk.read_bytes() == before


def test_what_a_stage_reads_is_part_of_it(water, tmp_path, scene):
    """Another reference at the same path makes the report again, and nothing else."""
    truth = tmp_path / "truth.tif"
    with rasterio.open(tmp_path / "scene.tif") as file:
        profile = {**file.profile, "count": 1, "dtype": "uint8", "nodata": 255}
        values = (file.read(1) % 2).astype(np.uint8)
    settings = [f"report.reference={truth}", "report.mapping={0='other', 1='water'}"]
    for data in (values, 1 - values):
        with rasterio.open(truth, "w", **profile) as file:
            file.write(data, 1)
        made = run_pipeline(read_pipeline(water, settings))
    assert {name for name, facts in made.items() if facts["made"]} == {"report"}


def test_files_of_others_are_not_replaced(water, tmp_path):
    out = tmp_path / "out" / "water"
    out.mkdir(parents=True)
    (out / "water.gpkg").write_text("mine")
    with pytest.raises(GeosegError, match=r"water\.gpkg"):
        run_pipeline(read_pipeline(water))
    assert (out / "water.gpkg").read_text() == "mine"


@pytest.mark.parametrize("stage", ["vectorize", "export", "report"])
def test_killed_after_a_product_and_before_its_note(water, monkeypatch, stage):
    class Killed(BaseException):
        pass

    def note(self, name, key, product=None, real=geoseg.pipeline.run.PipelineRun.note):
        if name == stage and key != "begun":
            raise Killed
        real(self, name, key, product)

    with monkeypatch.context() as patch:
        patch.setattr(geoseg.pipeline.run.PipelineRun, "note", note)
        with pytest.raises(Killed):
            run_pipeline(read_pipeline(water))
    assert run_pipeline(read_pipeline(water))[stage]["made"]


def test_a_disk_that_fills_at_any_stage(water, small_disk, capsys):
    """One line, exit 3, nothing half; with room the same command goes on."""
    where, resize = small_disk
    line = ["run", water, "--quiet", "--set", f"out={where}/out"]
    stages = set()
    for size in range(40, 500, 40):
        assert resize(f"{size}k") == 0
        status = geoseg_run(line)
        said = capsys.readouterr().err
        if status == 0:
            break
        assert status == 3
        assert said.count("\n") == 1
        assert re.search("No space left|disk is full|no room is left|make room", said)
        stages.add(
            [e["stage"] for e in log(where / "out") if e["event"] == "start"][-1]
        )
    assert status == 0
    assert len(stages) >= 2  # such as masks and polygons
    assert {e["event"] for e in log(where / "out")} >= {"failed", "done"}


@pytest.mark.parametrize("text", ["", "[]", '{"segment": {"ke', '{"segment": 1}', "\0"])
def test_a_state_that_was_cut_is_said_and_nothing_is_made(water, capsys, text):
    assert geoseg_run(["run", water, "--quiet"]) == 0
    out = Path(read_pipeline(water).out)
    state = out / ".pipeline" / "state.json"
    before = {f: f.stat().st_mtime_ns for f in out.rglob("*") if ".zarr" in str(f)}
    state.write_text(text)
    assert geoseg_run(["run", water, "--quiet"]) == 2
    said = capsys.readouterr().err
    assert f"{state} is empty or cut" in said
    assert said.count("\n") == 1
    # The way on that the line tells: masks stay, what lies beside them is made again.
    for file in (state, *out.glob("*.gpkg"), *out.glob("*.tif"), *out.glob("*.html")):
        file.unlink()
    assert geoseg_run(["run", water, "--quiet"]) == 0
    chunks = [f for f in before if f.parent.name == "classes"]
    assert [before[f] for f in chunks] == [f.stat().st_mtime_ns for f in chunks]


def test_two_at_once_are_refused(water, tmp_path):
    out = tmp_path / "out" / "water"
    out.mkdir(parents=True)
    with held(Storage(str(out)), ".pipeline/lock"):
        with pytest.raises(LockedError, match="is being written by process"):
            run_pipeline(read_pipeline(water))
        assert geoseg_run(["run", water, "--quiet"]) == 2


def test_secrets_do_not_reach_the_log(water, tmp_path):
    """A signed URL that cannot be opened."""
    secret = "http://user:hunter2@127.0.0.1:9/scene.tif?token=abc123"
    with pytest.raises(GeosegError) as error:
        run_pipeline(
            read_pipeline(water, [f"segment.raster={secret}", f"name={secret}"])
        )
    text = (tmp_path / "out" / "water" / "log.jsonl").read_text()
    for told in (text, str(error.value)):
        assert "127.0.0.1" in told
        assert "hunter2" not in told
        assert "abc123" not in told


def test_asked_to_end_and_run_again(scene, tmp_path):
    """SIGTERM to the program in the middle, as schedulers send it; then again."""
    (tmp_path / "slow.py").write_text(
        "import time, geoseg.core.tiling\n"
        "geoseg.core.tiling.CHUNK = 64\n"
        "from geoseg.models.card import Band\n"
        "from geoseg.testing import LocalModel, identity_card\n"
        "class Slow(LocalModel):\n"
        "    def predict(self, pixels):\n"
        "        time.sleep(0.05)\n"
        "        return super().predict(pixels.astype('f4') / 65535)\n"
        "def make():\n"
        "    bands = tuple(Band(name=n) for n in ('blue', 'green', 'red', 'nir'))\n"
        "    card = identity_card(4, bands=bands, window=128, overlap=16)\n"
        "    return Slow(card=card)\n"
    )
    (tmp_path / "p.toml").write_text(
        f'out = "out"\n[segment]\nraster = "{scene}"\nmodel = "slow.py:make"\n'
        "block = 112\n[vectorize]\n"
    )
    line = [sys.executable, "-m", "geoseg", "run", str(tmp_path / "p.toml"), "--quiet"]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    done = tmp_path / "out" / "masks.zarr" / ".geoseg" / "done"
    while process.poll() is None and not (done.is_dir() and any(done.iterdir())):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 143, said
    assert ("pipeline", "interrupted") in events(tmp_path / "out")
    assert not (tmp_path / "out" / "regions.gpkg").exists()
    subprocess.run(line, check=True, timeout=120)
    assert (tmp_path / "out" / "regions.gpkg").exists()


# --- the files to copy, each on a scene of its kind -----------------------------------


def test_landcover_on_a_generated_scene(scene, tmp_path):
    line = ["run", str(PIPELINES / "landcover_sentinel2.toml"), "--quiet"]
    line += ["--set", f"segment.raster={scene}", "--set", f"out={tmp_path}/out"]
    line += ["--set", f"segment.model={geoseg.example().model}"]
    assert geoseg_run(line) == 0
    notice = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "only ever seen generated landscapes" in notice, "the demo's model is a toy"
    regions = pyogrio.read_dataframe(
        tmp_path / "out" / "landcover.gpkg", layer="regions"
    )
    assert regions.class_name.nunique() >= 2
    with (
        rasterio.open(tmp_path / "out" / "landcover.tif") as found,
        rasterio.open(scene.replace("scene.tif", "truth.tif")) as truth,
    ):
        labels, cover = found.read(1), truth.read(1)
    assert (labels == cover)[cover != 255].mean() > 0.8


def test_landcover_on_a_part_of_a_real_scene(shared, tmp_path):
    """Sentinel-2 with blanks in its names, and a model trained on its few polygons."""
    folder = shared / "s2_rachel_carson"
    raster, labels = folder / "s2_stack_8band.vrt", folder / "rcr_landcover.shp"
    train = ["train", str(raster), "--labels", str(labels), "--column", "Classname"]
    train += ["--nodata", "255", "--arch", "forest", "--trees", "5"]
    train += ["--samples", "3000", "--out", str(tmp_path / "model"), "--quiet"]
    assert geoseg_run(train) == 0
    with rasterio.open(raster) as file:
        left, top = file.transform @ (1950, 1500)
        right, bottom = file.transform @ (2250, 1800)
        crs = file.crs
    square = shapely.box(left, bottom, right, top)
    geopandas.GeoDataFrame(geometry=[square], crs=crs).to_file(tmp_path / "a.gpkg")
    line = ["run", str(PIPELINES / "landcover_sentinel2.toml"), "--quiet"]
    for text in (
        f"segment.raster={raster}",
        "segment.nodata=255",
        f"segment.model={tmp_path / 'model'}",
        f"segment.aoi={tmp_path / 'a.gpkg'}",
        f"out={tmp_path}/out",
    ):
        line += ["--set", text]
    assert geoseg_run(line) == 0
    regions = pyogrio.read_dataframe(
        tmp_path / "out" / "landcover.gpkg", layer="regions"
    )
    known = set(pyogrio.read_dataframe(labels).Classname)
    assert 2 <= len(set(regions.class_name)) <= len(known)
    assert set(regions.class_name) <= known
    # Small regions join others first; then lines are simplified by up to a pixel.
    assert regions.area_m2.min() > 0.9 * 2000
    assert regions.confidence.between(0, 1).all()
    assert "</html>" in (tmp_path / "out" / "report.html").read_text()


def test_water_on_a_real_scene_with_a_local_cluster(shared, tmp_path):
    line = ["run", str(PIPELINES / "water.toml"), "--quiet"]
    for text in (
        f"segment.raster={shared / 's2_rachel_carson'}",
        "segment.nodata=255",
        f"out={tmp_path}/out",
        "cluster={kind='local', workers=1, dashboard='127.0.0.1:0'}",
    ):
        line += ["--set", text]
    assert geoseg_run(line) == 0
    regions = pyogrio.read_dataframe(tmp_path / "out" / "water.gpkg", layer="regions")
    assert set(regions.class_name) == {"other", "water"}


def test_tree_crowns_on_a_real_chip(shared, tmp_path):
    chip = min((shared / "naip_urban_trees" / "images").glob("*.tif"))
    line = ["run", str(PIPELINES / "tree_crowns.toml"), "--quiet"]
    for text in (
        f"segment.raster={chip}",
        'segment.bands=["red", "green", "blue", "nir"]',
        f"out={tmp_path}/out",
    ):
        line += ["--set", text]
    assert geoseg_run(line) == 0
    crowns = geopandas.read_file(tmp_path / "out" / "crowns.gpkg", layer="instances")
    masks = open_masks(f"{tmp_path}/out/masks.zarr")
    assert masks.read("instances", masks.grid.window).max() >= len(crowns)
    trees = json.loads((chip.parents[1] / "trees" / f"{chip.stem}.json").read_text())
    places = [feature["geometry"]["coordinates"] for feature in trees["features"]]
    found = crowns.geometry.union_all().buffer(1)
    shapely.prepare(found)
    assert shapely.contains_xy(found, places).mean() > 0.8
    assert 0.7 < len(crowns) / len(places) < 1.4


def test_buildings_with_a_model_trained_as_the_file_says(shared, tmp_path):
    """A forest, since it is trained in seconds; the file suggests a network."""
    folder = shared / "banepa_buildings"
    with rasterio.open(folder / "banepa_train_rgb.tif") as file:
        window = rasterio.windows.Window(0, 0, 512, 512)
        profile = file.profile | {
            "width": 512,
            "height": 512,
            "transform": file.window_transform(window),
            "driver": "GTiff",
        }
        pixels = file.read(window=window)
    with rasterio.open(tmp_path / "town.tif", "w", **profile) as file:
        file.write(pixels)
    train = ["train", str(tmp_path / "town.tif"), "--arch", "forest", "--quiet"]
    train += ["--labels", str(folder / "buildings_3857.gpkg")]
    train += ["--constant", "building", "--background", "other"]
    train += ["--trees", "10", "--samples", "5000", "--out", str(tmp_path / "model")]
    assert geoseg_run(train) == 0
    line = ["run", str(PIPELINES / "buildings_rgb.toml"), "--quiet"]
    for text in (
        f"segment.raster={tmp_path / 'town.tif'}",
        f"segment.model={tmp_path / 'model'}",
        f"out={tmp_path}/out",
    ):
        line += ["--set", text]
    assert geoseg_run(line) == 0
    regions = pyogrio.read_dataframe(
        tmp_path / "out" / "buildings.gpkg", layer="regions"
    )
    assert set(regions.class_name) == {"building"}
    assert regions.area_m2.min() >= 10


def test_the_environment_is_left_as_it_was(water):
    before = dict(os.environ)
    run_pipeline(read_pipeline(water, ["segment.device=cpu"]))
    assert dict(os.environ) == before
