"""Train the demo's model: `python -m landscape.train --out FOLDER`.

A small U-Net learns from windows of landscapes whose seeds the demo never uses. The
same steps, seed and number of threads on the same CPU give the same weights; it takes
about five minutes on one core.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.accuracy.accuracy import estimate
from geoseg.core.grid import Window
from geoseg.models.card import Band, Card
from landscape.example import example
from landscape.scene import BANDS, CLASSES, NODATA, TRUTH_NODATA, Scene

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    Batch = tuple[NDArray[np.uint16], NDArray[np.uint8]]

MODEL = Path(__file__).with_name("model")
"""The model folder that ships with geoseg."""

# Mean and deviation of 256 training windows, rounded: fixed numbers, not statistics of
# the scene at hand, so that a pixel means the same in every tile of every scene.
_SCALING = {
    "blue": (640.0, 310.0),
    "green": (900.0, 350.0),
    "red": (850.0, 460.0),
    "nir": (2560.0, 900.0),
}

_FIRST_TRAINING_SEED = 1 << 20
_FIRST_HELD_OUT_SEED = 1 << 24
_PLANE = 1 << 18  # rows and columns of the landscapes that windows are taken from


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to train."""

    steps: int = 1000
    """Batches."""
    batch: int = 8
    """Windows in a batch."""
    side: int = 192
    """Rows and columns of a window."""
    rate: float = 4e-3
    """Highest learning rate of the one-cycle schedule."""
    seed: int = 0
    """Of weights and windows."""
    threads: int = 1
    """CPU threads; with another number sums round otherwise."""


def demo_card() -> Card:
    """Return the card of the demo's model, without the facts of its training."""
    return Card(
        name="geoseg demo landscape",
        bands=tuple(
            Band(name=name, common_name=name, offset=offset, scale=scale)
            for name, (offset, scale) in _SCALING.items()
        ),
        classes=CLASSES,
        window=512,
        overlap=64,
        resolution=10.0,
        dtypes=("uint16",),
        value_range=(0.0, 20_000.0),
        nodata=float(NODATA),
        numbers="s2-l2a-before-0400",
        description=(
            "A small U-Net for the landscapes that `geoseg demo` generates. It has "
            "never seen the Earth: maps of real scenes need a model trained on them."
        ),
        license="Apache-2.0",
        framework={
            "family": "smp",
            "arch": "Unet",
            "encoder": "tu-mobilenetv4_conv_small_035",
            "encoder_depth": 4,
            "decoder_channels": [64, 48, 24, 16],
        },
        multiple=32,
    )


