"""What an ONNX graph says of itself, and a card need not: its last layer, its dtype."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.errors import ModelError

if TYPE_CHECKING:
    from geoseg.models.card import Band, Card, Output

_LAST: dict[str, Output] = {
    "Sigmoid": "probabilities", "Softmax": "probabilities", "ArgMax": "labels",
}  # fmt: skip
"""What nodes make of scores."""
_PASSING = frozenset((
    "Cast", "Clip", "DequantizeLinear", "Identity", "QuantizeLinear", "Reshape",
    "Resize", "Squeeze", "Transpose", "Unsqueeze", "Upsample",
))  # fmt: skip
"""Nodes that hand on what their first input is."""
_INTEGERS = {2: "uint8", 4: "uint16"}
"""Whole numbers that graphs take, by ONNX's numbers of dtypes."""
_FEWEST = 16  # values apart, that scaled pixels become as whole numbers


def heard(card: Card, model: Any) -> Card:  # noqa: ANN401 - a message of protobuf
    """Return a card with what its graph says.

    A graph that ends in a sigmoid, softmax or argmax answers probabilities or labels,
    whatever the card says; one of whole numbers takes rasters of these alone.

    Args:
        card: The network's.
        model: The ONNX file's message.

    Raises:
        ModelError: The card scales pixels to what whole numbers cannot tell apart.
    """
    output = _last(model.graph, card.framework.get("answer"))
    if card.task == "semantic" and output is not None:
        card = replace(card, output=output)
    weights = {w.name for w in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in weights]
    dtype = _INTEGERS.get(inputs[0].type.tensor_type.elem_type) if inputs else None
    if dtype is None:
        return card
    top = float(np.iinfo(dtype).max)
    wrong = [band for band in card.bands if not _is_whole(band, top)]
    if wrong:
        raise ModelError(
            f"the ONNX graph of {card.name!r} takes {dtype}, pixels as rasters store "
            f"them, and its card scales {wrong[0].name!r}, which leaves no more than "
            'a few whole numbers: take "mean" and "std" out of it'
        )
    unscaled = all(b.offset == 0 and b.scale == 1 for b in card.bands)
    return replace(card, dtypes=card.dtypes or ((dtype,) if unscaled else None))


def _last(graph: Any, answer: object) -> Output | None:  # noqa: ANN401
    """Return what the last layer of a graph makes of scores; None: nothing."""
    names = [o.name for o in graph.output]
    if len(names) > 1 and answer not in names:
        return None
    made = {name: node for node in graph.node for name in node.output}
    name: Any = answer if answer in names else names[0]
    for _ in graph.node:
        node = made.get(name)
        if node is None or node.op_type not in _PASSING or not node.input:
            break
        name = node.input[0]
    return None if name not in made else _LAST.get(made[name].op_type)


def _is_whole(band: Band, top: float) -> bool:
    """Whether scaled pixels are told apart as whole numbers from 0 to `top`."""
    if band.offset == 0 and band.scale == 1:
        return True
    low, high = band.clip or (0.0, top)
    ends = sorted((value - band.offset) / band.scale for value in (low, high))
    return ends[0] >= 0 and ends[1] <= top and ends[1] - ends[0] >= _FEWEST
