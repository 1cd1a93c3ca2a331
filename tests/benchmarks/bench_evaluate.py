"""How fast, and in how much memory, a large map is compared with a large reference.

    python tests/benchmarks/bench_evaluate.py [SIDE]

A SIDE x SIDE store (36000 by default) against a class raster of the same size in
another CRS and on the same grid. Peak memory is that of the whole process.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import rasterio.vrt
from affine import Affine
from pyproj import CRS

from geoseg.accuracy.evaluate import evaluate
from geoseg.core.classes import class_table
from geoseg.core.grid import Grid, Window
from geoseg.maps.create import create_masks


def patch(rng, height, width):
    coarse = rng.integers(0, 8, (height // 16 + 1, width // 16 + 1), dtype=np.uint8)
    return np.kron(coarse, np.ones((16, 16), np.uint8))[:height, :width]


def main(side: int) -> None:
    grid = Grid(
        crs=CRS.from_epsg(32633).to_wkt(),
        transform=Affine(10, 0, 300_000, 0, -10, 5_500_000),
        height=side,
        width=side,
    )
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        masks = create_masks(
            f"{folder}/m.zarr", grid=grid, classes=class_table("abcdefgh"), chunk=2048,
            block=2048, arrays=["classes"], settings={}, provenance={"run": "bench"},
        )  # fmt: skip
        path = Path(folder) / "reference.tif"
        with rasterio.open(
            path, "w", driver="GTiff", height=side, width=side, count=1, dtype="uint8",
            crs=grid.crs, transform=grid.transform, tiled=True, compress="deflate",
        ) as out:  # fmt: skip
            for y in range(0, side, 2048):
                height = min(2048, side - y)
                band = patch(rng, height, side)
                window = Window(y=y, x=0, height=height, width=side)
                masks.write("classes", window, band)
                out.write(band, 1, window=((y, y + height), (0, side)))
        tilted = Path(folder) / "lonlat.vrt"
        with rasterio.open(path) as src, rasterio.vrt.WarpedVRT(src, crs=4326) as vrt:
            profile = vrt.profile
        profile.update(driver="GTiff", tiled=True, compress="deflate", blockxsize=512)
        profile.update(blockysize=512)
        tilted = tilted.with_suffix(".tif")
        with rasterio.open(tilted, "w", **profile) as out:
            for y in range(0, out.height, 2048):
                height = min(2048, out.height - y)
                band = patch(rng, height, out.width)
                out.write(band, 1, window=((y, y + height), (0, out.width)))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        for name, reference in (("same grid", path), ("other CRS", tilted)):
            start = time.perf_counter()
            got = evaluate(masks, reference)
            seconds = time.perf_counter() - start
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(
                f"{name}: {got.accuracy.n / 1e6:.0f} Mpx in {seconds:.1f} s, "
                f"{got.accuracy.n / 1e6 / seconds:.0f} Mpx/s; peak {peak:.2f} GB "
                f"(before {before:.2f} GB)"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 36_000)
