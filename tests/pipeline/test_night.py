"""A pipeline every night: places by date, what changed, retries, status, cron lines."""

import json
import os
import re
import subprocess
import sys
import threading
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import rasterio
from landscape.scene import write_scene

import geoseg.pipeline.run
from geoseg.cli import run as geoseg_run
from geoseg.errors import BlocksFailedError, ChangedError, GeosegError
from geoseg.pipeline.product_paths import newest
from geoseg.pipeline.run import run_pipeline
from geoseg.pipeline.settings import read_pipeline
from geoseg.pipeline.status import read_status

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture
def water(tmp_path):
    """Return a pipeline that segments only, beside a scene of its own."""
    write_scene(tmp_path / "scene.tif", tmp_path / "truth.tif", 256, 256, 3)
    (tmp_path / "w.toml").write_text(
        'name = "Water"\nout = "out/{date}"\n[segment]\nraster = "scene.tif"\n'
        'model = "threshold:ndwi>0.2"\n'
    )
    return tmp_path / "w.toml"


def change(folder, **profile):
    """Give a scene other metadata: the same path is another image from now on."""
    with rasterio.open(folder / "scene.tif", "r+") as file:
        for name, value in profile.items():
            setattr(file, name, value)


# --- places ---------------------------------------------------------------------------


def test_what_stands_in_braces(water):
    day, out = "2026-03-01", water.parent / "out"

    def place(text):
        pipeline = read_pipeline(water, [f"out={text}", "segment.masks={raster}.zarr"])
        return newest(pipeline, day)

    first, following = place(f"{out}/{{date}}/{{raster}}")
    assert first.out == following.out == f"{out}/2026-03-01/scene"
    assert first.masks == f"{out}/2026-03-01/scene/{{raster}}.zarr".format(
        raster="scene"
    )
    (out / "2026-03-01" / "scene").mkdir(parents=True)
    first, following = place(f"{out}/{{date}}/{{raster}}")
    assert following.out == f"{out}/2026-03-01-2/scene"
    for number in "12":
        (out / number).mkdir()
    first, following = place(f"{out}/{{number}}")
    assert (first.out, following.out) == (f"{out}/2", f"{out}/3")
    with pytest.raises(
        GeosegError, match=r"\{day\} in 'out/\{day\}' is not known: write one of \{date"
    ):
        read_pipeline(water, ["out=out/{day}"])
    with pytest.raises(GeosegError, match="stands for the name of one raster"):
        newest(read_pipeline(water, ["out={raster}", "segment.raster=*.tif"]))


def test_a_new_image_at_the_same_path_is_a_new_run_where_that_is_asked_for(water):
    out = water.parent / "out"
    pipeline = read_pipeline(water)
    run_pipeline(pipeline, day="2026-03-01")
    before = read_status(f"{out}/2026-03-01")
    change(water.parent, nodata=9)
    with pytest.raises(ChangedError, match=r"there now .scene.tif has changed: last"):
        run_pipeline(pipeline, day="2026-03-01")
    refused = read_status(f"{out}/2026-03-01")
    assert (refused["state"], refused["status"]) == ("failed", 2)
    assert "--if-changed new keeps it" in refused["error"], "as is printed"
    with pytest.warns(UserWarning, match=r"A new run begins in .*2026-03-01-2"):
        made = run_pipeline(pipeline, day="2026-03-01", if_changed="new")
    assert made["segment"]["product"] == f"{out}/2026-03-01-2/masks.zarr"
    made = run_pipeline(pipeline, day="2026-03-01", if_changed="new")
    assert not made["segment"]["made"], "the newest run is taken"
    assert made["segment"]["product"] == f"{out}/2026-03-01-2/masks.zarr"
    assert before["stages"]["segment"]["masks_run"]
    change(water.parent, nodata=8)
    with pytest.warns(UserWarning, match="It is made again"):
        made = run_pipeline(pipeline, day="2026-03-01", if_changed="overwrite")
    assert made["segment"]["product"] == f"{out}/2026-03-01-2/masks.zarr"
    fixed = read_pipeline(water, [f"out={out}/here"])
    with pytest.raises(GeosegError, match=r"needs \{date\} or \{number\} in out"):
        run_pipeline(fixed, if_changed="new")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("segment.nodata=7", "nodata: none there, 7 now"),
        ("segment.model=threshold:ndwi>0.9", "model: threshold:ndwi>0.2 there, thre"),
        ("segment.resolution=20", "pixel size: 10 x 10 there, 20 x 20 now"),
        ("segment.aoi=aoi.geojson", "area of interest: none there, one now"),
        ("segment.raster=other.tif", r"raster: .*scene.tif there, .*other.tif now"),
    ],
)
def test_what_changed_is_said_in_words(water, monkeypatch, override, said):
    """Another raster is refused; of the same, masks are made again."""
    monkeypatch.chdir(water.parent)
    write_scene("other.tif", "t.tif", 256, 256, 3)
    with rasterio.open("scene.tif") as file:
        left, bottom, right, top = file.bounds
        crs = f"urn:ogc:def:crs:EPSG::{file.crs.to_epsg()}"
    ring = [[left, bottom], [right, bottom], [right, top], [left, bottom]]
    feature = {
        "type": "Feature",
        "properties": {},
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }
    named = {"type": "name", "properties": {"name": crs}}
    area = {"type": "FeatureCollection", "crs": named, "features": [feature]}
    Path("aoi.geojson").write_text(json.dumps(area))
    run_pipeline(read_pipeline(water, ["out=here"]))
    changed = read_pipeline(water, ["out=here", override])
    words = f"with other settings .{said}"
    if "raster=" in override:
        with pytest.raises(ChangedError, match=f"{words}.*: --if-changed over"):
            run_pipeline(changed)
        return
    with pytest.warns(UserWarning, match=f"{words}.*made again"):
        assert run_pipeline(changed)["segment"]["made"]


