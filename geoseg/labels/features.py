"""Labels from points and polygons."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.classes import Class
from geoseg.core.grid import Grid, Window
from geoseg.core.label_options import Order
from geoseg.errors import LabelsError, first_line
from geoseg.labels.names import UNLABELLED, Kind, Names, text_of, with_class

if TYPE_CHECKING:
    from affine import Affine
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray
    from shapely import STRtree

_COLUMNS = (
    "class_name", "classname", "class", "class_id", "label", "landcover", "land_cover",
    "lulc", "category", "type", "name", "value",
)  # fmt: skip

_CORE = 4.0
"""Square pixels that must be left of a polygon inside its outline."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PointLabels:
    """Points on a grid; where several lie in one pixel, `read` shows the last."""

    name: str
    classes: tuple[Class, ...]
    grid: Grid
    rows: NDArray[np.int64]
    """Row of each point."""
    columns: NDArray[np.int64]
    """Column of each point."""
    values: NDArray[np.uint16]
    """Class value of each point."""
    attributes: Mapping[str, NDArray[Any]]
    """The other columns of the file, one entry per point."""

    @property
    def kind(self) -> Kind:
        """What they were made of."""
        return "points"

    def inside(self, window: Window) -> NDArray[np.intp]:
        """Return the indices of the points in a window."""
        y, x = self.rows - window.y, self.columns - window.x
        hit = (y >= 0) & (y < window.height) & (x >= 0) & (x < window.width)
        return np.flatnonzero(hit)

    def touches(self, window: Window) -> bool:
        """Whether the window holds points."""
        return self.inside(window).size > 0

    def read(self, window: Window) -> NDArray[np.uint16]:
        """Return class values, (y, x)."""
        out = np.full((window.height, window.width), UNLABELLED, np.uint16)
        hit = self.inside(window)
        out[self.rows[hit] - window.y, self.columns[hit] - window.x] = self.values[hit]
        return out


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PolygonLabels:
    """Polygons on a grid, in the order in which they are painted."""

    name: str
    classes: tuple[Class, ...]
    grid: Grid
    tree: STRtree
    values: NDArray[np.uint16]
    """Class value of each polygon of the tree."""

    @property
    def kind(self) -> Kind:
        """What they were made of."""
        return "polygons"

    def inside(self, window: Window) -> NDArray[np.intp]:
        """Return the indices of the polygons that may reach into a window."""
        import shapely

        bounds = self.grid[window].bounds
        return np.sort(np.asarray(self.tree.query(shapely.box(*bounds)), np.intp))

    def touches(self, window: Window) -> bool:
        """Whether polygons may reach into the window."""
        return self.inside(window).size > 0

    def paint(
        self, window: Window, values: NDArray[Any], *, nothing: int
    ) -> NDArray[np.uint32]:
        """Return one value per polygon as pixels, (y, x); the last painted stays."""
        from rasterio.features import rasterize

        shape = window.height, window.width
        hit = self.inside(window)
        if not hit.size:
            return np.full(shape, nothing, np.uint32)
        pairs = zip(self.tree.geometries[hit], values[hit].tolist(), strict=True)
        painted = rasterize(
            pairs,
            out_shape=shape,
            transform=self.grid[window].transform,
            fill=nothing,
            dtype="uint32",
        )
        return np.asarray(painted, np.uint32)

    def read(self, window: Window) -> NDArray[np.uint16]:
        """Return class values, (y, x)."""
        return self.paint(window, self.values, nothing=UNLABELLED).astype(np.uint16)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutlinedLabels:
    """Polygons whose pixels near their outline are a class of their own."""

    inner: PolygonLabels
    """The polygons as they are."""
    painted: PolygonLabels
    """Each of them as outline, and what is left inside painted over it."""

    @property
    def name(self) -> str:
        """Short name for messages."""
        return self.inner.name

    @property
    def kind(self) -> Kind:
        """What they were made of."""
        return "polygons"

    @property
    def classes(self) -> tuple[Class, ...]:
        """The class table, with the outline's class."""
        return self.painted.classes

    def touches(self, window: Window) -> bool:
        """Whether polygons may reach into the window."""
        return self.inner.touches(window)

    def read(self, window: Window) -> NDArray[np.uint16]:
        """Return class values, (y, x)."""
        return self.painted.read(window)


