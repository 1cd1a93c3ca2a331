"""The live map's choices: bands, contrast, names, objects, a second map, a basemap."""

import io
import json
import sys
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from affine import Affine
from PIL import Image as Pillow
from waiting import until

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from stores import write_masks
from tifs import write_tif

from geoseg.core.classes import class_table
from geoseg.core.grid import Grid
from geoseg.errors import GeosegError, MasksError
from geoseg.maps.store import open_masks
from geoseg.viz.view import view
from geoseg.viz.view.basemap import mercator, open_basemap, tile_url

HERE = Affine(10, 0, 480_000, 0, -10, 5_460_000)
SIDE = 500


def ask(server, path, body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def ask_json(server, path, body=None):
    return json.loads(ask(server, path, body)[1])


def tile(server, path):
    status, data = ask(server, f"tiles/{path}")
    assert status == 200, data
    return np.asarray(Pillow.open(io.BytesIO(data)).convert("RGBA"))


@pytest.fixture(scope="module")
def tiles():
    """A server of tiles, and the paths that it was asked for."""
    asked = []

    class Tiles(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["User-Agent"]))
            self.send_response(404 if "missing" in self.path else 200)
            self.end_headers()
            picture = io.BytesIO()
            Pillow.new("RGB", (256, 256), (10, 200, 30)).save(picture, "PNG")
            self.wfile.write(picture.getvalue())

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Tiles)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("layers")


