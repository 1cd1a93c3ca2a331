"""Whether a map shows seams, at the borders at which it was put together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geoseg.core.discretion import discreet
from geoseg.maps.open import open_classes
from geoseg.maps.provenance import provenance
from geoseg.maps.second_copy import RECORD
from geoseg.maps.store import Masks
from geoseg.viz.seamcheck import SeamCheck, compare_borders
from geoseg.viz.statistics import MapStatistics, map_statistics

if TYPE_CHECKING:
    from geoseg.maps.reader import ClassReader


@discreet
def check_seams(
    masks: Any,  # noqa: ANN401 - whatever holds class values
) -> tuple[SeamCheck, ...]:
    """Return whether seams show in a map; every pixel is read once.

    On land the class changes on a border of windows or blocks as often as on lines a
    few pixels beside it; where a map was put together with seams, more often.

    Args:
        masks: Masks, their path or dataset; or another tool's class raster, of which
            the tiles of the file are checked.

    Returns:
        A check of each kind of border that the map has far enough inside.

    Raises:
        GeosegError: It is no class map, or is not complete.
    """
    reader = open_classes(masks)
    return seams_of(reader, map_statistics(reader, size=1, places=0))


def seams_of(reader: ClassReader, found: MapStatistics) -> tuple[SeamCheck, ...]:
    """Return the checks of a map whose label changes were counted already."""
    counts = (found.rows, found.columns)
    checks = [compare_borders(n, counts, p) for n, p in _periods(reader).items()]
    return tuple(check for check in checks if check is not None)


def _periods(reader: ClassReader) -> dict[str, int]:
    """Return how many pixels apart the borders of each kind are."""
    if not isinstance(reader, Masks):
        return {"tiles": reader.chunk}
    settings = provenance(reader).get("settings", {})
    periods = {}
    if "window" in settings:
        periods["windows"] = settings["window"] - settings["overlap"]
    if reader.storage.exists(RECORD):
        periods["blocks"] = reader.record()["block"]
    return periods or {"chunks": reader.chunk}
