"""Regions as rows, fields and layers: what every file format writes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from geoseg.core.text import AREA_UNITS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from numpy.typing import NDArray

    from geoseg.core.classes import Class
    from geoseg.vector.rings import Polygons
    from geoseg.vector.topology import Features


_SCORE_MAX = 254  # confidence bytes: winning probability × 254


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One attribute."""

    name: str
    """Its name."""
    kind: str
    """`integer`, `real` or `text`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionLayer:
    """What a file of regions is, before there are any."""

    name: str
    """Layer name."""
    fields: tuple[Field, ...]
    """Attributes, in order."""
    crs: str
    """WKT of the CRS."""
    classes: tuple[Class, ...]
    """The class table."""
    only_present: bool = False
    """Whether the legend leaves out classes that no region has."""
    table: Callable[[Collection[int]], tuple[Class, ...]] | None = None
    """What makes the class table of the values that occur; None: `classes` is it."""
    multi: bool = False
    """Whether geometries are MultiPolygons."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What the regions were made from, and how; JSON-able."""

    @property
    def lacks(self) -> str | None:
        """What the map lacked that they were made from; None: it was complete."""
        return self.provenance.get("incomplete")

    def legend(self, present: Collection[int]) -> tuple[Class, ...]:
        """Return the classes to show, given those that regions have."""
        if not self.only_present:
            return self.classes
        classes = self.table(present) if self.table else self.classes
        return tuple(c for c in classes if c.value in present)

    @property
    def geometry_type(self) -> str:
        """Simple Features name of the geometries."""
        return "MultiPolygon" if self.multi else "Polygon"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """Some regions, ready to be written."""

    polygons: Polygons
    """Geometries as bytes, with their boxes."""
    columns: Mapping[str, NDArray[Any]]
    """Values by field name; NaN where unknown."""

    def __len__(self) -> int:
        return len(self.polygons.box)

    def take(self, chosen: NDArray[np.intp]) -> Rows:
        """Return some rows, in the order asked for."""
        p = self.polygons
        sizes = np.diff(p.start)[chosen]
        blobs = [p.blobs[p.start[i] : p.start[i + 1]] for i in chosen.tolist()]
        return Rows(
            polygons=p._replace(
                blobs=np.concatenate([np.zeros(0, np.uint8), *blobs]),
                start=np.append(0, np.cumsum(sizes)),
                box=p.box[chosen],
                area=p.area[chosen],
                perimeter=p.perimeter[chosen],
            ),
            columns={name: column[chosen] for name, column in self.columns.items()},
        )

    def blobs(self, skip: int = 0) -> Iterator[bytes]:
        """Return each geometry's bytes, the first `skip` left out.

        SQLite takes bytes as they are, and asks about every view.
        """
        all_, start = self.polygons.blobs.tobytes(), self.polygons.start.tolist()
        return (all_[a + skip : b] for a, b in pairwise(start))


class Writer(Protocol):
    """Writes rows as they come; closing makes the file whole."""

    def write(self, rows: Rows) -> None:
        """Append rows."""

    def close(self) -> None:
        """Finish indexes and metadata, and close the file."""

    def abandon(self) -> None:
        """Close the file as it is; it will be removed."""


def fields(*, confidence: bool) -> tuple[Field, ...]:
    """Return the attributes of the layer `regions`."""
    return (
        Field(name="class_id", kind="integer"),
        Field(name="class_name", kind="text"),
        Field(name="area_m2", kind="real"),
        Field(name="perimeter_m", kind="real"),
        Field(name="pixels", kind="integer"),
        *([Field(name="confidence", kind="real")] if confidence else []),
    )


def with_area(rows: Rows, unit: str) -> Rows:
    """Return rows with a column `area_ha` or `area_km2`."""
    area = rows.columns["area_m2"] / AREA_UNITS[unit]
    return replace(rows, columns={**rows.columns, f"area_{unit}": area})


def as_rows(features: Features, layer: RegionLayer) -> Rows:
    """Return features with the attributes that every layer of regions has."""
    facts = features.facts
    names = np.full(max((c.value for c in layer.classes), default=0) + 1, None, object)
    for each in layer.classes:
        names[each.value] = each.name
    columns: dict[str, NDArray[Any]] = {
        "class_id": facts.value,
        "class_name": names[facts.value],
        "area_m2": features.polygons.area,
        "perimeter_m": features.polygons.perimeter,
        "pixels": facts.pixels,
    }
    if any(f.name == "confidence" for f in layer.fields):
        known = np.where(facts.scored > 0, facts.scored, 1) * _SCORE_MAX
        columns["confidence"] = np.where(facts.scored > 0, facts.scores / known, np.nan)
    return Rows(polygons=features.polygons, columns=columns)
