"""`geoseg compose`: images of many dates as files, and scenes straight into a model."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
import xarray as xr
from dated_scenes import Scenes, whole, write_raster

import geoseg
from geoseg.cli import run
from geoseg.core.series_options import SeriesOptions
from geoseg.inference.options import PlanOptions
from geoseg.inference.planning import plan_of
from geoseg.rasters.images import memory_of
from geoseg.rasters.open_scenes import open_asked
from geoseg.rasters.time import Series, cell_side

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SHAPE = (40, 50)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three dates of reflectance with a quality band, one of them below zero."""
    rng, scenes = np.random.default_rng(3), Scenes(tmp_path_factory.mktemp("scenes"))
    seen = []
    for n in range(3):
        red, nir = (whole(rng, SHAPE) for _ in range(2))
        red[:5, :5] = 940
        scl = rng.choice(np.array([4, 9], np.uint8), (20, 25), p=[0.8, 0.2])
        scl[:2, :2] = 9
        scenes.add(f"s{n}", f"2022-0{n + 5}-10T10:00:00Z", {"B04": red, "B08": nir},
                   quality=("SCL", scl, 20), collection="sentinel-2-l2a",
                   properties={"s2:processing_baseline": "04.00"})  # fmt: skip
        clear = np.kron(scl, np.ones((2, 2))) == 4
        seen.append([np.where(clear, b / 1e4 - 0.1, np.nan) for b in (red, nir)])
    return scenes, scenes.save(), np.array(seen)


def composed(seen):
    with np.errstate(all="ignore"), pytest.warns(RuntimeWarning, match="All-NaN"):
        return np.nanmedian(seen, axis=0)


def test_a_cloud_optimised_tif(made, tmp_path):
    _, path, seen = made
    out = tmp_path / "out.tif"
    words = ["compose", path, "--bands", "red,nir", "--quality", "--out", str(out)]
    assert run([*words, "-q"]) == 0
    count = np.isfinite(seen[:, 0]).sum(axis=0)
    with rasterio.open(out) as file:
        assert file.descriptions == (
            "red", "nir", "observations", "clouds", "first", "last"
        )  # fmt: skip
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.units[:2] == ("reflectance", "reflectance")
        pixels = file.read()
        assert np.isnan(file.nodata)
    assert np.allclose(pixels[:2], composed(seen), atol=1e-6, equal_nan=True)
    assert np.array_equal(pixels[2], count)
    assert np.allclose(pixels[3], 1 - count / 3)
    assert np.isnan(pixels[4][count == 0]).all()
    assert run([*words, "-q"]) == 2  # it is there
    assert run([*words, "-q", "--overwrite"]) == 0
    listed = json.loads((tmp_path / "out.items.json").read_text())
    assert [item["id"] for item in listed["features"]] == ["s0", "s1", "s2"]
    assert {p.name for p in tmp_path.iterdir()} == {"out.tif", "out.items.json"}


def test_whole_numbers(made, tmp_path):
    _, path, seen = made
    out = tmp_path / "out.tif"
    words = ["compose", path, "--bands", "red", "--dtype", "int16", "--quality"]
    assert run([*words, "--out", str(out), "-q"]) == 0
    want = composed(seen)[0]
    with rasterio.open(out) as file:
        assert file.dtypes[0] == "int16"
        assert file.nodata == -32768
        stored, count = file.read(1), file.read(2)
        assert file.scales[:2] == pytest.approx((1e-4, 1))
    assert np.array_equal(stored == -32768, np.isnan(want))
    there = np.isfinite(want)
    assert np.array_equal(stored[there], np.rint(want[there] * 1e4))
    assert (stored[there] < 0).any()
    assert count.max() == 3


def test_zarr_with_steps(made, tmp_path):
    _, path, seen = made
    out = tmp_path / "out.zarr"
    asked = ["--every", "month", "--dates", "2022-05/2022-08", "--bands", "red,nir"]
    assert run(["compose", path, *asked, "--quality", "--out", str(out), "-q"]) == 0
    with xr.open_zarr(out) as opened:
        values = opened["composite"]
        assert values.dims == ("time", "band", "y", "x")
        assert list(values["band"].values) == ["red", "nir"]
        assert str(values["time"].values[0]).startswith("2022-05-01")
        assert np.allclose(values[:3], seen, atol=1e-6, equal_nan=True)
        assert np.isnan(values[3]).all()
        assert values.rio.crs.to_epsg() == 32632
        assert opened["observations"].max() == 3
    array = geoseg.compose(path, every="month", dates="2022-05/2022-08",
                           bands=["red", "nir"])  # fmt: skip
    assert array.chunks is not None
    assert np.allclose(array[:3], seen, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("{folder}/s0-B04.tif", "lies on or inside the input"),
        ("{folder}/nowhere/out.tif", "does not exist"),
        ("{folder}/out.jpg", "must end in"),
        ("s3://maps/out.tif", "is not on this machine"),
        ("gs://maps/out.zarr", "is not on this machine"),
        (None, "--out is missing"),
    ],
)
def test_where_it_cannot_be_written(made, out, said, capsys):
    scenes, path, _ = made
    words = [] if out is None else ["--out", out.format(folder=scenes.folder)]
    assert run(["compose", path, *words, "--overwrite"]) == 2
    assert said in capsys.readouterr().err


