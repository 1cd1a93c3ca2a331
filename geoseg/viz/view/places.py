"""Where a point of the map is, and which point a place is: for the cursor and go-to."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from geoseg.errors import GeosegError
from geoseg.viz.picture import lon_lat

if TYPE_CHECKING:
    from geoseg.core.grid import Grid

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


def place(grid: Grid, row: float, column: float) -> dict[str, Any]:
    """Return where a point is: in the map's CRS, and in longitude and latitude."""
    x, y = grid.transform @ (column, row)
    lon, lat = lon_lat(grid, row, column) or (None, None)
    return {"x": x, "y": y, "lon": lon, "lat": lat}


def row_column(grid: Grid, text: str) -> tuple[float, float]:
    """Return the row and column of a place as people write it.

    Args:
        grid: Of the map.
        text: `lat, lon` in degrees, or `x, y` in the map's CRS where they are no
            degrees or the map has none.

    Raises:
        GeosegError: It is no place, or lies outside the map.
    """
    found = [float(number) for number in _NUMBER.findall(text)]
    if len(found) != 2:
        raise GeosegError(
            "write a place as latitude, longitude in degrees, such as 49.13, 15.15, or "
            "as x, y"
        )
    x, y = found
    if grid.crs is not None and abs(x) <= 90 and abs(y) <= 180:
        from pyproj import Transformer

        there = Transformer.from_crs("EPSG:4326", grid.crs, always_xy=True)
        x, y = there.transform(found[1], found[0])
    if not (math.isfinite(x) and math.isfinite(y)):
        raise GeosegError(f"{text.strip()} has no place in the map's CRS")
    column, row = ~grid.transform @ (x, y)
    if not (0 <= row <= grid.height and 0 <= column <= grid.width):
        raise GeosegError(f"{text.strip()} lies outside the map")
    return row, column
