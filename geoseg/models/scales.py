"""A window seen larger and smaller: pixels are resized, and scores brought back.

Scales are of the side: 2 shows a window twice as large, 0.5 half as large. Models that
take windows of one size only slide over a larger picture; a smaller one is reflected at
its edges until it fills their window.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from geoseg.core.blend import ramp

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from geoseg.models.card import Card


def sides(height: int, width: int, scale: float, card: Card) -> tuple[int, int]:
    """Return the size of a window of this size at a scale, as the model takes it."""
    step = card.multiple or 1
    high, wide = (max(1, round(side * scale / step)) for side in (height, width))
    return high * step, wide * step


def seen_at(
    predict: Callable[[NDArray[Any]], torch.Tensor],
    pixels: NDArray[Any],
    scale: float,
    card: Card,
) -> torch.Tensor:
    """Return probabilities (n, class, y, x) of windows looked at in another size."""
    if scale == 1:
        return predict(pixels)
    height, width = pixels.shape[2:]
    size = sides(height, width, scale, card)
    native = np.ascontiguousarray(pixels, dtype=np.float32)
    picture = _resized(torch.from_numpy(native), size).numpy()
    found = predict(picture) if card.multiple else _slid(predict, picture, card.window)
    return _resized(found, (height, width))


def _resized(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _slid(
    predict: Callable[[NDArray[Any]], torch.Tensor], picture: NDArray[Any], window: int
) -> torch.Tensor:
    """Slide full windows over a picture, and blend where they overlap by a quarter."""
    height, width = picture.shape[2:]
    short = [(0, 0), (0, 0), *((0, max(0, window - side)) for side in (height, width))]
    picture = np.pad(picture, short, mode="reflect")
    overlap = window // 4 // 2 * 2
    sums: torch.Tensor | None = None
    weights = torch.zeros(picture.shape[2:])
    for y in _starts(picture.shape[2], window, overlap):
        for x in _starts(picture.shape[3], window, overlap):
            part = np.ascontiguousarray(picture[..., y : y + window, x : x + window])
            found = predict(part)
            along = 1.0 + ramp(window, overlap, before=True, after=True)
            weight = torch.from_numpy(np.outer(along, along)).float().to(found.device)
            if sums is None:
                shape = (*found.shape[:2], *picture.shape[2:])
                sums = torch.zeros(shape, device=found.device)
                weights = weights.to(found.device)
            sums[..., y : y + window, x : x + window] += weight * found
            weights[y : y + window, x : x + window] += weight
    assert sums is not None
    return (sums / weights)[..., :height, :width]


def _starts(length: int, window: int, overlap: int) -> list[int]:
    """Return where windows begin, evenly, the last one at the end."""
    count = ceil((length - window) / (window - overlap)) + 1
    return [round(i * (length - window) / max(1, count - 1)) for i in range(count)]
