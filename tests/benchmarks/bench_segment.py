"""How much of a run is the network: bare passes, geoseg, and others, in one run.

    python tests/benchmarks/bench_segment.py
    python -m pip install monai openvino
    python tests/benchmarks/bench_segment.py --peers

The case: U-Net resnet18, 6 classes, 2752 x 2752 x 4 uint8 GeoTIFF, window 512, overlap
64. The network is trained for half a minute on the generated landscape (`--steps` of 4
pieces of 128 x 128), so that labels mean something when precisions are compared: on a
scene of 1856 x 1856 it is right in 0.87 of the pixels.
Whole runs read the file and write the result. MONAI's last windows are moved inward;
geoseg's are cut short and reflect what lies outside: it infers 3200 x 3200 pixels where
MONAI infers 3072 x 3072 at the same overlap, and 3584 x 3584 at its own, a quarter of
the window. Rounds alternate, medians of ratios are printed;
absolute times are this machine's: by the clock, but for OpenVINO's queue and the run by
it, which are compared in CPU time. The cores have to be quiet: where others use them
too, threads of torch's own wait for each other at every layer, those of geoseg, one per
window, do not. Then MONAI takes 3.5 to 5.5 times as long instead of 2.4 to 2.9, in fp32
2.5 to 3.7 times instead of 1.3 to 1.7.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import segmentation_models_pytorch as smp
import torch

from geoseg.core.classes import class_table
from geoseg.inference.windows import batches, read_windows
from geoseg.inference.workflow import make_plan, run_plan
from geoseg.models.card import Band, Card

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests/, for the landscape

from landscape.scene import write_scene

WINDOW, OVERLAP, CLASSES = 512, 64, 6


def make_scene(folder: Path, side: int) -> tuple[Path, Path]:
    """Write the landscape as 4 x uint8, as the case says."""
    wide, truth, narrow = folder / "u16.tif", folder / "truth.tif", folder / "u8.tif"
    write_scene(wide, truth, height=side, width=side, seed=5)
    with rasterio.open(wide) as source:
        profile = {
            **source.profile,
            "dtype": "uint8",
            "nodata": 0,
            "compress": "deflate",
            "predictor": 2,
            "photometric": "minisblack",
        }
        values = source.read()
        valid = source.dataset_mask() > 0
        narrowed = np.clip(values / 20, 1, 255).astype(np.uint8) * valid
        with rasterio.open(narrow, "w", **profile) as file:
            file.descriptions = ("blue", "green", "red", "nir")
            file.write(narrowed)
    return narrow, truth


def train(scene: Path, truth: Path, steps: int) -> torch.nn.Module:
    """Train just enough for confident labels."""
    torch.manual_seed(0)
    network = smp.Unet("resnet18", encoder_weights=None, in_channels=4, classes=CLASSES)
    with rasterio.open(scene) as file, rasterio.open(truth) as answers:
        pixels = torch.from_numpy((file.read().astype(np.float32) - 90) / 50)
        labels = torch.from_numpy(answers.read(1).astype(np.int64))
    labels[labels >= CLASSES] = -1
    network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    draw = np.random.default_rng(0)
    for _ in range(steps):
        corners = draw.integers(0, pixels.shape[1] - 128, (4, 2))
        x = torch.stack([pixels[:, y : y + 128, x : x + 128] for y, x in corners])
        y = torch.stack([labels[y : y + 128, x : x + 128] for y, x in corners])
        loss = torch.nn.functional.cross_entropy(network(x), y, ignore_index=-1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def card() -> Card:
    """Return the network's card."""
    bands = ("blue", "green", "red", "nir")
    return Card(
        name="unet-resnet18",
        bands=tuple(Band(name=b, offset=90, scale=50) for b in bands),
        classes=class_table(["a", "b", "c", "d", "e", "f"]),
        window=WINDOW,
        overlap=OVERLAP,
        multiple=32,
    )


def forward_only(network: torch.nn.Module, scene: Path, precision: str) -> float:
    """Time the passes over geoseg's windows, everything else done before."""
    plan = make_plan(str(scene), model=_with_card(network), precision=precision)
    dtype = torch.bfloat16 if plan.model.load().precision == "bf16" else torch.float32
    module = _copy(network).to(dtype)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.float()
    module = module.to(memory_format=torch.channels_last)
    seconds = 0.0
    with torch.inference_mode():
        for block in plan.tiling.each_block():
            pixels = read_windows(plan.source, plan.model.card, block.reach)
            for _, stack in batches(block, pixels, 1):
                x = (torch.from_numpy(stack).float() - 90) / 50
                x = x.to(dtype, memory_format=torch.channels_last)
                begin = time.perf_counter()
                module(x)
                seconds += time.perf_counter() - begin
    return seconds


def openvino_only(network: torch.nn.Module, scene: Path) -> float:
    """Time OpenVINO's own queue of requests over geoseg's windows, scaled before.

    The network as it is, in the precision and as many at once as OpenVINO chooses.
    """
    import openvino

    from geoseg.models.engines.openvino_cpu import converted

    plan = make_plan(str(scene), model=_with_card(network))
    shape = (1, len(plan.source.bands), WINDOW, WINDOW)
    graph = converted(_copy(network), torch.zeros(shape))
    windows = [
        (stack.astype(np.float32) - 90) / 50
        for block in plan.tiling.each_block()
        for _, stack in batches(
            block, read_windows(plan.source, plan.model.card, block.reach), 1
        )
    ]
    queues = {}
    for shape in {x.shape for x in windows}:  # the raster's edge cuts windows short
        graph.reshape(list(shape))
        throughput = {"PERFORMANCE_HINT": "THROUGHPUT"}
        compiled = openvino.Core().compile_model(graph, "CPU", throughput)
        queues[shape] = openvino.AsyncInferQueue(compiled)
    begin = time.process_time()
    for x in windows:
        queues[x.shape].start_async([x])
    for queue in queues.values():
        queue.wait_all()
    return time.process_time() - begin


