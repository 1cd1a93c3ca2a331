"""Labels from a class raster on any grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from affine import Affine

from geoseg.core.grid import Grid, Window, same_crs, same_pixels, squares
from geoseg.core.lookup import look_up, nearest_pixels
from geoseg.errors import GeosegError, LabelsError, RasterError, first_line
from geoseg.labels.names import UNLABELLED, LabelKind, Labels, Names, Pairing
from geoseg.rasters.gcps import PlacedByPoints

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.rasters.open import Source


_MOST = 1000
"""Values that a raster of labels may hold."""
_FILL = (255, 32767)
"""What means no label in rasters of others that do not tag it."""
_BESIDE = 0.01
"""Of a pixel: less is how a transform was rounded."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RasterLabels(Labels):
    """A class raster, looked up at the centres of a grid's pixels."""

    kind: LabelKind = "raster"
    source: Source
    values_of: Mapping[int, int]
    """Class value by raster value; others are unlabelled."""

    def touches(self, window: Window) -> bool:
        """Whether the raster may reach into the window."""
        return nearest_pixels(self.grid, window, self.source.grid).span is not None

    def read(self, window: Window) -> NDArray[np.uint16]:
        """Return class values, (y, x)."""
        return look_up(
            self._read, self.source.grid, self.grid, window,
            nothing=UNLABELLED, dtype=np.uint16,
        )  # fmt: skip

    def _read(self, window: Window) -> NDArray[np.uint16]:
        """Return class values of the raster's own pixels."""
        pixels, valid = self.source.read(window)
        values = self._translate(pixels[0])
        values[~valid] = UNLABELLED
        return values

    def _translate(self, raw: NDArray[np.generic]) -> NDArray[np.uint16]:
        """Return class values for raster values."""
        if raw.dtype.kind == "u" and raw.dtype.itemsize <= 2:
            table = np.full(256**raw.dtype.itemsize, UNLABELLED, np.uint16)
            known = [k for k in self.values_of if k < len(table)]
            table[known] = [self.values_of[k] for k in known]
            return np.asarray(table[raw])
        out = np.full(raw.shape, UNLABELLED, np.uint16)
        for value, meaning in self.values_of.items():
            out[raw == value] = meaning
        return out


def raster_labels(
    path: str | Path, grid: Grid, names: Names, *, strict: bool
) -> RasterLabels:
    """Return a class raster as labels.

    Raises:
        LabelsError: it cannot be read, holds no classes, or lies elsewhere.
    """
    from geoseg.rasters.open import open_source

    try:
        source = open_source(path)
    except RasterError as e:
        raise LabelsError(
            f"the labels {path} are neither points, polygons nor a raster: "
            f"{first_line(e)}"
        ) from e
    if isinstance(source, PlacedByPoints):
        raise LabelsError(
            f"the label raster {path} is placed by ground control points only, and "
            "classes cannot be interpolated: gdalwarp -r near IN OUT.tif"
        )
    classes = [i for i, band in enumerate(source.bands) if band.name == "classes"]
    if len(classes) == 1:  # beside confidence, as a store may have it
        source = source.select(classes)
    if len(source.bands) != 1:
        raise LabelsError(
            f"the label raster {path} has {len(source.bands)} bands; one is needed, "
            f"with the classes: {_to_one_band(source)}"
        )
    on_it = same_pixels(source.grid, grid) and same_crs(source.grid.crs, grid.crs)
    if strict and not on_it:
        raise LabelsError(
            f"the label raster {path} ({source.grid.height} x {source.grid.width} px) "
            f"is not on the raster's grid ({grid.height} x {grid.width} px)"
        )
    if nearest_pixels(grid, grid.window, source.grid, only_span=True).span is None:
        raise LabelsError(
            f"the label raster {path} does not overlap the raster: it spans "
            f"{_spread(source.grid)}, the raster {_spread(grid)}"
            f"{_how_to_place(source.grid, grid)}"
        )
    legend, found = _legend(path), distinct_values(source)
    pairing = names.paired([v for v in found if v >= 0], legend)
    return RasterLabels(
        name=source.name,
        classes=pairing.classes,
        grid=grid,
        source=source,
        values_of={int(raw): value for raw, value in pairing.values.items()},
        pairing=pairing,
        notes=(
            *pairing.notes(source.name),
            *_doubts(source, found, legend, pairing),
            *_shift(source, grid),
        ),
    )


