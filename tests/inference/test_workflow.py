"""The whole way on files: laws 1, 3, 4, 5, 6, 12, resuming, refusals, failures."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 - the accessor
import shapely
import small
import torch
from affine import Affine
from tifs import write_tif

import geoseg
from geoseg.errors import (
    BlocksFailedError,
    GeosegError,
    MasksError,
    ModelError,
    PlanError,
)
from geoseg.execution.clusters import local_cluster
from geoseg.execution.engine import worker_memory
from geoseg.inference.workflow import run_plan
from geoseg.maps.provenance import remembered_raster
from geoseg.maps.store import open_masks
from geoseg.maps.verify import verify
from geoseg.models.card import Band
from geoseg.testing import IdentityModel, LocalModel, MemorySource, identity_card


def write(path, values, *, nodata=None, transform=None, crs="EPSG:32633", **more):
    return write_tif(
        str(path),
        values,
        crs=crs,
        transform=transform or Affine(10, 0, 500_000, 0, -10, 5_000_000),
        nodata=nodata,
        tiled=True,
        blockxsize=64,
        blockysize=64,
        photometric="minisblack",
        **more,
    )


@pytest.fixture
def scene(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.random((3, 330, 290), np.float32)
    values[:, 100:260, 60:190] = -9999
    return write(tmp_path / "scene.tif", values, nodata=-9999)


def model(**fields):
    return LocalModel(card=identity_card(3, window=48, overlap=12, **fields))


def chunks(store):
    """Return the bytes of every chunk of every array, by name."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for array in ("classes", "confidence")
        for path in (Path(store) / array).iterdir()
        if not path.name.startswith(".")
    }


CHUNK = 64  # pixels, so that small rasters have many blocks
make_plan = partial(small.make_plan, chunk=CHUNK)


def run(scene, out, **options):
    options = {"model": model(), "chunk": CHUNK, "scores": True, **options}
    return small.segment(scene, out=out, **options)


def test_the_answer_does_not_depend_on_blocks(scene, tmp_path):
    seen = []
    for block in (72, 144, 360):
        data = run(scene, tmp_path / f"{block}.zarr", block=block)
        seen.append(chunks(tmp_path / f"{block}.zarr"))
        assert data["classes"].dtype == np.uint8
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) > 20


def test_the_answer_does_not_depend_on_threads(scene, tmp_path):
    plan = make_plan(scene, model=model(), block=72, scores=True)
    for tasks in (1, 4):
        run_plan(
            replace(plan, tasks=tasks), out=tmp_path / f"{tasks}.zarr", progress=False
        )
    assert chunks(tmp_path / "1.zarr") == chunks(tmp_path / "4.zarr")


@pytest.fixture(scope="module")
def client():
    """Start two processes of two threads that several tests use."""
    with local_cluster(2, dashboard=None) as client:
        yield client


def test_the_answer_does_not_depend_on_the_cluster(scene, tmp_path, client):
    run(scene, tmp_path / "here.zarr", block=144)
    run(scene, tmp_path / "there.zarr", block=72, client=client)
    assert chunks(tmp_path / "here.zarr") == chunks(tmp_path / "there.zarr")


@pytest.mark.parametrize(
    "engine", ["torch", pytest.param("compile", marks=small.needs_compiler)]
)
def test_batches_across_blocks_answer_alike_on_a_cluster(
    scene, tmp_path, client, monkeypatch, engine
):
    """What one worker compiled goes to the others with the job."""
    monkeypatch.setenv("GEOSEG_CACHE_DIR", str(tmp_path / "cache"))
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 3, 5, padding=2)
    card = identity_card(3, window=48, overlap=12, output="logits")
    how = {"model": (card, network), "engine": engine, "batch": 7, "device": "cpu"}
    run(scene, tmp_path / "here.zarr", block=144, **how)
    run(scene, tmp_path / "there.zarr", block=72, client=client, **how)
    assert chunks(tmp_path / "here.zarr") == chunks(tmp_path / "there.zarr")
    settings = open_masks(tmp_path / "there.zarr").record()["settings"]
    assert (settings["engine"], settings["batch"]) == (engine, 7)


