"""Law 13: every tile of a file is decoded once per process."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

import geoseg.rasters.tiles
from geoseg.core.grid import Window
from geoseg.core.tiling import Tiling
from geoseg.errors import RasterError
from geoseg.inference.order import BlockOrder, across, tiles_decoded
from geoseg.rasters.open import open_source
from geoseg.rasters.tiles import TileCache, parted, read_tiled, rectangles
from geoseg.testing import MemorySource

SIDE = 1000


@pytest.fixture(autouse=True)
def cache(monkeypatch):
    """Begin every test without tiles."""
    cache = TileCache(geoseg.rasters.tiles.CACHE_BYTES)
    monkeypatch.setattr(geoseg.rasters.tiles, "_CACHE", cache)
    return cache


def write(path, *, mask=False, **more):
    pixels = np.random.default_rng(0).integers(0, 5, (3, SIDE, SIDE), np.uint8)
    options = {"tiled": True, "blockxsize": 128, "blockysize": 128}
    profile = {
        "driver": "GTiff", "count": 3, "height": SIDE, "width": SIDE, "dtype": "uint8",
        "crs": "EPSG:32633", "transform": Affine(10, 0, 5e5, 0, -10, 5e6),
        "compress": "deflate", **options, **more,
    }  # fmt: skip
    if profile["driver"] != "GTiff":
        del profile["compress"], profile["tiled"]
    internal = rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True)
    with internal, rasterio.open(path, "w", **profile) as file:
        file.write(pixels)
        if mask:
            file.write_mask(pixels[0] != 0)
    return str(path), pixels


def sides(block, overlap=64):
    return Tiling(
        height=SIDE, width=SIDE, window=192, overlap=overlap, chunk=128, block=block
    )


def in_order(tiling, across):
    """Yield the keys of all blocks in the order in which one process takes them."""
    order = BlockOrder(np.ones((tiling.block_rows, tiling.block_cols), bool), across)
    while (key := order.next(workers=1)) is not None:
        yield key


def reads(source, tiling, threads):
    """Read what the windows of all blocks see, and return it with its windows."""
    keys = in_order(tiling, 100)
    windows = [tiling.block_at(*k).reach.intersection(tiling.raster) for k in keys]
    with ThreadPoolExecutor(threads) as pool:
        return list(zip(windows, pool.map(source.read, windows), strict=True))


LAYOUTS = {
    "pixel-interleaved": {"interleave": "pixel"},
    "band-interleaved": {"interleave": "band"},
    "strips": {"tiled": False, "blockysize": 8, "blockxsize": SIDE},
    "strips of one row": {"tiled": False, "blockysize": 1, "blockxsize": SIDE},
    "tiny tiles": {"blockxsize": 16, "blockysize": 16},
    "with a mask": {"mask": True},
    "tiles that are not square": {"blockxsize": 256, "blockysize": 64},
    "jp2": {"driver": "JP2OpenJPEG", "quality": 100, "reversible": True},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_read_is_what_gdal_reads(tmp_path, layout):
    path, pixels = write(tmp_path / "a.tif", **LAYOUTS[layout])
    for window, (values, valid) in reads(open_source(path), sides(256), threads=3):
        assert (values == pixels[:, *window.slices]).all()
        told = pixels[0][window.slices] != 0 if layout == "with a mask" else True
        assert (valid == told).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize(("block", "overlap"), [(128, 64), (384, 64), (576, 0)])
def test_every_tile_is_decoded_once(
    tmp_path, monkeypatch, layout, threads, block, overlap
):
    path, _ = write(tmp_path / "a.tif", **LAYOUTS[layout])
    source = open_source(path)
    with rasterio.open(path) as file:
        rows, cols = file.block_shapes[0]
    lock = threading.Lock()
    decoded = np.zeros((-(-SIDE // rows), -(-SIDE // cols)), int)
    real = read_tiled

    def counting(*arguments, decode, **more):
        def counted(parts):
            with lock:
                for window, _ in parts:
                    decoded[
                        window.y // rows : -(-window.bottom // rows),
                        window.x // cols : -(-window.right // cols),
                    ] += 1
            decode(parts)

        real(*arguments, decode=counted, **more)

    monkeypatch.setattr("geoseg.rasters.file.read_tiled", counting)
    reads(source, sides(block, overlap), threads)
    assert (decoded == 1).all()
    assert tiles_decoded(source, sides(block, overlap), 1) == 1


def test_what_a_plan_says_of_several_processes_is_what_they_do(tmp_path):
    """What two processes both need, each decodes: and so it is told."""
    source, tiling = open_source(write(tmp_path / "a.tif")[0]), sides(256)
    order = BlockOrder(np.ones((4, 4), bool), across(source, tiling, 2))
    total = 0

    def decode(parts):
        nonlocal total
        total += sum(-(-p.height // 128) * -(-p.width // 128) for p, _ in parts)

    windows = {0: [], 1: []}
    while (key := order.next(2)) is not None:
        order.begun(key)
        window = tiling.block_at(*key).reach.intersection(tiling.raster)
        windows[order.home(key)].append(window)
    for process, reads_of_it in windows.items():
        for window in reads_of_it:
            out = (np.empty((3, window.height, window.width), np.uint8),)
            read_tiled(
                process,
                window,
                out,
                tile=(128, 128),
                raster=tiling.raster,
                decode=decode,
            )
    told = tiles_decoded(source, tiling, 2)
    assert told == total / 64
    assert 1 < told < 1.4
    assert (
        tiles_decoded(MemorySource(values=np.zeros((1, 9, 9))), sides(256), 1) is None
    )


def test_a_large_raster_in_little_room():
    """As a run goes through it; the cache as small beside it as for large pixels."""
    n, tile = 18_000, 256
    tiling = Tiling(height=n, width=n, window=256, overlap=32, chunk=448, block=896)
    cache = TileCache(geoseg.rasters.tiles.CACHE_BYTES // 32)
    geoseg.rasters.tiles._CACHE = cache
    decoded = np.zeros((-(-n // tile),) * 2, int)

    def decode(parts):
        for part, _ in parts:
            y, x = part.y // tile, part.x // tile
            decoded[y : -(-part.bottom // tile), x : -(-part.right // tile)] += 1

    for key in in_order(tiling, 4):
        window = tiling.block_at(*key).reach.intersection(tiling.raster)
        out = (np.empty((1, window.height, window.width), np.uint8),)
        read_tiled(
            "file", window, out, tile=(tile, tile), raster=tiling.raster, decode=decode
        )
    assert decoded.min() == 1
    assert decoded.mean() < 1.15
    assert cache._bytes <= cache._limit


@pytest.mark.parametrize(("workers", "most"), [(1, 1.05), (8, 1.2)])
@pytest.mark.parametrize("bands", [1, 4])
@pytest.mark.parametrize("chunk", [896, 1024])
def test_a_large_raster_in_the_blocks_of_its_plan(chunk, bands, workers, most):
    overlap = 64 if chunk == 896 else 0
    tiling = Tiling(
        height=36_000, width=36_000, window=512, overlap=overlap, chunk=chunk,
        block=2 * chunk,
    )  # fmt: skip
    dtype = np.dtype("uint16")
    source = SimpleNamespace(
        tile=(512, 512), bands=range(bands), dtype=dtype, grid=None
    )
    assert 1 <= tiles_decoded(source, tiling, workers) <= most


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_parts_cover_a_window_once(data):
    whole = Window(y=0, x=0, height=700, width=500)
    y, x = data.draw(st.integers(0, 699)), data.draw(st.integers(0, 499))
    height = data.draw(st.integers(1, 700 - y))
    window = Window(y=y, x=x, height=height, width=data.draw(st.integers(1, 500 - x)))
    tile = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 300))
    inside, cut = parted(window, tile, whole)
    count = np.zeros((700, 500), int)
    for part in [*cut, *([inside] if inside else [])]:
        assert part.intersection(whole) == part
        assert part.y % tile[0] == part.x % tile[1] == 0
        count[part.slices] += 1
    assert count.max() == 1
    assert (count[window.slices] == 1).all()
    if inside is not None:
        assert inside.intersection(window) == inside


def test_an_error_reaches_all_who_wait_and_is_not_kept(cache):
    begun, go = threading.Event(), threading.Event()
    tiles = [Window(y=y, x=x, height=2, width=2) for y in (0, 2) for x in (0, 2)]

    def fail(_):
        begun.set()
        go.wait(10)
        raise RasterError("broken tile")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get, "file", tiles, fail)
        begun.wait(10)
        second = pool.submit(cache.get, "file", tiles[1:2], fail)
        go.set()
        for waiting in (first, second):
            with pytest.raises(RasterError, match="broken tile"):
                waiting.result(10)
    whole = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    found = cache.get("file", tiles, lambda parts: [(whole,)] * len(parts))
    for tile, (layer,) in zip(tiles, found, strict=True):
        assert (layer == whole[:, *tile.slices]).all()


@settings(max_examples=100, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5))))
def test_rectangles_hold_all_tiles_and_nothing_else(places):
    tiles = [Window(y=3 * y, x=5 * x, height=3, width=5) for y, x in sorted(places)]
    found = rectangles(tiles)
    assert {tile for _, inside in found for tile in inside} == set(tiles)
    assert sum(len(inside) for _, inside in found) == len(tiles)
    for rectangle, inside in found:
        assert all(tile.intersection(rectangle) == tile for tile in inside)
        assert sum(tile.area for tile in inside) == rectangle.area


def test_files_that_are_replaced_are_read_anew(tmp_path):
    path, before = write(tmp_path / "a.tif")
    window = Window(y=10, x=10, height=50, width=50)
    assert (open_source(path).read(window)[0] == before[:, 10:60, 10:60]).all()
    with rasterio.open(path, "r+") as file:
        file.write(before + 1)
    assert (open_source(path).read(window)[0] == before[:, 10:60, 10:60] + 1).all()


def test_gdal_is_given_room_for_more_than_one_block(tmp_path):
    """rasterio takes the size of GDAL's cache in bytes, not in MB."""
    from rasterio._env import get_gdal_config

    from geoseg.rasters.gdal import environment

    with environment(str(tmp_path)):
        assert int(get_gdal_config("GDAL_CACHEMAX")) >= 1 << 26


@pytest.mark.parametrize(("rows", "heard"), [(8, True), (None, False)])
def test_strips_that_are_decoded_again_are_told(tmp_path, rows, heard):
    path, width = tmp_path / "a.tif", 70_000
    how = {"blockysize": rows} if rows else {"tiled": True}
    transform = Affine(10, 0, 5e5, 0, -10, 5e6)
    with rasterio.open(
        path, "w", driver="GTiff", count=3, height=16, width=width, dtype="uint8",
        compress="deflate", crs="EPSG:32633", transform=transform, **how,
    ):  # fmt: skip
        pass
    notes = [n for n in open_source(str(path)).notes if "strips of 8 x 70000" in n]
    assert bool(notes) == heard
