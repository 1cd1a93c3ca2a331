"""Cards written by hand, and those of other tools: plain dictionaries, checked.

A card comes from somewhere else: pydantic checks every field, strictly. Keys that begin
with `#` are comments.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import TypeAdapter, ValidationError

from geoseg.core.classes import Class, colors_of, default_color
from geoseg.core.text import counted, did_you_mean
from geoseg.core.times import Times
from geoseg.errors import GeosegError, ModelError
from geoseg.models.card import OTHER_COLOR, Band, Card

Json: TypeAlias = Any
"""Whatever JSON can hold."""

_FIELDS: dict[str, type] = {"bands": Band, "classes": Class, "times": Times}
_FREE = ("framework", "facts")  # whatever their readers make of it
_SHORT_KEYS = ("mean", "std", "scale", "offset", "clip")
_NEEDED = {"bands": '["red", "green", "blue"]', "classes": '["background", "building"]'}
"""Fields without which there is no card, and what to write for instance."""
_KINDS: Mapping[str, tuple[Any, str]] = {
    "bands": ((Sequence,), _NEEDED["bands"]),
    "classes": ((Sequence, Mapping), _NEEDED["classes"]),
    "framework": ((Mapping,), '{"family": "smp", "arch": "Unet"}'),
    "facts": ((Mapping,), '{"author": "…"}'),
}
"""What these fields are, and what to write for instance."""
_TWINS = (("mean", "offset"), ("std", "scale"))
"""Two names of one number."""
_MOST = 1 << 24  # bytes of a file that is read as JSON
_DEEPEST = 32  # levels of its objects and lists


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a stranger's.

    Raises:
        ModelError: It is not a JSON object, larger than 16 MB, or nested too deeply.
    """
    try:
        if path.stat().st_size > _MOST:
            raise ModelError(
                f"{path} has {path.stat().st_size} bytes: too many for a card or a "
                "configuration"
            )
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds a {type(found).__name__}, not a JSON object")
    level: list[Any] = [found]
    for _ in range(_DEEPEST):
        inner = (v.values() if isinstance(v, dict) else v for v in level)
        level = [v for values in inner for v in values if isinstance(v, (dict, list))]
    if level:
        raise ModelError(f"{path} is nested more than {_DEEPEST} levels deep")
    return found