def outlined(labels: PolygonLabels, width: float, name: str) -> OutlinedLabels:
    """Return polygons with a class along their outlines, on the inner side.

    Neighbours that touch are so separated by both outlines. A polygon too narrow for an
    outline of that width gets one of half of it, or of half of that, so that none is
    lost.

    Args:
        labels: polygons.
        width: of the outlines, in pixels of the grid.
        name: of their class; added to the table where it is not in it.
    """
    import shapely

    table, value = with_class(labels.classes, name)
    to_pixels, back = ~labels.grid.transform, labels.grid.transform
    shapes = _moved(np.asarray(labels.tree.geometries), to_pixels)
    inside = np.full(len(shapes), None, object)
    for part in (width, width / 2, width / 4):
        narrow = np.array([shape is None for shape in inside], bool)
        shrunk = shapely.buffer(shapes[narrow], -part)
        inside[narrow] = np.where(shapely.area(shrunk) >= _CORE, shrunk, None)
    narrow = np.array([shape is None for shape in inside], bool)
    inside[narrow] = shapes[narrow]
    both = np.stack([shapes, inside], axis=1).ravel()
    values = np.stack([np.full_like(labels.values, value), labels.values], axis=1)
    painted = PolygonLabels(
        name=labels.name,
        classes=table,
        grid=labels.grid,
        tree=shapely.STRtree(_moved(both, back)),
        values=values.ravel(),
    )
    return OutlinedLabels(inner=labels, painted=painted)


def _moved(shapes: NDArray[np.object_], transform: Affine) -> NDArray[np.object_]:
    """Return geometries in the other coordinates of an affine transform."""
    import shapely

    a, b, c, d, e, f = tuple(transform)[:6]
    matrix, shift = np.array([[a, d], [b, e]]), np.array([c, f])
    moved = shapely.transform(shapes, lambda points: points @ matrix + shift)
    return np.asarray(moved, object)


def holds_features(path: str | Path) -> bool:
    """Whether OGR finds layers of features in a file."""
    import pyogrio

    try:
        return len(pyogrio.list_layers(path)) > 0
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError):
        return False


def read_features(path: str | Path, layer: str | None, grid: Grid) -> GeoDataFrame:
    """Return all features in the grid's CRS."""
    import pyogrio

    try:
        layer = layer or _only_layer(path)
        frame = pyogrio.read_dataframe(path, layer=layer)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as e:
        raise LabelsError(f"the labels {path} cannot be read: {first_line(e)}") from e
    if not hasattr(frame, "geometry") or not len(frame):
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
        raise LabelsError(f"the labels {path} do not say their CRS: assign one to them")
    return frame.to_crs(grid.crs)


def _only_layer(path: str | Path) -> str | None:
    import pyogrio

    named = [name for name, geometry in pyogrio.list_layers(path) if geometry]
    if len(named) > 1:
        raise LabelsError(f"{path} has layers {', '.join(named)}: name one")
    return str(named[0]) if named else None


def feature_labels(
    frame: GeoDataFrame,
    path: str | Path,
    grid: Grid,
    names: Names,
    column: str | None,
    constant: str | None,
    order: Order,
) -> PointLabels | PolygonLabels:
    """Return features in the grid's CRS as labels.

    Raises:
        LabelsError: no class column, neither points nor polygons, or no overlap.
    """
    frame, raw = _classed(frame, path, column, constant)
    values_of, table = names.resolve(dict.fromkeys(raw))
    values = np.array([values_of[r] for r in raw], np.uint16)
    kept = values != UNLABELLED
    frame, values = frame[kept], values[kept]
    shapes = set(frame.geometry.geom_type)
    make = _POINTS_OR_POLYGONS.get(frozenset(s.removeprefix("Multi") for s in shapes))
    if make is None:
        raise LabelsError(
            f"labels must be all points or all polygons; {path} holds "
            f"{', '.join(sorted(shapes)) or 'none with a class'}"
        )
    check_overlap(frame, path, grid)
    return make(frame, path, grid, values, table, order)


