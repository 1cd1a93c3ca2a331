"""On a CUDA GPU: whole runs beside the network, the decoder, a plain pipeline, MONAI.

    python tests/benchmarks/bench_gpu.py --side 32768 --out figures.json
    python tests/benchmarks/bench_gpu.py --side 16384 --compress none,lzw --sweep
    python tests/benchmarks/bench_gpu.py --model models/dynamicworld
    python tests/benchmarks/bench_gpu.py --start      what a second start takes

U-Net resnet34, 4 x uint16 bands, 6 classes, windows of 512 px, overlap 64, bf16. Mpx
are of the raster; what windows overlap is not counted. A first run compiles and warms
up; the second is timed, from its first read to its last chunk in place. A --model is a
folder that `geoseg model import` or `save_model` made: it runs on as many bands as its
card names, in windows and precision of its own. Without a GPU it runs on the CPU, only
to try that all of this works.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import segmentation_models_pytorch as smp
import torch
from plain_pipeline import DEVICE
from plain_pipeline import run as run_plainly
from scenes import BANDS, write_repeated
from timeline import table, timeline

from geoseg.core.classes import class_table
from geoseg.inference.device_steps import (
    Blended,
    compiled_step,
    is_compiled,
    noise_batch,
)
from geoseg.inference.workflow import make_plan, run_plan
from geoseg.models.card import Band, Card
from geoseg.models.load import model_recipe
from geoseg.models.networks.device import Precision


def write_fields(
    path: Path, side: int, compress: str, bands: Sequence[str] = BANDS
) -> None:
    """Write fields of 24 px with noise as uint16 bands, in tiles of 512 px."""
    rng, count = np.random.default_rng(0), len(bands)
    fields = np.kron(rng.integers(200, 3800, (count, 86, 86)), np.ones((24, 24), int))
    noise = rng.integers(0, 60, (count, 2048, 2048))
    piece = (fields[:, :2048, :2048] + noise).astype(np.uint16)
    write_repeated(path, piece, side, compress, bands)


NETWORKS = {
    "DeepLabV3+ resnet50": partial(smp.DeepLabV3Plus, "resnet50"),
    "SegFormer mit_b2": partial(smp.Segformer, "mit_b2"),
    "U-Net mit_b2": partial(smp.Unet, "mit_b2"),
}
"""Beside U-Net resnet34; mit_b2 reads three bands only."""


def unet(make: Any = None, bands: int = 4) -> torch.nn.Module:
    torch.manual_seed(0)
    make = make or partial(smp.Unet, "resnet34")
    network = make(encoder_weights=None, in_channels=bands, classes=6)
    network.card = Card(
        name="network",
        bands=tuple(Band(name=b, offset=2000, scale=1000) for b in BANDS[:bands]),
        classes=class_table("abcdef"),
        window=512,
        overlap=64,
        multiple=32,
    )
    return network.eval()


def synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


WARM, TIMED = (3, 20) if DEVICE == "cuda" else (1, 1)
"""Batches before the clock starts, and that it counts."""


def rate(step: Any, inputs: Any, stride: int) -> float:
    """Return Mpx of the raster per second that a step on the device does."""
    with torch.no_grad():
        for _ in range(WARM):
            step(*inputs)
        synchronize()
        begin = time.perf_counter()
        for _ in range(TIMED):
            step(*inputs)
        synchronize()
    return TIMED * len(inputs[0]) * stride**2 / 1e6 / (time.perf_counter() - begin)


def network_alone(network: Any, precision: Precision = "bf16") -> dict[str, Any]:
    """Time the network by itself, as PyTorch runs it and compiled."""
    recipe = model_recipe(network, device=DEVICE, precision=precision, engine="torch")
    model = recipe.load()
    inputs = noise_batch(model, model.batch)
    stride = model.card.window - model.card.overlap
    facts: dict[str, Any] = {"batch": model.batch, "precision": model.precision}
    with model.kernels():
        facts["eager"] = rate(lambda x, *_: model.scores(x), inputs, stride)
        facts["eager step"] = rate(Blended(model), inputs, stride)
        begin = time.perf_counter()
        step = compiled_step(recipe, model.batch)
        facts["seconds to compile"] = time.perf_counter() - begin
        facts["compiled step"] = rate(step, inputs, stride)
    return facts


def second_start(network: Any) -> dict[str, Any]:
    """Time from the loaded model to its first batch, in a process that has done none.

    What was compiled lies in the cache by now, if this is a second process.
    """
    recipe = model_recipe(network, device=DEVICE, precision="bf16", engine="torch")
    model = recipe.load()
    inputs = noise_batch(model, model.batch)
    synchronize()
    kept, begin = is_compiled(recipe, model.batch), time.perf_counter()
    with torch.no_grad(), model.kernels():
        compiled_step(recipe, model.batch)(*inputs)
        synchronize()
    seconds = time.perf_counter() - begin
    return {"seconds to the first batch": seconds, "compiled before": kept}


def whole(scene: Path, network: Any, **options: Any) -> dict[str, Any]:
    """Run it whole, twice; the second time counts."""
    options = {"precision": "bf16", **options}
    for _ in range(2):
        with tempfile.TemporaryDirectory(dir=scene.parent) as folder:
            begin = time.perf_counter()
            plan = make_plan(str(scene), model=network, device=DEVICE, **options)
            planned = time.perf_counter()
            moments: list[float] = []
            spent: list[float] = []

            def note(
                _: object, moments: list[float] = moments, spent: list[float] = spent
            ) -> None:
                moments.append(time.perf_counter())
                spent.append(time.process_time())

            _, info = run_plan(plan, out=f"{folder}/masks.zarr", progress=note)
            ended = time.perf_counter()
    seconds, mpx = moments[-1] - moments[0], plan.source.grid.pixels / 1e6
    return {
        **options,
        "block": plan.tiling.block,
        "tasks": plan.tasks,
        "seconds": seconds,
        "mpx_per_second": mpx / seconds,
        "busy": info.forward_seconds / seconds,
        "cpu_per_mpx": (spent[-1] - spent[0]) / mpx,
        "seconds to plan": planned - begin,
        "seconds to begin": moments[0] - planned,
        "seconds to end": ended - moments[-1],
    }


def stages(scene: Path, network: torch.nn.Module, **options: Any) -> dict[str, Any]:
    """Tell what takes how long in a run, and who waits; timing costs some time, too."""
    plan = make_plan(
        str(scene), model=network, device=DEVICE, precision="bf16", **options
    )
    with tempfile.TemporaryDirectory(dir=scene.parent) as folder, timeline() as spent:
        run_plan(plan, out=f"{folder}/masks.zarr", progress=False)
    print(table(spent), flush=True)
    return {name: asdict(seconds) for name, seconds in spent.items() if seconds.calls}


def decoded(scene: Path) -> dict[str, float]:
    """Time GDAL, which decodes the whole file with all cores."""
    begin, spent = time.perf_counter(), time.process_time()
    with rasterio.open(scene, num_threads="all_cpus") as file:
        for y in range(0, file.height, 4096):
            high = min(4096, file.height - y)
            file.read(window=rasterio.windows.Window(0, y, file.width, high))
        mpx = file.width * file.height / 1e6
    return {
        "mpx_per_second": mpx / (time.perf_counter() - begin),
        "cpu_per_mpx": (time.process_time() - spent) / mpx,
    }


def decoded_on_card(folder: Path, side: int, compress: str) -> dict[str, Any] | str:
    """Time nvTIFF, where nvidia-nvimgcodec is installed; compare it bit by bit."""
    if find_spec("nvidia") is None or find_spec("nvidia.nvimgcodec") is None:
        return "nvidia-nvimgcodec is not installed"
    from nvidia import nvimgcodec

    scene = folder / "on card.tif"
    write_fields(scene, side, compress)
    how = nvimgcodec.DecodeParams(
        allow_any_depth=True, color_spec=nvimgcodec.ColorSpec.UNCHANGED
    )
    try:
        decoder = nvimgcodec.Decoder()
        for _ in range(2):  # the first one makes its buffers
            begin = time.perf_counter()
            image = decoder.read(str(scene), params=how)
            synchronize()
            seconds = time.perf_counter() - begin
        with rasterio.open(scene) as file:
            right = file.read()
        found = np.asarray(image.cpu())
    except Exception as error:  # noqa: BLE001 - the other figures count all the same
        return f"{type(error).__name__}: {error}"
    finally:
        scene.unlink()
    equal = np.array_equal(np.moveaxis(found, -1, 0), right)
    return {"mpx_per_second": side**2 / 1e6 / seconds, "bit-equal": equal}


def of_the_slower(facts: dict[str, Any], compress: str) -> float:
    """Return a whole run's speed over the slower of network alone and decoder."""
    network = facts["network"]["compiled step"]
    decoder = facts[f"decoder, {compress}"]["mpx_per_second"]
    return float(facts[f"geoseg, {compress}"]["mpx_per_second"] / min(network, decoder))


