"""Checkpoints (`.ckpt`, `.pth`, `.safetensors`): Lightning's, or a bare `state_dict`.

The networks of torchgeo's `SemanticSegmentationTask`, and of terratorch's where its
`SMPModelFactory` made them, are those of segmentation_models_pytorch and are built here
from the settings in the checkpoint; neither package is needed. torchgeo's FCN, and what
else terratorch makes, is built by those (optional) packages themselves. Of any other
checkpoint the card says which network it is: `"framework": {"family": "smp", "arch":
"FPN", "encoder": "resnet18"}`. Nothing is unpickled but tensors and plain values.

The card lies beside the checkpoint, as for exported networks. What it does not say of
architecture, encoder and arguments is the checkpoint's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from geoseg.core.extras import require
from geoseg.core.text import did_you_mean
from geoseg.errors import ModelError, first_line
from geoseg.models.identity import OpenedModel, file_sha256, opened
from geoseg.models.networks import smp, torchvision_nets
from geoseg.models.networks.detector import DetectorModel
from geoseg.models.networks.torch_adapter import TorchModel
from geoseg.models.networks.weights import (
    Left,
    fill_weights,
    load_pickled,
    load_safetensors,
)
from geoseg.models.stac import card_beside

if TYPE_CHECKING:
    from geoseg.models.card import Card
    from geoseg.models.contract import InstanceModel, Model
    from geoseg.models.folder import ModelFolder
    from geoseg.models.networks.device import ModelOptions

_NETWORKS = {
    "unet": "Unet", "unet++": "UnetPlusPlus", "unetplusplus": "UnetPlusPlus",
    "deeplabv3": "DeepLabV3", "deeplabv3+": "DeepLabV3Plus",
    "deeplabv3plus": "DeepLabV3Plus", "fpn": "FPN", "pspnet": "PSPNet", "pan": "PAN",
    "manet": "MAnet", "linknet": "Linknet", "upernet": "UPerNet",
    "segformer": "Segformer", "dpt": "DPT",
}  # fmt: skip
_COORDINATES = {"dates": "temporal_coords", "location": "location_coords"}
"""What terratorch's encoders call the inputs of a card."""

_USUAL = ("state_dict", "model_state_dict", "model")
"""Of several sets of weights the one that is the network's."""
_RAW = frozenset({"current_model_state"})
"""What Lightning keeps of a network whose `state_dict` is an average."""
_MAKERS = {
    "mask_decoder.": "SAM is given as transformers has it, hf:facebook/sam-vit-base",
    "decode_head.": "networks of mmsegmentation are exported to .onnx, by mmdeploy",
    "backbone.bottom_up.": "networks of detectron2 are exported to TorchScript or run "
    "by a function of yours, PATH.py:FUNCTION",
}
"""By a part of their weights' names: whose networks they are, and the way here."""
_LABELS = {
    "warning": "it was trained to tell for each label by itself whether it is there "
    "(multilabel): a pixel of the map has the likeliest, however unlikely"
}
_UNHEARD = {
    "warning": "its checkpoint keeps settings as objects, which geoseg does not make: "
    "what those say of network, bands and last layer is the card's to say"
}
_HEAD = re.compile(r"(?:^|\.)(?:segmentation_head\.0|classifier\.4)\.weight$")
_OF_NUMBERS = frozenset({"mse", "mae", "rmse", "huber", "l1", "smooth_l1"})
_MOST_FILTERS = 4096  # of torchgeo's FCN, whose own default is 64


def open_file(path: Path) -> OpenedModel:
    """Return the model in a checkpoint."""
    beside = card_beside(path)
    card = _described(beside, path, _read(path, beside))
    return opened(path, card, partial(_load, path, card), file_sha256(path))


def load_folder(folder: ModelFolder, options: ModelOptions) -> Model | InstanceModel:
    """Load the network of a model folder whose weights are a checkpoint."""
    return _load(folder.weights_file, folder.card, options)


