"""The first and the last convolution in fp32 where the rest of a network is in bf16.

Most labels in which a network in bf16 differs from itself in fp32 come from rounding
its input, or its scores, to 8 bits. The first convolution reads few channels and the
last answers few, so that they are cheap; in fp32 the one sees the pixels as they are,
and the other tells scores apart that bf16 does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode


class InFull(nn.Module):
    """A convolution in fp32, whatever comes in, whose answer goes on in a dtype."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv = conv.float()
        self.dtype = dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the convolution of (n, band, y, x) in the dtype."""
        return self.conv(x.float()).to(self.dtype)  # type: ignore[no-any-return]


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
    names = [
        name
        for name, is_first in _called(module, shape, dtype)
        if is_first and type(module.get_submodule(name)) is nn.Conv2d
    ]
    if len(names) != 1:
        return dtype
    conv: Any = exact.get_submodule(names[0])
    # Where something else reads the input too, that does not take it in fp32.
    works = _put(module, names[0], InFull(conv, dtype), shape, torch.float32)
    return torch.float32 if works else dtype


def last_in_full(
    module: nn.Module, exact: nn.Module, shape: Sequence[int], dtype: torch.dtype
) -> bool:
    """Put the last of all weights in fp32, in place, where those are a convolution's.

    Args:
        module: The network.
        exact: The same network in fp32, whose weights are taken.
        shape: (n, band, y, x) of what it reads.
        dtype: In which it wants that.

    Returns:
        Whether it was done; what follows has no weights, so that any dtype suits it.
    """
    calls, known = _called(module, shape, dtype), dict(exact.named_modules())
    name = calls[-1][0] if calls else ""
    conv: Any = known.get(name)
    if type(conv) is not nn.Conv2d:  # none, or it is in fp32 already
        return False
    return _put(module, name, InFull(conv, torch.float32), shape, dtype)


def _put(
    module: nn.Module,
    name: str,
    new: nn.Module,
    shape: Sequence[int],
    dtype: torch.dtype,
) -> bool:
    """Replace a part, in place, if the network then takes input in the dtype."""
    parent, _, last = name.rpartition(".")
    owner, old = module.get_submodule(parent), module.get_submodule(name)
    setattr(owner, last, new)
    module.to(memory_format=torch.channels_last)
    try:
        _called(module, shape, dtype)
    except RuntimeError:
        setattr(owner, last, old)
        return False
    return True


def _called(
    module: nn.Module, shape: Sequence[int], dtype: torch.dtype
) -> list[tuple[str, bool]]:
    """Return what has weights in the order of its calls; no values are computed.

    Each with whether it reads the network's input itself, (n, band, y, x) in the dtype.
    """
    found: list[tuple[str, bool]] = []
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(*shape, dtype=dtype)

        def note(name: str, args: tuple[object, ...]) -> None:
            found.append((name, any(arg is x for arg in args)))

        hooks = [
            part.register_forward_pre_hook(lambda _, args, name=name: note(name, args))
            for name, part in module.named_modules()
            if next(part.parameters(recurse=False), None) is not None
        ]
        try:
            module(x)
        finally:
            for hook in hooks:
                hook.remove()
    return found
