"""The program as a user calls it: exit statuses, one line for bad input, summaries."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio._err import CPLE_AppDefinedError
from tifs import write_tif

import geoseg.cli
from geoseg.cli import COMMANDS, run
from geoseg.core.files import replacing


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    path = tmp_path_factory.mktemp("scene") / "a scene.tif"
    rng = np.random.default_rng(0)
    values = rng.integers(1, 255, (2, 150, 130), dtype=np.uint8)
    values[:, :20] = 0
    return write_tif(str(path), values, names=("green", "nir"), nodata=0)


def call(*arguments):
    return run([str(a) for a in arguments])


def refused(capsys, *arguments, says, status=2):
    """Check for an exit status and one line on stderr that says something."""
    ended = call(*arguments)
    error = capsys.readouterr().err
    assert ended == status, error
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    for text in says if isinstance(says, (list, tuple)) else [says]:
        assert text in error
    return error


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command, capsys):
    assert call(command, "--help") == 0
    text = capsys.readouterr().out
    assert "Usage: geoseg" in text
    if command != "model":
        assert "Example" in text


def test_help_comes_by_other_ways_too(capsys):
    for words in ([], ["model"]):
        assert run(words) == 2
        said = capsys.readouterr().err
        assert said.startswith("Usage: geoseg")
        assert "\nCommands:\n" in said
    assert run(["help", "segment"]) == 0
    assert capsys.readouterr().out.startswith("Usage: geoseg segment")


def test_help_is_whole_and_in_sections(capsys):
    """A stranger sees every sentence to its end, and what belongs together together."""
    assert call("--help") == 0
    text = capsys.readouterr().out
    assert "\\b" not in text
    assert "..." not in text.partition("Commands:")[2]
    assert "\n    geoseg segment scene.tif --model" in text, "an example is a line"
    commands = [*COMMANDS]
    assert [c for c in commands if f"\n  {c} " not in text] == []
    assert call("segment", "--help") == 0
    text = capsys.readouterr().out
    titles = ["Model and raster:", "What is written:", "Speed and memory:", "Options:"]
    places = [text.index(title) for title in titles]
    assert places == sorted(places)
    assert places[0] < text.index("--overlap") < places[1] < text.index("--out MASKS")
    assert places[2] < text.index("--workers") < places[3] < text.index("--json")


def test_the_usual_way(scene, tmp_path, capsys):
    masks, regions = tmp_path / "m.zarr", tmp_path / "r.gpkg"
    cog = tmp_path / "m.tif"
    model = ["--model", "threshold:ndwi"]
    assert call("segment", scene, *model, "--out", masks, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["masks"] == str(masks)
    assert summary["pixels"] == 150 * 130
    assert call("segment", scene, *model, "--out", masks) == 0
    assert "complete already" in capsys.readouterr().out
    assert call("vectorize", masks, "--out", regions) == 0
    assert call("export", masks, "--out", cog) == 0
    with rasterio.open(cog) as file, rasterio.open(scene) as source:
        assert file.crs == source.crs
        assert file.transform == source.transform
        assert file.nodata == 255
        green, nir = source.read().astype(np.float32)
        with np.errstate(invalid="ignore"):
            ndwi = (green - nir) / (green + nir)
        expected = np.where(green == 0, 255, ndwi > 0)
        assert (file.read(1) == expected).all()
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert len(file.colormap(1)) == 256
    assert "water" in Path(f"{cog}.aux.xml").read_text()


def test_plan_runs_nothing(scene, tmp_path, capsys):
    assert call("plan", scene, "--model", "threshold:ndwi", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["height"], summary["width"]) == (150, 130)
    assert summary["windows"] == 1
    assert summary["memory_per_process"] > 1e8
    assert call("plan", scene, "--model", "threshold:ndwi") == 0
    assert "130 x 150 px" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_plan_of_a_raster_of_ten_to_the_thirteen_pixels(tmp_path, capsys):
    vrt = tmp_path / "huge.vrt"
    vrt.write_text(
        """<VRTDataset rasterXSize="2000000000" rasterYSize="5000">
        <GeoTransform>0, 1, 0, 0, 0, -1</GeoTransform>
        <VRTRasterBand dataType="Byte" band="1"><Description>red</Description>
        </VRTRasterBand></VRTDataset>"""
    )
    assert call("plan", vrt, "--model", "threshold:red>5", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["height"] * summary["width"] == 10**13
    assert summary["windows"] == -(-5000 // 512) * -(-2_000_000_000 // 512)


MODEL = ["--model", "threshold:ndwi"]


def test_bad_input(scene, tmp_path, capsys):
    out = ["--out", tmp_path / "m.zarr"]
    refused(capsys, "segment", tmp_path / "no.tif", *MODEL, *out, says="no.tif")
    refused(capsys, "segment", tmp_path, *MODEL, *out, says="without rasters")
    refused(
        capsys, "segment", scene, "--model", "nothing", *out, says="no model 'nothing'"
    )
    refused(capsys, "segment", scene, "--model", "threshold:swir>1", *out, says="swir")
    refused(capsys, "segment", scene, *out, says="--model")
    refused(capsys, "segment", scene, *MODEL, "--out", scene, says="inside the input")
    refused(capsys, "segment", scene, *MODEL, *out, "--block", 7, says="use 1024")
    refused(capsys, "segment", scene, *MODEL, *out, "--overlap", 7, says="must be even")
    refused(capsys, "segment", scene, *MODEL, *out, "--memory", "1MB", says="allowed")
    refused(capsys, "segment", scene, *MODEL, *out, "--memory", "x", says="8GB")
    refused(capsys, "segment", scene, *MODEL, *out, "--nonsense", says="--nonsense")
    assert not (tmp_path / "m.zarr").exists()
    refused(
        capsys, "vectorize", tmp_path / "no.zarr", "--out", "r.gpkg", says="no.zarr"
    )
    refused(capsys, "export", tmp_path / "no.zarr", "--out", "r.tif", says="no.zarr")
    refused(capsys, "nonsense", says="nonsense")
    refused(capsys, "segmnt", scene, says="did you mean segment?")
    refused(capsys, "model", "chek", "m", says="did you mean check?")
    refused(capsys, "segment", scene, "--modle", "m", says="Did you mean")


def test_outputs_that_can_never_be_are_refused_before_the_work(scene, tmp_path, capsys):
    model = ["segment", scene, *MODEL, "--out"]
    says = ["named like a file", "map.zarr"]
    refused(capsys, *model, tmp_path / "map.tif", says=says)
    refused(capsys, *model, "https://host/m.zarr", says="object store")
    assert call(*model, tmp_path / "m.zarr", "--quiet") == 0
    export = ["export", tmp_path / "m.zarr", "--out"]
    refused(capsys, *export, tmp_path / "m.png", says="must end in .tif")
    report = ["report", tmp_path / "m.zarr", "--out"]
    refused(capsys, *report, tmp_path / "m.pdf", says="must end in .html")
    assert [p.name for p in tmp_path.iterdir()] == ["m.zarr"]
    refused(
        capsys, "vectorize", tmp_path / "m.zarr", "--out", tmp_path / "r.gpkg",
        "--scheduler", "tcp://me:secret@host:1", says="is not an address",
    )  # fmt: skip


def as_user(*arguments):
    """Call the program without root's right to write anywhere."""
    line = [sys.executable, "-m", "geoseg", *map(str, arguments)]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("is root, and there is no setpriv to be less")
        rights = "-dac_override,-dac_read_search"
        line = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", *line]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_no_permission(scene, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    done = as_user("segment", scene, *MODEL, "--out", locked / "m.zarr")
    assert done.returncode == 2
    expected = f"geoseg: {locked}/m.zarr cannot be written: Permission denied\n"
    assert done.stderr == expected
    secret = tmp_path / "secret.tif"
    secret.write_bytes(Path(scene).read_bytes())
    secret.chmod(0)
    done = as_user("segment", secret, *MODEL, "--out", tmp_path / "m.zarr")
    assert done.returncode == 2
    assert done.stderr == f"geoseg: cannot open {secret}: Permission denied\n"


