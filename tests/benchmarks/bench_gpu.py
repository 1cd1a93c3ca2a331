"""On a CUDA GPU: forward / whole in bf16, and MONAI, on 16384 x 16384 x 4 uint16.

    python tests/benchmarks/bench_gpu.py --side 16384

U-Net resnet34, 6 classes, window 512, overlap 64. The forward passes alone run over
windows that lie on the device already.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import segmentation_models_pytorch as smp
import torch

from geoseg.core.classes import class_table
from geoseg.inference.workflow import make_plan, run_plan
from geoseg.models.card import Band, Card


def write_noise(path: Path, side: int) -> None:
    """Write a tiled GeoTIFF of 4 x uint16 by repeating a piece of noise."""
    piece = np.random.default_rng(0).integers(200, 4000, (4, 512, 512), np.uint16)
    profile = {
        "driver": "GTiff",
        "count": 4,
        "height": side,
        "width": side,
        "dtype": "uint16",
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "crs": "EPSG:32633",
        "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6),
        "compress": "lzw",
        "num_threads": "all_cpus",
    }
    with rasterio.open(path, "w", **profile) as file:
        file.descriptions = ("blue", "green", "red", "nir")
        for y in range(0, side, 512):
            row = np.tile(piece, (1, 1, side // 512))
            file.write(row, window=rasterio.windows.Window(0, y, side, 512))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=16384)
    parser.add_argument("--monai", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    network = smp.Unet("resnet34", encoder_weights=None, in_channels=4, classes=6)
    bands = ("blue", "green", "red", "nir")
    network.card = Card(
        name="unet-resnet34",
        bands=tuple(Band(name=b, offset=2000, scale=1000) for b in bands),
        classes=class_table("abcdef"),
        window=512,
        overlap=64,
        multiple=32,
    )
    with tempfile.TemporaryDirectory() as name:
        scene = Path(name) / "scene.tif"
        write_noise(scene, options.side)
        plan = make_plan(str(scene), model=network, device="cuda", precision="bf16")
        model = plan.model.load()
        windows, batch = plan.tiling.windows, model.batch
        module = network.eval().cuda().bfloat16().to(memory_format=torch.channels_last)
        x = torch.randn(batch, 4, 512, 512, device="cuda", dtype=torch.bfloat16)
        x = x.to(memory_format=torch.channels_last)
        with torch.inference_mode():
            for _ in range(3):
                module(x)
            torch.cuda.synchronize()
            begin = time.perf_counter()
            for _ in range(-(-windows // batch)):
                module(x)
            torch.cuda.synchronize()
        forward = time.perf_counter() - begin
        begin = time.perf_counter()
        run_plan(plan, out=Path(name) / "masks.zarr", progress=False)
        whole = time.perf_counter() - begin
        facts = {
            "windows": windows,
            "batch": batch,
            "forward_seconds": forward,
            "whole_seconds": whole,
            "forward / whole": forward / whole,
            "mpx_per_second": options.side**2 / 1e6 / whole,
        }
        if options.monai:
            facts["monai_seconds"] = monai(network, scene)
            facts["MONAI / geoseg"] = facts["monai_seconds"] / whole
    print(json.dumps(facts, indent=1))


def monai(network: torch.nn.Module, scene: Path) -> float:
    """Time MONAI on the same file: windows on the GPU, sums in main memory."""
    from monai.inferers import SlidingWindowInferer

    inferer = SlidingWindowInferer(
        512, sw_batch_size=16, overlap=0.125, mode="gaussian", sw_device="cuda",
        device="cpu",
    )  # fmt: skip
    network = network.eval().cuda().bfloat16()
    begin = time.perf_counter()
    with rasterio.open(scene) as source, torch.inference_mode():
        x = (torch.from_numpy(source.read().astype(np.float32)) - 2000) / 1000
        inferer(x[None].bfloat16(), network)[0].argmax(0).numpy()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
