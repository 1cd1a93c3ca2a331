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

from geoseg.core.extras import require
from geoseg.errors import ModelError, first_line
from geoseg.models.identity import Opened, file_sha256, opened
from geoseg.models.networks import deepness
from geoseg.models.networks.device import ModelOptions, choose_device
from geoseg.models.networks.exported import channels_of, check_input, inputs_told
from geoseg.models.networks.torch_adapter import TorchModel
from geoseg.models.stac import card_beside

if TYPE_CHECKING:
    from geoseg.models.card import Card
    from geoseg.models.contract import Model
    from geoseg.models.folder import ModelFolder

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
}
_READERS = frozenset({"EPContext"})
"""Nodes that have the runtime open files."""


def open_file(path: Path) -> Opened:
    """Return the model in an ONNX file."""
    card = card_beside(path, lambda file: deepness.card_inside(file, read_onnx(file)))
    load = partial(_load, path, card)
    return opened(path, card, load, file_sha256(path), *data_hashes(path))


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
    device = choose_device(options.device)
    session = _session(path, device.type)
    network = OnnxNetwork(session, card)
    # The session keeps its weights and its device to itself.
    return TorchModel(network, card, replace(options, device="cpu", precision="fp32"))


def _session(path: Path, device: str) -> Any:  # noqa: ANN401 - an untyped library
    runtime = require("onnxruntime", what="an ONNX model", extra="onnx")
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = 1  # one thread per window, as everywhere
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    if device == "cuda":
        if "CUDAExecutionProvider" not in runtime.get_available_providers():
            raise ModelError(
                "this onnxruntime has no CUDA: pip install onnxruntime-gpu, or use "
                "--device cpu"
            )
        providers.insert(0, "CUDAExecutionProvider")
    try:
        return runtime.InferenceSession(str(path), settings, providers=providers)
    except Exception as error:  # onnxruntime's own errors have no common class
        raise ModelError(
            f"{path} cannot be read as ONNX: {first_line(error)}"
        ) from error


class OnnxNetwork(nn.Module):
    """A session of onnxruntime, called like a network of torch."""

    def __init__(self, session: Any, card: Card) -> None:  # noqa: ANN401
        """Look at what the graph takes.

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
                f"the ONNX graph of {card.name!r} takes {inputs[0].type}, which no "
                "raster is turned into"
            )
        windows, *rest = shape
        self._last = rest[0] != len(card.bands) and rest[2] == len(card.bands)
        bands_first = [rest[2], *rest[:2]] if self._last else rest
        what = f"the ONNX graph of {card.name!r}"
        check_input([windows, *bands_first], card, what)
        self._batch = windows if isinstance(windows, int) else 1
        self._outputs = [output.name for output in session.get_outputs()]

    def forward(
        self, x: torch.Tensor, *more: torch.Tensor
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return the graph's outputs for windows (n, band, y, x); its only one bare."""
        pixels = x.float().numpy()
        if self._last:
            pixels = np.moveaxis(pixels, 1, -1)
        pixels = np.ascontiguousarray(pixels, dtype=self._dtype)
        if len(pixels) < self._batch:
            pixels = np.concatenate([pixels] + [pixels[:1]] * (self._batch - 1))
        feed = {self._name: pixels}
        for name, extra in zip(self._more, more, strict=True):
            rows = np.concatenate([extra.numpy()] * self._batch)[: len(pixels)]
            feed[name] = np.ascontiguousarray(rows, np.float32)
        found = self._session.run(None, feed)
        answers = [torch.from_numpy(answer)[: len(x)] for answer in found]
        if len(answers) == 1:
            return answers[0]
        return dict(zip(self._outputs, answers, strict=True))


def read_onnx(path: Path) -> Any:  # noqa: ANN401 - a message of protobuf
    """Return an ONNX file's message, without data outside it, or raise a ModelError."""
    onnx = require("onnx", what="an ONNX model", extra="onnx")
    try:
        return onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's errors are its own
        raise ModelError(
            f"{path} cannot be read as ONNX: {first_line(error)}"
        ) from error
