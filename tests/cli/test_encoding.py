"""What is printed, wherever it goes."""

import os
import subprocess
import sys

import numpy as np
import pytest
from tifs import write_tif


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_tables_and_help_are_printed_in_any_encoding(encoding):
    for line in (["models"], ["segment", "--help"]):
        done = subprocess.run(
            [sys.executable, "-m", "geoseg", *line],
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout
        if line == ["models"]:  # a table; text without one is click's, in UTF-8
            assert done.stdout.decode(encoding)


def test_names_are_read_where_python_is_told_not_to_help_itself(tmp_path):
    named = tmp_path / "mäske☃.zarr"
    told = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "geoseg", "report", str(named)],
        env={**os.environ, **told, "PYTHONIOENCODING": "utf-8"},
        capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert str(named) in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="as shells of POSIX close them")
@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_matter(tmp_path, closed):
    write_tif(tmp_path / "s.tif", np.ones((1, 9, 9), np.uint8))
    line = f"exec {sys.executable} -m geoseg segment s.tif --model 'threshold:1>0'"
    done = subprocess.run(
        ["sh", "-c", f"{line} --out m.zarr {closed}"], cwd=tmp_path, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0
    assert (tmp_path / "m.zarr").is_dir()


def test_names_without_a_code_are_no_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "geoseg", "report", str(tmp_path / "mäske☃.zarr")],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "does not exist: is the path right?" in done.stderr
    assert "Traceback" not in done.stderr
