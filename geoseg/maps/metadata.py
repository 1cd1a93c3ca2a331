"""Attributes that put a masks store in the right place, for every reader we know of.

CF grid mapping (xarray, rioxarray, GDAL 3.9+), `_CRS` (older GDAL), GeoZarr `proj:` and
`spatial:` (newer readers), CF flags and a plain class table (names and colours).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from affine import Affine

from geoseg.core.classes import Class
from geoseg.core.grid import Grid
from geoseg.errors import first_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONVENTIONS = [
    {
        "schema_url": "https://raw.githubusercontent.com/zarr-conventions/spatial/refs/tags/v1/schema.json",
        "spec_url": "https://github.com/zarr-conventions/spatial/blob/v1/README.md",
        "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
        "name": "spatial",
        "description": "Spatial coordinate information",
    },
    {
        "schema_url": "https://raw.githubusercontent.com/zarr-conventions/geo-proj/refs/tags/v1/schema.json",
        "spec_url": "https://github.com/zarr-conventions/geo-proj/blob/v1/README.md",
        "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "name": "proj",
        "description": "Coordinate reference system information for geospatial data",
    },
]


def group_attributes(grid: Grid, classes: Sequence[Class]) -> dict[str, Any]:
    """Return the group's attributes: where it is and what its values mean."""
    left, bottom, right, top = grid.bounds
    attributes: dict[str, Any] = {
        "Conventions": "CF-1.11",
        "zarr_conventions": CONVENTIONS if grid.crs else CONVENTIONS[:1],
        "spatial:dimensions": ["y", "x"],
        "spatial:bbox": [left, bottom, right, top],
        "spatial:transform_type": "affine",
        "spatial:transform": list(grid.transform)[:6],
        "spatial:shape": [grid.height, grid.width],
        "spatial:registration": "pixel",
        "classes": [asdict(c) for c in classes],
    }
    if grid.crs:
        from pyproj import CRS

        crs = CRS.from_user_input(grid.crs)
        attributes["proj:wkt2"] = crs.to_wkt()
        authority = crs.to_authority(min_confidence=100)
        if authority:
            attributes["proj:code"] = ":".join(authority)
    return attributes


def grid_mapping_attributes(grid: Grid) -> dict[str, Any]:
    """Return the attributes of the `spatial_ref` variable (CF, and GDAL's way)."""
    t = grid.transform
    attributes: dict[str, Any] = {
        "GeoTransform": " ".join(repr(float(v)) for v in (t.c, t.a, t.b, t.f, t.d, t.e))
    }
    if grid.crs:
        from pyproj import CRS

        crs = CRS.from_user_input(grid.crs)
        wkt = crs.to_wkt()
        attributes = {**crs.to_cf(), **attributes, "crs_wkt": wkt, "spatial_ref": wkt}
    return attributes


def array_attributes(grid: Grid) -> dict[str, Any]:
    """Return what every array on the grid says of its place."""
    attributes: dict[str, Any] = {"grid_mapping": "spatial_ref"}
    if grid.crs:
        from pyproj import CRS

        # GDAL before 3.9 knows only this one; WKT 1 it reads in every version.
        attributes["_CRS"] = {"wkt": CRS.from_user_input(grid.crs).to_wkt()}
    return attributes


def class_attributes(classes: Sequence[Class]) -> dict[str, Any]:
    """Return CF flags: values, meanings (blanks become `_`), colours."""
    return {
        "long_name": "class",
        "flag_values": [c.value for c in classes],
        "flag_meanings": " ".join("_".join(c.name.split()) for c in classes),
        "flag_colors": " ".join(c.color for c in classes),
    }


def coordinate_attributes(grid: Grid, axis: str) -> dict[str, Any]:
    """Return the CF attributes of the `x` or `y` coordinate."""
    if grid.crs is None:
        return {"axis": axis.upper(), "long_name": f"{axis} of pixel centre"}
    from pyproj import CRS

    crs = CRS.from_user_input(grid.crs)
    for entry in crs.cs_to_cf():
        if entry.get("axis") == axis.upper():
            return dict(entry)
    return {"axis": axis.upper()}


def grid_from_attributes(
    attributes: Mapping[str, Any], height: int, width: int
) -> Grid:
    """Return the grid that `group_attributes` wrote down.

    Raises:
        ValueError: Its CRS is none.
    """
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    crs = attributes.get("proj:wkt2")
    try:
        if crs is not None:
            CRS.from_wkt(crs)
    except CRSError as error:
        raise ValueError(f"proj:wkt2 is no CRS: {first_line(error)}") from error
    return Grid(
        crs=crs,
        transform=Affine(*attributes["spatial:transform"]),
        height=height,
        width=width,
    )


def classes_from_attributes(attributes: Mapping[str, Any]) -> tuple[Class, ...]:
    """Return the class table that `group_attributes` wrote down."""
    keys = ("value", "name", "color")
    return tuple(Class(**{k: c[k] for k in keys}) for c in attributes["classes"])
