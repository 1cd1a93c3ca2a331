"""What tests share."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("geoseg", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("geoseg")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


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

    from geoseg.classes import class_table
    from geoseg.grid import Grid
    from geoseg.masks import create_masks, open_masks

    def make(path, labels, confidence=None, *, names=None, crs="EPSG:32633",
             chunk=256, zarr_format=2, done=True, provenance=None):  # fmt: skip
        height, width = labels.shape
        grid = Grid(
            crs=crs,
            transform=Affine(10.0, 0, 480_000.0, 0, -10.0, 5_460_000.0),
            height=height,
            width=width,
        )
        masks = create_masks(
            str(path),
            grid=grid,
            classes=class_table(names or [f"class {i}" for i in range(4)]),
            chunk=chunk,
            arrays=("classes",) if confidence is None else ("classes", "confidence"),
            settings={},
            block=chunk,
            provenance={"run": str(path), **(provenance or {})},
            zarr_format=zarr_format,
        )
        masks.write("classes", grid.window, labels)
        if confidence is not None:
            masks.write("confidence", grid.window, confidence)
        if done:
            masks.finish({})
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

    if os.geteuid() != 0 or mount("size=200k") != 0:
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
