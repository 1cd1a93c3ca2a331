"""Every kind of answer through one device: labels, objects, single pixels.

    python tests/benchmarks/bench_answers.py [--device cuda] [--side 4096] [--out FILE]

4 x uint16, windows of 512 px, overlap 64; networks have random weights, so that only
their speed says something. The second of two runs is timed, Mpx are of the raster.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
from scenes import BANDS, write_repeated

from geoseg.core.classes import class_table
from geoseg.inference.workflow import make_plan, run_plan
from geoseg.models.card import Band, Card
from geoseg.models.networks.detector import DetectorModel, Finder
from geoseg.models.networks.device import ModelOptions

CARD = Card(
    name="network",
    bands=tuple(Band(name=b, offset=2000, scale=1000) for b in BANDS[:3]),
    classes=class_table("abcd"),
    window=512,
    overlap=64,
    multiple=32,
)


class Labels(torch.nn.Module):
    """A U-Net that answers labels only."""

    def __init__(self) -> None:
        super().__init__()
        self.net = smp.Unet("resnet34", encoder_weights=None, in_channels=3, classes=4)
        self.card = replace(CARD, output="labels")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x).argmax(1)


def detector(network: Finder, device: str, **facts: Any) -> DetectorModel:
    how = {"task": "instance", "things": None, "facts": {"score": 0.3}} | facts
    options = ModelOptions(device=device, engine="torch")
    return DetectorModel(network, replace(CARD, **how), options)


def mask_rcnn(device: str) -> DetectorModel:
    from geoseg.models.networks.torchvision_nets import MaskRcnn, build

    framework = {"family": "torchvision", "arch": "maskrcnn_resnet50_fpn_v2"}
    card = replace(CARD, task="instance", framework=framework)
    return detector(MaskRcnn(build(card)), device)


def mask2former(device: str) -> DetectorModel:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    from geoseg.models.networks.queries import Queries, QueryObjects

    config = Mask2FormerConfig(num_labels=4)
    network = Queries(Mask2FormerForUniversalSegmentation(config), "mask2former", None)
    panoptic = {"task": "panoptic", "things": ("c", "d"), "output": "probabilities"}
    return detector(QueryObjects(network), device, **panoptic)


def sam(device: str) -> DetectorModel:
    from transformers import SamConfig, SamModel

    from geoseg.models.networks.sam import Decoder, Everything

    config = SamConfig(vision_config={"image_size": 512})
    config.prompt_encoder_config.image_size = 512
    config.prompt_encoder_config.image_embedding_size = 32
    facts = {"points_per_side": 4, "score": 0.0}
    network = Everything(Decoder(SamModel(config)), facts)
    return detector(network, device, facts=facts, multiple=None)


MODELS: dict[str, Callable[[str], Any]] = {
    "threshold, processor": lambda _: "threshold:(nir-red)/(nir+red)",
    "threshold": lambda _: "threshold:(nir-red)/(nir+red)",
    "k-means of 6, processor": lambda _: "kmeans:6",
    "k-means of 6": lambda _: "kmeans:6",
    "U-Net resnet34, labels": lambda _: Labels().eval(),
    "Mask R-CNN resnet50 v2": mask_rcnn,
    "Mask2Former swin-t, panoptic": mask2former,
    "SAM ViT-B, 16 points": sam,
}


def whole(scene: Path, model: Any, **options: Any) -> dict[str, float]:
    for _ in range(2):
        with tempfile.TemporaryDirectory(dir=scene.parent) as folder:
            plan = make_plan(str(scene), model=model, **options)
            moments: list[float] = []

            def note(_: object, moments: list[float] = moments) -> None:
                moments.append(time.perf_counter())

            _, info = run_plan(plan, out=f"{folder}/masks.zarr", progress=note)
    seconds = moments[-1] - moments[0]
    mpx = plan.source.grid.pixels / 1e6
    return {"mpx_per_second": mpx / seconds, "busy": info.forward_seconds / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    facts: dict[str, Any] = {"device": options.device, "side": options.side}
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder) / "scene.tif"
        rng = np.random.default_rng(0)
        piece = rng.integers(200, 4000, (4, 512, 512), np.uint16)
        write_repeated(scene, piece, options.side, "zstd")
        for name, make in MODELS.items():
            if options.only not in name:
                continue
            beside = "processor" in name
            how = {} if beside else {"device": options.device, "engine": "torch"}
            model = make(options.device)
            if isinstance(model, DetectorModel):
                how = {}  # it is on its device already
            try:
                facts[name] = whole(scene, model, **how)
            except Exception as error:  # noqa: BLE001 - the other lines count all the same
                facts[name] = f"{type(error).__name__}: {error}"
            print(json.dumps({name: facts[name]}), flush=True)
            if options.out:
                options.out.write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