def test_workers_may_be_started_in_any_folder(scene, tmp_path, client, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the workers are not
    run("scene.tif", "there.zarr", client=client)
    run(scene, tmp_path / "here.zarr")
    assert chunks(tmp_path / "here.zarr") == chunks(tmp_path / "there.zarr")
    assert geoseg.verify("there.zarr", client=client).damaged == {}


def test_moving_the_origin_moves_the_output_and_changes_nothing(tmp_path):
    values = np.random.default_rng(0).random((3, 100, 110), np.float32)
    here = write(tmp_path / "here.tif", values)
    moved = Affine(10, 0, 700_000, 0, -10, 1_000_000)
    there = write(tmp_path / "there.tif", values, transform=moved)
    one = run(here, tmp_path / "here.zarr")
    two = run(there, tmp_path / "there.zarr")
    assert (one["classes"].to_numpy() == two["classes"].to_numpy()).all()
    assert (two.x - one.x.to_numpy() == 200_000).all()
    assert two.rio.transform() == moved


def test_nodata_in_is_nodata_out(scene, tmp_path):
    data = run(scene, tmp_path / "m.zarr")
    with rasterio.open(scene) as file:
        valid = file.dataset_mask() > 0
    assert ((data["classes"].to_numpy() == 255) == ~valid).all()
    assert np.isnan(data["confidence"].to_numpy()[~valid]).all()


def test_a_complete_store_is_not_inferred_again(scene, tmp_path):
    counting = IdentityModel(card=identity_card(3, window=48, overlap=12))
    plan = make_plan(scene, model=counting)
    _, facts = run_plan(plan, out=tmp_path / "m.zarr", progress=False)
    assert 0 < facts.windows <= plan.tiling.windows
    assert counting.seen == facts.windows
    _, again = run_plan(plan, out=tmp_path / "m.zarr", progress=False)
    assert again.windows == 0
    assert counting.seen == facts.windows


class Interrupted(BaseException):
    """As Ctrl-C, but pytest lives on."""


def test_an_interrupted_run_goes_on_and_ends_the_same(scene, tmp_path):
    run(scene, tmp_path / "whole.zarr", block=72)

    def stop(now):
        if now.blocks >= 5:
            raise Interrupted

    plan = make_plan(scene, model=model(), block=72, scores=True)
    out = tmp_path / "cut.zarr"
    with pytest.raises(Interrupted):
        run_plan(plan, out=out, progress=stop)
    done = open_masks(str(out)).done()
    assert 5 <= len(done) < plan.tiling.blocks
    seen = []
    _, facts = run_plan(plan, out=out, progress=seen.append)
    assert seen[0].blocks == len(done)
    assert facts.windows < plan.tiling.windows
    assert chunks(out) == chunks(tmp_path / "whole.zarr")


def test_a_run_that_only_has_to_finish_infers_nothing(scene, tmp_path):
    def stop(now):
        if now.inferred == now.total:
            raise Interrupted

    plan = make_plan(scene, model=model(), block=72)
    with pytest.raises(Interrupted):
        run_plan(plan, out=tmp_path / "m.zarr", progress=stop)
    done = len(open_masks(str(tmp_path / "m.zarr")).done())
    assert done < plan.tiling.blocks
    _, facts = run_plan(plan, out=tmp_path / "m.zarr", progress=False)
    assert (facts.windows, facts.finished) == (0, plan.tiling.blocks - done)


KILLED = """
    import time
    from geoseg.testing import LocalModel, identity_card

    class Slow(LocalModel):
        def predict(self, pixels):
            time.sleep(0.005)
            return super().predict(pixels)

    def factory():
        return Slow(card=identity_card(3, window=48, overlap=12))
"""
RUN = """
    import sys, killed
    from small import segment
    segment({scene!r}, model="killed:factory", out={out!r}, block={block}, scores=True,
            chunk=64)
"""


def test_a_killed_process_leaves_nothing_wrong(scene, tmp_path):
    (tmp_path / "killed.py").write_text(textwrap.dedent(KILLED))

    def start(out, block=72):
        code = textwrap.dedent(RUN.format(scene=scene, out=str(out), block=block))
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
        return subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=env)

    assert start(tmp_path / "whole.zarr", block=144).wait(120) == 0
    out = tmp_path / "cut.zarr"
    for blocks in (1, 12):
        process = start(out)
        done = out / ".geoseg" / "done"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if done.is_dir() and len(list(done.iterdir())) >= blocks:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(out).wait(120) == 0
    assert chunks(out) == chunks(tmp_path / "whole.zarr")


