"""How a map was made, as far as it remembers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from geoseg.core.files import is_there
from geoseg.core.text import counted, number, percent, redact, span_of_time, when
from geoseg.maps.complete import block_counts
from geoseg.maps.second_copy import RECORD
from geoseg.maps.store import Masks

if TYPE_CHECKING:
    from geoseg.core.grid import Grid
    from geoseg.maps.reader import ClassReader

_MOST_FACTS = 4096


def crs_name(grid: Grid) -> str:
    """Return the name and code of a grid's CRS."""
    if grid.crs is None:
        return "no coordinate reference system"
    from pyproj import CRS

    crs = CRS.from_user_input(grid.crs)
    code = crs.to_authority(min_confidence=100)
    return f"{crs.name} ({':'.join(code)})" if code else crs.name


def provenance(reader: ClassReader) -> dict[str, Any]:
    """Return what masks remember of their run; empty for other rasters."""
    if not isinstance(reader, Masks):
        return {}
    return dict(reader.attributes().get("geoseg", {}))


def failed(reader: ClassReader, most: int) -> list[str]:
    """Return the first blocks of a store that are not done, as `row,column`."""
    if not isinstance(reader, Masks) or reader.is_complete:
        return []
    side, done = reader.record()["block"], reader.done()
    rows, cols = (-(-n // side) for n in (reader.grid.height, reader.grid.width))
    undone = (
        f"{r},{c}" for r, c in product(range(rows), range(cols)) if (r, c) not in done
    )
    return list(islice(undone, most))


def facts_of(reader: ClassReader) -> list[tuple[str, str]]:
    """Return how the map was made, as names and values."""
    made = provenance(reader)
    grid = reader.grid
    facts = [("File", map_name(reader))]
    if not made:
        facts.append(("Made by", "another tool, which left no record"))
    else:
        facts += _of_run(made, {c.value: c.name for c in reader.classes})
    if isinstance(reader, Masks):
        facts += _of_blocks(reader, made)
        if objects := objects_by_class(reader):
            told = ", ".join(f"{name} {n:,}" for name, n in objects.items())
            facts.append(("Objects", f"{sum(objects.values()):,}: {told}"))
    left, bottom, right, top = grid.bounds
    facts.append(("Coordinate reference system", crs_name(grid)))
    facts.append(("Bounds", f"{left:.10g}, {bottom:.10g} … {right:.10g}, {top:.10g}"))
    return facts


def has_objects(reader: ClassReader) -> TypeGuard[Masks]:
    """Whether a map is finished and has objects."""
    return (
        isinstance(reader, Masks)
        and "instances" in reader.arrays
        and bool(reader.record().get("objects"))
    )


def objects_by_class(reader: ClassReader) -> dict[str, int]:
    """Return how many objects a finished map has; empty for maps without objects."""
    if not has_objects(reader):
        return {}
    values, counts = np.unique(
        reader.objects(["class_id"])["class_id"], return_counts=True
    )
    names = {c.value: c.name for c in reader.classes}
    return {
        names.get(value, f"class {value}"): n
        for value, n in zip(values.tolist(), counts.tolist(), strict=True)
    }


def _of_run(made: Mapping[str, Any], names: Mapping[int, str]) -> list[tuple[str, str]]:
    settings, model = made.get("settings", {}), made.get("model", {})
    facts = [
        ("Model", str(model.get("name", "unknown"))),
        ("Model hash", str(model.get("hash", "unknown"))),
        ("Held-out accuracy of the model", _held_out(model.get("validation", {}))),
        ("Raster", str(made.get("source", "unknown"))),
        ("Bands", ", ".join(settings.get("bands", []))),
        (
            "Windows",
            f"{settings.get('window')} px, overlapping by {settings.get('overlap')} px",
        ),
        ("Arrays", ", ".join(settings.get("arrays", []))),
        ("Settings", _settings(settings, names)),
        ("Device", _devices(made)),
        ("geoseg", str(made.get("version", "unknown"))),
        ("Begun", when(made.get("begun"))),
        ("Finished", when(made.get("finished"))),
        ("Time by stage", _stages(made.get("stages", {}))),
    ]
    return [(name, value) for name, value in facts if value]


def _held_out(found: Mapping[str, Any]) -> str:
    """Return what a model's card says of data that training did not see."""
    overall, pixels = found.get("overall_accuracy"), found.get("pixels")
    if overall is None:
        return ""
    seen = f" of {pixels:,} pixels" if pixels else ""
    low, high = found.get("interval") or (None, None)
    if low is not None and high is not None:
        seen += f" (95 % interval: {percent(low)} to {percent(high)})"
    iou = found.get("mean_iou")
    mean = "" if iou is None else f", mean IoU {number(iou)}"
    how = found.get("how")
    return f"{percent(overall)} right{seen}{mean}" + (f" ({how})" if how else "")


_TOLD = {
    "source", "bands", "grid", "model", "model_name", "window", "overlap", "arrays",
    "multiple",
}  # fmt: skip
"""Settings that have a line of their own, or no meaning for people."""


def _settings(settings: Mapping[str, Any], names: Mapping[int, str]) -> str:
    """Return the other settings that a map was made with."""
    rest = {k: v for k, v in settings.items() if k not in _TOLD and v not in (None, [])}
    if "things" in rest:  # which are kept as values
        rest["things"] = [names.get(value, value) for value in rest["things"]]
    return ", ".join(
        f"{name.replace('_', ' ')} {_listed(value)}" for name, value in rest.items()
    )


def _listed(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_listed, value))
    return number(value) if isinstance(value, float) else str(value)


def _devices(made: Mapping[str, Any]) -> str:
    """Return what the model ran on, and how much of the time a GPU was at work."""
    share = made.get("gpu_share")
    used = [] if share is None else [f"at work {percent(share)} of the time"]
    return "; ".join([*made.get("devices", []), *used])


def _stages(seconds: Mapping[str, float]) -> str:
    """Return how long each stage took, summed over workers; empty where unknown."""
    spans = [f"{name} {span_of_time(float(s))}" for name, s in seconds.items()]
    return f"{', '.join(spans)}; all workers together, last run" if spans else ""


def _of_blocks(masks: Masks, made: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the blocks noted: how many, how long in the model."""
    done, total = block_counts(masks)
    if not total:
        return []
    facts = [("Blocks", f"{done:,} of {total:,} done")]
    noted = [masks.done_info(block) for block in sorted(masks.done())[:_MOST_FACTS]]
    if not noted:
        return facts
    part = done / len(noted)
    windows = round(part * sum(n.get("windows", 0) for n in noted))
    forward = part * sum(n.get("forward_seconds", 0.0) for n in noted)
    facts.append(("Model calls", counted(windows, "window")))
    if made.get("seconds"):
        wall = float(made["seconds"])
        speed = masks.grid.pixels / 1e6 / wall
        facts.append(
            ("Time", f"{span_of_time(wall)} in the last run, {number(speed)} Mpx/s")
        )
        share = f"{number(100 * forward / wall)} % of the time of the run"
        text = f"{span_of_time(forward)}, summed over all workers: {share}"
        facts.append(("Time in the model", text))
    return facts


def map_name(reader: ClassReader) -> str:
    """Return what a map is called: its file's name."""
    return Path(redact(reader.path).partition("?")[0].rstrip("/")).name or "class map"


def remembered_raster(reader: ClassReader) -> str | list[str] | None:
    """Return the path of the raster that masks were made of, if it is still there.

    Of several that were given one by one it is a list; a pattern stays one.
    """
    if not isinstance(reader, Masks):
        return None
    said: list[list[str]] = []
    if reader.storage.exists(RECORD):
        folder = reader.storage.path("") if reader.storage.is_local else Path()
        record = reader.record()
        asked = _paths(record.get("asked", {}).get("raster"))
        of_files = _paths(record["settings"].get("source"))
        at = partial(os.path.join, folder)
        said += [[*map(at, asked)], *([at(path)] for path in of_files)]
    said.append([str(reader.attributes().get("geoseg", {}).get("source", ""))])
    found = next((s for s in said if s and all(map(is_there, s))), [])
    found = [os.path.normpath(path) if "://" not in path else path for path in found]
    return found[0] if found and len(found) == 1 else found or None


def _paths(identity: Any) -> Iterator[str]:  # noqa: ANN401 - JSON
    """Yield the paths of a raster and of what it was made of."""
    if isinstance(identity, Mapping):
        if isinstance(path := identity.get("path"), str):
            yield path
        for inner in identity.values():
            yield from _paths(inner)
    elif isinstance(identity, list):
        for inner in identity:
            yield from _paths(inner)
