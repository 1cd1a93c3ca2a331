"""How what a file calls a class becomes a value of the class table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from geoseg.core.classes import Class, class_table, default_color
from geoseg.errors import LabelsError

UNLABELLED = 65535
"""In arrays of labels: nobody said what this pixel is. No class can have this value."""

Kind = Literal["points", "polygons", "raster"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """How what a file calls a class becomes a value of the class table."""

    known: tuple[Class, ...]
    mapping: Mapping[str, str]

    def resolve(self, found: Iterable[Any]) -> tuple[dict[Any, int], tuple[Class, ...]]:
        """Return the class value of each thing found, and the table they are of."""
        asked = {raw: self.mapping.get(text_of(raw), text_of(raw)) for raw in found}
        used = {text for text in asked.values() if text.casefold() != "ignore"}
        if not self.known and not all(_is_value(text) for text in used):
            table = class_table(sorted(used))
        else:
            table = self.known
            for text in sorted(used, key=lambda t: (not _is_value(t), _number(t), t)):
                table = with_class(table, text)[0]
        values = {
            raw: UNLABELLED if text not in used else with_class(table, text)[1]
            for raw, text in asked.items()
        }
        return values, table


def with_class(table: tuple[Class, ...], text: str) -> tuple[tuple[Class, ...], int]:
    """Return the table with a class of this name or value in it, and its value."""
    for c in table:
        if c.name.casefold() == text.casefold():
            return table, c.value
    taken = {c.value for c in table}
    if _is_value(text):
        value = int(text)
        if value in taken:
            return table, value
        if value >= UNLABELLED:
            raise LabelsError(
                f"class value {value} is outside 0 … {UNLABELLED - 1}: "
                "map it to another"
            )
    else:
        value = max(taken, default=-1) + 1
    color = default_color(len(table))
    return (*table, Class(value=value, name=text, color=color)), value


def text_of(raw: Any) -> str:  # noqa: ANN401 - whatever a column holds
    """Return how a class is written: `3` for 3, 3.0 and '3'."""
    if isinstance(raw, (float, np.floating)) and float(raw).is_integer():
        return str(int(raw))
    return str(raw).strip()


def _is_value(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _number(text: str) -> int:
    return int(text) if _is_value(text) else 0
