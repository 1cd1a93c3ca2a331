"""Vectorizing against what people use today, on one core, all in one run.

    taskset -c 0 python tests/benchmarks/bench_vectors.py            (the table)
    python tests/benchmarks/bench_vectors.py --workers               (2 against 1)
    python tests/benchmarks/bench_vectors.py --large                 (36000 x 36000)

Every contender runs once untimed (compiling, file cache), then `--repeat` times,
interleaved; the table shows the shortest of each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "GDAL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import geopandas  # noqa: E402 - after the variables
import numpy as np  # noqa: E402 - after the variables
import pyogrio  # noqa: E402 - after the variables
import rasterio  # noqa: E402 - after the variables
import shapely  # noqa: E402 - after the variables
from rasterio.features import shapes  # noqa: E402 - after the variables
from scipy import ndimage  # noqa: E402 - after the variables

from geoseg.maps.open import open_classes  # noqa: E402
from geoseg.vector.vectorize import vectorize  # noqa: E402

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "landcover_rasters"
CASES = {
    "drcog_2018_lulc_1m.tif": 3.0,
    "usda_cdl_2021_subset_30m.tif": 30.0,
    "smooth_4096.tif": 30.0,
}
"""Raster and tolerance in metres: one pixel or a few."""


def make_case(path: Path) -> None:
    """Write the 4096 x 4096 mask of 5 classes: filtered noise, cut at quantiles."""
    noise = np.random.default_rng(0).normal(size=(4096, 4096)).astype(np.float32)
    smooth = ndimage.gaussian_filter(noise, 5.8)
    values = np.digitize(smooth, np.quantile(smooth, [0.2, 0.4, 0.6, 0.8]))
    with rasterio.open(
        path, "w", driver="GTiff", height=4096, width=4096, count=1, dtype="uint8",
        crs="EPSG:5070", transform=rasterio.Affine(30, 0, 0, 0, -30, 2e6),
        tiled=True, compress="deflate",
    ) as file:  # fmt: skip
        file.write(values.astype(np.uint8), 1)


def polygonized(path: Path) -> geopandas.GeoDataFrame:
    """Polygons by GDAL, as geopandas' users make them."""
    with rasterio.open(path) as file:
        values = file.read(1)
        mask = None if file.nodata is None else values != file.nodata
        pairs = list(shapes(values, mask, transform=file.transform))
        crs = file.crs
    geometry = [shapely.geometry.shape(s) for s, _ in pairs]
    return geopandas.GeoDataFrame(
        {"class_id": [int(v) for _, v in pairs]}, geometry=geometry, crs=crs
    )


def today(path: Path, out: Path, simplify: float | None) -> None:
    """`rasterio.features.shapes`, shapely, `coverage_simplify`, pyogrio."""
    frame = polygonized(path)
    if simplify is not None:
        unit = frame.crs.axis_info[0].unit_conversion_factor
        frame["geometry"] = shapely.coverage_simplify(
            frame.geometry.values, simplify / unit
        )
    pyogrio.write_dataframe(frame, out, driver="GPKG")


def xarray_spatial(path: Path) -> None:
    """Trace with xarray-spatial into a GeoDataFrame; nothing is written."""
    import xarray as xr
    from xrspatial.experimental import polygonize

    with rasterio.open(path) as file:
        data = xr.DataArray(file.read(1), dims=("y", "x"))
    polygonize(data, connectivity=4, return_type="geopandas")


def ours_traced(path: Path) -> None:
    """Trace, assemble and measure, without writing."""
    from geoseg.vector.options import VectorizeOptions
    from geoseg.vector.vectorize import _chosen, _drawing, _features

    reader = open_classes(path, unseen=True)
    drawing = _drawing(reader, _chosen(reader, None), VectorizeOptions(out="unused"))
    for _ in _features(reader, drawing, 2048, None, None):
        pass


def best(
    contenders: dict[str, Callable[[], object]],
    repeat: int,
    clock: Callable[[], float] = process_time,
) -> dict[str, float]:
    """Return the shortest time of each, run in turn.

    On one core that is CPU time, which other programs do not disturb.
    """
    times = {name: float("inf") for name in contenders}
    for turn in range(repeat + 1):
        for name, run in contenders.items():
            begun = clock()
            run()
            if turn:
                times[name] = min(times[name], clock() - begun)
    return times


def kept(path: Path, simplified: Path, metres: float, whole: Path) -> None:
    """Print how many vertices stay against `coverage_simplify` of our own polygons.

    Those of `shapes` lack the vertices at which other regions' lines end: they are no
    coverage.
    """
    frame = pyogrio.read_dataframe(vectorize(path, whole, overwrite=True), layer=0)
    unit = frame.crs.axis_info[0].unit_conversion_factor
    peer = shapely.coverage_simplify(frame.geometry.values, metres / unit)
    ours = pyogrio.read_dataframe(simplified, layer=0).geometry.values
    counts = [
        int(shapely.get_num_coordinates(some).sum())
        for some in (frame.geometry.values, peer, ours)
    ]
    print(f"{'':28}vertices: {counts[0]:,} → coverage_simplify {counts[1]:,}, geoseg "
          f"{counts[2]:,}: {counts[2] / counts[1]:.3f}", flush=True)  # fmt: skip


