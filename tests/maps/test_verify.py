"""Verify: a flipped byte, a missing chunk, a foreign file; and mending."""

import json
import re
import shutil
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio
import small
from stores import killed_in

from geoseg.cli import run
from geoseg.core.grid import Window
from geoseg.errors import DamagedStoreError, LockedError, MasksError
from geoseg.inference.workflow import run_plan
from geoseg.maps.lock import held
from geoseg.maps.overviews import (
    build_overviews,
    damaged_overviews,
    forget_overviews,
)
from geoseg.maps.state import write_record
from geoseg.maps.storage import Storage
from geoseg.maps.store import CHECKSUMS, open_masks
from geoseg.maps.verify import verify
from geoseg.testing import LocalModel, MemorySource, identity_card


def segment(
    out, zarr_format=2, progress=False, height=200, width=190, shards=False, **more
):
    pixels = np.random.default_rng(0).random((3, height, width), np.float32)
    source = MemorySource(values=pixels)
    model = LocalModel(card=identity_card(3, window=48, overlap=12))
    how = {"model": model, "block": 72, "scores": True, **more}
    plan = small.make_plan(source, chunk=64, **how)
    how = {"zarr_format": zarr_format, "shards": shards, "progress": progress}
    return run_plan(plan, out=out, **how)[1]


@pytest.fixture(params=[2, 3])
def store(request, tmp_path):
    segment(tmp_path / "m.zarr", request.param)
    return tmp_path / "m.zarr"


def chunk(store, array, row, col):
    names = [f"{array}/{row}.{col}", f"{array}/c/{row}/{col}"]
    return next(store / name for name in names if (store / name).exists())


def mark(store, row, col):
    (found,) = (store / ".geoseg" / "done").glob(f"{row}.{col}.*")
    return found


def test_a_store_as_written_is_whole(store):
    found = verify(str(store))
    assert found.whole
    assert found.blocks == found.done == 9
    assert found.problems == []


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("array", ["classes", "confidence"])
def test_a_flipped_byte_is_found(store, array, at):
    path = chunk(store, array, 1, 2)
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 0x10
    path.write_bytes(data)
    found = verify(str(store))
    assert set(found.damaged) == {(1, 2)}
    assert array in found.damaged[1, 2]
    assert not found.whole


def test_who_reads_a_damaged_chunk_is_told(store):
    chunk = next(store.glob("classes/c/0/0"), store / "classes" / "0.0")
    chunk.write_bytes(b"no chunk")
    masks = open_masks(str(store))
    with pytest.raises(DamagedStoreError, match=r"classes/.*0 is damaged .*--repair"):
        masks.read("classes", masks.grid.window)


def test_absurd_chunks_are_damage(tmp_path):
    segment(tmp_path / "m.zarr")
    path = tmp_path / "m.zarr" / "classes" / ".zarray"
    absurd = {"chunks": [1 << 31, 1 << 31]}
    path.write_text(json.dumps(json.loads(path.read_text()) | absurd))
    with pytest.raises(DamagedStoreError, match="chunks of"):
        open_masks(str(tmp_path / "m.zarr"))


def test_a_width_that_was_made_up_takes_no_memory(tmp_path):
    segment(tmp_path / "m.zarr")
    for name in ("classes/.zarray", "x/.zarray", ".zattrs"):
        path = tmp_path / "m.zarr" / name
        told = json.loads(path.read_text())
        size = told["spatial:shape"] if name == ".zattrs" else told["shape"]
        size[-1] = 2**31 - 2
        path.write_text(json.dumps(told))
    tracemalloc.start()
    found = verify(str(tmp_path / "m.zarr"))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "x/.zarray differs from its copy" in found.metadata
    assert most < 100e6


def test_a_missing_chunk_is_named(store):
    path = chunk(store, "classes", 0, 1)
    path.unlink()
    found = verify(str(store))
    assert found.damaged[0, 1] == f"{path.relative_to(store)} is missing"


