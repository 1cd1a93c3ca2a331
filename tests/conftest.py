"""What tests share."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

from geoseg.execution.resources import cores

settings.register_profile("geoseg", deadline=None, max_examples=50, derandomize=True)
settings.register_profile("long", deadline=None, max_examples=5000)
settings.load_profile("geoseg")

TESTS = Path(__file__).resolve().parent
SHARED = TESTS.parents[1] / "shared" / "data"
# The longest files first, so that processes that run them side by side end together.
LONGEST = (
    "test_slurm.py",
    "test_faults.py",
    "test_vectorize.py",
    "test_clusters.py",
    "test_train.py",
    "test_series_networks.py",
    "test_workflow.py",
    "test_storage.py",
    "test_docs.py",
    "test_notebooks.py",
    "test_guide.py",
    "test_secrets.py",
    "test_view.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Share the whole suite among processes; run what is asked for by name here.

    One more than there are cores: tests of servers, clusters and kills wait a lot. A
    process takes up to 4 GB.
    """
    asked = [Path(str(a).partition("::")[0]) for a in config.invocation_params.args]
    whole = {TESTS, TESTS.parent}
    named = any(path.exists() and path.resolve() not in whole for path in asked)
    room = psutil.virtual_memory().total // 4_000_000_000
    return 0 if named else max(1, min(cores() + 1, 4, room))


if share := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    # Processes that share the cores share them for computing too. It is said before
    # torch and BLAS are imported, which look only then.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, str(max(1, cores() // int(share))))


def pytest_collection_modifyitems(items):
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(autouse=True)
def no_secrets_of_others(monkeypatch):
    """Forget what tests before called a password: it is cut out of all messages."""
    monkeypatch.setattr("geoseg.location._KEPT", set())


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    """Keep what is compiled and measured among the tests."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("GEOSEG_CACHE_DIR", str(folder))


@pytest.fixture(scope="module")
def one_thread():
    """Compute with one thread: networks this small only wait for each other's."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def no_client_is_left():
    """See to it that no test leaves a client behind by which all of Dask computes.

    In the tests that come later it would, on workers that are gone: they would hang.
    """
    yield
    if "distributed" not in sys.modules:
        return
    from dask import config
    from distributed import default_client

    with pytest.raises(ValueError, match="No clients found"):
        default_client()
    assert config.get("scheduler", None) is None


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real rasters that lies beside a developer's checkout."""
    if not SHARED.is_dir():
        pytest.skip("real data absent: ../shared/data is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def make_store():
    """Return a function that writes labels (y, x) into a masks store."""
    from affine import Affine
    from stores import write_masks

    from geoseg.core.classes import class_table
    from geoseg.core.grid import Grid
    from geoseg.maps.store import open_masks

    def make(path, labels, confidence=None, *, names=None, crs="EPSG:32633",
             chunk=256, zarr_format=2, done=True, provenance=None):  # fmt: skip
        height, width = labels.shape
        grid = Grid(
            crs=crs,
            transform=Affine(10.0, 0, 480_000.0, 0, -10.0, 5_460_000.0),
            height=height,
            width=width,
        )
        write_masks(
            path,
            labels,
            grid=grid,
            table=class_table(names or [f"class {i}" for i in range(4)]),
            chunk=chunk,
            done=done,
            zarr_format=zarr_format,
            run=provenance,
            **({} if confidence is None else {"confidence": confidence}),
        )
        return open_masks(str(path))

    return make


@pytest.fixture
def small_disk(tmp_path):
    """Return a function that sets the size of a disk, and where it is mounted."""
    where = tmp_path / "disk"
    where.mkdir()

    def mount(options):
        line = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)]
        return subprocess.run(line, capture_output=True, check=False).returncode

    if not hasattr(os, "geteuid") or os.geteuid() != 0 or mount("size=200k") != 0:
        pytest.skip("a small disk cannot be mounted here: needs root")
    yield where, lambda size: mount(f"remount,size={size}")
    subprocess.run(["umount", "-l", str(where)], check=False)


@pytest.fixture
def browser(chromium):
    """Return the browser, its console empty and no page of another test open."""
    chromium.get("about:blank")
    chromium.get_log("browser")
    return chromium


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """Return a headless Chromium that keeps its console, driven by selenium."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if not (chromium and chromedriver):
        pytest.skip("chromium or its driver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("browser")
    for switch in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=chromedriver)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()
