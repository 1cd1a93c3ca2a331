"""Networks rewritten to give the same answer sooner.

Batch norms are folded into the convolutions before them: in evaluation a batch norm is
a scale and a shift per channel, which the convolution's weights can hold (as in
`torch.nn.utils.fusion`). A pass over every activation is saved: a third of the time of
a U-Net on a CPU. There, convolutions of doubled maps are folded too (`upconv`).
SegFormer's decoder multiplies its matrices beforehand (`mixing`).
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterator

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from geoseg.models.networks.speedup.mixing import mix_early
from geoseg.models.networks.speedup.upconv import with_upconvs

_TOLERANCE = 1e-3  # of the largest score; rounding is a hundred times smaller
_FOLDED = ("segmentation_models_pytorch", "timm", "torchvision")


def fused(module: nn.Module, bands: int, side: int, *, on_cpu: bool) -> nn.Module:
    """Return the network rewritten, or itself where that fails.

    Only networks of the libraries are touched: what somebody wrote, or hooked into, may
    do more than compute. What comes out is compared with the network on one window of
    noise: one whose way depends on its input stays as it is.

    Args:
        module: The network in evaluation mode, in fp32, on any device.
        bands: Channels that it reads.
        side: Side of a window that it takes, in pixels.
        on_cpu: Whether it is to run on a CPU.
    """
    if not _is_plain(module):
        return module
    noise = torch.Generator().manual_seed(0)
    window = torch.randn(1, bands, side, side, generator=noise)
    answer = None
    for rewrite in _rewrites(module, on_cpu=on_cpu):
        try:
            quick = rewrite(copy.deepcopy(module), window)
            if quick is None:
                continue
            if answer is None:
                answer = _answer(module, window)
            if _same(_answer(quick, window), answer):
                return quick
        except RuntimeError:
            continue  # the network says itself, when it is used, what it does not take
    return module


Rewrite = Callable[[nn.Module, torch.Tensor], "nn.Module | None"]


def _rewrites(module: nn.Module, *, on_cpu: bool) -> Iterator[Rewrite]:
    """Yield ways to rewrite a network of a library, the quickest first."""
    if _library(module) == "transformers":
        yield lambda copied, _: copied if mix_early(copied) else None
        return

    def all_of_it(copied: nn.Module, window: torch.Tensor) -> nn.Module:
        _fold(copied)
        mix_early(copied)
        return with_upconvs(copied, window) if on_cpu else copied

    def norms(copied: nn.Module, _: torch.Tensor) -> nn.Module:
        _fold(copied)
        return copied

    yield all_of_it
    yield norms


def _fold(module: nn.Module) -> None:
    """Fold a network in place; where it cannot be traced as one, its parts."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what tracing finds odd
            pairs = list(_pairs(module))
    except Exception:  # noqa: BLE001 - tracing fails in as many ways as there are networks
        for child in module.children():
            _fold(child)
        return
    for conv, norm in pairs:
        folded = fuse_conv_bn_eval(
            module.get_submodule(conv),  # type: ignore[type-var]
            module.get_submodule(norm),  # type: ignore[arg-type]
        )
        _replace(module, conv, folded)
        _replace(module, norm, nn.Identity())


def _pairs(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield names of convolutions and the batch norms that alone read them."""
    nodes = list(fx.symbolic_trace(module).graph.nodes)
    calls = Counter(node.target for node in nodes if node.op == "call_module")
    for node in nodes:
        before = node.args[0] if node.args else None
        if (
            node.op == "call_module"
            and isinstance(before, fx.Node)
            and before.op == "call_module"
            and len(before.users) == 1
            and calls[node.target] == calls[before.target] == 1
            and type(module.get_submodule(str(node.target))) is nn.BatchNorm2d
            and type(module.get_submodule(str(before.target))) is nn.Conv2d
        ):
            yield str(before.target), str(node.target)


def _replace(module: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, new)


def _library(module: nn.Module) -> str:
    return type(module).__module__.partition(".")[0]


def _is_plain(module: nn.Module) -> bool:
    """Whether this is a library's network with batch norms, and nothing hooked in."""
    known = _library(module) in (*_FOLDED, "transformers")
    parts = list(module.modules())
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in parts)  # noqa: SLF001
    return known and not hooked and any(isinstance(m, nn.BatchNorm2d) for m in parts)


@torch.no_grad()
def _answer(module: nn.Module, window: torch.Tensor) -> object:
    """Return a network's scores for a window, as transformers wraps them or bare."""
    answer = module(window.to(next(module.parameters()).device))
    return getattr(answer, "logits", answer)


def _same(one: object, two: object) -> bool:
    """Whether two answers are scores that differ by rounding only."""
    if not (isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor)):
        return False
    return bool((one - two).abs().max() <= _TOLERANCE * two.abs().max())
