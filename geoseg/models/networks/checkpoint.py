"""Checkpoints of Lightning trainers (`.ckpt`) from torchgeo and terratorch.

The networks of torchgeo's `SemanticSegmentationTask`, and of terratorch's where its
`SMPModelFactory` made them, are those of segmentation_models_pytorch and are built here
from the settings in the checkpoint; neither package is needed. torchgeo's FCN, and what
else terratorch makes, is built by those (optional) packages themselves. Nothing is
unpickled but tensors and plain values.

The card lies beside the checkpoint, as for exported networks. What it does not say of
architecture, encoder and arguments is the checkpoint's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from geoseg.errors import ModelError, first_line
from geoseg.models.extras import require
from geoseg.models.identity import Opened, content_hash, file_sha256
from geoseg.models.networks import smp
from geoseg.models.networks.exported import card_beside
from geoseg.models.networks.torch_adapter import TorchModel
from geoseg.models.networks.weights import fill_weights

if TYPE_CHECKING:
    from geoseg.models.card import Card
    from geoseg.models.contract import Model
    from geoseg.models.folder import ModelFolder
    from geoseg.models.networks.device import Options

_NETWORKS = {
    "unet": "Unet", "unet++": "UnetPlusPlus", "unetplusplus": "UnetPlusPlus",
    "deeplabv3": "DeepLabV3", "deeplabv3+": "DeepLabV3Plus",
    "deeplabv3plus": "DeepLabV3Plus", "fpn": "FPN", "pspnet": "PSPNet", "pan": "PAN",
    "manet": "MAnet", "linknet": "Linknet", "upernet": "UPerNet",
    "segformer": "Segformer", "dpt": "DPT",
}  # fmt: skip
_WRAPPERS = ("model.", "smp_model.")  # what tasks and factories put before names


def open_file(path: Path) -> Opened:
    """Return the model in a checkpoint."""
    card = card_beside(path)
    if card is None:
        raise ModelError(
            f"{path} has no card beside it: write {path.with_suffix('.json').name} "
            "with bands and their mean and std as in training, classes, and window"
        )
    whole = _card(card, path, _settings(_read(path), path))

    def load(options: Options) -> Model:
        return _load(path, whole, options)

    return Opened(
        spec=str(path),
        card=whole,
        content=content_hash(whole, file_sha256(path)),
        load=load,
    )


def load_folder(folder: ModelFolder, options: Options) -> Model:
    """Load the network of a model folder whose weights are a checkpoint."""
    path = folder.weights_file
    card = _card(folder.card, path, _settings(_read(path), path))
    return _load(path, card, options)


def _read(path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds: tensors and plain values only."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise ModelError(
            f"{path} cannot be read as a checkpoint: {first_line(error)}"
        ) from error
    except Exception as error:  # whatever the unpickler refuses
        raise ModelError(
            f"{path} holds more than tensors and plain values, which geoseg does not "
            f"unpickle: {first_line(error)}; save its state_dict as safetensors"
        ) from error
    if not isinstance(found, dict) or "state_dict" not in found:
        raise ModelError(f"{path} is no checkpoint of Lightning: it has no state_dict")
    return found


def _settings(checkpoint: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the trainer's settings."""
    found = checkpoint.get("hyper_parameters")
    if not isinstance(found, Mapping):
        raise ModelError(
            f"{path} does not say which network it is of: it has no hyper_parameters"
        )
    return dict(found)


def _card(card: Card, path: Path, settings: Mapping[str, Any]) -> Card:
    """Return the card with the framework that the checkpoint's settings imply."""
    if _is_terratorch(settings) and settings.get("model_factory") != "SMPModelFactory":
        return replace(card, framework={"family": "checkpoint", "arch": "terratorch"})
    told = dict(settings.get("model_args") or settings)
    name = str(told.pop("model", ""))
    if name == "fcn":  # torchgeo's own: five convolutions
        filters = int(told.get("num_filters") or 64)
        plain = {"family": "checkpoint", "arch": "torchgeo-fcn", "filters": filters}
        return replace(card, framework=plain, multiple=card.multiple or 1)
    arch = _NETWORKS.get(name.lower().replace("_", ""))
    if arch is None:
        raise ModelError(
            f"{path} is of the network {name!r}; known are {', '.join(_NETWORKS)}"
        )
    # What terratorch hands to the network's constructor is prefixed.
    smps = {k[4:]: v for k, v in told.items() if k.startswith("smp_")}
    arguments = smps | dict(card.framework)
    framework = {
        **{k: v for k, v in arguments.items() if k != "family"},
        "family": "checkpoint",
        "arch": arch,
        "encoder": str(card.framework.get("encoder") or told.get("backbone")),
    }
    if int(told.get("num_classes") or 0) == 1 and card.channels == 2:
        framework["classes"] = 1
    multiple = card.multiple if card.multiple is not None else smp.multiple_of(arch)
    return replace(card, framework=framework, multiple=multiple)


def _is_terratorch(settings: Mapping[str, Any]) -> bool:
    return "model_args" in settings and "model_factory" in settings


def _load(path: Path, card: Card, options: Options) -> Model:
    checkpoint = _read(path)
    state = checkpoint["state_dict"]
    # The loss and metrics have tensors too.
    weights = {k: v for k, v in state.items() if k.startswith("model.")}
    if card.framework.get("arch") == "terratorch":
        module = _terratorch(_settings(checkpoint, path))
        fill_weights(module, weights, card)
        return TorchModel(module, card, options)
    if card.framework.get("arch") == "torchgeo-fcn":
        models = require("torchgeo.models", what="this checkpoint", extra="torchgeo")
        module = models.FCN(
            len(card.bands), card.channels, num_filters=card.framework["filters"]
        )
        inner = {k.removeprefix("model."): v for k, v in weights.items()}
        fill_weights(module, inner, card)
        return TorchModel(module, card, options)
    while weights and any(all(k.startswith(w) for k in weights) for w in _WRAPPERS):
        weights = {k.partition(".")[2]: v for k, v in weights.items()}
    module = smp.build(replace(card, framework={**card.framework, "family": "smp"}))
    fill_weights(module, weights, card)
    return TorchModel(module, card, options)


def _terratorch(settings: Mapping[str, Any]) -> nn.Module:
    """Return the network that terratorch makes of its own settings."""
    require("terratorch", what="this checkpoint", extra="terratorch")
    from terratorch.tasks import SemanticSegmentationTask

    try:
        arguments = dict(settings["model_args"])
        arguments = {k: v for k, v in arguments.items() if "ckpt" not in k}
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
    return Scores(task.model)


class Scores(nn.Module):
    """A network of terratorch, without what it wraps its answer in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores (n, class, y, x)."""
        answer: Any = self.model(x)
        scores: torch.Tensor = getattr(answer, "output", answer)
        return scores