def monai(network: torch.nn.Module, scene: Path) -> float:
    """Return Mpx/s of MONAI with the raster and its sums on the GPU."""
    from monai.inferers import SlidingWindowInferer

    inferer = SlidingWindowInferer(
        512, sw_batch_size=16, overlap=0.125, mode="gaussian", sw_device=DEVICE,
        device=DEVICE,
    )  # fmt: skip
    network = network.eval().to(DEVICE).bfloat16()
    begin = time.perf_counter()
    with rasterio.open(scene) as source, torch.inference_mode():
        side = min(source.width, 8192)
        window = rasterio.windows.Window(0, 0, side, side)
        pixels = source.read(window=window).astype(np.float32)
        x = (torch.from_numpy(pixels).to(DEVICE) - 2000) / 1000
        inferer(x[None].bfloat16(), network)[0].argmax(0).cpu().numpy()
    return side**2 / 1e6 / (time.perf_counter() - begin)


def others(options: argparse.Namespace, scene: Path) -> Iterator[dict[str, Any]]:
    """Yield the figures of other networks, alone and whole; those in folders last."""
    for name, make in NETWORKS.items() if options.networks else ():
        other = unet(make, 3 if "mit" in name else 4)
        yield {name: network_alone(other)}
        yield {f"{name}, whole": whole(scene, other, engine=options.engine)}
    for model in options.model:
        own, name = scene.with_name("own.tif"), Path(model).name
        bands = [band.name for band in model_recipe(model, device="cpu").card.bands]
        write_fields(own, options.side, scene.stem, bands)
        yield {name: network_alone(model, "auto")}
        how = {"engine": options.engine, "precision": "auto"}
        yield {f"{name}, {scene.stem}": whole(own, model, **how)}
        own.unlink()


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=32768)
    parser.add_argument("--compress", default="none,zstd,lzw")
    parser.add_argument("--start", action="store_true")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--stages", action="store_true")
    parser.add_argument("--networks", action="store_true")
    parser.add_argument("--model", action="append", default=[], metavar="FOLDER")
    parser.add_argument("--engine", default="compile")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    options = asked()
    card = torch.cuda.get_device_name() if DEVICE == "cuda" else DEVICE
    facts: dict[str, Any] = {"card": card, "side": options.side}

    def tell(**more: Any) -> None:
        facts.update(more)
        print(json.dumps(more), flush=True)
        if options.out:
            options.out.write_text(json.dumps(facts, indent=1))

    network = unet()
    if options.start:
        tell(**second_start(network))
        return
    tell(network=network_alone(network))
    with tempfile.TemporaryDirectory() as folder:
        for compress in options.compress.split(","):
            scene = Path(folder) / f"{compress}.tif"
            write_fields(scene, options.side, compress)
            tell(**{f"decoder, {compress}": decoded(scene)})
            found = whole(scene, network, engine=options.engine)
            tell(**{f"geoseg, {compress}": found})
            tell(**{f"of the slower, {compress}": of_the_slower(facts, compress)})
            if options.stages:
                found = stages(scene, network, engine=options.engine)
                tell(**{f"stages, {compress}": found})
            side = min(8192, options.side)
            on_card = decoded_on_card(Path(folder), side, compress)
            tell(**{f"decoder on the card, {compress}": on_card})
            if options.peers:
                tell(**{f"plain, {compress}": run_plainly(scene, unet())})
            if options.sweep:
                tried = [
                    whole(scene, network, engine=options.engine, block=b, batch=n)
                    for n in (32, 64) for b in (1792, 3584)
                ]  # fmt: skip
                best = max(each["mpx_per_second"] for each in tried)
                tell(sweep=tried, of_the_best=found["mpx_per_second"] / best)
            if options.peers and compress == "none":
                there = find_spec("monai") is not None
                tell(monai=monai(unet(), scene) if there else "is not installed")
            for told in others(options, scene):
                tell(**told)
            scene.unlink()


if __name__ == "__main__":
    main()
