"""Cards as JSON: STAC Items with the Machine Learning Model extension, and plain ones.

What the extension has no field for is kept in fields named `geoseg:…`, next to it:

| field of the item's properties | is |
|---|---|
| `geoseg:window`, `geoseg:overlap`, `geoseg:multiple` | sides in pixels, see `Card` |
| `geoseg:output`, `geoseg:activation`, `geoseg:threshold` | what is answered |
| `geoseg:things` | see `Card` |
| `geoseg:numbers` | what the pixels were that it was trained on |
| `geoseg:resolution` | metres per pixel it was trained on |
| `geoseg:dtypes`, `geoseg:value_range`, `geoseg:fill`, `geoseg:nodata` | see `Card` |
| `geoseg:framework` | how to build the network |
| `geoseg:classes` | names of classes that are more than the extension allows |
| `geoseg:facts` | anything else |
| `geoseg:offset`, `geoseg:scale`, `geoseg:clip` of `bands` | a band's scaling |

Sources: STAC 1.1; MLM extension 1.5.2; classification extension 1.1; file 2.1.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geoseg.core.files import replacing
from geoseg.errors import ModelError
from geoseg.models.card import Band, Card, Task
from geoseg.models.identity import file_sha256
from geoseg.models.plain import Json, card_from_dict, card_to_dict, read_json

MLM = "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"
_FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
_EO = "https://stac-extensions.github.io/eo/v2.0.0/schema.json"
_CLASSIFICATION = "https://stac-extensions.github.io/classification/v1.1.0/schema.json"

_TASKS: dict[Task, str] = {
    "semantic": "semantic-segmentation",
    "instance": "instance-segmentation",
    "panoptic": "panoptic-segmentation",
}
_OWN = (
    "things", "window", "overlap", "multiple", "output", "activation", "threshold",
    "numbers", "resolution", "dtypes", "value_range", "fill", "nodata", "framework",
    "facts",
)  # fmt: skip
_IN_TIME = ("times", "layout", "modalities", "inputs")
"""Our own fields that are written only where they say something."""
_ARTIFACTS = {
    ".safetensors": "safetensors.torch.save_file",
    ".pt2": "torch.export.save",
    ".pt": "torch.jit.save",
    ".onnx": "onnx",
    ".ckpt": "torch.save",
}
_NO_WEIGHTS = "geoseg.card"
_SHA256 = "1220"  # multihash: SHA-256, 32 bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFile:
    """The file with the weights, as a card names it."""

    href: str
    """Relative to the card's folder."""
    sha256: str | None
    """What the file's SHA-256 must be, in hex; None where the card does not say."""


def read_card(path: Path) -> Card:
    """Return the card in a JSON file, STAC or plain; see `read_item`."""
    return read_item(path)[0]


def card_file(path: Path) -> Path | None:
    """Return the file of a model's card, or where that of a folder belongs.

    Args:
        path: A model folder, a card, or a model file with a card beside it.

    Returns:
        None where there is no such model, or a file without a card.
    """
    if not path.exists():
        return None
    if path.is_dir() or path.suffix == ".json":
        return path / "card.json" if path.is_dir() else path
    own, named = path.with_suffix(".json"), path.with_name(path.name + ".json")
    found = (own, named, path.with_name("card.json"))
    return next((each for each in found if each.is_file()), None)


def card_beside(path: Path, inside: Callable[[Path], Card] | None = None) -> Card:
    """Return the card that lies beside a model file, as a JSON file.

    Args:
        path: The model file.
        inside: Makes a card of what the file holds, where there is none beside it.

    Raises:
        ModelError: There is none.
    """
    own = path.with_suffix(".json")
    if (beside := card_file(path)) is not None and beside.is_file():
        return read_card(beside)
    if inside is not None:
        return inside(path)
    raise ModelError(
        f"{path} has no card beside it: write {own.name} with bands and their mean and "
        f"std as in training, classes, and window (geoseg model new {own.name})"
    )