def test_a_full_disk_is_said_on_one_line(scene, tmp_path, small_disk, capfd):
    where, resize = small_disk
    masks = tmp_path / "m.zarr"
    assert call("segment", scene, *MODEL, "--out", masks, "--quiet") == 0
    regions = tmp_path / "r.fgb"
    assert call("vectorize", masks, "--out", regions, "--quiet") == 0
    resize(regions.stat().st_size * 5 // 4)  # GDAL writes it twice
    out = where / "r.fgb"
    says = ["cannot be written (", "free there", "make room"]
    refused(capfd, "vectorize", masks, "--out", out, says=says, status=3)
    assert not list(where.iterdir())
    resize(200_000)
    (where / "filler").write_bytes(bytes(196_000))
    for command, name in [
        ("export", "m.tif"),
        ("vectorize", "r.gpkg"),
        ("vectorize", "r.parquet"),
        ("report", "m.html"),
        ("vectorize", "r.shp"),
        ("sample", "points.gpkg"),
    ]:
        out = where / name
        says = [str(out), "written"]
        refused(capfd, command, masks, "--out", out, says=says, status=3)
    assert [path.name for path in where.iterdir()] == ["filler"]


@pytest.mark.parametrize(
    "error",
    [
        SystemError("Unknown GDAL Error"),
        CPLE_AppDefinedError(3, 1, "Cannot read 9 bytes at offset 5"),
        rasterio.errors.RasterioIOError("Read failed"),
    ],
)
def test_gdal_has_many_words_for_a_full_disk(scene, tmp_path, capsys, error):
    def copy(*_, **__):
        raise error

    masks, out = tmp_path / "m.zarr", tmp_path / "m.tif"
    assert call("segment", scene, *MODEL, "--out", masks, "--quiet") == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rasterio.shutil.copy", copy)
        patch.setattr("sys.executable", "/usr/bin/qgis")  # whose Python is no program
        says = [f"{out} cannot be written (", "free there", "make room"]
        refused(capsys, "export", masks, "--out", out, says=says, status=3)
    assert not list(tmp_path.glob("*m.tif*"))


@pytest.mark.parametrize(
    ("status", "said", "libtiff", "reason"),
    [
        (-11, "", "", "GDAL ended with status -11, "),
        (1, "Cannot read 9 bytes", "", "Cannot read 9 bytes, "),
        (-11, "", "_tiffWriteProc: No space left on device.\n", "No space left on dev"),
    ],
)
def test_gdal_may_die_where_a_disk_fills(
    scene, tmp_path, capfd, monkeypatch, status, said, libtiff, reason
):
    masks, out = tmp_path / "m.zarr", tmp_path / "m.tif"
    assert call("segment", scene, *MODEL, "--out", masks, "--quiet") == 0
    script = (
        f"import os, sys; sys.stdout.write({said!r}); sys.stderr.write({libtiff!r});"
        f"sys.stdout.flush(); sys.stderr.flush();"
        f"os.kill(os.getpid(), {-status}) if {status} < 0 else sys.exit({status})"
    )
    begin = subprocess.run

    def dies(words, **told):
        return begin([words[0], "-c", script], **told)

    monkeypatch.setattr("geoseg.rasters.cog.subprocess.run", dies)
    says = [f"{out} cannot be written ({reason}", "free there", "make room"]
    refused(capfd, "export", masks, "--out", out, says=says, status=3)
    assert not list(tmp_path.glob("*m.tif*"))


def test_what_a_dead_export_left_does_not_fill_the_disk(scene, tmp_path, small_disk):
    where, resize = small_disk
    masks, out = tmp_path / "m.zarr", where / "m.tif"
    assert call("segment", scene, *MODEL, "--out", masks, "--quiet") == 0
    resize(900_000)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with replacing(out) as part:
        left = Path(str(part).replace(f"-{os.getpid()}.", f"-{ended.pid}."))
        part.touch()
    left.write_bytes(bytes(890_000))
    out.unlink()
    assert call("export", masks, "--out", out, "--quiet") == 0
    assert not left.exists()


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="nobody writes there on Linux")
def test_output_in_a_folder_that_cannot_be_written(scene, tmp_path, capsys):
    masks = tmp_path / "m.zarr"
    assert call("segment", scene, *MODEL, "--out", masks, "--quiet") == 0
    for out, *command in [
        ("/proc/m.zarr", "segment", scene, *MODEL),
        ("/sys/r.gpkg", "vectorize", masks),
        ("/sys/r.shp", "vectorize", masks),
        ("/sys/m.html", "report", masks),
        ("/sys/points.gpkg", "sample", masks, "--n", 9),
        ("/sys/model", "train", scene, "--labels", masks, "--arch", "forest"),
    ]:
        refused(capsys, *command, "--out", out, says=out)
    refused(
        capsys, "segment", scene, *MODEL, "--out", "az://box/m.zarr",
        says="the object store",
    )  # fmt: skip