def test_what_killed_writes_left_is_gone_at_the_end(scene, tmp_path):
    """Zarr and we write beside and rename; a kill between the two leaves a file."""

    def stop(now):
        if now.blocks >= 2:
            raise Interrupted

    plan = make_plan(scene, model=model(), block=72, scores=True)
    out = tmp_path / "m.zarr"
    with pytest.raises(Interrupted):
        run_plan(plan, out=out, progress=stop)
    left = [
        out / "classes" / f"0.{'ab' * 16}.partial",
        out / ".geoseg" / "done" / f".tmp-{'cd' * 16}",
    ]
    for path in left:
        path.write_bytes(b"half")
    run_plan(plan, out=out, progress=False)
    assert not any(path.exists() for path in left)


def test_windows_of_a_block_at_work_are_progress(tmp_path, monkeypatch):
    monkeypatch.setattr("geoseg.inference.scheduler._LOOK", 0.01)

    class Slow(IdentityModel):
        def predict(self, pixels):
            time.sleep(0.02)
            return super().predict(pixels)

    source = MemorySource(values=np.ones((3, 216, 216), np.float32))
    model = Slow(card=identity_card(3, window=48, overlap=12))
    plan = small.make_plan(source, model=model, chunk=36, block=216, batch=1)
    assert (plan.tiling.blocks, plan.tiling.windows) == (1, 36)
    seen = []
    run_plan(plan, out=tmp_path / "m.zarr", progress=seen.append)
    cells = [now.cells for now in seen]
    assert cells == sorted(cells)
    assert seen[0].cells == 0
    assert any(0 < now.cells < 36 and now.blocks == 0 for now in seen)
    assert (seen[-1].cells, seen[-1].all_cells) == (36, 36)


def test_what_waits_for_neighbours_goes_with_them(tmp_path):
    """Else halo sums of all blocks would lie in the store in the end."""
    values = np.random.default_rng(0).random((3, 720, 360), np.float32)
    most = []

    def show(_):
        for kind in ("rims", "parts"):
            folder = tmp_path / "m.zarr" / ".geoseg" / kind
            most.append(len(list(folder.iterdir())) if folder.is_dir() else 0)

    model = LocalModel(card=identity_card(3, window=48, overlap=12))
    source = MemorySource(values=values)
    plan = small.make_plan(source, model=model, chunk=36, block=36)
    run_plan(plan, out=tmp_path / "m.zarr", progress=show)
    assert plan.tiling.blocks == 200
    assert 20 < max(most) < 80  # some rows of ten
    assert verify(str(tmp_path / "m.zarr")).whole


def test_other_settings_on_a_store_are_refused(scene, tmp_path):
    run(scene, tmp_path / "m.zarr")
    with pytest.raises(MasksError, match="overlap: 12 there, 8 now"):
        run(scene, tmp_path / "m.zarr", overlap=8)
    run(scene, tmp_path / "m.zarr", overlap=8, overwrite=True)


