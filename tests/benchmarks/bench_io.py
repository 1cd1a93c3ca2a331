"""What reading and writing cost beside the model, in CPU seconds of this process.

    python tests/benchmarks/bench_io.py write [MAP]       (a class raster; else noise)

`write`: 589 MB of labels as blocks of four chunks, in Zarr 2 and 3, and zstd alone.
"""

import argparse
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numcodecs import Zstd
from scipy.ndimage import gaussian_filter

from geoseg.core.classes import class_table
from geoseg.core.grid import Grid, Window
from geoseg.maps.store import create_masks

BLOCK, CHUNK = 2048, 1024
MEGABYTES = 589


def cpu() -> float:
    """Return the CPU seconds of this process so far, the kernel's for it too."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def spent(action: Callable[[], Any]) -> float:
    """Return what an action costs, in CPU seconds."""
    before = cpu()
    action()
    return cpu() - before


def labels(path: str | None) -> Any:
    """Return a block of labels: the first of a class raster, or of smoothed noise."""
    if path:
        with rasterio.open(path) as file:
            return file.read(1, window=((0, BLOCK), (0, BLOCK)))
    noise = np.random.default_rng(0).standard_normal((BLOCK, BLOCK))
    return np.digitize(gaussian_filter(noise, 24), [-0.01, 0, 0.01]).astype(np.uint8)


def write(path: str | None) -> None:
    """Write a map whose blocks are all the same."""
    block = labels(path)
    rows = round(MEGABYTES * 1e6 / block.size)
    grid = Grid(
        crs=None,
        transform=Affine(10, 0, 500_000, 0, -10, 5_000_000),
        height=rows * BLOCK,
        width=BLOCK,
    )
    windows = [Window(y=r * BLOCK, x=0, height=BLOCK, width=BLOCK) for r in range(rows)]
    halves = slice(0, CHUNK), slice(CHUNK, BLOCK)
    chunks = [np.ascontiguousarray(block[y, x]) for y in halves for x in halves]
    codec = Zstd(level=1)
    alone = spent(lambda: [codec.encode(c) for _ in windows for c in chunks])
    print(f"{rows * block.nbytes / 1e6:.0f} MB: zstd alone {alone:.2f} s")
    # In memory where there is such a folder: creating files is the disk's business.
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    for zarr_format in (2, 3):
        folder = tempfile.mkdtemp(dir=memory)
        masks = create_masks(
            f"{folder}/m.zarr",
            grid=grid,
            classes=class_table(map(str, range(int(block.max()) + 1))),
            chunk=CHUNK,
            arrays=("classes",),
            settings={},
            block=BLOCK,
            provenance={"run": "bench"},
            zarr_format=zarr_format,
        )
        put = spent(lambda m=masks: [m.write("classes", w, block) for w in windows])
        got = spent(lambda m=masks: [m.read("classes", w) for w in windows])
        shutil.rmtree(folder)
        print(f"Zarr {zarr_format}: written {put:.2f} s, read {got:.2f} s")


def main() -> None:
    """Run one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("write")
    command.add_argument("map", nargs="?")
    command.set_defaults(run=lambda told: write(told.map))
    told = parser.parse_args()
    told.run(told)


if __name__ == "__main__":
    sys.exit(main())
