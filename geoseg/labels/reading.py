"""From a file of points or polygons to labels: classes, and what may be lost."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.classes import Class
from geoseg.core.grid import Grid
from geoseg.core.label_options import Order
from geoseg.core.text import counted, did_you_mean, redact
from geoseg.errors import LabelsError
from geoseg.labels.domains import coded_names
from geoseg.labels.features import PointLabels, PolygonLabels, moved
from geoseg.labels.names import (
    UNLABELLED,
    Names,
    Pairing,
    class_text,
)
from geoseg.rasters.shapes import areas_of, drawn_for, into_pixels, turned_near
from geoseg.rasters.vectors import VectorFile, open_vectors

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray

_COLUMNS = (
    "class_name", "classname", "class", "class_id", "label", "landcover", "land_cover",
    "lulc", "category", "type", "name", "value",
)  # fmt: skip

AREA = Class(value=1, name="area", color="#000000")
"""The only class of an area, by its value."""
_QUESTIONED = 4
_REFUSED = 20  # features that each are a class of their own
_DEGREES = 540.0  # the Earth, and half of it again, as beyond the antimeridian
_PAIRED = 20_000  # polygons that are looked at for overlaps
_FEW = 64  # pixel centres in a polygon's box that are tried one by one


def open_features(path: str | Path) -> VectorFile | None:
    """Return a file of points or polygons, or None where there are none in it.

    Raises:
        LabelsError: It names other sources, or is of a format that is not opened.
    """
    return open_vectors(path, "the labels", LabelsError)


def read_features(file: VectorFile, layer: str | None, grid: Grid) -> GeoDataFrame:
    """Return all features in the grid's CRS, their edges where they were drawn."""
    path = redact(file.path)
    frame = file.read(file.only_layer(layer))
    if "geometry" not in frame or not len(frame):
        raise LabelsError(f"the labels {path} hold no features with geometries")
    empty = np.flatnonzero(frame.geometry.isna() | frame.geometry.is_empty)
    if empty.size:
        raise LabelsError(
            f"{empty.size} of {len(frame)} features of {path} have an empty geometry "
            f"(the first is feature {empty[0]}): delete them"
        )
    if grid.crs is None:
        return frame
    if frame.crs is None:
        raise LabelsError(
            f"the labels {path} have no CRS: assign one, as with ogr2ogr -a_srs"
        )
    return _reprojected(frame, grid)


def _reprojected(frame: GeoDataFrame, grid: Grid) -> GeoDataFrame:
    from pyproj import CRS

    crs = CRS.from_user_input(grid.crs)
    if frame.crs == crs:
        near = turned_near(grid, frame.geometry.to_numpy(), crs.to_wkt())
        return frame.set_geometry(near, crs=frame.crs).set_crs(crs, allow_override=True)
    most = np.abs(frame.total_bounds).max()
    if frame.crs.is_geographic and most > _DEGREES:
        raise LabelsError(
            f"coordinates of the labels are as large as {most:g}, which are no degrees "
            f"as in {frame.crs.name} (what GeoJSON is in that names no other): say "
            "which CRS they are in with ogr2ogr -a_srs"
        )
    crs_drawn = frame.crs.to_wkt()
    to_pixels = into_pixels(grid, crs_drawn, "the labels")
    drawn = drawn_for(grid, frame.geometry.to_numpy(), crs_drawn, to_pixels)
    return frame.set_geometry(drawn, crs=frame.crs).to_crs(crs)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Classed:
    """Features that have a class, in the grid's CRS."""

    name: str
    frame: GeoDataFrame
    unlabelled: GeoDataFrame
    values: NDArray[np.uint16]
    """Class value of each feature."""
    pairing: Pairing
    grid: Grid
    order: Order
    notes: tuple[str, ...]


