"""How much of the time of a bare loop of training steps a training takes.

    python tests/benchmarks/bench_train.py [DEVICE] [FILE.json]

The bare loop does forward, loss, backward and step on batches that lie ready on the
device; `train` also cuts, augments, logs and writes checkpoints. It should keep 80 % of
the bare speed. On a GPU time is that of the clock, and validation is part of it; on a
CPU it is that of the processor, so that whatever else runs does not count, and there is
no validation.
"""

import csv
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import torch

from geoseg.models.folder import open_folder
from geoseg.models.networks.device import choose_device, choose_precision, torch_dtype
from geoseg.models.networks.smp import build
from geoseg.training.losses import make_loss
from geoseg.training.train import train

SIDE, PATCH = 2048, 256


def bare(card, device, batch, steps):
    """Return patches a second of nothing but steps."""
    network = build(card).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    loss = make_loss("ce+dice")
    x = torch.randn(batch, len(card.bands), PATCH, PATCH, device=device)
    x = x.to(memory_format=torch.channels_last)
    y = torch.randint(0, 2, (batch, PATCH, PATCH), device=device).byte()
    dtype = torch_dtype(choose_precision(device, "auto"))
    for step in range(steps + 2):
        if step == 2:
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            value = loss(network(x), y)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return batch * steps / (time.perf_counter() - start)


def write_scene(folder):
    rng = np.random.default_rng(0)
    for file, bands in (("r.tif", 3), ("l.tif", 1)):
        coarse = rng.integers(0, 250 if bands == 3 else 2, (bands, 32, 32))
        pixels = np.kron(coarse, np.ones((SIDE // 32, SIDE // 32))).astype("uint8")
        with rasterio.open(
            f"{folder}/{file}", "w", driver="GTiff", width=SIDE, height=SIDE,
            count=bands, dtype="uint8", crs="EPSG:32633",
            transform=rasterio.Affine(1, 0, 4e5, 0, -1, 5e6),
        ) as out:  # fmt: skip
            out.write(pixels)


def on_a_gpu(name, folder, device):
    epochs, windows, batch = 3, 6400, 64
    start = time.perf_counter()
    out = learn(folder, "m", epochs, windows, batch, name)
    whole = epochs * windows / (time.perf_counter() - start)
    rows = list(csv.DictReader(Path(out, "curves.csv").read_text().splitlines()))
    steady = windows / min(float(r["seconds"]) for r in rows)
    speed = bare(open_folder(out).card, device, batch, windows // batch)
    print(
        f"{device}: bare {speed:.1f} patches/s; train {steady:.1f} in an epoch "
        f"({steady / speed:.0%}), {whole:.1f} with start and end ({whole / speed:.0%})"
    )
    return {"bare": speed, "train": steady, "with start and end": whole}


def on_a_cpu(name, folder, device):
    windows, batch, spent = 24, 8, {}
    learn(folder, "warm", 1, batch, batch, name, validation=0.0)  # imports and the like
    for epochs in (1, 3):
        start = time.process_time()
        out = learn(folder, f"m{epochs}", epochs, windows, batch, name, validation=0.0)
        spent[epochs] = time.process_time() - start
    steady = 2 * windows / (spent[3] - spent[1])
    steps = windows // batch
    card = open_folder(out).card
    start = time.process_time()
    bare(card, device, batch, steps)
    one = time.process_time() - start
    start = time.process_time()
    bare(card, device, batch, 3 * steps)
    speed = 2 * windows / (time.process_time() - start - one)
    print(
        f"cpu: bare {speed:.2f} patches per second of one core; train {steady:.2f} "
        f"({steady / speed:.0%})"
    )
    return {"bare": speed, "train": steady}


def learn(folder, out, epochs, windows, batch, name, **more):
    return train(
        f"{folder}/r.tif", labels=f"{folder}/l.tif", out=f"{folder}/{out}",
        epochs=epochs, windows=windows, patch=PATCH, batch=batch, device=name, **more,
    )  # fmt: skip


def main(name="auto", out=None):
    device = choose_device(name)
    with tempfile.TemporaryDirectory() as folder:
        write_scene(folder)
        measure = on_a_gpu if device.type == "cuda" else on_a_cpu
        rates = measure(name, folder, device)
    if out is not None:
        facts = {"patches per second": rates, "share": rates["train"] / rates["bare"]}
        Path(out).write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
