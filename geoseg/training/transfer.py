"""Start from another model, whatever its bands and classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from geoseg.errors import ModelError
from geoseg.models.folder import open_folder
from geoseg.models.weights import fill_weights, load_safetensors

if TYPE_CHECKING:
    from torch import nn

    from geoseg.models.card import Card


def start_from(module: nn.Module, card: Card, folder: str | Path) -> None:
    """Fill a network with another's weights, as far as they mean the same.

    Weights of bands and classes go to the bands and classes of the same name; a band
    that the other did not have starts as the mean of those it had, a new class at
    random.

    Raises:
        ModelError: The other model is not of the same architecture.
    """
    other = open_folder(Path(folder))
    weights = load_safetensors(other.weights_file)
    own = module.state_dict()
    if own.keys() != weights.keys():
        raise ModelError(
            f"{folder} is another network ({_called(other.card)}) than the one to "
            f"train ({_called(card)}): give the same --arch and --encoder"
        )
    bands = [_same_band(band.name, band.common_name, other.card) for band in card.bands]
    names = [c.name.casefold() for c in other.card.classes]
    classes = [
        names.index(c.name.casefold()) if c.name.casefold() in names else None
        for c in card.classes
    ]
    first = next(key for key, value in own.items() if value.ndim == 4)
    merged = dict(weights)
    if own[first].shape[1] == len(bands):
        merged[first] = _planes(weights[first], bands)
    for key in list(own)[-2:]:  # weight and bias of the head
        if len(own[key]) == len(classes):
            merged[key] = _rows(own[key], weights[key], classes)
    fill_weights(module, merged, card)


def _same_band(name: str, common: str | None, card: Card) -> int | None:
    for i, band in enumerate(card.bands):
        if band.name == name or (common and band.common_name == common):
            return i
    return None


def _planes(theirs: torch.Tensor, bands: list[int | None]) -> torch.Tensor:
    """Return the first convolution for other bands."""
    mean = theirs.mean(dim=1)
    return torch.stack([mean if b is None else theirs[:, b] for b in bands], dim=1)


def _rows(
    own: torch.Tensor, theirs: torch.Tensor, classes: list[int | None]
) -> torch.Tensor:
    """Return the head for other classes."""
    if own.shape[1:] != theirs.shape[1:]:
        return theirs
    rows = [own[i] if c is None else theirs[c] for i, c in enumerate(classes)]
    return torch.stack(rows)


def _called(card: Card) -> str:
    return " ".join(str(card.framework.get(k, "")) for k in ("arch", "encoder")).strip()
