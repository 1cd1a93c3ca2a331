"""What a plain pipeline reaches: nothing careful, resumable or georeferenced.

The raster goes through the GPU in stripes, one row of windows after the other: threads
read ahead into pinned memory, windows are cut, scaled, run and blended on the device,
and threads compress the labels that come back. It is the price of the work itself.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import rasterio
import torch
from rasterio.windows import Window

SIDE, OVERLAP, STRIDE, CLASSES = 512, 64, 448, 6
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""A CPU, only to try that all of this works."""
PINNED = DEVICE == "cuda"


def ramps(count: int) -> torch.Tensor:
    """Return the weights of a row of windows, (count, SIDE) int32."""
    rows = torch.full((count, SIDE), 128, dtype=torch.int32)
    up = ((2 * torch.arange(OVERLAP) + 1) * 128 // (2 * OVERLAP)).int()
    rows[1:, :OVERLAP] = up
    rows[:-1, STRIDE:] = 128 - up
    return rows


class Plain:
    """One raster through one network."""

    def __init__(self, scene: Path, network: torch.nn.Module, out: Path) -> None:
        self.scene, self.out, self.local = scene, out, threading.local()
        with rasterio.open(scene) as file:
            self.height, self.width = file.height, file.width
        self.rows, self.cols = (
            -(-(n - OVERLAP) // STRIDE) for n in (self.height, self.width)
        )
        self.wide = self.cols * STRIDE + OVERLAP
        self.weights_y = ramps(self.rows).to(DEVICE)
        self.weights_x = ramps(self.cols).to(DEVICE)
        self.network = network

    def step(self, pixels: Any, weight_y: Any, weight_x: Any) -> Any:
        x = (pixels.to(torch.int32) & 0xFFFF).float().sub(2000).div(1000).bfloat16()
        scores = self.network(x.contiguous(memory_format=torch.channels_last))
        shares = (scores.float().softmax(1) * 65535 + 0.5).to(torch.int32)
        return shares * (weight_y[None, None, :, None] * weight_x[:, None, None, :])

    def read(self, row: int) -> torch.Tensor:
        """Read the lines that a row of windows adds to those of the row before."""
        if not hasattr(self.local, "file"):
            self.local.file = rasterio.open(self.scene)
        first = 0 if row == 0 else row * STRIDE + OVERLAP
        last = row * STRIDE + SIDE
        out = torch.empty(
            (4, last - first, self.wide), dtype=torch.int16, pin_memory=PINNED
        )
        pixels = out.numpy().view(np.uint16)
        high = min(last, self.height) - first
        window = Window(0, first, self.width, high)
        pixels[:, :high, : self.width] = self.local.file.read(window=window)
        pixels[:, :, self.width :] = pixels[:, :, self.width - 1 : self.width]
        pixels[:, high:] = pixels[:, high - 1 : high]
        return out

    def write(self, row: int, labels: torch.Tensor, event: Any) -> None:
        if event is not None:
            event.synchronize()
        codec, array = numcodecs.Zstd(level=1), labels.numpy()
        for x in range(0, self.width, 896):
            piece = np.ascontiguousarray(array[:, x : x + 896])
            (self.out / f"{row}.{x}").write_bytes(codec.encode(piece))

    def run(self, step: Any, batch: int = 32, readers: int = 14) -> None:
        sums = torch.zeros((CLASSES, SIDE, self.wide), dtype=torch.int32, device=DEVICE)
        pixels = torch.zeros((4, SIDE, self.wide), dtype=torch.int16, device=DEVICE)
        ahead: deque[Future[torch.Tensor]] = deque()
        writes: deque[Future[None]] = deque()
        with ThreadPoolExecutor(readers) as reading, ThreadPoolExecutor(4) as writing:
            rows = iter(range(self.rows))
            ahead.extend(reading.submit(self.read, r) for r in islice(rows, readers))
            for row in range(self.rows):
                new = ahead.popleft().result().to(DEVICE, non_blocking=True)
                ahead.extend(reading.submit(self.read, r) for r in islice(rows, 1))
                pixels = torch.cat([pixels[:, new.shape[1] :], new], 1)
                self.one_row(step, row, pixels, sums, batch)
                high = STRIDE if row < self.rows - 1 else self.height - row * STRIDE
                labels = sums[:, :high, : self.width].argmax(0).to(torch.uint8)
                host = torch.empty(labels.shape, dtype=torch.uint8, pin_memory=PINNED)
                host.copy_(labels, non_blocking=True)
                event = torch.cuda.Event() if PINNED else None
                if event is not None:
                    event.record()
                writes.append(writing.submit(self.write, row, host, event))
                if len(writes) > 8:
                    writes.popleft().result()
                rest = sums[:, STRIDE:].clone()
                sums[:, :OVERLAP], sums[:, OVERLAP:] = rest, 0
            for write in writes:
                write.result()

    def one_row(self, step: Any, row: int, pixels: Any, sums: Any, batch: int) -> None:
        windows = pixels.unfold(2, SIDE, STRIDE).permute(2, 0, 1, 3)
        for first in range(0, self.cols, batch):
            cut, weights = (x[first : first + batch] for x in (windows, self.weights_x))
            missing = batch - len(cut)
            cut = torch.nn.functional.pad(cut, (0, 0, 0, 0, 0, 0, 0, missing))
            weights = torch.nn.functional.pad(weights, (0, 0, 0, missing))
            parts = step(cut.contiguous(), self.weights_y[row], weights)
            for i in range(batch - missing):
                at = (first + i) * STRIDE
                sums[:, :, at : at + SIDE] += parts[i]


def run(scene: Path, network: torch.nn.Module) -> dict[str, float]:
    """Run it twice, the second time timed; return its figures."""
    network = network.to(DEVICE).bfloat16().to(memory_format=torch.channels_last)
    with (
        tempfile.TemporaryDirectory(dir=scene.parent) as folder,
        torch.inference_mode(),
    ):
        plain = Plain(scene, network, Path(folder))
        step = torch.compile(plain.step, dynamic=False)
        for _ in range(2):
            begin, spent = time.perf_counter(), time.process_time()
            plain.run(step)
            seconds = time.perf_counter() - begin
        mpx = plain.height * plain.width / 1e6
    return {
        "mpx_per_second": mpx / seconds,
        "cpu_per_mpx": (time.process_time() - spent) / mpx,
    }
