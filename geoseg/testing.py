"""Fakes for tests, ours and yours: sources in memory, models that do almost nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from affine import Affine

from geoseg.core.classes import class_table
from geoseg.core.grid import Grid, Window
from geoseg.models.card import Band, Card
from geoseg.rasters.open import SourceBand
from geoseg.rasters.time_steps import is_series, seen

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class MemorySource:
    """A source whose pixels are an array."""

    values: NDArray[Any]
    """(band, y, x)."""
    mask: NDArray[np.bool_] | None = None
    """(y, x), True where a pixel is valid; None: everywhere."""
    transform: Affine = field(
        default_factory=lambda: Affine(10, 0, 500_000, 0, -10, 5_000_000)
    )
    """Where it is."""
    crs: str | None = None
    """WKT."""
    names: tuple[str, ...] | None = None
    """Names of the bands; default `1`, `2`, …"""
    steps: tuple[str | None, ...] | None = None
    """ISO date of each band, oldest first, of a source with time; then what a band does
    not show is NaN."""
    name: str = "array"
    """For messages."""

    @property
    def grid(self) -> Grid:
        """Where its pixels are."""
        _, height, width = self.values.shape
        return Grid(crs=self.crs, transform=self.transform, height=height, width=width)

    @property
    def bands(self) -> tuple[SourceBand, ...]:
        """Its bands."""
        names = self.names or [str(i + 1) for i in range(len(self.values))]
        steps = self.steps or (None,) * len(names)
        pairs = zip(names, steps, strict=True)
        return tuple(SourceBand(name=n, step=s) for n, s in pairs)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of its pixels."""
        return self.values.dtype

    @property
    def identity(self) -> Mapping[str, Any]:
        """A digest of the pixels."""
        digest = hashlib.sha256(np.ascontiguousarray(self.values).data)
        if self.mask is not None:
            digest.update(np.ascontiguousarray(self.mask).data)
        return {"sha256": digest.hexdigest()}

    @property
    def notes(self) -> tuple[str, ...]:
        """Nothing is odd about it."""
        return ()

    def select(self, bands: Sequence[int]) -> Self:
        """Return the source with only these bands."""
        chosen = [self.bands[i] for i in bands]
        names = tuple(band.name for band in chosen)
        steps = self.steps and tuple(band.step for band in chosen)
        values = self.values[list(bands)]
        return replace(self, values=values, names=names, steps=steps)

    def named(self, bands: Sequence[SourceBand]) -> Self:
        """Return the source with other names for its bands."""
        return replace(self, names=tuple(b.name for b in bands))

    def read(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read a window; copies, as a file would give."""
        values = self.values[:, *window.slices].copy()
        valid = np.ones(values.shape[1:], bool)
        if is_series(self.bands):
            valid = seen(values, self.bands).copy()
        if self.mask is not None:
            valid &= self.mask[window.slices]
        return values, valid


def identity_card(classes: int, **fields: Any) -> Card:  # noqa: ANN401 - those of Card
    """Return the card of a model with as many bands as classes."""
    defaults: dict[str, Any] = {
        "name": "identity",
        "bands": tuple(Band(name=str(i + 1)) for i in range(classes)),
        "classes": class_table(f"class {i}" for i in range(classes)),
        "output": "probabilities",
        "window": 64,
        "overlap": 16,
        "fill": 0.0,
    }
    return Card(**{**defaults, **fields})


@dataclass(kw_only=True)
class IdentityModel:
    """Answers its input, and counts the windows that it sees."""

    card: Card
    """What it pretends to be."""
    seen: int = 0
    """Windows so far."""
    shapes: set[tuple[int, ...]] = field(default_factory=set)
    """Shapes of the windows so far."""

    def predict(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Return the pixels as scores."""
        self.seen += len(pixels)
        self.shapes.add(pixels.shape[1:])
        return pixels.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class LocalModel:
    """A model whose scores depend on where a pixel lies in its window, as networks' do.

    Without blending its edges would be seams: each score is the band plus a bump that
    grows towards the window's border.
    """

    card: Card
    """What it pretends to be."""
    bump: float = 0.5
    """How strong the effect is."""

    def predict(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Return scores (n, class, y, x) with an effect at the window's border."""
        height, width = pixels.shape[-2:]
        y = np.abs(np.linspace(-1, 1, height, dtype=np.float32))[:, None]
        x = np.abs(np.linspace(-1, 1, width, dtype=np.float32))[None]
        scores = pixels.astype(np.float32)
        mean = scores.mean(axis=(-2, -1), keepdims=True)
        return np.asarray(scores + self.bump * np.maximum(x, y) ** 8 * mean)
