"""A median of many dates: `geoseg compose` against odc-stac with Dask, each alone.

    python tests/benchmarks/bench_compose.py [--dates 24] [--side 4096] [--bands 4]

Scenes are cloud-optimised GeoTIFFs on a disk, with a classification that masks clouds.
odc-stac computes the same median by xarray, with threads and with processes, by several
sizes of chunks, and writes it by rioxarray; its best counts. Each run is a process of
its own; its peak is that of it and its children, beyond one that only imports. CPU
seconds are told too: they mean something on a machine that others use. Needs
`pip install odc-stac`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import rasterio
from affine import Affine
from rasterio.warp import transform_bounds

CRS, AT, TILE = "EPSG:32632", (400_000, 5_200_000), 512
BANDS = ("red", "green", "blue", "nir")

ODC = """
import json, sys
import dask, numpy as np, odc.stac, pystac, rioxarray, xarray as xr
path, out, bands, chunk, kind = sys.argv[1:6]
if path:
    from dask.distributed import Client
    client = Client(n_workers=2, threads_per_worker=1) if kind == "processes" else None
    items = [pystac.Item.from_dict(i) for i in json.load(open(path))["features"]]
    side = int(chunk)
    loaded = odc.stac.load(
        items, bands=[*bands.split(","), "SCL"], chunks={"x": side, "y": side},
        groupby="solar_day", crs="%s", resolution=10, resampling="nearest",
    )
    clear = ~loaded["SCL"].isin([0, 1, 3, 8, 9, 10])
    seen = loaded[bands.split(",")]
    there = (seen != 0) & clear
    value = (seen.astype("float32") * np.float32(1e-4)).where(there)
    made = value.median("time").to_array("band")
    made = made.astype("float32").compute()
    made.rio.to_raster(out, driver="COG", compress="deflate", level=1, predictor="yes")
""".replace("%s", CRS)
OURS = """
import sys
from geoseg.cli import run
import geoseg.rasters.compose, geoseg.rasters.reduce, numba
path, out, bands = sys.argv[1:4]
if path:
    sys.exit(run(["compose", path, "--bands", bands, "--out", out, "-q"]))
"""


def write_scenes(folder: Path, dates: int, side: int, bands: int) -> str:
    """Write scenes of smooth ground, noise and clouds; return their items' path."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    ground = 800 + 600 * np.sin(9 * x) * np.cos(7 * y)
    items = []
    for n in range(dates):
        assets = {}
        cloudy = np.sin(13 * x + n) * np.cos(11 * y - 2 * n) > 0.4
        for key in BANDS[:bands]:
            noise = rng.integers(0, 64, (side, side))
            pixels = (ground + noise + 4000 * cloudy).astype(np.uint16)
            assets[key] = _cog(folder / f"{n}-{key}.tif", pixels, 10)
            assets[key]["eo:bands"] = [{"name": key, "common_name": key}]
            assets[key]["raster:bands"] = [{"scale": 1e-4, "offset": 0, "nodata": 0}]
        classes = np.where(cloudy[::2, ::2], 9, 4).astype(np.uint8)
        assets["SCL"] = _cog(folder / f"{n}-SCL.tif", classes, 20)
        items.append(_item(n, assets, side))
    path = folder / "scenes.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    return str(path)


def _cog(path: Path, pixels: np.ndarray, res: int) -> dict[str, object]:
    transform = Affine(res, 0, AT[0], 0, -res, AT[1])
    with rasterio.open(
        path, "w", driver="COG", count=1, height=pixels.shape[0], width=pixels.shape[1],
        dtype=pixels.dtype, crs=CRS, transform=transform, nodata=0, blocksize=TILE,
        compress="deflate", level=1, overviews="none",
    ) as file:  # fmt: skip
        file.write(pixels, 1)
    return {
        "href": str(path),
        "type": "image/tiff; application=geotiff",
        "roles": ["data"],
        "proj:epsg": 32632,
        "proj:shape": pixels.shape,
        "proj:transform": list(transform)[:6],
    }


def _item(n: int, assets: dict[str, object], side: int) -> dict[str, object]:
    size = 10 * side
    west, south, east, north = transform_bounds(
        CRS, "OGC:CRS84", AT[0], AT[1] - size, AT[0] + size, AT[1]
    )
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": f"scene-{n}", "links": [],
        "collection": "scenes", "bbox": [west, south, east, north], "assets": assets,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "stac_extensions": [
            f"https://stac-extensions.github.io/{e}/schema.json"
            for e in ("projection/v1.1.0", "raster/v1.1.0", "eo/v1.1.0")
        ],
        "properties": {"datetime": f"2024-{n // 28 + 1:02d}-{n % 28 + 1:02d}T10:00Z"},
    }  # fmt: skip


def measured(code: str, *words: str) -> tuple[float, float, float]:
    """Return seconds, CPU seconds and peak bytes of a process and its children."""
    begun, used = time.perf_counter(), _used()
    process = subprocess.Popen([sys.executable, "-c", code, *words])
    peak = [0.0]

    def watch() -> None:
        one = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                family = [one, *one.children(recursive=True)]
                peak[0] = max(peak[0], sum(p.memory_info().rss for p in family))
            except psutil.Error:
                pass
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = process.wait()
    watcher.join()
    if status:
        raise SystemExit(f"a run ended with status {status}")
    return time.perf_counter() - begun, _used() - used, peak[0]


def _used() -> float:
    """Return the CPU seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


Run = tuple[float, float, float]


def said(run: Run, idle: Run) -> str:
    """Return what a run took, and what of that it takes to do nothing."""
    return (
        f"{run[0]:.1f} s, {run[1]:.1f} s of CPU, {idle[1]:.1f} of them imports; "
        f"{(run[2] - idle[2]) / 1e6:.0f} MB beyond {idle[2] / 1e6:.0f}"
    )


def main() -> None:
    """Write scenes, run both, compare what they made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dates", type=int, default=24)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--bands", type=int, default=4)
    parser.add_argument("--chunks", default="512,1024,2048")
    parser.add_argument("--kinds", default="threads,processes")
    given = parser.parse_args()
    bands = ",".join(BANDS[: given.bands])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write_scenes(folder, given.dates, given.side, given.bands)
        ours = str(folder / "ours.tif")
        idle = measured(OURS, "", "", "")
        measured(OURS, path, str(folder / "warm.tif"), bands)  # files and kernels
        run = measured(OURS, path, ours, bands)
        print(f"geoseg: {said(run, idle)}", flush=True)
        their_idle, runs = measured(ODC, "", "", "", "", ""), []
        for kind in given.kinds.split(","):
            for chunk in given.chunks.split(","):
                theirs = str(folder / "theirs.tif")
                runs.append(measured(ODC, path, theirs, bands, chunk, kind))
                told = said(runs[-1], their_idle)
                print(f"odc-stac, {kind}, chunks of {chunk}: {told}", flush=True)
        with rasterio.open(ours) as a, rasterio.open(theirs) as b:
            differ = np.nanmax(np.abs(a.read() - b.read()))
        best = min(runs)
        more = (best[2] - their_idle[2]) / (run[2] - idle[2])
        print(f"{best[0] / run[0]:.1f} x as fast as its best, in 1 / {more:.1f} of its")
        cheapest = min(r[1] for r in runs) / run[1]
        print(
            f"memory; 1 / {cheapest:.1f} of the CPU of its cheapest run; values differ"
        )
        print(f"differ by {differ:.1e} at most")


if __name__ == "__main__":
    main()
