"""What the page says, as plain values for the template."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.text import area_unit, counted, number, percent, span_of_time
from geoseg.maps.complete import incomplete
from geoseg.maps.provenance import (
    crs_name,
    facts_of,
    failed,
    has_objects,
    map_name,
    objects_by_class,
    provenance,
)
from geoseg.maps.reader import read_plain
from geoseg.viz.observed import BLANK
from geoseg.viz.picture import (
    Image,
    at_most,
    byte_colors,
    class_png,
    encode,
    lon_lat,
    north,
    object_colours,
    scale_bar,
)
from geoseg.viz.report.figures import histogram, profile
from geoseg.viz.report.objects import object_sizes
from geoseg.viz.report.repeat import repeated
from geoseg.viz.seamcheck import SeamCheck
from geoseg.viz.seams import seams_of
from geoseg.viz.statistics import MapStatistics, Place

if TYPE_CHECKING:
    from geoseg.core.grid import Grid
    from geoseg.labels import Labels
    from geoseg.maps.reader import ClassReader

_LONG = 40
"""Of longer class tables only the classes that occur are listed."""
_LOCATOR = 640
"""Pixels along the longer side of the overview."""
_MANY = 24
"""More classes than this and the legend names the largest only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageInputs:
    """Everything the page is made of."""

    reader: ClassReader
    statistics: MapStatistics
    image: Image | None
    evaluation: Mapping[str, Any] | None
    title: str
    reference: Labels | None = None


def content(inputs: PageInputs) -> dict[str, Any]:
    """Return what the template asks for."""
    reader, found = inputs.reader, inputs.statistics
    classes, places = _classes(inputs), _places(inputs)
    return {
        "title": inputs.title,
        "lead": _lead(reader, found),
        "notices": _notices(reader, found),
        "tiles": _tiles(inputs),
        "map": _map(found, classes),
        "classes": classes,
        "unit": _unit(found)[1] if found.areas_m2 is not None else None,
        "objects": object_sizes(reader),
        "evaluation": _evaluation(inputs.evaluation),
        "confidence": _confidence(found),
        "observed": _observed(found),
        "places": places,
        "locator": _locator(inputs, places),
        "seams": [_seam(check) for check in seams_of(reader, found)],
        "facts": [*facts_of(reader), _nodata(reader, found)],
        "repeat": repeated(reader),
        "name": map_name(reader),
        "failed": failed(reader, 12),
    }


def _unit(found: MapStatistics) -> tuple[float, str]:
    assert found.areas_m2 is not None
    return area_unit(float(found.areas_m2.sum()))


def _lead(reader: ClassReader, found: MapStatistics) -> str:
    grid = reader.grid
    parts = [f"{grid.width:,} × {grid.height:,} pixels"]
    size = grid.pixel_size_m
    if size:
        same = math.isclose(size[0], size[1], rel_tol=0.02)
        metres = number(size[0]) if same else f"{number(size[0])} × {number(size[1])}"
        parts[0] += f" of {metres} m"
    parts.append(crs_name(grid))
    present, known = int((found.pixels > 0).sum()), len(found.classes)
    of = f" of {known}" if known <= _LONG else ""  # some tables list all 256 values
    parts.insert(0, f"{present}{of} classes present")
    return " · ".join(parts)


def _notices(reader: ClassReader, found: MapStatistics) -> list[str]:
    """Return what a reader must know before anything else."""
    notices = [f"Note: {note}." for note in provenance(reader).get("notes", [])]
    if lacks := incomplete(reader):
        notices.append(
            f"This map is {lacks}. What is missing shows as nodata; the same geoseg "
            "command completes it."
        )
    if not found.valid:
        notices.append("No pixel of this map has a class: all of it is nodata.")
    if found.unknown:
        notices.append(
            f"{counted(found.unknown, 'pixel')} with values that the class table does "
            "not name are left out."
        )
    if reader.grid.crs is None:
        notices.append(
            "The map has no coordinate reference system, so areas and lengths are in "
            "pixels."
        )
    return notices


