"""Cards made of what QGIS's Deepness plugin keeps inside an ONNX file.

Keys and their spellings are those that the plugin reads (its `model_base.py` and its
page "Add metadata to model"): values are JSON or Python literals; several outputs have
lists, of which the first counts here.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geoseg.errors import ModelError
from geoseg.models.card import MOST_BANDS, MOST_CLASSES, Card
from geoseg.models.plain import card_from_dict

_SCALING = frozenset(
    {"mean", "std", "image_mean", "image_std", "pixel_mean", "pixel_std", "scale"}
)
"""Keys of others than Deepness, of numbers whose unit they do not tell."""


def card_inside(path: Path, model: Any) -> Card:  # noqa: ANN401 - of protobuf
    """Return the card of an ONNX file with Deepness's metadata.

    Raises:
        ModelError: It has none, or is not a segmentation model.
    """
    metadata = {p.key: _value(p.value) for p in model.metadata_props}
    if not metadata.keys() & {"class_names", "names", "resolution", "model_type"}:
        raise ModelError(
            f"{path} has no card beside it and no metadata of Deepness inside: write "
            f"{path.with_suffix('.json').name} with bands, classes, window"
        )
    kind = str(metadata.get("model_type", "Segmentor"))
    if kind.lower() != "segmentor":
        raise ModelError(f"{path} is a {kind}, not a Segmentor")
    if "task" in metadata and "stride" in metadata:  # Ultralytics' own words
        raise ModelError(
            f"{path} is a YOLO network for {metadata['task']!r}, which answers boxes "
            "and prototypes of masks, no scores of pixels: write a function around it "
            "that returns geoseg.Objects, PATH.py:FUNCTION"
        )
    unread = sorted(_SCALING & metadata.keys())
    if unread:
        raise ModelError(
            f"{path} holds {unread[0]!r} = {metadata[unread[0]]}, which Deepness does "
            f"not read: write {path.with_suffix('.json').name} with bands, classes, "
            'window, and "mean" and "std" in the units of pixels'
        )
    try:
        plain = _plain(path, metadata, model.graph)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise ModelError(
            f"the metadata of Deepness in {path} is wrong ({error}): write "
            f"{path.with_suffix('.json').name} with bands, classes, window"
        ) from error
    return card_from_dict(plain, where=f"the metadata of Deepness in {path}")


def _value(text: str) -> Any:  # noqa: ANN401 - whatever a literal is
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    return text


def _names(metadata: Mapping[str, Any]) -> dict[int, str]:
    """Return the classes by number; a list is of several outputs, or of names."""
    given = metadata.get("class_names") or metadata.get("names") or {}
    if isinstance(given, list) and isinstance(given[0], Mapping):
        given = given[0]
    rows = given.items() if isinstance(given, Mapping) else enumerate(given)
    return {int(number): str(name) for number, name in rows}


def _plain(path: Path, metadata: Mapping[str, Any], graph: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the card as a plain dictionary."""
    outputs = graph.output
    size = [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    answer = [d.dim_value for d in outputs[0].type.tensor_type.shape.dim]
    last_node = [n.op_type for n in graph.node if outputs[0].name in n.output]
    channels = answer[1] if len(answer) == 4 else 1
    if channels > MOST_CLASSES or size[1] > MOST_BANDS:
        raise ModelError(f"{path} has {size[1]} bands and {channels} classes: too many")
    names = _names(metadata)
    if channels == 1:
        table = ["background", names.get(1, names.get(0, path.stem))]
    else:
        table = [names.get(i, f"class {i}") for i in range(channels or len(names))]
    scores = channels == 1 or set(last_node) & {"Softmax", "Sigmoid"}
    side = metadata.get("tile_size", metadata.get("tiles_size", 512))
    window = size[2] or int(side)
    overlap = round(window * float(metadata.get("tiles_overlap", 15)) / 100) // 2 * 2
    centimetres = metadata.get("resolution")
    threshold, ignored = _threshold(metadata, len(table), sigmoid=channels == 1)
    framework = {"answer": outputs[0].name} if len(outputs) > 1 else {}
    plain: dict[str, Any] = {
        "name": path.stem,
        "bands": _bands(metadata, size[1] or 3),
        "classes": table,
        "output": "probabilities" if scores else "logits",
        "window": window,
        "overlap": min(overlap, window // 2 // 2 * 2),
        "resolution": float(centimetres) / 100 if centimetres else None,
        "dtypes": ["uint8"],
        "value_range": [0.0, 255.0],
        "description": "a Segmentor of the Deepness plugin of QGIS",
        "framework": {"family": "onnx"} | framework,
    }
    if threshold is not None:
        plain["threshold"] = threshold
    if metadata.get("seg_small_segment"):
        ignored.append(f"its smoothing by {metadata['seg_small_segment']} px")
    if ignored:
        told = f"of Deepness {' and '.join(ignored)} is left out"
        plain["facts"] = {"warning": f"{told}: geoseg vectorize has --min-area"}
    return plain


def _threshold(
    metadata: Mapping[str, Any], classes: int, *, sigmoid: bool
) -> tuple[float | None, list[str]]:
    """Return the card's threshold, and what of the plugin's a card does not have."""
    told = metadata.get("seg_thresh")
    if told is None or (not sigmoid and float(told) * classes <= 1):
        return None, []
    if sigmoid:
        return float(told), []
    if classes == 2:  # where no class reaches it the plugin says the first
        return max(0.5, float(told)), []
    return None, [f"its threshold, {told}"]


def _bands(metadata: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Return bands scaled by 255 first, and then standardised where the file says."""
    numbers = [str(i + 1) for i in range(count)]
    names = ["red", "green", "blue"] if count == 3 else numbers
    mean = metadata.get("standardization_mean") or [0.0] * count
    std = metadata.get("standardization_std") or [1.0] * count
    if len(mean) != count or len(std) != count:
        raise ModelError(
            f"the file has {len(mean)} means and {len(std)} deviations for "
            f"{count} bands"
        )
    return [
        {"name": name, "offset": 255 * float(m), "scale": 255 * float(s)}
        for name, m, s in zip(names, mean, std, strict=True)
    ]
