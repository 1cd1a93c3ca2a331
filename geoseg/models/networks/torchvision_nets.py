"""Networks of torchvision, from a card and safetensors.

The card's framework says which: `{"family": "torchvision", "arch":
"deeplabv3_resnet50"}`, or `maskrcnn_resnet50_fpn_v2` for instances; anything else in it
is handed to torchvision's constructor, but for a detector's `anchors`: the sides in
pixels of the squares that it starts from, one for each of its five levels. The
`maskrcnn_resnet18_fpn` is for CPUs; its `width` (256) makes it smaller still.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from torch import nn

from geoseg.core.extras import require
from geoseg.errors import ModelError, first_line
from geoseg.models.networks import smp
from geoseg.models.networks.detector import Detections, DetectorModel, Finder
from geoseg.models.networks.torch_adapter import TorchModel
from geoseg.models.networks.weights import fill_weights, load_safetensors, save_network

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from geoseg.models.card import Card
    from geoseg.models.contract import InstanceModel, Model
    from geoseg.models.folder import ModelFolder
    from geoseg.models.networks.device import ModelOptions

SEMANTIC = (
    "fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101",
    "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large",
)  # fmt: skip
INSTANCE = (
    "maskrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn", "maskrcnn_resnet18_fpn",
)  # fmt: skip


def load_folder(folder: ModelFolder, options: ModelOptions) -> Model | InstanceModel:
    """Load the network of a model folder."""
    module = build(folder.card)
    fill_weights(module, load_safetensors(folder.weights_file), folder.card)
    if folder.card.task == "semantic":
        return TorchModel(module, folder.card, options)
    return DetectorModel(MaskRcnn(module), folder.card, options)


class MaskRcnn(Finder):
    """A detector of torchvision: its forward pass, cut where windows part."""

    def __init__(self, network: Any) -> None:  # noqa: ANN401 - a `MaskRCNN`
        super().__init__()
        self.network: Any = network

    def features(self, x: torch.Tensor) -> dict[str, Any]:
        """Return the pyramid, proposals and the sizes that it sees windows in."""
        network = self.network
        images, _ = network.transform(list(x))
        pyramid = network.backbone(images.tensors)
        proposals, _ = network.rpn(images, pyramid)
        return {
            "pyramid": pyramid,
            "proposals": proposals,
            "sizes": images.image_sizes,
        }

    def of_window(self, features: dict[str, Any], i: int) -> dict[str, Any]:
        """Return the features of one window; each has proposals of its own number."""
        pyramid = {
            name: level[i : i + 1] for name, level in features["pyramid"].items()
        }
        own = {name: features[name][i : i + 1] for name in ("proposals", "sizes")}
        return {"pyramid": pyramid, **own}

    def detections(
        self, features: dict[str, Any], size: tuple[int, int], *_: object
    ) -> Detections:
        """Return what is found in one window."""
        network, sizes = self.network, features["sizes"]
        found, _losses = network.roi_heads(
            features["pyramid"], features["proposals"], sizes
        )
        (only,) = network.transform.postprocess(found, sizes, [size])
        return Detections(
            masks=only["masks"][:, 0] > 0.5,
            channels=only["labels"] - 1,  # 0 is the background
            scores=only["scores"],
        )


def build(card: Card) -> nn.Module:
    """Return the network that a card describes, with random weights.

    Its first convolution takes as many bands as the card has. A detector has one class
    more than the card, its background, which comes first.

    Raises:
        ModelError: The architecture is not known, or takes other arguments.
    """
    require("torchvision", what="this model", extra="models")
    from torchvision.models import detection, segmentation

    arguments = smp.plain_arguments(card.framework, f"the card of {card.name!r}")
    arch = str(arguments.pop("arch", ""))
    known = SEMANTIC if card.task == "semantic" else INSTANCE
    if arch not in known:
        raise ModelError(
            f"arch {arch!r} of {card.name!r}, whose task is {card.task}, is not one of "
            f"{', '.join(known)}"
        )
    semantic = card.task == "semantic"
    constructor = getattr(segmentation if semantic else detection, arch, None)
    arguments = {"num_classes": card.channels + (not semantic)} | arguments
    if semantic:
        return _called(constructor, arguments, card, arch)
    anchors = arguments.pop("anchors", None)
    arguments = _detector_arguments(card) | arguments
    module = _called(constructor or _small_mask_rcnn, arguments, card, arch)
    if anchors is not None:
        _set_anchors(module, anchors, card)
    return module


def _small_mask_rcnn(
    num_classes: int,
    *,
    width: int = 256,
    weights: None = None,  # noqa: ARG001 - as torchvision's own take it
    weights_backbone: None = None,
    **arguments: Any,  # noqa: ANN401
) -> nn.Module:
    """Return what torchvision has no constructor for: Mask R-CNN on a ResNet-18.

    Args:
        num_classes: With the background.
        width: Channels of the pyramid and of all that looks at it; torchvision's 256.
        weights: None.
        weights_backbone: None.
        arguments: Of torchvision's `MaskRCNN`.
    """
    from torchvision.models import resnet18
    from torchvision.models.detection import MaskRCNN, faster_rcnn, mask_rcnn
    from torchvision.models.detection.backbone_utils import BackboneWithFPN

    body = resnet18(weights=weights_backbone, norm_layer=nn.BatchNorm2d)
    levels = {f"layer{i}": str(i - 1) for i in range(1, 5)}
    backbone = BackboneWithFPN(body, levels, [64, 128, 256, 512], width)
    module: nn.Module = MaskRCNN(
        backbone,
        box_head=faster_rcnn.TwoMLPHead(width * 7**2, 4 * width),
        box_predictor=faster_rcnn.FastRCNNPredictor(4 * width, num_classes),
        mask_head=mask_rcnn.MaskRCNNHeads(width, [width] * 4, 1),
        mask_predictor=mask_rcnn.MaskRCNNPredictor(width, width, num_classes),
        **arguments,
    )
    return module


def _set_anchors(module: Any, sides: Any, card: Card) -> None:  # noqa: ANN401
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    levels = len(module.rpn.anchor_generator.sizes)
    try:
        sizes = tuple((float(side),) for side in sides)
    except (TypeError, ValueError):
        sizes = ()
    if len(sizes) != levels or not all(side > 0 for (side,) in sizes):
        raise ModelError(
            f"anchors {sides!r} of {card.name!r} must be {levels} sides in pixels"
        )
    shapes = ((0.5, 1.0, 2.0),) * levels
    module.rpn.anchor_generator = AnchorGenerator(sizes, shapes)


def _called(
    constructor: Any,  # noqa: ANN401 - a function of torchvision
    arguments: dict[str, Any],
    card: Card,
    arch: str,
) -> nn.Module:
    try:
        inspect.signature(constructor).bind(**arguments)
        module: nn.Module = constructor(
            weights=None, weights_backbone=None, **arguments
        )
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"{arch} cannot be built for {card.name!r}: {first_line(error)}"
        ) from error
    if len(card.bands) != 3:
        _widen(module, len(card.bands))
    return module


def _detector_arguments(card: Card) -> dict[str, Any]:
    """Let the detector take windows as the card scales them, at their own size."""
    bands = len(card.bands)
    return {
        "min_size": card.window,
        "max_size": card.window,
        "image_mean": [0.0] * bands,
        "image_std": [1.0] * bands,
    }


def _widen(module: nn.Module, bands: int) -> None:
    """Put a first convolution of so many bands in the place of the one of three."""
    name, first = next(
        (name, part)
        for name, part in module.named_modules()
        if isinstance(part, nn.Conv2d)
    )
    wide = nn.Conv2d(
        bands,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        stride=first.stride,  # type: ignore[arg-type]
        padding=first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, wide)


def save_model(module: nn.Module, card: Card, folder: Path) -> Path:
    """Write a network and its card as a model folder that `--model` takes."""
    return save_network(module, card, folder, build)