def test_a_foreign_file_is_named(store):
    (store / "classes" / "notes.txt").write_text("mine")
    (store / "classes" / "77.0").write_bytes(b"")  # outside of the array
    (store / "notes.db").write_bytes(b"")
    (store / "other").mkdir()
    (store / "other" / ".zarray").write_text("{}")
    found = verify(str(store))
    assert set(found.foreign) == {
        "classes/notes.txt",
        "classes/77.0",
        "notes.db",
        "other/.zarray",
    }
    assert not found.whole


def test_what_a_killed_writer_leaves_is_not_foreign(store):
    (store / "classes" / f"0.{'ab' * 16}.partial").write_bytes(b"half")
    (store / ".geoseg" / "done" / ".tmp-x").write_bytes(b"half")
    assert verify(str(store)).whole


def test_damaged_metadata_and_coordinates_are_found(tmp_path):
    segment(tmp_path / "m.zarr")
    path = tmp_path / "m.zarr" / "classes" / ".zattrs"
    path.write_text(path.read_text().replace("class_1", "class_7"))
    path = tmp_path / "m.zarr" / "x" / "0"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    found = verify(str(tmp_path / "m.zarr"))
    assert found.metadata == ("classes/.zattrs differs from its copy",)
    found = verify(str(tmp_path / "m.zarr"), repair=True)
    assert found.metadata[1] == "x is not the centres of the grid's pixels"
    assert found.whole


def test_a_damaged_done_mark_is_found(store):
    mark(store, 2, 2).write_text("{")
    found = verify(str(store))
    assert found.damaged == {(2, 2): "its done mark is damaged"}


def test_an_incomplete_store_is_not_whole(tmp_path):
    def stop(now):
        if now.blocks >= 4:  # two may end between two looks
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment(tmp_path / "m.zarr", progress=stop)
    found = verify(str(tmp_path / "m.zarr"))
    assert found.problems == []
    assert found.done < found.blocks
    assert not found.whole


def test_damaged_blocks_are_mended_and_only_those(store, tmp_path):
    def contents():
        return {
            str(p.relative_to(store)): p.read_bytes()
            for a in ("classes", "confidence")
            for p in (store / a).rglob("*")
            if p.is_file()
        }

    version = 3 if (store / "zarr.json").exists() else 2
    before = contents()
    chunk(store, "classes", 1, 1).unlink()
    path = chunk(store, "confidence", 0, 2)
    path.write_bytes(path.read_bytes()[:-9])
    assert set(verify(str(store), repair=True).damaged) == {(1, 1), (0, 2)}
    facts = segment(store, version)
    assert facts.windows == 8  # 2 blocks of 2 x 2; neighbours' rims are not counted
    assert verify(str(store)).whole
    assert contents() == before
    assert open_masks(str(store)).record()["complete"]


def test_a_store_in_work_is_not_repaired(store):
    chunk(store, "classes", 1, 1).unlink()
    with held(Storage(str(store)), ".geoseg/lock"):
        with pytest.raises(LockedError):
            verify(str(store), repair=True)
        assert verify(str(store)).damaged  # but it can be looked at


def test_it_must_be_a_store(tmp_path):
    with pytest.raises(MasksError, match="does not exist"):
        verify(str(tmp_path / "none.zarr"))


def test_the_command(store, capsys):

    assert run(["verify", str(store)]) == 0
    assert "9 of 9 blocks are done, all as written" in capsys.readouterr().out
    path = chunk(store, "classes", 0, 0)
    Path(path).unlink()
    assert run(["verify", str(store), "--json"]) == 3
    summary = json.loads(capsys.readouterr().out)
    assert summary["damaged"] == [[0, 0]]
    assert run(["verify", str(store), "--repair", "--quiet"]) == 3
    assert run(["verify", "no-such-store"]) == 2


# ------------------------------------------------------------------- objects, overviews


def objects(out, task="instance"):
    return segment(out, task=task, instances="components", things=["class 1"])