def _copy(network: torch.nn.Module) -> torch.nn.Module:
    import copy

    return copy.deepcopy(network).eval()


def _with_card(network: torch.nn.Module) -> torch.nn.Module:
    network = _copy(network)
    network.card = card()
    return network


def geoseg_whole(
    network: torch.nn.Module,
    scene: Path,
    precision: str,
    folder: Path,
    engine: str,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float, np.ndarray]:
    """Time geoseg from file to store; the model is loaded before, as for the others.

    The second number is how much of that it spent in the network as it runs it, with
    batch norms folded.
    """
    plan = make_plan(
        str(scene), model=_with_card(network), precision=precision, engine=engine
    )
    plan.model.load()
    out = folder / "masks.zarr"
    shutil.rmtree(out, ignore_errors=True)
    begin = clock()
    masks, facts = run_plan(plan, out=out, progress=False)
    seconds = clock() - begin
    return seconds, facts.forward_seconds, masks.read("classes", masks.grid.window)


ALIKE = {"sw_batch_size": 4, "overlap": OVERLAP / WINDOW, "mode": "gaussian"}
"""What MONAI is told so that it blends as many windows alike; by itself it overlaps
them by a quarter, weighs all pixels of a window the same, and takes one at a time."""


def monai_whole(
    network: torch.nn.Module, scene: Path, folder: Path, told: dict[str, Any]
) -> tuple[float, np.ndarray]:
    """Time MONAI's sliding windows from file to file, in fp32."""
    from monai.inferers import SlidingWindowInferer

    inferer = SlidingWindowInferer(WINDOW, **told)
    network = _copy(network)
    begin = time.perf_counter()
    with rasterio.open(scene) as source, torch.inference_mode():
        x = (torch.from_numpy(source.read().astype(np.float32)) - 90) / 50
        labels = inferer(x[None], network)[0].argmax(0).numpy().astype(np.uint8)
        labels[source.dataset_mask() == 0] = 255
        profile = {**source.profile, "count": 1, "nodata": 255}
        with rasterio.open(folder / "monai.tif", "w", **profile) as file:
            file.write(labels, 1)
    return time.perf_counter() - begin, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=2752)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument(
        "--peers",
        action="store_true",
        help="MONAI; OpenVINO's queue, and geoseg by it.",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene, truth = make_scene(folder, options.side)
        network = train(scene, truth, options.steps)
        rows = []
        for index in range(options.rounds + 1):
            row: dict[str, float] = {}
            labels = {}
            for precision, engine in (("fp32", "threads"), ("auto", "auto")):
                row[f"forward {precision}"] = forward_only(network, scene, precision)
                whole = geoseg_whole(network, scene, precision, folder, engine)
                row[f"geoseg {precision}"], row[f"inside {precision}"] = whole[:2]
                labels[precision] = whole[2]
            if options.peers:
                row["openvino"] = openvino_only(network, scene)
                how = scene, "auto", folder, "openvino", time.process_time
                row["geoseg openvino"] = geoseg_whole(network, *how)[0]
                row["monai"], _ = monai_whole(network, scene, folder, {})
                row["monai alike"], _ = monai_whole(network, scene, folder, ALIKE)
            same = (labels["fp32"] == labels["auto"])[labels["fp32"] != 255]
            row["equal labels"] = float(same.mean())
            if index:  # the first round compiles and warms up
                rows.append(row)
    ratios = {
        "forward / whole, fp32": [r["forward fp32"] / r["geoseg fp32"] for r in rows],
        "forward / whole, auto": [r["forward auto"] / r["geoseg auto"] for r in rows],
        "model / whole, fp32": [r["inside fp32"] / r["geoseg fp32"] for r in rows],
        "model / whole, auto": [r["inside auto"] / r["geoseg auto"] for r in rows],
        "labels equal to fp32": [r["equal labels"] for r in rows],
    }
    if options.peers:
        ratios |= {
            "MONAI / geoseg (defaults)": [r["monai"] / r["geoseg auto"] for r in rows],
            "MONAI / geoseg, both fp32": [r["monai"] / r["geoseg fp32"] for r in rows],
            "MONAI at our overlap / geoseg": [
                r["monai alike"] / r["geoseg auto"] for r in rows
            ],
            "the same, both fp32": [r["monai alike"] / r["geoseg fp32"] for r in rows],
            "OpenVINO's passes / whole by it": [
                r["openvino"] / r["geoseg openvino"] for r in rows
            ],
        }
    medians = {key: statistics.median(values) for key, values in ratios.items()}
    seconds = {key: statistics.median(r[key] for r in rows) for key in rows[0]}
    for key, value in medians.items():
        print(f"{key:<32}{value:.4f}   {[round(v, 3) for v in ratios[key]]}")
    print(json.dumps({"ratios": medians, "seconds": seconds}))


if __name__ == "__main__":
    main()
