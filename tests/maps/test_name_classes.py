"""Names, colours and merged classes of a map that is made already."""

import shutil
from functools import partial

import numpy as np
import pytest
import xarray as xr
from stores import killed_in
from tifs import write_tif

import geoseg
from geoseg.cli import run as geoseg_run
from geoseg.errors import GeosegError, IncompleteError
from geoseg.maps.overviews import build_overviews, open_pyramid
from geoseg.maps.state import write_record
from geoseg.maps.store import Masks, open_masks
from geoseg.maps.verify import verify


@pytest.fixture
def raster(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.integers(1, 200, (1, 12, 13)).repeat(50, 1).repeat(50, 2)
    values[:, :20] = 0
    return write_tif(str(tmp_path / "r.tif"), values.astype("uint8"), nodata=0)


@pytest.fixture
def masks(tmp_path, raster, monkeypatch):
    """Return a store of several blocks with the clusters 1 to 5."""
    monkeypatch.setattr("geoseg.core.tiling.CHUNK", 512)
    geoseg.segment(raster, model="kmeans:5", out=tmp_path / "m.zarr", block=512)
    return tmp_path / "m.zarr"


def read(masks):
    store = open_masks(masks)
    return store.read("classes", store.grid.window)


def test_names_and_colours_everywhere(masks, tmp_path):
    before = read(masks)
    build_overviews(open_masks(masks))
    made = geoseg.name_classes(
        masks, names={"0": "Open water", "cluster 2": "forest:#114411", "2": "#777777"}
    )
    assert isinstance(made, Masks)
    assert [(c.name, c.color) for c in made.classes[:3]] == [
        ("Open water", "#0072B2"), ("forest", "#114411"), ("cluster 3", "#777777"),
    ]  # fmt: skip
    assert np.array_equal(read(masks), before)
    assert verify(str(masks)).whole
    flags = xr.open_zarr(masks)["classes"].attrs
    assert flags["flag_meanings"].startswith("Open_water forest cluster_3")
    (level, *_) = open_pyramid(made).levels
    assert level.classes == made.classes
    regions = geoseg.vectorize(masks, out=tmp_path / "r.gpkg")
    assert {"Open water", "forest"} <= {*geoseg.read_regions(regions).class_name}
    names = (geoseg.export(masks, tmp_path / "m.tif"), tmp_path / "m.tif.aux.xml")[1]
    assert "Open water" in names.read_text()
    page = geoseg.report(masks, tmp_path / "r.html")
    assert "Open water" in page.read_text(encoding="utf-8")
    # A name that means nothing to maps leaves the colour as it was.
    odd = geoseg.name_classes(masks, names={"forest": "_forêt <b>d'été</b> 城市"})
    assert odd.classes[1].color == "#114411"
    # By the name that it had, too: the same call again is the same.
    again = geoseg.name_classes(masks, names={"cluster 2": "forest:#114411"})
    assert again.classes == made.classes


def test_merged_classes_are_one(masks, raster, tmp_path):
    before = read(masks)
    build_overviews(open_masks(masks))
    made = geoseg.name_classes(masks, merge={"cluster 3,4": "bare", "0,1": "water"})
    assert [(c.value, c.name) for c in made.classes] == [
        (0, "water"), (2, "bare"), (3, "cluster 4"),
    ]  # fmt: skip
    table = np.arange(256, dtype=np.uint8)
    table[[1, 4]] = 0, 2
    assert np.array_equal(read(masks), table[before])
    assert np.array_equal(
        xr.open_zarr(masks, mask_and_scale=False)["classes"], read(masks)
    )
    assert open_pyramid(made).levels, "overviews are made again"
    assert verify(str(masks)).whole
    again = geoseg.name_classes(masks, merge={"cluster 3,4": "bare", "0,1": "water"})
    assert again == made
    more = geoseg.name_classes(masks, merge={"bare,cluster 4": "rest"})
    assert [(c.value, c.name) for c in more.classes] == [(0, "water"), (2, "rest")]
    table[3] = 2
    assert np.array_equal(read(masks), table[before])
    geoseg.segment(raster, model="kmeans:5", out=masks, block=512)
    assert np.array_equal(read(masks), table[before]), "the same command leaves it"


def test_a_repair_is_merged_too(masks, raster):
    geoseg.name_classes(masks, merge={"3,4": "bare"})
    merged = read(masks)
    chunk = masks / "classes" / "1.1"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    assert not verify(str(masks), repair=True).whole
    geoseg.segment(raster, model="kmeans:5", out=masks, block=512)
    assert verify(str(masks)).whole
    assert np.array_equal(read(masks), merged)


def test_cut_off_in_the_middle_and_again(masks, monkeypatch):
    before, written = read(masks), []
    real = Masks.mark_done

    def killed(self, block, info):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(block)
        real(self, block, info)

    with monkeypatch.context() as patch:
        patch.setattr(Masks, "mark_done", killed)
        with pytest.raises(KeyboardInterrupt):
            geoseg.name_classes(masks, merge={"3,4": "bare"})
    geoseg.name_classes(masks, merge={"3,4": "bare"})
    assert np.array_equal(read(masks), np.where(before == 4, 3, before))
    assert verify(str(masks)).whole


def metadata(store):
    """Return what the small files of a store say, but for how a map was made."""
    files = {p for name in ("zattrs", "zmetadata") for p in store.rglob(f".{name}")}
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in sorted(files)}