def feature_labels(
    frame: GeoDataFrame,
    path: str | Path,
    grid: Grid,
    names: Names,
    column: str | None,
    constant: str | None,
    order: Order,
    *,
    layer: str | None = None,
) -> PointLabels | PolygonLabels:
    """Return features in the grid's CRS as labels.

    Raises:
        LabelsError: no class column, neither points nor polygons, or no overlap.
    """
    notes: tuple[str, ...] = ()
    legend: dict[Hashable, str] = {}
    frame = _areas_of_collections(frame)
    labelled = np.ones(len(frame), np.bool_)
    raw = [constant] * len(frame)
    if constant is None:
        named = _class_column(frame, path, column)
        if column is None:
            notes = (f"the classes of {Path(path).name} are in its column {named!r}",)
        if frame[named].dtype.kind == "f":
            _refuse_fractions(frame[named].to_numpy(), named, path)
        text = frame[named].map(class_text, na_action="ignore")
        labelled = (text.notna() & (text != "")).to_numpy(bool)
        if not labelled.any():
            raise LabelsError(f"column {named!r} of {path} is empty in every feature")
        _question(text[labelled], named, path, chosen=column is not None)
        raw = frame.loc[labelled, named].tolist()
        if not all(isinstance(each, Hashable) for each in raw):
            raise LabelsError(
                f"column {named!r} of {path} holds lists: one class per feature is "
                "needed"
            )
        coded = coded_names(str(path), named, layer)
        legend = {r: coded[code] for r in raw if (code := class_text(r)) in coded}
        if legend:
            notes += (f"classes of {Path(path).name} have the names of its domain",)
    pairing = names.paired(dict.fromkeys(raw), legend)
    values = np.array([pairing.values[r] for r in raw], np.uint16)
    kept = values != UNLABELLED
    classed = _Classed(
        name=Path(path).name,
        frame=frame[labelled][kept],
        unlabelled=frame[~labelled],
        values=values[kept],
        pairing=pairing,
        grid=grid,
        order=order,
        notes=(*notes, *pairing.notes(Path(path).name)),
    )
    shapes = set(classed.frame.geometry.geom_type)
    kinds = {s.removeprefix("Multi") for s in shapes}
    if kinds not in ({"Point"}, {"Polygon"}):
        raise LabelsError(
            f"labels must be all points or all polygons; {path} holds "
            f"{', '.join(sorted(shapes)) or 'none with a class'}"
            f"{'; draw lines as areas first (a buffer)' * ('LineString' in kinds)}"
        )
    check_overlap(classed.frame, path, grid)
    return _points(classed) if kinds == {"Point"} else _polygons(classed)


def _areas_of_collections(frame: GeoDataFrame) -> GeoDataFrame:
    """Return features whose collections, as of an intersection, are their areas."""
    import shapely

    shapes = frame.geometry.to_numpy().copy()
    mixed = (shapely.get_type_id(shapes) == 7) & (shapely.area(shapes) > 0)
    if not mixed.any():
        return frame
    shapes[mixed] = areas_of(shapes[mixed])
    return frame.set_geometry(shapes, crs=frame.crs)


def _class_column(frame: GeoDataFrame, path: str | Path, column: str | None) -> str:
    columns = [str(c) for c in frame.columns if c != frame.geometry.name]
    if column is not None:
        if column not in columns:
            raise LabelsError(
                f"{path} has no column {column!r}; it has "
                f"{', '.join(columns) or 'none'}{did_you_mean(column, columns)}"
            )
        return column
    by_lower = {c.lower(): c for c in reversed(columns)}
    for usual in _COLUMNS:
        if usual in by_lower:
            return by_lower[usual]
    if len(columns) == 1:
        return columns[0]
    raise LabelsError(
        f"which column of {path} holds the class? Name one with --column "
        f"({', '.join(columns) or 'it has none'}), or one class for all features with "
        "--constant, and what lies between them with --background"
    )


