"""Rows of regions with squared footprints, none of which ever overlap.

A footprint may cover its own pixels, and free ones that lie nearer to it than to
any other, within a few pixels. This ground is the same whoever asks, so that footprints
can be drawn one by one, in any order, on any worker, and stay apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.polynomial import polynomial

from geoseg.core.grid import Window
from geoseg.errors import RegionsError
from geoseg.rasters.vectors import open_vectors
from geoseg.vector.regularize import iou, square
from geoseg.vector.rings import HEADER, Polygons, header
from geoseg.vector.table import Field, Rows

if TYPE_CHECKING:
    from pathlib import Path

    from affine import Affine
    from distributed import Client
    from numpy.typing import NDArray
    from shapely import Polygon
    from shapely.geometry.base import BaseGeometry

    from geoseg.maps.reader import ClassReader
    from geoseg.vector.topology import Drawing

FIELDS = (
    Field(name="pixel_iou", kind="real"),
    Field(name="squared", kind="integer"),
)
"""What squared rows have besides: intersection over union with their pixels, and 1
where all of the footprint is squared, else 0."""
_REACH = 6
"""How far from its pixels a footprint may lie, in pixels."""
_PAD = 2 * _REACH + 2  # so that what is nearer to another is seen, see `_beside`
_LARGEST = 4096  # pixels: what is longer or wider is no building, and stays as it is
_SLICE = 100  # rows that are one task
_TILES = 16  # that are kept, of up to _SIDE² bytes
_SIDE = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Squaring:
    """How rows are squared."""

    reader: ClassReader
    """Tells whose each pixel is."""
    drawing: Drawing
    """Where pixels are, and how long in metres."""
    written: tuple[int, ...] | None
    """Values that regions have; None where each value but nodata is an object."""
    min_iou: float
    """What a footprint must share with its pixels."""

    def rows(self, rows: Iterator[Rows], client: Client | None) -> Iterator[Rows]:
        """Yield rows squared, in their order; on the client's workers, or here."""
        for some in rows:
            starts = range(0, len(some), _SLICE)
            slices = [
                some.take(np.arange(i, min(i + _SLICE, len(some)))) for i in starts
            ]
            if client is None:
                yield from map(self.squared, slices)
            else:
                from geoseg.execution.engine import ordered

                yield from ordered(self.squared, slices, client=client)

    def squared(self, rows: Rows) -> Rows:
        """Return rows whose polygons are squared, and measured again."""
        import shapely

        taken = lru_cache(_TILES)(self._taken)
        shapes = shapely.from_wkb(list(rows.blobs(HEADER)))
        found = [self._footprint(shape, taken) for shape in shapes]
        polygons = _packed(found, self.drawing.srs, multi=self.drawing.eight)
        columns = {
            **rows.columns,
            "area_m2": polygons.area,
            "perimeter_m": polygons.perimeter,
            "pixel_iou": np.array([each.iou for each in found]),
            "squared": np.array([each.is_square for each in found], np.int64),
        }
        return Rows(polygons=polygons, columns=columns)

    def _footprint(self, shape: BaseGeometry, taken: Tiles) -> _Footprint:
        """Square all parts of an object, each on ground of its own."""
        import shapely

        plane = _Plane.around(shape, self.drawing)
        outline = plane.flattened(shape)
        drawn, is_square = outline, False
        if max(plane.box.height, plane.box.width) <= _LARGEST:
            ground = self._ground(plane.box, taken)
            done = [
                square(part, plane.pixel, plane.beside(part, ground), self.min_iou)
                for part in shapely.get_parts(outline)
            ]
            is_square = all(each.is_square for each in done)
            drawn = done[0].polygon
            if len(done) > 1:
                drawn = shapely.union_all([each.polygon for each in done])
        return _Footprint(
            shape=shapely.orient_polygons(plane.raised(drawn)),
            area=drawn.area,
            perimeter=drawn.length,
            iou=iou(drawn, outline),
            is_square=is_square,
        )

    def _taken(self, row: int, col: int) -> NDArray[np.bool_]:
        """Return which pixels of a tile are someone's."""
        window = _tile(row, col, self._side).intersection(self.drawing.grid.window)
        assert window is not None, "tiles lie on the raster"
        values = self.reader.read("classes", window)
        if self.written is None:
            return np.asarray(values != self.reader.nodata)
        return np.isin(values, self.written)

    @property
    def _side(self) -> int:
        """Side of a tile: what is read at once anyway, or not too much."""
        chunk = self.reader.chunk
        return chunk if _SIDE // 8 <= chunk <= _SIDE else _SIDE // 2

    def _ground(self, box: Window, taken: Tiles) -> NDArray[np.bool_]:
        """Return which pixels of a box are someone's; none outside the raster."""
        inside, side = box.intersection(self.drawing.grid.window), self._side
        assert inside is not None, "objects lie on the raster"
        out = np.zeros((box.height, box.width), bool)
        for row in range(inside.y // side, -(-inside.bottom // side)):
            for col in range(inside.x // side, -(-inside.right // side)):
                tile = _tile(row, col, side)
                part = cast("Window", tile.intersection(inside))
                here = taken(row, col)[part.relative_to(tile).slices]
                out[part.relative_to(box).slices] = here
        return out


Tiles = Callable[[int, int], "NDArray[np.bool_]"]
"""From row and column of a tile to which of its pixels are someone's."""


def _tile(row: int, col: int, side: int) -> Window:
    return Window(y=row * side, x=col * side, height=side, width=side)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Footprint:
    """What becomes of an object."""

    shape: BaseGeometry
    """On the map."""
    area: float
    """In true m²."""
    perimeter: float
    """In metres."""
    iou: float
    """Intersection over union with its pixels."""
    is_square: bool
    """Whether all of it is squared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plane:
    """A plane in metres around an object, its origin at the corner of a box."""

    box: Window
    """The object's box, with what must be seen around it."""
    metres: NDArray[np.float64]
    """From (column, row) to metres: (column, row) @ metres."""
    transform: Affine
    """From pixels to the map."""

    @staticmethod
    def around(shape: BaseGeometry, drawing: Drawing) -> _Plane:
        """Return the plane of an object on the map."""
        transform, m = drawing.grid.transform, drawing.measure
        x0, y0, x1, y1 = shape.bounds
        columns, rows = ~transform @ (
            np.array([x0, x1, x0, x1]),
            np.array([y0, y1, y1, y0]),
        )
        x, y = round(columns.min()) - _PAD, round(rows.min()) - _PAD
        width, height = (round(np.ptp(p)) + 2 * _PAD for p in (columns, rows))
        v = (y + height / 2 - m.half_y) / m.half_y
        u = (x + width / 2 - m.half_x) / m.half_x
        east, skew, density = (
            float(polynomial.polyval2d(v, u, table))
            for table in (m.east, m.skew, m.density)
        )
        return _Plane(
            box=Window(y=y, x=x, height=height, width=width),
            metres=np.array([[east, 0], [skew / east, density / east]]),
            transform=transform,
        )

    @property
    def pixel(self) -> float:
        """Side of a square as large as a pixel."""
        return float(np.sqrt(np.linalg.det(self.metres)))

    def flattened(self, shape: BaseGeometry) -> BaseGeometry:
        """Return an outline on the map along pixel edges, on the plane."""
        import shapely

        def place(xy: NDArray[np.float64]) -> NDArray[np.float64]:
            pixels = np.stack(~self.transform @ (xy[:, 0], xy[:, 1]), 1)
            return np.asarray(
                (np.rint(pixels) - (self.box.x, self.box.y)) @ self.metres
            )

        return shapely.transform(shape, place)

    def raised(self, shape: BaseGeometry) -> BaseGeometry:
        """Return a shape on the plane, on the map."""
        import shapely

        back = np.linalg.inv(self.metres)

        def place(xy: NDArray[np.float64]) -> NDArray[np.float64]:
            x, y = (xy @ back + (self.box.x, self.box.y)).T
            return np.stack(self.transform @ (x, y), 1)

        return shapely.transform(shape, place)

    def beside(self, outline: Polygon, taken: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the pixels (n, 4, 2) around the ground that a footprint may cover.

        Nobody gets any further without meeting one of them.

        Args:
            outline: Its outline on the plane.
            taken: (y, x) which pixels of the box are someone's.
        """
        import shapely
        from affine import Affine
        from rasterio.features import rasterize
        from scipy.ndimage import binary_dilation, distance_transform_edt

        back = np.linalg.inv(self.metres)
        # One pixel aside: rasterio warns of an identity, and in threads at any time.
        on_pixels = shapely.transform(outline, lambda xy: np.rint(xy @ back) + 1)
        aside = Affine.translation(1, 1)
        own = rasterize(
            [on_pixels], taken.shape, transform=aside, dtype="uint8"
        ).astype(bool)
        far = distance_transform_edt(~own)
        free = far <= _REACH
        others = taken & ~own
        if others.any():
            free &= far < distance_transform_edt(~others)
        y, x = np.nonzero(binary_dilation(free, np.ones((3, 3), bool)) & ~free)
        corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
        return np.asarray((np.stack([x, y], 1)[:, None] + corners) @ self.metres)


def _packed(found: list[_Footprint], srs: int, *, multi: bool) -> Polygons:
    """Return footprints as bytes: GeoPackage header, then ISO WKB."""
    import shapely

    shapes: Any = np.array([each.shape for each in found], object)
    if multi:
        parts, of = shapely.get_parts(shapes, return_index=True)
        shapes = shapely.multipolygons(parts, indices=of)
    box = shapely.bounds(shapes).reshape(-1, 4)
    head = header(srs).tobytes()
    blobs = [
        head + edges[[0, 2, 1, 3]].tobytes() + wkb
        for edges, wkb in zip(
            box, shapely.to_wkb(shapes, byte_order=1, flavor="iso"), strict=True
        )
    ]
    return Polygons(
        np.frombuffer(b"".join(blobs), np.uint8),
        np.append(0, np.cumsum([len(blob) for blob in blobs])),
        box,
        np.array([each.area for each in found]),
        np.array([each.perimeter for each in found]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FootprintSummary:
    """How a whole layer went."""

    count: int
    """Footprints."""
    squared: int
    """Those that are squared."""
    mean_iou: float | None
    """Mean of what they share with their pixels."""
    least_iou: float | None
    """The least of it."""

    def __str__(self) -> str:
        if self.mean_iou is None:
            return "no footprints"
        return (
            f"{self.squared:,} of {self.count:,} footprints squared; IoU with their "
            f"pixels {self.mean_iou:.3f} on average, {self.least_iou:.3f} at least"
        )


def summarize(path: Path) -> FootprintSummary:
    """Say how the footprints of a file went."""
    names = [field.name for field in FIELDS]
    if path.suffix.lower() == ".parquet":
        import pandas as pd

        table = pd.read_parquet(path, columns=names)
    else:
        file = open_vectors(path, "the footprints", RegionsError)
        assert file is not None, "it was written just now"
        table = file.read(file.only_layer(), columns=names, read_geometry=False)
    kept, squared = (table[name].to_numpy() for name in names)
    return FootprintSummary(
        count=len(kept),
        squared=int(squared.sum()),
        mean_iou=float(kept.mean()) if len(kept) else None,
        least_iou=float(kept.min()) if len(kept) else None,
    )
