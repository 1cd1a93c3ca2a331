"""How much of a run is the network, family by family: bare forward passes and geoseg.

    python tests/benchmarks/bench_models.py                      all families
    python tests/benchmarks/bench_models.py --families onnx smp

A generated landscape of 4 x uint8, window 512, overlap 64, fp32, on the CPU. The bare
passes run the network as its own library has it, on the very windows that geoseg sees,
one by one, with all cores, read and scaled beforehand; for ONNX they are onnxruntime's
own. The whole is file to store. Rounds alternate; medians are printed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_segment import make_scene

from geoseg.inference.planning import Plan
from geoseg.inference.windows import batches, read_windows
from geoseg.inference.workflow import make_plan, run_plan
from geoseg.models.networks.smp import save_model as save_smp
from geoseg.models.networks.torchvision_nets import save_model as save_torchvision
from geoseg.models.plain import card_from_dict

CARD = {
    "bands": ["blue", "green", "red", "nir"], "classes": ["a", "b", "c", "d", "e", "f"],
    "mean": 90, "std": 50, "window": 512, "overlap": 64,
}  # fmt: skip
Run = Callable[[np.ndarray], Any]


def an_smp(folder: Path) -> tuple[Path, Run]:
    import segmentation_models_pytorch as smp

    net = smp.Unet("resnet18", encoder_weights=None, in_channels=4, classes=6).eval()
    framework = {"family": "smp", "arch": "Unet", "encoder": "resnet18"}
    card = card_from_dict(CARD | {"framework": framework}, name="unet")
    save_smp(net, card, folder / "smp")
    return folder / "smp", _torch(net)


def a_torchvision(folder: Path) -> tuple[Path, Run]:
    from geoseg.models.networks.torchvision_nets import build

    framework = {"family": "torchvision", "arch": "deeplabv3_mobilenet_v3_large"}
    card = card_from_dict({**CARD, "framework": framework}, name="deeplabv3")
    net = build(card).eval()
    save_torchvision(net, card, folder / "torchvision")
    return folder / "torchvision", _torch(net)


def a_transformers(folder: Path) -> tuple[Path, Run]:
    import transformers

    config = transformers.SegformerConfig(num_channels=4, num_labels=6)
    net = transformers.SegformerForSemanticSegmentation(config).eval()
    net.save_pretrained(folder / "transformers")
    card = {**CARD, "multiple": 32, "framework": {"family": "transformers"}}
    (folder / "transformers" / "card.json").write_text(json.dumps(card))
    return folder / "transformers", _torch(net)


def an_export(folder: Path) -> tuple[Path, Run]:
    import segmentation_models_pytorch as smp

    net = smp.Unet("resnet18", encoder_weights=None, in_channels=4, classes=6).eval()
    program = torch.export.export(net, (torch.zeros(1, 4, 512, 512),))
    torch.export.save(program, folder / "net.pt2")
    (folder / "net.json").write_text(json.dumps(CARD))
    return folder / "net.pt2", _torch(program.module())


def an_onnx(folder: Path) -> tuple[Path, Run]:
    import onnxruntime
    import segmentation_models_pytorch as smp

    net = smp.Unet("resnet18", encoder_weights=None, in_channels=4, classes=6).eval()
    torch.onnx.export(
        net, (torch.zeros(1, 4, 512, 512),), folder / "onnx.onnx", dynamo=False
    )
    (folder / "onnx.json").write_text(json.dumps(CARD))
    session = onnxruntime.InferenceSession(
        str(folder / "onnx.onnx"), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return folder / "onnx.onnx", lambda x: session.run(None, {name: x})


def _torch(net: Any) -> Run:
    def run(x: np.ndarray) -> None:
        with torch.inference_mode():
            net(torch.from_numpy(x))

    return run


FAMILIES = {
    "smp": an_smp,
    "torchvision": a_torchvision,
    "transformers": a_transformers,
    "torch.export": an_export,
    "onnx": an_onnx,
}


def windows_of(plan: Plan) -> list[np.ndarray]:
    """Return the windows that geoseg sees, scaled, one by one."""
    found = []
    for block in plan.tiling.each_block():
        pixels = read_windows(plan.source, plan.model.card, block.reach)
        for _, stack in batches(block, pixels, 1):
            found.append((stack.astype(np.float32) - 90) / 50)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=2240)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene, _ = make_scene(folder, options.side)
        for family in options.families:
            spec, run = FAMILIES[family](folder)
            plan = make_plan(str(scene), model=spec, device="cpu", precision="fp32")
            plan.model.load()
            windows = windows_of(plan)
            run(windows[0])
            rows = []
            for _ in range(options.rounds):
                begin = time.perf_counter()
                for x in windows:
                    run(x)
                bare = time.perf_counter() - begin
                shutil.rmtree(folder / "masks.zarr", ignore_errors=True)
                begin = time.perf_counter()
                run_plan(plan, out=folder / "masks.zarr", progress=False)
                rows.append((bare, time.perf_counter() - begin))
            ratio = statistics.median(bare / whole for bare, whole in rows)
            print(
                f"{family:<14}{len(windows)} windows: forward "
                f"{statistics.median(r[0] for r in rows):.1f} s, whole "
                f"{statistics.median(r[1] for r in rows):.1f} s, forward / whole "
                f"{ratio:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
