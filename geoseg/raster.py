"""Sources: where pixels come from. The one room that opens rasters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from geoseg.grid import Grid, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceBand:
    """One band of a source."""

    name: str
    """Its description, its file's band name (`B08`), or `1`, `2`, … where unnamed."""
    common_name: str | None = None
    """STAC common name (`red`, `nir`, …) where it can be known, else None."""


class Source(Protocol):
    """Where pixels come from: a recipe that can be pickled, never an open handle.

    `read` may be called from several threads at once. What it returns for a pixel does
    not depend on the window that the pixel was read in.
    """

    @property
    def name(self) -> str:
        """Short name for messages; secrets in URLs are not part of it."""
        ...

    @property
    def grid(self) -> Grid:
        """Where its pixels are."""
        ...

    @property
    def bands(self) -> tuple[SourceBand, ...]:
        """Its bands, in the order of the first axis of what `read` returns."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of its pixels."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """JSON-able facts that change when the pixels may have (size, mtime, etag)."""
        ...

    def select(self, bands: Sequence[int]) -> Source:
        """Return the source with only these bands (0-based), in this order."""
        ...

    def read(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read a window that lies inside the grid.

        Returns:
            Pixels (band, y, x) in `dtype`, and which pixels are valid, (y, x) bool: in
            no band nodata, masked out, NaN, or transparent, and inside the AOI.
        """
        ...
