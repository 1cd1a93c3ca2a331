"""Labels: what people say is where, laid on a raster's grid.

Points, polygons (any CRS) or a class raster (any grid), for training and as the
reference of an evaluation. Where polygons overlap, the later feature of the file wins,
unless `order` says otherwise. What no label covers is unlabelled, never background,
unless a `background` class is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geoseg.core.classes import Class
from geoseg.core.grid import Grid, Window
from geoseg.core.label_options import Order
from geoseg.errors import LabelsError
from geoseg.labels.features import OutlinedLabels, PointLabels, PolygonLabels, outlined
from geoseg.labels.names import UNLABELLED, LabelKind, Labels, Names, with_class
from geoseg.labels.pictures import refuse_pictures
from geoseg.labels.raster import RasterLabels, raster_labels
from geoseg.labels.reading import (
    area_labels,
    feature_labels,
    open_features,
    read_features,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "BOUNDARY",
    "UNLABELLED",
    "LabelKind",
    "Labels",
    "Order",
    "PointLabels",
    "PolygonLabels",
    "RasterLabels",
    "object_classes",
    "open_labels",
    "polygons_of",
    "read_objects",
]

BOUNDARY = "boundary"
"""Name of the class along the outlines of polygons."""


def open_labels(
    path: str | Path,
    grid: Grid,
    *,
    column: str | None = None,
    layer: str | None = None,
    classes: Sequence[Class] = (),
    mapping: Mapping[str, str] | None = None,
    constant: str | None = None,
    background: str | None = None,
    boundary: float | None = None,
    order: Order = "last",
    within: str | Path | tuple[float, float, float, float] | None = None,
    strict: bool = False,
) -> Labels:
    """Open labels and lay them on a grid.

    Args:
        path: points or polygons in any format that OGR reads, or a class raster.
        grid: where they are laid: polygons by the pixel-centre rule, points into the
            pixel that holds them, rasters by the nearest pixel of theirs.
        column: the column with class names or values; found by its usual names where
            None. Features without a class are left out.
        layer: of a file with several layers.
        classes: a class table to match names (whatever their case) and values to; what
            is not in it is added. Without one, the table is made from the labels.
        mapping: from a name or value in the file to another, or to `ignore`.
        constant: every feature is of this class, and no column is looked for.
        background: pixels without a label are of this class.
        boundary: pixels of polygons so near to their outline, in pixels, are of the
            class `boundary`, which separates neighbours that touch.
        order: which of overlapping polygons wins: the last, the first or the smallest.
        within: polygons (a file) or left, bottom, right, top in the grid's CRS, outside
            of which nothing is labelled.
        strict: refuse a class raster on another grid.

    Raises:
        LabelsError: the labels cannot be read, have no such column, hold empty
            geometries, or do not overlap the grid.
    """
    names = Names(known=tuple(classes), mapping=dict(mapping or {}))
    file = open_features(path)
    if file is not None:
        frame = read_features(file, layer, grid)
        labels: Labels = feature_labels(
            frame, path, grid, names, column, constant, order, layer=layer
        )
    else:
        refuse_pictures(path, grid)
        labels = raster_labels(path, grid, names, strict=strict)
    if boundary is not None:
        labels = outlined(polygons_of(labels), boundary, BOUNDARY)
    if background is not None:
        table, value = with_class(labels.classes, background)
        described = labels.described() | {"classes": table}
        labels = _Filled(**described, inner=labels, value=value)
    if within is not None:
        labels = _Within(**labels.described(), inner=labels, area=_area(within, grid))
    return labels


# --- objects --------------------------------------------------------------------------


def read_objects(labels: Labels, window: Window) -> NDArray[np.int64]:
    """Return which polygon each pixel is of, (y, x): 1 … n, 0 none, -1 unlabelled.

    Raises:
        LabelsError: the labels are not polygons.
    """
    if isinstance(labels, _Within):
        out = read_objects(labels.inner, window)
        out[labels.area.read(window) == UNLABELLED] = -1
        return out
    if isinstance(labels, _Filled):
        return read_objects(labels.inner, window)
    polygons = polygons_of(labels)
    numbers = np.arange(1, len(polygons.values) + 1)
    return polygons.paint(window, numbers, nothing=0).astype(np.int64)


def object_classes(labels: Labels) -> NDArray[np.int64]:
    """Return the class value of each polygon that `read_objects` numbers, (n,).

    Raises:
        LabelsError: the labels are not polygons.
    """
    return polygons_of(labels).values.astype(np.int64)


def polygons_of(labels: Labels) -> PolygonLabels:
    """Return the polygons that labels were made of.

    Raises:
        LabelsError: they were made of something else.
    """
    if isinstance(labels, (_Within, _Filled, OutlinedLabels)):
        return polygons_of(labels.inner)
    if not isinstance(labels, PolygonLabels):
        raise LabelsError(
            "objects and their boundaries need polygons, one for each object; "
            f"{labels.name} is of {labels.kind}"
        )
    return labels


# --- what lies around them ------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Filled(Labels):
    """Labels with a background class where there are none."""

    inner: Labels
    value: int

    def touches(self, window: Window) -> bool:
        return window.area > 0

    def read(self, window: Window) -> NDArray[np.uint16]:
        out = self.inner.read(window)
        out[out == UNLABELLED] = self.value
        return out


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Within(Labels):
    """Labels without those outside of an area."""

    inner: Labels
    area: PolygonLabels

    def touches(self, window: Window) -> bool:
        return self.area.touches(window) and self.inner.touches(window)

    def read(self, window: Window) -> NDArray[np.uint16]:
        out = self.inner.read(window)
        out[self.area.read(window) == UNLABELLED] = UNLABELLED
        return out


def _area(
    within: str | Path | tuple[float, float, float, float], grid: Grid
) -> PolygonLabels:
    import geopandas
    import shapely

    if isinstance(within, tuple):
        box = [shapely.box(*within)]
        frame, name = geopandas.GeoDataFrame(geometry=box, crs=grid.crs), "the area"
    else:
        file = open_features(within)
        if file is None:
            raise LabelsError(f"the area {within} is not a file of polygons")
        frame, name = read_features(file, None, grid), Path(within).name
    return area_labels(frame, name, grid)
