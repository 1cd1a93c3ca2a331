"""Numbers as people read them."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any, Literal

from geoseg.location import redact as redact  # noqa: PLC0414 - most look for it here


def number(value: float) -> str:
    """Return three significant digits, with separators past a thousand.

    >>> number(0.012345), number(3.14159), number(271.8), number(12345.6)
    ('0.0123', '3.14', '272', '12,346')
    """
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    value = float(f"{value:.3g}")
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 6)}f}"


def counted(count: int, noun: str) -> str:
    """Return how many of something there are.

    >>> counted(1, "block"), counted(1200, "block")
    ('1 block', '1,200 blocks')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def percent(part: float) -> str:
    """Return a share, never as 0 or 100 when it is not quite.

    >>> percent(0.5), percent(0), percent(0.00001), percent(0.99999)
    ('50.0 %', '0 %', '< 0.1 %', '> 99.9 %')
    """
    if not math.isfinite(part):
        return "–"
    if part in (0, 1):
        return f"{part:.0%}".replace("%", " %")
    if part < 0.0005:
        return "< 0.1 %"
    if part > 0.9995:
        return "> 99.9 %"
    return f"{100 * part:.1f} %"


AreaUnit = Literal["ha", "km2"]
AREA_UNITS = {"ha": 1e4, "km2": 1e6}
"""Square metres of each unit that areas may be told in, too."""


def area_unit(m2: float) -> tuple[float, str]:
    """Return m² per unit and the unit in which an area reads well.

    >>> area_unit(5e9), area_unit(5e5), area_unit(900)
    ((1000000.0, 'km²'), (10000.0, 'ha'), (1.0, 'm²'))
    """
    if m2 >= 1e7:
        return 1e6, "km²"
    return (1e4, "ha") if m2 >= 1e5 else (1.0, "m²")


def span_of_time(seconds: float) -> str:
    """Return a duration.

    >>> span_of_time(6.95), span_of_time(200), span_of_time(8000)
    ('7.0 s', '3 min 20 s', '2 h 13 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def when(text: str | None) -> str:
    """Return a moment in UTC, to the minute; empty where there is none."""
    if not text:
        return ""
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean …?` for the known name that is nearest, or nothing.

    >>> did_you_mean("watr", ["Water", "forest"]), did_you_mean("road", ["forest"])
    ("; did you mean 'Water'?", '')
    """
    near = nearest(name, known)
    return "" if near is None else f"; did you mean {near!r}?"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is nearest, in any case; None where none is near."""
    by_fold = {each.casefold(): each for each in known}
    near = difflib.get_close_matches(name.casefold(), list(by_fold), n=1)
    return by_fold[near[0]] if near else None


def size(bytes_: float) -> str:
    """Return bytes as people read them.

    >>> size(1234567890)
    '1.23 GB'
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if bytes_ < 1000 or unit == "TB":
            return f"{bytes_:.3g} {unit}"
        bytes_ /= 1000
    raise AssertionError("unreachable: TB ends the loop")


_SIZE = re.compile(r"\s*([0-9.]+)\s*([kmgt]?)i?b?\s*", re.IGNORECASE)
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


def bytes_of(value: float | str | None) -> float | None:
    """Return bytes that are given as a number, or as people write them.

    >>> bytes_of("8GB"), bytes_of("500 mb"), bytes_of(10), bytes_of(None)
    (8000000000.0, 500000000.0, 10, None)

    Raises:
        ValueError: It is not a size.
    """
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value)
    if match is None:
        raise ValueError(f"{value!r} is not a size such as 8GB or 500MB")
    return float(match[1]) * _UNITS[match[2].lower()]


_TIME = re.compile(r"\s*([0-9.]+)\s*(s|sec|min|m|h|d)?\s*", re.IGNORECASE)
_SECONDS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def seconds_of(value: float | str) -> float:
    """Return seconds that are given as a number, or as people write them.

    >>> seconds_of("10min"), seconds_of("2 h"), seconds_of("90"), seconds_of(5)
    (600.0, 7200.0, 90.0, 5.0)

    Raises:
        ValueError: It is not a duration.
    """
    match = _TIME.fullmatch(str(value))
    if match is None:
        raise ValueError(f"{value!r} is not a duration such as 90s, 10min or 2h")
    return float(match[1]) * _SECONDS[(match[2] or "s").lower()]


def plain(value: object, text: Callable[[str], str] = redact) -> Any:  # noqa: ANN401, PLR0911
    """Return a value as JSON has it; what JSON lacks as text, NaN as null.

    Dataclasses and models of pydantic become objects, tuples and sets lists, NumPy's
    scalars and arrays numbers and lists.

    Args:
        value: Anything.
        text: What becomes of strings; by default secrets are cut out.

    >>> plain({"a": (1, 2.5, None), 3: "https://u:p@host/x", "b": float("nan")})
    {'a': [1, 2.5, None], '3': 'https://host/x', 'b': None}
    """
    if isinstance(value, str):
        return text(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, (bool, int, type(None))):
        return value
    if isinstance(value, Mapping):
        return {str(k): plain(v, text) for k, v in value.items()}
    if isinstance(value, (Sequence, AbstractSet)) and not isinstance(
        value, (bytes, bytearray)
    ):
        return [plain(v, text) for v in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name), text) for f in fields(value)}
    for dump in ("model_dump", "tolist"):  # pydantic, NumPy
        if hasattr(value, dump):
            return plain(getattr(value, dump)(), text)
    return text(str(value))
