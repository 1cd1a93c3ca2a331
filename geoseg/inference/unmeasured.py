"""A device of a kind that geoseg was never run on: compared with the CPU before a run.

Three things are asked of it. A block of a made-up network whose scores are known goes
the whole way of a run, and comes back to the bit. The model's own scores of a window
are off fp32 as rounding explains. And they are the same bits wherever a window lies in
its batch, or its map would depend on blocks.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.classes import class_table
from geoseg.core.tiling import Tiling
from geoseg.errors import ModelError
from geoseg.inference.tasks import Tasks
from geoseg.inference.windows import Pixels
from geoseg.models.card import Band, Card
from geoseg.models.networks.gpus import is_measured

if TYPE_CHECKING:
    import torch

    from geoseg.inference.semantic import PartialBlock
    from geoseg.models.load import ModelRecipe
    from geoseg.models.networks.device import ModelOptions

_NAMES = ("classes", "confidence", "probabilities")
_FOUND: set[tuple[str, ModelOptions]] = set()
"""Models, and how they are run, that this process found to agree."""
_ELSE = "use --device cpu"


def check_answers(recipe: ModelRecipe) -> None:
    """Raise where a device that was never seen at work answers otherwise than a CPU.

    Raises:
        ModelError: By how much, in words.
    """
    model = recipe.load()
    if is_measured(model.device) or not model.streams:
        return
    key = recipe.hash, recipe.options
    if key in _FOUND:
        return
    _check_sums(model.device)
    _check_scores(recipe)
    _FOUND.add(key)


def _check_sums(device: str) -> None:
    """Raise where a block of known scores does not come back to the bit."""
    there, here = _known_block(device), _known_block("cpu")
    pairs = [(there.arrays[name], here.arrays[name]) for name in _NAMES]
    pairs += [(a.sums, b.sums) for a, b in zip(there.border, here.border, strict=True)]
    pairs += [(there.halo[key].sums, here.halo[key].sums) for key in here.halo]
    wrong = sum(int(np.count_nonzero(a != b)) for a, b in pairs)
    if wrong:
        raise ModelError(
            f"{device} adds up windows otherwise than the CPU: {wrong} of "
            f"{sum(b.size for _, b in pairs)} numbers of a trial differ; {_ELSE}"
        )


def _known_block(device: str) -> PartialBlock:
    """Return a block of which a network sees as scores what its bands hold."""
    import torch

    from geoseg.inference.block_steps import BlendStep
    from geoseg.inference.stream import Stream

    card = Card(
        name="known scores",
        bands=tuple(Band(name=band) for band in "abc"),
        classes=class_table("abc"),
        window=32,
        overlap=16,
        multiple=8,
    )
    cut = Tiling(
        height=90, width=84, window=32, overlap=16, multiple=8, chunk=32, block=32
    )
    block = cut.block_at(1, 1)  # in the middle, and most of it is border
    noise = np.random.default_rng(0)
    shape = (3, block.reach.height, block.reach.width)
    values = noise.choice(np.array([0, 7, 40000, 65535], np.uint16), shape)
    pixels = Pixels(
        reach=block.reach, values=values, valid=noise.random(shape[1:]) > 0.1
    )

    def known(x: torch.Tensor, y_weight: torch.Tensor, x_weight: torch.Tensor) -> Any:  # noqa: ANN401
        shares = x.int() * (y_weight[:, None, :, None] * x_weight[:, None, None, :])
        return shares, torch.isfinite(x).flatten(1).all(1)

    model: Any = SimpleNamespace(device=device, card=card, kernels=torch.no_grad)
    step, tasks = BlendStep(card, known), Tasks()
    stream = Stream(model, step, batch=2, memory=1e9, tasks=tasks)
    try:
        with tasks.one_more(more=False):
            found: PartialBlock = stream.segment(block, pixels, _NAMES)
    finally:
        stream.close()
    return found


def _check_scores(recipe: ModelRecipe) -> None:
    """Raise where a network's scores are off those of a CPU, or depend on a place."""
    import torch

    from geoseg.inference.device_steps import Blended, is_rounding, noise_batch

    model = recipe.load()
    options = replace(recipe.options, device="cpu", engine="torch", batch=1)
    usual = recipe.with_options(replace(options, precision=_precision(model.precision)))
    exact = recipe.with_options(replace(options, precision="fp32"))
    noise = noise_batch(usual.load(), model.batch)
    one = tuple(x[:1] for x in noise)
    with torch.no_grad():
        plain = Blended(usual.load())(*one)[0]
        right = Blended(exact.load())(*one)[0]
        for other in (usual, exact):
            if other.load() is not model:
                other.unload()
        step, there = Blended(model), tuple(x.to(model.device) for x in noise)
        with model.kernels():
            ours = step(*there)[0].cpu()
            turned = step(*(x.flip(0) for x in there))[0].flip(0).cpu()
    near, off, known = is_rounding(ours[:1], plain, right)
    if not near:
        raise ModelError(
            f"on {model.device} {model.card.name!r} answers otherwise than on the CPU: "
            f"{off:.2g} of the size of its scores off, {known:.2g} there, and half as "
            f"much again + 2^-10 are allowed; {_ELSE}"
        )
    if not torch.equal(ours, turned):
        raise ModelError(
            f"on {model.device} {model.card.name!r} answers otherwise when a window "
            f"lies elsewhere in its batch: its map would depend on blocks; {_ELSE}"
        )


def _precision(name: str) -> Any:  # noqa: ANN401 - one of `Precision`
    return name if name in {"fp32", "bf16", "fp16"} else "auto"
