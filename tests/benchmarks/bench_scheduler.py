"""What a block costs beside its pixels: 100 000 blocks of a model that does nothing.

    python tests/benchmarks/bench_scheduler.py [--blocks 100000] [--workers 2]

Runs blocks of one small window on a LocalCluster, from a source that costs nothing, and
prints milliseconds per block and the scheduler's memory at every tenth. The project's
promise: under 10 ms a block, and memory that does not grow with the blocks.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
from affine import Affine
from distributed import Client, LocalCluster

import geoseg.core.tiling
from geoseg.core.grid import Grid, Window
from geoseg.inference.workflow import make_plan, run_plan
from geoseg.rasters.open import SourceBand
from geoseg.testing import identity_card

SIDE = 16  # pixels of a window, of a chunk and of a block


@dataclass(frozen=True, kw_only=True)
class Nothing:
    """A source of zeros of any size."""

    height: int
    width: int
    name: str = "nothing"

    @property
    def grid(self) -> Grid:
        transform = Affine(10, 0, 500_000, 0, -10, 5_000_000)
        return Grid(crs=None, transform=transform, height=self.height, width=self.width)

    @property
    def bands(self) -> tuple[SourceBand, ...]:
        return SourceBand(name="1"), SourceBand(name="2")

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype("uint8")

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"name": self.name}

    notes = ()

    def select(self, _: Any) -> "Nothing":
        return self

    def read(self, window: Window) -> Any:
        shape = window.height, window.width
        return np.zeros((2, *shape), np.uint8), np.ones(shape, bool)


class Zeros:
    """A model that answers zeros; with or without an overlap."""

    def __init__(self, overlap: int) -> None:
        self.card = identity_card(
            2,
            window=SIDE + overlap,
            overlap=overlap,
            output="probabilities" if overlap else "labels",
            multiple=None if overlap else 1,
        )

    def predict(self, pixels: Any) -> Any:
        if self.card.output == "labels":
            return np.zeros((len(pixels), *pixels.shape[2:]), np.uint8)
        return np.zeros(pixels.shape, np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--overlap", type=int, default=0, help="> 0: rims, too")
    options = parser.parse_args()
    geoseg.core.tiling.CHUNK = SIDE
    rows = max(1, round(options.blocks**0.5))
    source = Nothing(height=rows * SIDE, width=-(-options.blocks // rows) * SIDE)
    folder = tempfile.mkdtemp()
    me, seen = psutil.Process(), []

    def busy() -> float:
        """Return CPU seconds of this process, its workers and their helpers."""
        times = [p.cpu_times() for p in (me, *me.children(recursive=True))]
        return sum(t.user + t.system for t in times)

    with (
        LocalCluster(
            n_workers=options.workers,
            threads_per_worker=1,
            dashboard_address=None,
            host="127.0.0.1",
        ) as cluster,
        Client(cluster) as client,
    ):
        plan = make_plan(source, model=Zeros(options.overlap), block=SIDE)
        blocks = plan.tiling.blocks
        begun = time.perf_counter()

        def show(now: Any) -> None:
            if now.blocks * 10 >= len(seen) * blocks:
                seconds = time.perf_counter() - begun
                megabytes = me.memory_info().rss / 1e6
                seen.append((now.blocks, seconds, megabytes, busy()))
                line = f"{now.blocks:>8} {seconds:8.1f} s {megabytes:7.0f} MB"
                print(line, flush=True)

        run_plan(plan, out=f"{folder}/m.zarr", client=client, progress=show)
    (_, first, before, cpu), (_, last, after, cpu_after) = seen[1], seen[-1]
    shutil.rmtree(folder)
    print(
        json.dumps(
            {
                "blocks": blocks,
                "ms_per_block": round(1000 * (last - first) / (0.9 * blocks), 2),
                "cpu_ms_per_block": round(1000 * (cpu_after - cpu) / (0.9 * blocks), 2),
                "scheduler_and_client_mb": [round(before), round(after)],
            }
        )
    )


if __name__ == "__main__":
    main()