def card_from_dict(
    plain: Mapping[str, Any], *, name: str = "model", where: str | None = None
) -> Card:
    """Return the card that a plain dictionary describes.

    Args:
        plain: The fields of `Card`; only `bands` and `classes` are needed. Bands are
            names, or dictionaries with the fields of `Band`; classes are names, a
            mapping of name to `#RRGGBB`, or dictionaries with `name` and optionally
            `value` and `color`. `scale`, `offset`, `clip`, or `mean` and `std`, one
            number (pair) for all bands or one per band, set the bands' scaling.
            `times` may be a number. Where `bands` is left out `modalities` may give
            them in its place. The
            only class of a network with one sigmoid, or one mask, gets a background
            before it.
        name: What the model is called where the dictionary does not say.
        where: Whose card it is, for messages; None: that name's.

    Raises:
        ModelError: A field is missing, unknown, or makes no sense; it is named.
    """
    if not isinstance(plain, Mapping):
        raise ModelError(
            f"{where or f'the card of {name!r}'} is a {type(plain).__name__}: it has "
            f"fields, such as {', '.join(_NEEDED)}"
        )
    plain = {k: v for k, v in plain.items() if not str(k).startswith("#")}
    plain = _with_modalities(plain)
    name = str(plain.get("name", name))
    where = where or f"the card of {name!r}"
    for key, example in _NEEDED.items():
        if not plain.get(key):
            raise ModelError(f"{where} lacks the field {key!r}: write {key}: {example}")
    _check_kinds(plain, where)
    try:
        values = {k: v for k, v in plain.items() if k not in (*_SHORT_KEYS, *_FREE)}
        values |= {"name": name, "bands": _bands(plain), "classes": _classes(plain)}
        if "overlap" not in values and isinstance(values.get("window"), int):
            values["overlap"] = max(0, min(64, values["window"] // 4 * 2))
        if isinstance(values.get("times"), int):
            values["times"] = {"count": values["times"]}
        card = _adapter().validate_json(json.dumps(values, default=_jsonable))
        free: Any = {k: dict(plain[k]) for k in _FREE if k in plain}
        return replace(card, **free)
    except ValidationError as error:
        raise ModelError(f"{where} is wrong: {_explained(error)}") from None
    except (GeosegError, TypeError, ValueError, LookupError, RecursionError) as error:
        raise ModelError(f"{where} is wrong: {error}") from error


def _check_kinds(plain: Mapping[str, Any], where: str) -> None:
    """Raise where a field is no list or table as it must be, or is said twice."""
    for key, (kinds, example) in _KINDS.items():
        text = isinstance(plain.get(key), str) and key != "bands"
        if key in plain and (text or not isinstance(plain[key], kinds)):
            raise ModelError(
                f"{where} is wrong: {key!r} cannot be {str(plain[key])[:60]!r}: write "
                f"{key}: {example}"
            )
    twice = next((pair for pair in _TWINS if plain.keys() >= {*pair}), None)
    if twice is not None:
        raise ModelError(
            f"{where} is wrong: {twice[0]!r} and {twice[1]!r} are one number: leave "
            "one of them out"
        )
    names = plain["classes"]
    colors = isinstance(names, Mapping) and all("#" in str(v) for v in names.values())
    if not colors and isinstance(names, Mapping) and all(k.isdigit() for k in names):
        listed = json.dumps(list(map(str, names.values())), ensure_ascii=False)
        raise ModelError(
            f"{where} is wrong: 'classes' gives names by number: give them in the "
            f"order of the channels, classes: {listed}"
        )


@cache
def _adapter() -> TypeAdapter[Card]:
    return TypeAdapter(Card)


def _jsonable(value: object) -> Json:
    """Return a class of a table given in Python as JSON has it, or a NumPy number."""
    if isinstance(value, (Band, Class, Times)):
        return asdict(value)
    return value.item()  # type: ignore[attr-defined]


def _explained(error: ValidationError) -> str:
    """Return what is wrong with the first field that is, and what it might be."""
    found = error.errors(include_url=False)
    unknown = [e for e in found if e["type"] == "unexpected_keyword_argument"]
    first = (unknown or found)[0]
    field = ".".join(map(str, first["loc"]))
    if unknown:
        of: Any = _FIELDS.get(str(first["loc"][0]), Card)
        known = [f.name for f in fields(of)] + list(_SHORT_KEYS) * (of is Card)
        close = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
        return f"unknown field {field!r}: {hint}"
    instead = (
        "" if first["type"] == "missing" else f", not {str(first['input'])[:60]!r}"
    )
    if first["type"] == "literal_error":
        known = re.findall(r"'([^']+)'", first["msg"])
        instead += did_you_mean(str(first["input"]), known)
    return f"{field!r}: {first['msg'][0].lower()}{first['msg'][1:]}{instead}"


def _with_modalities(plain: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields with bands that only the modalities name in full."""
    given = plain.get("modalities")
    if not isinstance(given, Mapping) or plain.get("bands"):
        return plain
    rows = {str(k): list(map(_row, bands)) for k, bands in given.items()}
    return {
        **plain,
        "bands": [row for bands in rows.values() for row in bands],
        "modalities": {k: [r.get("name") for r in bands] for k, bands in rows.items()},
    }


def _bands(plain: Mapping[str, Any]) -> list[Json]:
    given = plain["bands"]
    if isinstance(given, str):
        given = [part.strip() for part in given.split(",")]
    steps = {
        "offset": _per_band(plain, "mean" if "mean" in plain else "offset", len(given)),
        "scale": _per_band(plain, "std" if "std" in plain else "scale", len(given)),
        "clip": _per_band(plain, "clip", len(given)),
    }
    return [
        {k: values[i] for k, values in steps.items() if values[i] is not None}
        | (_row(band) if not isinstance(band, Band) else asdict(band))
        for i, band in enumerate(given)
    ]


def _row(given: Json) -> dict[str, Any]:
    """Return a band or a class, of which a name may be all that is said."""
    row = dict(given) if isinstance(given, Mapping) else {"name": str(given)}
    if "name" in row:
        row["name"] = str(row["name"])
    return row


def _per_band(plain: Mapping[str, Any], key: str, count: int) -> list[Any]:
    """Return one value per band from one for all, or a list of one per band."""
    value = plain.get(key)
    inner = value[0] if key == "clip" and value is not None else value
    several = isinstance(inner, Sequence) and not isinstance(inner, str)
    values = list(value or ()) if several else [value] * count
    if len(values) != count:
        raise ModelError(
            f"{key} has {counted(len(values), 'value')} for {counted(count, 'band')}"
        )
    return values


def _classes(plain: Mapping[str, Any]) -> list[Json]:
    given = plain["classes"]
    if isinstance(given, Mapping):
        given = [{"name": name, "color": color} for name, color in given.items()]
    rows = [asdict(i) if isinstance(i, Class) else _row(i) for i in given]
    defaults = colors_of([str(row.get("name", "")) for row in rows])
    table = [
        {"value": i, "color": color} | row
        for i, (row, color) in enumerate(zip(rows, defaults, strict=True))
    ]
    score = plain.get("activation") == "sigmoid" or (
        plain.get("output") in ("probabilities", "labels")
    )
    if len(table) > 1 or plain.get("task", "semantic") != "semantic" or not score:
        return table
    row = table[0]
    row |= {"value": row["value"] or 1}
    if row["color"] == default_color(0):
        row["color"] = default_color(1)
    return [{"value": 0, "name": "background", "color": OTHER_COLOR}, row]


def card_to_dict(card: Card) -> dict[str, Any]:
    """Return the card as plain values; fields at their defaults are left out."""
    plain = _told(card) | {
        "bands": [_told(band) for band in card.step_bands],
        "classes": [asdict(c) for c in card.classes],
    }
    if card.times is not None:
        plain["times"] = _told(card.times)
    return plain | {key: dict(plain[key]) for key in _FREE if key in plain}


def _told(value: Band | Card | Times) -> dict[str, Any]:
    """Return the fields that are not at their defaults."""
    defaults = {
        f.name: f.default if f.default_factory is MISSING else f.default_factory()
        for f in fields(value)
    }
    found = {name: getattr(value, name) for name in defaults}
    return {k: v for k, v in found.items() if v != defaults[k]}
