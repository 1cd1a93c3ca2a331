"""Maps and rasters as pixels to look at: colours, PNG and WebP bytes, scale and north.

Everything that draws a map takes its pixels from here: figures, pages, notebooks and
the live map.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from colorsys import hls_to_rgb
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from geoseg.core.classes import Class, nodata_value
from geoseg.core.grid import Grid, Window
from geoseg.core.lookup import look_up
from geoseg.errors import RasterError
from geoseg.maps.overviews import open_pyramid
from geoseg.maps.provenance import remembered_raster
from geoseg.maps.reader import dtype_of, read_plain
from geoseg.rasters.file import RasterFile
from geoseg.rasters.gdal import environment, open_dataset
from geoseg.rasters.nodata import is_silent, with_nodata
from geoseg.rasters.open import open_source, resampled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.maps.reader import ClassReader
    from geoseg.rasters.open import Source

_SAMPLES = 5  # a side: the stretch is measured on 25 windows spread over the raster
_SAMPLE = 128
_STRAY = 0.001  # of mapped pixels may have nodata's value by chance
_OBJECT_COLOURS = 3072
# Cividis (Nuñez et al. 2018), readable with any colour vision.
_CIVIDIS = ("#00224E", "#35456C", "#666970", "#948E77", "#C8B866", "#FEE838")


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
    whole: Source
    """All bands of the raster, of which others can be shown."""
    bands: tuple[int, ...]
    """Which of them are shown."""

    def showing(self, bands: Sequence[int]) -> Image:
        """Return it in other bands: three, or one as grey; stretched likewise.

        Raises:
            RasterError: The raster has no such bands.
        """
        known = len(self.whole.bands)
        if len(bands) not in {1, 3} or not all(0 <= b < known for b in bands):
            raise RasterError(
                f"one band or three are shown, each from 1 to {known}, and not "
                f"{', '.join(str(b + 1) for b in bands) or 'none'}"
            )
        return _shown(self.whole, tuple(bands))

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
            span = self.high[band] - self.low[band]
            with np.errstate(invalid="ignore"):
                # Where all is alike, that is neither black nor white.
                part = (
                    (values - self.low[band]) / span if span > 0 else values * 0 + 0.5
                )
                part = np.clip(part, 0, 1)
            out[..., i] = np.rint(255 * np.nan_to_num(part) ** 0.8)
        out[..., 3] = np.where(valid, 255, 0)
        return out

    def small(self, size: int) -> NDArray[np.uint8]:
        """Return all of it, RGBA (y, x, 4), the longer side at most `size` pixels.

        From a file's overviews where it has any that are near, else averaged.
        """
        grid = at_most(self.source.grid, size)
        found = _from_overviews(self.source, grid)
        if found is None:
            found = resampled(self.source, grid).read(grid.window)
        return self.coloured(*found)

    def overview(self, grid: Grid) -> NDArray[np.uint8]:
        """Return it on another, coarse grid, RGBA (y, x, 4), from a small copy."""
        size = 2 * max(grid.height, grid.width)
        pixels, own = self.small(size), at_most(self.source.grid, size)
        return look_up(
            lambda window: pixels[window.slices], own, grid, grid.window, nothing=0,
            dtype=np.uint8, pixel=(4,),
        )  # fmt: skip

    def on(self, grid: Grid) -> NDArray[np.uint8]:
        """Return the nearest pixels under those of another grid, RGBA (y, x, 4)."""
        return look_up(
            self.read, self.source.grid, grid, grid.window, nothing=0, dtype=np.uint8,
            pixel=(4,),
        )  # fmt: skip


def open_image(
    raster: Any,  # noqa: ANN401 - whatever open_source takes
    beside: ClassReader | None = None,
) -> Image:
    """Open a raster to be looked at; its stretch is measured on a few windows.

    Args:
        raster: Whatever `open_source` takes.
        beside: The map that is shown with it. Where the raster does not tell of any
            nodata, the map does: its nodata was said when it was made.

    Raises:
        RasterError: It cannot be opened.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no CRS: it was said before
        source = open_source(raster)
    bands = tuple(shown_bands(source))
    if beside is not None and is_silent(source):
        source = with_nodata(source, _nodata_by_map(source.select(bands), beside))
    return _shown(source, bands)


