"""Networks of segmentation_models_pytorch, from a card and safetensors.

The card's framework says which: `{"family": "smp", "arch": "Unet", "encoder":
"resnet34"}`; anything else in it is handed to the architecture's constructor.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from geoseg.core.extras import require
from geoseg.core.text import did_you_mean
from geoseg.errors import ModelError, first_line
from geoseg.models.networks.torch_adapter import TorchModel
from geoseg.models.networks.weights import fill_weights, load_safetensors, save_network
from geoseg.models.plain import read_json

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from geoseg.models.card import Card
    from geoseg.models.contract import Model
    from geoseg.models.folder import ModelFolder
    from geoseg.models.networks.device import ModelOptions

ARCHITECTURES = (
    "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3",
    "DeepLabV3Plus", "UPerNet", "Segformer", "DPT",
)  # fmt: skip
_FULL_WINDOWS_ONLY = frozenset({"DPT"})  # its position embedding fits one size
MULTIPLE = 32
"""The encoders halve five times: windows must be whole multiples of this."""
_TIMM = frozenset({"drop_path_rate", "drop_rate", "dynamic_img_size", "img_size"})
"""What encoders of timm may be told; others of its arguments name files."""
_PYRAMIDS = {"PAN": 128}  # pools three times more, on what is left of 16


def load_folder(folder: ModelFolder, options: ModelOptions) -> Model:
    """Load the network of a model folder."""
    card, weights = folder.card, folder.weights
    if (folder.path / "config.json").is_file():  # as its save_pretrained writes it
        framework = {**_pretrained(folder.path), **card.framework}
        multiple = card.multiple or multiple_of(str(framework["arch"]))
        card = replace(card, framework=framework, multiple=multiple)
        weights = weights or folder.path / "model.safetensors"
    module = build(card)
    tensors = load_safetensors(weights or folder.weights_file)
    fill_weights(module, tensors, card)
    return TorchModel(module, card, options)


def _pretrained(path: Path) -> dict[str, Any]:
    """Return the framework that the library's own `config.json` describes."""
    config = read_json(path / "config.json")
    ours = {"_model_class": "arch", "encoder_name": "encoder"}
    if not ours.keys() <= config.keys():
        raise ModelError(f"{path / 'config.json'} is not segmentation_models_pytorch's")
    names = {**ours, **{k: k for k in config if k.startswith("decoder")}}
    names |= {"encoder_depth": "encoder_depth", "classes": "classes"}
    return {ours: config[k] for k, ours in names.items() if k in config}


def build(card: Card) -> nn.Module:
    """Return the network that a card describes, with random weights.

    Raises:
        ModelError: The architecture or encoder is not known, or takes other arguments.
    """
    require("segmentation_models_pytorch", what="this model", extra="models")
    import segmentation_models_pytorch as smp

    arguments = plain_arguments(card.framework, f"the card of {card.name!r}")
    arch = str(arguments.pop("arch", ""))
    encoder = arguments.pop("encoder", "resnet34")
    arguments.pop("classes", None)  # 1: one sigmoid, see _channels
    if arch not in ARCHITECTURES or arch not in vars(smp):
        raise ModelError(
            f"arch {arch!r} of {card.name!r} is not one of {', '.join(ARCHITECTURES)}"
            + did_you_mean(arch, ARCHITECTURES)
        )
    step = multiple_of(arch) or 1
    if card.window % step:
        raise ModelError(
            f"window {card.window} px of {card.name!r} is not a multiple of {step} "
            f"px, which {arch} needs: use {-(-card.window // step) * step}"
        )
    if not re.fullmatch(r"[\w.+-]+", str(encoder)):  # no path, no address
        raise ModelError(f"encoder {encoder!r} of {card.name!r} is not a name")
    known = inspect.signature(getattr(smp, arch).__init__).parameters
    known_too = _TIMM if str(encoder).startswith("tu-") else frozenset()
    unknown = sorted(arguments.keys() - known.keys() - known_too)
    if unknown:
        raise ModelError(
            f"{arch} of {card.name!r} takes no argument {unknown[0]!r}; known: "
            f"{', '.join(n for n in known if n.startswith(('enc', 'dec', 'aux')))}"
            + did_you_mean(unknown[0], {*known, "arch", "encoder"})
        )
    try:
        module: nn.Module = getattr(smp, arch)(
            encoder_name=encoder,
            encoder_weights=None,
            in_channels=len(card.bands),
            classes=_channels(card),
            **arguments,
        )
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        wrong = isinstance(error, KeyError) or "Unknown model" in str(error)
        raise ModelError(
            f"{arch} with encoder {encoder!r} cannot be built for {card.name!r}: "
            + (f"smp has none{_near(encoder)}" if wrong else first_line(error))
        ) from error
    return module


def _near(encoder: str) -> str:
    """Return the encoder that may be meant, of smp's own and timm's."""
    import segmentation_models_pytorch as smp
    import timm

    timms = (f"tu-{name}" for name in timm.list_models())
    return did_you_mean(encoder, [*smp.encoders.encoders, *timms])


def plain_arguments(given: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """Return arguments for a library's factory, without the names that are ours.

    Raises:
        ModelError: One names files or weights, which the factory would read.
    """
    found = {k: v for k, v in given.items() if k not in {"family", "answer"}}
    for key, value in found.items():
        texts = [value, *value.values()] if isinstance(value, Mapping) else [value]
        reads = re.search(
            "path(?!_rate)|file|checkpoint|ckpt|url|cache|cfg|hub", str(key)
        )
        if reads or any(isinstance(t, str) and re.search(r"[/\\:]", t) for t in texts):
            raise ModelError(
                f"{whose} hands {key!r} to the network's factory, which may read "
                "files: arguments are numbers, names and switches"
            )
    return found


def _channels(card: Card) -> int:
    """Return the network's own number of output channels."""
    return 1 if card.framework.get("classes") == 1 else card.channels


def multiple_of(arch: str) -> int | None:
    """Return what the sides of windows must be a multiple of; None: full windows."""
    if arch in _FULL_WINDOWS_ONLY:
        return None
    return _PYRAMIDS.get(arch, MULTIPLE)


def save_model(module: nn.Module, card: Card, folder: Path) -> Path:
    """Write a network and its card as a model folder that `--model` takes.

    Args:
        module: The network; built again from `card.framework` to see that it fits.
        card: Its card, whose framework says which network.
        folder: Where.
    """
    return save_network(module, card, folder, build)
