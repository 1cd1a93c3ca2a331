"""Networks in ONNX files, run by onnxruntime; also those of QGIS's Deepness plugin.

The card is a JSON file of the same name, `card.json` in the same folder, or, where
there is none, what Deepness keeps inside the file (`class_names`, `resolution`,
`tiles_overlap`, `standardization_mean` and `_std`; its page "Add metadata to model").
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from geoseg.core.classes import class_table
from geoseg.errors import ModelError, first_line
from geoseg.models.card import Band, Card
from geoseg.models.extras import require
from geoseg.models.identity import Opened, content_hash, file_sha256
from geoseg.models.networks.device import Options, choose_device
from geoseg.models.networks.exported import card_beside
from geoseg.models.networks.torch_adapter import TorchModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from geoseg.models.contract import Model
    from geoseg.models.folder import ModelFolder

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
}


def open_file(path: Path) -> Opened:
    """Return the model in an ONNX file."""
    card = card_beside(path) or _card_inside(path)

    def load(options: Options) -> Model:
        return _load(path, card, options)

    return Opened(
        spec=str(path),
        card=card,
        content=content_hash(card, file_sha256(path), *data_hashes(path)),
        load=load,
    )


def data_hashes(path: Path) -> list[str]:
    """Return the hashes of `data_files`."""
    return [file_sha256(file) for file in data_files(path)]


def data_files(path: Path) -> list[Path]:
    """Return the files beside an ONNX file that hold its weights.

    What is larger than 2 GB, or was exported so, keeps them there ("external data").

    Raises:
        ModelError: It is not an ONNX file, or names a file outside its folder.
    """
    graph = _read(path).graph
    names = {
        entry.value
        for tensor in graph.initializer
        for entry in tensor.external_data
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


def load_folder(folder: ModelFolder, options: Options) -> Model:
    """Load the ONNX network of a model folder."""
    return _load(folder.weights_file, folder.card, options)


def _load(path: Path, card: Card, options: Options) -> Model:
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
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            shapes = ", ".join(str(i.shape) for i in inputs)
            raise ModelError(
                f"the ONNX graph of {card.name!r} takes {shapes}; one input of four "
                "dimensions is needed"
            )
        self._name = inputs[0].name
        self._dtype = _DTYPES.get(inputs[0].type)
        if self._dtype is None:
            raise ModelError(
                f"the ONNX graph of {card.name!r} takes {inputs[0].type}, which no "
                "raster is turned into"
            )
        shape = inputs[0].shape
        self._last = _bands_are_last(shape, card)
        _check_shape(shape, card, last=self._last)
        self._batch = shape[0] if isinstance(shape[0], int) else 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the graph's first output for windows (n, band, y, x)."""
        pixels = x.float().numpy()
        if self._last:
            pixels = np.moveaxis(pixels, 1, -1)
        pixels = np.ascontiguousarray(pixels, dtype=self._dtype)
        if len(pixels) < self._batch:
            pixels = np.concatenate([pixels] + [pixels[:1]] * (self._batch - 1))
        answer = torch.from_numpy(self._session.run(None, {self._name: pixels})[0])
        answer = answer[: len(x)]
        return answer.movedim(-1, 1) if self._last and answer.ndim == 4 else answer


def _bands_are_last(shape: list[Any], card: Card) -> bool:
    bands = len(card.bands)
    return bool(shape[1] != bands and shape[3] == bands)


def _check_shape(shape: list[Any], card: Card, *, last: bool) -> None:
    bands, sides = (shape[3], shape[1:3]) if last else (shape[1], shape[2:])
    if isinstance(bands, int) and bands != len(card.bands):
        raise ModelError(
            f"the ONNX graph of {card.name!r} takes {bands} bands, its card names "
            f"{len(card.bands)}"
        )
    fixed = [side for side in sides if isinstance(side, int)]
    if any(side != card.window for side in fixed):
        raise ModelError(
            f"the ONNX graph of {card.name!r} takes windows of {sides[0]} x {sides[1]} "
            f"px, its card says {card.window} px"
        )
    if fixed and card.multiple is not None:
        raise ModelError(
            f"the ONNX graph of {card.name!r} takes full windows only: leave "
            "'multiple' out of its card"
        )


def _read(path: Path) -> Any:  # noqa: ANN401 - a message of protobuf
    onnx = require("onnx", what="an ONNX model", extra="onnx")
    try:
        return onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's errors are its own
        raise ModelError(
            f"{path} cannot be read as ONNX: {first_line(error)}"
        ) from error


def _card_inside(path: Path) -> Card:
    """Return the card made of what Deepness keeps in the file."""
    model = _read(path)
    facts = {p.key: _value(p.value) for p in model.metadata_props}
    if "class_names" not in facts and "resolution" not in facts:
        raise ModelError(
            f"{path} has no card beside it and no metadata of Deepness inside: write "
            f"{path.with_suffix('.json').name} with bands, classes, window"
        )
    kind = str(facts.get("model_type", "Segmentor"))
    if kind != "Segmentor":
        raise ModelError(f"{path} is a {kind}, not a Segmentor")
    graph = model.graph
    size = [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    channels = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    last = next((n.op_type for n in graph.node if graph.output[0].name in n.output), "")
    return _deepness(path, facts, size, channels, last)


def _value(text: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    try:
        return json.loads(text)
    except ValueError:
        return text


def _deepness(
    path: Path, facts: Mapping[str, Any], size: list[int], channels: int, last: str
) -> Card:
    names = {int(k): str(v) for k, v in dict(facts.get("class_names") or {}).items()}
    if channels == 1:
        table = ["background", names.get(1, names.get(0, path.stem))]
    else:
        table = [names.get(i, f"class {i}") for i in range(channels)]
    window = size[2] or int(facts.get("tiles_size", 512))
    overlap = round(window * float(facts.get("tiles_overlap", 15)) / 100) // 2 * 2
    centimetres = facts.get("resolution")
    scores = channels == 1 or last in {"Softmax", "Sigmoid"}
    return Card(
        name=path.stem,
        bands=_deepness_bands(facts, size[1] or 3),
        classes=class_table(table),
        output="probabilities" if scores else "logits",
        window=window,
        overlap=min(overlap, window // 2 // 2 * 2),
        resolution=float(centimetres) / 100 if centimetres else None,
        dtypes=("uint8",),
        value_range=(0.0, 255.0),
        description="a Segmentor of the Deepness plugin of QGIS",
        framework={"family": "onnx"},
    )


def _deepness_bands(facts: Mapping[str, Any], count: int) -> tuple[Band, ...]:
    """Return bands scaled by 255 first, and then standardised where the file says."""
    names = (
        ["red", "green", "blue"] if count == 3 else [str(i + 1) for i in range(count)]
    )
    mean = facts.get("standardization_mean") or [0.0] * count
    std = facts.get("standardization_std") or [1.0] * count
    if len(mean) != count or len(std) != count:
        raise ModelError(
            f"the file has {len(mean)} means and {len(std)} deviations for "
            f"{count} bands"
        )
    return tuple(
        Band(name=name, offset=255 * float(m), scale=255 * float(s))
        for name, m, s in zip(names, mean, std, strict=True)
    )
