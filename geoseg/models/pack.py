"""One folder to share: card and weights of any model that has weights."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.core.discretion import discreet
from geoseg.core.files import replacing
from geoseg.errors import ModelError, first_line, is_full
from geoseg.models.card import Card
from geoseg.models.families import CLASSICAL, FILES, FOLDERS
from geoseg.models.folder import CARD, open_folder, write_folder
from geoseg.models.load import model_recipe
from geoseg.models.networks.hf_config import weights_files
from geoseg.models.networks.onnx_file import data_files
from geoseg.models.plain import card_from_dict
from geoseg.models.stac import called

if TYPE_CHECKING:
    from torch import nn

_FAMILIES = {".pt2": "torch.export", ".onnx": "onnx", ".ckpt": "checkpoint"}
_PRETRAINED = ("*.json", "merges.txt", "LICENSE*", "README.md")


def pack(spec: str, out: Path, *, overwrite: bool = False) -> Path:
    """Write a model folder that holds everything a model needs.

    Args:
        spec: A model folder or card, an exported file with a card beside it, or a
            folder of transformers.
        out: The folder to write.
        overwrite: Replace what is there.

    Returns:
        The folder; `--model` takes it wherever it is copied to.

    Raises:
        ModelError: There is something already, or nothing that could be packed.
    """
    if out.exists() and any(out.iterdir()) and not overwrite:
        raise ModelError(
            f"{out} is there already: choose another folder, or --overwrite"
        )
    path = Path(spec)
    if spec.partition(":")[0] in CLASSICAL or not path.exists():
        raise ModelError(
            f"{spec!r} is not a model folder or file: there is nothing to pack"
        )
    card = model_recipe(spec).card
    if path.is_file() and path.suffix in FILES:
        family = _FAMILIES.get(path.suffix, "torchscript")
        return _pack_weights(_of_family(card, family), path, out)
    folder = path if path.is_dir() else path.parent
    if (folder / "config.json").is_file():
        return _pack_pretrained(card, folder, out)
    return _pack_weights(card, open_folder(path).weights, out)


def _of_family(card: Card, family: str) -> Card:
    return replace(card, framework={**card.framework, "family": family})


def _pack_weights(card: Card, weights: Path | None, out: Path) -> Path:
    if weights is not None and weights.suffix == ".onnx":
        for file in data_files(weights):  # the file knows them by their names
            copy = out / file.relative_to(weights.resolve().parent)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, copy)
    return write_folder(card, out, weights)


def _pack_pretrained(card: Card, folder: Path, out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    beside = [file for pattern in _PRETRAINED for file in folder.glob(pattern)]
    for file in [*beside, *weights_files(folder)]:
        if file.name != CARD:
            _check_own(file)
            shutil.copy2(file, out / file.name)
    return write_folder(card, out)


def _check_own(file: Path) -> None:
    """Raise where a file of a folder is a link out of it: its content would be shared.

    The Hub's cache is made of links into a folder `blobs` of its own.
    """
    folder, target = file.parent.resolve(), file.resolve()
    if target.is_relative_to(folder) or target.parent == folder.parents[1] / "blobs":
        return
    raise ModelError(
        f"{file} is a link out of its folder, to {target}: it is not packed"
    )


def build_network(card: Card | Mapping[str, Any]) -> nn.Module:
    """Build the network that a card describes, with weights that mean nothing yet.

    Train it in a loop of your own; then `save_model` makes a model folder of it.

    Args:
        card: A card, or the fields of one, whose framework says which network:
            `{"family": "smp", "arch": "Unet", "encoder": "resnet34"}`, and likewise
            for `torchvision`, `transformers` and `olmoearth`.

    Returns:
        Takes (n, band, y, x) floats, scaled as the card says, or what its layout,
        modalities and inputs say; answers scores (n, class, y, x).

    Raises:
        ModelError: The card does not describe a network of these families.
        MissingExtraError: The family's package is not installed.
    """
    own = _as_card(card, "network")
    family = own.framework.get("family")
    if family not in _SAVED:
        raise ModelError(
            f"the card of {own.name!r} names the family {family!r}: networks are built "
            f"of {', '.join(_SAVED)}"
        )
    network: nn.Module = import_module(FOLDERS[family]).build(own)
    return network


def _as_card(card: Card | Mapping[str, Any], name: str) -> Card:
    return card if isinstance(card, Card) else card_from_dict(card, name=name)


@discreet
def save_model(
    net: nn.Module, card: Card | Mapping[str, Any], folder: str | os.PathLike[str]
) -> Path:
    """Write a network of your own as a model folder that `--model` takes.

    A network of segmentation_models_pytorch, torchvision or transformers whose card
    says which (`"framework": {"family": "smp", "arch": "Unet", "encoder": "resnet34"}`)
    is kept as safetensors. Any other is exported by `torch.export`, for windows of the
    card's size; so it needs none of its code to run.

    Args:
        net: Takes (n, band, y, x) floats, scaled as the card says, and answers scores
            (n, class, y, x), or one channel for the second of two classes.
        card: Its card, or the fields of one as `card_from_dict` takes them.
        folder: Where; made if it is not there, and its card replaced.

    Returns:
        The folder.

    Raises:
        ModelError: The network is not the one that the card describes, or cannot be
            exported.
    """
    path = Path(folder)
    own = _as_card(card, path.name)
    family = own.framework.get("family")
    if family in _SAVED:
        saved: Path = import_module(FOLDERS[family]).save_model(net, own, path)
        return saved
    if family is not None:
        raise ModelError(
            f"the card of {own.name!r} names the family {family!r}: write one of "
            f"{', '.join(_SAVED)}, or leave 'framework' out to have it exported"
        )
    return _export(net, replace(own, multiple=None), path)


def _export(net: nn.Module, card: Card, folder: Path) -> Path:
    """Write a network as a program of torch.export."""
    import torch

    window = torch.zeros(1, len(card.bands), card.window, card.window)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "network.pt2"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what tracing finds odd
            exact = deepcopy(net).cpu().float().eval()
            program = torch.export.export(exact, (window,))
            with replacing(weights) as new:
                torch.export.save(program, new)
    except Exception as error:  # tracing fails in as many ways as there are networks
        if is_full(error):
            raise
        raise ModelError(
            f"the network of {card.name!r} cannot be exported ({first_line(error)}): "
            "give --model a function that makes it, as in my_module:make_model"
        ) from error
    return write_folder(_of_family(card, "torch.export"), folder, weights)


def new_card(path: Path, *, overwrite: bool = False) -> Path:
    """Write a card to fill in, with a comment for every field.

    Args:
        path: The card to write, the network's file that it is to lie beside, or the
            folder for a `card.json`.
        overwrite: Replace what is there.

    Raises:
        ModelError: There is one already.
    """
    if path.suffix.lower() in FILES:  # of a network: its card lies beside it
        card = path.with_suffix(".json")
    else:
        card = path if path.suffix == ".json" else path / CARD
    if card.parent.is_file():
        raise ModelError(
            f"{path} is a file, and no network's: name the card, "
            f"{path.with_suffix('.json')}, or a folder for it"
        )
    if card.exists() and not overwrite:
        raise ModelError(f"{card} is there already: choose another, or --overwrite")
    card.parent.mkdir(parents=True, exist_ok=True)
    with replacing(card) as new:
        plain = dict(_TEMPLATE) | {"name": called(card)}
        new.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
    return card


_SAVED = ("smp", "torchvision", "transformers", "olmoearth")
_TEMPLATE: Mapping[str, Any] = {
    "# ": "keys that begin with # are comments; leave out what you do not need",
    "name": "my-model",
    "# bands": "what the model reads, in its order: names as in the raster, or STAC's "
    "common names (red, nir, swir16)",
    "bands": ["red", "green", "blue"],
    "# mean, std": "scaled = (pixel - mean) / std, one number or one per band, in "
    "pixel units; for [0.485, 0.456, 0.406] on bytes it is 255 times that",
    "mean": [123.675, 116.28, 103.53],
    "std": [58.395, 57.12, 57.375],
    "# numbers": "what pixels were in training: DN (the file's own numbers), "
    "reflectance (0 ... 1), s2-l2a-before-0400 (without its offset)",
    "numbers": "DN",
    "# classes": "in the order of the score channels, with colours; a network with one "
    "sigmoid: background first, and activation sigmoid",
    "classes": {"background": "#BBBBBB", "building": "#D55E00"},
    "# output": "logits, probabilities or labels; activation: softmax or sigmoid",
    "output": "logits",
    "activation": "softmax",
    "# window": "side of the square that the model sees, in pixels; neighbours share "
    "overlap; multiple: sides at the raster's edge may be any multiple of it",
    "window": 512,
    "overlap": 64,
    "# resolution": "metres per pixel in training; value_range: lowest and highest "
    "pixel value that makes sense",
    "resolution": 0.5,
    "value_range": [0, 255],
    "# framework": "of a checkpoint, which network it is of; leave it out for .pt2, "
    ".onnx and TorchScript",
    "framework": {"family": "smp", "arch": "Unet", "encoder": "resnet34"},
}