def test_killed_at_any_write_and_again(make_store, tmp_path, monkeypatch):
    """Killed before each of its writes; the same call then ends as one that was not."""
    made = tmp_path / "made.zarr"
    build_overviews(make_store(made, np.ones((600, 520), np.uint8), chunk=512))
    whole = tmp_path / "whole.zarr"
    shutil.copytree(made, whole)
    names = {"1": "wood:#112233"}
    geoseg.name_classes(whole, names=names)
    for last in range(100):
        store = tmp_path / f"{last}.zarr"
        shutil.copytree(made, store)
        rename = partial(geoseg.name_classes, store, names=names)
        killed = killed_in(monkeypatch, rename, last)
        geoseg.name_classes(store, names=names)
        assert metadata(store) == metadata(whole), last
        assert not list(store.rglob(".tmp-*"))
        if not killed:
            break
    assert last > 5


def test_what_cannot_be_is_refused(masks, tmp_path, raster):
    def refused(said, **changes):
        with pytest.raises(GeosegError, match=said):
            geoseg.name_classes(masks, **changes)

    refused("has no class '9'; it has 0 cluster 1, 1 cl", names={"9": "x"})
    refused("no class 'clutser 1'; did you mean 'cluster 1'", names={"clutser 1": "x"})
    refused("appear more than once", names={"1": "cluster 1"})
    refused("'#12345' is no colour: write six digits", names={"1": "water:#12345"})
    (tmp_path / "l.toml").write_text("1 = 3\n")
    refused("write '1' as a line of text", legend=tmp_path / "l.toml")
    geoseg.segment(raster, model="otsu:1", out=tmp_path / "i.zarr", task="instance")
    with pytest.raises(GeosegError, match="its objects are counted by class"):
        geoseg.name_classes(tmp_path / "i.zarr", merge={"0,1": "x"})
    store = open_masks(masks)
    write_record(store.storage, {**store.record(), "complete": False})
    with pytest.raises(IncompleteError):
        geoseg.name_classes(masks, names={"0": "x"})


def test_on_the_command_line(masks, tmp_path, capsys):
    (tmp_path / "legend.toml").write_text('1 = "sand"\n"cluster 3" = "town:#ff0000"\n')
    line = ["classes", str(masks), "--legend", str(tmp_path / "legend.toml")]
    assert geoseg_run([*line, "--set", "0=water:#0072b2", "--merge", "3,4=ice"]) == 0
    said = capsys.readouterr().out
    assert "look: geoseg view" in said
    assert geoseg_run(["classes", str(masks)]) == 0
    rows = [row.split() for row in capsys.readouterr().out.splitlines()]
    assert [row[:3] for row in rows] == [
        ["0", "#0072B2", "water"], ["1", "#F0E442", "sand"], ["2", "#FF0000", "town"],
        ["3", "#C8C8DC", "ice"],
    ]  # fmt: skip
    assert {row[-1] for row in rows} == {"km²"}


def test_a_pipeline_names_its_classes(raster, tmp_path):
    (tmp_path / "p.toml").write_text(
        'out = "out"\n[segment]\nraster = "r.tif"\nmodel = "kmeans:4"\n'
        'merge = {"2,3" = "bare"}\n[segment.names]\n0 = "water"\n[vectorize]\n'
    )
    geoseg.run(tmp_path / "p.toml")

    def names():
        return {*geoseg.read_regions(tmp_path / "out" / "regions.gpkg").class_name}

    assert names() == {"water", "cluster 2", "bare"}
    made = geoseg.run(tmp_path / "p.toml")
    assert not any(stage["made"] for stage in made.values())
    geoseg.name_classes(tmp_path / "out" / "masks.zarr", names={"cluster 2": "wood"})
    made = geoseg.run(tmp_path / "p.toml")
    assert [name for name, stage in made.items() if stage["made"]] == ["vectorize"]
    assert names() == {"water", "wood", "bare"}