def test_a_store_tells_no_folder_and_moves_with_its_raster(scene, tmp_path):
    run(scene, tmp_path / "m.zarr", block=72)
    texts = (p for p in (tmp_path / "m.zarr").rglob("*") if p.is_file())
    assert not [p for p in texts if str(tmp_path).encode() in p.read_bytes()]
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("m.zarr", "scene.tif"):
        shutil.move(tmp_path / name, moved / name)
    again = make_plan(str(moved / "scene.tif"), model=model(), block=72, scores=True)
    masks, facts = run_plan(again, out=moved / "m.zarr", progress=False)
    assert facts.windows == 0
    assert remembered_raster(masks) == str(moved / "scene.tif")
    several, _ = run_plan(
        make_plan(str(moved / "sc*.tif"), model=model()), out=moved / "n.zarr",
        progress=False,
    )  # fmt: skip
    assert remembered_raster(several) == str(moved / "sc*.tif")
    os.utime(moved / "scene.tif", (0, 0))
    with pytest.raises(MasksError, match=r"scene\.tif has changed: last .*keeps that"):
        run(str(moved / "scene.tif"), moved / "m.zarr", block=72)
    with rasterio.open(moved / "scene.tif", "r+") as raster:
        raster.crs = "EPSG:32601"
    with pytest.raises(
        MasksError, match=r"there, .* zone 1N \(EPSG:32601\) now.*, --overwrite begins"
    ):
        run(str(moved / "scene.tif"), moved / "m.zarr", block=72)


def test_another_nodata_on_a_store_is_refused(tmp_path):
    values = np.random.default_rng(0).integers(0, 9, (3, 70, 70)).astype(np.uint8)
    scene = write(tmp_path / "scene.tif", values)
    first = run(scene, tmp_path / "m.zarr", nodata=0)
    assert (first["classes"].to_numpy() == 255).any()
    with pytest.raises(MasksError, match=r"settings \(nodata: 0 there, 3 now"):
        run(scene, tmp_path / "m.zarr", nodata=3)
    with pytest.raises(MasksError, match=r"nodata_rule: none there, all"):
        run(scene, tmp_path / "m.zarr", nodata=0, nodata_rule="all")
    run(scene, tmp_path / "m.zarr", nodata=0)


def test_precision_is_chosen_once_and_stands_in_the_store(scene, tmp_path, client):
    import torch

    net = torch.nn.Conv2d(3, 3, 1)
    net.card = identity_card(3, window=48, overlap=12, output="logits")

    def begin(out, **options):
        plan = make_plan(scene, model=net, block=72, **options)
        with pytest.raises(Interrupted):
            run_plan(plan, out=out, progress=_stop_at(3))
        return open_masks(str(out)).record()["settings"]

    chosen = begin(tmp_path / "auto.zarr")["precision"]
    assert chosen in {"fp32", "bf16"}
    other = {"fp32": "bf16", "bf16": "fp32"}[chosen]
    assert begin(tmp_path / "m.zarr", precision=other)["precision"] == other
    plan = make_plan(scene, model=net, block=72, precision=chosen)
    match = f"precision: {other} there, {chosen} now"
    with pytest.raises(MasksError, match=match):
        run_plan(plan, out=tmp_path / "m.zarr", progress=False)
    plan = make_plan(scene, model=net, block=72)  # auto: what stands in the store
    run_plan(plan, out=tmp_path / "m.zarr", progress=False, client=client)
    whole = make_plan(scene, model=net, block=144, precision=other)
    run_plan(whole, out=tmp_path / "whole.zarr", progress=False)
    one, two = (tmp_path / n / "classes" for n in ("m.zarr", "whole.zarr"))
    assert all(p.read_bytes() == (two / p.name).read_bytes() for p in one.iterdir())


def _stop_at(blocks):
    def show(now):
        if now.blocks >= blocks:
            raise Interrupted

    return show


def test_the_output_must_not_lie_in_the_input(scene, tmp_path):
    with pytest.raises(MasksError, match="lies on or inside the input"):
        run(scene, scene)
    other = tmp_path / "file.txt"
    other.write_text("mine")
    with pytest.raises(MasksError, match="is a file"):
        run(scene, other)
    assert other.read_text() == "mine"
    bands = tmp_path / "bands"
    bands.mkdir()
    for name in ("x_B03.tif", "x_B08.tif"):
        write(bands / name, np.ones((1, 40, 50), np.uint8))
    with pytest.raises(MasksError, match=r"inside the input .*bands"):
        geoseg.segment(bands, model="threshold:ndwi", out=bands / "deep" / "m.zarr")
    assert len(list(bands.iterdir())) == 2