# --- status and retries ---------------------------------------------------------------


def test_what_a_rerun_can_finish_is_tried_again(water, monkeypatch):
    tries = []

    def fails_twice(run, product, overwrite):
        tries.append(product)
        if len(tries) < 3:
            raise BlocksFailedError({(0, 0): "hiccup"}, 4)
        return {}

    step = geoseg.pipeline.stages._Step
    steps = {"segment": step(lambda p: p.masks, fails_twice, lambda *_: True)}
    monkeypatch.setattr(geoseg.pipeline.stages, "STAGES", steps)
    monkeypatch.setattr(geoseg.pipeline.run, "STAGES", steps)
    pipeline = read_pipeline(water)
    with pytest.raises(BlocksFailedError), pytest.warns(UserWarning, match="again"):
        run_pipeline(pipeline, retries=1)
    assert len(tries) == 2
    out = str(Path(newest(pipeline)[0].out))
    found = read_status(out)
    assert found["state"] == "failed"
    assert found["status"] == 3
    assert "hiccup" in found["error"]
    run_pipeline(pipeline, retries=1)
    assert read_status(out)["state"] == "done"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"process": 1}', "\0"])
def test_a_status_that_was_cut_is_said_in_a_line(tmp_path, capsys, text):
    (tmp_path / "status.json").write_text(text)
    assert geoseg_run(["status", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "status.json is empty, cut or no run's: the next run writes it" in said
    assert said.count("\n") == 1


def test_the_status_of_a_run(water, capsys):
    out = str(water.parent / "here")
    line = ["run", str(water), "--set", f"out={out}", "--quiet"]
    assert geoseg_run(["status", out]) == 2
    assert "has no status.json" in capsys.readouterr().err
    assert geoseg_run(line) == 0
    assert geoseg_run(["status", out]) == 0
    said = capsys.readouterr().out
    assert re.search(r"here: done after .*\nsegment: done, .*masks\.zarr", said)
    assert geoseg_run(["status", out, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["state"] == "done"
    assert found["stages"]["segment"]["product"] == f"{out}/masks.zarr"
    # Killed: its process is gone, and it could say nothing.
    file = Path(out) / "status.json"
    told = json.loads(file.read_text())
    told["state"], told["process"]["pid"] = "running", 2**22 + 1
    told["stages"]["segment"]["state"] = "running"
    file.write_text(json.dumps(told))
    assert geoseg_run(["status", out]) == 3
    said = capsys.readouterr().out
    assert "killed (the same command" in said
    assert "segment: killed" in said
    assert geoseg_run(["status", out, "--prometheus"]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert f'geoseg_exit_status{{out="{out}"}} 3' in lines
    line[-2] = f"out={out}"
    assert geoseg_run([*line, "--set", "segment.raster=none.tif"]) == 2
    assert geoseg_run(["status", out]) == 2
    assert "error: " in capsys.readouterr().out


def test_a_webhook_is_told_how_it_ended(water, capsys, monkeypatch):
    told, answers = [], iter([500, 204, 204])
    monkeypatch.setattr("geoseg.pipeline.status._PAUSES", (0.0,))

    class Listens(BaseHTTPRequestHandler):
        def do_POST(self):
            told.append(
                json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            )
            self.send_response(next(answers))
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Listens) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/hook/of-ours?token=abc123"
        line = ["run", str(water), "--quiet", "--set", f"out={water.parent}/here"]
        assert geoseg_run([*line, "--webhook", url]) == 0
        line += ["--set", "segment.raster=none.tif"]
        assert geoseg_run([*line, "--webhook", url]) == 2
        server.shutdown()
    assert told.pop(0) == told[0], "tried again"
    assert [(t["state"], t["status"]) for t in told] == [("done", 0), ("failed", 2)]
    assert told[0]["stages"]["segment"]["blocks"] == 1
    assert told[0]["out"] == f"{water.parent}/here"
    assert "none.tif" in told[1]["error"]
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert geoseg_run([*line, "--webhook", url]) == 2
    said = capsys.readouterr().err
    assert "the webhook at 127.0.0.1 could not be told how the run ended" in said
    assert "abc123" not in said
    assert "of-ours" not in said
    assert geoseg_run([*line, "--webhook", "ftp://host/x"]) == 2
    assert "is not a web address" in capsys.readouterr().err


def test_what_ended_well_is_no_false_alarm(water, monkeypatch):
    """Neither where a new run begins beside kept masks, nor where a try is repeated."""
    told, url = [], "https://host.invalid/hook"
    monkeypatch.setattr(
        "geoseg.pipeline.job.post_status", lambda *told_of: told.append(told_of)
    )
    pipeline = read_pipeline(water, [f"out={water.parent}/{{number}}"])
    run_pipeline(pipeline)
    kept = read_status(f"{water.parent}/1")
    change(water.parent, nodata=9)
    with pytest.warns(UserWarning, match="A new run begins in"):
        run_pipeline(pipeline, if_changed="new", webhook=url)
    assert read_status(f"{water.parent}/1") == kept
    log = (water.parent / "1" / "log.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["event"] == "kept"
    assert [(u, t["out"], t["status"]) for u, t in told] == [
        (url, f"{water.parent}/2", 0)
    ]
    stage, failures = geoseg.pipeline.run.run_stage, iter([True])

    def fails_once(*arguments):
        if next(failures, False):
            raise BlocksFailedError({(0, 0): "hiccup"}, 1)
        return stage(*arguments)

    monkeypatch.setattr(geoseg.pipeline.run, "run_stage", fails_once)
    with pytest.warns(UserWarning, match="Trying again"):
        run_pipeline(pipeline, retries=1, webhook=url)
    assert [t["status"] for _, t in told] == [0, 0]


def test_a_folder_of_runs_names_the_newest(water, capsys):
    for day in ("2026-03-01", "2026-03-02"):
        run_pipeline(read_pipeline(water), day=day)
    assert geoseg_run(["status", str(water.parent / "out")]) == 2
    newest = water.parent / "out" / "2026-03-02"
    assert f"geoseg status {newest}" in capsys.readouterr().err


def test_the_log_for_machines(water, capsys, monkeypatch):
    out = water.parent / "here"
    line = ["run", str(water), "--set", f"out={out}", "--quiet"]
    assert geoseg_run([*line, "--log-json"]) == 0
    lines = [json.loads(t) for t in capsys.readouterr().err.splitlines()]
    assert {"time", "level", "message"} <= set(lines[0])
    assert [d["event"] for d in lines if d.get("stage") == "pipeline"] == [
        "start",
        "done",
    ]
    wrong = ["--log-json", "run", str(water), "--set", "segment.modle=x"]
    assert geoseg_run(wrong) == 2
    (said,) = (json.loads(t) for t in capsys.readouterr().err.splitlines())
    assert said["level"] == "error"
    assert "did you mean model?" in said["message"]

    def stumbles(*_, **__):
        raise ZeroDivisionError("ours")

    with monkeypatch.context() as patch:
        patch.setattr(geoseg.pipeline.run, "run_stage", stumbles)
        assert geoseg_run([*line, "--log-json"]) == 1
    last = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert "test_night.py" in last["traceback"]
    assert "ZeroDivisionError" in (out / "log.jsonl").read_text().splitlines()[-1]
    assert "traceback" not in (out / "status.json").read_text()
    raster = str(water.parent / "scene.tif")
    segment = [
        "segment",
        raster,
        "--model",
        "otsu:ndwi",
        "-q",
        "--units",
        "reflectance",
    ]
    segment += ["--out", str(water.parent / "m.zarr")]
    assert geoseg_run([*segment, "--log-level", "error"]) == 0
    assert capsys.readouterr().err == ""
    assert geoseg_run([*segment, "--log-level", "loud"]) == 2


def test_check_looks_at_what_can_be_wrong(water, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(water.parent))
    line = ["run", str(water), "--check"]
    assert geoseg_run(line) == 0
    assert "windows" in capsys.readouterr().out
    assert not (water.parent / "out").exists()
    for override, said in (
        ("segment.raster=none.tif", "none.tif"),
        ("segment.model=models/none", "models/none"),
        ("segment.bands=a,b", "no band a, b"),
        ("cluster={kind='ssh', hosts=['none.invalid']}", "no machine is called none"),
        ("cluster={kind='lsf', workers=2}", "bsub, which is not on PATH"),
    ):
        assert geoseg_run([*line, "--set", override]) == 2
        assert said in capsys.readouterr().err
    usage = geoseg.pipeline.check.shutil.disk_usage(water.parent)
    with monkeypatch.context() as patch:
        full = usage._replace(free=100)
        patch.setattr(geoseg.pipeline.check.shutil, "disk_usage", lambda _: full)
        assert geoseg_run(line) == 2
        assert "100 B free" in capsys.readouterr().err
    memory = geoseg.pipeline.check.psutil.virtual_memory()
    small = memory._replace(total=10**8)
    monkeypatch.setattr(geoseg.pipeline.check.psutil, "virtual_memory", lambda: small)
    assert geoseg_run(line) == 2
    assert "the machine has 100 MB" in capsys.readouterr().err


# --- the printed lines ----------------------------------------------------------------


def printed():
    """Return the shell part of every cron line that a page shows."""
    pages = [TOP / "pipelines" / "README.md", *(TOP / "notebooks").rglob("*.md")]
    for page in pages:
        for line in page.read_text(encoding="utf-8").splitlines():
            found = re.match(r"\s*[\d*]+ [\d*]+ [\d*]+ [\d*]+ [\d*]+ +(\S.*)", line)
            if found:
                yield found[1]


@pytest.mark.parametrize("status", [0, 2, 3])
def test_cron_lines_fail_when_the_run_fails(tmp_path, status):
    """With a stub that ends like a failing run, in place of geoseg."""
    lines = list(printed())
    assert lines
    stub = tmp_path / "geoseg"
    stub.write_text(f"#!/bin/sh\nexit {status}\n")
    stub.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for line in lines:
        here = line.replace("cd /srv/maps", f"cd {tmp_path}")
        done = subprocess.run(["sh", "-c", here], env=env, check=False)
        assert done.returncode == status, line


def test_a_failing_run_fails_the_cron_line(tmp_path):
    """With geoseg itself."""
    stub = tmp_path / "geoseg"
    stub.write_text(f'#!/bin/sh\nexec {sys.executable} -m geoseg "$@"\n')
    stub.chmod(0o755)
    (tmp_path / "water.toml").write_text("out = 'out'\n")
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for line in printed():
        here = line.replace("cd /srv/maps", f"cd {tmp_path}")
        done = subprocess.run(
            ["sh", "-c", here], env=env, check=False, capture_output=True, text=True
        )
        assert done.returncode == 2, done.stderr
        assert "segment is missing" in done.stderr


@pytest.mark.parametrize("status", [0, 2, 3, 143])
@pytest.mark.parametrize("script", ["driver.sbatch", "array.sbatch"])
def test_batch_scripts_end_as_the_run_ends(tmp_path, script, status):
    """And queue themselves again where that can help; with stubs for both programs."""
    for name, line in (
        ("geoseg", f"exit {status}"),
        ("scontrol", f"touch {tmp_path}/requeued"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "rasters.txt").write_text("a.tif\n")
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    env |= {"SLURM_ARRAY_TASK_ID": "1", "SLURM_JOB_ID": "7"}
    words = ["rasters.txt", "p.toml", "out"] if "array" in script else ["p.toml"]
    line = ["bash", str(TOP / "cluster" / "slurm" / script), *words]
    done = subprocess.run(line, env=env, cwd=tmp_path, check=False)
    assert done.returncode == status
    assert (tmp_path / "requeued").exists() == (status in {3, 143})
