"""Scenes of many dates into a map: how often pixels were seen, kills, workers."""

import re
from dataclasses import replace

import numpy as np
import pytest
import small
import xarray as xr
from dated_scenes import Scenes, whole
from oracles import Oracle, card

import geoseg
from geoseg.cli import run as cli
from geoseg.core.series_options import QUALITY
from geoseg.core.times import Times
from geoseg.errors import RasterError
from geoseg.inference.options import PlanOptions
from geoseg.inference.planning import plan_of
from geoseg.maps.storage import Storage
from geoseg.maps.store import open_masks
from geoseg.models.card import Band
from geoseg.testing import LocalModel, identity_card

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SHAPE = (140, 170)
BANDS = ["red", "nir"]
WANTED = tuple(Band(name=name) for name in BANDS)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Four dates with clouds, of which one covers a part only."""
    rng, made = np.random.default_rng(5), Scenes(tmp_path_factory.mktemp("dates"))
    for n in range(4):
        bands = {key: whole(rng, SHAPE) for key in ("B04", "B08")}
        scl = rng.choice(np.array([4, 9], np.uint8), (70, 85), p=[0.7, 0.3])
        scl[:4, :4] = 9  # never seen
        if n == 2:
            bands["B04"][:, 110:] = 0
        made.add(f"s{n}", f"2022-0{n + 4}-10T10:00:00Z", bands,
                 quality=("SCL", scl, 20), collection="sentinel-2-l2a",
                 asset={"raster:bands": [{"nodata": 0}]},
                 properties={"s2:processing_baseline": "03.00"})  # fmt: skip
    return made.save()


def model():
    return LocalModel(card=identity_card(2, window=48, overlap=12, bands=WANTED))


def segment(source, out, **how):
    how = {"chunk": 72, "block": 72, "dates": "2022", "quality": True, **how}
    return small.segment(source, model=how.pop("model", None) or model(), out=out,
                         **how)  # fmt: skip


def contents(path):
    masks = open_masks(str(path))
    return {n: masks.read(n, masks.grid.window).tobytes() for n in masks.arrays}


@pytest.fixture(scope="module")
def mapped(scenes, tmp_path_factory):
    """What one block of everything gives."""
    out = tmp_path_factory.mktemp("mapped") / "m.zarr"
    segment(scenes, out, block=288)
    return out


def test_it_is_what_compose_tells(scenes, mapped):
    image = geoseg.compose(scenes, dates="2022", bands=["red", "nir"], quality=True)
    want = {name: image.sel(band=name).to_numpy() for name in QUALITY}
    masks = open_masks(str(mapped)).dataset()
    assert np.array_equal(masks["observations"], want["observations"])
    assert np.allclose(masks["clouds"], want["clouds"], atol=0.002, equal_nan=True)
    for name in ("first", "last"):
        days = (masks[name].to_numpy() - np.datetime64("1970-01-01")).astype(
            "timedelta64[D]"
        )
        never = np.isnan(want[name])
        assert never[:8, :8].all()
        assert np.array_equal(np.isnat(masks[name].to_numpy()), never)
        assert np.array_equal(days[~never].astype(int), want[name][~never])
    assert len(np.unique(want["observations"])) == 5


def test_dates_are_read_once(scenes, tmp_path, monkeypatch):
    import geoseg.rasters.time as series

    read, reads = series.read_layer, []

    def counted(placed, layer, window):
        reads.append(layer.key)
        return read(placed, layer, window)

    monkeypatch.setattr(series, "read_layer", counted)
    counts = []
    for quality in (False, True):
        reads.clear()
        segment(scenes, tmp_path / f"{quality}.zarr", quality=quality)
        counts.append(len(reads))
    assert counts[0] == counts[1] > 0


def test_blocks_workers_and_kills_change_nothing(scenes, mapped, tmp_path, monkeypatch):
    from distributed import Client, LocalCluster

    want = contents(mapped)
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        segment(scenes, tmp_path / "workers.zarr", client=client)
    assert contents(tmp_path / "workers.zarr") == want

    class Killed(BaseException):
        pass

    puts, limit, original = 0, 10**9, Storage.put

    def put(self, name, data):
        nonlocal puts
        puts += 1
        if puts > limit:
            raise Killed
        original(self, name, data)

    monkeypatch.setattr(Storage, "put", put)
    segment(scenes, tmp_path / "counted.zarr")
    total = puts
    monkeypatch.setattr("geoseg.core.tiling.CHUNK", 72)
    for stop in [*range(4, total, total // 4), total - 1]:
        out, puts, limit = tmp_path / "far" / f"{stop}.zarr", 0, stop
        out.parent.mkdir(exist_ok=True)
        how = {"model": model(), "dates": "2022", "quality": True, "block": 72}
        with pytest.raises(Killed):
            geoseg.segment(scenes, out=out, progress=False, **how)
        limit = 10**9
        # The list that lies beside it tells of the same files in another way.
        geoseg.segment(scenes, out=out, progress=False, **how)
        assert contents(out) == want, stop
    assert cli(["verify", str(out), "-q"]) == 0


@pytest.mark.parametrize("task", ["semantic", "instance"])
def test_labels_and_their_objects_have_it_too(scenes, mapped, tmp_path, task):
    how = {"model": "threshold:ndvi", "task": task, "chunk": 0, "block": None}
    segment(scenes, tmp_path / "m.zarr", **how)
    found, want = contents(tmp_path / "m.zarr"), contents(mapped)
    assert {name: found[name] for name in QUALITY} == {n: want[n] for n in QUALITY}


def test_objects_of_a_network_have_it_too(scenes, mapped, tmp_path):
    network = Oracle(replace(card(48, 12), bands=WANTED))
    segment(scenes, tmp_path / "m.zarr", model=network)
    found, want = contents(tmp_path / "m.zarr"), contents(mapped)
    assert {name: found[name] for name in QUALITY} == {n: want[n] for n in QUALITY}


def test_it_is_planned(scenes):
    plans = [
        plan_of(scenes, PlanOptions(model=model(), dates="2022", quality=quality))
        for quality in (False, True)
    ]
    without, with_it = plans
    assert with_it.bytes_written - without.bytes_written == 11 * SHAPE[0] * SHAPE[1]
    assert with_it.memory.per_task > without.memory.per_task
    assert [b.name for b in with_it.source.bands] == BANDS


def test_the_report_shows_it(mapped, tmp_path):
    out = tmp_path / "page.html"
    geoseg.report(mapped, out=out)
    page = re.sub(r"<[^>]*>", "", out.read_text(encoding="utf-8"))
    assert "How often each place was seen" in page
    assert "The first is of 2022-04-10, the last of 2022-07-10." in page


def test_arrays_of_several_dates_tell_it_too(tmp_path):
    pytest.importorskip("rioxarray")
    times = np.array(["2022-05-01", "2022-06-01"], "datetime64[ns]")
    values = np.ones((2, 2, 40, 40), np.float32)
    values[0, :, :10] = np.nan
    array = xr.DataArray(
        values,
        dims=("time", "band", "y", "x"),
        coords={"time": times, "band": BANDS,
                "y": 5e6 - 10 * np.arange(40.0), "x": 5e5 + 10 * np.arange(40.0)},
    ).rio.write_crs("EPSG:32632")  # fmt: skip
    in_time = identity_card(4, window=16, overlap=4, bands=WANTED, times=Times(count=2))
    found = geoseg.segment(array, model=LocalModel(card=in_time), quality=True,
                           out=tmp_path / "m.zarr", progress=False)  # fmt: skip
    counts = found["observations"].to_numpy()
    assert (counts[:10] == 1).all()
    assert (counts[10:] == 2).all()
    assert found["clouds"].isnull().all()
    assert str(found["first"].to_numpy()[0, 0])[:10] == "2022-06-01"


def test_what_has_no_time_is_refused(scenes, tmp_path, capsys):
    raster = scenes.replace("scenes.json", "s0-B04.tif")
    words = ["segment", raster, "--model", "otsu:1", "--quality"]
    assert cli([*words, "--out", str(tmp_path / "m.zarr")]) == 2
    said = capsys.readouterr().err
    assert "--quality tells how often scenes of many dates" in said
    assert "--dates-from names" in said
    assert said.count("\n") == 1
    with pytest.raises(RasterError, match="--resolution native"):
        geoseg.segment(scenes, model="otsu:ndvi", out=tmp_path / "m.zarr", quality=True,
                       dates="2022", resolution=35, like=raster)  # fmt: skip


def test_scenes_are_put_on_the_models_pixels_at_once(scenes, tmp_path):
    """As `compose --resolution` does; `native` are the finest band's."""
    coarse = identity_card(2, window=16, overlap=4, bands=WANTED, resolution=30.0)
    how = {"model": LocalModel(card=coarse), "dates": "2022", "quality": True}
    image = geoseg.compose(
        scenes, dates="2022", bands=BANDS, quality=True, resolution=30
    )
    found = geoseg.segment(scenes, out=tmp_path / "a.zarr", **how, progress=False)
    assert found["classes"].shape == image.shape[1:] == (48, 57)
    assert np.array_equal(found["observations"], image.sel(band="observations"))
    like = scenes.replace("scenes.json", "s0-B04.tif")
    for others in ({"like": like}, {"resolution": "native"}):
        plan = plan_of(scenes, PlanOptions(**how, **others))
        assert plan.source.grid.transform.a == 10
