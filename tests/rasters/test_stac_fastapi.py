"""A STAC API of stac-fastapi, with items in memory, is searched like any archive."""

import json
import threading
import time

import numpy as np
import pytest
from ports import free_port
from rasterio.io import MemoryFile
from rasterio.transform import from_origin
from rasterio.warp import transform_bounds
from stac_server import collection_of, found_items, matches, serving

from geoseg.errors import GeosegError, RasterError
from geoseg.rasters.search import find
from geoseg.rasters.stac import open_items

pystac_client = pytest.importorskip("pystac_client")
pytest.importorskip("stac_fastapi.api")
pytest.importorskip("stac_fastapi.extensions")
uvicorn = pytest.importorskip("uvicorn")


SIZE = 3  # items on a page


def page_of(items, asked, token, request):
    """Return a page of the items that are asked for, with a link to the next one."""
    found = [item for item in items if matches(item, asked)]
    start = int(token or 0)
    links = []
    if start + SIZE < len(found):
        body = {**asked, "token": str(start + SIZE)}
        href = str(request.url).partition("?")[0]
        links = [{"rel": "next", "href": href, "method": "POST", "body": body}]
    features = found[start : start + SIZE]
    return {"type": "FeatureCollection", "features": features, "links": links}


def memory_client(items):
    """Return stac-fastapi's client of items in a list."""
    from stac_fastapi.types.core import BaseCoreClient
    from stac_fastapi.types.errors import NotFoundError

    class Memory(BaseCoreClient):
        def all_collections(self, **_):
            return {"collections": [collection_of("scenes", "")], "links": []}

        def get_collection(self, collection_id, **_):
            if collection_id != "scenes":
                raise NotFoundError(f"no collection {collection_id}")
            return collection_of("scenes", "")

        def get_item(self, item_id, **_):
            return next(item for item in items if item["id"] == item_id)

        def item_collection(self, token=None, **kwargs):
            return page_of(items, {}, token, kwargs["request"])

        def get_search(self, token=None, **kwargs):
            request = kwargs.pop("request")
            asked = {k: v for k, v in kwargs.items() if v is not None}
            return page_of(items, asked, token, request)

        def post_search(self, search_request, **kwargs):
            asked = search_request.model_dump(mode="json", exclude_none=True)
            token = asked.pop("token", None)
            return page_of(items, asked, token, kwargs["request"])

    return Memory()


@pytest.fixture(scope="module")
def files():
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def api(files):
    """The URL of the API, and the pixels of its scenes."""
    from stac_fastapi.api.app import StacApi
    from stac_fastapi.api.models import (
        create_get_request_model,
        create_post_request_model,
    )
    from stac_fastapi.extensions import TokenPaginationExtension
    from stac_fastapi.types.config import ApiSettings

    pixels = np.arange(64 * 64, dtype=np.uint16).reshape(1, 64, 64) + 1
    grid = {"crs": "EPSG:32632", "transform": from_origin(400_000, 5_200_000, 10, 10)}
    shape = {"width": 64, "height": 64, "count": 1, "dtype": "uint16"}
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", **shape, **grid, nodata=0) as file:
            file.write(pixels)
            bounds = transform_bounds(file.crs, "EPSG:4326", *file.bounds)
        files.files["/a.tif"] = memory.read()
    west, south, east, north = bounds
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    items = [
        {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": f"s{n}",
            "collection": "scenes",
            "bbox": [*bounds],
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"datetime": f"2025-05-{n + 1:02}T10:00:00Z"},
            "links": [],
            "assets": {"red": {"href": f"{files.url}/a.tif", "type": "image/tiff"}},
        }
        for n in range(10)
    ]
    paging = [TokenPaginationExtension()]
    post = create_post_request_model(paging)
    app = StacApi(
        settings=ApiSettings(),
        client=memory_client(items),
        extensions=paging,
        search_get_request_model=create_get_request_model(paging),
        search_post_request_model=post,
    ).app
    port = free_port()
    config = uvicorn.Config(app, "127.0.0.1", port, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}", pixels
    server.should_exit = True
    thread.join()


def test_pages_dates_and_places(api, tmp_path, files):
    url, pixels = api
    trust = (files.host,)
    how = {"endpoint": url, "trust": trust}
    assert len(found_items("scenes", **how)) == 10
    found = find("scenes", dates="2025-05-02/2025-05-08", **how)
    assert [i["id"] for i in found.items] == [f"s{n}" for n in range(1, 8)]
    box = found.items[0]["geometry"]
    (tmp_path / "aoi.geojson").write_text(json.dumps(box))
    assert len(found_items("scenes", aoi=tmp_path / "aoi.geojson", **how)) == 10
    assert len(found_items(f"{url}/collections/scenes", trust=trust)) == 10
    search = pystac_client.Client.open(url).search(collections=["scenes"])
    assert len(found_items(search)) == 10
    away = [[[lon + 20, lat] for lon, lat in box["coordinates"][0]]]
    (tmp_path / "away.geojson").write_text(json.dumps({**box, "coordinates": away}))
    assert found_items("scenes", aoi=tmp_path / "away.geojson", **how) == []
    source = open_items(found.items)
    np.testing.assert_array_equal(source.read(source.grid.window)[0], pixels)


def test_what_is_wrong_is_said(api):
    url, _ = api
    with pytest.raises(GeosegError, match="has no collection scene; did you mean"):
        found_items("scene", endpoint=url)
    with pytest.raises(RasterError, match="--trust 127"):
        found_items("scenes", endpoint=url)