def _refuse_fractions(values: NDArray[Any], column: str, path: str | Path) -> None:
    fractions = values[np.isfinite(values) & (values != np.floor(values))]
    if fractions.size:
        raise LabelsError(
            f"column {column!r} of {path} holds fractions such as {fractions[0]:g}, "
            "which are no classes: name the column with the class (--column)"
        )


def _question(text: Any, column: str, path: str | Path, *, chosen: bool) -> None:  # noqa: ANN401 - a Series
    """Doubt a column in which every feature is a class of its own.

    Raises:
        LabelsError: There are many, and the column was not named.
    """
    if len(text) < _QUESTIONED or text.nunique() < len(text):
        return
    doubt = (
        f"in column {column!r} of {path} each of the {len(text)} features is a class "
        "of its own: if these are names or numbers of features, name the column with "
        "the class (--column), or one class for all (--constant)"
    )
    if len(text) >= _REFUSED and not chosen:
        raise LabelsError(doubt)
    warnings.warn(doubt, stacklevel=2)


def check_overlap(frame: GeoDataFrame, path: str | Path, grid: Grid) -> None:
    """Raise where no feature can lie on the grid."""
    left, bottom, right, top = grid.bounds
    x0, y0, x1, y1 = frame.total_bounds
    if not (x0 <= right and x1 >= left and y0 <= top and y1 >= bottom):
        raise LabelsError(
            f"no label of {path} lies on the raster: {counted(len(frame), 'feature')}, "
            f"which span x {x0:g} … {x1:g}, y {y0:g} … {y1:g}, the raster x "
            f"{left:g} … {right:g}, y {bottom:g} … {top:g} in its CRS"
            f"{_turned(frame, grid)}"
        )


def _turned(frame: GeoDataFrame, grid: Grid) -> str:
    """Return a hint where features would lie on the grid with x and y swapped."""
    import geopandas
    import shapely
    from pyproj import CRS

    if frame.crs is None or grid.crs is None:
        return ""
    degrees = CRS.from_user_input(grid.crs).geodetic_crs
    shapes = frame.to_crs(degrees).geometry.to_numpy()
    swapped = shapely.transform(shapes, lambda points: points[:, ::-1])
    there = geopandas.GeoSeries(swapped, crs=degrees).to_crs(frame.crs).total_bounds
    on = shapely.box(*grid.bounds).intersects(shapely.box(*there))
    return "; with x and y swapped they would: ogr2ogr -swap_xy" if on else ""


def _points(classed: _Classed) -> PointLabels:
    """Return points as labels: those on the grid."""
    grid = classed.grid
    parts = classed.frame.reset_index(drop=True).explode(index_parts=False)
    if classed.order == "first":
        parts = parts.iloc[::-1]
    with np.errstate(invalid="ignore"):
        columns, rows = np.floor(
            ~grid.transform @ (parts.geometry.x.to_numpy(), parts.geometry.y.to_numpy())
        )
    on = (rows >= 0) & (rows < grid.height) & (columns >= 0) & (columns < grid.width)
    if not on.any():
        raise LabelsError(
            f"no point of {classed.name} is on the raster "
            f"({counted(len(parts), 'point')} in all)"
        )
    return PointLabels(
        name=classed.name,
        classes=classed.pairing.classes,
        grid=grid,
        rows=rows[on].astype(np.int64),
        columns=columns[on].astype(np.int64),
        values=classed.values[parts.index.to_numpy()[on]],
        attributes=_attributes(parts[on]),
        unlabelled=_attributes(classed.unlabelled),
        pairing=classed.pairing,
        notes=classed.notes,
    )


def _attributes(frame: GeoDataFrame) -> dict[str, NDArray[Any]]:
    rest = frame.drop(columns=frame.geometry.name)
    return {str(c): rest[c].to_numpy() for c in rest.columns}


