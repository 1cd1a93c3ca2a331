"""What reading and writing cost beside the model, in CPU seconds of this process.

    python tests/benchmarks/bench_io.py write [MAP]       (a class raster; else noise)
    python tests/benchmarks/bench_io.py read [RASTER]     (else 4096 x 4096 x 4 uint16)
    python tests/benchmarks/bench_io.py threshold RASTER 'threshold:1>50'
    python tests/benchmarks/bench_io.py far [RASTER] [--side 2048] [--delay 0.03]

`write`: 589 MB of labels as blocks of four chunks, in Zarr 2 and 3, and zstd alone.
`read`: the whole raster by rasterio, and in blocks as runs do, by one thread and two.
`threshold`: a whole run, and what of it are the imports.
`far`: plan and run from a server that waits before each answer, in seconds by the clock
against the same file on this disk; a threshold, and a U-Net of random weights.
"""

import argparse
import http.server
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numcodecs import Zstd
from scipy.ndimage import gaussian_filter

from geoseg.core.classes import class_table
from geoseg.core.grid import Grid, Window
from geoseg.core.tiling import Block, Tiling
from geoseg.inference.workflow import make_plan, run_plan
from geoseg.maps.create import create_masks
from geoseg.rasters.open import Source, open_source

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
        got = spent(lambda m=masks: deque((m.read("classes", w) for w in windows), 0))
        shutil.rmtree(folder)
        print(f"Zarr {zarr_format}: written {put:.2f} s, read {got:.2f} s")


def scene(folder: str, side: int = 4096) -> str:
    """Write a raster of 4 bands of uint16, deflated in tiles; return its path."""
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.standard_normal((4, side, side)), (0, 3, 3)) * 4000
    pixels = (smooth + 1500).clip(1, 9000) + rng.integers(0, 40, smooth.shape)
    path = f"{folder}/scene.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=4, height=side, width=side, dtype="uint16",
        tiled=True, blockxsize=512, blockysize=512, compress="deflate", predictor=2,
        crs="EPSG:32633", transform=Affine(10, 0, 500_000, 0, -10, 5_000_000),
    ) as file:  # fmt: skip
        file.write(pixels.astype(np.uint16))
    return path


def read(path: str | None) -> None:
    """Read a raster as runs of several tilings do."""
    with tempfile.TemporaryDirectory() as folder:
        path = path or scene(folder)
        with rasterio.open(path) as file:
            print(f"whole, by rasterio: {spent(file.read):.2f} s")
        for overlap, blocks, threads in product((0, 64), (1, 2), (1, 2)):
            source = open_source(path)  # with tiles of its own
            shape = {"height": source.grid.height, "width": source.grid.width}
            tiling = Tiling(**shape, window=512, overlap=overlap)
            tiling = replace(tiling, block=blocks * tiling.chunk)
            cost = spent(partial(read_blocks, source, tiling, threads))
            print(
                f"blocks of {tiling.block}, overlap {overlap}, {threads} threads: "
                f"{cost:.2f} s"
            )


def read_blocks(source: Source, tiling: Tiling, threads: int) -> None:
    """Read what the windows of each block see."""

    def one(block: Block) -> None:
        inside = block.reach.intersection(tiling.raster)
        assert inside is not None
        source.read(inside)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, tiling.each_block()))


def threshold(path: str, model: str) -> None:
    """Map a raster with a model that is cheap."""
    imports = cpu()
    plan = make_plan(path, model=model)
    with tempfile.TemporaryDirectory() as folder:
        run_plan(plan, out=f"{folder}/m.zarr", progress=False)
    pixels = plan.source.grid.height * plan.source.grid.width / 1e6
    beyond = cpu() - imports
    print(
        f"imports {imports:.2f} s, beyond them {beyond:.2f} s: "
        f"{pixels / beyond:.0f} Mpx/s per core"
    )


class Slow(http.server.SimpleHTTPRequestHandler):
    """Answers questions for parts of files, after a while."""

    protocol_version, delay = "HTTP/1.1", 0.0

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Send the bytes that are asked for."""
        time.sleep(self.delay)
        data = Path(self.translate_path(self.path)).read_bytes()
        asked = self.headers.get("Range", f"bytes=0-{len(data) - 1}")
        first, last = asked.removeprefix("bytes=").split("-")
        part = data[int(first) : int(last or len(data)) + 1]
        self.send_response(206)
        told = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
        self.send_header("Content-Range", told)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def do_HEAD(self) -> None:
        """Send the length."""
        time.sleep(self.delay)
        super().do_HEAD()


def serve(folder: str, delay: float) -> None:
    """Serve a folder until the process is ended; print the port."""
    Slow.delay = delay
    handler = partial(Slow, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


def far(path: str | None, side: int, delay: float, times: int) -> None:
    """Compare a raster far away with the same on this disk, the quickest of some."""
    import segmentation_models_pytorch as smp
    import torch

    from geoseg.models.card import Band, Card

    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    network = smp.Unet("resnet18", encoder_weights=None, in_channels=4, classes=6)
    network.card = Card(
        name="unet-resnet18",
        bands=tuple(Band(name=n, scale=4000) for n in ("blue", "green", "red", "nir")),
        classes=class_table("abcdef"),
        window=512,
        overlap=64,
        multiple=32,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = path or scene(folder, side)
        line = [sys.executable, __file__, "serve", str(Path(path).parent), str(delay)]
        with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
            for model in ("threshold:1>1500", network.eval()):
                spent: dict[str, list[float]] = {}
                for n in range(times):  # another address each time: GDAL remembers
                    there = f"{url}/{Path(path).name}?{n}"
                    for where in (path, there):
                        begun = time.perf_counter()
                        plan = make_plan(where, model=model)
                        out = f"{folder}/m.zarr"
                        run_plan(plan, out=out, progress=False, overwrite=True)
                        took = time.perf_counter() - begun
                        spent.setdefault(where[:4], []).append(took)
                here, away = map(min, spent.values())
                name = model if isinstance(model, str) else network.card.name
                print(f"{name}: here {here:.2f} s, far {away:.2f} s: {away / here:.2f}")
            server.terminate()


def main() -> None:
    """Run one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("write")
    command.add_argument("map", nargs="?")
    command.set_defaults(run=lambda told: write(told.map))
    command = commands.add_parser("read")
    command.add_argument("raster", nargs="?")
    command.set_defaults(run=lambda told: read(told.raster))
    command = commands.add_parser("threshold")
    command.add_argument("raster")
    command.add_argument("model")
    command.set_defaults(run=lambda told: threshold(told.raster, told.model))
    command = commands.add_parser("far")
    command.add_argument("raster", nargs="?")
    command.add_argument("--side", type=int, default=2048)
    command.add_argument("--delay", type=float, default=0.03)
    command.add_argument("--times", type=int, default=3)
    command.set_defaults(run=lambda t: far(t.raster, t.side, t.delay, t.times))
    command = commands.add_parser("serve")
    command.add_argument("folder")
    command.add_argument("delay", type=float)
    command.set_defaults(run=lambda told: serve(told.folder, told.delay))
    told = parser.parse_args()
    told.run(told)


if __name__ == "__main__":
    sys.exit(main())
