"""From a raster's pixels to what a network sees, on the network's device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from geoseg.models.networks.gpus import streams_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.models.card import Band


def to_device(pixels: NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """Return pixels as a tensor on the device, still in their own dtype."""
    native = pixels.dtype.newbyteorder("=")
    x = torch.from_numpy(np.ascontiguousarray(pixels, dtype=native))
    if device.type == "cpu":
        return x
    if streams_of(device.type) is None:  # it knows neither uint16 nor float64
        return x.to(torch.float32).to(device)
    return x.pin_memory().to(device, non_blocking=True)


class Scaling:
    """`(clip(pixel) - offset) / scale` per band, in fp32, on the device."""

    def __init__(self, bands: tuple[Band, ...], device: torch.device) -> None:
        def column(values: list[float]) -> torch.Tensor:
            return torch.tensor(values, device=device).view(1, -1, 1, 1)

        clips = [b.clip or (-np.inf, np.inf) for b in bands]
        self._clips = any(b.clip is not None for b in bands)
        self._shifts = any(b.offset != 0 for b in bands)
        self._scales = any(b.scale != 1 for b in bands)
        self._low = column([low for low, _ in clips])
        self._high = column([high for _, high in clips])
        self._offset = column([b.offset for b in bands])
        self._scale = column([b.scale for b in bands])

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return scaled pixels, (n, band, y, x) fp32; the caller's stay as they are."""
        x = pixels.to(torch.float32)
        if x is pixels and (self._clips or self._shifts or self._scales):
            x = pixels.clone()  # the caller's array stays as it is
        if self._clips:
            x = torch.minimum(torch.maximum(x, self._low), self._high)
        if self._shifts:
            x = x.sub_(self._offset)
        if self._scales:
            x = x.div_(self._scale)
        return x
