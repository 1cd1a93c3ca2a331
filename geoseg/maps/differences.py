"""What differs between the settings that a map was begun with and those of now."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from geoseg.core.text import redact
from geoseg.rasters.file_versions import CONTENT, changes

Facts = Mapping[str, Any]

_INNER = ("source", "converted", "resampled", "warped", "placed")
"""Under which a raster that something was made of keeps the raster itself."""


def differences(then: Facts, now: Facts) -> list[str]:
    """Return in words what differs, most telling first; nothing where all is the same.

    Args:
        then: What changes the answer, as a store keeps it.
        now: The same, as it is asked for now.
    """
    different = {k for k in {*then, *now} if then.get(k) != now.get(k)}
    words = list(_of_raster(then.get("source"), now.get("source")))
    if "grid" in different:
        words += _of_grids(then.get("grid"), now.get("grid"))
    if "model_name" in different:
        words.append(_both("model", then.get("model_name"), now.get("model_name")))
    elif "model" in different:
        # Some models are fitted to the raster, and differ because it does.
        words += [] if words else [_of_model(then, now)]
    others = different - {"source", "grid", "model", "model_name"}
    words += [_both(key, then.get(key), now.get(key)) for key in sorted(others)]
    return [redact(text) for text in words]


def same_raster(then: Facts, now: Facts) -> bool:
    """Whether both were asked of the same raster, however it is read."""
    old, new = then.get("source"), now.get("source")
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return bool(old == new)
    return _unwrapped(old)[0] == _unwrapped(new)[0]


def replaced(then: Any, now: Any) -> bool:  # noqa: ANN401 - JSON
    """Whether files at the same place hold something else than they did.

    Args:
        then: A source's identity, as a store keeps it.
        now: The same, of what lies there now.
    """
    if not isinstance(then, Mapping) or not isinstance(now, Mapping):
        return False
    (old, _), (new, _) = _unwrapped(then), _unwrapped(now)
    same = "path" in new and old.get("path") == new["path"]
    return same and any(old.get(key) != new.get(key) for key in CONTENT)


def _of_raster(then: Any, now: Any) -> Iterator[str]:  # noqa: ANN401 - JSON
    if then == now:
        return
    if not isinstance(then, Mapping) or not isinstance(now, Mapping):
        yield _both("raster", then, now)
        return
    (old, made_then), (new, made_now) = _unwrapped(then), _unwrapped(now)
    if old.get("path") != new.get("path"):
        yield _both("raster", old.get("path"), new.get("path"))
    elif old != new:
        name = Path(str(new.get("path", "the raster"))).name
        yield f"{name} has changed: {', '.join(changes(old, new))}"
    if made_then.get("area") != made_now.get("area"):
        said = [
            "none" if m.get("area") is None else "one" for m in (made_then, made_now)
        ]
        same = said[0] == said[1]
        yield "another area of interest" if same else _both("area of interest", *said)
    if any(made_then.get(k) != made_now.get(k) for k in ("factors", "shifts")):
        yield "units: the raster's numbers are converted otherwise"
    if made_then.get("crs") != made_now.get("crs"):
        yield "another coordinate reference system"


def _unwrapped(identity: Facts) -> tuple[Facts, Facts]:
    """Return the facts of a raster itself, and of what was made of it."""
    made: dict[str, Any] = {}
    while True:
        inner = next((k for k in _INNER if isinstance(identity.get(k), Mapping)), None)
        if inner is None:
            return identity, made
        made |= {k: v for k, v in identity.items() if k != inner}
        identity = identity[inner]


def _of_grids(then: Any, now: Any) -> Iterator[str]:  # noqa: ANN401 - JSON
    (old, *old_shape), (new, *new_shape) = then, now
    sizes = [f"{abs(t[0]):g} x {abs(t[4]):g}" for t in (old, new)]
    if sizes[0] != sizes[1]:
        yield _both("pixel size", *sizes)
        return
    shapes = [f"{width} x {height} px" for height, width in (old_shape, new_shape)]
    if shapes[0] != shapes[1]:
        yield _both("size", *shapes)
    elif old != new:
        yield "the raster covers another extent"


def _of_model(then: Facts, now: Facts) -> str:
    """Return what to say where a model of the same name answers otherwise."""
    if "model_name" not in now:
        return _both("model", then.get("model"), now.get("model"))
    return (
        f"the model {now['model_name']} has changed: its weights, its card, or "
        "how it is asked (tta, scales, prompts, things)"
    )


def _both(key: str, old: object, new: object) -> str:
    """Return both values, cut where they differ and not where they are the same."""
    texts = [v if isinstance(v, str) else json.dumps(v) for v in (old, new)]
    texts = ["none" if t == "null" else t.removesuffix(".0") for t in texts]
    if max(map(len, texts)) > _LONG:
        first = next(
            (i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), 0
        )
        begin = max(0, first - 10)
        texts = [f"{'…' * (begin > 0)}{text[begin : begin + _LONG]}" for text in texts]
    return f"{key}: {texts[0]} there, {texts[1]} now"


_LONG = 80
"""Characters of a value that are shown."""