def windows(seed: int, side: int, first_seed: int) -> Iterator[Batch]:
    """Yield pixels (band, y, x) and classes (y, x) of windows with some variety.

    Args:
        seed: of the choice of windows.
        side: rows and columns.
        first_seed: landscapes have seeds from here on.
    """
    random = np.random.default_rng(seed)
    while True:
        # Up to four tries for a window that is not all forest.
        for _ in range(4):
            landscape = first_seed + int(random.integers(1 << 16))
            y, x = (int(v) for v in random.integers(_PLANE // 2, size=2))
            scene = Scene(height=_PLANE, width=_PLANE, seed=landscape)
            pixels, truth = scene.read(Window(y=y, x=x, height=side, width=side))
            shares = np.bincount(truth.ravel(), minlength=len(CLASSES)) / truth.size
            if (shares > 0.03).sum() >= 3:
                break
        yield _end_of_swath(pixels, truth, random)


def _end_of_swath(
    pixels: NDArray[np.uint16], truth: NDArray[np.uint8], random: np.random.Generator
) -> Batch:
    """Return one window in eight with nodata beyond a slanted line."""
    slope, where, side, draw = random.uniform(-1, 1, size=4)
    if draw > 0.75:
        y, x = np.mgrid[-1 : 1 : truth.shape[0] * 1j, -1 : 1 : truth.shape[1] * 1j]
        outside = (x + slope * y > where) == (side > 0)
        pixels[:, outside] = NODATA
        truth[outside] = TRUTH_NODATA
    return pixels, truth


def batches(settings: Settings) -> Iterator[Batch]:
    """Yield batches, turned and mirrored at random, made ahead in a thread."""
    random = np.random.default_rng(settings.seed)
    source = windows(settings.seed, settings.side, _FIRST_TRAINING_SEED)

    def make() -> Batch:
        pairs = [next(source) for _ in range(settings.batch)]
        turned = [
            _turn(pixels, truth, int(random.integers(8))) for pixels, truth in pairs
        ]
        return np.stack([p for p, _ in turned]), np.stack([t for _, t in turned])

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(make)
        for _ in range(settings.steps):
            batch = ahead.result()
            ahead = pool.submit(make)
            yield batch


def _turn(pixels: NDArray[np.uint16], truth: NDArray[np.uint8], how: int) -> Batch:
    pixels, truth = np.rot90(pixels, how % 4, axes=(1, 2)), np.rot90(truth, how % 4)
    if how >= 4:
        pixels, truth = pixels[:, :, ::-1], truth[:, ::-1]
    return pixels, truth


def scaled(pixels: NDArray[np.uint16]) -> torch.Tensor:
    """Return (n, band, y, x) pixels as the network takes them, nodata as 0."""
    import torch

    offset, scale = (
        np.array([_SCALING[name][i] for name in BANDS], np.float32)[:, None, None]
        for i in range(2)
    )
    values = (pixels.astype(np.float32) - offset) / scale
    values[np.broadcast_to((pixels == NODATA).any(1, keepdims=True), pixels.shape)] = 0
    return torch.from_numpy(values).contiguous(memory_format=torch.channels_last)


def train(settings: Settings) -> torch.nn.Module:
    """Return the trained network."""
    import torch

    from geoseg.models.networks.smp import build

    torch.set_num_threads(settings.threads)
    torch.use_deterministic_algorithms(mode=True)
    # None is read; filling it costs a fifth of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.manual_seed(settings.seed)
    network = build(demo_card()).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.rate, total_steps=settings.steps, pct_start=0.15
    )
    loss_of = torch.nn.CrossEntropyLoss(ignore_index=TRUTH_NODATA)
    network.train()
    for step, (pixels, truth) in enumerate(batches(settings), start=1):
        target = torch.from_numpy(np.ascontiguousarray(truth)).long()
        # In bf16, as many users will run it: it learns answers that survive rounding.
        with torch.autocast("cpu", torch.bfloat16):
            scores = network(scaled(pixels))
        loss = loss_of(scores.float(), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 25 == 0 or step == settings.steps:
            _say(f"step {step} of {settings.steps}: loss {loss.item():.3f}")
    return network.eval()


def held_out(count: int = 24, side: int = 512) -> list[Batch]:
    """Return windows of landscapes that training never saw."""
    source = windows(1, side, _FIRST_HELD_OUT_SEED)
    return [next(source) for _ in range(count)]


def evaluate(network: torch.nn.Module, pairs: list[Batch]) -> dict[str, Any]:
    """Return overall accuracy and the intersection over union of each class."""
    import torch

    def answer(pixels: NDArray[np.uint16]) -> NDArray[np.int64]:
        with torch.inference_mode():
            return np.asarray(network(scaled(pixels[None])).argmax(1)[0])

    return _scores(answer, pairs)


def evaluate_colours(pairs: list[Batch], count: int = 256) -> dict[str, Any]:
    """Return the same of the best guess by a pixel's colour alone, the baseline.

    For each colour, 16 steps in every band, the class that it most often had in
    training windows: what no method that looks at single pixels can much exceed.
    """
    source = windows(0, 256, _FIRST_TRAINING_SEED)
    counts = np.zeros((16 ** len(BANDS), len(CLASSES)), np.int32)
    for _ in range(count):
        pixels, truth = next(source)
        valid = truth != TRUTH_NODATA
        np.add.at(counts, (_colour(pixels)[valid], truth[valid]), 1)
    best = counts.argmax(1)
    return _scores(lambda pixels: best[_colour(pixels)], pairs)


def _colour(pixels: NDArray[np.uint16]) -> NDArray[np.int64]:
    """Return the bin of every pixel, by the square root of what the bands say."""
    highest = np.sqrt([2000.0, 2200.0, 2500.0, 5500.0])[:, None, None]
    steps = np.clip(16 * np.sqrt(pixels) / highest, 0, 15).astype(np.int64)
    index = np.zeros(steps.shape[1:], np.int64)
    for band in steps:
        index = index * 16 + band
    return index


def _scores(
    answer: Callable[[NDArray[np.uint16]], NDArray[np.int64]], pairs: list[Batch]
) -> dict[str, Any]:
    n = len(CLASSES)
    counts = np.zeros((n, n), np.int64)
    for pixels, truth in pairs:
        valid = truth != TRUTH_NODATA
        pair = answer(pixels)[valid] * n + truth[valid]
        counts += np.bincount(pair, minlength=n * n).reshape(n, n)
    names = [c.name for c in CLASSES]
    figures = estimate(counts, names=names, estimator="census")
    iou = zip(names, (c.iou.value for c in figures.per_class), strict=True)
    return {
        "accuracy": round(figures.overall.value, 4),
        "iou": {name: round(value, 4) for name, value in iou},
    }


def main(arguments: list[str] | None = None) -> None:
    """Train, evaluate on held-out landscapes, and write the model folder."""
    from geoseg.models.networks.smp import save_model

    usual = Settings()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=MODEL, help="model folder to write")
    parser.add_argument("--steps", type=int, default=usual.steps)
    parser.add_argument("--threads", type=int, default=usual.threads)
    given = parser.parse_args(arguments)
    settings = Settings(steps=given.steps, threads=given.threads)
    network = train(settings)
    pairs = held_out()
    result, baseline = evaluate(network, pairs), evaluate_colours(pairs)
    grid = example()[2]
    facts = {
        "only_for": {
            "warning": "the demo's model has only ever seen generated landscapes: "
            "elsewhere its class names are guesses",
            "shape": [grid.height, grid.width],
            "transform": list(grid.transform[:6]),
        },
        "trained_on": f"{settings.steps * settings.batch} generated windows of "
        f"{settings.side} x {settings.side} px",
        "steps": settings.steps,
        "seed": settings.seed,
        "held_out": result,
        "held_out_by_colour_alone": baseline,
    }
    save_model(network, replace(demo_card(), facts=facts), given.out)
    _say(f"held out: {result}")
    _say(f"by colour alone: {baseline}")
    _say(f"wrote {given.out}")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    main()
