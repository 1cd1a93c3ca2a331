"""What the page says of objects: how many of each class there are, and how large."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.geodesy import pixel_areas
from geoseg.core.text import area_unit, number
from geoseg.maps.provenance import has_objects

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from geoseg.core.grid import Grid
    from geoseg.maps.reader import ClassReader


def object_sizes(reader: ClassReader) -> dict[str, Any] | None:
    """Return a row per class of objects, the most first; None for maps without.

    Sizes are true areas where the map has a place on Earth, else pixels. One unit, that
    of the median of all, stands for the whole table.
    """
    if not has_objects(reader):
        return None
    table = reader.objects(["class_id", "pixels", "top", "left", "bottom", "right"])
    areas, unit = _areas(table, reader.grid)
    scale = 1.0
    if unit is None and len(areas):
        scale, unit = area_unit(float(np.median(areas)))
    classes = {c.value: c for c in reader.classes}
    rows = []
    for value, count in _most_first(table["class_id"]):
        sizes = areas[table["class_id"] == value] / scale
        low, middle, high = np.percentile(sizes, [10, 50, 90])
        known = classes.get(value)
        rows.append(
            {
                "name": known.name if known else f"class {value}",
                "color": known.color if known else "#888888",
                "count": f"{count:,}",
                "median": number(middle),
                "most": f"{number(low)} … {number(high)}",
                "largest": number(sizes.max()),
            }
        )
    return {"unit": unit or "px", "rows": rows}


def _areas(
    table: Mapping[str, NDArray[Any]], grid: Grid
) -> tuple[NDArray[np.float64], str | None]:
    """Return the size of each object, and its unit where that is not m²."""
    pixels = table["pixels"].astype(np.float64)
    known = pixel_areas(grid)
    if known is None:
        return pixels, "px"
    # An object is small: its pixels are as large as that in the middle of its box.
    rows = (table["top"].astype(np.int64) + table["bottom"]) // 2
    columns = (table["left"].astype(np.int64) + table["right"]) // 2
    return pixels * known.m2(known.of_pixels(rows, columns)), None


def _most_first(values: NDArray[np.integer[Any]]) -> list[tuple[int, int]]:
    found, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(int(found[i]), int(counts[i])) for i in order]
