"""A model's card as text, for `geoseg model show`."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    for key, value in card.facts.items():
        yield key, str(value)


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