def implied(folder: ModelFolder) -> Card:
    """Return the card of a model folder, with what its checkpoint says."""
    path = folder.weights_file
    return _described(folder.card, path, _read(path, folder.card))


def _read(path: Path, card: Card | None = None) -> dict[str, Any]:
    """Return what a checkpoint holds: tensors and plain values only.

    Under `state_dict` are the weights that the card means, or the only ones.
    """
    if path.suffix.lower() == ".safetensors":
        return {"state_dict": load_safetensors(path)}
    found = load_pickled(path, leaving=True)
    if _is_state(found):
        return {"state_dict": found}
    named = found if isinstance(found, dict) else {}
    parts = {str(k): v for k, v in named.items() if _is_state(v)}
    chosen = _chosen(parts, path, card and card.framework.get("state"))
    return {**named, "state_dict": parts[chosen]}


def _chosen(parts: Mapping[str, Any], path: Path, asked: object) -> str:
    """Return which set of weights counts: the one asked for, the usual, or the only.

    Raises:
        ModelError: There is none, or another is as good: that of an average (EMA).
    """
    if asked in parts:
        return str(asked)
    first = next((k for k in _USUAL if k in parts), None)
    shapes = {k: _shapes(v) for k, v in parts.items() if k not in _RAW}
    rivals = [k for k in shapes if first is None or shapes[k] == shapes[first]]
    if len(rivals) > 1:
        raise ModelError(
            f"{path} holds {len(rivals)} sets of weights ({', '.join(rivals)}): say "
            f'in its card which is meant: "framework": {{"state": "{rivals[-1]}"}}'
        )
    if not rivals:
        raise ModelError(
            f"{path} is not a checkpoint: it holds no state_dict of named tensors"
        )
    return rivals[0]