def test_failed_blocks_are_listed_and_retried(scene, tmp_path):
    class Moody(LocalModel):
        broken = True

        def predict(self, pixels):
            scores = super().predict(pixels)
            if Moody.broken and pixels[0, 0, 20, 20] == marker:
                scores[0, 0, 0, 0] = np.nan
            return scores

    card = identity_card(3, window=48, overlap=12)
    with rasterio.open(scene) as file:
        marker = file.read(1)[20 - 6, 20 - 6 + 36 * 3]
    whole = run(scene, tmp_path / "whole.zarr", model=LocalModel(card=card))
    with pytest.raises(BlocksFailedError, match=r"1 of .* block 0,1.*NaN") as caught:
        run(scene, tmp_path / "m.zarr", model=Moody(card=card), block=72)
    assert caught.value.exit_status == 3
    masks = open_masks(str(tmp_path / "m.zarr"))
    assert not masks.record()["complete"]
    written = masks.read("classes", masks.grid.window)
    same = written == whole["classes"].to_numpy()
    assert (~same).sum() <= (72 + 12) ** 2
    Moody.broken = False
    run(scene, tmp_path / "m.zarr", model=Moody(card=card), block=72)
    assert chunks(tmp_path / "m.zarr") == chunks(tmp_path / "whole.zarr")


def test_a_model_that_contradicts_its_card_stops_the_run(scene, tmp_path):
    class Wrong(LocalModel):
        def predict(self, pixels):
            return super().predict(pixels)[:, :2]

    with pytest.raises(ModelError, match="its card promises"):
        run(scene, tmp_path / "m.zarr", model=Wrong(card=model().card))


def test_memory_that_does_not_suffice_is_refused(scene):
    with pytest.raises(GeosegError, match="use --block"):
        make_plan(scene, model=model(), block=144, memory=1e6)


def test_workers_with_too_little_memory_are_refused_before_the_run(scene, tmp_path):
    with local_cluster(1, memory="0.9GB", dashboard=None) as client:
        assert worker_memory(client) == pytest.approx(0.9e9)
        data = run(scene, tmp_path / "m.zarr", client=client)  # smaller blocks will do
        assert data["classes"].shape == (330, 290)
        plan = make_plan(scene, model=model(), block=72 * 200)
        match = r"0\.90 GB are allowed.*use --block 72, .* workers with more memory"
        with pytest.raises(PlanError, match=match):
            run_plan(plan, out=tmp_path / "n.zarr", client=client)
    assert not (tmp_path / "n.zarr").exists()
    assert worker_memory(None) is None


def test_a_worker_that_comes_late_with_too_little_memory_is_refused(
    scene, tmp_path, client, monkeypatch
):
    plan = make_plan(scene, model=model(), block=72)
    needs = replace(plan.memory, model=1e15)
    # As it would be said when the run began, of the workers that were there then.
    monkeypatch.setattr(type(needs), "check", lambda *_: None)
    match = r"are allowed.* more memory for the worker on"
    with pytest.raises(PlanError, match=match):
        run_plan(replace(plan, memory=needs), out=tmp_path / "m.zarr", client=client)


def test_labels_have_no_scores(scene, tmp_path):
    with pytest.raises(GeosegError, match="answers labels, not scores"):
        run(scene, tmp_path / "m.zarr", model="threshold:1>0.5", bands=["1", "2", "3"])


