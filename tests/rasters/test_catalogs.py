"""STAC APIs and static catalogues, asked over HTTP: pages, busy servers, signatures."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from rasterio.io import MemoryFile
from rasterio.transform import from_origin
from rasterio.warp import transform_bounds
from rasterio.windows import Window
from stac_server import collection_of, found_items, serving

from geoseg.cli import run
from geoseg.core.series_options import SeriesOptions
from geoseg.errors import GeosegError, RasterError, UnavailableError
from geoseg.rasters import archives as archives_module
from geoseg.rasters import http
from geoseg.rasters.archives import archives
from geoseg.rasters.open import open_source
from geoseg.rasters.search import find
from geoseg.rasters.series import open_series
from geoseg.rasters.stac import open_items

pystac_client = pytest.importorskip("pystac_client")

SHAPE = (64, 48)


def tif(seed, x=400_000):
    """Return the bytes of a scene, its pixels, and its footprint in degrees."""
    pixels = np.random.default_rng(seed).integers(1, 3000, (1, *SHAPE)).astype("uint16")
    transform = from_origin(x, 5_200_000, 10, 10)
    profile = {"width": SHAPE[1], "height": SHAPE[0], "count": 1, "dtype": "uint16"}
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16}
    grid = {"crs": "EPSG:32632", "transform": transform, "nodata": 0}
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", **profile, **tiles, **grid) as file:
            file.write(pixels)
            bounds = transform_bounds(file.crs, "EPSG:4326", *file.bounds)
        return memory.read(), pixels[0], bounds


def item(name, when, href, bounds, collection="scenes", **properties):
    west, south, east, north = bounds
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": collection,
        "bbox": [*bounds],
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"datetime": when, **properties},
        "links": [],
        "assets": {"red": {"href": href, "type": "image/tiff", "roles": ["data"]}},
    }


@pytest.fixture(scope="module")
def listening():
    with serving() as server:
        yield server


@pytest.fixture
def server(listening, monkeypatch, tmp_path):
    """The server with seven scenes of one place, two of them over clouds."""
    listening.reset()
    monkeypatch.setattr(http, "_PAUSE", 0.001)
    http.api_io.cache_clear()
    data, _, bounds = SCENE
    for n in range(7):
        listening.files[f"/data/{n}.tif"] = data
        cloud = {"eo:cloud_cover": 90 * (n == 3)} if n != 5 else {}
        href = f"{listening.url}/data/{n}.tif"
        listening.items.append(
            item(f"s{n}", f"2025-05-0{n + 1}T10:00:00Z", href, bounds, **cloud)
        )
    monkeypatch.setenv("GEOSEG_ARCHIVES", str(tmp_path / "archives.toml"))
    own(tmp_path, listening)
    yield listening
    http.api_io.cache_clear()


SCENE = tif(1)


def own(folder, server, **more):
    """Write a user's archives: the server as `here`."""
    told = {"url": server.url, "collections": ["scenes"], **more}
    lines = [f"{key} = {json.dumps(value)}" for key, value in told.items()]
    (folder / "archives.toml").write_text("[here]\n" + "\n".join(lines) + "\n")


