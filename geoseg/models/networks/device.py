"""Which device and precision a network runs in."""

from __future__ import annotations

import platform
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, get_args

from geoseg.core.text import counted, nearest
from geoseg.errors import ModelError
from geoseg.models.networks import gpus

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch

Precision = Literal["auto", "fp32", "bf16", "fp16"]
EngineName = Literal["auto", "threads", "torch", "compile", "openvino"]
"""What runs a network: `threads` passes windows side by side, one thread each, on a
CPU, and `openvino` does so through OpenVINO; `torch` passes batches that are cut,
blended and labelled on the device, `compile` likewise, through compiled code. `auto` is
`openvino` on a CPU where it is there, agrees and is quicker, else `threads`; on a GPU
`compile` where that pays, else `torch`."""
SIDE_BY_SIDE: Final = ("threads", "openvino")
"""The engines of a CPU that take windows one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """How a model is run; not what it is."""

    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `xpu` or `mps`."""
    precision: Precision = "auto"
    """`auto`, `fp32`, `bf16` or `fp16`."""
    batch: int | None = None
    """Windows per forward pass; None: what suits the device."""
    engine: EngineName = "auto"
    """`auto`, `threads`, `torch`, `compile` or `openvino`."""
    device_memory: float | None = None
    """Bytes of the GPU's memory that may be used; None: nine tenths of what is free."""
    prompts: str | None = None
    """Vector file of what is asked for, of models that answer prompts."""

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ModelError(
                f"precision {self.precision!r} is not one of "
                f"{', '.join(get_args(Precision))}"
            )
        if self.engine not in get_args(EngineName):
            known = ", ".join(get_args(EngineName))
            raise ModelError(f"engine {self.engine!r} is not one of {known}")
        if self.batch is not None and self.batch < 1:
            raise ModelError(f"batch {self.batch} must be at least 1 window")


def choose_device(asked: str) -> torch.device:
    """Return the device, or raise where it is asked for and not there.

    `auto` is a CUDA GPU or the CPU; `xpu` and `mps` are for who asks for them.
    """
    import torch

    if asked == "auto":
        return torch.device("cuda" if has_cuda() else "cpu")
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        near = _near(asked)
        raise ModelError(f"device {asked!r} is not known: {_DEVICES}{near}") from error
    kind = device.type
    if kind != "cpu" and kind not in gpus.GPUS:
        raise ModelError(f"device {asked!r} is not supported: {_DEVICES}")
    if kind == "cpu":
        return device
    found, whose = gpus.count(kind), gpus.GPUS[kind]
    if not found:
        raise ModelError(
            f"device {kind} was asked for, but torch sees no {whose} GPU here: use "
            "--device cpu or auto, or workers that have one (--cluster, --scheduler)"
        )
    if (device.index or 0) >= found:
        raise ModelError(
            f"device {asked} was asked for, but torch sees "
            f"{counted(found, f'{whose} GPU')} here"
        )
    return device


_DEVICES = "auto, cpu, cuda, cuda:N, xpu, xpu:N, mps"


def _near(asked: str) -> str:
    """Return which device may have been meant."""
    if asked.lower() in {"gpu", "nvidia"}:
        return "; did you mean cuda?"
    close = nearest(asked, ("auto", "cpu", *gpus.GPUS))
    return f"; did you mean {close}?" if close else ""


def measured_device(asked: str, what: str) -> torch.device:
    """Return the device for what cannot be compared with the CPU before a run.

    Args:
        asked: What the user asks for.
        what: Who it is for, for the message.

    Raises:
        ModelError: It is of a kind that was never seen at work, or not there.
    """
    kind = asked.partition(":")[0]
    if kind in gpus.GPUS and not gpus.is_measured(kind):
        raise ModelError(
            f"--device {asked} is for networks of torch that answer scores of classes, "
            f"which are compared with the CPU before a run; {what} runs on cpu or cuda"
        )
    return choose_device(asked)


def has_cuda() -> bool:
    """Whether torch sees a CUDA GPU here."""
    return gpus.count("cuda") > 0


def choose_precision(device: torch.device, asked: Precision) -> Precision:
    """Return `fp32`, `bf16` or `fp16`: for `auto` the fastest the device is built for.

    bf16 on GPUs since Ampere, on Intel's that multiply it and on CPUs with AVX-512
    BF16, AMX or Arm BF16; fp16 on older GPUs with tensor cores; else fp32, on Apple's
    too. CPUs without such instructions emulate bf16 slowly, so they get fp32.
    """
    import torch

    if asked != "auto":
        return asked
    if device.type == "cpu":
        return "bf16" if _cpu_has_bf16() else "fp32"
    if device.type != "cuda":
        return "bf16" if gpus.has_bf16(device) else "fp32"
    capability = torch.cuda.get_device_capability(device)
    if capability >= (8, 0):
        return "bf16"
    return "fp16" if capability >= (7, 0) else "fp32"


def torch_dtype(precision: Precision) -> torch.dtype:
    """Return the dtype of a precision that has been chosen."""
    import torch

    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return dtypes[precision]


@cache
def _cpu_has_bf16() -> bool:
    """Say whether this CPU multiplies bf16 natively, and torch knows how."""
    import torch

    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    flags = set(" ".join(cpu_facts()).split())
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


@cache
def cpu_facts() -> tuple[str, ...]:
    """Return what tells this CPU from others: its model, and what it can."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return (platform.machine(), platform.processor())
    first = cpuinfo.read_text("utf-8", errors="replace").strip().split("\n\n")[0]
    known = ("cpu family", "model", "flags", "CPU part", "Features")
    return tuple(line for line in first.splitlines() if line.startswith(known))


def choose_engine(device: torch.device, asked: EngineName) -> EngineName:
    """Return what runs a network on a device; what pays is not known yet.

    Raises:
        ModelError: Windows cannot be passed side by side there.
    """
    if asked in SIDE_BY_SIDE and device.type != "cpu":
        raise ModelError(
            f"--engine {asked} is for the CPU, the device is {device}: use --engine "
            "torch or compile, or --device cpu"
        )
    if asked == "compile" and not gpus.is_measured(device.type):
        raise ModelError(
            f"--engine compile is for CUDA GPUs, the device is {device}: use --engine "
            "torch"
        )
    if asked != "auto":
        return asked
    return "threads" if device.type == "cpu" else "torch"


def free_memory(device: torch.device | str, allowed: float | None) -> float:
    """Return the bytes of a device's memory that may be used, of what is free now."""
    import torch

    device = torch.device(device)
    if device.type == "cpu":
        return allowed or 4e9
    most = 0.9 * gpus.free_bytes(device)
    return min(most, allowed or most)


def steady_kernels(device: torch.device, *, tf32: bool) -> AbstractContextManager[None]:
    """Return a context in which kernels answer alike from run to run.

    Args:
        device: Where; a CPU's do so anyway, and Apple's have no such switch.
        tf32: Whether tensor cores may round fp32 as they like.
    """
    import torch

    if device.type == "xpu":  # whose kernels are oneDNN's
        return torch.backends.mkldnn.flags(
            enabled=True, deterministic=True, allow_tf32=tf32
        )
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was too small, of a device or of the host."""
    import torch

    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    # As cuBLAS and cuDNN, and allocators of main memory, say it.
    said = ("out of memory", "can't allocate memory", "status_alloc_failed")
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in said)
