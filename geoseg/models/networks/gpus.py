"""The GPUs that torch runs on: what their makers' modules call alike, and what not.

Of CUDA all figures and laws were seen on cards. Intel's (`xpu`) and Apple's (`mps`) go
the same way, and none of them was ever seen: so they are used only where they are asked
for, for networks whose answers can be compared with the CPU's before a run, which
`inference/unmeasured.py` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch

GPUS: Final = {"cuda": "CUDA", "xpu": "Intel", "mps": "Apple"}
"""Device types of torch that are GPUs, and whose."""
_UNSEEN = ("xpu", "mps")


def is_measured(device: str) -> bool:
    """Whether a device is of a kind that was seen at work."""
    return device.partition(":")[0] not in _UNSEEN


def module_of(kind: str) -> Any:  # noqa: ANN401 - torch.cuda, or another one like it
    """Return torch's module for a type of device; None of a CPU."""
    if kind not in GPUS:
        return None
    import torch

    return getattr(torch, kind)


def streams_of(kind: str) -> Any:  # noqa: ANN401 - torch.cuda or torch.xpu
    """Return the module where a device has streams beside which copies go.

    Apple's has one that torch lets a single thread use at a time.
    """
    return None if kind == "mps" else module_of(kind)


def count(kind: str) -> int:
    """Return how many GPUs of a kind torch sees."""
    return int(module_of(kind).device_count())


def name_of(device: str | torch.device) -> str | None:
    """Return what a GPU is called; None of a CPU."""
    kind = str(device).partition(":")[0]
    if kind == "mps":
        import torch

        return str(torch.backends.mps.get_name())
    module = module_of(kind)
    return None if module is None else str(module.get_device_name(device))


def has_bf16(device: torch.device) -> bool:
    """Whether a GPU of Intel multiplies bf16 itself; Apple's are not asked."""
    if device.type != "xpu":
        return False
    facts = module_of("xpu").get_device_properties(device)
    return bool(getattr(facts, "has_bfloat16_conversions", False))


def free_bytes(device: torch.device) -> float:
    """Return the bytes that are free of a GPU, and those that torch can free."""
    module = module_of(device.type)
    if device.type == "mps":
        most, used = module.recommended_max_memory(), module.current_allocated_memory()
        return float(max(0, most - used))
    free, _ = module.mem_get_info(device)
    # What torch keeps of freed tensors is as good as free.
    kept = module.memory_reserved(device) - module.memory_allocated(device)
    return float(free + kept)


def peak_bytes(device: str) -> float:
    """Return the most bytes that tensors took of a GPU, or of Apple's take now."""
    kind = device.partition(":")[0]
    module = module_of(kind)
    if kind == "mps":
        return float(module.driver_allocated_memory())
    return float(module.max_memory_allocated(device))


def forget(device: torch.device) -> None:
    """Give back memory that torch keeps of a GPU for later."""
    if (module := module_of(device.type)) is not None:
        module.empty_cache()
