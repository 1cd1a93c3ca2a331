"""Rasters on a server: the same pixels as on a disk, or an error; several at once."""

import http.server
import re
import threading
from contextlib import suppress
from itertools import count

import numpy as np
import pytest
from tifs import write_tif

import geoseg.rasters.tiles
from geoseg.core.grid import Window
from geoseg.errors import RasterError
from geoseg.rasters.addresses import is_remote
from geoseg.rasters.open import open_source
from geoseg.rasters.tiles import TileCache

SIDE = 1024
LAYOUTS = {
    "tiles": {"tiled": True, "blockxsize": 128, "blockysize": 128},
    "bands": {
        "tiled": True,
        "blockxsize": 128,
        "blockysize": 128,
        "interleave": "band",
    },
    "strips": {"blockysize": 1},
}


class Server(http.server.ThreadingHTTPServer):
    """Answers questions for parts of files; refuses some of them when told to."""

    daemon_threads = True

    def __init__(self, folder):
        self.folder, self.refused = folder, 0
        self.numbers, self.lock = count(1), threading.Lock()
        self.now = self.most = 0
        self.several = threading.Event()
        super().__init__(("127.0.0.1", 0), Parts)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Parts(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, data=b"", length=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)

    def file(self):
        return self.server.folder / self.path.lstrip("/").partition("?")[0]

    def do_HEAD(self):
        found = self.file().is_file()
        length = self.file().stat().st_size if found else 0
        self.answer(200 if found else 404, length=length)

    def do_GET(self):
        server = self.server
        if not self.file().is_file():
            self.answer(404)
            return
        data = self.file().read_bytes()
        asked = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(asked[1]), int(asked[2])) if asked else (0, len(data))
        with server.lock:
            server.now += 1
            server.most = max(server.most, server.now)
            if server.most > 1:
                server.several.set()
        if first and not server.refused:
            server.several.wait(0.2)  # so that others can come meanwhile
        with server.lock:
            server.now -= 1
        if server.refused and first and next(server.numbers) % server.refused == 0:
            self.answer(403)
            return
        part = data[first : last + 1]
        place = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
        self.answer(206, part, Content_Range=place)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def pixels(folder):
    values = np.random.default_rng(0).integers(1, 9000, (3, SIDE, SIDE), np.uint16)
    how = {"nodata": 0, "compress": "deflate", "predictor": 2}
    for name, layout in LAYOUTS.items():
        write_tif(folder / f"{name}.tif", values, **how, **layout)
    return values


@pytest.fixture
def server(folder, pixels, monkeypatch):
    cache = TileCache(geoseg.rasters.tiles.CACHE_BYTES)
    monkeypatch.setattr(geoseg.rasters.tiles, "_CACHE", cache)
    with Server(folder) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def windows(longest=200):
    draw = np.random.default_rng(1)
    for _ in range(8):
        y, x = draw.integers(0, SIDE - longest, 2).tolist()
        height, width = draw.integers(longest // 3, longest, 2).tolist()
        yield Window(y=y, x=x, height=height, width=width)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_far_is_read_as_what_is_near(server, pixels, layout):
    source = open_source(f"{server.url}/{layout}.tif")
    for window in windows():
        values, valid = source.read(window)
        assert (values == pixels[:, *window.slices]).all()
        assert valid.all()


def test_parts_of_a_window_are_asked_for_side_by_side(server, pixels):
    source = open_source(f"{server.url}/tiles.tif?once")
    source.read(Window(y=0, x=0, height=SIDE, width=SIDE))
    assert server.most > 1


def test_a_refused_part_is_an_error(server, pixels):
    path = f"{server.url}/tiles.tif?refused"
    source = open_source(path)
    server.refused = 1
    with pytest.raises(
        RasterError, match=re.escape(f"cannot read {server.url}/tiles.tif")
    ):
        source.read(Window(y=0, x=0, height=SIDE, width=SIDE))


def test_a_file_here_that_names_one_there_hides_no_error(server, pixels, tmp_path):
    """GDAL's read-ahead, in several threads, would give zeros instead."""
    bands = "".join(
        f'<VRTRasterBand dataType="UInt16" band="{n}"><SimpleSource><SourceFilename>'
        f"/vsicurl/{server.url}/tiles.tif</SourceFilename><SourceBand>{n}</SourceBand>"
        "</SimpleSource></VRTRasterBand>"
        for n in (1, 2, 3)
    )
    path = tmp_path / "far.vrt"
    path.write_text(
        f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}"><SRS>EPSG:32633</SRS>'
        f"<GeoTransform>500000,10,0,5000000,0,-10</GeoTransform>{bands}</VRTDataset>"
    )
    source = open_source(str(path), trust=[f"127.0.0.1:{server.server_port}"])
    server.refused = 3
    for window in windows(900):
        with suppress(RasterError):
            values, _ = source.read(window)
            assert (values == pixels[:, *window.slices]).all()


@pytest.mark.parametrize(
    ("path", "remote"),
    [
        ("/vsizip//vsicurl/https://host/a.zip/b.tif", True),
        ("/vsizip/{/vsis3/bucket/a.zip}/b.tif", True),
        ("/vsizip/folder/a.zip/b.tif", False),
        ("/data/a.tif", False),
    ],
)
def test_archives_far_away_are_far_away(path, remote):
    assert is_remote(path) == remote
