"""Files are whole or not there."""

import errno
import os
import subprocess
import sys

import pytest

from geoseg.core import files
from geoseg.core.files import absolute, replace, replacing, write_text, written
from geoseg.errors import UnwrittenError, refused


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_place_when_all_went_well(tmp_path):
    target = tmp_path / "map.tif"
    target.write_text("old")
    with replacing(target) as part:
        assert part.suffix == ".tif"
        assert part.parent == tmp_path
        part.write_text("new")
        part.with_name(f"{part.name}-wal").write_text("beside")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert names(tmp_path) == ["map.tif"]


def test_nothing_is_left_when_it_did_not(tmp_path):
    target = tmp_path / "map.tif"

    def half():
        with replacing(target) as part:
            part.mkdir()
            (part / "half").write_text("half")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        half()
    assert not names(tmp_path)


def test_what_a_killed_process_left_is_swept_but_not_what_lives(tmp_path):
    target = tmp_path / "map.tif"
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True, check=True,
    )  # fmt: skip
    prefix, dead_pid = files._prefix(target), int(dead.stdout)
    (tmp_path / f"{prefix}{dead_pid}.tif").write_text("dead")
    (tmp_path / f"{prefix}{dead_pid}.tif-folder").mkdir()
    alive = tmp_path / f"{prefix}{os.getppid()}.tif"
    # Of a container of the same name, in which there is such a process; long ago, none.
    elsewhere, forgotten = (tmp_path / f".map.{d * 8}-{dead_pid}.tif" for d in "ab")
    for path in (alive, elsewhere, forgotten):
        path.write_text("alive")
    os.utime(forgotten, (0, 0))
    with replacing(target) as part:
        part.write_text("new")
    assert names(tmp_path) == sorted([alive.name, elsewhere.name, "map.tif"])


def test_a_file_that_others_hold_is_tried_again(tmp_path, monkeypatch):
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text("new")
    real, calls = os.replace, []

    def held_twice(a, b):
        calls.append(a)
        if len(calls) < 3:
            raise PermissionError(13, "The process cannot access the file")
        real(a, b)

    monkeypatch.setattr(os, "replace", held_twice)
    replace(source, target)
    assert target.read_text() == "new"
    assert len(calls) == 3


def test_a_path_means_the_same_in_any_folder(tmp_path, monkeypatch):
    (tmp_path / "scene.tif").touch()
    monkeypatch.chdir(tmp_path)
    whole = str(tmp_path / "scene.tif")
    assert absolute("scene.tif") == absolute("./scene.tif") == absolute(whole) == whole
    assert absolute("GTI:scene.tif") == f"GTI:{whole}"
    for other in ("s3://bucket/scene.tif", "/vsizip/a.zip/b.tif", "nowhere.tif"):
        assert absolute(other) == other


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.ENOSPC, "No space left on device", "source", None, "part"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_told_by_the_file_that_is_written(tmp_path, error):
    def full(_):
        raise error

    target = tmp_path / "map.csv"
    said = r"map\.csv cannot be written .* free there\): make room"
    with pytest.raises(UnwrittenError, match=said), written(target) as part:
        full(part)
    with pytest.raises(OSError, match="No space") as said, replacing(target) as part:
        full(part)
    assert str(refused(said.value)).startswith(f"no room is left for {target} (")
    assert refused(said.value).exit_status == 3
    assert not names(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="a named pipe of POSIX")
def test_a_pipe_is_written_into_and_stays(tmp_path):
    pipe = tmp_path / "table"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        write_text(pipe, "a,b\r\n")
        assert reader.communicate()[0] == b"a,b\r\n"
    assert pipe.is_fifo()