def test_the_list_never_takes_the_place_of_anything_else(made, tmp_path, capsys):
    scenes, path, _ = made
    source = Path(scenes.save("mine.items.json"))
    text = source.read_text()
    mine = str(scenes.folder / "mine.tif")
    assert run(["compose", str(source), "--out", mine, "-q"]) == 0
    assert source.read_text() == text
    (tmp_path / "out.items.json").write_text("{}")
    assert run(["compose", path, "--out", str(tmp_path / "out.tif")]) == 2
    assert "would take its place" in capsys.readouterr().err


def test_blocks_and_threads_do_not_matter(made, tmp_path, monkeypatch):
    _, path, _ = made
    files = []
    for name, side in (("one", 512), ("two", 16)):
        out = tmp_path / f"{name}.tif"
        monkeypatch.setattr("geoseg.rasters.images._TILE", side)
        monkeypatch.setattr("geoseg.rasters.time._SIDES", (side,))
        assert run(["compose", path, "--out", str(out), "-q"]) == 0
        with rasterio.open(out) as file:
            files.append(file.read())
    assert np.array_equal(files[0], files[1], equal_nan=True)


@pytest.mark.parametrize(
    ("dates", "bands", "rule"),
    [(40, 12, "median"), (40, 144, "median"), (40, 12, "medoid"), (200, 12, "mean")],
)
@pytest.mark.parametrize("cores", [1, 2, 64])
def test_memory_is_promised(made, monkeypatch, dates, bands, rule, cores):
    """40 dates of 12 bands take less than 2 GB, whatever they span, on any machine."""
    monkeypatch.setattr("geoseg.rasters.images.cores", lambda: cores)
    small = open_asked(made[1], SeriesOptions())
    together = bands if rule == "medoid" else 1
    large = replace(
        small,
        grid=replace(small.grid, height=20_000, width=20_000),
        overpasses=small.overpasses[:1] * dates,
        all_bands=small.all_bands[:1] * bands,
        picked=tuple(range(bands)),
        depth=bands,
        rule=rule,
        cell=cell_side(dates, together, bands),
    )
    libraries = 0.6e9
    assert libraries + memory_of(large) < 2e9


def test_scenes_straight_into_a_model(made, tmp_path):
    """The same map as of the image that is made of them before."""
    _, path, _ = made
    image = str(tmp_path / "image.tif")
    geoseg.compose(path, out=image, bands=["red", "nir"], progress=False)
    maps = []
    for name, source, how in (("a", image, {}), ("b", path, {"reduce": "median"})):
        out = str(tmp_path / f"{name}.zarr")
        maps.append(geoseg.segment(source, model="threshold:ndvi", out=out, **how,
                                   progress=False)["classes"].values)  # fmt: skip
    assert np.array_equal(*maps)
    assert (tmp_path / "b.items.json").exists()
    assert len(np.unique(maps[0])) > 1


def test_outlines_that_threads_share_are_not_prepared(made):
    """GEOS writes into prepared ones while they are asked: a run ended by SIGSEGV."""
    path = made[1]
    plan = plan_of(path, PlanOptions(model="threshold:ndvi", reduce="median"))
    series = plan.source
    while not isinstance(series, Series):
        series = series.source
    series.read(series.grid.window)
    outlines = series._outlines()
    assert len(outlines) == 3
    assert not shapely.is_prepared(outlines).any()


def test_a_plan_counts_what_many_dates_take(made):
    _, path, _ = made
    with_time = plan_of(path, PlanOptions(model="threshold:ndvi", reduce="median"))
    without = plan_of(path, PlanOptions(model="threshold:ndvi"))
    assert with_time.memory.per_task > without.memory.per_task
    assert with_time.settings["source"]["reduce"] == "median"


