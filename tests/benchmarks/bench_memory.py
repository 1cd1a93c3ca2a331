"""Peak memory of whole runs at two sizes, beside what the plan promised.

    python tests/benchmarks/bench_memory.py --model threshold:ndwi
    python tests/benchmarks/bench_memory.py --model geoseg/demo/model

Each run is a process of its own; the peak is the operating system's (ru_maxrss). The
scene is a tiled GeoTIFF of 4 x uint16, of the landscape beside the tests.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests/, for the landscape

from landscape.scene import write_scene


def peak(command: list[str]) -> tuple[float, float, str]:
    """Run a command; return its peak resident bytes, seconds and output."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss * 1024.0, time.perf_counter() - begin, output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="threshold:ndwi")
    parser.add_argument("--sides", type=int, nargs="+", default=[6000, 24000])
    parser.add_argument("--folder", help="Keep scenes here between runs.")
    options = parser.parse_args()
    peaks = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(options.folder or name)
        folder.mkdir(exist_ok=True)
        for side in options.sides:
            scene = folder / f"scene{side}.tif"
            if not scene.exists():
                truth = folder / "truth.tif"
                write_scene(scene, truth, height=side, width=side, seed=1)
            how = [str(scene), "--model", options.model]
            program = [sys.executable, "-m", "geoseg"]
            promise = json.loads(peak([*program, "plan", *how, "--json"])[2])
            out = Path(name) / f"{side}.zarr"
            used, seconds, _ = peak(
                [*program, "segment", *how, "--out", str(out), "-q"]
            )
            peaks.append(used)
            print(
                f"{side}²: peak {used / 1e9:.2f} GB, promised "
                f"{promise['memory_per_process'] / 1e9:.2f} GB, "
                f"{side**2 / 1e6 / seconds:.1f} Mpx/s, process start included",
                flush=True,
            )
    print(f"largest / smallest: {peaks[-1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