def everything(store):
    """Return all that readers see: arrays, the table of objects, overviews."""
    return {
        str(p.relative_to(store)): p.read_bytes()
        for p in store.rglob("*")
        if p.is_file() and ".geoseg" not in p.parts and p.name[0] != "."
    }


@pytest.fixture(params=["instance", "panoptic"])
def with_objects(request, tmp_path):
    objects(tmp_path / "o.zarr", request.param)
    return tmp_path / "o.zarr", request.param


def test_a_healthy_store_with_objects_is_whole(with_objects):
    store, _ = with_objects
    found = verify(str(store), repair=True)
    assert found.whole, found.problems
    assert found.repaired == ()
    assert open_masks(str(store)).record()["complete"]


@pytest.mark.parametrize("damage", ["classes/1.1", "instances/0.2", "objects/score/0"])
def test_objects_are_made_again_byte_for_byte(with_objects, damage):
    store, task = with_objects
    before = everything(store)
    data = bytearray((store / damage).read_bytes())
    data[-3] ^= 0x10
    (store / damage).write_bytes(data)
    found = verify(str(store), repair=True)
    array = damage.partition("/")[0]
    assert any(array in problem for problem in found.problems)
    assert any("makes" in line for line in found.repaired)
    objects(store, task)
    assert everything(store) == before
    assert verify(str(store)).whole


def test_overviews_over_a_hole_are_made_again(tmp_path):
    """A chunk was lost before the map was looked at, and overviews were kept."""
    store = tmp_path / "m.zarr"
    segment(store, height=600)
    masks = open_masks(str(store))
    build_overviews(masks)
    before = everything(store)
    assert "overview_2/classes/0.0" in before
    forget_overviews(masks)
    chunk(store, "classes", 1, 1).unlink()
    build_overviews(masks)
    assert everything(store) != before
    assert len(verify(str(store), repair=True).damaged) == 1
    assert not list(store.glob("overview_*"))
    segment(store, height=600)
    assert everything(store) == before
    assert verify(str(store)).whole
    with rasterio.open(f'ZARR:"{store}":/classes') as data:
        assert data.count == 1


def test_a_damaged_overview_is_found_and_made_again(tmp_path, make_store):
    masks = make_store(tmp_path / "m.zarr", np.ones((700, 600), np.uint8), chunk=256)
    build_overviews(masks)
    assert damaged_overviews(masks) == []
    before = everything(tmp_path / "m.zarr")
    path = tmp_path / "m.zarr" / "overview_2" / "classes" / "0.0"
    path.write_bytes(b"")
    assert [name for name, _ in damaged_overviews(masks)] == ["overview_2"]
    forget_overviews(masks)
    assert "multiscales" not in masks.attributes()
    build_overviews(masks)
    assert everything(tmp_path / "m.zarr") == before


def test_what_is_told_nowhere_else_cannot_be_restored(tmp_path, capsys):
    segment(tmp_path / "m.zarr")
    (tmp_path / "m.zarr" / ".zattrs").write_bytes(b"")
    (tmp_path / "m.zarr" / ".geoseg" / "copy.json").write_bytes(b"")
    found = verify(str(tmp_path / "m.zarr"), repair=True)
    assert not found.whole
    assert found.problems == [
        ".geoseg/copy.json is missing or damaged",
        ".zattrs is damaged",
    ]
    assert found.repaired[0].startswith("nothing can be restored")
    assert run(["verify", str(tmp_path / "m.zarr"), "--repair"]) == 3
    assert "--overwrite" in capsys.readouterr().out


# ------------------------------------------------- the law: every file of every store


def flipped(data):
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 0x01]) + data[at + 1 :]


DAMAGE = (
    lambda path: path.write_bytes(flipped(path.read_bytes())),
    lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    lambda path: path.write_bytes(b""),
    lambda path: path.unlink(),
)


