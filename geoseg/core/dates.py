"""Spans of time as people write them, and the moments of STAC items; all in UTC."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from geoseg.errors import GeosegError

EPOCH: Final = date(1970, 1, 1)
"""From which days are counted."""
_DAY: Final = re.compile(r"(?P<year>\d{4})(-(?P<month>\d\d?)(-(?P<day>\d\d?))?)?")
_DIGITS: Final = re.compile(r"(\d{4})(\d\d)(\d\d)")
_OPEN: Final = {"", ".."}
_FORMS: Final = (
    "write a year, month or day, or two of them, as in 2025, 2025-05, 2025-05-17, "
    "2025-05/2025-09 or 2025-05-17/.."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """From one moment to before another."""

    start: datetime | None = None
    """None where it has no beginning."""
    end: datetime | None = None
    """The first moment that is not in it any more; None where it has no end."""

    def __contains__(self, moment: datetime) -> bool:
        after = self.start is None or moment >= self.start
        return after and (self.end is None or moment < self.end)

    @property
    def text(self) -> str:
        """Both ends as ISO 8601 has them, `..` where there is none.

        >>> span("2025-05/2025-09").text
        '2025-05-01T00:00:00Z/2025-10-01T00:00:00Z'
        """
        return "/".join(".." if m is None else iso(m) for m in (self.start, self.end))


ALWAYS: Final = Span()


def span(dates: str | date | Sequence[str | date | None]) -> Span:
    """Return the span that dates stand for: whole days, months, years, both ends in.

    >>> span("2025-02").end
    datetime.datetime(2025, 3, 1, 0, 0, tzinfo=datetime.timezone.utc)

    Args:
        dates: A year, a month, a day or a moment; two of them with a `/` between, or
            as a pair; `..` or nothing for an end that is open. Moments without a zone
            are in UTC.

    Raises:
        GeosegError: They are none of these, or end before they begin.
    """
    ends: list[str | date | None]
    if isinstance(dates, str):
        ends = [*dates.strip().split("/")]
    else:
        ends = [dates] if isinstance(dates, date) else [*dates]
    if len(ends) not in {1, 2} or all(e is None or e in _OPEN for e in ends):
        raise GeosegError(f"dates {_shown(dates)}: {_FORMS}")
    first, last = ends[0], ends[-1]
    start = None if first is None or first in _OPEN else _bounds(first, dates)[0]
    end = None if last is None or last in _OPEN else _bounds(last, dates)[1]
    if start is not None and end is not None and end <= start:
        raise GeosegError(f"dates {_shown(dates)} end before they begin")
    return Span(start=start, end=end)


def _bounds(one: str | date, dates: object) -> tuple[datetime, datetime]:
    """Return the first moment of one date, and the first one after it."""
    text = one.strip() if isinstance(one, str) else one.isoformat()
    if "W" in text.upper():  # of a week it would be the Monday
        raise GeosegError(f"dates {_shown(dates)}: {_FORMS}")
    text = _DIGITS.sub(r"\1-\2-\3", text) if _DIGITS.fullmatch(text) else text
    try:
        if (found := _DAY.fullmatch(text)) is None:
            moment = moment_of(text)
            return moment, moment + timedelta(microseconds=1)
        year, month = int(found["year"]), int(found["month"] or 0)
        start = datetime(year, month or 1, int(found["day"] or 1), tzinfo=UTC)
        if found["day"]:
            return start, start + timedelta(days=1)
        after = year * 12 + (month or 12)
        return start, datetime(after // 12, after % 12 + 1, 1, tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise GeosegError(f"dates {_shown(dates)}: {_FORMS} ({error})") from error


def _shown(dates: object) -> str:
    if isinstance(dates, str | date):
        return repr(str(dates))
    return repr([None if d is None else str(d) for d in dates])  # type: ignore[attr-defined]


def moment_of(text: str) -> datetime:
    """Return a moment in UTC, as it is without a zone.

    >>> moment_of("2025-05-01T01:30:00+02:00")
    datetime.datetime(2025, 4, 30, 23, 30, tzinfo=datetime.timezone.utc)

    Raises:
        ValueError: It is none.
    """
    found = datetime.fromisoformat(text.strip().upper())
    aware = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    return aware.astimezone(UTC)


def iso(moment: datetime) -> str:
    """Return a moment as STAC writes it, with parts of a second where it has them.

    >>> iso(moment_of("2025-05-01"))
    '2025-05-01T00:00:00Z'
    """
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def item_moment(item: Mapping[str, Any]) -> datetime | None:
    """Return when a STAC item was sensed; None where it does not tell.

    Where it has no `datetime`, the middle of its start and end stands for it.
    """
    properties = item.get("properties")
    told = properties if isinstance(properties, Mapping) else {}
    try:
        if isinstance(text := told.get("datetime"), str) and text:
            return moment_of(text)
        start, end = (
            moment_of(str(told[f"{which}_datetime"])) for which in ("start", "end")
        )
    except (KeyError, ValueError):
        return None
    return start + (end - start) / 2