def _classed(
    frame: GeoDataFrame, path: str | Path, column: str | None, constant: str | None
) -> tuple[GeoDataFrame, list[Any]]:
    """Return the features that have a class, and what it is called."""
    if constant is not None:
        return frame, [constant] * len(frame)
    column = _class_column(frame, path, column)
    text = frame[column].map(text_of, na_action="ignore")
    kept = (text.notna() & (text != "")).to_numpy(bool)
    if not kept.any():
        raise LabelsError(f"column {column!r} of {path} is empty in every feature")
    return frame[kept], frame.loc[kept, column].tolist()


def _class_column(frame: GeoDataFrame, path: str | Path, column: str | None) -> str:
    columns = [c for c in frame.columns if c != frame.geometry.name]
    if column is not None:
        if column not in columns:
            raise LabelsError(
                f"{path} has no column {column!r}; it has "
                f"{', '.join(columns) or 'none'}"
            )
        return column
    by_lower = {c.lower(): c for c in reversed(columns)}
    for usual in _COLUMNS:
        if usual in by_lower:
            return str(by_lower[usual])
    if len(columns) == 1:
        return str(columns[0])
    raise LabelsError(
        f"which column of {path} holds the class? Name one of "
        f"{', '.join(columns) or '(it has none)'}, or one class for all features"
    )


def check_overlap(frame: GeoDataFrame, path: str | Path, grid: Grid) -> None:
    """Raise where no feature can lie on the grid."""
    left, bottom, right, top = grid.bounds
    x0, y0, x1, y1 = frame.total_bounds
    if not (x0 <= right and x1 >= left and y0 <= top and y1 >= bottom):
        raise LabelsError(
            f"none of the {len(frame)} labels of {path} lies on the raster: they span "
            f"x {x0:g} … {x1:g}, y {y0:g} … {y1:g}, the raster x {left:g} … {right:g}, "
            f"y {bottom:g} … {top:g} in its CRS"
        )


def point_labels(
    frame: GeoDataFrame,
    path: str | Path,
    grid: Grid,
    values: NDArray[np.uint16],
    table: tuple[Class, ...],
    order: Order,
) -> PointLabels:
    """Return points as labels: those on the grid."""
    parts = frame.reset_index(drop=True).explode(index_parts=False)
    if order == "first":
        parts = parts.iloc[::-1]
    x, y = parts.geometry.x.to_numpy(), parts.geometry.y.to_numpy()
    back = ~grid.transform
    with np.errstate(invalid="ignore"):
        columns = np.floor(back.a * x + back.b * y + back.c)
        rows = np.floor(back.d * x + back.e * y + back.f)
    on = (rows >= 0) & (rows < grid.height) & (columns >= 0) & (columns < grid.width)
    if not on.any():
        raise LabelsError(f"none of the {len(parts)} points of {path} is on the raster")
    rest = parts.drop(columns=parts.geometry.name)[on]
    return PointLabels(
        name=Path(path).name,
        classes=table,
        grid=grid,
        rows=rows[on].astype(np.int64),
        columns=columns[on].astype(np.int64),
        values=values[parts.index.to_numpy()[on]],
        attributes={str(c): rest[c].to_numpy() for c in rest.columns},
    )


def polygon_labels(
    frame: GeoDataFrame,
    path: str | Path,
    grid: Grid,
    values: NDArray[np.uint16],
    table: tuple[Class, ...],
    order: Order,
) -> PolygonLabels:
    """Return polygons as labels, in the order in which they are painted."""
    import shapely

    geometries = shapely.make_valid(frame.geometry.to_numpy())
    painted = np.arange(len(geometries))
    if order == "first":
        painted = painted[::-1]
    elif order == "smallest":
        painted = np.argsort(-shapely.area(geometries), kind="stable")
    return PolygonLabels(
        name=Path(path).name,
        classes=table,
        grid=grid,
        tree=shapely.STRtree(geometries[painted]),
        values=values[painted],
    )


_POINTS_OR_POLYGONS: Mapping[
    frozenset[str], Callable[..., PointLabels | PolygonLabels]
] = {
    frozenset({"Point"}): point_labels,
    frozenset({"Polygon"}): polygon_labels,
}