@pytest.fixture(scope="module")
def ids():
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return (1 + rows // 50 * 10 + columns // 50).astype(np.uint32)


@pytest.fixture(scope="module")
def masks(folder, ids):
    """Masks with objects."""
    grid = Grid(crs="EPSG:32633", transform=HERE, height=SIDE, width=SIDE)
    return write_masks(
        folder / "land.zarr", (ids % 3).astype(np.uint8), grid=grid,
        table=class_table(["a", "b", "c"]), chunk=256,
        instances=np.where(ids % 7, ids, 0).astype(np.uint32),
    ).path  # fmt: skip


@pytest.fixture(scope="module")
def server(folder, masks, tiles):
    """The map with everything: four bands, another map on a coarser grid, tiles."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    bands = [rows, columns, rows + columns, 1000 - columns]
    write_tif(
        folder / "scene.tif",
        np.array(bands, np.uint16),
        names=("red", "green", "blue", "nir"),
        transform=HERE,
        nodata=65535,
    )
    write_tif(
        folder / "older.tif",
        np.where(np.arange(100) < 50, 3, 4)[None, None].repeat(100, 1).astype("u1"),
        transform=HERE @ Affine.scale(5),
        nodata=9,
    )
    basemap = f"{tiles[0]}/{{z}}/{{x}}/{{y}}.png?key=secret-of-ours"
    with view(
        masks, raster=folder / "scene.tif", beside=folder / "older.tif", basemap=basemap
    ) as running:
        yield running


def test_any_bands_can_be_shown_in_any_contrast(server):
    image = ask_json(server, "map.json")["image"]
    assert [b["name"] for b in image["bands"]] == ["red", "green", "blue", "nir"]
    assert image["shown"] == [0, 1, 2]
    usual = tile(server, "image/0/0/0.png")
    np.testing.assert_array_equal(usual, tile(server, "image/0/0/0.png?bands=1,2,3"))
    grey = tile(server, "image/0/0/0.png?bands=2")
    assert (grey[..., :1] == grey[..., :3]).all()
    assert (np.diff(grey[0, :, 0].astype(int)) >= 0).all(), "columns, ever lighter"
    false = tile(server, "image/0/0/0.png?bands=4,1,2")
    assert false[0, 10, 0] > false[0, 200, 0], "red is nir, which falls"
    np.testing.assert_array_equal(false[..., 1], usual[..., 0])
    sharp = tile(server, "image/0/0/0.png?bands=2&low=100&high=101")
    assert not sharp[:, :100, 0].any()
    assert (sharp[:, 102:, 0] == 255).all()
    for wrong in ("bands=9", "bands=1,2", "bands=0", "bands=x", "low=a&high=b"):
        assert ask(server, f"tiles/image/0/0/0.png?{wrong}")[0] == 422, wrong


def test_contrast_of_all_or_of_what_is_seen(server):
    limits = ask_json(server, "limits.json?bands=2&cut=0")
    assert limits["low"] == [0]
    assert limits["high"] == [SIDE - 1]
    seen = "top=0&bottom=50&left=200&right=300"
    limits = ask_json(server, f"limits.json?bands=2&cut=0&{seen}")
    assert limits == {"low": [200], "high": [299]}
    nowhere = "top=-900&bottom=-800&left=0&right=9"
    assert ask_json(server, f"limits.json?bands=2&cut=0&{nowhere}")["high"] == [499]
    for wrong in ("cut=60", "cut=nan", "", "cut=1&left=1"):
        assert ask(server, f"limits.json?{wrong}")[0] == 422, wrong


def test_small_copies_of_a_choice_of_bands(folder, masks, monkeypatch):
    """What is seen from far away is the mean of valid pixels, in any bands."""
    monkeypatch.setattr("geoseg.viz.view.image_layer._SMALLEST", 64)
    with view(masks, raster=folder / "scene.tif") as running:
        for query in ("bands=2&low=0&high=500", "bands=4,2,1", "bands=3", "bands=1"):
            tile(running, f"image/2/0/0.png?{query}")
        copies = running.layers.image._copies
        assert len(copies) == 3
        kept = copies[(0,)]
        for _ in range(400):
            if kept.share == 1:
                break
            threading.Event().wait(0.02)
        level = kept.levels[0].pixels
        np.testing.assert_allclose(level[:, 0, 0], np.arange(125) * 4 + 1.5, atol=0.6)
        assert ask_json(running, "state.json")["image"]["share"] <= 1
        far = tile(running, "image/2/0/0.png?bands=1&low=0&high=500")
    rows = far[:125, 0, 0].astype(int)
    assert (np.diff(rows) > 0).all()
    assert not far[126:, :, 3].any()


def test_each_object_has_a_colour(server, ids):
    assert ask_json(server, "map.json")["objects"]
    near = tile(server, "objects/0/0/0.png")
    part = ids[:256, :256]
    assert not near[part % 7 == 0].any(), "no object"
    colours = {tuple(near[part == i][0]) for i in np.unique(part) if i % 7}
    assert len(colours) == len([i for i in np.unique(part) if i % 7])
    assert all((near[part == i] == near[part == i][0]).all() for i in (1, 2, 11))
    half = tile(server, "objects/1/0/0.png")
    np.testing.assert_array_equal(half[:128, :128], near[1::2, 1::2])
    assert not tile(server, "objects/4/0/0.png").any(), "too far away"


def test_another_map_lies_on_the_first_ones_grid(server):
    shown = tile(server, "other/0/0/0.png")
    assert (shown[:, :250] == shown[0, 0]).all()
    assert (shown[:, 250:] == shown[0, 255]).all()
    assert (shown[0, 0] != shown[0, 255]).any()
    found = ask_json(server, "at.json?row=3&column=251")
    assert found["other"]["class"] == "class_4"
    assert found["object"] == 6
    assert ask_json(server, "at.json?row=3&column=301")["object"] == 0
    assert ask_json(server, "map.json")["other"] == "older.tif"
    assert tile(server, "other/1/0/0.png")[200, 200, 3] == 255
    assert not tile(server, "other/1/5/5.png").any()


def test_maps_that_do_not_meet_are_refused(masks, folder):
    far = folder / "far.tif"
    write_tif(
        far, np.ones((1, 9, 9), "u1"), transform=HERE @ Affine.translation(5000, 0)
    )
    with pytest.raises(MasksError, match=r"far\.tif does not overlap the map"):
        view(masks, raster=False, beside=far)


def test_a_basemap_is_put_onto_the_grid_by_this_machine(server, tiles):
    asked = tiles[1]
    asked.clear()
    page = ask(server, "map.json")[1].decode()
    assert json.loads(page)["basemap"] == "127.0.0.1"
    assert "secret-of-ours" not in page, "the browser asks nobody but us"
    shown = tile(server, "basemap/0/0/0.png")
    assert (shown == (10, 200, 30, 255)).all()
    path, agent = asked[0]
    zoom, x, _ = (int(part.split(".")[0]) for part in path.split("/")[1:4])
    assert agent.startswith("geoseg/")
    # The map's corner is at 14.73 E, 49.29 N, in pixels of 10 m.
    assert zoom in (13, 14)
    assert x * 360 / 2**zoom - 180 == pytest.approx(14.73, abs=0.1)
    before = len(asked)
    tile(server, "basemap/0/0/0.png")
    assert len(asked) == before, "asked once"
    assert (tile(server, "basemap/0/-1/-2.png") == (10, 200, 30, 255)).all(), "beyond"
    assert ask(server, "tiles/classes/0/-1/0.png")[0] == 404


def test_basemaps_that_fail(server, tiles, masks):
    grid = open_masks(masks).grid
    gone = open_basemap(f"{tiles[0]}/missing/{{z}}/{{x}}/{{y}}", grid)
    assert not np.asarray(Pillow.open(io.BytesIO(gone.tile(0, 0, 0)))).any()
    assert gone.problem == "", "beyond what a server has is nothing"
    dead = open_basemap("http://127.0.0.1:9/{z}/{x}/{y}", grid)
    assert not np.asarray(Pillow.open(io.BytesIO(dead.tile(0, 0, 0)))).any()
    assert "127.0.0.1 does not send the basemap" in dead.problem
    for url, why in (
        ("file:///etc/{z}/{x}/{y}", "https://"),
        ("https://a.org/tiles", r"\{z\}, \{x\} and \{y\}"),
    ):
        with pytest.raises(GeosegError, match=why):
            open_basemap(url, grid)
    with pytest.raises(GeosegError, match="without a CRS"):
        open_basemap("https://a.org/{z}/{x}/{y}", Grid(
            crs=None, transform=HERE, height=9, width=9
        ))  # fmt: skip


def test_a_wms_is_asked_for_the_same_tiles():
    url = tile_url("https://a.org/wms?map=b&LAYERS=roads", 3, 2, 1)
    asked = {k: v[0] for k, v in parse_qs(urlsplit(url).query).items()}
    assert asked["layers"] == "roads"
    assert asked["map"] == "b"
    assert (asked["srs"], asked["width"]) == ("EPSG:3857", "256")
    world = mercator(3)
    left, bottom, right, top = map(float, asked["bbox"].split(","))
    corners = world.transform @ (512, 256), world.transform @ (768, 512)
    assert (left, top, right, bottom) == pytest.approx((*corners[0], *corners[1]))
    newer = tile_url("https://a.org/wms?layers=roads&version=1.3.0", 3, 2, 1)
    assert "crs=EPSG" in newer


# ------------------------------------------------------------------------- names


@pytest.fixture
def own(tmp_path, make_store):
    rows, columns = np.mgrid[:300, :300]
    labels = (rows // 60 + columns // 70) % 3
    return make_store(tmp_path / "own.zarr", labels.astype("u1"), names=["a", "b", "c"])


def test_classes_are_named_in_the_store(own):
    with view(own.path, raster=False) as running:
        row = {"value": 1, "name": " open sea ", "color": "#0a0b0c"}
        table = ask_json(running, "class.json", row)
        assert {"value": 1, "name": "open sea", "color": "#0A0B0C"} in table
        assert ask_json(running, "map.json")["classes"] == table
        shown = tile(running, "classes/0/0/0.png")
        assert (shown[0, 100, :3] == (10, 11, 12)).all()
        assert [c.name for c in open_masks(own.path).classes] == ["a", "open sea", "c"]
        for wrong in (
            {"value": 1, "name": "c", "color": "#000000"}, {"value": 9}, [], "x",
            {"value": 1, "name": "d", "color": "red"}, {"value": 1, "name": "x" * 3000},
        ):  # fmt: skip
            assert ask(running, "class.json", wrong)[0] == 422, wrong
        assert [c.name for c in open_masks(own.path).classes] == ["a", "open sea", "c"]
        assert ask(running, "class.json")[0] == 405, "GET changes nothing"


def test_nobody_else_names_classes(own):
    """Other pages of a browser may not write, even where they could look."""
    with view(own.path, raster=False) as running:
        bare = f"http://127.0.0.1:{urlsplit(running.url).port}/class.json"
        body = json.dumps({"value": 1, "name": "taken", "color": "#000000"}).encode()
        looks = 405 if sys.platform == "linux" else 403  # who started it may look
        for headers, code in (({}, looks), ({"Sec-Fetch-Site": "cross-site"}, 403)):
            request = urllib.request.Request(bare, data=body, headers=headers)
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request, timeout=20)
            assert caught.value.code == code
    assert open_masks(own.path).classes[1].name == "b"


def test_maps_of_other_tools_keep_their_names(folder):
    with view(folder / "older.tif", raster=False) as running:
        assert not ask_json(running, "map.json")["named"]
        status, said = ask(running, "class.json", {"value": 3, "name": "x"})
    assert status == 422
    assert "masks that are complete" in said.decode()


# ------------------------------------------------------------------ in the browser


def open_page(browser, server, link=""):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": False},
    )
    browser.get("about:blank")
    browser.get(server.url + link)
    until(lambda: browser.execute_script("return document.body.dataset.ready"))


def choose(browser, name, value):
    browser.execute_script(
        "const s = document.getElementById(arguments[0]); s.value = arguments[1];"
        "s.dispatchEvent(new Event('change'))",
        name,
        value,
    )


def pixel(browser, x, y):
    picture = Pillow.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    return picture.getpixel((x, y))


def test_two_maps_follow_each_other(browser, server):
    open_page(browser, server)
    assert "side=other" in browser.current_url, "asked for by --beside"
    legend = browser.find_element("id", "side-legend")
    assert legend.text.splitlines() == ["Classes of older.tif", "class_3", "class_4"]
    keys = browser.find_element("id", "keys").text
    assert "o objects, b basemap, d two maps" in keys
    assert "confidence" not in keys, "there is none here"
    views = (
        "return [map, twin].map(m => [m.getCenter().lat, m.getCenter().lng,"
        " m.getZoom()].map(n => Math.round(n * 2)))"
    )
    here, there = browser.execute_script(views)
    assert np.abs(np.subtract(here, there)).max() <= 1, "by less than a pixel"
    browser.execute_script("map.setView([-200, 100], 1, {animate: false})")
    here, there = browser.execute_script(views)
    assert here == there == [-400, 200, 2]
    browser.execute_script("twin.panBy([40, 20], {animate: false})")
    here, there = browser.execute_script(views)
    assert here == there == [-420, 240, 2]
    # Where all of it is seen, all of it is seen beside another map, and alone again.
    seen = "return map.getBounds().contains(everything()) && map.getSize().x"
    browser.find_element("tag name", "body").send_keys("0")
    half = browser.execute_script(seen)
    assert 0 < half <= 504, "the open panel covers neither map"
    browser.find_element("id", "two").click()
    alone = browser.execute_script(seen)
    assert alone == 1280
    browser.find_element("id", "two").click()
    assert browser.execute_script(seen) == half
    choose(browser, "side", "objects")
    assert "side=objects" in browser.current_url
    assert not legend.is_displayed()
    browser.find_element("id", "two").click()
    assert browser.execute_script("return twin === null")
    assert "side=" not in browser.current_url
    open_page(browser, server, "#z=0&row=250&column=250&side=image")
    assert browser.execute_script("return twinTiles.map(t => t.options.name)") == [
        "image"
    ]
    assert browser.get_log("browser") == []


def test_bands_and_contrast_are_chosen_and_stand_in_the_link(browser, server):
    link = "#z=0&row=250&column=250&layers=image"
    open_page(browser, server, link)
    names = browser.execute_script(
        "return [...byId('preset').options].map(o => o.text)"
    )
    assert names == ["Own choice", "Natural colour", "False colour, NIR"]
    choose(browser, "preset", "4,1,2")
    assert "bands=4,1,2" in browser.current_url
    choose(browser, "band-red", "1")
    assert "bands=1,1,2" in browser.current_url
    browser.execute_script(
        "arguments[0].click()", browser.find_element("id", "stretch")
    )
    until(lambda: "low=" in browser.current_url)
    until(lambda: browser.execute_script("return byId('cut').value") == "")
    for name in ("band-red", "band-green", "band-blue"):
        choose(browser, name, "2")
    assert "bands=2&" in browser.current_url + "&"
    assert "low=" not in browser.current_url
    # Black up to a column, white from the next.
    open_page(browser, server, f"{link}&bands=2&low=240&high=241")
    until(lambda: pixel(browser, 560, 400) == (0, 0, 0))
    until(lambda: pixel(browser, 720, 400) == (255, 255, 255))
    assert browser.get_log("browser") == []


def test_a_class_is_named_by_clicking(browser, own):
    with view(own.path, raster=False) as running:
        open_page(browser, running, "#z=1&row=30&column=30&opacity=100")
        browser.find_element("css selector", "#classes li button.edit").click()
        form = browser.find_element("css selector", "#classes form")
        browser.execute_script(
            "document.querySelector('#classes [type=color]').value = '#123456'"
        )
        name = form.find_element("css selector", "[type=text]")
        until(
            lambda: (
                browser.execute_script("return document.activeElement.type") == "text"
            )
        )
        name.clear()
        name.send_keys("deep water\n")
        until(lambda: open_masks(own.path).classes[0].name == "deep water")
        legend = (
            "return [...document.querySelectorAll('#classes li span')]"
            ".map(e => e.textContent)"
        )
        until(lambda: browser.execute_script(legend) == ["deep water", "b", "c"])
        until(lambda: pixel(browser, 400, 400) == (0x12, 0x34, 0x56))
        # A name that is taken is refused in words.
        browser.find_element("css selector", "#classes li button.edit").click()
        name = browser.find_element("css selector", "#classes form [type=text]")
        until(
            lambda: (
                browser.execute_script("return document.activeElement.type") == "text"
            )
        )
        name.clear()
        name.send_keys("b\n")
        until(lambda: "more than once" in browser.find_element("id", "notice").text)
    assert [c.name for c in open_masks(own.path).classes] == ["deep water", "b", "c"]