def _to_one_band(source: Source) -> str:
    """Return how bands become one of classes, by what they seem to be."""
    apart = "of a band per class gdal_calc --calc 'numpy.argmax([A,B,C],0)' makes it"
    if [band.common_name for band in source.bands] == ["red", "green", "blue"]:
        return (
            "of colours gdal_calc --calc '(R.astype(int)*256+G)*256+B' --type UInt32 "
            f"makes numbers, for --map 16711680=CLASS (red) and so on; {apart}"
        )
    return f"gdal_translate -b N IN OUT.tif takes the one that holds them; {apart}"


def _how_to_place(labels: Grid, grid: Grid) -> str:
    """Return how a picture of labels without a place is put on the grid, or nothing."""
    alike = (labels.height, labels.width) == (grid.height, grid.width)
    if labels.crs is not None or not alike or not grid.is_rectilinear:
        return ""
    left, bottom, right, top = (f"{side:.12g}" for side in grid.bounds)
    return (
        "; if its pixels are those of the raster: gdal_translate -a_srs RASTER'S_CRS "
        f"-a_ullr {left} {top} {right} {bottom} IN OUT.tif"
    )


def _doubts(
    source: Source, found: Sequence[int], legend: Mapping[int, str], pairing: Pairing
) -> Iterator[str]:
    """Say which values are no labels, or may be none."""
    below = [str(v) for v in found if v < 0]
    if below:
        yield f"{source.name}: pixels of {', '.join(below[:5])} are unlabelled"
    *others, last = [v for v in found if v >= 0] or [0]
    kept = pairing.values.get(last) != UNLABELLED
    lonely = len(others) > 1 and others[-1] < last // 2
    if last in _FILL and lonely and last not in legend and kept:
        yield (
            f"{source.name}: {last} is a class like others; if it means that there is "
            f"no label: --map {last}=ignore"
        )


def _shift(source: Source, grid: Grid) -> Iterator[str]:
    """Say where pixels as large as the raster's lie beside them."""
    if not same_crs(source.grid.crs, grid.crs):
        return
    own = ~grid.transform @ source.grid.transform
    x, y = (abs(float(v - np.rint(v))) for v in (own.c, own.f))
    if own.almost_equals(Affine.translation(own.c, own.f)) and max(x, y) > _BESIDE:
        yield (
            f"{source.name}: its pixels lie {x:.2g}, {y:.2g} pixels (x, y) beside "
            "those of the raster, each of which takes the label at its centre"
        )


def _legend(path: str | Path) -> dict[int, str]:
    """Return the names that a class map gives its values; none where it has none."""
    from geoseg.maps.open import open_classes

    try:
        classes = open_classes(path).classes
    except GeosegError:  # rasters of whole floats, mosaics: no class maps, no names
        return {}
    return {c.value: c.name for c in classes if c.name != f"class_{c.value}"}


def distinct_values(source: Source) -> list[int]:
    """Return the values that a class raster holds, sorted; all of it is read."""
    found: set[int] = set()
    for window in squares(source.grid, 2048):
        pixels, valid = source.read(window)
        values = np.unique(pixels[0][valid])
        if (values != np.floor(values)).any():
            raise LabelsError(
                f"{source.name} is not a class raster: it holds fractions such as "
                f"{float(values[values != np.floor(values)][0]):g}"
            )
        found.update(int(v) for v in values)
        if len(found) > _MOST:
            raise LabelsError(
                f"{source.name} is not a class raster: it holds over {_MOST:,} values"
            )
    return sorted(found)


def _spread(grid: Grid) -> str:
    left, bottom, right, top = grid.bounds
    return f"x {left:g} … {right:g}, y {bottom:g} … {top:g}"