def read_item(path: Path) -> tuple[Card, WeightsFile | None]:
    """Return the card in a JSON file, and the asset with the weights where it has one.

    Raises:
        ModelError: The file is not JSON, or lacks a field; file and field are named.
    """
    item, where = read_json(path), f"the card {path}"
    try:
        if item.get("type") == "Feature":
            plain, asset = _plain(item), _asset(item)
        else:
            href, sha256 = item.pop("weights", None), item.pop("sha256", None)
            plain, asset = (
                item,
                WeightsFile(href=str(href), sha256=sha256) if href else None,
            )
        plain = _unpacked(plain)
    except KeyError as error:
        raise ModelError(f"{where} lacks the field {error.args[0]!r}") from error
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise ModelError(f"{where} is wrong: {error}") from error
    return card_from_dict(plain, name=called(path), where=where), asset


def called(card: Path) -> str:
    """Return what a model is called by its card's file, or the folder of `card.json`.

    >>> called(Path("models/roads.json")), called(Path("models/roads/card.json"))
    ('roads', 'roads')
    """
    return card.resolve().parent.name if card.name == "card.json" else card.stem


def _plain(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item as a plain card."""
    properties = item["properties"]
    if not any(key.startswith("mlm:") for key in properties):
        raise ModelError("it is an item of rasters, and no card")
    single_input, output = properties["mlm:input"][0], properties["mlm:output"][0]
    tasks = {v: k for k, v in _TASKS.items()}
    found = [tasks[t] for t in properties["mlm:tasks"] if t in tasks]
    if not found:
        raise ModelError(
            f"the model is for {', '.join(properties['mlm:tasks'])}, not segmentation"
        )
    own = {f"geoseg:{key}": key for key in (*_OWN, *_IN_TIME)}
    values = {own[key]: value for key, value in properties.items() if key in own}
    if "window" not in values and "shape" in single_input["input"]:
        values |= _window(single_input["input"])
    return values | {
        "name": properties.get("geoseg:name", properties["mlm:name"]),
        "bands": _bands(single_input, properties.get("bands", [])),
        "classes": _classes(
            output["classification:classes"], properties.get("geoseg:classes")
        ),
        "task": found[0],
        "description": properties.get("description", ""),
        "license": properties.get("license"),
    }


def _window(structure: Mapping[str, Any]) -> dict[str, int]:
    """Return the window that a foreign card implies by the shape of its input."""
    sides = dict(zip(structure["dim_order"], structure["shape"], strict=False))
    side = int(sides["height"])
    return {"window": side, "overlap": side // 8 // 2 * 2} if side > 0 else {}


def _bands(
    single_input: Mapping[str, Any], described: list[Mapping[str, Any]]
) -> list[Json]:
    names = [b if isinstance(b, str) else b["name"] for b in single_input["bands"]]
    steps = single_input.get("value_scaling") or [None]
    if len(steps) == 1:
        steps = steps * len(names)
    if len(steps) != len(names):
        raise ModelError(f"{len(steps)} value scalings for {len(names)} bands")
    about = {b.get("name"): b for b in described}
    return [
        {
            "name": name,
            "common_name": about.get(name, {}).get("eo:common_name"),
            "static": about.get(name, {}).get("geoseg:static", False),
            "wavelength": about.get(name, {}).get("eo:center_wavelength"),
        }
        | _scaling(step, about.get(name, {}))
        for name, step in zip(names, steps, strict=True)
    ]


def _scaling(
    step: Mapping[str, Json] | None, band: Mapping[str, Json]
) -> dict[str, Json]:
    """Return a band's offset, scale and clip: our own fields, else the extension's."""
    own = ("offset", "scale", "clip")
    stated = {k: band[f"geoseg:{k}"] for k in own if f"geoseg:{k}" in band}
    return stated or (_foreign_scaling(step) if step else {})


def _foreign_scaling(step: Mapping[str, Json]) -> dict[str, Json]:
    match step:
        case {"type": "z-score", "mean": mean, "stddev": stddev}:
            return {"offset": mean, "scale": stddev}
        case {"type": "min-max", "minimum": low, "maximum": high}:
            return {"offset": low, "scale": high - low}
        case {"type": "clip", "minimum": low, "maximum": high}:
            return {"clip": (low, high)}
        case {"type": "offset", "value": value}:
            return {"offset": -value}  # the extension adds it
        case {"type": "scale", "value": value} if value:
            return {"scale": 1 / value}  # the extension multiplies by it
    raise ModelError(
        f"the value scaling {step.get('type')!r} cannot be applied: write "
        "geoseg:offset, geoseg:scale and geoseg:clip into 'bands'"
    )


def _classes(rows: list[Mapping[str, Any]], names: list[str] | None) -> list[Json]:
    if names is not None and len(names) != len(rows):
        raise ModelError(f"geoseg:classes has {len(names)} names for {len(rows)}")
    table = []
    for index, row in enumerate(rows):
        stated = row.get("title") or row.get("name") or row["description"]
        of = {"value": row["value"], "name": stated if names is None else names[index]}
        if isinstance(row.get("color_hint"), str):
            of["color"] = f"#{row['color_hint']}"
        table.append(of)
    return table


def _asset(item: Mapping[str, Any]) -> WeightsFile | None:
    for asset in item["assets"].values():
        if "mlm:model" not in asset.get("roles", []):
            continue
        if asset.get("mlm:artifact_type") == _NO_WEIGHTS:
            return None
        checksum = asset.get("file:checksum")
        if checksum is not None and not re.fullmatch(r"1220[0-9a-f]{64}", checksum):
            raise ModelError(f"checksum {checksum!r} is not a SHA-256 multihash")
        return WeightsFile(
            href=asset["href"], sha256=checksum[len(_SHA256) :] if checksum else None
        )
    return None


def write_card(card: Card, path: Path, *, weights: Path | None = None) -> None:
    """Write a card as a STAC Item.

    Args:
        card: The card; reading it back gives an equal one.
        path: Where, usually `card.json` in the model's folder.
        weights: The file with the weights, in the same folder; its size and SHA-256
            are written down.
    """
    try:
        text = json.dumps(
            card_to_item(card, weights=weights), indent=2, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise ModelError(f"the card of {card.name!r} is not JSON: {error}") from error
    with replacing(path) as new:
        new.write_text(text + "\n", encoding="utf-8")


def card_to_item(card: Card, *, weights: Path | None = None) -> dict[str, Any]:
    """Return the card as a STAC Item; see the table at the top of this module."""
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [MLM, _EO, _CLASSIFICATION, _FILE],
        "id": _slug(card.name),
        "geometry": None,
        "properties": _properties(card),
        "links": [],
        "assets": {"model": _model_asset(weights)},
    }


def _properties(card: Card) -> dict[str, Any]:
    arch = card.framework.get("arch") or card.framework.get("family") or "custom"
    properties: dict[str, Any] = {
        "datetime": None,
        "start_datetime": "1900-01-01T00:00:00Z",
        "end_datetime": "9999-12-31T23:59:59Z",
        "description": card.description,
        "mlm:name": _slug(card.name),
        "mlm:architecture": str(arch),
        "mlm:tasks": [_TASKS[card.task]],
        "mlm:input": [_input(card)],
        "mlm:output": [_output(card)],
        "bands": [_described(band) for band in card.step_bands],
    }
    if card.license is not None:
        properties["license"] = card.license
    if properties["mlm:name"] != card.name:
        properties["geoseg:name"] = card.name
    if any(_word(c.name) != c.name for c in card.classes):
        properties["geoseg:classes"] = [c.name for c in card.classes]
    for key in _OWN:
        value = getattr(card, key)
        if value is not None and value != {}:
            properties[f"geoseg:{key}"] = _packed(value)
    plain = card_to_dict(card)
    in_time = {f"geoseg:{k}": _packed(plain[k]) for k in _IN_TIME if k in plain}
    return properties | in_time


def _input(card: Card) -> dict[str, Any]:
    dtype = card.dtypes[0] if card.dtypes else "float32"
    return {
        "name": "windows",
        "bands": [band.name for band in card.step_bands],
        "input": {
            "shape": [-1, len(card.bands), card.window, card.window],
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": dtype,
        },
        "value_scaling": [_step(band) for band in card.step_bands],
    }


def _step(band: Band) -> dict[str, Any]:
    if band.clip is None:
        return {"type": "z-score", "mean": band.offset, "stddev": band.scale}
    low, high = band.clip
    return {
        "type": "processing",
        "format": "python",
        "expression": f"(min(max(x, {low}), {high}) - {band.offset}) / {band.scale}",
    }


def _described(band: Band) -> dict[str, Any]:
    described: dict[str, Any] = {"name": band.name}
    if band.common_name is not None:
        described["eo:common_name"] = band.common_name
    described["geoseg:offset"] = band.offset
    described["geoseg:scale"] = band.scale
    if band.clip is not None:
        described["geoseg:clip"] = _packed(band.clip)
    if band.static:
        described["geoseg:static"] = True
    if band.wavelength is not None:
        described["eo:center_wavelength"] = band.wavelength
    return described


def _output(card: Card) -> dict[str, Any]:
    labels = card.output == "labels"
    dims = ["height", "width"] if labels else ["class", "height", "width"]
    sides = [card.window, card.window]
    return {
        "name": card.output,
        "tasks": [_TASKS[card.task]],
        "result": {
            "shape": [-1, *sides] if labels else [-1, card.channels, *sides],
            "dim_order": ["batch", *dims],
            "data_type": "uint16" if labels else "float32",
        },
        "classification:classes": [
            {
                "value": c.value,
                "name": _word(c.name),
                "description": c.name or "_",
                "color_hint": c.color[1:],
            }
            for c in card.classes
        ],
    }


def _word(name: str) -> str:
    """Return a class's name as the classification extension allows it."""
    return re.sub(r"[^0-9A-Za-z_-]", "_", name) or "_"


def _model_asset(weights: Path | None) -> dict[str, Any]:
    if weights is None:
        return {
            "href": "./card.json",
            "title": "This card; the model has no weights",
            "type": "application/geo+json",
            "roles": ["mlm:model"],
            "mlm:artifact_type": _NO_WEIGHTS,
        }
    return {
        "href": f"./{weights.name}",
        "title": "Weights",
        "type": "application/octet-stream",
        "roles": ["mlm:model", "mlm:weights"],
        "mlm:artifact_type": _ARTIFACTS.get(weights.suffix, weights.suffix or "file"),
        "file:size": weights.stat().st_size,
        "file:checksum": _SHA256 + file_sha256(weights),
    }


def _slug(name: str) -> str:
    """Return the name as the extension allows it: Latin letters, digits, `_.-`."""
    slug = re.sub(r"[^a-zA-Z0-9_.\- ]", "-", name).strip("_.- ")
    if not re.match(r"[a-zA-Z]", slug):
        slug = f"model-{slug}".strip("_.- ")
    return slug if len(slug) > 2 else f"model-{slug}"


def _packed(value: Json) -> Json:
    """Return a value as JSON has it: tuples as lists, NaN and infinities as text."""
    if isinstance(value, Mapping):
        return {k: _packed(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_packed(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": repr(value)}
    return value


def _unpacked(value: Json) -> Json:
    if isinstance(value, Mapping):
        if set(value) == {"number"} and value["number"] in {"nan", "inf", "-inf"}:
            return float(value["number"])
        return {k: _unpacked(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_unpacked(v) for v in value]
    return value
