"""Start from another model, whatever its bands and classes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from geoseg.core.classes import Class, default_color
from geoseg.errors import ModelError
from geoseg.models.card import Band
from geoseg.models.folder import CARD, open_folder
from geoseg.models.networks.weights import fill_weights, load_safetensors
from geoseg.training.architectures import family_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from geoseg.models.card import Card

_OWN = frozenset({"id2label", "label2id", "num_labels", "num_channels"})


def framework_of(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the framework of the model in a folder: how to build one like it.

    Args:
        folder: a model folder, or one that `save_pretrained` of transformers wrote.

    Raises:
        ModelError: There is no such model, or it cannot be trained.
    """
    path = Path(folder)
    framework = dict(card_of_folder(path).framework)
    if framework.get("family") == "transformers":
        return _of_transformers(path, framework)
    if framework.get("family") not in ("smp", "torchvision"):
        raise ModelError(
            f"{folder} is of family {framework.get('family')!r}, which cannot be "
            "trained further: start from a network of segmentation_models_pytorch, "
            "torchvision or transformers"
        )
    return framework


def _of_transformers(path: Path, framework: dict[str, Any]) -> dict[str, Any]:
    """Add what the folder's configuration says beyond bands and classes."""
    from geoseg.models.networks.hf_config import read_config

    config = {k: v for k, v in read_config(path).items() if k not in _OWN}
    return {"family": "transformers", "arch": framework["arch"], "config": config}


def card_of_folder(folder: str | os.PathLike[str]) -> Card:
    """Return the card of a model folder, or of one that `save_pretrained` wrote."""
    path = Path(folder)
    if (path / CARD).is_file() or not (path / "config.json").is_file():
        return open_folder(path).card
    from geoseg.models.networks import hf

    return hf.implied_card(path, name=path.name, scaled=False)


def _weights_of(path: Path, card: Card) -> dict[str, torch.Tensor]:
    if card.framework.get("family") == "transformers":
        from geoseg.models.networks.hf import weights_of

        return weights_of(path)
    return load_safetensors(open_folder(path).weights_file)


def start_from(module: nn.Module, card: Card, folder: str | os.PathLike[str]) -> None:
    """Fill a network with another's weights, as far as they mean the same.

    Weights of bands and classes go to the bands and classes of the same name; a band
    that the other did not have starts as the mean of those it had, a new class at
    random, and so does the head of a backbone of transformers.

    Raises:
        ModelError: The other model is not of the same architecture.
    """
    path = Path(folder)
    other = card_of_folder(path)
    weights = _weights_of(path, other)
    own = module.state_dict()
    missing = own.keys() - weights.keys()
    if weights.keys() - own.keys() or (missing and not _is_backbone(other)):
        raise ModelError(
            f"{folder} is another network ({_called(other)}) than the one to "
            f"train ({_called(card)}): leave out --arch and --encoder, or give its own"
        )
    bands = [_same_band(band.name, band.common_name, other) for band in card.bands]
    names = [c.name.casefold() for c in other.classes]
    classes = [
        names.index(c.name.casefold()) if c.name.casefold() in names else None
        for c in card.classes
    ]
    merged = {**own, **weights}
    of_bands, of_classes = _what_depends(card, own)
    for key in of_bands:
        merged[key] = _planes(merged[key], bands)
    extra_first = card.framework.get("family") == "torchvision"
    for key, rows in of_classes.items():
        merged[key] = _rows(
            own[key], merged[key], classes, rows, extra_first=extra_first
        )
    fill_weights(module, merged, card)


def _is_backbone(card: Card) -> bool:
    """Whether a folder may lack the head: transformers shares such."""
    return card.framework.get("family") == "transformers"


def _what_depends(
    card: Card, own: Mapping[str, torch.Tensor]
) -> tuple[dict[str, int], dict[str, int]]:
    """Return which tensors have planes for each band, and which rows for each class.

    Those that another band, or another class, would make larger, and by how much.
    """
    value = max(c.value for c in card.classes) + 1
    extra = Class(value=value, name="\0", color=default_color(0))
    wider = replace(card, bands=(*card.bands, Band(name="\0")))
    longer = replace(card, classes=(*card.classes, extra))
    return _larger(wider, own, 1), _larger(longer, own, 0)


def _larger(card: Card, own: Mapping[str, torch.Tensor], axis: int) -> dict[str, int]:
    with torch.random.fork_rng(devices=[]):
        other = family_of(card).build(card).state_dict()
    return {
        key: other[key].shape[axis] - value.shape[axis]
        for key, value in own.items()
        if value.ndim > axis and other[key].shape[axis] > value.shape[axis]
    }


def _same_band(name: str, common: str | None, card: Card) -> int | None:
    for i, band in enumerate(card.bands):
        if band.name == name or (common and band.common_name == common):
            return i
    return None


def _planes(theirs: torch.Tensor, bands: Sequence[int | None]) -> torch.Tensor:
    """Return a first convolution for other bands."""
    mean = theirs.mean(dim=1)
    return torch.stack([mean if b is None else theirs[:, b] for b in bands], dim=1)


def _rows(
    own: torch.Tensor,
    theirs: torch.Tensor,
    classes: Sequence[int | None],
    rows: int,
    *,
    extra_first: bool,
) -> torch.Tensor:
    """Return a head for other classes.

    Args:
        own: ours, for new classes.
        theirs: the other's.
        classes: place of each class in the other's table, None for a new one.
        rows: of each class; a detector's boxes have four.
        extra_first: where what is none of the classes stands, if the head has it:
            before them, or after.
    """
    ours = own.reshape(-1, rows, *own.shape[1:])
    others = theirs.reshape(-1, rows, *theirs.shape[1:])
    extra = len(ours) - len(classes)
    before, after = (extra, 0) if extra_first else (0, extra)
    merged = [
        *others[:before],
        *(
            ours[before + i] if c is None else others[before + c]
            for i, c in enumerate(classes)
        ),
        *others[len(others) - after :],
    ]
    return torch.stack(merged).flatten(0, 1)


def _called(card: Card) -> str:
    return " ".join(str(card.framework.get(k, "")) for k in ("arch", "encoder")).strip()