def _tiles(inputs: PageInputs) -> list[dict[str, str]]:
    """Return the few figures that matter, for the top of the page."""
    found, tiles = inputs.statistics, []
    total = found.valid + found.nodata + found.unknown
    if found.areas_m2 is not None:
        scale, unit = _unit(found)
        shown = number(float(found.areas_m2.sum()) / scale)
        tiles.append({"value": f"{shown} {unit}", "name": "mapped"})
    else:
        tiles.append({"value": f"{found.valid:,}", "name": "pixels mapped"})
    tiles.append({"value": percent(found.nodata / total), "name": "nodata"})
    if inputs.evaluation is not None:
        overall = inputs.evaluation["overall_accuracy"]
        tiles.append(
            {"value": _interval(overall, 100, " %"), "name": "overall accuracy"}
        )
    if found.confidence is not None and found.confidence.sum():
        mean = _mean_confidence(found)
        tiles.append({"value": percent(mean), "name": "mean confidence"})
    if objects := objects_by_class(inputs.reader):
        total = sum(objects.values())
        tiles.append({"value": f"{total:,}", "name": "objects"})
    run = provenance(inputs.reader)
    if run.get("seconds"):
        tiles.append({"value": span_of_time(run["seconds"]), "name": "to make"})
    return tiles


def _map(found: MapStatistics, classes: list[dict[str, Any]]) -> dict[str, Any]:
    grid = found.grid
    size, angle = grid.pixel_size_m or (1.0, 1.0), north(grid)
    largest = ", ".join(f"{c['name']} {c['share']}" for c in classes[:5] if c["pixels"])
    return {
        "picture": _data(class_png(found.picture, found.classes), "png"),
        "alt": f"Map in class colours: {largest or 'nodata everywhere'}.",
        "ratio": f"{grid.width * size[1] / (grid.height * size[0]):.5f}",
        "scale": _scale(grid),
        "north": None if angle is None else f"{angle:.1f}",
        "shown": [c for c in classes if c["pixels"]][:_MANY],
        "more": max(0, sum(1 for c in classes if c["pixels"]) - _MANY),
    }


def _scale(grid: Grid) -> dict[str, str] | None:
    """Return the scale bar: its name, and which part of the map it spans."""
    bar = scale_bar(grid)
    return None if bar is None else {"name": bar[1], "share": f"{100 * bar[0]:.3f}"}


def _classes(inputs: PageInputs) -> list[dict[str, Any]]:
    """Return a row per class, the largest first."""
    found = inputs.statistics
    scale = _unit(found)[0] if found.areas_m2 is not None else 1.0
    largest = max(1, int(found.pixels.max(initial=0)))
    judged = (inputs.evaluation or {}).get("classes", {})
    rows = []
    for i in np.argsort(-found.pixels, kind="stable").tolist():
        c, pixels = found.classes[i], int(found.pixels[i])
        if not pixels and len(found.classes) > _LONG:
            continue
        area = None if found.areas_m2 is None else number(found.areas_m2[i] / scale)
        rows.append(
            {
                "name": c.name,
                "color": c.color,
                "pixels": pixels,
                "share": percent(found.shares[i]),
                "bar": f"{100 * pixels / largest:.2f}",
                "area": area,
                **_judged(judged.get(c.name), scale),
            }
        )
    return rows


def _judged(figures: Mapping[str, Any] | None, scale: float) -> dict[str, str]:
    """Return what an evaluation says of a class."""
    if figures is None:
        return {"estimate": "–", "users": "–", "producers": "–"}
    area = figures.get("area_m2")
    return {
        "estimate": _interval(area, 1 / scale) if area else "–",
        "users": _interval(figures["users_accuracy"], 100, " %"),
        "producers": _interval(figures["producers_accuracy"], 100, " %"),
    }


