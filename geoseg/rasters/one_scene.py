"""What one scene of a series shows, as a source, before anything is masked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.rasters.layers import Layer, Placed, read_layer
from geoseg.rasters.source import SourceBand

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from geoseg.core.grid import Grid, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class OneScene:
    """Some bands of one scene on the grid of a series: float32, NaN elsewhere."""

    name: str
    grid: Grid
    bands: tuple[SourceBand, ...]
    layers: tuple[Layer, ...]
    """Of its bands."""
    placed: Callable[[Layer], Placed]
    identity: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def dtype(self) -> np.dtype[Any]:
        """Always float32."""
        return np.dtype(np.float32)

    def select(self, bands: Sequence[int]) -> OneScene:
        """Return the source with only these bands (0-based), in this order."""
        return replace(
            self,
            bands=tuple(self.bands[b] for b in bands),
            layers=tuple(self.layers[b] for b in bands),
        )

    def read(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read a window that lies inside the grid; see `Source.read`."""
        shape = (window.height, window.width)
        pixels = np.full((len(self.layers), *shape), np.nan, np.float32)
        valid = np.ones(shape, np.bool_)
        for values, layer in zip(pixels, self.layers, strict=True):
            found, there = read_layer(self.placed(layer), layer, window)
            there = there & np.isfinite(found[0])
            np.copyto(values, found[0], where=there, casting="same_kind")
            valid &= there
        return pixels, valid
