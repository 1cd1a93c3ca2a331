"""The step: what a device does with a batch of windows, and through which engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from geoseg.core.blend import Activation, shares_of
from geoseg.errors import ModelError
from geoseg.models.engines.compiled import (
    CompileError,
    compiled,
    is_kept,
    keep_compiled,
    kept_code,
    key_of,
)

if TYPE_CHECKING:
    from geoseg.models.contract import Model
    from geoseg.models.load import ModelRecipe

Step = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Any]
"""From pixels and weights to weighted scores, and whether they are finite."""


class Blended(nn.Module):
    """From a batch of windows to what they add to the sums; one graph, so it compiles.

    Takes pixels (n, band, y, x) float32 and weights (n, y), (n, x) int32; answers
    (n, class, y, x) int32, and (n,) whether all scores are finite.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._scores = model.scores
        self.networks = nn.ModuleList(model.modules)  # so that weights are found
        card = model.card
        self._channels, self._name = card.channels, card.name
        self._activation: Activation = (
            card.activation if card.output == "logits" else "none"
        )

    def forward(
        self, pixels: torch.Tensor, weight_y: torch.Tensor, weight_x: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weighted integer scores, and whether they are finite."""
        scores = self._scores(pixels)
        expected = (len(pixels), self._channels, *pixels.shape[2:])
        if tuple(scores.shape) != expected:
            raise ModelError(
                f"model {self._name!r} gave scores {tuple(scores.shape)}, its card "
                f"promises {expected} (windows, classes, rows, columns)"
            )
        finite = torch.isfinite(scores).flatten(1).all(1)
        shares = shares_of(scores.float(), self._activation, axis=1)
        weights = weight_y[:, None, :, None] * weight_x[:, None, None, :]
        return shares * weights, finite


def noise_batch(model: Model, batch: int) -> tuple[torch.Tensor, ...]:
    """Return inputs of a step: a batch of noise about the size of real pixels."""
    card = model.card
    noise = torch.Generator().manual_seed(0)
    shape = (batch, len(card.bands), card.window, card.window)
    offset, scale = (
        torch.tensor([getattr(b, name) for b in card.bands]).view(1, -1, 1, 1)
        for name in ("offset", "scale")
    )
    pixels = torch.randn(shape, generator=noise) * scale + offset
    # Two tensors, though alike: what is traced may take one for the other else.
    weights = (
        torch.randint(1, 128, (batch, card.window), generator=noise, dtype=torch.int32)
        for _ in range(2)
    )
    return tuple(x.to(model.device) for x in (pixels, *weights))


def blank_weights(
    batch: int, shape: tuple[int, int], device: torch.device | str
) -> tuple[torch.Tensor, ...]:
    """Return weights along y and x of windows of a shape, all of them zeros."""
    return tuple(
        torch.zeros((batch, side), dtype=torch.int32, device=device) for side in shape
    )


def code_key(recipe: ModelRecipe, batch: int) -> str:
    """Return the name under which a model's compiled step is kept."""
    model = recipe.load()
    card = model.card
    shape = batch, len(card.bands), card.window, card.channels
    return key_of(f"{recipe.identity} {model.precision}", shape, model.device)


def compiled_step(recipe: ModelRecipe, batch: int) -> Step:
    """Return the compiled step of a model, from disk where it was compiled before.

    Raises:
        CompileError: It cannot be compiled, or answers otherwise then.
    """
    model = recipe.load()
    step = Blended(model)
    with model.kernels():
        return compiled(
            step,
            partial(noise_batch, model, batch),
            code_key(recipe, batch),
            partial(_check, step, recipe),
        )


def _check(
    step: Step, recipe: ModelRecipe, made: Step, inputs: tuple[torch.Tensor, ...]
) -> None:
    """Raise where compiled code answers otherwise than rounding explains.

    Compiling changes the order of sums and where they are rounded; how far rounding
    may lead astray is measured.
    """
    options = replace(recipe.options, precision="fp32", engine="torch", batch=1)
    exact = recipe.with_options(options)
    few = tuple(x[:2] for x in inputs)
    with torch.no_grad():
        right = Blended(exact.load())(*few)[0]
    if exact.load() is not recipe.load():
        exact.unload()  # or its weights stayed on the card
    with torch.no_grad():
        ours, plain = (f(*inputs)[0][:2] for f in (made, step))
    near, off, usual = is_rounding(ours, plain, right)
    if not near:
        raise CompileError(
            f"compiled, the network answers differently: {off:.2g} of the size of "
            f"its scores off, {usual:.2g} as PyTorch runs it"
        )


def is_rounding(
    ours: torch.Tensor, plain: torch.Tensor, right: torch.Tensor
) -> tuple[bool, float, float]:
    """Return whether scores are no further off than rounding explains.

    Args:
        ours: Scores of what is checked.
        plain: Those of PyTorch in the same precision.
        right: Those of PyTorch in fp32.

    Returns:
        Whether they are half as far off again as PyTorch's at most, and 2^-10 of the
        size of the scores; and how far both are, in parts of that size.
    """
    exact = right.double()
    off, usual = ((x.double() - exact).square().mean().sqrt() for x in (ours, plain))
    size = exact.square().mean().sqrt()
    near = bool(off <= 1.5 * usual + size / 1024)
    return near, float(off / size), float(usual / size)


def is_compiled(recipe: ModelRecipe, batch: int) -> bool:
    """Whether the step was compiled before, on this machine or for it."""
    return is_kept(code_key(recipe, batch))


def code_of(recipe: ModelRecipe, batch: int) -> bytes | None:
    """Return the compiled step as bytes, for other machines; None without one."""
    return kept_code(code_key(recipe, batch))


def keep_code(recipe: ModelRecipe, batch: int, code: bytes) -> None:
    """Keep what `code_of` gave in another process, unless there is one."""
    key = code_key(recipe, batch)
    if not is_kept(key):
        keep_compiled(key, code)


def eager_seconds(recipe: ModelRecipe, batch: int) -> float:
    """Return how long PyTorch itself takes for a step, measured on a second one."""
    model = recipe.load()
    side, step = model.card.window, Blended(model)
    shape = (batch, len(model.card.bands), side, side)
    weights = blank_weights(batch, (side, side), model.device)
    inputs = (torch.zeros(shape, device=model.device), *weights)
    seconds = 0.0
    with torch.no_grad(), model.kernels():
        for _ in range(2):
            begun = perf_counter()
            int(step(*inputs)[1].sum())  # waits for the device
            seconds = perf_counter() - begun
    return seconds
