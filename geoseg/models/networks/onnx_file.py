"""Networks in ONNX files, run by onnxruntime; also those of QGIS's Deepness plugin.

The card is a JSON file of the same name, `card.json` in the same folder, or, where
there is none, what Deepness keeps inside the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from geoseg.core.extras import require
from geoseg.errors import ModelError, first_line
from geoseg.models.identity import OpenedModel, file_sha256, opened
from geoseg.models.networks import deepness
from geoseg.models.networks.device import ModelOptions, measured_device
from geoseg.models.networks.exported import (
    channels_of,
    check_input,
    filled_up,
    inputs_told,
)
from geoseg.models.networks.onnx_card import heard
from geoseg.models.networks.torch_adapter import TorchModel
from geoseg.models.stac import card_beside

if TYPE_CHECKING:
    from geoseg.models.card import Card
    from geoseg.models.contract import Model
    from geoseg.models.folder import ModelFolder

_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
    "tensor(uint8)": torch.uint8,
    "tensor(uint16)": torch.uint16,
}
"""What pixels are turned into."""
_TORCH = _DTYPES | {
    "tensor(int8)": torch.int8,
    "tensor(int16)": torch.int16,
    "tensor(int32)": torch.int32,
    "tensor(int64)": torch.int64,
    "tensor(bool)": torch.bool,
}
"""What graphs may answer."""
_NUMPY = {d: np.dtype(str(d).removeprefix("torch.")).type for d in _TORCH.values()}
_READERS = frozenset({"EPContext"})
"""Nodes that have the runtime open files."""


def open_file(path: Path) -> OpenedModel:
    """Return the model in an ONNX file."""
    model = read_onnx(path)
    card = heard(
        card_beside(path, lambda file: deepness.card_inside(file, model)), model
    )
    load = partial(_load, path, card)
    return opened(path, card, load, file_sha256(path), *data_hashes(path))


def implied(folder: ModelFolder) -> Card:
    """Return the card of a model folder, with what its graph says."""
    return heard(folder.card, read_onnx(folder.weights_file))


def data_hashes(path: Path) -> list[str]:
    """Return the hashes of `data_files`."""
    return [file_sha256(file) for file in data_files(path)]


def data_files(path: Path) -> list[Path]:
    """Return the files beside an ONNX file that hold its weights.

    What is larger than 2 GB, or was exported so, keeps them there ("external data").

    Raises:
        ModelError: It is not an ONNX file, or names a file outside its folder.
    """
    names = {
        entry.value
        for message in _messages(read_onnx(path), path)
        if message.DESCRIPTOR.name == "TensorProto"
        for entry in message.external_data
        if entry.key == "location"
    }
    folder = path.resolve().parent
    files = [(folder / name).resolve() for name in sorted(names)]
    for name, file in zip(sorted(names), files, strict=True):
        if folder not in file.parents:
            raise ModelError(
                f"{path} keeps weights in {name!r}, outside its folder: what it needs "
                "must lie beside it"
            )
        if not file.is_file():
            raise ModelError(f"{path} keeps weights in {name!r}, which is not there")
    return files


def _messages(model: Any, path: Path) -> Iterator[Any]:  # noqa: ANN401 - of protobuf
    """Yield a model's messages of all kinds, wherever they hang.

    Weights may lie in initializers, sparse ones too, in attributes, subgraphs,
    functions and training graphs.

    Raises:
        ModelError: A node would read a file of its own.
    """
    waiting = [model]
    while waiting:
        message = waiting.pop()
        yield message
        if message.DESCRIPTOR.name == "NodeProto" and message.op_type in _READERS:
            raise ModelError(
                f"{path} holds a node {message.op_type}, which reads other files: "
                "export the network itself"
            )
        for field, value in message.ListFields():
            if field.message_type is not None:
                several = isinstance(value, Iterable)
                waiting += list(value) if several else [value]


def load_folder(folder: ModelFolder, options: ModelOptions) -> Model:
    """Load the ONNX network of a model folder."""
    return _load(folder.weights_file, folder.card, options)


def _load(path: Path, card: Card, options: ModelOptions) -> Model:
    data_files(path)
    device = measured_device(options.device, f"an ONNX file ({path.name})")
    network = OnnxNetwork(_session(path, device), card, device)
    # The session keeps its weights to itself, in the graph's own precision.
    return TorchModel(network, card, replace(options, precision="fp32"))


def _session(path: Path, device: torch.device) -> Any:  # noqa: ANN401 - an untyped library
    runtime = require("onnxruntime", what="an ONNX model", extra="onnx")
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = 1  # one thread per window, as everywhere
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    settings.use_deterministic_compute = True
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda":
        if "CUDAExecutionProvider" not in runtime.get_available_providers():
            raise ModelError(
                "this onnxruntime has no CUDA: pip install onnxruntime-gpu, or use "
                "--device cpu"
            )
        # Kernels are not chosen by the clock, which chooses otherwise the next time.
        steady = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
        steady["device_id"] = str(device.index or 0)
        providers.insert(0, ("CUDAExecutionProvider", steady))
    try:
        return runtime.InferenceSession(str(path), settings, providers=providers)
    except Exception as error:  # onnxruntime's own errors have no common class
        raise ModelError(
            f"{path} cannot be read as ONNX: {first_line(error)}"
        ) from error


class OnnxNetwork(nn.Module):
    """A session of onnxruntime, called like a network of torch.

    Tensors are handed over where they lie, on the device of the session.
    """

    own_runtime = True
    """Torch can neither compile it nor record it as a graph."""

    def __init__(self, session: Any, card: Card, device: torch.device) -> None:  # noqa: ANN401
        """Look at what the graph takes.

        Args:
            session: Of onnxruntime.
            card: The network's card.
            device: Where the session computes.

        Raises:
            ModelError: It takes several inputs, or other windows than the card says.
        """
        super().__init__()
        self._session = session
        inputs = session.get_inputs()
        shape = (
            None if card.modalities else channels_of([i.shape for i in inputs], card)
        )
        if shape is None:
            shapes = ", ".join(str(i.shape) for i in inputs)
            raise ModelError(
                f"the ONNX graph of {card.name!r} takes {shapes}; {inputs_told(card)}"
            )
        self._name, *self._more = [i.name for i in inputs]
        self._dtype = _DTYPES.get(inputs[0].type)
        if self._dtype is None:
            raise ModelError(
                f"the ONNX graph of {card.name!r} takes {inputs[0].type}, which "
                "rasters are not converted to"
            )
        windows, *rest = shape
        self._last = rest[0] != len(card.bands) and rest[2] == len(card.bands)
        bands_first = [rest[2], *rest[:2]] if self._last else rest
        what = f"the ONNX graph of {card.name!r}"
        check_input([windows, *bands_first], card, what)
        self._batch = windows if isinstance(windows, int) else None
        self._outputs = [output.name for output in session.get_outputs()]
        self._place = (device.type, device.index or 0)
        self._shapes: dict[tuple[int, ...], list[tuple[list[int], torch.dtype]]] = {}
        self._what = f"{card.name}, {self._outputs} of {inputs[0].shape}"

    def extra_repr(self) -> str:
        """Return what tells it from other graphs."""
        return self._what

    def forward(
        self, x: torch.Tensor, *more: torch.Tensor
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return the graph's outputs for windows (n, band, y, x); its only one bare."""
        pixels = (x.movedim(1, -1) if self._last else x).to(self._dtype)
        given = [pixels, *(filled_up(extra.float(), len(x)) for extra in more)]
        size = self._batch or len(x)
        parts = [
            self._run([each[first : first + size] for each in given])
            for first in range(0, len(x), size)
        ]
        answers = list(map(torch.cat, zip(*parts, strict=True)))
        if len(answers) == 1:
            return answers[0]
        return dict(zip(self._outputs, answers, strict=True))

    def _run(self, given: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return the outputs for as many windows as the graph takes, or fewer."""
        size = len(given[0])
        given = [filled_up(x, self._batch or size).contiguous() for x in given]
        pixels = given[0]
        known = self._shapes.get((*pixels.shape,))
        binding = self._bound(given)
        if known is None:  # the graph says it once it has run
            for name in self._outputs:
                binding.bind_output(name, *self._place)
            self._session.run_with_iobinding(binding)
            values = binding.get_outputs()
            known = [(v.shape(), _TORCH[v.data_type()]) for v in values]
            self._shapes[(*pixels.shape,)] = known
            binding = self._bound(given)
        answers = [torch.empty(s, dtype=d, device=pixels.device) for s, d in known]
        for name, answer in zip(self._outputs, answers, strict=True):
            binding.bind_output(name, *self._place, *_where(answer))
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return [answer[:size] for answer in answers]

    def _bound(self, given: list[torch.Tensor]) -> Any:  # noqa: ANN401 - untyped
        """Return what tells the session where its inputs are, when they are there."""
        if given[0].is_cuda:  # the session has a stream of its own
            torch.cuda.current_stream(given[0].device).synchronize()
        binding = self._session.io_binding()
        for name, x in zip([self._name, *self._more], given, strict=True):
            binding.bind_input(name, *self._place, *_where(x))
        return binding


def _where(x: torch.Tensor) -> tuple[Any, list[int], int]:
    """Return dtype, shape and address of a tensor, as onnxruntime takes them.

    Raises:
        TypeError: It has no values, as where memory is estimated: nor an address.
    """
    if isinstance(x, FakeTensor):
        raise TypeError("an ONNX graph looks at values")
    return _NUMPY[x.dtype], list(x.shape), x.data_ptr()


def read_onnx(path: Path) -> Any:  # noqa: ANN401 - a message of protobuf
    """Return an ONNX file's message, without data outside it, or raise a ModelError."""
    onnx = require("onnx", what="an ONNX model", extra="onnx")
    try:
        return onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's errors are its own
        raise ModelError(
            f"{path} cannot be read as ONNX: {first_line(error)}"
        ) from error
