"""A place for compiled loops, where neither package nor home can be written."""

import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest

from geoseg.core import numba_cache

TOP = Path(__file__).resolve().parents[2]
posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="folders have no owners")


@posix
def test_the_folder_is_private_and_kept(tmp_path):
    (tmp_path / "file").write_text("")
    folder = numba_cache.private_folder([tmp_path / "file" / "x", tmp_path])
    assert folder == numba_cache.private_folder([tmp_path])
    assert folder.stat().st_mode & 0o777 == 0o700


@posix
def test_a_folder_that_others_can_write_is_not_used(tmp_path):
    """What lies in it would be unpickled."""
    kept = tmp_path / f"geoseg-numba-{os.geteuid()}"
    kept.mkdir(mode=0o777)
    kept.chmod(0o777)
    assert numba_cache.private_folder([tmp_path]) != kept
    kept.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    kept.symlink_to(elsewhere)
    assert numba_cache.private_folder([tmp_path]) != kept


def test_no_place_at_all_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    assert numba_cache.private_folder([tmp_path / "file" / "x"]) is None


def test_a_place_that_is_named_stays(monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/named")
    numba_cache.ensure()
    assert os.environ["NUMBA_CACHE_DIR"] == "/named"


@posix
def test_another_user_without_a_home_can_compile(request):
    """As in a container that is run with a uid of its own."""
    setpriv = shutil.which("setpriv")
    if setpriv is None or os.geteuid() != 0:
        pytest.skip("setpriv is absent, or not root")
    folder = Path(tempfile.mkdtemp())
    request.addfinalizer(partial(shutil.rmtree, folder, ignore_errors=True))
    folder.chmod(0o777)
    base = Path(sys.base_prefix)  # whose libpython a virtual environment needs, too
    for parent in (*folder.parents, TOP, *TOP.parents, Path(sys.prefix), *base.parents):
        if not parent.stat().st_mode & 0o001:
            pytest.skip(f"{parent} is closed to others")
    user = [setpriv, "--reuid=64999", "--regid=64999", "--clear-groups"]
    code = (
        "import geoseg, numba, os\n"
        "import geoseg.core.union_find\n"
        "print(os.environ['NUMBA_CACHE_DIR'])"
    )
    env = {
        **os.environ, "HOME": "/nonexistent", "TMPDIR": str(folder),
        "PYTHONPATH": str(TOP),
    }  # fmt: skip
    env.pop("XDG_CACHE_HOME", None)
    said = subprocess.run(
        [*user, sys.executable, "-c", code],
        env=env, cwd="/", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip() == str(folder / "geoseg-numba-64999")
