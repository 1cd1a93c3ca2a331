"""Exported networks: `torch.export` (`.pt2`) and TorchScript (`.pt`), card beside.

The card is a JSON file of the same name (`roads.pt2`, `roads.json`), or `card.json` in
the same folder. Exported graphs have their dtype built in: they keep fp32 weights, and
in bf16 or fp16, as GPUs have it, torch casts what goes into products (autocast). A
`.pt` or `.pth` without code is a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from geoseg.core.text import counted
from geoseg.errors import ModelError
from geoseg.models.identity import OpenedModel, file_sha256, opened
from geoseg.models.networks import checkpoint
from geoseg.models.networks.device import (
    ModelOptions,
    choose_device,
    choose_precision,
    torch_dtype,
)
from geoseg.models.networks.safe_program import is_script, load_program, load_script
from geoseg.models.networks.torch_adapter import TorchModel
from geoseg.models.stac import card_beside

if TYPE_CHECKING:
    from geoseg.models.card import Card
    from geoseg.models.contract import Model
    from geoseg.models.folder import ModelFolder


_MOST_WINDOWS = 1024  # at once, of a program that takes no other number


def open_file(path: Path) -> OpenedModel:
    """Return the model in an exported file, or in a checkpoint of the same ending."""
    if path.suffix != ".pt2" and path.is_file() and not is_script(path):
        return checkpoint.open_file(path)
    card = card_beside(path)
    return opened(path, card, partial(_load, path, card), file_sha256(path))


def load_folder(folder: ModelFolder, options: ModelOptions) -> Model:
    """Load the exported network of a model folder."""
    return _load(folder.weights_file, folder.card, options)


def _load(path: Path, card: Card, options: ModelOptions) -> Model:
    device = choose_device(options.device)
    precision = options.precision
    if precision == "auto":  # a CPU is no faster for it
        on_gpu = device.type != "cpu"
        precision = choose_precision(device, "auto") if on_gpu else "fp32"
    if path.suffix == ".pt2":
        network = _program(path, card)
    else:
        network = Frozen(load_script(path))
    if options.engine == "openvino":  # it rounds by itself
        return TorchModel(network, card, replace(options, precision=precision))
    network.cast = None if precision == "fp32" else torch_dtype(precision)
    model = TorchModel(network, card, replace(options, precision="fp32"))
    model.precision = precision
    return model


def _program(path: Path, card: Card) -> Frozen:
    program = load_program(path)
    inputs = program.graph_signature.user_inputs
    values = [n.meta["val"] for n in program.graph.nodes if n.name in inputs]
    shape = channels_of([v.shape for v in values], card)
    if shape is None:
        raise ModelError(
            f"the program {path.name} takes {', '.join(map(str, inputs))}; "
            f"{inputs_told(card)}"
        )
    shape = [side if isinstance(side, int) else None for side in shape]
    check_input(shape, card, f"the program {path.name}")
    return Frozen(program.module(), shape[0])


def channels_of(shapes: Sequence[Sequence[Any]], card: Card) -> list[Any] | None:
    """Return (n, channel, y, x) of what a graph takes; None where a card's differ.

    Args:
        shapes: Of its inputs; what is not an integer is free.
        card: Says how many inputs there are, and how the first is laid out.
    """
    pixels = max(1, len(card.modalities))
    shape = list(shapes[0]) if shapes else []
    dims = 4 if card.layout == "flat" else 5
    if len(shapes) != pixels + len(card.inputs):
        return None
    if card.modalities:  # each has some of the bands
        return [shape[0], None, *shape[-2:]]
    if len(shape) != dims:
        return None
    if dims == 5:
        steps, bands = shape[1:3] if card.layout == "tcyx" else shape[2:0:-1]
        known = isinstance(steps, int) and isinstance(bands, int)
        fits = known and card.times is not None and steps == card.times.count
        shape[1:3] = [steps * bands if fits else 0 if known else None]
    return shape


def inputs_told(card: Card) -> str:
    """Return what a card says that its network takes, for a message."""
    of = f"{len(card.modalities)} inputs" if card.modalities else "one input"
    dims = "four" if card.layout == "flat" else f"five ({card.layout})"
    then = f", then {', '.join(card.inputs)}" if card.inputs else ""
    return f"{of} of {dims} dimensions{then}, {'are' if then else 'is'} needed"


def check_input(shape: Sequence[Any], card: Card, what: str) -> None:
    """Compare a graph's input with a card, before anything runs.

    Args:
        shape: Windows, bands, height and width; what is not an integer is free.
        card: The card.
        what: Whose graph it is, for the message.

    Raises:
        ModelError: It takes other bands or windows than the card says.
    """
    windows, bands, *sides = shape
    if isinstance(windows, int) and windows > _MOST_WINDOWS:
        raise ModelError(f"{what} takes {windows} windows at once: export it for fewer")
    if isinstance(bands, int) and bands != len(card.bands):
        raise ModelError(
            f"{what} takes {counted(bands, 'band')}, its card names {len(card.bands)}"
        )
    fixed = [side for side in sides if isinstance(side, int)]
    if any(side != card.window for side in fixed):
        raise ModelError(
            f"{what} takes windows of {sides[0]} x {sides[1]} px, its card says "
            f'{card.window} px: write "window": {fixed[0]} into {card.name!r}, or '
            "export it again with dynamic sides"
        )
    if fixed and card.multiple is not None:
        raise ModelError(
            f"{what} takes full windows only: leave 'multiple' out of its card"
        )


class Frozen(nn.Module):
    """A network whose mode, and perhaps batch, was set when it was exported."""

    def __init__(self, network: nn.Module, batch: int | None = None) -> None:
        super().__init__()
        self.network = network
        self.batch = batch
        self.cast: torch.dtype | None = None
        """What torch casts factors of products to; None: nothing is cast."""

    def train(self, mode: bool = True) -> Frozen:
        """Do nothing: exported programs refuse to change."""
        self.training = mode
        return self

    def forward(self, x: Any, *more: torch.Tensor) -> Any:  # noqa: ANN401 - as exported
        """Pass windows through, as many at once as it was exported for."""
        given = [x, *more]
        if self.batch is None:
            return self._pass(given)
        windows = len(next(iter(x.values())) if isinstance(x, dict) else x)
        parts = []
        for first in range(0, windows, self.batch):
            count = min(self.batch, windows - first)
            answer = self._pass([self._rows(each, first, count) for each in given])
            parts.append(answer)
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _rows(self, x: Any, first: int, count: int) -> Any:  # noqa: ANN401
        """Return some windows of an input, filled up to a batch."""
        if isinstance(x, dict):
            return {name: self._rows(value, first, count) for name, value in x.items()}
        assert self.batch is not None
        return filled_up(x[first : first + count], self.batch)

    def _pass(self, given: list[Any]) -> Any:  # noqa: ANN401
        x, *more = given
        if isinstance(x, dict):
            x = {name: value.contiguous() for name, value in x.items()}
        else:
            x = x.contiguous()
        if self.cast is None:
            return self.network(x, *more)
        device = next(iter(x.values())).device if isinstance(x, dict) else x.device
        with torch.autocast(device.type, self.cast, cache_enabled=False):
            return self.network(x, *more)


def filled_up(x: torch.Tensor, size: int) -> torch.Tensor:
    """Return windows (n, …) and as many of the first again as make it `size`."""
    if len(x) >= size:
        return x
    return torch.cat([x, x[:1].expand(size - len(x), *(-1,) * (x.ndim - 1))])


def _joined(parts: list[Any]) -> Any:  # noqa: ANN401
    """Return the answers for several batches as one."""
    if isinstance(parts[0], Mapping):
        return {name: _joined([part[name] for part in parts]) for name in parts[0]}
    if isinstance(parts[0], (list, tuple)):
        return [_joined(list(each)) for each in zip(*parts, strict=True)]
    return torch.cat(parts)
