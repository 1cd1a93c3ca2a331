"""A network run by OpenVINO, whose kernels are the quickest in bf16 on CPUs.

It is traced by torch and read by OpenVINO's own frontend, in memory. What is called to
convert models in its manual (`openvino.convert_model`) counts its users over the
network, and is not used here.
"""

from __future__ import annotations

import threading
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from geoseg.core.extras import require
from geoseg.errors import ModelError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable

_TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}
"""Of the largest score: rounding is ten times smaller, another network is not."""
_HINTS = {"fp32": "f32", "bf16": "bf16"}
_WHAT = "the engine openvino (--engine threads needs none)"


class OpenVinoError(ModelError):
    """OpenVINO does not take a network, or answers otherwise."""


class OpenVinoNetwork(nn.Module):
    """A network of torch that OpenVINO runs on the CPU, one thread per window.

    Called with (1, band, y, x) float32, from as many threads at once as it was made
    for; answers (1, class, y, x) float32 scores, or what else is its one tensor. A
    window's answer does not depend on how many are in work.
    """

    def __init__(
        self,
        network: Callable[[torch.Tensor], torch.Tensor],
        shape: tuple[int, int, int, int],
        *,
        precision: str,
        threads: int,
    ) -> None:
        """Convert a network, and compare what comes out with it on a window of noise.

        Args:
            network: In evaluation mode, in fp32; answers one tensor.
            shape: (1, band, y, x) of its windows; others are compiled when they come.
            precision: `fp32` or `bf16`.
            threads: How many windows are in work at once.

        Raises:
            MissingExtraError: OpenVINO is not installed.
            OpenVinoError: It does not take the network, or answers otherwise.
        """
        super().__init__()
        if precision not in _HINTS:
            raise OpenVinoError(
                f"OpenVINO runs networks in fp32 or bf16 on a CPU, not in {precision}: "
                "use --precision fp32, or --engine threads"
            )
        self._openvino = require("openvino", what=_WHAT, extra="openvino")
        self._settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": threads,
            "ENABLE_CPU_PINNING": False,
        }
        self._core = self._openvino.Core()
        self._lock, self._local = threading.Lock(), threading.local()
        self._compiled: dict[tuple[int, ...], Any] = {}
        noise = torch.Generator().manual_seed(0)
        traced, other = (torch.randn(shape, generator=noise) for _ in range(2))
        _check_one_way(network, traced)
        try:
            self._model = converted(network, traced)
            with torch.no_grad():
                expected, answer = network(other).float(), self(other).float()
        except Exception as error:
            raise OpenVinoError(
                f"OpenVINO cannot run this network ({type(error).__name__}: "
                f"{first_line(error)}): use --engine threads"
            ) from error
        largest = float(expected.abs().max())
        apart = (
            float((answer - expected).abs().max())
            if answer.shape == expected.shape
            else float("inf")
        )
        if not apart <= _TOLERANCE[precision] * largest:
            raise OpenVinoError(
                f"OpenVINO's answer for a window differs by {apart:.2g} from the "
                f"network's own, whose scores reach {largest:.2g}: use --engine threads"
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the answer for one window."""
        shape = tuple(x.shape)
        kept: dict[tuple[int, ...], Any] = getattr(self._local, "kept", {})
        self._local.kept = kept  # a request is for one thread at a time
        if shape not in kept:
            kept[shape] = self._for(shape).create_infer_request()
        answer = kept[shape].infer(
            [x.float().contiguous().numpy()], share_inputs=True, share_outputs=True
        )
        return torch.from_numpy(answer[0].copy())  # the request's own is used again

    def _for(self, shape: tuple[int, ...]) -> Any:  # noqa: ANN401 - an untyped library
        with self._lock:
            if shape not in self._compiled:
                model = self._model.clone()
                model.reshape(list(shape))
                self._compiled[shape] = self._core.compile_model(
                    model, "CPU", self._settings
                )
            return self._compiled[shape]


def _check_one_way(
    network: Callable[[torch.Tensor], torch.Tensor], example: torch.Tensor
) -> None:
    """Raise where a network's way depends on what it sees: tracing follows one."""
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        pixels = torch.empty_like(example)  # which has a shape, and no values
        try:
            network(pixels)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise OpenVinoError(
                "what this network does depends on what it sees, which OpenVINO does "
                "not follow: use --engine threads"
            ) from error
        except Exception:  # noqa: BLE001 - of networks that take no such tensors
            return


def converted(
    network: Callable[[torch.Tensor], torch.Tensor], example: torch.Tensor
) -> Any:  # noqa: ANN401 - an untyped library
    """Return a network as OpenVINO has it, with free sides."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what tracing fixes, the comparison shows
        traced = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
    decoder = TorchScriptPythonDecoder(traced)  # kept until all is read
    frontend = FrontEndManager().load_by_framework("pytorch")
    return frontend.convert(frontend.load(decoder))
