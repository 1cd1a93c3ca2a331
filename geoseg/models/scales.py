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
    native = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))
    return there_at(lambda seen: predict(seen.numpy()), native, scale, card)


def there_at(
    predict: Callable[[torch.Tensor], torch.Tensor],
    pixels: torch.Tensor,
    scale: float,
    card: Card,
) -> torch.Tensor:
    """Do as `seen_at` with windows (n, band, y, x) float32 where they lie."""
    if scale == 1:
        return predict(pixels)
    height, width = pixels.shape[2:]
    picture = _resized(pixels, sides(height, width, scale, card))
    found = predict(picture) if card.multiple else _slid(predict, picture, card.window)
    return _resized(found, (height, width))


def _resized(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _slid(
    predict: Callable[[torch.Tensor], torch.Tensor], picture: torch.Tensor, window: int
) -> torch.Tensor:
    """Slide full windows over a picture, and blend where they overlap by a quarter."""
    height, width = picture.shape[2:]
    rows, cols = (
        torch.from_numpy(_mirrored(side, max(side, window))).to(picture.device)
        for side in (height, width)
    )
    picture = picture[:, :, rows][..., cols]
    overlap = window // 4 // 2 * 2
    sums: torch.Tensor | None = None
    weights = torch.zeros(picture.shape[2:])
    for y in _starts(picture.shape[2], window, overlap):
        for x in _starts(picture.shape[3], window, overlap):
            part = picture[..., y : y + window, x : x + window].contiguous()
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


def _mirrored(side: int, after: int) -> NDArray[np.intp]:
    """Return indices 0 … after-1 folded at the end of a side."""
    return np.pad(np.arange(side), (0, after - side), mode="reflect")


def _starts(length: int, window: int, overlap: int) -> list[int]:
    """Return where windows begin, evenly, the last one at the end."""
    count = ceil((length - window) / (window - overlap)) + 1
    return [round(i * (length - window) / max(1, count - 1)) for i in range(count)]
