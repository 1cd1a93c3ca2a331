"""Maps of other tools, and odd ones: all can be reported, viewed and exported."""

import io
import json
import tracemalloc
import urllib.request

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from PIL import Image as Pillow

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

import geoseg
from geoseg.cli import run
from geoseg.core.grid import Grid
from geoseg.errors import RasterError
from geoseg.maps.open import open_classes
from geoseg.viz.view import view

HERE = Affine(10, 0, 480_000, 0, -10, 5_460_000)
BLANK = 999
"""What `SQUARES` has where there is no class."""
SQUARES = np.add.outer(np.arange(300) // 50, np.arange(400) // 50) % 5 + 1
SQUARES[:50, :50] = BLANK


def write_tif(path, values, *, crs="EPSG:32633", nodata=None, overviews=()):
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=values.shape[0], nodata=nodata,
        width=values.shape[1], dtype=values.dtype, crs=crs, transform=HERE,
    ) as file:  # fmt: skip
        file.write(values, 1)
        if overviews:
            file.build_overviews(overviews)


def write_zarr(path, values, *, crs=True, nodata=None):
    y, x = values.shape
    places = {"y": 5_460_000 - 10 * (np.arange(y) + 0.5)}
    places["x"] = 480_000 + 10 * (np.arange(x) + 0.5)
    array = xr.DataArray(
        values, dims=("y", "x"), coords=places if crs else None, name="cover"
    )
    if nodata is not None:
        array.attrs["_FillValue"] = nodata
    if crs:
        import rioxarray  # noqa: F401 - the accessor

        array = array.rio.write_crs("EPSG:32633")
    array.to_dataset().to_zarr(path, zarr_format=2)


def with_blank(dtype, blank):
    return np.where(SQUARES == BLANK, blank, SQUARES).astype(dtype)


MAPS = {
    "bytes": lambda p: write_tif(p / "m.tif", with_blank("u1", 0), nodata=0),
    "signed": lambda p: write_tif(
        p / "m.tif", with_blank("i2", -1), nodata=-1, overviews=[2]
    ),
    "wide": lambda p: write_tif(p / "m.tif", with_blank("i4", -9999), nodata=-9999),
    "nowhere": lambda p: write_tif(
        p / "m.tif", with_blank("u1", 9), nodata=9, crs=None
    ),
    "zarr": lambda p: write_zarr(p / "m.zarr", with_blank("i8", -1), nodata=-1),
    "zarr nowhere": lambda p: write_zarr(
        p / "m.zarr", with_blank("u2", 7), nodata=7, crs=False
    ),
}


def get(server, path):
    with urllib.request.urlopen(server.url + path, timeout=20) as answer:
        return answer.read()


def tile(server, path):
    data = get(server, f"tiles/classes/{path}.png")
    return np.asarray(Pillow.open(io.BytesIO(data)).convert("RGBA"))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.filterwarnings("ignore:.*onsolidated metadata")
@pytest.mark.parametrize("kind", MAPS)
def test_maps_of_other_tools(kind, tmp_path):
    MAPS[kind](tmp_path)
    (path,) = tmp_path.iterdir()
    blank = SQUARES == BLANK
    page, cog = tmp_path / "report.html", tmp_path / "map.cog.tif"
    assert run(["report", str(path), "--out", str(page), "--quiet"]) == 0
    assert "5 classes present" in page.read_text() or "5 of 5" in page.read_text()
    with view(str(path)) as server:
        table = {
            c["value"]: c["color"]
            for c in json.loads(get(server, "map.json"))["classes"]
        }
        seen = tile(server, "0/0/0")
        assert (seen[blank[:256, :256]][:, 3] == 0).all()
        for value in range(1, 6):
            rgb = [int(table[value][i : i + 2], 16) for i in (1, 3, 5)]
            here = seen[(value == SQUARES)[:256, :256]]
            np.testing.assert_array_equal(
                here[:, :3], np.broadcast_to(rgb, (len(here), 3))
            )
        half = tile(server, "1/0/0")
        np.testing.assert_array_equal(half[:50, :50], seen[1:100:2, 1:100:2])
        assert json.loads(get(server, "at.json?row=10&column=10"))["class"] is None
    assert run(["export", str(path), "--out", str(cog), "--quiet"]) == 0
    with rasterio.open(cog) as file:
        found = file.read(1)
        np.testing.assert_array_equal(found == file.nodata, blank)
        np.testing.assert_array_equal(found[~blank], SQUARES[~blank])


