"""Masks and rasters in an object store: a real S3 server on localhost that misbehaves.

Between geoseg and the server stands a proxy that answers 500, answers slowly, or resets
the connection, now and then and the same way every time.
"""

import http.client
import http.server
import socket
import struct
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
import small
from tifs import write_tif

import geoseg.inference.worker
from geoseg.errors import LockedError, MasksError
from geoseg.inference.workflow import run_plan
from geoseg.maps.lock import held
from geoseg.maps.state import PARTIAL
from geoseg.maps.storage import Storage
from geoseg.maps.store import open_masks
from geoseg.maps.verify import verify
from geoseg.testing import LocalModel, MemorySource, identity_card

moto_server = pytest.importorskip("moto.server")
pytest.importorskip("s3fs")


@dataclass
class Faults:
    """What goes wrong, and what passed."""

    errors: int = 0
    """Every n-th request is answered with 500."""
    resets: int = 0
    """Every n-th request ends in a reset connection."""
    slow: float = 0.0
    """Seconds before an answer."""
    count: int = 0
    signed: int = 0
    """Requests that came with credentials."""
    told: list[str] = field(default_factory=list)


class Proxy(http.server.ThreadingHTTPServer):
    """Passes requests on to a server, but for the faults."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        self.port, self.faults, self.lock = port, Faults(), threading.Lock()
        super().__init__(("127.0.0.1", 0), Pass)

    def handle_error(self, *_):
        pass  # clients go away; that is the point


class Pass(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle_any(self):
        faults = self.server.faults
        with self.server.lock:
            faults.count += 1
            faults.signed += "Authorization" in self.headers
            count = faults.count
            faults.told.append(f"{self.command} {self.path}")
        body = self.body()
        time.sleep(faults.slow)
        if faults.resets and count % faults.resets == 0:
            # Close with a reset, not with an orderly end.
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            self.connection.close()
            return
        if faults.errors and count % faults.errors == 0:
            self.answer(500, {}, b"<Error><Code>InternalError</Code></Error>")
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.port)
        headers = {
            k: v
            for k, v in self.headers.items()
            if k.lower() not in {"transfer-encoding", "connection", "expect"}
        }
        headers["Content-Length"] = str(len(body))
        upstream.request(self.command, self.path, body, headers)
        got = upstream.getresponse()
        self.answer(got.status, dict(got.getheaders()), got.read())
        upstream.close()

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status, headers, body):
        self.send_response(status)
        for key, value in headers.items():
            if key.lower() not in {
                "content-length",
                "transfer-encoding",
                "connection",
                "date",
                "server",
            }:
                self.send_header(key, value)
        length = len(body)
        if self.command == "HEAD":
            length = headers.get("content-length", headers.get("Content-Length", 0))
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815


@pytest.fixture(scope="module")
def proxy():
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    _, port = server.get_host_and_port()
    proxy = Proxy(port)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    yield proxy
    proxy.shutdown()
    server.stop()


@pytest.fixture
def bucket(proxy, monkeypatch):
    """Return an empty bucket's URL; credentials and address come as they usually do."""
    import s3fs

    address = f"127.0.0.1:{proxy.server_address[1]}"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{address}",  # botocore, and with it s3fs
        "AWS_S3_ENDPOINT": address,  # GDAL
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
    }.items():
        monkeypatch.setenv(name, value)
    proxy.faults = Faults()
    s3fs.S3FileSystem.clear_instance_cache()
    fs = s3fs.S3FileSystem()
    name = f"bucket{time.monotonic_ns()}"
    fs.mkdir(name)
    yield f"s3://{name}"
    proxy.faults = Faults()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr(geoseg.inference.worker, "WAITS", (0.01, 0.05))
    # Before botocore asks again it waits; here as often, but not as long.
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda **_: 0.01)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    values = np.random.default_rng(0).random((3, 110, 100), np.float32)
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    return write_tif(str(path), values, tiled=True, blockxsize=64, blockysize=64)


def segment(source, out, progress=False, **more):
    model = LocalModel(card=identity_card(3, window=48, overlap=12))
    how = {"model": model, "block": 72, "bands": ["1", "2", "3"]}
    plan = small.make_plan(source, chunk=64, **how)
    return run_plan(plan, out=out, progress=progress, **more)


@pytest.fixture(scope="module")
def expected(scene, tmp_path_factory):
    out = tmp_path_factory.mktemp("here") / "m.zarr"
    segment(scene, out)
    masks = open_masks(str(out))
    return masks.read("classes", masks.grid.window)


def labels(out):
    masks = open_masks(out)
    return masks.read("classes", masks.grid.window)


