"""SegFormer's decoder with fewer sums: the same answer, sooner.

It brings features of four scales to as many channels (a matrix each), enlarges them to
the finest scale, puts them side by side, and mixes them by one more matrix. A matrix
over channels and bilinear enlargement, whose weights add up to one, can change places:

    mix(cat(enlarge(project_i(x_i)))) = sum_i enlarge((mix_i project_i)(x_i))

The product of both matrices is small where the features are large: most of the
network's arithmetic and its largest tensors go away. Batch norm goes into the matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Mixed(nn.Module):
    """The sum of enlarged projections of features, the finest first."""

    def __init__(
        self, projections: Sequence[nn.Linear], mix: nn.Conv2d, norm: nn.Module
    ) -> None:
        """Multiply matrices, in double precision.

        Args:
            projections: One per scale, in the order in which `mix` reads them.
            mix: A 1 x 1 convolution.
            norm: What follows it: batch norm, or nothing.
        """
        super().__init__()
        weight = mix.weight.detach()[..., 0, 0].double()
        bias = weight.new_zeros(len(weight))
        if mix.bias is not None:
            bias = mix.bias.detach().double()
        parts = torch.split(weight, [p.out_features for p in projections], 1)
        matrices = []
        for part, own in zip(parts, projections, strict=True):
            matrices.append(part @ own.weight.detach().double())
            bias = bias + part @ own.bias.detach().double()
        if isinstance(norm, nn.BatchNorm2d):
            scale, shift = _affine(norm)
            matrices = [scale[:, None] * matrix for matrix in matrices]
            bias = scale * bias + shift
        dtype = mix.weight.dtype
        self.matrices = nn.ParameterList(
            nn.Parameter(m[..., None, None].to(dtype)) for m in matrices
        )
        self.bias = nn.Parameter(bias.to(dtype))

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return (n, channel, y, x) at the size of the last, finest features."""
        *coarse, finest = zip(features, self.matrices, strict=True)
        mixed = functional.conv2d(*finest, self.bias)
        for x, matrix in coarse:
            mixed += functional.interpolate(
                functional.conv2d(x, matrix),
                size=mixed.shape[-2:],
                mode="bilinear",
                align_corners=False,
            )
        return functional.relu_(mixed)


class TransformersHead(nn.Module):
    """`SegformerDecodeHead` of transformers."""

    def __init__(self, head: Any) -> None:  # noqa: ANN401 - an untyped library
        super().__init__()
        linears = [p.proj for p in head.linear_projections]
        self.mixed = Mixed(linears[::-1], head.linear_fuse, head.batch_norm)
        self.classifier = head.classifier

    def forward(
        self,
        features: Sequence[torch.Tensor],
        **_: Any,  # noqa: ANN401
    ) -> torch.Tensor:
        """Return scores at the size of the first features."""
        return self.classifier(self.mixed(features[::-1]))  # type: ignore[no-any-return]


class SmpDecoder(nn.Module):
    """`SegformerDecoder` of segmentation_models_pytorch."""

    def __init__(self, decoder: Any) -> None:  # noqa: ANN401 - an untyped library
        super().__init__()
        linears = [stage.linear for stage in decoder.mlp_stage]
        self.mixed = Mixed(linears, decoder.fuse_stage[0], decoder.fuse_stage[1])

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return what is at a quarter of the size of the first features."""
        return self.mixed(features[::-1][: len(self.mixed.matrices)])  # type: ignore[no-any-return]


_DECODERS = {
    ("transformers", "SegformerDecodeHead"): TransformersHead,
    ("segmentation_models_pytorch", "SegformerDecoder"): SmpDecoder,
}


def mix_early(module: nn.Module) -> bool:
    """Replace a network's decoder where it is SegFormer's; return whether it was."""
    for name, child in module.named_children():
        library = type(child).__module__.partition(".")[0]
        decoder = _DECODERS.get((library, type(child).__name__))
        if decoder is not None:
            setattr(module, name, decoder(child))
            return True
    return False


def _affine(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a batch norm multiplies by and adds, in evaluation."""
    if norm.running_mean is None or norm.running_var is None:
        raise RuntimeError("a batch norm without statistics is not a matrix")
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    return scale, shift