@pytest.mark.parametrize("name", ["out.tif", "out.zarr"])
def test_ended_in_the_middle_it_goes_on(made, tmp_path, monkeypatch, name):
    """Nothing looks whole; blocks that are there are not read again; the same bytes."""
    _, path, _ = made
    monkeypatch.setattr("geoseg.rasters.images._TILE", 16)
    monkeypatch.setattr("geoseg.rasters.time._SIDES", (16,))
    words = ["compose", path, "--quality", "-q", "--out"]
    assert run([*words, str(tmp_path / name)]) == 0
    whole, out = _bytes_in(tmp_path / name), tmp_path / "two" / name
    out.parent.mkdir()
    read, windows = Series.read, []

    def counted(series, window):
        windows.append(window)
        if len(windows) == 6:
            raise KeyboardInterrupt
        return read(series, window)

    monkeypatch.setattr(Series, "read", counted)
    assert run([*words, str(out)]) == 130
    assert not out.exists()
    before = set(windows[:5])
    kept = next(p for p in out.parent.iterdir() if p.name.startswith("."))
    (damaged := next(kept.iterdir())).write_bytes(b"damaged")
    assert run([*words, str(out)]) == 0
    again = [w for w in windows[6:] if w in before and f"{w.y}.{w.x}" != damaged.name]
    assert not again
    assert _bytes_in(out) == whole
    assert {p.name for p in out.parent.iterdir()} == {name, "out.items.json"}
    # Of another question nothing is taken.
    windows.clear()
    assert run([*words, str(out), "--overwrite", "--reduce", "mean"]) == 130
    windows[:] = [None] * 6
    assert run([*words, str(out), "--overwrite"]) == 0
    assert len(windows) == 12 + 6
    assert _bytes_in(out) == whole


def _bytes_in(path):
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*"))
    return {str(p.relative_to(path)): p.read_bytes() for p in files if p.is_file()}


def test_a_disk_that_is_full_at_the_end_is_noticed(made, tmp_path, monkeypatch, capsys):
    import rasterio.shutil

    _, path, _ = made
    copy = rasterio.shutil.copy

    def cut(source, target, **how):
        copy(source, target, **how)
        os.truncate(target, target.stat().st_size - 500)

    monkeypatch.setattr(rasterio.shutil, "copy", cut)
    monkeypatch.setattr("sys.executable", "/usr/bin/qgis")  # or another process copies
    out = tmp_path / "out.tif"
    assert run(["compose", path, "--out", str(out), "-q"]) != 0
    assert "make room" in capsys.readouterr().err
    assert not out.exists()


def test_files_whose_bands_have_no_names(tmp_path):
    """Their numbers are their names, where nothing else is asked for."""
    rng, pixels = np.random.default_rng(2), []
    for n in range(3):
        pixels.append([whole(rng) for _ in range(2)])
        name = tmp_path / f"scene_2022050{n + 1}.tif"
        write_raster(name, np.array(pixels[-1]), nodata=0)
    files = [str(p) for p in sorted(tmp_path.glob("*.tif"))]
    found = geoseg.compose(files, dates_from="names")
    assert list(found["band"].values) == ["1", "2"]
    assert np.array_equal(found, np.median(pixels, axis=0))
    out = tmp_path / "out.tif"
    with pytest.warns(UserWarning, match="512 values beyond 3.2767 are cut"):
        geoseg.compose(files, dates_from="names", dtype="int16", out=out)


def test_whole_numbers_are_the_same_in_every_format(tmp_path):
    """Zarr rounded halves another way, and cut what does not fit without a word."""
    rng, scenes = np.random.default_rng(4), Scenes(tmp_path)
    for n in range(2):
        red = rng.integers(0, 65_000, SHAPE).astype(np.uint16)
        scenes.add(f"s{n}", f"2022-0{n + 5}-10T10:00:00Z", {"B04": red},
                   collection="sentinel-2-l2a",
                   properties={"s2:processing_baseline": "04.00"})  # fmt: skip
    path, cut = scenes.save(), []
    for ending in ("tif", "zarr"):
        with pytest.warns(UserWarning, match="are cut to that") as told:
            geoseg.compose(path, dtype="int16", out=tmp_path / f"out.{ending}")
        cut += [str(w.message) for w in told if "are cut" in str(w.message)]
    assert cut[0] == cut[1]
    with rasterio.open(tmp_path / "out.tif") as file:
        stored = file.read()
    opened = xr.open_zarr(tmp_path / "out.zarr", mask_and_scale=False)["composite"]
    assert opened.dtype == np.int16
    assert np.array_equal(opened, stored)
