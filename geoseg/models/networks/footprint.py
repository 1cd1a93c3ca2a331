"""How much memory a forward pass takes, found without doing it."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

_KERNELS = 1.5  # what kernels keep for themselves while they run, beside their results


def forward_bytes(
    module: nn.Module,
    forward: Callable[[torch.Tensor], object],
    shape: tuple[int, ...],
    dtype: torch.dtype,
) -> int:
    """Return the most bytes that tensors take at once during one forward pass.

    The pass is made with tensors that have shapes but no values, so it costs neither
    memory nor arithmetic.

    Args:
        module: The network, whose own weights are not counted.
        forward: Passes its input through it, and what follows.
        shape: (n, band, y, x) of its input.
        dtype: Of its input.
    """
    ledger = _Ledger()
    with (
        torch.inference_mode(mode=False),
        torch.no_grad(),
        FakeTensorMode(allow_non_fake_inputs=True),
        ledger,
    ):
        x = torch.empty(shape, dtype=dtype, device=next(_tensors(module)).device)
        forward(x.contiguous(memory_format=torch.channels_last))
    return int(_KERNELS * ledger.peak)


def weight_bytes(module: nn.Module) -> int:
    """Return how many bytes a network's weights and buffers take."""
    return sum(t.numel() * t.element_size() for t in _tensors(module))


def _tensors(module: nn.Module) -> Any:  # noqa: ANN401 - an iterator of tensors
    yield from module.parameters()
    yield from module.buffers()
    yield torch.empty(0)  # networks without either are on the CPU


class _Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: Any = (),  # noqa: ANN401
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata  # noqa: SLF001
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
