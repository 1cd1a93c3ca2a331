"""How a command ends: with the answer, in numbers, and with the next step."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from geoseg.core.text import area_unit, number, percent

if TYPE_CHECKING:
    from geoseg.maps.open import ClassMap

_QUICK = 4e8
"""Pixels that are counted without being asked: it takes a second or two."""


def areas(masks: ClassMap, *, always: bool = False) -> dict[str, dict[str, Any]]:
    """Return pixels, true area in m² and share of it by class; of huge maps nothing.

    Args:
        masks: A class map that is complete.
        always: Count however long it takes.
    """
    from geoseg.maps.open import open_classes
    from geoseg.viz.statistics import map_statistics

    reader = open_classes(masks)
    if reader.grid.pixels > _QUICK and not always:
        return {}
    found = map_statistics(reader, size=1, places=0)
    known = [None] * len(found.classes)
    true = known if found.areas_m2 is None else found.areas_m2.tolist()
    return {
        c.name: {
            "pixels": int(pixels),
            "share": round(share, 6),
            "area_m2": None if area is None else round(area, 1),
        }
        for c, pixels, area, share in zip(
            found.classes, found.pixels, true, found.shares.tolist(), strict=True
        )
    }


def area_lines(found: dict[str, dict[str, Any]]) -> list[str]:
    """Return areas by class as people read them, all in one unit."""
    from rich.cells import cell_len

    total = sum(row["area_m2"] or 0 for row in found.values())
    scale, unit = area_unit(total)
    much = [
        f"{row['pixels']:,} px"
        if row["area_m2"] is None
        else f"{number(row['area_m2'] / scale)} {unit}"
        for row in found.values()
    ]
    names = max(map(cell_len, found), default=0)  # Chinese is twice as wide
    width = max(map(len, much), default=0)
    return [
        f"  {name}{' ' * (names - cell_len(name))}  {area:>{width}}"
        f"  {percent(row['share']):>8}"
        for (name, row), area in zip(found.items(), much, strict=True)
    ]


def step(verb: str, *words: object) -> str:
    """Return a next step as one would type it.

    >>> step("look", "view", "my masks.zarr", None)
    "look: geoseg view 'my masks.zarr'"
    """
    line = shlex.join(str(word) for word in words if word is not None)
    return f"{verb}: geoseg {line}"
