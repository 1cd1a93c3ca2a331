"""UTM zones: in which ones an area lies, and what of it lies in one.

A zone is taken without its overlaps: six degrees of longitude on one side of the
equator, so that each place lies in one.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from geoseg.core.text import percent
from geoseg.errors import RasterError
from geoseg.rasters.places import overlap, share_of

if TYPE_CHECKING:
    from shapely import Geometry

PREFIX: Final = "zone:"
"""What makes a zone's CRS stand for what lies in the zone, as in `zone:32632`."""
EACH: Final = "zones"
"""What asks for a map of each zone instead of a CRS."""
_ZONE: Final = re.compile(r"zone:(?:EPSG:)?(?P<code>32(?:6|7)\d{2})", re.IGNORECASE)
_MANY: Final = 4


def zone_of(lon: float, lat: float) -> str:
    """Return the UTM zone of a place.

    >>> zone_of(10.0, 46.0), zone_of(-180.0, -1.0), zone_of(180.0, 1.0)
    ('EPSG:32632', 'EPSG:32701', 'EPSG:32660')
    """
    zone = min(int((lon + 180) // 6) + 1, 60)
    return f"EPSG:{(32600 if lat >= 0 else 32700) + zone}"


def zones_of(area: Geometry) -> dict[str, float]:
    """Return the zones in which an area lies, with the share of it, largest first."""
    shares = {}
    for base in (32600, 32700):
        for zone in range(1, 61):
            box = extent_of(f"EPSG:{base + zone}")
            if overlap(area, box):
                shares[f"EPSG:{base + zone}"] = share_of(area, box)
    return dict(sorted(shares.items(), key=lambda pair: (-pair[1], pair[0])))


def extent_of(crs: str) -> Geometry:
    """Return what lies in a zone, in degrees."""
    import shapely

    code = int(crs.rpartition(":")[2])
    west = -180 + 6 * (code % 100 - 1)
    south, north = (0, 90) if code < 32700 else (-90, 0)
    return shapely.box(west, south, west + 6, north)


def only_zone(crs: str | None) -> str | None:
    """Return the CRS of the zone that alone is asked for; None for anything else.

    >>> only_zone("zone:32632"), only_zone("EPSG:32632")
    ('EPSG:32632', None)

    Raises:
        RasterError: There is no such zone.
    """
    if crs == EACH:
        raise RasterError(
            f"--crs {EACH} is for the commands segment and plan, which make a map of "
            f"each zone: here name one, such as {PREFIX}32632, or a CRS"
        )
    if crs is None or not crs.lower().startswith(PREFIX):
        return None
    found = _ZONE.fullmatch(crs)
    if found is None or not 1 <= int(found["code"]) % 100 <= 60:
        raise RasterError(
            f"{crs} is no UTM zone: write zone:32601 … zone:32660 (north) or "
            "zone:32701 … zone:32760 (south)"
        )
    return f"EPSG:{found['code']}"


def several_zones(area: Geometry, used: str) -> str | None:
    """Return what to say of an area in several zones; None where it lies in one.

    Args:
        area: In degrees.
        used: The CRS that it is put on.
    """
    shares = zones_of(area)
    if len(shares) < 2:
        return None
    told = [f"{crs} ({percent(share)})" for crs, share in [*shares.items()][:_MANY]]
    more = f" and {len(shares) - _MANY} more" if len(shares) > _MANY else ""
    first = next(iter(shares)).removeprefix("EPSG:")
    return (
        f"the area lies in {len(shares)} UTM zones, {', '.join(told)}{more}: all of it "
        f"is put on {used}; another grid with --crs EPSG:…, what lies in one zone with "
        f"--crs {PREFIX}{first}, a map of each zone with --crs {EACH}"
    )


def path_of(product: str, zone: str) -> str:
    """Return where the map of a zone lies, by where that of all would.

    >>> path_of("out/masks.zarr", "zone:32632"), path_of("s3://bucket/masks", "zone:1")
    ('out/masks-32632.zarr', 's3://bucket/masks-1')
    """
    stem, ending = os.path.splitext(product.rstrip("/\\"))  # noqa: PTH122 - or a URL
    return f"{stem}-{zone.removeprefix(PREFIX)}{ending}"
