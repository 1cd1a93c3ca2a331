"""Networks of segmentation_models_pytorch, from a card and safetensors.

The card's framework says which: `{"family": "smp", "arch": "Unet", "encoder":
"resnet34"}`; anything else in it is handed to the architecture's constructor.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
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

    from geoseg.models.card import Activation, Card
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
_LAST: dict[str, Activation] = {
    "sigmoid": "sigmoid", "softmax": "softmax", "softmax2d": "softmax",
    "logsoftmax": "softmax", "identity": "softmax",
}  # fmt: skip
"""What the library calls a last layer, and what makes probabilities of logits."""
_NOT_BUILT = frozenset({"encoder_weights", "in_channels", "aux_params"})
"""What is the card's, or is no part of a map."""
_OF_IMAGES = "classification_head."  # of `aux_params`, which tells what a picture is of
_RENAMED = {
    "decoder_use_batchnorm": "decoder_use_norm",
    "psp_use_batchnorm": "decoder_use_norm",
}  # since 0.5
_UPERNET_4 = frozenset({"decoder_pyramid_channels", "decoder_segmentation_channels"})
"""Arguments of UPerNet in smp 0.4, whose layers were others."""
_PYRAMIDS = {"PAN": 128}  # pools three times more, on what is left of 16


def load_folder(folder: ModelFolder, options: ModelOptions) -> Model:
    """Load the network of a model folder."""
    card, weights = folder.card, folder.weights
    if (folder.path / "config.json").is_file():  # as its save_pretrained writes it
        weights = weights or folder.path / "model.safetensors"
    module = build(card)
    tensors = load_safetensors(weights or folder.weights_file)
    check_version(card, tensors)
    kept = {k: v for k, v in tensors.items() if not k.startswith(_OF_IMAGES)}
    fill_weights(module, kept, card)
    return TorchModel(module, card, options)


def check_version(card: Card, named: Iterable[str]) -> None:
    """Raise where tensors or arguments are of a network that the library made anew.

    Args:
        card: The network's.
        named: The names of its tensors, or of its arguments.

    Raises:
        ModelError: They are of UPerNet of smp 0.4.
    """
    older = any("decoder.fpn_stages." in key or key in _UPERNET_4 for key in named)
    if card.framework.get("arch") == "UPerNet" and older:
        raise ModelError(
            f"{card.name!r} is UPerNet of segmentation_models_pytorch 0.4, whose "
            "layers are not those of 0.5 and later: where 0.4 is installed, export it "
            "to .onnx or .pt2, or train it again"
        )


def implied(folder: ModelFolder) -> Card:
    """Return the card of a model folder, with what the library's own files say."""
    card, beside = folder.card, folder.path / "config.json"
    if not beside.is_file():
        return replace(described(card, card.framework), multiple=card.multiple)
    return described(card, {**_pretrained(beside), **card.framework})


def described(card: Card, framework: Mapping[str, Any]) -> Card:
    """Return a card of a network that is built from these settings.

    It answers logits, whatever its last layer was in training: what `activation` made
    of them is done by geoseg.

    Raises:
        ModelError: That layer makes something else of them.
    """
    plain = dict(framework)
    last = plain.pop("activation", None)
    if last is not None and last not in _LAST:
        raise ModelError(
            f"activation {last!r} of {card.name!r} is none of {', '.join(_LAST)}"
            + did_you_mean(str(last), _LAST)
        )
    if last is not None and last != "identity":
        card = replace(card, output="logits", activation=_LAST[last])
    if card.multiple is None:
        card = replace(card, multiple=multiple_of(str(plain.get("arch"))))
    return replace(card, framework=plain)


def _pretrained(config: Path) -> dict[str, Any]:
    """Return the framework that the library's own `config.json` describes."""
    told = read_json(config)
    ours = {"_model_class": "arch", "encoder_name": "encoder"}
    if not ours.keys() <= told.keys():
        raise ModelError(f"{config} is not segmentation_models_pytorch's")
    return {
        ours.get(key, key): value
        for key, value in told.items()
        if key not in _NOT_BUILT and value is not None
    }


def build(card: Card) -> nn.Module:
    """Return the network that a card describes, with random weights.

    Raises:
        ModelError: The architecture or encoder is not known, or takes other arguments.
    """
    require("segmentation_models_pytorch", what="this model", extra="models")
    import segmentation_models_pytorch as smp

    plain = plain_arguments(card.framework, f"the card of {card.name!r}")
    arguments = {_RENAMED.get(k, k): v for k, v in plain.items()}
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
    check_version(card, unknown)
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
    found = {k: v for k, v in given.items() if k not in {"family", "answer", "state"}}
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