def _polygons(classed: _Classed) -> PolygonLabels:
    """Return polygons as labels, in the order in which they are painted."""
    import shapely

    geometries = areas_of(classed.frame.geometry.to_numpy())
    painted = np.arange(len(geometries))
    if classed.order == "first":
        painted = painted[::-1]
    elif classed.order == "smallest":
        painted = np.argsort(-shapely.area(geometries), kind="stable")
    lost = (*_lost(classed, geometries), *_overlaps(classed, geometries))
    return PolygonLabels(
        name=classed.name,
        classes=classed.pairing.classes,
        grid=classed.grid,
        tree=shapely.STRtree(geometries[painted]),
        values=classed.values[painted],
        pairing=classed.pairing,
        notes=(*classed.notes, *lost),
    )


def _lost(classed: _Classed, geometries: NDArray[np.object_]) -> Iterator[str]:
    """Say which polygons hold no pixel centre, and warn of classes lost by that.

    Only polygons with few pixel centres in their box are tried.
    """
    import shapely

    pixels = moved(geometries, ~classed.grid.transform)
    x0, y0, x1, y1 = np.nan_to_num(shapely.bounds(pixels)).T
    left, top = np.ceil(x0 - 0.5), np.ceil(y0 - 0.5)
    wide = np.maximum(np.floor(x1 - 0.5) - left + 1, 0)
    high = np.maximum(np.floor(y1 - 0.5) - top + 1, 0)
    lost = (wide * high == 0) | (shapely.area(geometries) == 0)
    lost &= ~classed.frame.geometry.is_empty.to_numpy()  # far from the raster
    for i in np.flatnonzero(~lost & (wide * high <= _FEW)):
        x = left[i] + 0.5 + np.arange(wide[i])
        y = top[i] + 0.5 + np.arange(high[i])
        lost[i] = not shapely.contains_xy(pixels[i], *np.meshgrid(x, y)).any()
    if not lost.any():
        return
    names = {c.value: c.name for c in classed.pairing.classes}
    counts = {
        names[int(v)]: (int(lost[classed.values == v].sum()), int(n))
        for v, n in zip(*np.unique(classed.values, return_counts=True), strict=True)
    }
    told = [f"{name} {k} of {n}" for name, (k, n) in counts.items() if k]
    yield (
        f"polygons of {classed.name} that hold no centre of a pixel label nothing: "
        f"{', '.join(told)}"
    )
    gone = [name for name, (k, n) in counts.items() if k == n]
    if gone:
        warnings.warn(
            f"no polygon of class {', '.join(gone)} in {classed.name} holds the centre "
            "of a pixel, so that it has no labels at all: use a finer raster, or "
            "larger polygons",
            stacklevel=2,
        )


def _overlaps(classed: _Classed, geometries: NDArray[np.object_]) -> Iterator[str]:
    """Say how many polygons of several classes share a pixel and more, and who wins."""
    import shapely

    shapes, values = geometries[:_PAIRED], classed.values[:_PAIRED]
    one, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    apart = (one < other) & (values[one] != values[other])
    one, other = one[apart], other[apart]
    shared = shapely.area(shapely.intersection(shapes[one], shapes[other]))
    count = int((shared >= abs(classed.grid.transform.determinant)).sum())
    if count:
        wins = {"last": "the last of the file", "first": "the first of the file"}
        yield (
            f"{counted(count, 'pair')} of polygons of {classed.name} overlap and are "
            f"of different classes: {wins.get(classed.order, 'the smallest')} counts "
            "(--order)"
        )


def area_labels(frame: GeoDataFrame, name: str, grid: Grid) -> PolygonLabels:
    """Return polygons as an area: all of one class.

    Raises:
        LabelsError: None of them can lie on the grid.
    """
    check_overlap(frame, name, grid)
    return _polygons(
        _Classed(
            name=name,
            frame=frame,
            unlabelled=frame[:0],
            values=np.ones(len(frame), np.uint16),
            pairing=Pairing(values={}, classes=(AREA,)),
            grid=grid,
            order="last",
            notes=(),
        )
    )