@pytest.mark.parametrize(
    ("dtype", "nodata", "values"),
    [
        ("uint8", 0, [0, 1, 2]),
        ("uint8", None, [0, 1, 255]),
        ("uint16", 65535, [65535, 1, 700]),
        ("int16", -9999, [-9999, 3, 40]),
        ("int8", -1, [-1, 0, 5]),
        ("int32", None, [1, 2, 70]),
        ("int64", -1, [-1, 4]),
    ],
)
@pytest.mark.parametrize("opened", [str, xr.open_dataarray], ids=["path", "array"])
def test_an_export_keeps_dtype_and_nodata(tmp_path, dtype, nodata, values, opened):
    pixels = np.random.default_rng(0).choice(values, (30, 20)).astype(dtype)
    path = tmp_path / "theirs.tif"
    write_tif(path, pixels, nodata=nodata)
    kwargs = {} if opened is str else {"engine": "rasterio", "mask_and_scale": False}
    out = geoseg.export(opened(path, **kwargs), tmp_path / "out.tif")
    with rasterio.open(out) as file:
        assert (file.dtypes[0], file.nodata) == (dtype, nodata)
        np.testing.assert_array_equal(file.read(1), pixels)
        assert set(file.colormap(1)) >= set(values) - {nodata}


def test_what_is_no_class_raster_is_said(tmp_path):
    for values, said in (
        (SQUARES.astype("f4"), "classes are whole numbers"),
        ((SQUARES - 3).astype("i2"), "has class value -2; class values are 0 … 65534"),
        ((SQUARES * 70).astype("i4"), "has class value 69930; class values are"),
        (np.arange(90_000, dtype="u4").reshape(300, 300), "more than 65,535 values"),
    ):
        write_tif(tmp_path / "m.tif", values)
        with pytest.raises(RasterError, match=said):
            open_classes(tmp_path / "m.tif")


WIDE = """<VRTDataset rasterXSize="{0}" rasterYSize="{1}">
<VRTRasterBand dataType="Byte" band="1" blockXSize="128" blockYSize="128">
<SimpleSource><SourceFilename relativeToVRT="1">a.tif</SourceFilename>
<SourceBand>1</SourceBand><SrcRect xOff="0" yOff="0" xSize="8" ySize="8"/>
<DstRect xOff="0" yOff="0" xSize="8" ySize="8"/></SimpleSource></VRTRasterBand>
</VRTDataset>"""


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_sizes_that_were_made_up_take_no_memory(tmp_path):
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8"}
    with rasterio.open(tmp_path / "a.tif", "w", height=8, width=8, **profile) as file:
        file.write(np.arange(64, dtype=np.uint8).reshape(1, 8, 8))
    (tmp_path / "wide.vrt").write_text(WIDE.format(1 << 24, 200))
    tracemalloc.start()
    assert len(open_classes(tmp_path / "wide.vrt").classes) == 64
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 100e6  # and it has 3.4 GB of pixels
    (tmp_path / "all.vrt").write_text(WIDE.format(2**31 - 1, 2**31 - 1))
    with pytest.raises(RasterError, match="more than the whole Earth at 10 cm"):
        open_classes(tmp_path / "all.vrt")
    world = 1 << 25  # web mercator at level 17, 1.2 m: a mosaic that there is
    Grid(crs=None, transform=Affine.scale(1.2, -1.2), height=world, width=world)
    size = {"height": 2, "width": 2**31 - 2, "BIGTIFF": "YES", "sparse_ok": True}
    with rasterio.open(tmp_path / "row.tif", "w", **size, **profile):
        pass
    with pytest.raises(RasterError, match="2,147,483,646 bytes each to decode"):
        open_classes(tmp_path / "row.tif")


# -------------------------------------------------------------- odd maps in a browser


def odd_maps(make_store, folder):
    """Yield stores that must not break a map: what, store, classes in its legend."""
    empty = np.full((600, 600), 255, np.uint8)
    yield "empty", make_store(folder / "empty.zarr", empty), 4
    one = np.zeros((600, 600), np.uint8)
    yield "one class", make_store(folder / "one.zarr", one, names=["only"]), 1
    many = (np.arange(600 * 600).reshape(600, 600) // 7 % 200).astype(np.uint8)
    names = [f"class number {i}" for i in range(200)]
    yield "200 classes", make_store(folder / "many.zarr", many, names=names), 200
    nowhere = make_store(folder / "nowhere.zarr", one, crs=None)
    yield "no CRS", nowhere, 4
    yield "being written", make_store(folder / "b.zarr", one, chunk=512, done=False), 4


@pytest.mark.filterwarnings("ignore:.*so is what is made of it:UserWarning")
def test_odd_maps_in_a_browser(make_store, browser, tmp_path):
    from selenium.webdriver.support.wait import WebDriverWait

    wait = WebDriverWait(browser, 15, poll_frequency=0.05)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    for what, masks, classes in odd_maps(make_store, tmp_path):
        with view(masks, partial=True) as server:
            browser.get(server.url)
            wait.until(lambda b: b.execute_script("return document.body.dataset.ready"))
            wait.until(
                lambda b, n=classes: b.execute_script(
                    "return document.querySelectorAll('#classes li').length"
                ) == n
            )  # fmt: skip
            where = browser.find_element("id", "map")
            browser.execute_script("map.fire('click', {latlng: map.getCenter()})")
            wait.until(
                lambda b: b.find_elements("css selector", ".leaflet-popup-content")
            )
            said = browser.find_element("css selector", ".leaflet-popup-content").text
            assert ("nodata" in said) == (what == "empty"), what
            assert browser.get_log("browser") == [], what
            assert where.is_displayed()
