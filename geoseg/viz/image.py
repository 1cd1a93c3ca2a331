"""Rasters and classes as small pictures: RGB by a fixed stretch, PNG and JPEG bytes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from geoseg.core.classes import Class, nodata_value
from geoseg.core.grid import Grid, Window
from geoseg.core.lookup import nearest_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.rasters.open import Source

_SAMPLES = 5  # a side: the stretch is measured on 25 windows spread over the raster
_SAMPLE = 128
_MOST_READ = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A raster to be looked at: red, green and blue, or grey, stretched to 8 bits.

    The stretch is one for the whole raster, so pictures of parts fit together.
    """

    source: Source
    """One band or three."""
    low: tuple[float, ...]
    """Black, by band."""
    high: tuple[float, ...]
    """White, by band."""

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Return a window inside the grid as RGBA (y, x, 4), clear where invalid."""
        return self.coloured(*self.source.read(window))

    def coloured(
        self, pixels: NDArray[np.generic], valid: NDArray[np.bool_]
    ) -> NDArray[np.uint8]:
        """Return stored pixels (band, y, x) as RGBA (y, x, 4)."""
        out = np.zeros((*valid.shape, 4), np.uint8)
        for i in range(3):
            band = min(i, len(pixels) - 1)
            values = pixels[band].astype(np.float32)
            span = max(self.high[band] - self.low[band], 1e-9)
            with np.errstate(invalid="ignore"):
                part = np.clip((values - self.low[band]) / span, 0, 1)
            out[..., i] = np.rint(255 * np.nan_to_num(part) ** 0.8)
        out[..., 3] = np.where(valid, 255, 0)
        return out

    def on(self, grid: Grid) -> NDArray[np.uint8]:
        """Return the nearest pixels under those of another grid, RGBA (y, x, 4)."""
        return self._on(grid, grid.window)

    def _on(self, grid: Grid, window: Window) -> NDArray[np.uint8]:
        found = nearest_pixels(grid, window, self.source.grid)
        if found.span is None:
            return np.zeros((window.height, window.width, 4), np.uint8)
        if found.span.area > _MOST_READ and window.area > 1:
            return self._on_halves(grid, window)
        pixels = self.read(found.span)
        bands = [found.take(pixels[..., i], nothing=0) for i in range(4)]
        return np.stack(bands, axis=-1)

    def _on_halves(self, grid: Grid, window: Window) -> NDArray[np.uint8]:
        """Look a window up in two parts: it spans too many pixels to be held."""
        tall = window.height >= window.width
        y = window.y + window.height // 2 if tall else window.bottom
        x = window.right if tall else window.x + window.width // 2
        one = Window.spanning(window.y, y, window.x, x)
        other = Window.spanning(
            y if tall else window.y,
            window.bottom,
            window.x if tall else x,
            window.right,
        )
        parts = [self._on(grid, one), self._on(grid, other)]
        return np.concatenate(parts, axis=0 if tall else 1)


def open_image(raster: Any) -> Image:  # noqa: ANN401 - whatever open_source takes
    """Open a raster to be looked at; its stretch is measured on a few windows.

    Args:
        raster: Whatever `open_source` takes.

    Raises:
        RasterError: It cannot be opened.
    """
    from geoseg.rasters.open import open_source

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no CRS: it was said before
        source = open_source(raster)
    source = source.select(shown_bands(source))
    low, high = _stretch(source)
    return Image(source=source, low=low, high=high)


def shown_bands(source: Source) -> list[int]:
    """Return the bands to show as red, green, blue; or the one to show as grey."""
    names = [band.common_name or band.name for band in source.bands]
    for wanted in (("red", "green", "blue"), ("nir", "red", "green")):
        if all(name in names for name in wanted):
            return [names.index(name) for name in wanted]
    return [0, 1, 2] if len(names) >= 3 else [0]


def _stretch(source: Source) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the 2nd and 98th percentile of each band, as far as samples tell."""
    grid, count = source.grid, len(source.bands)
    found: list[NDArray[np.generic]] = []
    for y in _spread(grid.height):
        for x in _spread(grid.width):
            window = Window(
                y=y,
                x=x,
                height=min(_SAMPLE, grid.height),
                width=min(_SAMPLE, grid.width),
            )
            pixels, valid = source.read(window)
            found.append(pixels[:, valid])
    values = np.concatenate(found, axis=1).astype(np.float64)
    if not values.shape[1]:
        return (0.0,) * count, (1.0,) * count
    low, high = np.percentile(values, [2, 98], axis=1)
    return tuple(low.tolist()), tuple(high.tolist())


def _spread(length: int) -> list[int]:
    """Return where samples begin: one in the middle of each fifth, inside."""
    starts = ((np.arange(_SAMPLES) + 0.5) * length / _SAMPLES).astype(
        int
    ) - _SAMPLE // 2
    return sorted(set(np.clip(starts, 0, max(0, length - _SAMPLE)).tolist()))


def colour_table(classes: Sequence[Class]) -> NDArray[np.uint8]:
    """Return RGBA by class value, (values, 4); transparent where there is no class."""
    table = np.zeros((nodata_value(classes) + 1, 4), np.uint8)
    for c in classes:
        table[c.value] = (*c.rgb, 255)
    return table


def class_png(values: NDArray[Any], classes: Sequence[Class]) -> bytes:
    """Return class values (y, x) as a PNG in class colours, clear elsewhere."""
    from PIL import Image as Pillow

    table = colour_table(classes)
    if len(table) > 256:
        return encode(table[values], "PNG")
    picture = Pillow.fromarray(values.astype(np.uint8))
    picture.putpalette(table[:, :3].tobytes())
    out = BytesIO()
    picture.save(out, "PNG", transparency=table[:, 3].tobytes(), compress_level=6)
    return out.getvalue()


def encode(rgba: NDArray[np.uint8], kind: Literal["PNG", "JPEG"]) -> bytes:
    """Return RGBA (y, x, 4) as PNG, or as JPEG on white."""
    from PIL import Image as Pillow

    out = BytesIO()
    if kind == "PNG":
        Pillow.fromarray(rgba).save(out, "PNG", compress_level=3)
        return out.getvalue()
    alpha = rgba[..., 3:].astype(np.float32) / 255
    rgb = np.rint(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    Pillow.fromarray(rgb).save(out, "JPEG", quality=85)
    return out.getvalue()
