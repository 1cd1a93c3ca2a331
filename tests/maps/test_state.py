"""The state of a run: strays, damage, what comes late, and other answers."""

import json
import shutil

import numpy as np
import pytest

import geoseg
from geoseg._version import ANSWERS
from geoseg.cli import run
from geoseg.core.grid import Window
from geoseg.errors import DamagedStoreError, MasksError
from geoseg.maps.create import create_masks
from geoseg.maps.second_copy import META, RECORD
from geoseg.maps.state import (
    DONE,
    PARTIAL,
    block_positions,
    clear_state,
    hold,
)
from geoseg.maps.storage import Storage
from geoseg.maps.store import open_masks

STRAYS = (
    ".nfs000000002db61b010035ef58", ".fuse_hidden0001a4", ".DS_Store", "._0.0",
    ".directory", "Thumbs.db", ".~lock.0.0#", ".0.0.swp",
)  # fmt: skip


@pytest.fixture
def masks(make_store, tmp_path):
    return make_store(tmp_path / "m.zarr", np.zeros((300, 500), np.uint8), done=False)


def test_strays_are_nobodys(masks, tmp_path):
    masks.mark_done((0, 1), {})
    for folder in ("", META, DONE, PARTIAL):
        (tmp_path / "m.zarr" / folder).mkdir(exist_ok=True)
        for name in STRAYS:
            (tmp_path / "m.zarr" / folder / name).write_bytes(b"x")
    assert masks.done() == {(0, 1)}
    assert masks.marked(PARTIAL) == set()
    assert not {*masks.storage.names(META), *masks.storage.names("")} & {*STRAYS}
    assert block_positions(["3.14", "x", "1.2.3", "1.", "._0.0"]) == {(3, 14)}
    fresh = tmp_path / "fresh.zarr"
    fresh.mkdir()
    (fresh / ".DS_Store").write_bytes(b"x")
    assert Storage(str(fresh)).names("") == []


def test_a_file_that_somebody_reads_stays_on_nfs(masks, tmp_path, monkeypatch):
    """It is renamed to .nfs…, and its folder cannot be deleted until they are done."""
    folder = tmp_path / "m.zarr" / PARTIAL
    folder.mkdir()
    (folder / STRAYS[0]).write_bytes(b"x")

    def busy(path):
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr(shutil, "rmtree", busy)
    masks.storage.remove(PARTIAL)
    (folder / "0.0").write_bytes(b"ours")
    with pytest.raises(OSError, match="not empty"):
        masks.storage.remove(PARTIAL)


@pytest.mark.parametrize(
    "data",
    [
        b"", b'{"settings": {', b"[]", b"{}",
        b'{"settings": {}, "block": false, "run": "a", "complete": true}',
        b'{"settings": {}, "block": 0, "run": "a", "complete": true}',
    ],
)  # fmt: skip
def test_a_damaged_record_is_one_line(masks, data, capsys):
    masks.storage.put(RECORD, data)
    with pytest.raises(DamagedStoreError, match=r"run\.json.*--overwrite"):
        masks.record()
    for line in (["vectorize", "--out", "r.gpkg"], ["report"], ["verify"]):
        assert run([line[0], masks.path, *line[1:]]) == 3
        told = capsys.readouterr()
        assert "run.json" in told.err + told.out


def test_damaged_marks_and_metadata_are_one_line(masks, capsys):
    masks.state.put(f"{DONE}/0.0", b"")
    assert masks.done() == set()
    with pytest.raises(DamagedStoreError, match="0 bytes"):
        masks.done_info((0, 0))
    metadata = masks.storage.get(".zattrs")
    for name in ("classes/.zarray", ".zattrs"):
        before = masks.storage.get(name)
        masks.storage.put(name, before[:40])
        assert run(["export", masks.path, "--out", "m.tif"]) in (2, 3)
        assert capsys.readouterr().err.count("\n") == 1
        masks.storage.put(name, before)
    masks.storage.put(".zattrs", metadata.replace(b'"classes"', b'"klasses"'))
    with pytest.raises(DamagedStoreError, match="its metadata"):
        open_masks(masks.path)


def again(masks, run_name):
    return create_masks(
        masks.path, grid=masks.grid, classes=masks.classes, chunk=256,
        arrays=masks.arrays, settings={}, block=256, provenance={"run": run_name},
        overwrite=True,
    )  # fmt: skip


def test_what_a_dead_run_writes_late_has_no_way_in(masks):
    """A write hung in the storage while the store was begun again."""
    window = Window(y=0, x=0, height=256, width=256)
    masks.write("classes", window, np.ones((256, 256), np.uint8))
    new = again(masks, "new")
    masks.state.put(f"{PARTIAL}/0.0", b"late")
    masks.mark_done((0, 0), {})
    assert new.done() == new.marked(PARTIAL) == set()
    for late in (np.ones, lambda shape, dtype: np.full(shape, 255, dtype)):
        new.write("classes", window, np.full((256, 256), 2, np.uint8))
        with pytest.raises(MasksError, match="deleted or begun again"):
            masks.write("classes", window, late((256, 256), np.uint8))
        assert (new.read("classes", window) == 2).all()
    with pytest.raises(MasksError, match="deleted or begun again"):
        masks.check_current()
    new.finish({})
    assert not new.storage.exists(PARTIAL)


def test_nothing_is_made_again_of_a_store_that_is_gone(masks, tmp_path):
    shutil.rmtree(masks.path)
    window = Window(y=0, x=0, height=256, width=256)
    with pytest.raises(MasksError, match="deleted or begun again"):
        masks.write("classes", window, np.ones((256, 256), np.uint8))
    assert not (tmp_path / "m.zarr").exists()


def test_clearing_shuts_the_way_in_first(masks, monkeypatch):
    order = []
    monkeypatch.setattr(Storage, "remove", lambda _, name: order.append(name))
    clear_state(masks.storage)
    assert order[0] == f"{META}/writing"
    hold(masks.storage, masks.run)


def test_a_store_that_was_answered_otherwise_is_not_resumed(masks):
    record = masks.record()
    assert record["answers"] == ANSWERS
    options = {
        "grid": masks.grid, "classes": masks.classes, "chunk": 256,
        "arrays": masks.arrays, "settings": {}, "block": 256,
        "provenance": {"run": "again"},
    }  # fmt: skip
    assert create_masks(masks.path, **options).run == masks.run
    for answers in (ANSWERS + 1, None):
        other = {k: v for k, v in record.items() if k != "answers"}
        other |= {"answers": answers} if answers else {}
        masks.storage.put(RECORD, json.dumps(other).encode())
        with pytest.raises(MasksError, match=r"gives other results.*--overwrite"):
            create_masks(masks.path, **options)
    assert geoseg.__version__
