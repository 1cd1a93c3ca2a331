"""The live map: tiles that are the map, a page that can be clicked, only for us."""

import io
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from affine import Affine
from PIL import Image as Pillow
from rasterio.transform import array_bounds
from rasterio.warp import Resampling, calculate_default_transform, reproject
from waiting import until

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from tifs import write_tif

from geoseg.cli import run
from geoseg.core.grid import Window
from geoseg.errors import GeosegError
from geoseg.maps.halving import halve_classes
from geoseg.maps.overviews import announce, create_levels
from geoseg.vector.vectorize import vectorize
from geoseg.viz.regions import open_regions
from geoseg.viz.view import view

NODATA = 255


def get(server, path, **headers):
    request = urllib.request.Request(server.url + path, headers=headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read()


def get_json(server, path):
    return json.loads(get(server, path))


def tile(server, path):
    picture = Pillow.open(io.BytesIO(get(server, f"tiles/{path}.png")))
    return np.asarray(picture.convert("RGBA"))


def coloured(values, classes):
    table = np.zeros((256, 4), np.uint8)
    for c in classes:
        table[c.value] = (*c.rgb, 255)
    return table[values]


@pytest.fixture(scope="module")
def labels():
    rows, columns = np.mgrid[:1300, :1500]
    values = ((rows // 90 + columns // 110) % 4).astype(np.uint8)
    values[:, 1400:] = NODATA
    return values


@pytest.fixture(scope="module")
def image(labels, tmp_path_factory):
    """The image, in another CRS and on another grid than the masks."""
    path = tmp_path_factory.mktemp("image") / "scene.tif"
    here = Affine(10, 0, 480_000, 0, -10, 5_460_000)
    bounds = array_bounds(1300, 1500, here)
    there, width, height = calculate_default_transform(
        "EPSG:32633", "EPSG:4326", 1500, 1300, *bounds
    )
    out = np.zeros((3, height, width), np.uint16)
    for band in range(3):
        reproject(
            (labels.astype(np.uint16) % 5) * 500 + 100 * (band + 1), out[band],
            src_transform=here, src_crs="EPSG:32633", dst_transform=there,
            dst_crs="EPSG:4326", resampling=Resampling.nearest,
        )  # fmt: skip
    return write_tif(
        path,
        out,
        names=("red", "green", "blue"),
        nodata=0,
        dtype="uint16",
        crs="EPSG:4326",
        transform=there,
    )


@pytest.fixture(scope="module")
def masks(labels, make_store, tmp_path_factory):
    confidence = np.where(labels == NODATA, 255, 127).astype(np.uint8)
    path = tmp_path_factory.mktemp("view") / "land.zarr"
    names = ["lake", "wood", "field", "<b>bog</b>"]
    return make_store(path, labels, confidence, names=names)


@pytest.fixture(scope="module")
def server(masks, image, tmp_path_factory):
    regions = tmp_path_factory.mktemp("regions") / "regions.gpkg"
    vectorize(masks, regions)
    with view(masks, raster=image, regions=regions) as running:
        until(lambda: get_json(running, "state.json")["image"]["share"] == 1)
        until(lambda: get_json(running, "state.json")["classes"]["share"] == 1)
        yield running


def test_tiles_are_the_map(server, masks, labels):
    full = tile(server, "classes/0/1/2")
    part = labels[512:768, 256:512]
    np.testing.assert_array_equal(full, coloured(part, masks.classes))
    half = halve_classes(labels, NODATA)[256:512, :256]
    got = tile(server, "classes/1/0/1")
    np.testing.assert_array_equal(got, coloured(half, masks.classes))
    beyond = tile(server, "classes/0/9/9")
    assert not beyond[..., 3].any()


def test_classes_can_be_hidden(server, masks, labels):
    data = get(server, "tiles/classes/0/0/0.png?hide=1,3")
    got = np.asarray(Pillow.open(io.BytesIO(data)).convert("RGBA"))
    part = np.where(np.isin(labels[:256, :256], [1, 3]), NODATA, labels[:256, :256])
    np.testing.assert_array_equal(got, coloured(part, masks.classes))


def test_the_image_lies_under_the_map_at_every_zoom(server, labels):
    """Class borders are borders of the image, though it has another CRS."""
    for z in (0, 1, 2):
        step = 1 << z
        picture = tile(server, f"image/{z}/0/0").astype(int)
        under = labels[: 256 * step : step, : 256 * step : step]
        height, width = under.shape
        grey = picture[:height, :width, 0]
        levels = [np.median(grey[under == v]) for v in range(4)]
        assert levels == sorted(levels)
        assert len(set(levels)) == 4
        near = np.argmin(np.abs(grey[..., None] - np.array(levels)), axis=-1)
        valid = under != NODATA
        assert (near == under)[valid].mean() > 0.97


def test_what_is_at_a_place(server, masks, labels):
    found = get_json(server, "at.json?row=700.5&column=333.2")
    name = masks.classes[labels[700, 333]].name
    assert found["class"] == name
    assert found["confidence"] == pytest.approx(0.5)
    assert found["region"]["properties"]["class_name"] == name
    assert found["place"]["x"] == pytest.approx(480_000 + 3332)
    assert found["place"]["lat"] == pytest.approx(49.2, abs=0.2)
    blank = get_json(server, "at.json?row=3&column=1450")
    assert blank["class"] is None
    assert blank["region"] is None
    assert get_json(server, "at.json?row=-1&column=3") == {"inside": False}


def test_places_as_people_write_them(server, masks):
    from urllib.parse import quote

    def goto(text):
        return get_json(server, f"goto.json?place={quote(text)}")

    grid = masks.grid
    x, y = grid.transform @ (300, 200)
    at = get_json(server, "place.json?row=200&column=300")
    assert (at["x"], at["y"]) == (x, y)
    for text in (f"{at['lat']}, {at['lon']}", f"{at['lat']} {at['lon']}", f"{x}, {y}"):
        found = goto(text)
        assert (found["row"], found["column"]) == pytest.approx((200, 300), abs=1e-3)
    for text in ("1, 2", "home", "", "1, 2, 3"):
        with pytest.raises(urllib.error.HTTPError) as error:
            goto(text)
        assert error.value.code == 422
        assert "place" in error.value.read().decode() or text == "1, 2"


def test_polygons_of_what_is_seen(server, monkeypatch):
    box = "left=0&top=0&right=400&bottom=300&pixel=1"
    found = get_json(server, f"regions.json?{box}")
    assert not found["more"]
    xs = [x for f in found["features"] for x, _ in f["geometry"]["coordinates"][0]]
    assert 4 <= len(found["features"]) <= 40
    assert max(xs) < 900, "only what is near"
    assert any(x == 110 for x in xs), "in the map's pixels"
    monkeypatch.setattr("geoseg.viz.regions.MOST", 3)
    many = get_json(server, f"regions.json?{box}")
    assert many == {"type": "FeatureCollection", "features": [], "more": True}


def test_bad_requests_are_answered_in_one_line(server):
    for path in ("at.json", "at.json?row=x&column=1", "regions.json?left=nan"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(server, path)
        assert caught.value.code == 422
        assert "numbers" in json.loads(caught.value.read())["error"]
    for path in ("static/../app.py", "static/%2e%2e/app.py", "tiles/x/0/0/0.png"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(server, path)
        assert caught.value.code == 404


def bare(server, path="map.json"):
    """Return an address without the secret."""
    return f"http://127.0.0.1:{urlsplit(server.url).port}/{path}"


def status(address, **headers):
    request = urllib.request.Request(address, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("ending", ["parquet", "fgb", "geojson", "shp"])
def test_polygons_of_every_file_that_vectorize_writes(masks, tmp_path, ending):
    regions = vectorize(masks, tmp_path / f"regions.{ending}")
    found = open_regions(regions, masks.grid).at(30, 40)
    assert found is not None
    assert found["properties"]["class_name"] == "lake"


def test_only_who_has_the_link_or_has_started_it_can_look(server, tmp_path):
    assert status(server.url + "map.json") == 200
    assert status(server.url + "map.json", Host="hub.example.org") == 200, "a proxy"
    assert status(bare(server, "wrong/map.json")) in (403, 404)
    linux = Path("/proc/net/tcp").exists()
    assert status(bare(server)) == (200 if linux else 403)
    assert status(bare(server), Host="evil.example") == 403
    other_page = {"Sec-Fetch-Site": "cross-site"}
    assert status(bare(server), **other_page) == 403
    port = urlsplit(server.url).port
    for address in {a[4][0] for a in socket.getaddrinfo(socket.gethostname(), None)}:
        if not address.startswith("127.") and ":" not in address:
            with socket.socket() as s:
                s.settimeout(1)
                assert s.connect_ex((address, port)) != 0
    with pytest.raises(GeosegError, match=f"port {port} cannot be used"):
        view(server.layers.classes.reader, raster=False, port=port)


@pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can be another"
)
def test_another_user_of_the_machine_needs_the_link(server):
    code = (
        "import sys, urllib.request, urllib.error\n"
        "for url in sys.argv[1:]:\n"
        "    try: print(urllib.request.urlopen(url, timeout=20).status)\n"
        "    except urllib.error.HTTPError as error: print(error.code)\n"
    )
    asked = [bare(server), bare(server, ""), server.url + "map.json"]
    answer = subprocess.run(
        ["python3", "-I", "-c", code, *asked], user=65534, cwd="/",
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert answer.stdout.split() == ["403", "403", "200"]


ODD = (
    "tiles/classes/0/99999999999999999999999/0.png", "tiles/classes/99999999/0/0.png",
    "tiles/classes/24/2147483648/2147483648.png", "tiles/classes/-1/0/0.png",
    "tiles/classes/0/9223372036854775807/0.png", "tiles/none/0/0/0.png",
    f"tiles/classes/0/{'9' * 5000}/0.png", "tiles/classes/0/0/%C2%B2.png",
    "tiles/classes/0/0/0.png?hide=%C2%B2", "at.json?row=0&column=0&row=5",
    f"tiles/classes/0/0/0.png?hide={'9' * 5000}", "at.json?row=1e308&column=1e308",
    "regions.json?left=-1e308&top=-1e308&right=1e308&bottom=1e308&pixel=1",
    "regions.json?left=0&top=0&right=10&bottom=10&pixel=1e308",
    "regions.json?left=0&top=0&right=10&bottom=10&pixel=-5",
    "regions.json?left=10&top=10&right=0&bottom=0&pixel=1",
    "static/%00", "static/%2fetc%2fpasswd", "%ff%fe", "static",
)  # fmt: skip


@pytest.mark.parametrize("path", ODD, ids=lambda p: p[:40])
def test_odd_requests_are_no_faults_of_the_server(server, path):
    assert status(server.url + path) < 500


def test_overviews_are_kept_in_the_store(server, masks):
    assert masks.attributes()["multiscales"]["layout"][1]["derived_from"] == "classes"
    assert server.layers.classes.pyramid.levels[0].path.startswith(masks.path)


@pytest.mark.filterwarnings("ignore:.*so is what is made of it:UserWarning")
def test_a_store_that_is_being_written(make_store, tmp_path, monkeypatch):
    monkeypatch.setattr("geoseg.viz.view.classes_layer._POLL", 0.05)
    empty = np.full((1200, 1200), NODATA, np.uint8)
    masks = make_store(tmp_path / "m.zarr", empty, chunk=600, done=False)
    with view(masks, partial=True) as server:
        assert get_json(server, "state.json")["blocks"] == [0, 4]
        assert not tile(server, "classes/2/0/0").any()
        window = Window(y=0, x=600, height=600, width=600)
        masks.write("classes", window, np.ones((600, 600), np.uint8))
        masks.mark_done((0, 1), {})
        before = get_json(server, "state.json")
        assert before["blocks"] == [1, 4]
        until(lambda: tile(server, "classes/2/0/0").max() > 0)
        until(lambda: get_json(server, "state.json")["classes"]["version"] == 1)
        assert get_json(server, "state.json")["problem"] == ""
        time.sleep(0.2)
        assert get_json(server, "state.json")["classes"]["version"] == 1
    assert not list(Path(masks.path).glob("overview*")), "nothing is put into it"


def test_a_billion_pixels_open_at_once(make_store, tmp_path, monkeypatch):
    """Overviews are read, so the first picture costs what any picture costs."""
    masks = make_store(tmp_path / "m.zarr", np.zeros((4, 4), np.uint8), done=False)
    from dataclasses import replace

    from geoseg.maps.group import create_group
    from geoseg.maps.state import write_record
    from geoseg.maps.storage import Storage
    from geoseg.maps.store import open_masks

    grid = replace(masks.grid, height=32_768, width=32_768)
    path = str(tmp_path / "big.zarr")
    create_group(
        path, grid=grid, classes=masks.classes, chunk=1024, arrays=("classes",),
        provenance={"run": "big"},
    )  # fmt: skip
    record = {"settings": {}, "block": 1024, "run": "big", "complete": True}
    write_record(Storage(path), record)
    big = open_masks(path)
    levels = create_levels(big, path)
    coarsest = levels[-1]
    values = np.full((coarsest.grid.height, coarsest.grid.width), 2, np.uint8)
    coarsest.patch("classes", coarsest.grid.window, values)
    announce(big, levels)
    areas = []
    read = type(big).read
    monkeypatch.setattr(
        type(big), "read",
        lambda self, name, w: areas.append(w.area) or read(self, name, w),
    )  # fmt: skip
    begun = time.process_time()  # the server is a thread of this process
    with view(path, raster=False) as server:
        get(server, "map.json")
        top = tile(server, "classes/6/0/0")
        seconds = time.process_time() - begun
        np.testing.assert_array_equal(top[:, :, 3], 255)
        assert sum(areas) <= 512 * 512
        for z, x, y in ((6, 1, 1), (3, 7, 5), (0, 64, 99)):
            areas.clear()
            tile(server, f"classes/{z}/{x}/{y}")
            assert sum(areas) <= 512 * 512
    assert seconds < 2


def test_another_tools_raster_without_a_crs(tmp_path):
    path = tmp_path / "theirs.tif"
    values = np.kron(np.arange(16).reshape(4, 4), np.ones((150, 150))).astype("u1")
    write_tif(
        path, values, dtype="uint8", nodata=0, transform=Affine.scale(2, 1), crs=None
    )
    with view(path) as server:
        facts = get_json(server, "map.json")
        assert facts["metres"] is None
        assert not facts["image"]
        assert {"value": 5, "name": "class_5", "color": "#56B4E9"} in facts["classes"]
        shown = tile(server, "classes/0/0/0")
        assert not shown[:150, :150, 3].any()
        assert shown[:150, 150:, 3].all()
        assert get_json(server, "at.json?row=200&column=200")["value"] == 5
        assert set(get_json(server, "state.json")["seen"]) >= {1, 4, 5}


def test_the_command_line(tmp_path, capsys):
    assert run(["view", str(tmp_path / "no.zarr"), "--no-browser"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert run(["view", "--help"]) == 0
    assert "Ctrl-C" in capsys.readouterr().out


# ------------------------------------------------------------------ in the browser


def opened(browser, server, link="", width=1280, height=800, *, mobile=False, ratio=1):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {
            "width": width, "height": height, "deviceScaleFactor": ratio,
            "mobile": mobile,
        },
    )  # fmt: skip
    browser.get("about:blank")
    browser.get(server.url + link)
    until(lambda: browser.execute_script("return document.body.dataset.ready"))
    settled(browser)


def settled(browser):
    script = (
        "return [...document.querySelectorAll('img.leaflet-tile')]"
        ".every(i => i.complete)"
    )
    until(lambda: browser.execute_script(script))


def look(browser):
    return np.asarray(Pillow.open(io.BytesIO(browser.get_screenshot_as_png())))


def count(browser, color, *, left=0, right=1000):
    """Count pixels of the screen that have a colour exactly."""
    rgb = tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))
    return int((look(browser)[:, left:right, :3] == rgb).all(-1).sum())


def click(browser, name):
    browser.execute_script("arguments[0].click()", browser.find_element("id", name))
    settled(browser)


def test_clicking_through_the_map(browser, server, masks):
    from selenium.webdriver.common.action_chains import ActionChains

    opened(browser, server, "#z=0&row=600&column=600&opacity=100")
    lake, wood = masks.classes[0].color, masks.classes[1].color
    assert count(browser, lake) > 5000
    assert count(browser, wood) > 5000
    # Hide a class: what is seen then is the image.
    box = browser.find_element("css selector", "#classes input[data-value='1']")
    box.click()
    settled(browser)
    until(lambda: count(browser, wood) < 200)
    assert "hide=1" in browser.current_url
    assert count(browser, lake) > 5000
    click(browser, "none")
    until(lambda: count(browser, lake) < 200)
    click(browser, "all")
    until(lambda: count(browser, lake) > 5000)
    # Swipe: the left part shows the image only.
    click(browser, "swipe-on")
    until(lambda: count(browser, lake, right=400) < 50)
    assert count(browser, lake, left=600) > 1000
    click(browser, "swipe-on")
    # Opacity.
    browser.execute_script(
        "const o = document.getElementById('opacity'); o.value = 0;"
        "o.dispatchEvent(new Event('input'))"
    )
    until(lambda: count(browser, lake) < 50)
    assert "opacity=0" in browser.current_url
    # Ask.
    where = browser.find_element("id", "map")
    ActionChains(browser).move_to_element_with_offset(where, 30, 40).click().perform()
    until(lambda: browser.find_elements("css selector", ".leaflet-popup-content"))
    said = browser.find_element("css selector", ".leaflet-popup-content").text
    # The middle of the screen is row 600, column 600.
    row, column = 640, 630
    assert f"{row}, {column}" in said
    assert "confidence\n50.0 %" in said
    assert "area_m2" in said
    assert browser.get_log("browser") == []


def test_cursor_go_to_keys_and_picture(browser, server, masks, tmp_path):
    from selenium.webdriver.common.action_chains import ActionChains

    opened(browser, server, "#z=0&row=600&column=600&opacity=100")
    where = browser.find_element("id", "map")
    ActionChains(browser).move_to_element_with_offset(where, 30, 40).perform()
    cursor = browser.find_element("id", "cursor")
    x, y = masks.grid.transform @ (630, 640)
    until(lambda: "°" in cursor.text)
    assert cursor.text.startswith(f"{x:.0f}, {y:.0f}")
    # Go to a place, by hand and by a link.
    at = get_json(server, "place.json?row=900&column=800")
    place = browser.find_element("id", "place")
    place.send_keys(f"{at['lat']}, {at['lon']}\n")
    until(lambda: "row=900&column=800" in browser.current_url)
    opened(browser, server, f"#z=1&lat={at['lat']}&lon={at['lon']}")
    until(lambda: "z=1&row=900&column=800" in browser.current_url)
    # Outlines are thin when seen from far away.
    weight = "map.setZoom(arguments[0], {animate: false}); "
    weight += "return layers.regions.options.style().weight"
    assert browser.execute_script(weight, -2) < browser.execute_script(weight, 1)
    # Keys.
    assert "classes" in browser.current_url
    ActionChains(browser).send_keys("c").perform()
    until(lambda: "layers=image,regions" in browser.current_url)
    ActionChains(browser).send_keys("c").perform()
    until(lambda: "classes" in browser.current_url)
    # The picture is what is seen.
    opened(browser, server, "#z=0&row=600&column=600&opacity=100&layers=classes")
    browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior",
        {"behavior": "allow", "downloadPath": str(tmp_path)},
    )
    click(browser, "save")
    until(lambda: list(tmp_path.glob("*.png")))
    (file,) = tmp_path.glob("*.png")
    saved, seen = np.asarray(Pillow.open(file).convert("RGB")), look(browser)[..., :3]
    assert saved.shape == seen.shape
    same = (saved == seen).all(-1)
    assert same[100:600, 100:850].mean() > 0.99
    # With its legend, over the map at the right.
    legend = saved[12:112, 850:]
    assert all((legend == c.rgb).all(-1).any() for c in masks.classes)
    assert (legend == 255).all(-1).sum() < 3000 < (legend > 225).all(-1).sum()
    assert browser.get_log("browser") == []


CONTRAST = (Path(__file__).parent / "contrast.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_words_can_be_read_by_day_and_night(browser, server, mode):
    feature = {"name": "prefers-color-scheme", "value": mode}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    try:
        opened(browser, server, "#z=0&row=600&column=600")
        browser.execute_script("map.fire('click', {latlng: L.latLng(-600, 600)})")
        until(lambda: browser.find_elements("css selector", ".leaflet-popup-content"))
        assert browser.execute_script(CONTRAST) == []
        ground = browser.execute_script(
            "return getComputedStyle(document.getElementById('panel')).backgroundColor"
        )
        light = sum(int(n) for n in ground[4:-1].split(",")[:3]) > 380
        assert light == (mode == "light")
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_link_leads_to_the_same_view(browser, server):
    link = "#z=1&row=400&column=700&opacity=55&layers=image,classes&hide=2&swipe=0.250"
    opened(browser, server, link)
    state = browser.execute_script(
        "return [map.getZoom(), Math.round(-map.getCenter().lat),"
        " Math.round(map.getCenter().lng), state.opacity, state.swipe,"
        " [...state.hidden], [...state.layers]]"
    )
    assert state == [1, 400, 700, 55, 0.25, [2], ["image", "classes"]]
    assert not browser.find_element("id", "layer-regions").is_selected()
    browser.execute_script("map.setZoom(2, {animate: false})")
    until(lambda: "z=2&" in browser.current_url)
    for part in ("opacity=55", "hide=2", "swipe=0.250", "layers=image,classes"):
        assert part in browser.current_url
    # Nonsense in a link is left out.
    opened(browser, server, "#z=nan&opacity=900&hide=x&layers=none,classes")
    assert browser.execute_script("return [...state.layers]") == ["classes"]
    assert browser.get_log("browser") == []


def test_on_a_phone_and_with_names_that_look_like_html(browser, server):
    opened(browser, server, width=390, height=800, mobile=True)
    panel = browser.find_element("id", "panel")
    assert panel.get_attribute("open") is None, "the map first"
    box = browser.execute_script(
        "const r = arguments[0].getBoundingClientRect(); return [r.left, r.right]",
        panel,
    )
    assert box[0] >= 0
    assert box[1] <= 390
    panel.find_element("tag name", "summary").click()
    names = [e.text for e in browser.find_elements("css selector", "#classes label")]
    assert names == ["lake", "wood", "field", "<b>bog</b>"]
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    contrast = Path(__file__).with_name("contrast.js").read_text()
    assert browser.execute_script(contrast) == []
    unnamed = browser.execute_script(
        "return [...document.querySelectorAll('input, button')]"
        ".filter(e => !e.hidden &&"
        " !(e.labels && e.labels.length) && !e.ariaLabel && !e.textContent).length"
    )
    assert unnamed == 0
    assert browser.get_log("browser") == []


@pytest.fixture(scope="module")
def plain_map(tmp_path_factory):
    """A map of one class over an image of one value, both of many tiles."""
    folder = tmp_path_factory.mktemp("plain")
    where = {
        "crs": "EPSG:32633",
        "transform": Affine(10, 0, 480_000, 0, -10, 5_460_000),
    }
    for name, count, dtype in (("map", 1, "uint8"), ("image", 3, "uint16")):
        write_tif(
            folder / f"{name}.tif",
            np.ones((count, 1500, 1700), dtype),
            nodata=0,
            **where,
        )
    with view(folder / "map.tif", raster=folder / "image.tif") as running:
        for name in ("image", "classes"):
            until(lambda n=name: get_json(running, "state.json")[n]["share"] == 1)
        yield running


def is_of_one_colour(browser, zoom, ratio):
    """Whether the middle of the screen is, which the map covers."""
    pixels = look(browser)[..., :3]
    height, width = (n // ratio for n in pixels.shape[:2])
    high, wide = (min(0.25 * n, 0.3 * 1500 * 2**zoom) for n in (height, width))
    part = pixels[
        int((height / 2 - high) * ratio) : int((height / 2 + high) * ratio),
        int((width / 2 - wide) * ratio) : int((width / 2 + wide) * ratio),
    ]
    return part.size > 0 and (part == part[0, 0]).all()


@pytest.mark.parametrize("ratio", [1, 2])
@pytest.mark.parametrize("zoom", [-1.5, -0.5, 0.5, 1.5])
def test_no_hairlines_between_tiles_at_half_zooms(browser, plain_map, zoom, ratio):
    for layers in ("classes", "image", "image,classes"):
        link = f"#z={zoom}&row=751&column=853&opacity=60&layers={layers}"
        opened(browser, plain_map, link, ratio=ratio)
        until(lambda: is_of_one_colour(browser, zoom, ratio), 10)


def test_no_hairlines_after_zooming_by_hand(browser, plain_map):
    opened(browser, plain_map, "#z=-1&row=751&column=853&opacity=100")
    for zoom in (-0.5, 0.5, 0, 0.5, 1.5, -0.5):
        browser.execute_script(f"map.setZoom({zoom})")
        until(lambda: not browser.execute_script("return Boolean(map._animatingZoom)"))
        settled(browser)
        until(lambda z=zoom: is_of_one_colour(browser, z, 1), 10)
    browser.execute_script("map.panBy([61, 33], {animate: false})")
    settled(browser)
    until(lambda: is_of_one_colour(browser, -0.5, 1), 10)
