"""Exported networks: `torch.export` (`.pt2`) and TorchScript (`.pt`), card beside.

The card is a JSON file of the same name (`roads.pt2`, `roads.json`), or `card.json` in
the same folder. Exported graphs have their dtype built in, so they run in fp32.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from geoseg.errors import ModelError, first_line
from geoseg.models.identity import Opened, content_hash, file_sha256
from geoseg.models.networks.device import Options
from geoseg.models.networks.safe_program import load_program
from geoseg.models.networks.torch_adapter import TorchModel
from geoseg.models.stac import read_card

if TYPE_CHECKING:
    from geoseg.models.card import Card
    from geoseg.models.contract import Model
    from geoseg.models.folder import ModelFolder


def open_file(path: Path) -> Opened:
    """Return the model in an exported file."""
    card = card_beside(path)
    if card is None:
        raise ModelError(
            f"{path} has no card beside it: write {path.with_suffix('.json').name} "
            "with bands, classes, window (geoseg model show prints examples)"
        )

    def load(options: Options) -> Model:
        return _load(path, card, options)

    return Opened(
        spec=str(path), card=card, content=content_hash(card, file_sha256(path)),
        load=load,
    )  # fmt: skip


def load_folder(folder: ModelFolder, options: Options) -> Model:
    """Load the exported network of a model folder."""
    return _load(folder.weights_file, folder.card, options)


def card_beside(path: Path) -> Card | None:
    """Return the card that lies beside a model file, or None."""
    for candidate in (
        path.with_suffix(".json"),
        path.with_name(path.name + ".json"),
        path.with_name("card.json"),
    ):
        if candidate.is_file():
            return read_card(candidate)
    return None


def _load(path: Path, card: Card, options: Options) -> Model:
    if options.precision == "auto":
        options = replace(options, precision="fp32")
    module = _program(path) if path.suffix == ".pt2" else _script(path)
    return TorchModel(module, card, options)


def _program(path: Path) -> nn.Module:
    try:
        module = load_program(path)
    except ModelError:
        raise
    except Exception as error:  # torch raises whatever the damage leads to
        raise ModelError(
            f"{path} cannot be read as a program of torch.export: {first_line(error)}"
        ) from error
    return Frozen(module)


def _script(path: Path) -> nn.Module:
    try:
        module: Any = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(
            f"{path} is not TorchScript ({first_line(error)}): geoseg does not "
            "unpickle checkpoints; export the network, or save safetensors"
        ) from error
    return Frozen(module)


class Frozen(nn.Module):
    """A network whose mode was set when it was exported."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def train(self, mode: bool = True) -> Frozen:
        """Do nothing: exported programs refuse to change."""
        self.training = mode
        return self

    def forward(self, x: torch.Tensor) -> Any:  # noqa: ANN401 - as it was exported
        """Pass windows through."""
        return self.network(x.contiguous())