def _shown(whole: Source, bands: tuple[int, ...]) -> Image:
    source = whole.select(bands)
    low, high = stretch(source, source.grid.window)
    return Image(source=source, low=low, high=high, whole=whole, bands=bands)


def image_of(reader: ClassReader, raster: Any) -> Image | None:  # noqa: ANN401
    """Open the image beside a map: the one that is given, or what it was made of.

    Args:
        reader: The map.
        raster: Whatever `open_source` takes; None for what the map remembers, which may
            have gone, or need a secret; False for no image.
    """
    if raster is None:
        remembered = remembered_raster(reader)
        if remembered is not None:
            with suppress(RasterError):
                return open_image(remembered, beside=reader)
    return open_image(raster, beside=reader) if raster else None


def _nodata_by_map(source: Source, reader: ClassReader) -> float | None:
    """Return the value that a raster has where a map has nodata, and nowhere else."""
    missing, mapped = [], []
    blank = nodata_value(reader.classes)
    for window in _samples(source.grid.window):
        pixels, _ = source.read(window)
        classes = look_up(
            lambda w: read_plain(reader, "classes", w),
            reader.grid,
            source.grid,
            window,
            nothing=blank,
            dtype=dtype_of(reader.classes),
        )
        first = np.where((pixels == pixels[:1]).all(axis=0), pixels[0], np.nan)
        missing.append(first[classes == blank])
        mapped.append(first[classes != blank])
    values, counts = np.unique(np.concatenate(missing), return_counts=True)
    if not len(values) or np.isnan(values[counts.argmax()]):
        return None
    value, seen = values[counts.argmax()], np.concatenate(mapped)
    alone = counts.max() > 0.5 * counts.sum() and (seen == value).sum() < _STRAY * (
        1 + len(seen)
    )
    return float(value) if alone else None


def shown_bands(source: Source) -> list[int]:
    """Return the bands to show as red, green, blue; or the one to show as grey."""
    names = [band.common_name or band.name for band in source.bands]
    for wanted in (("red", "green", "blue"), ("nir", "red", "green")):
        if all(name in names for name in wanted):
            return [names.index(name) for name in wanted]
    return [0, 1, 2] if len(names) >= 3 else [0]


