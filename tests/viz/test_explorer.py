"""The live map inside a notebook: shown in a frame, served until it is forgotten."""

import gc
import re
import urllib.error
import urllib.request

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

import geoseg
from geoseg.errors import GeosegError, RasterError
from geoseg.viz.explorer import browser_url


@pytest.fixture
def masks(make_store, tmp_path):
    rows, columns = np.mgrid[:300, :400]
    return make_store(
        tmp_path / "a <map>.zarr", ((rows // 50 + columns // 50) % 3).astype("u1")
    )


def answers(url):
    try:
        with urllib.request.urlopen(url + "map.json", timeout=3) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def test_it_is_shown_and_served_until_it_is_closed(masks, monkeypatch):
    shown = geoseg.explore(None, masks, height=400)
    html = shown._repr_html_()
    frame = re.search(r'<object type="text/html" data="([^"]+)"', html)
    assert 'height="400"' in html
    assert "a &lt;map&gt;.zarr" in html
    assert answers(frame[1])
    monkeypatch.setenv("VSCODE_PID", "1")
    assert f'<iframe src="{frame[1]}"' in shown._repr_html_()
    shown.close()
    assert not answers(frame[1])


def test_it_ends_when_nobody_holds_it(masks):
    shown = masks.dataset().geoseg.explore()
    url = shown.url
    assert answers(url)
    del shown
    gc.collect()
    assert not answers(url)


def test_the_frame_is_usable_in_a_browser(masks, browser, tmp_path):
    shown = geoseg.explore(masks=masks)
    page = tmp_path / "notebook.html"
    page.write_text(f"<!doctype html><title>n</title>{shown._repr_html_()}")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get(page.as_uri())
    browser.switch_to.frame(browser.find_element("tag name", "object"))
    for _ in range(200):
        if browser.execute_script("return document.body.dataset.ready"):
            break
    names = browser.find_elements("css selector", "#classes li")
    assert len(names) == 4
    browser.switch_to.default_content()
    shown.close()
    browser.get(page.as_uri())  # as one that was saved, and is read elsewhere
    still = browser.find_element("css selector", "object img")
    assert still.is_displayed()
    assert "Map of" in still.get_attribute("alt")
    browser.get_log("browser")


def test_on_a_hub_the_browser_is_elsewhere():
    url = "http://127.0.0.1:8123/secret/"
    assert browser_url(url, {}) == url
    hub = {"JUPYTERHUB_SERVICE_PREFIX": "/user/ann/"}
    assert browser_url(url, hub) == "/user/ann/proxy/8123/secret/"


def test_bad_input(masks, tmp_path):
    with pytest.raises(GeosegError, match="explore needs masks"):
        geoseg.explore("scene.tif")
    with pytest.raises(RasterError):
        geoseg.explore(tmp_path / "no.tif", masks)
    with pytest.raises(GeosegError, match="do not exist"):
        geoseg.explore(None, masks, tmp_path / "no.gpkg")