def kind_of(name):
    """What a file is, whichever block, chunk or column it is of."""
    name = re.sub("^objects/[a-z_]+/", "objects/column/", name)
    return re.sub(r"(?<=[/.])[0-9a-f.c/]+$", "#", name)


def contents(store):
    """Return all files but those of the lock and of joining objects, by name."""
    every = {p.relative_to(store).as_posix(): p for p in store.rglob("*")}
    kept = (".geoseg/lock", ".geoseg/objects")
    return {
        name: path.read_bytes()
        for name, path in every.items()
        if path.is_file() and not name.startswith(kept)
    }


def lasting(name, data):
    """Return what a file says, without when and how quickly it was made."""
    if "/done/" in name:
        return json.loads(data)["chunks_crc32"]
    if not name.endswith((".zattrs", ".zmetadata", ".json")):
        return data
    if name.endswith("copy.json"):
        told = {n: lasting(n, t) for n, t in json.loads(data).items() if n != "crc32"}
        return json.dumps(told, sort_keys=True)
    volatile = '"(finished|seconds|stages|devices|run)": ([^{,}]+|{[^}]*})'
    return re.sub(volatile, "", data if isinstance(data, str) else data.decode())


LAW = {
    "with objects": {
        "task": "panoptic",
        "instances": "components",
        "things": ["class 1"],
    },
    "format 3": {"zarr_format": 3},
    "shards": {"zarr_format": 3, "shards": True},
}


def test_a_repair_that_was_killed_is_ended_by_the_next(
    make_store, tmp_path, monkeypatch
):
    """Killed before each of its writes: overviews are there in the end, and no more."""
    whole = tmp_path / "whole.zarr"
    build_overviews(make_store(whole, np.ones((600, 520), np.uint8), chunk=528))
    record = {"window": 64, "overlap": 16, "multiple": None}
    masks = open_masks(str(whole))
    for key in np.ndindex(2, 1):
        where = Window(y=528 * key[0], x=0, height=(528, 72)[key[0]], width=520)
        sums = {"classes": masks.checksum("classes", where)}
        masks.mark_done(key, {CHECKSUMS: sums})
    write_record(masks.storage, {**masks.record(), "settings": record})
    assert verify(str(whole)).whole
    before = contents(whole)
    (whole / "overview_2" / "classes" / "0.0").write_bytes(b"")
    for last in range(100):
        store = tmp_path / f"{last}.zarr"
        shutil.copytree(whole, store)
        repair = partial(verify, str(store), repair=True)
        killed = killed_in(monkeypatch, repair, last)
        verify(str(store), repair=True)
        assert verify(str(store)).whole
        after = contents(store)
        assert after.keys() == before.keys(), last
        differ = [n for n in after if lasting(n, after[n]) != lasting(n, before[n])]
        assert differ == [], last
        if not killed:
            break
    assert last > 5


@pytest.mark.parametrize("case", LAW)
def test_every_file_is_under_a_checksum_and_repaired_byte_for_byte(tmp_path, case):
    how = {"height": 520, "width": 60, "block": 288, **LAW[case]}
    store, whole = tmp_path / "m.zarr", tmp_path / "whole.zarr"
    segment(whole, **how)
    build_overviews(open_masks(str(whole)))
    before = contents(whole)
    kinds = {kind_of(name): name for name in before}
    for i, name in enumerate(kinds.values()):
        shutil.copytree(whole, store)
        DAMAGE[i % len(DAMAGE)](store / name)
        assert not verify(str(store)).whole, name
        assert run(["info", str(store)]) in (0, 2, 3), name  # and no traceback
        found = verify(str(store), repair=True)
        if found.whole:
            assert contents(store) == before or name.startswith("overview_"), name
        else:
            segment(store, **how)
        assert verify(str(store)).whole, name
        after = contents(store)
        assert after.keys() == before.keys(), name
        differ = [n for n in after if lasting(n, after[n]) != lasting(n, before[n])]
        assert differ == [], name
        shutil.rmtree(store)
