"""Geometries of a vector file, brought into pixels of a grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.grid import Grid
from geoseg.core.text import redact
from geoseg.errors import RasterError
from geoseg.rasters.gdal import squeezed

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shapes:
    """Features of a vector file."""

    geometries: NDArray[np.object_]
    """(feature,) shapely geometries, in the file's CRS; features without one are left
    out."""
    crs: str | None
    """The file's CRS, where it says."""
    columns: Mapping[str, NDArray[Any]]
    """Attributes, (feature,) each."""


def read_shapes(file: str, what: str, *, columns: bool = False) -> Shapes:
    """Read the features of a vector file.

    A layer is named as in QGIS: `FILE.gpkg|layername=NAME`.

    Args:
        file: The file, or a URL.
        what: What it is to the user, for messages: `the area of interest`.
        columns: Whether attributes are read too.

    Raises:
        RasterError: It cannot be read, or has several layers and none is named.
    """
    import pyogrio.raw
    import shapely
    from pyogrio.errors import DataLayerError, DataSourceError, GeometryError

    path, _, layer = file.partition("|layername=")
    try:
        layers = [str(name) for name, _ in pyogrio.list_layers(path)]
        if not layer and len(layers) > 1:
            raise RasterError(
                f"{redact(path)} has layers {', '.join(layers[:10])}: say which, as in "
                f"'{redact(path)}|layername={layers[0]}'"
            )
        meta, _, wkb, fields = pyogrio.raw.read(
            path, layer=layer or None, columns=None if columns else []
        )
    except (DataSourceError, DataLayerError, GeometryError) as error:
        raise RasterError(
            f"cannot read {what} {redact(file)}: {squeezed(error, path)}"
        ) from error
    there = np.array([g is not None for g in wkb], bool)
    names = meta["fields"] if columns else ()
    return Shapes(
        geometries=np.asarray(shapely.from_wkb(wkb[there])),
        crs=meta["crs"],
        columns={str(n): f[there] for n, f in zip(names, fields or (), strict=False)},
    )


def in_pixels(shapes: Shapes, grid: Grid, file: str) -> NDArray[np.object_]:
    """Return geometries in pixels of a grid: x is the column, y the row.

    Their vertices are brought into the raster's CRS. A file or a raster that does not
    say its CRS is taken to be in the other's.

    Raises:
        RasterError: The two CRSs do not go together.
    """
    import shapely

    moved = shapely.transform(
        shapes.geometries, _into_pixels(grid, shapes.crs, file), interleaved=False
    )
    if not np.isfinite(shapely.get_coordinates(moved)).all():
        raise RasterError(f"{redact(file)} cannot be brought into the raster's CRS")
    return np.asarray(moved)


def _into_pixels(grid: Grid, crs: str | None, file: str) -> Any:  # noqa: ANN401 - a function of two arrays
    """Return what brings (x, y) in the file's CRS to (column, row) of the grid."""
    from pyproj import Transformer
    from pyproj.exceptions import ProjError

    inverse = ~grid.transform
    try:
        transformer = (
            Transformer.from_crs(crs, grid.crs, always_xy=True)
            if crs is not None and grid.crs is not None
            else None
        )
    except ProjError as error:
        raise RasterError(
            f"{redact(file)} cannot be brought into the raster's CRS: {squeezed(error)}"
        ) from error

    def to_pixels(
        x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if transformer is not None:
            x, y = transformer.transform(x, y)
        return (
            inverse.a * x + inverse.b * y + inverse.c,
            inverse.d * x + inverse.e * y + inverse.f,
        )

    return to_pixels