def test_no_crs_is_allowed_warned_and_carried_through(tmp_path, capsys):
    path = tmp_path / "plain.tif"
    write_tif(
        path,
        np.arange(600, dtype=np.uint8).reshape(1, 30, 20),
        names=("red",),
        transform=Affine(2, 0, 10, 0, -2, 50),
        crs=None,
    )
    out = tmp_path / "m.zarr"
    assert call("segment", path, "--model", "threshold:red>99", "--out", out) == 0
    assert "no coordinate reference system" in capsys.readouterr().err
    with rasterio.open(f'ZARR:"{out}":/classes') as file:
        assert file.crs is None
        assert file.transform == Affine(2, 0, 10, 0, -2, 50)


def test_as_a_module():
    answer = subprocess.run(
        [sys.executable, "-m", "geoseg", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.startswith("geoseg, version ")


def test_ctrl_c_while_it_is_imported_is_one_line():
    code = (
        "import signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'geoseg.cli': signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from geoseg.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "geoseg: interrupted\n")


def test_ctrl_c_that_a_callback_drops_comes_again():
    before = signal.getsignal(signal.SIGINT)
    try:
        geoseg.cli._unraisable(SimpleNamespace(exc_type=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            threading.Event().wait(20)
    finally:
        signal.signal(signal.SIGINT, before)