def table(folder: Path, repeat: int, *, tracing: bool) -> None:
    """Print seconds and ratios for every case."""
    make_case(folder / "smooth_4096.tif")
    print(f"{'case':28}{'':22}{'today s':>9}{'geoseg s':>9}{'ratio':>7}  vertices")
    for name, metres in CASES.items():
        path = folder / name if (folder / name).exists() else DATA / name
        for label, simplify in (("simplified", metres), ("pixel edges", None)):
            out, old = folder / "ours.gpkg", folder / "today.gpkg"
            times = best(
                {
                    "today": lambda p=path, s=simplify, o=old: today(p, o, s),
                    "geoseg": lambda p=path, s=simplify, o=out: vectorize(
                        p, o, simplify=s, overwrite=True
                    ),
                },
                repeat,
            )
            row(f"{name:28}{label:22}", times["today"], times["geoseg"], old, out)
            if simplify is not None:
                kept(path, out, simplify, folder / "whole.gpkg")
        if not tracing:
            continue
        times = best(
            {
                "today": lambda p=path: xarray_spatial(p),
                "geoseg": lambda p=path: ours_traced(p),
            },
            repeat,
        )
        row(f"{name:28}{'tracing (xrspatial)':22}", times["today"], times["geoseg"])


def row(title: str, today: float, ours: float, *files: Path) -> None:
    """Print one line of the table."""
    counts = [
        int(
            shapely.get_num_coordinates(
                pyogrio.read_dataframe(f, layer=0).geometry.values
            ).sum()
        )
        for f in files
    ]
    said = " / ".join(f"{c:,}" for c in counts)
    print(f"{title}{today:9.2f}{ours:9.2f}{today / ours:7.1f}  {said}", flush=True)


def workers(folder: Path) -> None:
    """Print how much faster two workers are than one: threads here, and of Dask."""
    from distributed import Client, LocalCluster

    make_case(folder / "smooth_4096.tif")
    cores = sorted(os.sched_getaffinity(0))
    for path, metres, block in (
        (folder / "smooth_4096.tif", 30.0, 1024),
        (DATA / "drcog_2018_lulc_1m.tif", 3.0, None),
    ):

        def run(client: Client | None = None) -> None:
            vectorize(
                path, folder / "w.gpkg", simplify=metres, block=block,  # noqa: B023
                overwrite=True, client=client,
            )  # fmt: skip

        threads, tasks = {}, {}
        for count in (1, 2):
            os.sched_setaffinity(0, cores[:count])
            threads[count] = best({"run": run}, 3, perf_counter)["run"]
        os.sched_setaffinity(0, cores)
        for count in (1, 2):
            with (
                LocalCluster(
                    n_workers=count, threads_per_worker=1, dashboard_address=None
                ) as cluster,
                Client(cluster) as client,
            ):
                tasks[count] = best({"run": lambda c=client: run(c)}, 3, perf_counter)[
                    "run"
                ]
        for name, times in (("threads", threads), ("workers of Dask", tasks)):
            print(f"{path.name:24} {name:16} 1: {times[1]:.2f} s, 2: {times[2]:.2f} s, "
                  f"ratio {times[1] / times[2]:.2f}", flush=True)  # fmt: skip


_LARGE = """
import resource, sys, time
from geoseg.vector.vectorize import vectorize
out, path = sys.argv[1:3]
begun = time.process_time()
vectorize(path, out, simplify=20, overwrite=True)
print(time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def large(folder: Path) -> None:
    """Print cost and memory of WorldCover's tile and of its quarters."""
    whole = DATA / "ESA_WorldCover_10m_2021_v200_N00E006_Map.tif"
    cases = [("whole", whole)]
    for i in range(4):
        part = folder / f"quarter{i}.tif"
        x, y = 18000 * (i % 2), 18000 * (i // 2)
        with rasterio.open(whole) as source:
            window = rasterio.windows.Window(x, y, 18000, 18000)
            profile = {**source.profile, "height": 18000, "width": 18000,
                       "transform": source.window_transform(window)}  # fmt: skip
            with rasterio.open(part, "w", **profile) as file:
                file.write(source.read(1, window=window), 1)
                file.write_colormap(1, source.colormap(1))
        cases.append((f"quarter {i}", part))
    for name, path in cases:
        out = folder / "large.gpkg"
        said = subprocess.run(
            [sys.executable, "-c", _LARGE, out, path],
            capture_output=True, text=True, check=True,
        ).stdout.split()  # fmt: skip
        seconds, memory = float(said[0]), int(said[1]) / 1e6
        frame = pyogrio.read_dataframe(out, layer=0)
        vertices = int(shapely.get_num_coordinates(frame.geometry.values).sum())
        with rasterio.open(path) as file:
            pixels = file.width * file.height
        print(f"{name:10} {pixels / 1e6:7.0f} Mpx {vertices:9,} vertices "
              f"{seconds:6.1f} s CPU {seconds / pixels * 1e9:5.1f} ns/px "
              f"{memory:.2f} GB", flush=True)  # fmt: skip


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--workers", action="store_true")
    parser.add_argument("--large", action="store_true")
    asked = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        if asked.workers:
            workers(folder)
        elif asked.large:
            large(folder)
        else:
            table(folder, asked.repeat, tracing=find_spec("xrspatial") is not None)


if __name__ == "__main__":
    main()
