"""The layer `instances`: every object one row, however many parts and blocks it has.

The array `instances` is traced like classes, each id a class of its own. What comes
from the tracer are parts of objects; an object whose pixels are all there is written,
the others wait for their remaining parts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.errors import RegionsError
from geoseg.maps.reader import DerivedReader
from geoseg.maps.store import Masks
from geoseg.vector.rings import HEADER, Polygons
from geoseg.vector.table import Field, Rows

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray

    from geoseg.core.grid import Window
    from geoseg.maps.reader import ClassReader
    from geoseg.vector.topology import Features

NAME = "instances"
"""Name of the layer, and of the array that it is drawn from."""
_MULTI = HEADER + 9
"""Bytes before the polygons of a MultiPolygon: header, byte order, kind, count."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InstanceReader(DerivedReader):
    """Masks whose pixels are the ids of objects."""

    masks: Masks
    """The masks; the class table is of their objects, not of pixels."""

    @property
    def nodata(self) -> int:
        """The id of no object."""
        return 0

    @property
    def arrays(self) -> tuple[str, ...]:
        """There is but one."""
        return ("classes",)

    def read(self, name: str, window: Window) -> NDArray[Any]:
        """Return the ids (y, x) uint32 of a window."""
        assert name == "classes"
        return self.masks.read(NAME, window)


def instance_reader(masks: ClassReader) -> InstanceReader:
    """Return what reads the instances of masks.

    Raises:
        RegionsError: They have none.
    """
    if NAME not in masks.arrays or not isinstance(masks, Masks):
        raise RegionsError(
            f"layer {NAME!r} is drawn from the objects of a masks store, and there are "
            "none: segment with --task instance or panoptic, or use another name"
        )
    return InstanceReader(base=masks, masks=masks)


def holds_objects_only(masks: ClassReader) -> bool:
    """Whether masks answer the task `instance`, so that objects are meant."""
    if NAME not in masks.arrays:
        return False
    made = dict(masks.attributes().get("geoseg", {}))
    return dict(made.get("settings", {})).get("task") == "instance"


def instance_fields() -> tuple[Field, ...]:
    """Return the attributes of the layer."""
    kinds = {
        "instance_id": "integer",
        "class_id": "integer",
        "class_name": "text",
        "score": "real",
        "area_m2": "real",
        "perimeter_m": "real",
        "pixels": "integer",
    }
    return tuple(Field(name=name, kind=kind) for name, kind in kinds.items())


@dataclass(slots=True, kw_only=True)
class InstanceRows:
    """Puts parts of objects together, as they come."""

    masks: Masks
    """Whose objects they are."""
    values: Collection[int]
    """Values of the classes that are written."""
    min_area: float = 0.0
    """Objects of a smaller true area, in m², are left out."""
    _waiting: dict[int, list[Rows]] = field(default_factory=dict)

    def rows(self, features: Iterator[Features]) -> Iterator[Rows]:
        """Yield whole objects, from the parts that features are."""
        for some in features:
            whole = self._take(some)
            if len(whole):
                yield whole
        if self._waiting:
            raise RegionsError(
                f"{self.masks.path}: objects such as {min(self._waiting)} have fewer "
                "pixels in the array than in the table; segment again"
            )

    def _take(self, features: Features) -> Rows:
        ids, pixels = features.facts.value, features.facts.pixels
        low, high = int(ids.min()), int(ids.max())
        table = self.masks.objects(
            ["class_id", "score", "pixels"], rows=slice(low - 1, high)
        )
        complete = pixels == table["pixels"][ids - low]
        parts = _rows(features.polygons, ids, pixels)
        ready = [parts.take(np.flatnonzero(complete))]
        for i in np.flatnonzero(~complete).tolist():
            own = self._waiting.setdefault(int(ids[i]), [])
            own.append(parts.take(np.array([i])))
            if (
                sum(int(p.columns["pixels"][0]) for p in own)
                == table["pixels"][ids[i] - low]
            ):
                ready.append(_united(self._waiting.pop(int(ids[i]))))
        return self._described(_joined(ready), table, low)

    def _described(self, rows: Rows, table: dict[str, NDArray[Any]], low: int) -> Rows:
        """Return the rows that are wanted, with all attributes, ordered by id."""
        at = rows.columns["instance_id"] - low
        wanted = np.isin(table["class_id"][at], list(self.values))
        wanted &= rows.polygons.area >= self.min_area
        order = np.flatnonzero(wanted)
        rows = rows.take(order[np.argsort(at[order])])
        at = rows.columns["instance_id"] - low
        classes = table["class_id"][at].astype(np.int64)
        names = {c.value: c.name for c in self.masks.classes}
        columns = {
            **rows.columns,
            "class_id": classes,
            "class_name": np.array([names[c] for c in classes.tolist()], object),
            "score": table["score"][at].astype(np.float64),
            "area_m2": rows.polygons.area,
            "perimeter_m": rows.polygons.perimeter,
        }
        return Rows(polygons=rows.polygons, columns=columns)


def _rows(
    polygons: Polygons, ids: NDArray[np.int64], pixels: NDArray[np.int64]
) -> Rows:
    return Rows(polygons=polygons, columns={"instance_id": ids, "pixels": pixels})


def _joined(parts: list[Rows]) -> Rows:
    """Return the rows of all parts."""
    sizes = np.concatenate([np.diff(p.polygons.start) for p in parts])
    return Rows(
        polygons=Polygons(
            np.concatenate([p.polygons.blobs for p in parts]),
            np.append(0, np.cumsum(sizes)),
            np.concatenate([p.polygons.box for p in parts]),
            np.concatenate([p.polygons.area for p in parts]),
            np.concatenate([p.polygons.perimeter for p in parts]),
        ),
        columns={
            name: np.concatenate([p.columns[name] for p in parts])
            for name in parts[0].columns
        },
    )


def _united(parts: list[Rows]) -> Rows:
    """Return one MultiPolygon of several, whatever order they came in."""
    parts = sorted(parts, key=lambda p: p.polygons.blobs[_MULTI:].tobytes())
    blobs = [p.polygons.blobs for p in parts]
    boxes = np.concatenate([p.polygons.box for p in parts])
    box = np.append(boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0))
    head = blobs[0][:_MULTI].copy()
    head[8:HEADER] = box[[0, 2, 1, 3]].view(np.uint8)
    count = sum(int(b[HEADER + 5 : _MULTI].view("<u4")[0]) for b in blobs)
    head[HEADER + 5 :] = np.array([count], "<u4").view(np.uint8)
    blob = np.concatenate([head, *(b[_MULTI:] for b in blobs)])
    p = [part.polygons for part in parts]
    return Rows(
        polygons=Polygons(
            blob,
            np.array([0, len(blob)]),
            box[None],
            np.array([sum(float(each.area[0]) for each in p)]),
            np.array([sum(float(each.perimeter[0]) for each in p)]),
        ),
        columns={
            "instance_id": parts[0].columns["instance_id"],
            "pixels": np.array([sum(int(r.columns["pixels"][0]) for r in parts)]),
        },
    )
