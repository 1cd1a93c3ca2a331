"""Which steps in time a model takes, and which of a series these are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from geoseg.errors import ModelError, RasterError

_EVERY = re.compile(r"month|year|(\d+ )?days?|week")
_YEAR = 366  # days that a year has at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """The steps in time that a model looks at, oldest first."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid")

    count: Annotated[int, Field(ge=1, le=1000)]
    """How many."""
    every: str | None = None
    """How far apart they are: `day`, `week`, `month`, `year`, or `16 days`. Steps of
    months and years follow each other in the calendar; others may be off by half."""
    days: tuple[Annotated[int, Field(ge=1, le=_YEAR)], ...] | None = None
    """The day of the year that each shows, 1 … 366: of a longer series those are taken
    that are nearest to these."""
    within: Annotated[int, Field(ge=0, le=_YEAR // 2)] = 16
    """How many days off `days` a step may be."""

    def __post_init__(self) -> None:
        if self.every is not None and not _EVERY.fullmatch(self.every):
            raise ModelError(
                f"times every {self.every!r}: write day, week, month, year or 16 days"
            )
        if self.days is not None and len(self.days) != self.count:
            raise ModelError(f"times has {len(self.days)} days for {self.count} steps")
        if self.days is not None and self.every is not None:
            raise ModelError("times has days and every: one of them is enough")

    @property
    def told(self) -> str:
        """What it asks for, in words.

        >>> Times(count=12, every="month").told
        '12 steps, every month'
        """
        steps = f"{self.count} step{'s' * (self.count > 1)}"
        if self.days is not None:
            return f"{steps}, of days {', '.join(map(str, self.days))} of a year"
        return steps if self.every is None else f"{steps}, every {self.every}"

    def pick(self, steps: Sequence[str], where: str) -> tuple[str, ...]:
        """Return the steps of a series that are meant, oldest first.

        Args:
            steps: ISO dates of the starts of its steps, oldest first.
            where: Whose they are, for messages.

        Raises:
            RasterError: One is missing, which is named; or there are others, too.
        """
        if self.days is not None:
            return self._of_year(steps, where)
        missing = self._missing(steps)
        if missing:
            raise RasterError(
                f"{where} lacks {missing}: it shows {_listed(steps)}, the model takes "
                f"{self.told}"
            )
        if len(steps) > self.count:
            raise RasterError(
                f"{where} shows {_listed(steps)}, the model takes {self.told}: choose "
                "them, as in --dates 2025-04/2025-09, or array.isel(time=slice(0, "
                f"{self.count}))"
            )
        return tuple(steps)

    def _missing(self, steps: Sequence[str]) -> str:
        """Return which steps are missing, in words; nothing where none is."""
        if self.every is None or not steps:
            lack = self.count - len(steps)
            return f"{lack} of {self.count} dates" if lack > 0 else ""
        have = [date.fromisoformat(s[:10]) for s in steps]
        gone = [
            self._named(due)
            for due in (self._after(have[0], i) for i in range(self.count))
            if not any(self._is_same(due, day) for day in have)
        ]
        return f"the date{'s' * (len(gone) > 1)} {', '.join(gone)}" if gone else ""

    def _after(self, first: date, count: int) -> date:
        """Return the first day of the step that comes `count` steps after another."""
        if self.every == "year":
            return date(first.year + count, 1, 1)
        if self.every == "month":
            months = first.year * 12 + first.month - 1 + count
            return date(months // 12, months % 12 + 1, 1)
        return first + timedelta(days=count * self._spacing)

    @property
    def _spacing(self) -> int:
        number = re.match(r"\d+", self.every or "")
        return 7 if self.every == "week" else int(number[0]) if number else 1

    def _is_same(self, due: date, day: date) -> bool:
        if self.every in ("month", "year"):
            return self._named(due) == self._named(day)
        return 2 * abs((due - day).days) <= self._spacing - 1

    def _named(self, day: date) -> str:
        return day.isoformat()[: {"year": 4, "month": 7}.get(self.every or "", 10)]

    def _of_year(self, steps: Sequence[str], where: str) -> tuple[str, ...]:
        found = [self._nearest(day, steps, where) for day in self.days or ()]
        ends = [date.fromisoformat(s[:10]) for s in (found[0], found[-1])]
        if sorted(set(found)) != found or (ends[1] - ends[0]).days > _YEAR:
            raise RasterError(
                f"{where} shows {_listed(steps)}, of which {', '.join(found)} are "
                f"nearest to what the model takes ({self.told}): choose the steps of "
                "one season, oldest first"
            )
        return tuple(found)

    def _nearest(self, day: int, steps: Sequence[str], where: str) -> str:
        """Return the step whose day of the year is nearest to one."""

        def off(step: str) -> int:
            apart = abs(date.fromisoformat(step[:10]).timetuple().tm_yday - day)
            return min(apart, 365 - apart) if apart <= 365 else 0

        near = sorted(steps, key=off)
        when = f"{date(2024, 1, 1) + timedelta(days=day - 1):%d %B}"
        if not near or off(near[0]) > self.within:
            raise RasterError(
                f"{where} lacks a date within {self.within} days of {when} (day {day} "
                f"of a year): it shows {_listed(steps)}"
            )
        same = sorted(s for s in near if off(s) <= self.within)
        first, last = (date.fromisoformat(s[:10]) for s in (same[0], same[-1]))
        if (last - first).days > _YEAR // 2:
            raise RasterError(
                f"{where} shows {when} (day {day} of a year) of several years "
                f"({', '.join(same)}): choose one year's"
            )
        return near[0]


def _listed(steps: Sequence[str]) -> str:
    """Return steps as a message shows them."""
    if not steps:
        return "no dates"
    if len(steps) > 14:
        return f"{len(steps)} dates ({steps[0]} … {steps[-1]})"
    return f"{len(steps)} date{'s' * (len(steps) > 1)} ({', '.join(steps)})"
