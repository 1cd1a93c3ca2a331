"""The report: right figures, any map, one page that anyone can read."""

import base64
import json
import re
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image as Pillow
from stores import write_masks
from tifs import write_tif

from geoseg.cli import run
from geoseg.core.classes import class_table
from geoseg.core.grid import Grid
from geoseg.errors import GeosegError
from geoseg.maps.group import OBJECT_COLUMNS, create_objects
from geoseg.maps.reader import read_plain
from geoseg.viz.picture import image_of
from geoseg.viz.report import report
from geoseg.viz.report.objects import object_sizes
from geoseg.viz.statistics import PLACE, map_statistics

NODATA = 255
PLACE_OF_ERRORS = (1024, 512)


@pytest.fixture(scope="module")
def labels():
    rows, columns = np.mgrid[:1600, :1900]
    values = ((rows // 70 + columns // 90) % 3).astype(np.uint8)
    values[:, 1800:] = NODATA
    return values


@pytest.fixture(scope="module")
def masks(labels, make_store, tmp_path_factory):
    confidence = np.full(labels.shape, 240, np.uint8)
    confidence[512:768, 256:512] = 60
    confidence[labels == NODATA] = 255
    return make_store(
        tmp_path_factory.mktemp("report") / "land.zarr",
        labels,
        confidence,
        names=["lake", "wood", "field & meadow <wet>"],
        provenance={
            "version": "0",
            "model": {"name": "a model", "hash": "c0ffee" * 10},
            "settings": {"window": 128, "overlap": 32, "bands": ["red"]},
            "begun": "2026-01-01T10:00:00+00:00",
            "seconds": 75.0,
            "devices": ["cuda:0 of <NVIDIA>, bf16"],
            "stages": {"reading and blending": 61.0, "model": 200.0},
        },
    )


@pytest.fixture(scope="module")
def image(labels, tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "scene.tif"
    pixels = np.stack([labels * (40 + 20 * i) for i in range(3)]).astype(np.uint16)
    return write_tif(
        path,
        pixels,
        names=("red", "green", "blue"),
        dtype="uint16",
        transform=Affine(10, 0, 480_000, 0, -10, 5_460_000),
    )


def text_of(page):
    body = re.sub(r"<(style|svg).*?</\1>", " ", Path(page).read_text(), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


def test_statistics_count_what_is_there(masks, labels):
    found = map_statistics(masks, size=400, block=512, threads=3)
    assert found.pixels.tolist() == [(labels == v).sum() for v in range(3)]
    assert found.nodata == 1600 * 100
    assert found.unknown == 0
    # UTM: true areas differ from 100 m² per pixel by the scale factor squared.
    np.testing.assert_allclose(found.areas_m2, found.pixels * 100, rtol=2e-3)
    down = (labels[:-1] != labels[1:]) & (labels[:-1] != NODATA)
    np.testing.assert_array_equal(found.rows.changes, down.sum(1))
    across = (labels[:, :-1] != labels[:, 1:]) & (labels[:, 1:] != NODATA)
    np.testing.assert_array_equal(found.columns.changes, across.sum(0))
    assert found.picture.shape == (337, 400)
    sure = read_plain(masks, "confidence", masks.grid.window)
    np.testing.assert_array_equal(found.confidence, np.bincount(sure.ravel())[:255])
    doubtful = found.places["doubt"][0]
    assert (doubtful.window.y, doubtful.window.x) == (512, 256)
    assert doubtful.score == pytest.approx(1 - 60 / 254, abs=1e-6)


def test_blocks_and_threads_do_not_matter(masks):
    one = map_statistics(masks, size=300, threads=1)
    other = map_statistics(masks, size=300, block=256, threads=4)
    np.testing.assert_array_equal(one.picture, other.picture)
    np.testing.assert_array_equal(one.rows.changes, other.rows.changes)
    np.testing.assert_array_equal(one.columns.pairs, other.columns.pairs)
    np.testing.assert_allclose(one.areas_m2, other.areas_m2, rtol=1e-9)


def test_the_page_says_what_matters(masks, image, tmp_path):
    page = report(masks, tmp_path / "r.html", raster=image, title="My land")
    text = text_of(page)
    for words in (
        "My land", "WGS 84 / UTM zone 33N (EPSG:32633)", "1,900 × 1,600 pixels",
        "a model", "1 min 15 s", "128 px, overlapping by 32 px", "mean confidence",
        "field &amp; meadow &lt;wet&gt;", "Where the model is least certain",
        "borders of windows", "borders of blocks", "49.",
        "cuda:0 of &lt;NVIDIA&gt;, bf16", "blending 1 min 1 s, model 3 min 20 s",
    ):  # fmt: skip
        assert words in text, words
    source = page.read_text()
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|#)""", source)
    assert "<script" not in source
    assert source.count("data:image/webp") == 4, (
        "close-ups and an overview of the image"
    )


@pytest.mark.parametrize("tagged", [False, True])
def test_the_image_is_stretched_but_for_nodata(labels, make_store, tagged, tmp_path):
    """The map tells what is nodata where the raster itself does not."""
    values = np.where(labels == NODATA, 0, 8000 + 300 * labels.astype(np.uint16))
    path = tmp_path / "scene.tif"
    write_tif(
        path,
        np.stack([values] * 3),
        dtype="uint16",
        transform=Affine(10, 0, 480_000, 0, -10, 5_460_000),
        nodata=0 if tagged else None,
    )
    masks = make_store(tmp_path / "m.zarr", labels, provenance={"source": str(path)})
    image = image_of(masks, None)
    assert image.low == (8000,) * 3
    assert image.high == (8600,) * 3
    for rgba in (image.on(masks.grid), image.small(1900)):
        np.testing.assert_array_equal(rgba[..., 3] > 0, labels != NODATA)
    assert image_of(masks, False) is None


def test_it_is_evaluated_where_a_reference_is_given(masks, labels, image, tmp_path):
    truth = labels.copy()
    y, x = PLACE_OF_ERRORS
    truth[y : y + PLACE, x : x + PLACE] = (labels[y : y + PLACE, x : x + PLACE] + 1) % 3
    path = tmp_path / "truth.tif"
    with rasterio.open(image) as like, rasterio.open(
        path, "w", **{**like.profile, "count": 1, "dtype": "uint8", "nodata": NODATA}
    ) as file:  # fmt: skip
        file.write(truth, 1)
    page = report(masks, tmp_path / "r.html", reference=path, raster=image)
    text = text_of(page)
    wrong = PLACE**2 / (labels != NODATA).sum()
    assert f"{100 * (1 - wrong):.1f} % overall accuracy" in text
    assert "Where it is most wrong" in text
    row, column = y + PLACE // 2, x + PLACE // 2
    lon, lat = _lonlat(masks.grid, row, column)
    assert f"1. {lat:.5f}° N, {lon:.5f}° E" in text
    assert "100 % of the labelled pixels wrong" in text


def test_a_reference_may_call_classes_otherwise(masks, labels, image, tmp_path, capsys):
    path = tmp_path / "truth.tif"
    with rasterio.open(image) as like, rasterio.open(
        path, "w", **{**like.profile, "count": 1, "dtype": "uint8", "nodata": NODATA}
    ) as file:  # fmt: skip
        file.write(np.where(labels == NODATA, NODATA, labels + 10).astype(np.uint8), 1)
    names = [c.name for c in masks.classes]
    said = [f"--map={10 + i}={name}" for i, name in enumerate(names)]
    page = tmp_path / "r.html"
    command = ["report", masks.path, "--out", str(page), "--reference", str(path)]
    assert run([*command, *said]) == 0
    assert "100 % overall accuracy" in text_of(page)
    assert run([*command, "--overwrite", said[0], "--map=11=ignore"]) == 0
    assert "100 % overall accuracy" not in text_of(page)
    capsys.readouterr()
    assert run([*command, "--overwrite", "--map=10"]) == 2
    assert "NAME=CLASS" in capsys.readouterr().err


def _lonlat(grid, row, column):
    from pyproj import Transformer

    there = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    return there.transform(*(grid.transform @ (column, row)))


def test_intervals_come_from_an_evaluation(masks, tmp_path):
    figure = {"value": 0.8, "standard_error": 0.05, "low": 0.7, "high": 0.9}
    area = {"value": 2e7, "standard_error": 1e6, "low": 1.8e7, "high": 2.2e7}
    found = {
        "reference": "points.gpkg", "kind": "points", "n": 300, "notes": ["a note"],
        "estimator": "stratified", "overall_accuracy": figure, "mean_iou": 0.6,
        "classes": {"lake": {
            "users_accuracy": figure, "producers_accuracy": figure, "area_m2": area,
        }},
    }  # fmt: skip
    path = tmp_path / "e.json"
    path.write_text(json.dumps(found))
    text = text_of(report(masks, tmp_path / "r.html", evaluation=path))
    assert "80.0 ± 10.0 % overall accuracy" in text
    assert "20.0 ± 2.00" in text
    assert "300 points of points.gpkg" in text
    assert "a note" in text
    # Ends that are not as far are both told.
    found["overall_accuracy"] = {
        "value": 1.0,
        "standard_error": 0.0,
        "low": 0.9,
        "high": 1.0,
    }
    path.write_text(json.dumps(found))
    text = text_of(report(masks, tmp_path / "r.html", evaluation=path, overwrite=True))
    assert "100 % (90.0 … 100) overall accuracy" in text


def _odd_maps(make_store, folder):
    """Yield maps that must not break the page: name, masks, words it must hold."""
    empty = np.full((300, 300), NODATA, np.uint8)
    yield "empty", make_store(folder / "empty.zarr", empty), ["all of it is nodata"]
    one = np.zeros((300, 300), np.uint8)
    names = ["only"]
    yield "one", make_store(folder / "one.zarr", one, names=names), ["100 %"]
    many = (np.arange(300 * 300).reshape(300, 300) % 200).astype(np.uint8)
    names = [f"class number {i}" for i in range(200)]
    store = make_store(folder / "many.zarr", many, names=names)
    yield "many", store, ["and 176 more", "class number 199"]
    wide = (np.arange(300 * 300).reshape(300, 300) % 300).astype(np.uint16)
    names = [f"c{i}" for i in range(300)]
    yield "wide", make_store(folder / "wide.zarr", wide, names=names), ["c299"]
    nowhere = make_store(folder / "nowhere.zarr", one, crs=None)
    yield "nowhere", nowhere, ["no coordinate reference system", "90,000"]
    begun = make_store(folder / "begun.zarr", empty, done=False)
    begun.mark_done((0, 0), {"windows": 4, "forward_seconds": 0.5})
    words = ["75.0 % is missing (3 of 4 blocks)", "blocks (row,column) 0,1; 1,0; 1,1"]
    yield "begun", begun, words
    speck = make_store(folder / "speck.zarr", np.zeros((1, 1), np.uint8))
    yield "speck", speck, ["1 × 1 pixels"]


@pytest.mark.filterwarnings("ignore:.*so is what is made of it:UserWarning")
def test_odd_maps(make_store, tmp_path):
    for name, masks, words in _odd_maps(make_store, tmp_path):
        text = text_of(report(masks, tmp_path / f"{name}.html", partial=True))
        for each in words:
            assert each in text, (name, each)


def test_objects_are_counted_and_shares_are_of_the_area(tmp_path):
    """A pixel in degrees at 60° north is half of one at the equator."""
    north = np.arange(80)[:, None] < 40
    grid = Grid(
        crs="EPSG:4326", transform=Affine(1, 0, 0, 0, -1, 80), height=80, width=40
    )
    masks = write_masks(
        tmp_path / "m.zarr",
        np.where(north, 0, 1).repeat(40, 1).astype(np.uint8),
        grid=grid,
        table=class_table(["tree", "roof"]),
        done=False,
        instances=np.where(north, 1, 2).repeat(40, 1).astype(np.uint32),
    )
    ones = {name: np.ones(3) for name in OBJECT_COLUMNS}
    create_objects(masks.path)({**ones, "class_id": [0, 1, 1]})
    masks.finish({})
    found = map_statistics(masks, size=10, places=0)
    assert found.shares == pytest.approx(found.areas_m2 / found.areas_m2.sum())
    assert found.shares[0] < 0.37
    text = text_of(report(masks, tmp_path / "page.html"))
    assert "3 objects" in text
    assert "Objects 3: tree 1, roof 2" in text
    assert "Share is of the area with a class" in text


def test_objects_have_sizes_and_a_colour_each(tmp_path, image):
    rows, columns = np.mgrid[:300, :400]
    ids = (1 + rows // 50 * 8 + columns // 50).astype(np.uint32)
    grid = Grid(
        crs="EPSG:32633", transform=Affine(10, 0, 480_000, 0, -10, 5_460_000),
        height=300, width=400,
    )  # fmt: skip
    masks = write_masks(
        tmp_path / "m.zarr", (ids % 2).astype(np.uint8), grid=grid,
        table=class_table(["tree", "roof"]), done=False, instances=ids,
        run={"settings": {"things": [1, 0], "window": 64, "overlap": 0}},
    )  # fmt: skip
    boxes = {name: np.zeros(48) for name in OBJECT_COLUMNS}
    kinds = np.arange(1, 49) % 2
    boxes |= {"class_id": kinds, "pixels": np.where(kinds, 2500, [*range(100, 148)])}
    create_objects(masks.path)(boxes)
    masks.finish({})
    found = object_sizes(masks)
    assert found["unit"] == "ha"
    tree, roof = sorted(found["rows"], key=lambda row: row["name"], reverse=True)
    assert (tree["count"], roof["count"]) == ("24", "24")
    assert float(roof["median"]) == pytest.approx(25, rel=2e-3)
    assert float(tree["largest"]) == pytest.approx(1.47, abs=0.01)
    low, high = map(float, tree["most"].split(" … "))
    assert 1.0 < low < float(tree["median"]) < high < 1.47
    page = report(masks, tmp_path / "page.html", raster=image)
    assert "things roof, tree" in text_of(page), "by name"
    assert "image map objects" in text_of(page)
    pictures = re.findall(r'data:image/png;base64,([^"]+)" alt="[^"]*: objects"',
                          page.read_text())  # fmt: skip
    colours = np.asarray(Pillow.open(BytesIO(base64.b64decode(pictures[0]))))
    close = {tuple(c) for c in colours.reshape(-1, 4).tolist()}
    assert len(close) >= 9, "a colour each of those in a close-up"


def test_a_class_raster_of_another_tool(tmp_path, image):
    path = tmp_path / "theirs.tif"
    values = np.kron(np.arange(64).reshape(8, 8) % 5, np.ones((64, 64))).astype("u1")
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=512, width=512, dtype="uint8",
        crs="EPSG:32633", transform=Affine(10, 0, 480_000, 0, -10, 5_460_000), nodata=0,
    ) as file:  # fmt: skip
        file.write(values, 1)
        file.write_colormap(1, {1: (10, 200, 30, 255)})
    page = report(path, raster=image)
    assert page == tmp_path / "theirs.html"
    assert "#0AC81E" in page.read_text()
    assert "another tool" in text_of(page)


def test_the_command_line(masks, tmp_path, capsys):
    page = tmp_path / "r.html"
    assert run(["report", masks.path, "--out", str(page), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"file": str(page), "bytes": page.stat().st_size}
    before = page.read_bytes()
    assert run(["report", masks.path, "--out", str(page)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert page.read_bytes() == before
    assert run(["report", str(tmp_path / "no.zarr"), "--out", str(page)]) == 2
    assert run(["report", masks.path, "--out", str(tmp_path / "no" / "r.html")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 2, "one line each"


def test_an_evaluation_that_is_none(masks, tmp_path):
    path = tmp_path / "e.json"
    for text in ("[1]", "{}", "nonsense"):
        path.write_text(text)
        with pytest.raises(GeosegError, match="evaluation"):
            report(masks, tmp_path / "r.html", evaluation=path)
    assert not list(tmp_path.glob("*.html*"))


def test_memory_does_not_grow_with_the_map(make_store, tmp_path):
    """Read areas at once are bounded: twice the width, same largest read."""
    largest = {}
    for width in (3000, 6000):
        store = make_store(
            tmp_path / f"{width}.zarr", np.zeros((3000, width), np.uint8), chunk=512
        )
        seen = []

        class Noted:
            grid, classes, nodata = store.grid, store.classes, store.nodata
            chunk, arrays = store.chunk, store.arrays

            def read(self, name, window, store=store, seen=seen):
                seen.append(window.area)
                return store.read(name, window)

        map_statistics(Noted())
        largest[width] = max(seen)
        assert sum(seen) == 3000 * width, "every pixel once"
    assert largest[3000] == largest[6000]


# WCAG 2.2, 1.4.3: text has a contrast of 4.5 to what is behind it.
_CONTRAST = Path(__file__).with_name("contrast.js").read_text()


def show(browser, url, width, *, mobile):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": mobile},
    )
    browser.get(url)


def test_words_can_be_read_in_the_dark(browser, masks, image, tmp_path):
    page = report(masks, tmp_path / "r.html", raster=image)
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [dark]})
    try:
        show(browser, page.as_uri(), 1280, mobile=False)
        assert browser.execute_script(_CONTRAST) == []
        ground = browser.execute_script(
            "return getComputedStyle(document.body).backgroundColor"
        )
        assert sum(int(n) for n in ground[4:-1].split(",")) < 150
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize(("width", "mobile"), [(1280, False), (390, True)])
def test_in_a_browser(browser, masks, image, make_store, tmp_path, width, mobile):
    names = [f"a class with quite a long name {i}" for i in range(200)]
    many = (np.arange(300 * 300).reshape(300, 300) % 200).astype(np.uint8)
    store = make_store(tmp_path / "many.zarr", many, names=names)
    pages = [
        report(masks, tmp_path / "r.html", raster=image),
        report(store, tmp_path / "m.html"),
    ]
    for page in pages:
        show(browser, page.as_uri(), width, mobile=mobile)
        assert browser.get_log("browser") == []
        loaded = browser.execute_script(
            "return performance.getEntriesByType('resource').map(e => e.name)"
            ".filter(n => !n.startsWith('data:'))"
        )
        assert loaded == []
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width, "nothing sticks out sideways"
        broken = browser.execute_script(
            "return [...document.images].filter(i => !i.naturalWidth || !i.alt).length"
        )
        assert broken == 0
        assert browser.execute_script(_CONTRAST) == []
        levels = browser.execute_script(
            "return [...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])"
        )
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(b - a <= 1 for a, b in pairwise(levels))
    _check_scale(browser, pages[0], width, mobile, masks)


def _check_scale(browser, page, width, mobile, masks):
    show(browser, page.as_uri(), width, mobile=mobile)
    bar, frame, name = browser.execute_script(
        "const w = s => document.querySelector(s).getBoundingClientRect().width;"
        "return [w('.scale'), w('.frame img'),"
        " document.querySelector('.scale span').textContent]"
    )
    kilometres = float(name.split()[0])
    true = masks.grid.width * masks.grid.pixel_size_m[1] / 1000
    assert bar / frame == pytest.approx(kilometres / true, rel=0.03)


def test_it_prints_on_few_whole_pages(browser, masks, image, tmp_path):
    page = report(masks, tmp_path / "r.html", raster=image)
    show(browser, page.as_uri(), 1280, mobile=False)
    options = {"preferCSSPageSize": True, "printBackground": False}
    found = browser.execute_cdp_cmd("Page.printToPDF", options)
    pdf = base64.b64decode(found["data"])
    boxes = re.findall(rb"/MediaBox \[0 0 ([0-9.]+) ([0-9.]+)\]", pdf)
    assert 2 <= len(boxes) <= 4
    a4 = [pytest.approx(595, abs=1), pytest.approx(842, abs=1)]
    assert [float(v) for v in boxes[0]] == a4
    # What belongs together is not torn apart, nor colours left out to save ink.
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    kept = browser.execute_script(
        "const style = s => getComputedStyle(document.querySelector(s));"
        "return [style('#facts').breakInside, style('.card').breakInside,"
        " style('tr').breakInside, style('.swatch').printColorAdjust]"
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert kept == ["avoid", "avoid", "avoid", "exact"]
