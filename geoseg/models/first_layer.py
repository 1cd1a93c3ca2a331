"""The first convolution in fp32 where the rest of a network is in bf16.

Half of the labels in which a network in bf16 differs from itself in fp32 come from
rounding its input to 8 bits. The first convolution reads few channels, so that it is
cheap; in fp32 it sees the pixels as they are, and only its answer is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode


class InFull(nn.Module):
    """A convolution in fp32 whose answer goes on in another dtype."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv = conv.float()
        self.dtype = dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the convolution of (n, band, y, x) in the dtype."""
        return self.conv(x).to(self.dtype)  # type: ignore[no-any-return]


def first_in_full(
    module: nn.Module, exact: nn.Module, shape: Sequence[int]
) -> torch.dtype:
    """Put the convolution that reads the input in fp32, in place, where that works.

    Args:
        module: The network, in one dtype.
        exact: The same network in fp32, whose weights are taken.
        shape: (n, band, y, x) of what it reads.

    Returns:
        The dtype in which the network now wants its input.
    """
    dtype = next(p.dtype for p in module.parameters() if p.ndim == 4)
    names = _readers(module, shape, dtype)
    if len(names) != 1:
        return dtype
    parent, _, last = names[0].rpartition(".")
    owner, conv = module.get_submodule(parent), module.get_submodule(names[0])
    setattr(owner, last, InFull(exact.get_submodule(names[0]), dtype))  # type: ignore[arg-type]
    module.to(memory_format=torch.channels_last)
    try:
        _readers(module, shape, torch.float32)
    except RuntimeError:  # something else reads the input too
        setattr(owner, last, conv)
        return dtype
    return torch.float32


def _readers(module: nn.Module, shape: Sequence[int], dtype: torch.dtype) -> list[str]:
    """Return which convolutions read the input; computes shapes and dtypes only."""
    found = []
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(*shape, dtype=dtype)
        hooks = [
            part.register_forward_pre_hook(
                lambda _, args, name=name: found.append(name) if args[0] is x else None
            )
            for name, part in module.named_modules()
            if type(part) is nn.Conv2d
        ]
        try:
            module(x)
        finally:
            for hook in hooks:
                hook.remove()
    return found