def stretch(
    source: Source, window: Window, *, cut: float = 2.0
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the values of each band that are to be black and white.

    Args:
        source: The bands.
        window: Where samples are taken.
        cut: So many percent of valid pixels are darker, and as many are lighter.
    """
    found: list[NDArray[np.generic]] = []
    for sample in _samples(window):
        pixels, valid = source.read(sample)
        found.append(pixels[:, valid])
    values = np.concatenate(found, axis=1).astype(np.float64)
    if not values.shape[1]:
        count = len(source.bands)
        return (0.0,) * count, (1.0,) * count
    low, high = np.percentile(values, [cut, 100 - cut], axis=1)
    return tuple(low.tolist()), tuple(high.tolist())


def _samples(window: Window) -> Iterator[Window]:
    """Yield windows that are spread over another; the outer ones touch its edges."""
    height, width = min(_SAMPLE, window.height), min(_SAMPLE, window.width)
    for y in _spread(window.height):
        for x in _spread(window.width):
            yield Window(y=window.y + y, x=window.x + x, height=height, width=width)


def _spread(length: int) -> list[int]:
    """Return where samples begin, from the first that fits to the last."""
    starts = np.linspace(0, max(0, length - _SAMPLE), _SAMPLES)
    return sorted(set(starts.astype(int).tolist()))


def _from_overviews(
    source: Source, grid: Grid
) -> tuple[NDArray[Any], NDArray[np.bool_]] | None:
    """Return a file at a picture's size; None where its overviews are far too fine.

    Without overviews GDAL would decode every tile once for each line of the picture.
    """
    factor = source.grid.height / grid.height
    if not isinstance(source, RasterFile) or factor <= 1:
        return None
    far = environment(source.path, far=source.is_far)
    with far, open_dataset(source.path) as dataset:
        coarsest = max(dataset.overviews(source.numbers[0]), default=1)
        if coarsest * 4 < factor:
            return None
        shape = (len(source.numbers), grid.height, grid.width)
        read = dataset.read(list(source.numbers), out_shape=shape, masked=True)
    nothing = np.asarray(np.ma.getmaskarray(read).any(axis=0), np.bool_)
    for values, nodata in zip(read.data, source.nodata, strict=True):
        if nodata is not None:  # the file itself may not say it
            nothing |= values == nodata
    return read.data, ~nothing


def at_most(grid: Grid, size: int) -> Grid:
    """Return the ground of a grid in pixels of which at most `size` make a side."""
    factor = max(1.0, max(grid.height, grid.width) / size)
    height, width = (max(1, round(n / factor)) for n in (grid.height, grid.width))
    return grid.resampled(y_factor=grid.height / height, x_factor=grid.width / width)


def class_overview(reader: ClassReader, size: int) -> NDArray[Any]:
    """Return class values of a whole map, (y, x), the longer side at most `size`.

    Only a picture's worth of pixels is read, from overviews where there are any.
    """
    small = at_most(reader.grid, size)
    return open_pyramid(reader).look(
        "classes", reader.grid.window, small.height, small.width
    )


def colour_table(classes: Sequence[Class]) -> NDArray[np.uint8]:
    """Return RGBA by class value, (values, 4); transparent where there is no class."""
    table = np.zeros((nodata_value(classes) + 1, 4), np.uint8)
    for c in classes:
        table[c.value] = (*c.rgb, 255)
    return table


def byte_colors() -> NDArray[np.uint8]:
    """Return RGBA by byte, (256, 4): dark is little, light is much; 255 is clear."""
    stops = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in _CIVIDIS])
    at = np.linspace(0, len(stops) - 1, 255)
    table = np.zeros((256, 4), np.uint8)
    for band in range(3):
        table[:255, band] = np.interp(at, np.arange(len(stops)), stops[:, band])
    table[:255, 3] = 255
    return table


def object_colours(ids: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Return RGBA by object (y, x, 4): a colour for each, clear where there is none.

    Ids that follow each other, often neighbours, differ.
    """
    rgba: NDArray[np.uint8] = _object_table()[ids % _OBJECT_COLOURS]
    rgba[ids == 0] = 0
    return rgba


@cache
def _object_table() -> NDArray[np.uint8]:
    golden = 0.618034
    rows = [
        hls_to_rgb(i * golden % 1, (0.42, 0.55, 0.68)[i % 3], 0.75)
        for i in range(_OBJECT_COLOURS)
    ]
    rgba = np.full((len(rows), 4), 255, np.uint8)
    rgba[:, :3] = np.rint(255 * np.array(rows))
    return rgba


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


def encode(rgba: NDArray[np.uint8], kind: Literal["PNG", "WEBP"]) -> bytes:
    """Return RGBA (y, x, 4) as PNG, or as WebP: small, and see-through as well."""
    from PIL import Image as Pillow

    out = BytesIO()
    how = {"compress_level": 3} if kind == "PNG" else {"quality": 85}
    Pillow.fromarray(rgba).save(out, kind, **how)
    return out.getvalue()


def round_length(length: float) -> float:
    """Return the largest of 1, 2, 5 x 10^n that is not above a length.

    >>> round_length(8192)
    5000.0
    """
    power = 10.0 ** math.floor(math.log10(length))  # may be rounded up, past the length
    return max(f * power for f in (0.5, 1.0, 2.0, 5.0) if f * power <= length)


def scale_bar(grid: Grid) -> tuple[float, str] | None:
    """Return a scale bar near a quarter of a map's width: its share of it, its name.

    None where it is not known how long a pixel is.
    """
    size = grid.pixel_size_m
    if size is None:
        return None
    width = grid.width * size[1]
    metres = round_length(width / 4)
    name = f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"
    return metres / width, name


def north(grid: Grid) -> float | None:
    """Return how far grid north is turned from up, in degrees clockwise."""
    if grid.crs is None:
        return None
    back = ~grid.transform
    return math.degrees(math.atan2(back.b, -back.e))


def lon_lat(grid: Grid, row: float, column: float) -> tuple[float, float] | None:
    """Return longitude and latitude of a point of a grid; None where it has none."""
    if grid.crs is None:
        return None
    from pyproj import Transformer
    from pyproj.exceptions import ProjError

    try:
        there = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
        lon, lat = there.transform(*(grid.transform @ (column, row)))
    except ProjError:
        return None
    return (lon, lat) if math.isfinite(lon) and math.isfinite(lat) else None