def test_resampling_on_the_fly(tmp_path):
    values = np.repeat(np.repeat(np.eye(16, dtype=np.float32), 4, 0), 4, 1)
    values = np.stack([values, 1 - values])
    scene = write(tmp_path / "fine.tif", values)
    card = identity_card(2, window=16, overlap=4, resolution=40.0)
    data = run(scene, tmp_path / "m.zarr", model=IdentityModel(card=card))
    assert data["classes"].shape == (16, 16)
    assert (data["classes"].to_numpy() == 1 - np.eye(16)).all()
    (note,) = data.attrs["geoseg"]["notes"]
    assert "pixels of 10 m are made 40 m" in note
    assert "--resolution native" in note
    native = run(
        scene,
        tmp_path / "n.zarr",
        model=IdentityModel(card=card),
        resolution="native",
    )
    assert native["classes"].shape == (64, 64)
    assert not native.attrs["geoseg"].get("notes")


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (97, 1), (7, 5), (211, 199)])
def test_rasters_of_any_shape(tmp_path, shape):
    values = np.random.default_rng(0).random((3, *shape), np.float32)
    scene = write(tmp_path / "odd.tif", values)
    identity = IdentityModel(card=identity_card(3, window=48, overlap=12, multiple=8))
    data = run(scene, tmp_path / "m.zarr", model=identity)
    scores = (values * np.float32(65535) + np.float32(0.5)).astype(np.int64)
    assert (data["classes"].to_numpy() == scores.argmax(0)).all()


@pytest.mark.parametrize("shape", [(50, 200), (200, 50)])
def test_rasters_that_are_shorter_than_a_chunk_one_way(tmp_path, shape):
    """Zarr cuts a chunk's side to the raster's; blocks are whole chunks still."""
    values = np.random.default_rng(0).random((3, *shape), np.float32)
    scene = write(tmp_path / "odd.tif", values)
    identity = IdentityModel(card=identity_card(3, window=48, overlap=12, multiple=8))
    data = run(scene, tmp_path / "m.zarr", model=identity, block=72, chunk=72)
    scores = (values * np.float32(65535) + np.float32(0.5)).astype(np.int64)
    assert (data["classes"].to_numpy() == scores.argmax(0)).all()


def network(bands):
    """Return a small network of random weights that takes bytes, with its card."""
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(bands, 16, 5, padding=2),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 3, 9, padding=4, stride=1),
    )
    net.card = replace(
        identity_card(3, window=256, overlap=64, multiple=1, output="logits"),
        bands=tuple(Band(name=f"b{i}", offset=120, scale=60) for i in range(bands)),
        value_range=None,
    )
    return net


@pytest.mark.parametrize(
    ("name", "bands", "part"),
    [
        ("banepa_buildings/banepa_predict_rgb.tif", 3, (500, 300, 900, 820)),
        # Aerial photographs with nothing between them, from one file of many.
        ("naip_urban_trees/santa_monica_2020_mosaic.vrt", 4, (5210, 7250, 900, 820)),
    ],
    ids=["banepa_buildings", "naip_urban_trees"],
)
def test_law_3_on_real_rasters(shared, tmp_path, client, name, bands, part):
    """Byte equality over blocks, batches, threads and processes, of a real network."""
    import torch

    y, x, height, width = part
    with rasterio.open(shared / name) as file:
        corners = file.transform @ (x, y), file.transform @ (x + width, y + height)
        (left, top), (right, bottom) = corners
        area = geopandas.GeoSeries(
            [shapely.box(left, bottom, right, top)], crs=file.crs
        )
    area.to_file(tmp_path / "part.gpkg")
    how = {"model": network(bands), "bands": [f"b{i}" for i in range(bands)]}
    how["aoi"] = tmp_path / "part.gpkg"
    before = torch.get_num_threads()
    try:
        for out, threads, more in (
            ("one.zarr", 1, {"block": 192, "batch": 1}),
            ("two.zarr", 4, {"block": 768, "batch": 3}),
            ("three.zarr", 1, {"block": 384, "batch": 4, "client": client}),
        ):
            torch.set_num_threads(threads)
            run(str(shared / name), tmp_path / out, **how, **more)
    finally:
        torch.set_num_threads(before)
    one, two, three = (chunks(tmp_path / f"{n}.zarr") for n in ("one", "two", "three"))
    assert one == two == three
    assert len(one) > 10
    masks = open_masks(str(tmp_path / "one.zarr"))
    values = masks.read("classes", masks.grid.window)
    assert set(np.unique(values)) >= {0, 1, 2}
