"""Cards written by hand: plain dictionaries, in Python or JSON."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, TypeAlias, get_args

from geoseg.core.classes import Class, default_color
from geoseg.errors import GeosegError, ModelError
from geoseg.models.card import Band, Card, Output, Task

Json: TypeAlias = Any
"""Whatever JSON can hold."""

_BAND_KEYS = frozenset(f.name for f in fields(Band))
_CARD_KEYS = frozenset(f.name for f in fields(Card))
_SHORT_KEYS = frozenset({"mean", "std", "scale", "offset", "clip"})
_CHOICES = {
    "task": get_args(Task),
    "output": get_args(Output),
    "activation": ("softmax", "sigmoid"),
}


def card_from_dict(plain: Mapping[str, Any], *, name: str = "model") -> Card:
    """Return the card that a plain dictionary describes.

    Args:
        plain: The fields of `Card`; only `bands` and `classes` are needed. Bands are
            names, or dictionaries with the fields of `Band`; classes are names, a
            mapping of name to `#RRGGBB`, or dictionaries with `name` and optionally
            `value` and `color`. `scale`, `offset`, `clip`, or `mean` and `std`, one
            number (pair) for all bands or one per band, set the bands' scaling.
        name: What the model is called where the dictionary does not say.

    Raises:
        ModelError: A field is missing, unknown, or makes no sense; it is named.
    """
    _check_keys(plain, name)
    values = {k: v for k, v in plain.items() if k in _CARD_KEYS}
    values["name"] = str(values.get("name", name))
    try:
        values["bands"] = _bands(plain)
        values["classes"] = _classes(plain["classes"])
        for key in ("dtypes", "value_range", "things"):
            if values.get(key) is not None:
                values[key] = tuple(values[key])
        return Card(**values)
    except ModelError:
        raise
    except (TypeError, ValueError, KeyError, GeosegError) as error:
        raise ModelError(f"the card of {values['name']!r} is wrong: {error}") from error


def _check_keys(plain: Mapping[str, Any], name: str) -> None:
    known = _CARD_KEYS | _SHORT_KEYS
    for key in plain:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f": did you mean {close[0]!r}?" if close else ""
            raise ModelError(f"the card of {name!r} has an unknown field {key!r}{hint}")
    for key in ("bands", "classes"):
        if not plain.get(key):
            raise ModelError(f"the card of {name!r} lacks the field {key!r}")
    for key, choices in _CHOICES.items():
        if key in plain and plain[key] not in choices:
            raise ModelError(
                f"{key} {plain[key]!r} of the card of {name!r} is none of "
                f"{', '.join(choices)}"
            )


def _bands(plain: Mapping[str, Any]) -> tuple[Band, ...]:
    given = plain["bands"]
    if isinstance(given, str):
        given = [part.strip() for part in given.split(",")]
    count = len(given)
    offsets = _per_band(plain, "mean" if "mean" in plain else "offset", count)
    scales = _per_band(plain, "std" if "std" in plain else "scale", count)
    clips = _per_band(plain, "clip", count)
    return tuple(
        _band(band, offset, scale, clip)
        for band, offset, scale, clip in zip(given, offsets, scales, clips, strict=True)
    )


def _per_band(plain: Mapping[str, Any], key: str, count: int) -> list[Any]:
    """Return one value per band from one for all, or a list of one per band."""
    value = plain.get(key)
    if key == "clip":
        single = value is None or not isinstance(value[0], Sequence)
    else:
        single = not isinstance(value, Sequence)
    values = [value] * count if single else list(value or ())
    if len(values) != count:
        raise ModelError(f"{key} has {len(values)} values for {count} bands")
    return values


def _band(given: Json, offset: Json, scale: Json, clip: Json) -> Band:
    values: dict[str, Any] = {"name": given} if not isinstance(given, Mapping) else {}
    if offset is not None:
        values["offset"] = float(offset)
    if scale is not None:
        values["scale"] = float(scale)
    if clip is not None:
        values["clip"] = clip
    if isinstance(given, Mapping):
        values |= given
    unknown = values.keys() - _BAND_KEYS
    if unknown:
        raise ModelError(
            f"a band has the unknown field {min(unknown)!r}: "
            f"{', '.join(sorted(_BAND_KEYS))} are known"
        )
    if "name" not in values:
        raise ModelError("a band lacks the field 'name'")
    values["name"] = str(values["name"])
    if values.get("clip") is not None:
        low, high = values["clip"]
        values["clip"] = (float(low), float(high))
    return Band(**values)


def _classes(given: Json) -> tuple[Class, ...]:
    if isinstance(given, Mapping):
        given = [{"name": name, "color": color} for name, color in given.items()]
    table = []
    for index, item in enumerate(given):
        row: dict[str, Any] = dict(item) if isinstance(item, Mapping) else {}
        if isinstance(item, Class):
            table.append(item)
            continue
        if not row:
            row = {"name": str(item)}
        if "name" not in row:
            raise ModelError(f"class {index} lacks the field 'name'")
        table.append(
            Class(
                value=int(row.get("value", index)),
                name=str(row["name"]),
                color=row.get("color") or default_color(index),
            )
        )
    return tuple(table)


def card_to_dict(card: Card) -> dict[str, Any]:
    """Return the card as JSON-able values; fields at their defaults are left out."""
    plain: dict[str, Any] = {
        f.name: getattr(card, f.name)
        for f in fields(Card)
        if getattr(card, f.name) != _default(f)
    }
    plain["bands"] = [
        {
            f.name: getattr(band, f.name)
            for f in fields(Band)
            if getattr(band, f.name) != _default(f)
        }
        for band in card.bands
    ]
    plain["classes"] = [
        {"value": c.value, "name": c.name, "color": c.color} for c in card.classes
    ]
    for key in ("framework", "facts"):
        if key in plain:
            plain[key] = dict(plain[key])
    return plain


def _default(field: Field[Json]) -> Json:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default
