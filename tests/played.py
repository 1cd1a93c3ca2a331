"""GPUs of kinds that no test machine has, played on the CPU.

Tensors say that they lie on `xpu` or `mps` and hold their values in main memory. What
asks for such a GPU goes through the very code that asks for a real one: an operation
that mixes devices fails as it does there, and so do float64 and a second thread at once
on Apple's.
"""

import threading
import time
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

_GUARDED = (
    torch.Tensor.__getitem__,
    torch.Tensor.__setitem__,
    torch.Tensor.copy_,
)
"""What asks for a guard of the device before all else, which none is there for."""


class Played(torch.Tensor):
    """A tensor on a played GPU."""

    @staticmethod
    def __new__(cls, inner, gpu):
        facts = {"dtype": inner.dtype, "device": torch.device(gpu.kind, 0)}
        facts |= {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, **facts)
        made.inner, made.gpu = inner, gpu
        return made

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in _GUARDED:
            return _of(args).run(func, *args)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _of((args, kwargs)).run(func, *args, **(kwargs or {}))


def _of(values):
    return next(x.gpu for x in tree_leaves(values) if isinstance(x, Played))


class Gpu:
    """One played GPU."""

    def __init__(self, kind, damage):
        self.kind, self.damage = kind, damage
        self.used, self.copies, self.waits = [], [], 0
        self._asking = threading.Lock()

    @contextmanager
    def _asked(self):
        """Be asked by one thread; Apple's fails where another asks meanwhile."""
        mine = self.kind == "mps" and self._asking.acquire(blocking=False)
        if self.kind == "mps" and not mine:
            raise RuntimeError("a command encoder is already encoding")
        try:
            yield
        finally:
            if mine:
                self._asking.release()

    def run(self, func, *args, **kwargs):
        """Do on the CPU what is asked of the GPU."""
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        played = [x for x in inputs if isinstance(x, Played)]
        device = kwargs.get("device")
        stays = device is None or torch.device(device).type == self.kind
        others = [x for x in inputs if x.ndim and not isinstance(x, Played)]
        copies = any(word in str(func) for word in ("copy", "_to_copy"))
        if played and others and not copies:
            raise RuntimeError("expected all tensors to be on the same device")
        if copies:
            self.copies.append(threading.current_thread().name)
        if device is not None:
            kwargs["device"] = torch.device("cpu")
        if func is torch.ops.aten.convolution_overrideable.default:
            func = torch.ops.aten.convolution.default
        inside = partial(tree_map, lambda x: x.inner if isinstance(x, Played) else x)
        with self._asked():
            if self.kind == "mps":
                time.sleep(0)  # another thread may come
            answer = func(*inside(args), **inside(kwargs))
        if self.damage is not None:
            answer = self.damage(func, answer)
        back = {id(x.inner): x for x in played}
        return tree_map(partial(self._shown, stays, back), answer)

    def _shown(self, stays, back, value):
        if not isinstance(value, torch.Tensor) or not stays:
            return value
        if self.kind == "mps" and value.dtype == torch.float64:
            raise TypeError("MPS doesn't support float64")
        known = back.get(id(value))
        return Played(value, self) if known is None else known

    def offers(self):
        """Return what of torch.xpu or torch.mps answers otherwise meanwhile."""
        facts = {
            "device_count": lambda: 1,
            "empty_cache": lambda: None,
            "synchronize": self._wait,
            "_lazy_init": lambda: None,
            "current_allocated_memory": lambda: 1e9,
            "driver_allocated_memory": lambda: 2e9,
            "recommended_max_memory": lambda: 9e9,
        }
        if self.kind == "xpu":
            memory = dict.fromkeys(
                ("memory_reserved", "memory_allocated", "max_memory_allocated"),
                lambda _: 0,
            )
            facts |= memory | {
                "get_device_name": lambda _: "Played GPU",
                "get_device_properties": lambda _: SimpleNamespace(),
                "mem_get_info": lambda _: (8e9, 16e9),
                "reset_peak_memory_stats": lambda _: None,
                "Stream": Stream,
                "Event": Event,
                "stream": _entered,
                "device": _entered,
                "current_stream": lambda _: "the thread's own",
            }
        return facts

    def _wait(self, *_):
        self.waits += 1


class Stream:
    """One in whose time nothing takes any."""

    def __init__(self, device):
        self.device, self.waited = device, []

    def wait_event(self, event):
        """Note that it waits."""
        self.waited.append(event)


class Event:
    """A moment, reached when it is recorded."""

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        """Note the time."""
        self.at = time.perf_counter()

    def query(self):
        """Whether it was recorded."""
        return bool(self.at)

    def synchronize(self):
        """Wait for nothing."""

    def elapsed_time(self, after):
        """Return milliseconds."""
        return 1e3 * (after.at - self.at)


@contextmanager
def _entered(_):
    yield


@contextmanager
def played(kind, damage=None):
    """Play a GPU meanwhile.

    Args:
        kind: `xpu` or `mps`.
        damage: Called with an operation and its answer, and returns what it answers
            instead.
    """
    gpu = Gpu(kind, damage)
    # What names the device and no tensor on it, from any thread: torch.zeros(device=…).
    library = torch.library.Library("_", "IMPL")
    library.fallback(gpu.run, kind.upper())
    empty, tensor = torch.empty, torch.tensor

    def sent(values, device="cpu", **how):
        return tensor(values, **how).to(device)  # which torch.tensor does unseen

    def unpinned(*size, pin_memory=False, **how):
        assert not pin_memory or kind == "xpu"
        return empty(*size, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", unpinned)
        patch.setattr(torch, "tensor", sent)
        if kind == "xpu":
            patch.setattr(torch.Tensor, "pin_memory", lambda x: x)
            patch.setattr(
                torch.Tensor, "record_stream", lambda _, stream: gpu.used.append(stream)
            )
            patch.setattr(torch._C, "_set_onednn_allow_tf32", lambda _: None)
        for name, answer in gpu.offers().items():
            patch.setattr(getattr(torch, kind), name, answer, raising=False)
        if kind == "mps":
            patch.setattr(torch.backends.mps, "get_name", lambda: "Played M9")
        swaps = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            yield gpu
        finally:
            torch.__future__.set_swap_module_params_on_conversion(swaps)
            library._destroy()
