"""Rasters and masks in Google's and Azure's stores, as their emulators have them."""

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from functools import partial

import fsspec
import numpy as np
import pytest
import small
from ports import free_port
from tifs import write_tif

from geoseg.cli import main
from geoseg.core.object_stores import access
from geoseg.errors import LockedError
from geoseg.inference.workflow import run_plan
from geoseg.maps.lock import held
from geoseg.maps.storage import Storage
from geoseg.maps.store import open_masks
from geoseg.maps.verify import verify
from geoseg.rasters.open import open_source
from geoseg.testing import LocalModel, identity_card

# What Azurite is known by; it is no secret (https://github.com/Azure/Azurite).
ACCOUNT = "devstoreaccount1"
KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/"
    "K1SZFPTOtr/KBHBeksoGMGw=="
)


@pytest.fixture(scope="module", params=["gs", "az"])
def store(request, tmp_path_factory):
    """Return the URL of an empty bucket, or container, and its environment."""
    port, folder = free_port(), tmp_path_factory.mktemp("cloud")
    where = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        emulator = {"gs": google, "az": azure}[request.param]
        stack.enter_context(emulator(port, where, folder, patch))
        system = fsspec.filesystem(request.param, **access(f"{request.param}://"))
        system.mkdir("maps")
        yield f"{request.param}://maps"


@contextmanager
def google(port, where, folder, patch):
    # Not what asks Google by gRPC which kind of a bucket it is.
    patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    core = pytest.importorskip("gcsfs.core")
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    patch.setattr(emulator, "_read_data", partial(whole, emulator, emulator._read_data))
    patch.setenv("STORAGE_EMULATOR_HOST", where)  # Google's libraries
    patch.setenv("CPL_GS_ENDPOINT", f"{where}/")  # GDAL
    patch.setenv("GS_NO_SIGN_REQUEST", "YES")
    fsspec.register_implementation("gs", core.GCSFileSystem, clobber=True)
    server = emulator.create_server("127.0.0.1", port, in_memory=True)
    server.start()
    yield
    server.stop()


def whole(emulator, read, handler, query):
    """Read an object that is sent with its name: parsers of mail change line ends."""
    if "multipart/related" not in handler.headers.get("Content-Type", ""):
        return read(handler, query)
    mark = handler.headers["Content-Type"].rpartition("boundary=")[2].strip("'\"")
    _, meta, content, _ = emulator._read_raw_data(handler).split(f"--{mark}".encode())
    meta, content = (part.split(b"\n\n", 1)[1][:-1] for part in (meta, content))
    kind = "application/octet-stream"
    return {"meta": json.loads(meta), "content": content, "content-type": kind}


@contextmanager
def azure(port, where, folder, patch):
    pytest.importorskip("adlfs")
    azurite = shutil.which("azurite-blob")
    if azurite is None:
        pytest.skip("azurite-blob is not installed: npm install -g azurite")
    line = [azurite, "--blobPort", str(port), "--location", str(folder)]
    line += ["--skipApiVersionCheck", "--silent", "--disableTelemetry"]
    account = f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={where}/{ACCOUNT}"
    told = f"DefaultEndpointsProtocol=http;{account};"
    patch.setenv("AZURE_STORAGE_CONNECTION_STRING", told)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(line, **quiet) as server:
        answering(where)
        yield
        server.terminate()


def answering(where):
    for _ in range(300):
        try:
            urllib.request.urlopen(where, timeout=5)
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"nothing answers at {where}")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    values = np.random.default_rng(0).random((3, 110, 100), np.float32)
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    return write_tif(str(path), values, tiled=True, blockxsize=64, blockysize=64)


def segment(source, out):
    model = LocalModel(card=identity_card(3, window=48, overlap=12))
    how = {"model": model, "block": 72, "bands": ["1", "2", "3"]}
    plan = small.make_plan(source, chunk=64, **how)
    masks, facts = run_plan(plan, out=out, progress=False)
    return masks.read("classes", masks.grid.window), facts


def test_a_raster_and_masks_in_a_store(store, scene, tmp_path):
    expected, _ = segment(scene, str(tmp_path / "m.zarr"))
    fsspec.filesystem(store[:2], **access(store)).put(scene, f"{store}/scene.tif")
    out = f"{store}/a/m.zarr"
    labels, facts = segment(f"{store}/scene.tif", out)
    assert facts.windows == 12
    assert (labels == expected).all()
    masks = open_masks(out)
    assert verify(out).whole
    assert (masks.dataset()["classes"].to_numpy() == expected).all()
    assert masks.storage.names(".geoseg") == ["copy.json", "done", "run.json"]
    assert "etag" in masks.record()["settings"]["source"]
    assert segment(f"{store}/scene.tif", out)[1].windows == 0
    spellings = {"gs": ["gcs://maps"], "az": ["abfs://maps", "abfss://maps@a.b"]}
    for same in spellings[store[:2]]:
        assert open_source(f"{same}/scene.tif").grid.width == 100


def test_one_run_at_a_time(store):
    storage = Storage(f"{store}/b")
    with held(storage, "lock", beat=0.1), pytest.raises(LockedError):
        held(storage, "lock", beat=0.1).__enter__()
    assert storage.create("once", b"one")
    assert not storage.create("once", b"two")
    assert storage.get("once") == b"one"


def test_a_process_ends_without_a_word_of_its_packages(store, scene):
    """Their file systems are closed when it ends, in loops that are still there."""
    code = (
        "import sys; from geoseg.maps.group import open_group; open_group(sys.argv[1])"
    )
    line = [sys.executable, "-c", code, f"{store}/a/m.zarr"]
    ended = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [
        ("s3://b/m", "s3fs", "s3"),
        ("gs://b/m", "gcsfs", "gcs"),
        ("az://b/m", "adlfs", "azure"),
    ],
)
def test_a_package_that_is_missing_is_named(
    scene, url, package, extra, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as ended:
        main(["segment", scene, "--model", "threshold:1>0.5", "--out", url])
    assert ended.value.code == 2
    assert f"pip install 'geoseg[{extra}]'" in capsys.readouterr().err


def test_words_of_gdal_are_heard(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "them")
    monkeypatch.setenv("AZURE_STORAGE_ACCESS_KEY", "a2V5")
    assert access("az://b") == {"account_name": "them", "account_key": "a2V5"}
    for word, url, told in (
        ("AWS_NO_SIGN_REQUEST", "s3://b", {"anon": True}),
        ("GS_NO_SIGN_REQUEST", "gs://b", {"token": "anon"}),
        ("AZURE_NO_SIGN_REQUEST", "az://b", {"anon": True}),
    ):
        monkeypatch.setenv(word, "YES")
        assert access(url).items() >= told.items()
