"""What a run costs around its network: CPU seconds per Mpx with one that costs nothing.

    python tests/benchmarks/bench_host.py [--side 8192] [--precision bf16]

4 x uint16 in ZSTD tiles, windows of 512 px, overlap 64, 6 classes. Reading, cutting
windows, softmax, sums, labels, what blocks exchange, and writing count; the second
of two runs, so that nothing is compiled in it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scenes import BANDS, write_repeated

from geoseg.core.classes import class_table
from geoseg.inference.workflow import make_plan, run_plan
from geoseg.models.card import Band, Card


class Nothing(torch.nn.Module):
    """Answers its bands, and two of them again, as scores."""

    card = Card(
        name="nothing",
        bands=tuple(Band(name=b, offset=2000, scale=1000) for b in BANDS),
        classes=class_table("abcdef"),
        window=512,
        overlap=64,
        multiple=32,
    )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x[:, :2]], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--precision", default="bf16")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder) / "scene.tif"
        rng = np.random.default_rng(0)
        piece = rng.integers(200, 4000, (4, 512, 512), np.uint16)
        write_repeated(scene, piece, options.side, "zstd")
        plan = make_plan(
            str(scene), model=Nothing(), device="cpu", precision=options.precision
        )
        for again in range(2):
            spent = time.process_time()
            run_plan(plan, out=f"{folder}/{again}.zarr", progress=False)
            spent = time.process_time() - spent
    facts = {"block": plan.tiling.block, "cpu_per_mpx": spent / options.side**2 * 1e6}
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