def aoi(path, *boxes):
    geometries = [item("", "", "", b)["geometry"] for b in boxes]
    features = [
        {"type": "Feature", "properties": {}, "geometry": g} for g in geometries
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return str(path)


def ids(items):
    return [one["id"] for one in items]


@pytest.mark.parametrize("ways", [("POST", "GET"), ("GET",), ()])
def test_all_pages_of_a_search_are_read(server, tmp_path, ways):
    server.ways = ways or ("GET",)
    area = aoi(tmp_path / "aoi.geojson", SCENE[2])
    how = {"aoi": area, "dates": "2025-05-01/2025-05-06", "cloud": 50}
    found = find("scenes", **how)
    assert ids(found.items) == ["s0", "s1", "s2", "s4", "s5"]
    assert found.notes == (
        f"searched in {server.url}",
        "1 item of 5 without a cloud cover: taken",
    )
    asked = [query for _, path, query in server.asked if path == "/search"]
    assert len(asked) == 3  # of two items each
    assert found.items == found_items(f"{server.url}/collections/scenes", **how)
    assert found.items == found_items("scenes", endpoint=server.url, **how)
    assert found.items == found_items("stac:scenes", endpoint="here", **how)


def test_an_empty_page_is_not_the_last_one(server):
    server.gaps = {2}
    assert len(found_items("scenes")) == 7
    assert len([path for _, path, _ in server.asked if path == "/search"]) == 5


def test_a_page_that_follows_itself_ends_the_search(server):
    page = {"type": "FeatureCollection", "features": [{"id": "a"}]}
    page["links"] = [{"rel": "next", "href": f"{server.url}/search"}]
    server.files["/search"] = json.dumps(page).encode()
    with pytest.raises(RasterError, match="one page again and again"):
        find("scenes")


def test_what_is_no_stac_is_said(server):
    server.files["/search"] = b"<html>busy with something else</html>"
    with pytest.raises(RasterError, match="does not answer as a STAC API does"):
        found_items("scenes")
    server.files["/search"] = b'{"features": 7}'
    with pytest.raises(RasterError, match="answers a search with something other"):
        found_items("scenes")


def test_the_last_moment_is_asked_for_and_the_next_one_left_out(server):
    bounds = SCENE[2]
    for name, when in (
        ("last", "2025-05-31T23:59:59.9Z"),
        ("next", "2025-06-01T00:00:00Z"),
    ):
        server.items.append(item(name, when, f"{server.url}/data/0.tif", bounds))
    assert ids(found_items("scenes", dates="2025-05-07/2025-05")) == ["s6", "last"]


def test_areas_in_parts_are_asked_for_part_by_part(server, tmp_path):
    """Between two far parts nothing is taken; nor is it asked for."""
    west, south, east, north = SCENE[2]
    far = (west + 40, south, east + 40, north)
    between = item(
        "between", "2025-05-01T00:00:00Z", "", (west + 20, south, east + 20, north)
    )
    server.items.append(between)
    area = aoi(tmp_path / "aoi.geojson", SCENE[2], far)
    assert len(found_items("scenes", aoi=area)) == 7
    (asked,) = {
        json.dumps(q["intersects"]) for _, p, q in server.asked if "intersects" in q
    }
    assert json.loads(asked)["type"] == "MultiPolygon"


def test_busy_servers_are_asked_again(server, capsys):
    server.fail.extend([(503, {}), (429, {"Retry-After": "0"}), (502, {})])
    assert len(found_items("scenes")) == 7
    assert not server.fail
    server.fail.extend([(503, {})] * 50)
    with pytest.raises(UnavailableError, match=r"does not answer .*HTTP 503") as error:
        found_items("scenes")
    assert "\n" not in str(error.value)
    server.fail.extend([(429, {})] * 50)
    assert run(["search", "scenes"]) == 3
    assert "the same command can succeed later" in capsys.readouterr().err


def test_what_a_server_refuses_is_said_at_once(server, capsys):
    server.fail.append((403, {}))
    assert run(["search", "scenes"]) == 2
    assert "refuses: HTTP 403" in capsys.readouterr().err
    with pytest.raises(GeosegError, match="no collection scene; did you mean 'scenes'"):
        found_items("scene", endpoint="here")
    with pytest.raises(UnavailableError, match=r"not answer \(Connection refused\)"):
        found_items("scenes", endpoint="http://127.0.0.1:9")
    with pytest.raises(GeosegError, match=r"--endpoint her is neither .* mean 'here'"):
        found_items("scenes", endpoint="her")


def test_scenes_that_are_found_are_read_by_ranges(server):
    found = found_items("scenes", dates="2025-05-01")
    source = open_items(found)
    pixels, valid = source.read(source.grid.window)
    assert (pixels[0] == SCENE[1]).all()
    assert valid.all()


def test_a_saved_list_is_a_raster(server, tmp_path):
    """From the search to pixels: the archive is known to have files on that host."""
    path = tmp_path / "items.json"
    assert run(["search", "scenes", "--dates", "2025-05-01", "--out", str(path)]) == 0
    own(tmp_path, server, hosts=[server.host])
    assert (
        open_source(str(path)).read(open_source(str(path)).grid.window)[0] > 0
    ).all()


def signing(server, tmp_path, life=3600):
    """Make the server's files such that are read with signatures only."""
    server.life = life
    for one in server.items:
        href = one["assets"]["red"]["href"]
        one["assets"]["red"]["href"] = href.replace("/data/", "/signed/")
    for path in list(server.files):
        server.files[path.replace("/data/", "/signed/")] = server.files.pop(path)
    own(tmp_path, server, hosts=[server.host], sign=f"{server.url}/sign")


def test_signed_addresses_are_used_and_never_written(server, tmp_path, capsys):
    signing(server, tmp_path)
    path = tmp_path / "items.json"
    assert run(["search", "scenes", "--dates", "2025-05-01", "--out", str(path)]) == 0
    assert "sig" not in path.read_text().replace("signed", "")
    assert not server.signatures  # a search opens nothing
    source = open_source(str(path))
    pixels, _ = source.read(source.grid.window)
    assert (pixels[0] == SCENE[1]).all()
    print(server.asked)
    assert len(server.signatures) == 1  # kept while it holds
    assert "secret" not in json.dumps(dict(source.identity))
    server.signatures = NeverGiven()  # what now cannot be read tells no secret
    found = found_items("scenes", dates="2025-05-02")
    with pytest.raises(RasterError, match=r"/signed/1\.tif") as error:
        open_items(found)
    assert "secret" not in str(error.value)


class NeverGiven(dict):
    """Signatures that nobody accepts."""

    def get(self, *_):
        return None


def test_signatures_that_end_are_renewed(server, tmp_path):
    signing(
        server, tmp_path, life=1
    )  # within the minutes before which they are renewed
    source = open_items(found_items("scenes", dates="2025-05-03"))
    given = len(server.signatures)
    source.read(source.grid.window)
    server.signatures.clear()
    assert given
    pixels, _ = source.read(source.grid.window)
    assert (pixels[0] == SCENE[1]).all()
    assert server.signatures


def test_a_service_that_does_not_sign_is_said(server, tmp_path):
    signing(server, tmp_path)
    own(tmp_path, server, hosts=[server.host], sign=f"{server.url}/nothing")
    with pytest.raises(UnavailableError, match="cannot be signed by"):
        open_items(found_items("scenes", dates="2025-05-04"))


def test_the_planetary_computer_signs_by_its_package(server, monkeypatch):
    computer = pytest.importorskip("planetary_computer")
    from planetary_computer.sas import TOKEN_CACHE

    from geoseg.rasters.archives import signed

    monkeypatch.setattr(
        computer.settings.Settings.get(), "sas_url", f"{server.url}/sas"
    )
    token = {
        "token": "st=1&se=2&sp=rl&sig=verysecret",
        "msft:expiry": "2999-01-01T00:00:00Z",
    }
    server.files["/sas/sentinel2l2a01/s2"] = json.dumps(token).encode()
    monkeypatch.delenv("GEOSEG_ARCHIVES")
    href = "https://sentinel2l2a01.blob.core.windows.net/s2/a.tif"
    TOKEN_CACHE.clear()
    assert signed(href) == f"{href}?{token['token']}"
    TOKEN_CACHE.clear()


def test_nasa_s_files_are_read_with_a_login(server, tmp_path, monkeypatch):
    """The package that logs in is played; the header is GDAL's own."""

    class Auth:
        authenticated, token = True, {"access_token": "verysecret"}

        def login(self, strategy):
            assert strategy == "environment"

    monkeypatch.setitem(sys.modules, "earthaccess", SimpleNamespace(Auth=Auth))
    monkeypatch.setenv("EARTHDATA_TOKEN", "verysecret")
    own(tmp_path, server, hosts=[server.host], sign="earthdata")
    server.token = "verysecret"
    server.files["/login/a.tif"] = SCENE[0]
    one = item("a", "2025-05-01T00:00:00Z", f"{server.url}/login/a.tif", SCENE[2])
    source = open_items(found_items([one]))
    assert (source.read(source.grid.window)[0][0] == SCENE[1]).all()
    monkeypatch.setattr(Auth, "authenticated", False)
    archives_module._logged_in.cache_clear()
    with pytest.raises(UnavailableError, match="need an Earthdata login: nobody is"):
        open_items([one])


def test_buckets_of_an_archive_are_read_by_its_settings(tmp_path, monkeypatch):
    moto_server = pytest.importorskip("moto.server")
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    service = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    service.start()
    place = "{}:{}".format(*service.get_host_and_port())
    try:
        s3 = boto3.client("s3", endpoint_url=f"http://{place}", region_name="us-east-1")
        s3.create_bucket(Bucket="scenes-here")
        s3.put_object(Bucket="scenes-here", Key="a.tif", Body=SCENE[0])
        (tmp_path / "own.toml").write_text(
            '[bucket]\nurl = "https://api.example"\nhosts = ["s3://scenes-here"]\n'
            f'[bucket.gdal]\nAWS_S3_ENDPOINT = "{place}"\nAWS_HTTPS = "NO"\n'
            'AWS_VIRTUAL_HOSTING = "FALSE"\nAWS_REGION = "us-east-1"\n'
        )
        monkeypatch.setenv("GEOSEG_ARCHIVES", str(tmp_path / "own.toml"))
        href = "s3://scenes-here/a.tif"
        one = item("a", "2025-05-01T00:00:00Z", href, SCENE[2])
        (tmp_path / "items.json").write_text(json.dumps(one))
        source = open_source(str(tmp_path / "items.json"))
        assert (source.read(source.grid.window)[0][0] == SCENE[1]).all()
    finally:
        service.stop()


def test_two_dates_of_real_fields_are_found_and_read(server, shared, tmp_path):
    """Sentinel-2 over Austria, four bands a date, cut small and served as items."""
    whole = rasterio.open(shared / "ftw_austria" / "inference-img.tif")
    window = Window(100, 200, 96, 80)
    pixels = whole.read(window=window)
    profile = {"width": 96, "height": 80, "count": 4, "dtype": pixels.dtype}
    grid = {"crs": whole.crs, "transform": whole.window_transform(window)}
    box = transform_bounds(whole.crs, "EPSG:4326", *whole.window_bounds(window))
    names = ["red", "green", "blue", "nir"]
    bands = [{"name": name, "common_name": name} for name in names]
    server.items = []
    for n, date in enumerate(("2021-04-01", "2021-08-01")):
        with MemoryFile() as memory:
            with memory.open(driver="GTiff", **profile, **grid) as file:
                file.write(pixels[4 * n : 4 * n + 4])
            server.files[f"/data/{date}.tif"] = memory.read()
        href = f"{server.url}/data/{date}.tif"
        one = item(date, f"{date}T10:00:00Z", href, box)
        one["assets"]["red"]["eo:bands"] = bands
        server.items.append(one)
    area = aoi(tmp_path / "aoi.geojson", box)
    assert ids(found_items("scenes", aoi=area, dates="2021")) == [
        "2021-04-01",
        "2021-08-01",
    ]
    source = open_items(found_items("scenes", aoi=area, dates="2021-08"))
    assert [b.common_name for b in source.bands] == names
    np.testing.assert_array_equal(source.read(source.grid.window)[0], pixels[4:])
    whole.close()


def test_a_collection_goes_straight_into_a_model(server, tmp_path, capsys, monkeypatch):
    """The same command goes on with the scenes of before, whatever the archive has."""
    monkeypatch.chdir(tmp_path)
    own(tmp_path, server, hosts=[server.host])
    for one in server.items:
        one["assets"]["red"]["eo:bands"] = [{"name": "B04", "common_name": "red"}]
    aoi(tmp_path / "aoi.geojson", SCENE[2])
    words = ["segment", "stac:scenes", "--aoi", "aoi.geojson", "--out", "masks.zarr"]
    words += ["--model", "threshold:red>0.1", "--dates"]
    assert run([*words, "2025-05-01/2025-05-03"]) == 0
    kept = json.loads((tmp_path / "masks.items.json").read_text())
    assert ids(kept["features"]) == ["s0", "s1", "s2"]
    assert "view masks.zarr" in capsys.readouterr().out.replace(f"{tmp_path}/", "")
    server.items.pop(1)
    assert run([*words, "2025-05-01/2025-05-03"]) == 0
    assert "found before" in capsys.readouterr().err
    assert run([*words, "2025-05-01/2025-05-02"]) == 2
    assert "begun with other dates than is asked" in capsys.readouterr().err
    assert run([word.removeprefix("stac:") for word in words] + ["2025"]) == 2


# --- static catalogues ---


def static(server, tmp_path=None):
    """Put a static catalogue on the server: two collections, one of them elsewhere."""
    data, _, bounds = SCENE

    def link(rel, href):
        return {"rel": rel, "href": href}

    def collection(name, box, links):
        spatial, temporal = (
            {"bbox": [[*box]]},
            {"interval": [["2025-01-01T00:00:00Z", None]]},
        )
        above = [link("root", "../catalog.json"), link("parent", "../catalog.json")]
        return collection_of(name, None) | {
            "extent": {"spatial": spatial, "temporal": temporal},
            "links": [*above, *links],
        }

    near = item("near", "2025-05-01T00:00:00Z", "./near.tif", bounds, "one")
    late = item("late", "2026-05-01T00:00:00Z", "../shared/late.tif", bounds, "one")
    return {
        "catalog.json": {
            "type": "Catalog",
            "stac_version": "1.0.0",
            "id": "root",
            "description": "-",
            "links": [
                link("self", "https://elsewhere.example/catalog.json"),
                link("child", "./one/collection.json"),
                link("child", "./two/collection.json"),
            ],
        },
        "one/collection.json": collection(
            "one", bounds, [link("item", "./near.json"), link("item", "./late.json")]
        ),
        "one/near.json": near,
        "one/late.json": late,
        "two/collection.json": collection(
            "two", (0, 0, 1, 1), [link("item", "gone.json")]
        ),
        "one/near.tif": data,
        "shared/late.tif": data,
    }


@pytest.fixture(params=["http", "folder"])
def catalog(request, server, tmp_path):
    """Where a static catalogue lies."""
    files = {
        name: body if isinstance(body, bytes) else json.dumps(body).encode()
        for name, body in static(server).items()
    }
    if request.param == "http":
        server.files |= {f"/static/{name}": body for name, body in files.items()}
        return f"{server.url}/static/catalog.json"
    for name, body in files.items():
        (tmp_path / "static" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "static" / name).write_bytes(body)
    return str(tmp_path / "static" / "catalog.json")


def test_a_static_catalogue_is_walked_where_it_may_hold_something(catalog, tmp_path):
    area = aoi(tmp_path / "aoi.geojson", SCENE[2])
    found = found_items(catalog, aoi=area)
    assert ids(found) == ["near", "late"]
    assert ids(found_items(catalog, aoi=area, dates="2025")) == ["near"]
    assert ids(found_items("one", endpoint=catalog, dates="2025")) == ["near"]
    source = open_items(found)
    assert (source.read(source.grid.window)[0][0] == SCENE[1]).all()
    with pytest.raises(RasterError, match="has no collection three"):
        found_items("three", endpoint=catalog, aoi=area)


def test_what_a_catalogue_lacks_is_said(catalog):
    with pytest.raises(RasterError, match=r"gone\.json"):
        found_items(catalog)


def test_a_catalogue_names_only_what_is_its_own(tmp_path):
    files = static(None)
    files["one/collection.json"]["links"][-1]["href"] = "/etc/passwd"
    for name, body in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        (tmp_path / name).write_bytes(data)
    with pytest.raises(RasterError, match="names /etc/passwd, which is not opened"):
        found_items("one", endpoint=str(tmp_path / "catalog.json"))


def test_items_in_geoparquet(server, tmp_path):
    tables = pytest.importorskip("stac_geoparquet.arrow")
    import pyarrow as pa
    from pyarrow import parquet

    path = tmp_path / "items.parquet"
    batches = tables.parse_stac_items_to_arrow(server.items)
    tables.to_parquet(batches, path)
    found = found_items(path, dates="2025-05-01/2025-05-02", trust=(server.host,))
    assert ids(found) == ["s0", "s1"]
    assert found[0]["assets"]["red"]["href"] == f"{server.url}/data/0.tif"
    boxes = pa.array([item["bbox"] for item in server.items], pa.list_(pa.float64()))
    table = parquet.read_table(path)
    place = table.schema.get_field_index("bbox")
    by_geopandas = table.set_column(place, "bbox", boxes)
    parquet.write_table(by_geopandas, tmp_path / "older.parquet")
    assert found_items(tmp_path / "older.parquet", trust=(server.host,)) == found_items(
        path, trust=(server.host,)
    )
    (tmp_path / "other.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(RasterError, match="is not a table of STAC items"):
        found_items(tmp_path / "other.parquet")


def test_own_archives_are_checked(server, tmp_path):
    assert archives()["here"].url == server.url
    assert "earth-search" in archives()
    (tmp_path / "archives.toml").write_text("[here]\nurls = 'x'\n")
    with pytest.raises(GeosegError, match=r"archives\.toml: here\.url"):
        archives()


def test_a_collection_of_an_api_tells_numbers(server):
    """What is told of all items of a collection is asked for once."""
    asset = {"raster:bands": [{"scale": 0.5, "offset": 1}]}
    told = collection_of("scenes", server.url) | {"item_assets": {"red": asset}}
    server.files["/collections/scenes"] = json.dumps(told).encode()
    found = found_items("scenes")
    assert len([path for _, path, _ in server.asked if "/collections/" in path]) == 1
    made = scene_pixels(found, mask=["none"])
    for one in found:
        del one["assets"]["red"]["geoseg:collection"]
    stored = scene_pixels(found, mask=["none"])
    assert np.isfinite(stored).any()
    assert np.allclose(made, stored * 0.5 + 1, equal_nan=True)


def scene_pixels(items, **options):
    source = open_series(items, SeriesOptions(**options))
    return source.read(source.grid.window)[0]
