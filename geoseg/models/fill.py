"""What a model sees under nodata: its card's fill, else the offset of each band."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.models.card import Card


def may_lack(values: NDArray[Any], card: Card) -> bool:
    """Whether a valid pixel may be missing: at steps of a series, in a band of one."""
    return card.times is not None and values.dtype.kind == "f"


def put_fill(values: NDArray[Any], valid: NDArray[np.bool_], card: Card) -> None:
    """Put the card's fill under nodata, in place, and where a series lacks a pixel.

    Args:
        values: (band, y, x).
        valid: (y, x).
        card: Tells the fill.
    """
    series, invalid = may_lack(values, card), ~valid
    low, high = _range(values.dtype)
    for pixels, band in zip(values, card.bands, strict=True):
        fill = band.offset if card.fill is None else card.fill
        missing = invalid | np.isnan(pixels) if series else invalid
        pixels[missing] = np.array(min(max(fill, low), high)).astype(values.dtype)


def _range(dtype: np.dtype[Any]) -> tuple[float, float]:
    info = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return float(info.min), float(info.max)