def _shapes(state: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """Return the shapes of weights, by which two sets of one network are known."""
    tensors = filter(torch.is_tensor, state.values())
    return sorted(tuple(t.shape) for t in tensors if t.ndim > 1)


def _is_state(found: object) -> bool:
    """Whether this is weights by name, and not what such lie in."""
    if not isinstance(found, dict) or any(map(_is_state, found.values())):
        return False
    return any(map(torch.is_tensor, found.values()))


def _described(card: Card, path: Path, checkpoint: Mapping[str, Any]) -> Card:
    """Return the card of a checkpoint, with a warning where settings are not heard."""
    kept = checkpoint.get("hyper_parameters")
    settings = kept.values() if isinstance(kept, Mapping) else [kept]
    if any(isinstance(value, Left) for value in settings):
        card = replace(card, facts={**card.facts, **_UNHEARD})
    return _card(card, path, checkpoint)


def _card(card: Card, path: Path, checkpoint: Mapping[str, Any]) -> Card:
    """Return the card with the framework that it and the checkpoint's settings imply.

    Raises:
        ModelError: Neither says which network the weights are of.
    """
    settings = _plain(checkpoint.get("hyper_parameters"))
    loss = settings.get("loss")
    if "num_outputs" in settings or (isinstance(loss, str) and loss in _OF_NUMBERS):
        raise ModelError(
            f"{path} was trained to answer numbers, such as heights or biomass (loss "
            f"{loss!r}), of which no map of classes is made: train it on classes, or "
            "write its numbers as a raster and give that to --model threshold:"
        )
    if _is_terratorch(settings) and settings.get("model_factory") != "SMPModelFactory":
        in_time = card.times is not None and card.times.count > 1
        return replace(
            card,
            framework={"family": "checkpoint", "arch": "terratorch"},
            layout="ctyx" if in_time else card.layout,
        )
    arguments = settings.get("model_args")
    stated = _plain(arguments) if isinstance(arguments, Mapping) else settings
    name = str(stated.get("model", ""))
    if name == "fcn":  # torchgeo's own: five convolutions
        filters = stated.get("num_filters") or 64
        if not isinstance(filters, int) or not 0 < filters <= _MOST_FILTERS:
            raise ModelError(f"{path} has {filters!r} filters: 1 … {_MOST_FILTERS}")
        plain = {"family": "checkpoint", "arch": "torchgeo-fcn", "filters": filters}
        return replace(card, framework=plain, multiple=card.multiple or 1)
    one = _has_one_channel(checkpoint["state_dict"]) and card.channels == 2
    if card.framework.get("of", card.framework.get("family")) == "torchvision":
        return _of_torchvision(card, one=one)
    family = card.framework.get("family")
    if family not in (None, "smp", "checkpoint"):
        raise ModelError(
            f"the card of {card.name!r} names the family {family!r}: networks of "
            "checkpoints are of smp or torchvision, others are exported to .pt2"
            + did_you_mean(str(family), ("smp", "torchvision"))
        )
    arch = _NETWORKS.get(name.lower().replace("_", "")) or card.framework.get("arch")
    encoder = card.framework.get("encoder") or stated.get("backbone")
    if arch is None or encoder is None:
        raise ModelError(
            f"{path} does not say which network it is of (its settings name {name!r}; "
            f"known networks are {', '.join(_NETWORKS)}): write into its card "
            '"framework": {"family": "smp", "arch": "Unet", "encoder": "resnet34"}'
            f"; {_elsewhere(checkpoint['state_dict'])}"
        )
    if settings.get("task") == "multilabel":
        card = replace(card, activation="sigmoid", facts={**card.facts, **_LABELS})
    # What terratorch hands to the network's constructor is prefixed.
    smps = {k[4:]: v for k, v in stated.items() if k.startswith("smp_")}
    framework = smps | dict(card.framework)
    framework |= {"family": "checkpoint", "arch": arch, "encoder": str(encoder)}
    if one:
        framework["classes"] = 1
    return smp.described(card, framework)


def _plain(settings: object) -> dict[str, Any]:
    """Return those of a trainer's settings that are plain values."""
    named = settings if isinstance(settings, Mapping) else {}
    return {str(k): v for k, v in named.items() if not isinstance(v, Left)}


def _of_torchvision(card: Card, *, one: bool) -> Card:
    """Return the card of a checkpoint of torchvision's, which resizes its images."""
    own: dict[str, Any] = {"num_classes": 1} if one else {}
    if card.task != "semantic":
        own = {"min_size": 800, "max_size": 1333}
    own |= {**card.framework, "family": "checkpoint", "of": "torchvision"}
    return replace(card, framework=own)


def _elsewhere(weights: Mapping[str, Any]) -> str:
    """Return what to do with weights of a network that is not built here."""
    known = (
        text for start, text in _MAKERS.items() if any(start in k for k in weights)
    )
    return next(known, "networks of other libraries are exported to .onnx or .pt2")


def _has_one_channel(weights: Mapping[str, Any]) -> bool:
    """Whether the last layer of smp's or torchvision's networks has one channel."""
    heads = [v for k, v in weights.items() if _HEAD.search(str(k))]
    return len(heads) == 1 and torch.is_tensor(heads[0]) and len(heads[0]) == 1


def _is_terratorch(settings: Mapping[str, Any]) -> bool:
    return "model_args" in settings and "model_factory" in settings


def _load(path: Path, card: Card, options: ModelOptions) -> Model | InstanceModel:
    checkpoint = _read(path, card)
    weights = {k: v for k, v in checkpoint["state_dict"].items() if torch.is_tensor(v)}
    arch = card.framework.get("arch")
    if arch == "terratorch":
        module = _terratorch(dict(checkpoint["hyper_parameters"]), card)
    elif arch == "torchgeo-fcn":
        models = require("torchgeo.models", what="this checkpoint", extra="torchgeo")
        module = models.FCN(
            len(card.bands), card.channels, num_filters=card.framework["filters"]
        )
    else:
        framework = {k: v for k, v in card.framework.items() if k != "of"}
        family = card.framework.get("of", "smp")
        build = torchvision_nets.build if family == "torchvision" else smp.build
        module = build(replace(card, framework={**framework, "family": family}))
    asked = card.framework.get("state")
    within = None if asked in checkpoint else asked
    smp.check_version(card, weights)
    fill_weights(module, _of(module, weights, path, within), card)
    if card.task != "semantic":
        return DetectorModel(torchvision_nets.MaskRcnn(module), card, options)
    return TorchModel(module, card, options)


def _of(
    module: nn.Module,
    weights: dict[str, torch.Tensor],
    path: Path,
    asked: object = None,
) -> dict[str, torch.Tensor]:
    """Return the weights that are a network's, by its own names.

    Training modules and compilers put words before those, and keep tensors of their
    loss, their metrics and their scaling beside them.

    Args:
        module: The network.
        weights: All tensors there are.
        path: The file, for messages.
        asked: The words before the weights that are meant; None: the only ones.

    Raises:
        ModelError: There are several sets of them, such as of a teacher and a student.
    """
    own = module.state_dict().keys()
    last = max(own, key=len)
    ends = {k.removesuffix(last) for k in weights if k.endswith(last)}
    before = sorted(b for b in ends if b == "" or b.endswith("."))
    whole = [b for b in before if all(b + k in weights for k in own)] or before
    names = [b.removesuffix(".") for b in whole]
    if asked is None and len(whole) > 1:
        raise ModelError(
            f"{path} holds the weights of {len(whole)} networks "
            f"({', '.join(n or 'without a prefix' for n in names)}): say in its card "
            f'which is meant: "framework": {{"state": "{names[-1]}"}}'
        )
    if asked is not None and asked not in names:
        raise ModelError(
            f"{path} holds no weights of the network under the state {asked!r} that "
            f"its card asks for, but under {', '.join(map(repr, names)) or 'no name'}"
        )
    whole = whole if asked is None else [f"{asked}."]
    head = whole[0] if whole else ""
    weights = {k[len(head) :]: v for k, v in weights.items() if k.startswith(head)}
    tops = {k.partition(".")[0] for k in own}
    return {k: v for k, v in weights.items() if k.partition(".")[0] in tops}


def _terratorch(settings: Mapping[str, Any], card: Card) -> nn.Module:
    """Return the network that terratorch makes of its own settings."""
    unknown = [name for name in card.inputs if name not in _COORDINATES]
    if unknown:
        raise ModelError(
            f"networks of terratorch take dates and location, not {unknown[0]} as "
            f"{card.name!r} says"
        )
    require("terratorch", what="this checkpoint", extra="terratorch")
    from terratorch.tasks import SemanticSegmentationTask

    try:
        arguments = smp.plain_arguments(settings["model_args"], "the checkpoint")
        for key in arguments:
            if key.endswith("pretrained"):  # its weights are in the checkpoint
                arguments[key] = False
        task = SemanticSegmentationTask(
            model_args=arguments, model_factory=settings["model_factory"]
        )
        task.configure_models()
    except Exception as error:
        raise ModelError(
            f"terratorch cannot build this network: {first_line(error)}"
        ) from error
    return Scores(task.model, card.inputs)


def _in_weights_dtype(part: nn.Module, _: object, answer: torch.Tensor) -> torch.Tensor:
    scale: Any = part.scale
    return answer.to(scale.dtype)


class Scores(nn.Module):
    """A network of terratorch, without what it wraps its answer in.

    Dates and places go to the encoder under terratorch's names for them.
    """

    def __init__(self, model: nn.Module, inputs: Sequence[str] = ()) -> None:
        super().__init__()
        self.model = model
        self._names = [_COORDINATES[name] for name in inputs]
        for part in model.modules():  # they must count in fp32: a year has 4 digits
            if type(part).__name__ in {"TemporalEncoder", "LocationEncoder"}:
                part.register_forward_hook(_in_weights_dtype)

    def forward(self, x: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        """Return scores (n, class, y, x)."""
        answer: Any = self.model(x, **dict(zip(self._names, inputs, strict=True)))
        scores: torch.Tensor = getattr(answer, "output", answer)
        return scores
