"""Google's Dynamic World network: nine classes of land cover from Sentinel-2 at 10 m.

Brown et al. (2022), "Dynamic World, Near real-time global 10 m land use land cover
mapping", Scientific Data 9:251. The network is published as a TensorFlow SavedModel
(github.com/google/dynamicworld, Apache-2.0); `import_folder` turns it into a model
folder of safetensors. Input are top-of-atmosphere reflectances x 10000 (L1C, before the
offset of processing baseline 04.00), which the network squashes itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from geoseg.core.classes import Class
from geoseg.errors import ModelError
from geoseg.models.card import Band, Card
from geoseg.models.networks.tensor_bundle import read_bundle
from geoseg.models.networks.torch_adapter import TorchModel
from geoseg.models.networks.weights import fill_weights, load_safetensors, save_network

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from geoseg.models.contract import Model
    from geoseg.models.folder import ModelFolder
    from geoseg.models.networks.device import ModelOptions

# Per band: what is taken off the logarithm, and what it is divided by.
_BANDS = (
    ("B2", "blue", 1.7417268007636313, 2.023298706048351),
    ("B3", "green", 1.7261204997060209, 2.038905204308012),
    ("B4", "red", 1.6798346251414997, 2.179592821212937),
    ("B5", "rededge071", 1.7734969472909623, 2.2890068333026603),
    ("B6", "rededge075", 2.289154079164943, 2.6171674549378166),
    ("B7", "rededge078", 2.382939712192371, 2.773418590375327),
    ("B8", "nir", 2.3828939530384052, 2.7578332604178284),
    ("B11", "swir16", 2.1952484264967844, 2.789092484314204),
    ("B12", "swir22", 1.554812948247501, 2.4140534947492487),
)
_CLASSES = (
    ("water", "#419BDF"), ("trees", "#397D49"), ("grass", "#88B053"),
    ("flooded_vegetation", "#7A87C6"), ("crops", "#E49635"),
    ("shrub_and_scrub", "#DFC35A"), ("built", "#C4281B"), ("bare", "#A59B8F"),
    ("snow_and_ice", "#B39FE1"),
)  # fmt: skip
CARD = Card(
    name="dynamicworld",
    bands=tuple(Band(name=n, common_name=c, clip=(0, 65535)) for n, c, _, _ in _BANDS),
    classes=tuple(
        Class(value=i, name=name, color=color)
        for i, (name, color) in enumerate(_CLASSES)
    ),
    window=512,
    overlap=64,
    multiple=2,
    resolution=10.0,
    value_range=(0.0, 20000.0),
    # Of L1C, but the numbers are the same: reflectance x 10000 without an offset.
    numbers="s2-l2a-before-0400",
    description="Dynamic World by Google, National Geographic Society and the World "
    "Resources Institute: land cover from Sentinel-2 L1C",
    license="Apache-2.0",
    framework={"family": "dynamicworld", "arch": "dynamicworld"},
)


class DynamicWorld(nn.Module):
    """The network: three residual blocks at half resolution, and a linear head."""

    input_dtype = torch.float32
    """Pixels in the thousands are squashed before they may lose digits."""
    own_precision = "fp32"
    """What `auto` means: in bf16 3 % of the labels of a Sentinel-2 chip are others."""

    low: torch.Tensor
    spread: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = _step(9, 64, 3)
        self.block1 = _Residual(64, 96)
        self.block2 = _Residual(96, 144)
        self.side = nn.Sequential(_step(64, 48, 1), _step(48, 48, 3, groups=48))
        self.block3 = _Residual(192, 144)
        self.head = nn.Conv2d(144, 9, 1)
        constants = torch.tensor([b[2:] for b in _BANDS]).T.reshape(2, 1, -1, 1, 1)
        self.register_buffer("low", constants[0].clone(), persistent=False)
        self.register_buffer("spread", constants[1].clone(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, class, y, x) logits of (n, band, y, x) reflectances x 10000."""
        size = x.shape[-2:]
        x = self._squashed(x.float()).to(
            self.head.weight.dtype, memory_format=torch.channels_last
        )
        x = _halved(self.stem(x))
        side = self.side(x)
        x = self.block3(torch.cat([self.block2(self.block1(x)), side], 1))
        x = functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
        return self.head(functional.normalize(x, dim=1, eps=1e-6))  # type: ignore[no-any-return]

    def _squashed(self, x: torch.Tensor) -> torch.Tensor:
        low, spread = self.low.float(), self.spread.float()
        return torch.sigmoid(((x * 0.005).log1p() - low) / spread * 5 - 1)


