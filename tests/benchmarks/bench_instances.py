"""Objects at scale: is the truth found, how long does joining take, in how much memory.

    python tests/benchmarks/bench_instances.py            10^5 discs and 10^6 squares
    python tests/benchmarks/bench_instances.py discs      only those

Joining is everything but the model: reading, cutting windows' objects, comparing,
joining, composing, numbering, and writing ids. It is set against a small U-Net
(ResNet-18, 512 px windows), as cheap a model as is used. Times are processor seconds,
so that other programs on the machine do not matter.
"""

import argparse
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from oracles import Objects, Oracle, Scene, card, dense_grid, numbered

import geoseg


class FastOracle(Oracle):
    """An oracle for scenes whose ids grow in reading order of their first pixels."""

    def see(self, truth):
        ids, labels = np.unique(truth, return_inverse=True)
        labels = labels.reshape(truth.shape).astype(np.int32)
        if ids[0] != 0:
            labels += 1
        k = int(labels.max())
        return Objects(labels=labels, classes=np.zeros(k, int), scores=np.full(k, 0.9))


def scattered(side, spacing, radius=(3, 9), seed=0):
    """Discs around the points of a jittered grid: as many as fit, none touching."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((side, side), np.uint32)
    n = 0
    for cy in range(spacing // 2, side - spacing // 2, spacing):
        for cx in range(spacing // 2, side - spacing // 2, spacing):
            r = int(rng.integers(*radius))
            play = max(1, spacing // 2 - r - 1)
            y, x = cy + rng.integers(-play, play), cx + rng.integers(-play, play)
            yy, xx = np.ogrid[-r : r + 1, -r : r + 1]
            n += 1
            box = truth[y - r : y + r + 1, x - r : x + r + 1]
            box[yy**2 + xx**2 <= r * r] = n
    return truth


def unet_seconds(window=512, repeats=5):
    """Return the seconds that a small U-Net needs for a window on this machine."""
    import segmentation_models_pytorch as smp
    import torch

    net = smp.Unet("resnet18", encoder_weights=None, classes=2).eval()
    x = torch.zeros(1, 3, window, window)
    with torch.inference_mode():
        net(x)
        begin = time.process_time()
        for _ in range(repeats):
            net(x)
    return (time.process_time() - begin) / repeats


class Peak:
    """The highest resident memory of this process above where it began, in bytes."""

    def __enter__(self):
        self._process = psutil.Process()
        self._begin = self._process.memory_info().rss
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self):
        while not self._stop.wait(0.02):
            now = self._process.memory_info().rss - self._begin
            self.bytes = max(self.bytes, now)

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


def measure(name, truth, *, block, unet):
    want = numbered(truth)
    model = FastOracle(card(512, 64))
    folder = Path(tempfile.mkdtemp())
    try:
        segment = lambda out: geoseg.segment(  # noqa: E731
            Scene(truth), model=model, out=folder / out, block=block, progress=False
        )
        small = Scene(truth[:600, :600].copy())  # compiles what there is to compile
        geoseg.segment(small, model=model, out=folder / "warm", progress=False)
        model.windows = 0
        seconds = [0.0]
        plain = model.predict

        def predict(pixels):
            begin = time.thread_time()
            try:
                return plain(pixels)
            finally:
                seconds[0] += time.thread_time() - begin

        model.predict = predict
        with Peak() as peak:
            begin = time.process_time()
            data = segment("masks.zarr")
            total = time.process_time() - begin
        ids = data["instances"].to_numpy()
        right = np.array_equal(ids, want)
    finally:
        shutil.rmtree(folder)
    joining = (total - seconds[0]) / model.windows
    print(
        f"{name}: {truth.shape[0]} x {truth.shape[1]} px, block {block}: "
        f"{ids.max():,} objects, {'all as the truth' if right else 'WRONG'}; "
        f"{total:.1f} s ({seconds[0]:.1f} s oracle), joining {1e3 * joining:.1f} ms "
        f"a window = {100 * joining / unet:.1f} % of a small U-Net's "
        f"{1e3 * unet:.0f} ms; peak + {peak.bytes / 1e6:.0f} MB",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenes", nargs="*", default=["discs", "squares"])
    chosen = parser.parse_args().scenes
    unet = unet_seconds()
    if "discs" in chosen:
        truth = scattered(7200, 22)
        for block in (896, 1792, 3584):
            measure("discs", truth, block=block, unet=unet)
    if "squares" in chosen:
        measure("squares", dense_grid(8000, 8000, side=7), block=1792, unet=unet)


if __name__ == "__main__":
    main()
