"""Engines of a CPU side by side: CPU seconds of one pass, and how far they agree.

    python tests/benchmarks/bench_engines.py
    python tests/benchmarks/bench_engines.py --families smp --precisions bf16
    python tests/benchmarks/bench_engines.py --onnxruntime

One window of 512 px, one thread, one pass after another in turn; the shortest of each.
Labels are compared with those of `threads` in fp32. Networks
have random weights: their classes lie close together, and rounding shows.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING

import torch
from bench_models import FAMILIES

from geoseg.errors import GeosegError
from geoseg.models.load import model_recipe
from geoseg.models.networks.answers import tensor_of
from geoseg.models.networks.torch_adapter import TorchModel

if TYPE_CHECKING:
    import numpy as np

ENGINES = ("threads", "openvino")
Run = Callable[[], object]


def main() -> None:
    """Print a line per family, precision and engine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--families", nargs="+", default=[f for f in FAMILIES if f != "onnx"]
    )
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--onnxruntime", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for family in options.families:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            measure(family, folder, options)


def measure(family: str, folder: Path, options: argparse.Namespace) -> None:
    """Measure one family."""
    spec, bare = FAMILIES[family](folder)
    pixels = (torch.randn(1, 4, 512, 512) * 50 + 90).numpy()
    models = {}
    for precision in options.precisions:
        for engine in ENGINES:
            how = {"device": "cpu", "precision": precision, "engine": engine}
            try:
                models[precision, engine] = model_recipe(str(spec), **how).load()
            except GeosegError as error:
                print(f"{family:14}{precision:6}{engine:10}{error}", flush=True)
    runs = {key: (lambda m=model: m.predict(pixels)) for key, model in models.items()}
    runs["fp32", "library"] = lambda: bare((pixels - 90) / 50)
    if options.onnxruntime and ("fp32", "threads") in models:
        model = models["fp32", "threads"]
        runs["fp32", "onnxruntime"] = by_onnxruntime(model, pixels, folder / "net.onnx")
    labels = {
        key: run().float().argmax(1) for key, run in runs.items() if key in models
    }
    first = labels.get(("fp32", "threads"))
    shortest = dict.fromkeys(runs, float("inf"))
    for _ in range(options.rounds):
        for key, run in runs.items():
            begun = process_time()
            run()
            shortest[key] = min(shortest[key], process_time() - begun)
    for (precision, engine), seconds in shortest.items():
        base = shortest.get((precision, "threads"), float("nan"))
        agree = ""
        if first is not None and (precision, engine) in labels:
            same = (labels[precision, engine] == first).float().mean()
            agree = f"labels {float(same):.5f}"
        print(f"{family:14}{precision:6}{engine:10}{seconds:7.3f} s "
              f"{seconds / base:5.2f} of threads  {agree}", flush=True)  # fmt: skip


def by_onnxruntime(model: TorchModel, pixels: np.ndarray, file: Path) -> Run:
    """Return what passes pixels through a network as ONNX Runtime has it, rewritten."""
    import onnxruntime

    class Tensor(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = model.modules[0]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return tensor_of(self.network(x), model.card)

    x = torch.from_numpy((pixels - 90) / 50)
    torch.onnx.export(Tensor().eval(), (x,), file, dynamo=False)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(file), settings, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: x.numpy()})


if __name__ == "__main__":
    main()