def _halved(x: torch.Tensor) -> torch.Tensor:
    """Halve the resolution with a triangle as wide as two pixels of the result."""
    half = (x.shape[-2] // 2, x.shape[-1] // 2)
    return functional.interpolate(
        x.float(), size=half, mode="bilinear", align_corners=False, antialias=True
    ).to(x.dtype)


def _step(inputs: int, outputs: int, side: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, side, padding=side // 2, groups=groups),
        nn.BatchNorm2d(outputs, eps=1e-3),
        nn.Mish(),
    )


class _Residual(nn.Module):
    """Three times: a point-wise and a depth-wise step; and a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        steps = []
        for channels in (inputs, outputs, outputs):
            steps += [_step(channels, outputs, 1)]
            steps += [_step(outputs, outputs, 3, groups=outputs)]
        self.steps = nn.Sequential(*steps)
        self.shortcut = _step(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of both ways."""
        return self.steps(x) + self.shortcut(x)  # type: ignore[no-any-return]


def load_folder(folder: ModelFolder, options: ModelOptions) -> Model:
    """Load the network of a model folder."""
    module = DynamicWorld()
    fill_weights(module, load_safetensors(folder.weights_file), folder.card)
    return TorchModel(module, folder.card, options)


def import_folder(saved_model: Path, out: Path) -> Path:
    """Turn the published SavedModel into a model folder; TensorFlow is not needed.

    Args:
        saved_model: The folder with `saved_model.pb` and `variables`.
        out: The model folder to write.
    """
    if not (saved_model / "variables" / "variables.index").is_file():
        raise ModelError(
            f"{saved_model} is not the folder of Dynamic World's SavedModel, in which "
            "variables/variables.index is missing: name the one called forward in "
            "google/dynamicworld's model folder"
        )
    tensors = read_bundle(saved_model / "variables")
    keys = [f"variables/{i}/.ATTRIBUTES/VARIABLE_VALUE" for i in range(len(tensors))]
    module = DynamicWorld()
    order = list(_in_order())
    if len(order) != len(tensors) or any(key not in tensors for key in keys):
        raise ModelError(
            f"{saved_model} holds {len(tensors)} tensors, Dynamic World's forward "
            f"network has {len(order)}"
        )
    state = module.state_dict()
    for name, key in zip(order, keys, strict=True):
        value = _turned(tensors[key], depthwise=state[name].shape[1:2] == (1,))
        if value.shape != state[name].shape:
            raise ModelError(
                f"{saved_model} is not Dynamic World's forward network: {key} is "
                f"{tuple(value.shape)} instead of {tuple(state[name].shape)}"
            )
        state[name] = value
    module.load_state_dict(state)
    return save_network(module, CARD, out, lambda _: DynamicWorld())


def _turned(array: NDArray[np.float32], *, depthwise: bool) -> torch.Tensor:
    """Return a kernel (y, x, in, out) or (y, x, out, 1) as torch has it."""
    tensor = torch.from_numpy(array.copy())
    if tensor.ndim != 4:
        return tensor
    return tensor.permute(2, 3, 0, 1) if depthwise else tensor.permute(3, 2, 0, 1)


def _in_order() -> Iterator[str]:
    """Yield the names of the network's tensors as the SavedModel has them in order."""
    yield from _convolution("stem.0")
    yield from _norm("stem.1")
    yield from _residual("block1", [])
    yield from _residual("block2", [*_convolution("side.0.0"), *_norm("side.0.1")])
    yield from _convolution("side.1.0")
    yield from _norm("side.1.1")
    yield from _residual("block3", [])
    yield from _convolution("head")


def _residual(block: str, between: list[str]) -> Iterator[str]:
    for step in range(5):
        yield from _convolution(f"{block}.steps.{step}.0")
        yield from _norm(f"{block}.steps.{step}.1")
    yield from between
    yield from _convolution(f"{block}.steps.5.0")
    yield from _convolution(f"{block}.shortcut.0")
    yield from _norm(f"{block}.steps.5.1")
    yield from _norm(f"{block}.shortcut.1")


def _convolution(name: str) -> Iterator[str]:
    yield from (f"{name}.weight", f"{name}.bias")


def _norm(name: str) -> Iterator[str]:
    yield from (
        f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var")
    )