def _interval(figure: Mapping[str, Any], scale: float, unit: str = "") -> str:
    value, low, high = (figure.get(k) for k in ("value", "low", "high"))
    if value is None:
        return "–"
    text = number(value * scale)
    if low is None or high is None or low == high:
        return text + unit
    if math.isclose(value - low, high - value):
        return f"{text} ± {number((high - value) * scale)}{unit}"
    return f"{text}{unit} ({number(low * scale)} … {number(high * scale)})"


def _evaluation(figures: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if figures is None:
        return None
    return {
        "reference": figures.get("reference", "a reference"),
        "overall": _interval(figures["overall_accuracy"], 100, " %"),
        "iou": "–" if figures.get("mean_iou") is None else number(figures["mean_iou"]),
        "n": f"{figures.get('n', 0):,}",
        "unit": "points" if figures.get("kind") == "points" else "pixels",
        "notes": list(figures.get("notes", [])),
        "estimator": figures.get("estimator", ""),
    }


def _mean_confidence(found: MapStatistics) -> float:
    assert found.confidence is not None
    values = np.arange(255) / 254
    return float(found.confidence @ values / found.confidence.sum())


def _confidence(found: MapStatistics) -> dict[str, Any] | None:
    counts = found.confidence
    if counts is None or not counts.sum():
        return None
    total = int(counts.sum())
    unsure = float(counts[: math.ceil(0.5 * 254)].sum() / total)
    sure = float(counts[math.floor(0.9 * 254) :].sum() / total)
    mean = percent(_mean_confidence(found))
    return {
        "svg": histogram(counts),
        "mean": mean,
        "unsure": percent(unsure),
        "sure": percent(sure),
    }


def _observed(found: MapStatistics) -> dict[str, Any] | None:
    """Return how often pixels were seen, as a small map and figures."""
    seen, shown = found.observed, found.observations
    if seen is None or not seen.pixels.sum():
        return None
    least, most = int(seen.counts[0]), int(seen.counts[-1])
    shade = np.rint(shown * (254 / max(1, most))).clip(0, 254).astype(np.uint8)
    rgba = byte_colors()[np.where(shown == BLANK, 255, shade)]
    clouds, dates = seen.cloudy, seen.dates
    return {
        "picture": _data(encode(rgba, "PNG"), "png"),
        "mean": number(seen.mean),
        "least": f"{least:,}",
        "most": f"{most:,}",
        "never": percent(seen.never) if seen.never else None,
        "clouds": None if clouds is None else percent(clouds),
        "dates": None if dates is None else [day.isoformat() for day in dates],
    }


_KINDS = {
    "errors": (
        "Where it is most wrong",
        "Squares in which the map differs most from the reference.",
        "{} of the labelled pixels wrong",
    ),
    "doubt": (
        "Where the model is least certain",
        "Squares with the lowest mean confidence.",
        "mean confidence {}",
    ),
    "changes": (
        "Where classes change most",
        "Squares with the most borders between classes: small things, or noise.",
        "{} of the pixels border on another class",
    ),
}


def _places(inputs: PageInputs) -> list[dict[str, Any]]:
    """Return close-ups of each kind of remarkable place; intricate ones if no other."""
    found = inputs.statistics.places
    kinds = [k for k in ("errors", "doubt") if found.get(k)] or ["changes"]
    groups: list[dict[str, Any]] = []
    ranks = count(1)  # one numbering, as the locator has them all
    for kind in kinds:
        title, text, caption = _KINDS[kind]
        cards = [
            _place(inputs, place, kind, caption, next(ranks))
            for place in found.get(kind, ())
        ]
        if cards:
            groups.append({"title": title, "text": text, "cards": cards})
    return groups


def _place(
    inputs: PageInputs, place: Place, kind: str, caption: str, rank: int
) -> dict[str, Any]:
    window, grid = place.window, inputs.reader.grid
    values = read_plain(inputs.reader, "classes", window)
    score = 1 - place.score if kind == "doubt" else place.score
    views = []
    if inputs.image is not None:
        rgba = inputs.image.on(grid[window])
        views.append({"name": "image", "src": _data(encode(rgba, "WEBP"), "webp")})
    views.append(
        {"name": "map", "src": _data(class_png(values, inputs.reader.classes), "png")}
    )
    if has_objects(inputs.reader):
        rgba = object_colours(inputs.reader.read("instances", window))
        views.append({"name": "objects", "src": _data(encode(rgba, "PNG"), "png")})
    if inputs.reference is not None and kind == "errors":
        truth = inputs.reference.read(window)
        blank = np.iinfo(values.dtype).max
        shown = np.where(truth == 65535, blank, truth).astype(values.dtype)
        png = class_png(shown, inputs.reader.classes)
        views.append({"name": "reference", "src": _data(png, "png")})
    return {
        "rank": rank,
        "where": _where(grid, place),
        "caption": caption.format(percent(score)),
        "size": _side(grid, place),
        "views": views,
        "left": f"{100 * (window.x + window.width / 2) / grid.width:.2f}",
        "top": f"{100 * (window.y + window.height / 2) / grid.height:.2f}",
    }


def _locator(inputs: PageInputs, places: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the image, or else the map, with the numbers of all places on it."""
    if not places:
        return None
    found, grid = inputs.statistics, inputs.reader.grid
    what, source = "map", _data(class_png(found.picture, found.classes), "png")
    if inputs.image is not None:
        rgba = inputs.image.overview(at_most(grid, _LOCATOR))
        what, source = "image", _data(encode(rgba, "WEBP"), "webp")
    size = grid.pixel_size_m or (1.0, 1.0)
    return {
        "what": what,
        "picture": source,
        "ratio": f"{grid.width * size[1] / (grid.height * size[0]):.5f}",
        "marks": [card for group in places for card in group["cards"]],
        "centre": _at(grid, grid.height / 2, grid.width / 2),
    }


def _side(grid: Grid, place: Place) -> str:
    size = grid.pixel_size_m
    if size is None:
        return f"{place.window.width} px wide"
    metres = place.window.width * size[1]
    return (
        f"{number(metres / 1000)} km wide"
        if metres >= 1000
        else f"{number(metres)} m wide"
    )


def _where(grid: Grid, place: Place) -> str:
    """Return the centre of a place: latitude and longitude, or row and column."""
    window = place.window
    return _at(grid, window.y + window.height / 2, window.x + window.width / 2)


def _at(grid: Grid, row: float, column: float) -> str:
    found = lon_lat(grid, row, column)
    if found is None:
        return f"row {int(row):,}, column {int(column):,}"
    lon, lat = found
    ns, ew = "N" if lat >= 0 else "S", "E" if lon >= 0 else "W"
    return f"{abs(lat):.5f}° {ns}, {abs(lon):.5f}° {ew}"


def _nodata(reader: ClassReader, found: MapStatistics) -> tuple[str, str]:
    """Return how much of the map has no class, and as what that is stored."""
    total = found.valid + found.nodata + found.unknown
    share = percent(found.nodata / total) if found.nodata else "none"
    stored = "" if reader.nodata is None else f", stored as {reader.nodata}"
    pixels = f", {found.nodata:,} pixels" if found.nodata else ""
    return "Nodata", f"{share}{pixels}{stored}"


def _seam(check: SeamCheck) -> dict[str, Any]:
    return {
        "name": check.name,
        "bad": check.stands_out,
        "rate": percent(check.rate),
        "elsewhere": percent(check.elsewhere),
        "borders": counted(check.borders, "border"),
        "period": f"{check.period:,}",
        "svg": profile(check),
    }


def _data(bytes_: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(bytes_).decode()}"
