"""A model's card as text, for `geoseg model show`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from geoseg.core.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from geoseg.models.card import Band, Card


def describe(card: Card) -> str:
    """Return everything a user wants to know of a card, a fact per line."""
    return "\n".join(f"{label:<11} {text}".rstrip() for label, text in _lines(card))


def _lines(card: Card) -> Iterator[tuple[str, str]]:
    yield "name", card.name
    if card.description:
        yield "about", card.description
    yield "task", f"{card.task}, answers {card.output}"
    yield "window", _window(card)
    if card.resolution is not None:
        yield "resolution", f"{card.resolution:g} m per pixel"
    if card.dtypes:
        yield "dtypes", ", ".join(card.dtypes)
    if card.value_range:
        yield "values", "{:g} ... {:g}".format(*card.value_range)
    yield from _in_time(card)
    for label, rows in (
        ("bands", [_band(b) for b in card.step_bands]),
        ("classes", [f"{c.value:>3}  {c.color}  {c.name}" for c in card.classes]),
    ):
        for index, row in enumerate(rows):
            yield label if index == 0 else "", row
    if card.framework:
        yield "built by", ", ".join(f"{k} {v}" for k, v in card.framework.items())
    if card.license:
        yield "license", card.license
    yield from _facts(card.facts)


def _facts(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in facts.items():
        if key == "training" and isinstance(value, Mapping):
            yield key, _training(value)
        elif key == "validation" and isinstance(value, Mapping):
            yield key, held_out(value)
            yield from (("", note) for note in value.get("notes", ()))
        else:
            yield key, str(value)


def held_out(found: Mapping[str, Any] | None) -> str:
    """Return in a line how good a model is on held-out data, by its card's facts."""
    if found is None:
        return "trained; nothing was held out, so its accuracy is unknown"
    how = f"on {found.get('how', 'held-out data')}: "
    if "objects" in found:
        figures = {"AP50": "ap50", "PQ": "pq", "F1": "f1_50"}
        scores = (f"{n} {found['objects'][k] or 0:.3f}" for n, k in figures.items())
        return how + ", ".join(scores)
    by_class = ", ".join(
        f"{name} {c['iou']:.3f}" if c["iou"] is not None else f"{name} -"
        for name, c in found.get("classes", {}).items()
    )
    low, high = found.get("interval", (None, None))
    sure = f" (95 % interval {low:.3f} … {high:.3f}" if low is not None else ""
    sure += f", from {counted(found['blocks'], 'block')})" if sure else ""
    overall, iou = found.get("overall_accuracy"), found.get("mean_iou")
    told = [
        "" if overall is None else f"overall accuracy {overall:.3f}{sure}",
        ""
        if iou is None
        else f"mean IoU {iou:.3f}" + f" ({by_class})" * bool(by_class),
    ]
    return how + ", ".join(filter(None, told))


def _training(facts: Mapping[str, Any]) -> str:
    """Return what a model learned from; its settings are in the JSON."""
    rasters = ", ".join(map(str, facts.get("rasters", ())))
    labelled = facts.get("labelled_pixels", {})
    by_class = ", ".join(f"{name} {n:,}" for name, n in labelled.items())
    told = [rasters, f"labelled pixels: {by_class}" if by_class else ""]
    return "; ".join(filter(None, told))


def _in_time(card: Card) -> Iterator[tuple[str, str]]:
    if card.times is not None:
        yield "times", f"{card.times.told}; its network takes them {card.layout}"
    for modality, names in card.modalities.items():
        yield "modality", f"{modality}: {', '.join(names)}"
    if card.inputs:
        yield "inputs", ", ".join(card.inputs)


def _window(card: Card) -> str:
    edges = (
        "full windows only"
        if card.multiple is None
        else f"multiples of {card.multiple}"
    )
    return f"{card.window} px, {card.overlap} px shared with the next; {edges}"


def _band(band: Band) -> str:
    name = (
        band.name if band.common_name is None else f"{band.name} ({band.common_name})"
    )
    if band.name == "*":
        return "all of the raster's"
    name += ", static" if band.static else ""
    if band.clip is None and band.offset == 0 and band.scale == 1:
        return f"{name}, unscaled"
    value = "x" if band.clip is None else "clip(x, {:g}, {:g})".format(*band.clip)
    shifted = value if band.offset == 0 else f"({value} - {band.offset:g})"
    return f"{name}, scaled {shifted} / {band.scale:g}"
