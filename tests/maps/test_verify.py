"""Verify: a flipped byte, a missing chunk, a foreign file; and mending."""

import json
from pathlib import Path

import numpy as np
import pytest

import geoseg.core.tiling
from geoseg.errors import LockedError, MasksError
from geoseg.inference.workflow import make_plan, run_plan
from geoseg.maps.lock import held
from geoseg.maps.storage import Storage
from geoseg.maps.store import open_masks
from geoseg.maps.verify import verify
from geoseg.testing import ArraySource, LocalModel, identity_card


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(geoseg.core.tiling, "CHUNK", 64)


def segment(out, zarr_format=2, progress=False, **more):
    pixels = np.random.default_rng(0).random((3, 200, 190), np.float32)
    source = ArraySource(values=pixels)
    model = LocalModel(card=identity_card(3, window=48, overlap=12))
    plan = make_plan(source, model=model, block=72, scores=True, **more)
    return run_plan(plan, out=out, zarr_format=zarr_format, progress=progress)[1]


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
    assert len(found.metadata) == 2
    assert found.metadata[0].startswith("classes/.zattrs differs")
    assert found.metadata[1].startswith("x is not the centres")


def test_a_damaged_done_mark_is_found(store):
    mark(store, 2, 2).write_text("{")
    found = verify(str(store))
    assert found.damaged == {(2, 2): "its done mark is damaged"}


def test_an_incomplete_store_is_not_whole(tmp_path):
    def stop(now):
        if now.blocks == 4:
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
    with pytest.raises(MasksError, match="not a Zarr group"):
        verify(str(tmp_path / "none.zarr"))


def test_the_command(store, capsys):
    from geoseg.cli import run

    assert run(["verify", str(store)]) == 0
    assert "9 of 9 blocks are done, all as written" in capsys.readouterr().out
    path = chunk(store, "classes", 0, 0)
    Path(path).unlink()
    assert run(["verify", str(store), "--json"]) == 3
    summary = json.loads(capsys.readouterr().out)
    assert summary["damaged"] == [[0, 0]]
    assert run(["verify", str(store), "--repair", "--quiet"]) == 3
    assert run(["verify", "no-such-store"]) == 2
