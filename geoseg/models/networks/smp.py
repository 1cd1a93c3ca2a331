"""Networks of segmentation_models_pytorch, from a card and safetensors.

The card's framework says which: `{"family": "smp", "arch": "Unet", "encoder":
"resnet34"}`; anything else in it is handed to the architecture's constructor.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from geoseg.errors import ModelError, first_line
from geoseg.models.extras import require
from geoseg.models.networks.torch_adapter import TorchModel
from geoseg.models.networks.weights import fill_weights, load_safetensors, save_network

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from geoseg.models.card import Card
    from geoseg.models.contract import Model
    from geoseg.models.folder import ModelFolder
    from geoseg.models.networks.device import Options

ARCHITECTURES = (
    "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3",
    "DeepLabV3Plus", "UPerNet", "Segformer", "DPT",
)  # fmt: skip
_FULL_WINDOWS_ONLY = frozenset({"DPT"})  # its position embedding fits one size
MULTIPLE = 32
"""The encoders halve five times: windows must be whole multiples of this."""
_PYRAMIDS = {"PAN": 128}  # pools three times more, on what is left of 16


def load_folder(folder: ModelFolder, options: Options) -> Model:
    """Load the network of a model folder."""
    module = build(folder.card)
    fill_weights(module, load_safetensors(folder.weights_file), folder.card)
    return TorchModel(module, folder.card, options)


def build(card: Card) -> nn.Module:
    """Return the network that a card describes, with random weights.

    Raises:
        ModelError: The architecture or encoder is not known, or takes other arguments.
    """
    require("segmentation_models_pytorch", what="this model", extra="models")
    import segmentation_models_pytorch as smp

    arguments = dict(card.framework)
    arguments.pop("family", None)
    arch = str(arguments.pop("arch", ""))
    encoder = arguments.pop("encoder", "resnet34")
    arguments.pop("classes", None)  # 1: one sigmoid, see _channels
    if arch not in ARCHITECTURES or not hasattr(smp, arch):
        raise ModelError(
            f"arch {arch!r} of {card.name!r} is none of {', '.join(ARCHITECTURES)}"
        )
    step = multiple_of(arch) or 1
    if card.window % step:
        raise ModelError(
            f"window {card.window} px of {card.name!r} is not a multiple of {step} "
            f"px, which {arch} needs: use {-(-card.window // step) * step}"
        )
    known = inspect.signature(getattr(smp, arch).__init__).parameters
    unknown = sorted(arguments.keys() - known.keys())
    if unknown and not str(encoder).startswith("tu-"):  # those take timm's arguments
        raise ModelError(f"{arch} of {card.name!r} takes no argument {unknown[0]!r}")
    try:
        module: nn.Module = getattr(smp, arch)(
            encoder_name=encoder,
            encoder_weights=None,
            in_channels=len(card.bands),
            classes=_channels(card),
            **arguments,
        )
    except (TypeError, ValueError, KeyError, NotImplementedError) as error:
        raise ModelError(
            f"{arch} with encoder {encoder!r} cannot be built for {card.name!r}: "
            f"{first_line(error)}"
        ) from error
    return module


def _channels(card: Card) -> int:
    """Return the network's own number of output channels."""
    one_sigmoid = card.activation == "sigmoid" and card.framework.get("classes") == 1
    return 1 if one_sigmoid else card.channels


def smp_card(card: Card, *, arch: str, encoder: str, **arguments: object) -> Card:
    """Return the card with the framework of an smp network, and its multiple."""
    framework: Mapping[str, Any] = {
        "family": "smp",
        "arch": arch,
        "encoder": encoder,
        **arguments,
    }
    return replace(card, framework=framework, multiple=multiple_of(arch))


def multiple_of(arch: str) -> int | None:
    """Return what the sides of windows must be a multiple of; None: full windows."""
    if arch in _FULL_WINDOWS_ONLY:
        return None
    return _PYRAMIDS.get(arch, MULTIPLE)


def save_model(module: nn.Module, card: Card, folder: Path) -> Path:
    """Write a network and its card as a model folder that `--model` takes.

    Args:
        module: The network; built again from `card.framework` to see that it fits.
        card: Its card; see `smp_card`.
        folder: Where.
    """
    return save_network(module, card, folder, build)