def test_masks_in_a_bucket(scene, expected, bucket, proxy):
    out = f"{bucket}/a/m.zarr"
    masks, facts = segment(scene, out)
    assert proxy.faults.count <= 130  # of which about 40 are of its four blocks
    assert proxy.faults.signed == proxy.faults.count
    assert (labels(out) == expected).all()
    assert facts.windows == 12
    assert verify(out).whole
    names = masks.storage.names(".geoseg")
    assert names == ["copy.json", "done", "run.json"]  # no lock, no parts, no rims
    _, facts = segment(scene, out)
    assert facts.windows == 0
    assert masks.dataset()["classes"].shape == (110, 100)


def test_a_block_costs_few_requests(bucket, proxy):
    """Of halo sums and marks, each is written once, and read where it is not known."""
    values = np.random.default_rng(0).random((3, 370, 370), np.float32)
    out = f"{bucket}/m.zarr"
    masks, _ = segment(MemorySource(values=values), out)
    blocks = len(masks.done())
    assert blocks == 36
    told = proxy.faults.told
    assert sum("/.geoseg/" in request for request in told) <= 8 * blocks
    assert len(told) <= 9 * blocks + 90
    assert not any(request.startswith("GET") and "rims/" in request for request in told)
    assert verify(out).whole


@pytest.mark.parametrize("faults", [{"errors": 9}, {"resets": 9, "slow": 0.01}])
def test_a_store_that_misbehaves(scene, expected, bucket, proxy, faults):
    proxy.faults = Faults(**faults)
    out = f"{bucket}/m.zarr"
    segment(scene, out)
    assert proxy.faults.count > 60
    proxy.faults = Faults()
    assert (labels(out) == expected).all()
    assert verify(out).whole


def test_an_interrupted_run_in_a_bucket_goes_on(scene, expected, bucket):
    def stop(now):
        if now.blocks >= 1:
            raise KeyboardInterrupt

    out = f"{bucket}/m.zarr"
    with pytest.raises(KeyboardInterrupt):
        segment(scene, out, progress=stop)
    masks = open_masks(out)
    inferred = len(masks.done() | masks.marked(PARTIAL))
    assert 1 <= inferred <= 4
    segment(scene, out)
    assert (labels(out) == expected).all()


def test_other_settings_and_begun_anew_in_a_bucket(scene, expected, bucket):
    out = f"{bucket}/m.zarr"
    segment(scene, out)
    model = LocalModel(card=identity_card(3, window=48, overlap=12), bump=2.0)
    plan = small.make_plan(scene, chunk=64, model=model, block=72)
    with pytest.raises(MasksError, match="begun with other settings"):
        run_plan(plan, out=out, progress=False)
    run_plan(plan, out=out, progress=False, overwrite=True)
    assert (labels(out) != expected).any()


def test_a_lock_in_a_bucket(bucket):
    storage = Storage(f"{bucket}/m.zarr")
    with (
        held(storage, ".geoseg/lock", beat=0.1),
        pytest.raises(LockedError, match="is being written by process"),
    ):
        held(storage, ".geoseg/lock", beat=0.1).__enter__()
    with held(storage, ".geoseg/lock", beat=0.1):
        pass


def test_an_object_is_made_only_once(bucket):
    storage = Storage(f"{bucket}/x")
    assert storage.create("lock", b"one")
    assert not storage.create("lock", b"two")
    assert storage.get("lock") == b"one"


@pytest.mark.parametrize(
    ("prefix", "faults"),
    [
        ("s3://", {"errors": 5}),
        ("/vsis3/", {"errors": 5}),
        ("s3://", {"resets": 5, "slow": 0.01}),
    ],
)
def test_a_raster_in_a_bucket(scene, expected, bucket, proxy, tmp_path, prefix, faults):
    import s3fs

    s3fs.S3FileSystem().put(scene, f"{bucket}/scene.tif")
    source = f"{bucket}/scene.tif".replace("s3://", prefix)
    proxy.faults = Faults(**faults)  # GDAL tries again, too
    out = str(tmp_path / "m.zarr")
    segment(source, out)
    assert (labels(out) == expected).all()


def test_what_is_public_is_read_without_credentials(
    scene, expected, bucket, proxy, tmp_path, monkeypatch
):
    import s3fs

    fs = s3fs.S3FileSystem()
    fs.put(scene, f"{bucket}/scene.tif")
    segment(scene, f"{bucket}/m.zarr")
    for name in [bucket, *fs.find(bucket)]:
        fs.chmod(name, "public-read")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    proxy.faults = Faults()
    segment(f"{bucket}/scene.tif", str(tmp_path / "m.zarr"))
    assert (labels(str(tmp_path / "m.zarr")) == expected).all()
    assert (open_masks(f"{bucket}/m.zarr").dataset()["classes"] == expected).all()
    assert proxy.faults.count > 5
    assert proxy.faults.signed == 0


def test_polygons_of_masks_in_a_bucket(scene, bucket, tmp_path):
    import pyogrio

    from geoseg.vector.vectorize import vectorize

    out = f"{bucket}/m.zarr"
    segment(scene, out)
    path = vectorize(out, tmp_path / "regions.gpkg")
    assert len(pyogrio.read_dataframe(path, layer="regions")) > 10
