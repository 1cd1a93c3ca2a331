"""How what a file calls a class becomes a value of the class table."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from geoseg.core.classes import Class, class_table, color_of
from geoseg.core.grid import Grid, Window
from geoseg.core.text import did_you_mean
from geoseg.errors import LabelsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNLABELLED = 65535
"""In arrays of labels: this pixel has none. No class can have this value."""

_WHOLE: Final = re.compile(r"-?[0-9]+\.0+")
_NEGATIVE: Final = re.compile(r"-[0-9]+")
_BLANKS: Final = re.compile(r"[\s_-]+")
_NOTHING: Final = frozenset({"null", "none", "nan", "na", "n/a", "<na>", "<null>"})

LabelKind = Literal["points", "polygons", "raster"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """How what a file calls its classes was paired with a class table."""

    values: Mapping[Any, int]
    """Class value by what stands in the file."""
    classes: tuple[Class, ...]
    """The class table, with what only the file has at its end."""
    found: tuple[str, ...] = ()
    """What the file calls its classes."""
    by_number: tuple[tuple[str, str], ...] = ()
    """What was paired by number alone, and the class's name."""
    unknown: tuple[str, ...] = ()
    """What the file has and the table did not."""
    unused: tuple[str, ...] = ()
    """Names of the mapping that the file does not have."""
    doubts: tuple[str, ...] = ()
    """What classes are mapped to that the table does not have, where it has one that is
    called almost so; a sentence each."""

    def check_alike(self, name: str) -> None:
        """Raise where the file's classes do not look like those of the table.

        Raises:
            LabelsError: A name of the mapping occurs nowhere, or it leads to one that
                is almost one of the table; fewer than half of what the file has is in
                the table; or numbers alone pair them, and either has
                some that the other has not (1 and 2 are not 0 and 1).
        """
        check_mapping_used([self])
        if self.doubts:
            raise LabelsError(self.doubts[0])
        found, listed = self.found, ", ".join(self.found[:10])
        table = [c for c in self.classes if c.name not in self.unknown]
        lone = {c.value for c in table} - {*self.values.values()}
        apart = 2 * len(self.unknown) > len(found) or (self.by_number and lone)
        if self.unknown and apart:
            raise LabelsError(
                f"the classes of {name} ({listed}) are not those of the map "
                f"({', '.join(f'{c.value} {c.name}' for c in table[:10])}): pair them "
                f"with --map, as in --map {self.unknown[0]}={table[0].name}, or leave "
                "them out with --map NAME=ignore"
            )

    def notes(self, name: str) -> Iterator[str]:
        """Say what was paired by number alone, and what the table did not have."""
        if self.by_number:
            pairs = ", ".join(f"{raw} = {of}" for raw, of in self.by_number[:10])
            yield f"{name} has no names: classes are paired by number ({pairs})"
        yield from self.doubts
        named = [f for f in self.found if not _is_value(f)]
        spelt: dict[str, dict[str, str]] = {}
        for each in dict.fromkeys(named):
            words = " ".join(_BLANKS.split(each.casefold()))
            spelt.setdefault(words, {}).setdefault(each.casefold(), each)
        folded = Counter(each.casefold() for each in {*named})
        for alike in spelt.values():
            if any(folded[each] > 1 for each in alike):
                same = [n for n in dict.fromkeys(named) if n.casefold() in alike]
                yield f"{name}: {', '.join(same)} are taken for one class"
            elif len(alike) > 1:
                one, other = [*alike.values()][:2]
                yield (
                    f"{name}: {', '.join(map(repr, alike.values()))} are classes of "
                    f"their own; if they are one: --map '{other}={one}'"
                )
        for each in named:
            if each.casefold() in _NOTHING and self.values.get(each) != UNLABELLED:
                yield (
                    f"{name} has a class called {each}: if that means none, leave it "
                    f"out with --map {each}=ignore"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """How what a file calls a class becomes a value of the class table."""

    known: tuple[Class, ...]
    mapping: Mapping[str, str]

    def paired(
        self, found: Iterable[Any], legend: Mapping[Any, str] | None = None
    ) -> Pairing:
        """Return the class value of each thing found, and the table they are of.

        Args:
            found: What stands in the file: names or numbers.
            legend: The file's own names of its numbers, where it has them.
        """
        # A table without names of its own is matched by number, whatever the file has.
        if self.known and all(c.name == f"class_{c.value}" for c in self.known):
            legend = None
        called = {raw: (legend or {}).get(raw, class_text(raw)) for raw in found}
        asked = {
            raw: self._asked(class_text(raw), name) for raw, name in called.items()
        }
        used = {text for text in asked.values() if text.casefold() != "ignore"}
        table = self._table(used)
        values = {
            raw: with_class(table, text)[1] if text in used else UNLABELLED
            for raw, text in asked.items()
        }
        names = {c.value: c.name for c in table}
        known = {c.value for c in self.known}
        seen = {*map(class_text, called), *called.values()}
        by_number = [
            (text, names[values[raw]])
            for raw, text in asked.items()
            if text in used and _is_value(text) and names[values[raw]] != text
        ]
        unknown = [
            text for raw, text in asked.items()
            if self.known and text in used and values[raw] not in known
        ]  # fmt: skip
        return Pairing(
            values=values,
            classes=table,
            found=tuple(called.values()),
            by_number=tuple(dict.fromkeys(by_number)),
            unknown=tuple(dict.fromkeys(unknown)),
            unused=tuple(key for key in self.mapping if key not in seen),
            doubts=tuple(self._doubts()),
        )

    def _doubts(self) -> Iterator[str]:
        """Ask about classes that are mapped to a name that is almost one of the table.

        Any name may be a new class, so that none is refused.
        """
        table = {c.name.casefold(): c.name for c in self.known}
        for key, to in self.mapping.items():
            new = to.casefold() not in {*table, "ignore"} and not _is_value(to)
            if new and (near := did_you_mean(to, table.values())):
                yield f"--map {key}={to} makes a class {to!r} of its own{near}"

    def _asked(self, text: str, name: str) -> str:
        return self.mapping.get(name, self.mapping.get(text, name))

    def _table(self, used: set[str]) -> tuple[Class, ...]:
        """Return the class table with all that is used in it."""
        if not self.known and not all(_is_value(text) for text in used):
            numbers = [text for text in used if _NEGATIVE.fullmatch(text)]
            if numbers:
                raise LabelsError(
                    f"class value {numbers[0]} is outside 0 … {UNLABELLED - 1}: map it "
                    f"to another, or leave it out with --map {numbers[0]}=ignore"
                )
            spelt = {text.casefold(): text for text in sorted(used, reverse=True)}
            return class_table(sorted(spelt.values()))
        table = self.known
        for text in sorted(used, key=lambda t: (not _is_value(t), _number(t), t)):
            table = with_class(table, text)[0]
        return table


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labels(ABC):
    """Labels on a grid. `read` may be called from several threads at once."""

    kind: LabelKind
    """What they were made of."""
    name: str
    """Short name for messages."""
    classes: tuple[Class, ...]
    """The class table that their values are of."""
    grid: Grid
    """The grid."""
    pairing: Pairing
    """How the file's classes were paired with the class table."""
    notes: tuple[str, ...] = ()
    """What was chosen or lost, one sentence each."""

    @abstractmethod
    def touches(self, window: Window) -> bool:
        """Whether the window may hold labels; False is certain."""

    @abstractmethod
    def read(self, window: Window) -> NDArray[np.uint16]:
        """Return class values, (y, x) uint16, `UNLABELLED` where there are none."""

    def described(self) -> dict[str, Any]:
        """Return what is said of them, for labels that are made of these."""
        return {f.name: getattr(self, f.name) for f in fields(Labels)}


def check_mapping_used(pairings: Sequence[Pairing]) -> None:
    """Raise where a name of a mapping occurs in none of several files.

    Raises:
        LabelsError: The name, and what they have.
    """
    unused = [name for name in pairings[0].unused
              if all(name in p.unused for p in pairings)]  # fmt: skip
    if unused:
        found = list(dict.fromkeys(f for p in pairings for f in p.found))
        raise LabelsError(
            f"--map {unused[0]}=…: the labels have no class of that name; they have "
            f"{', '.join(found[:10])}{did_you_mean(unused[0], found)}"
        )


def with_class(table: tuple[Class, ...], text: str) -> tuple[tuple[Class, ...], int]:
    """Return the table with a class of this name or value in it, and its value."""
    for c in table:
        if c.name.casefold() == text.casefold():
            return table, c.value
    taken = {c.value for c in table}
    if _is_value(text):
        value = int(text)
        if value in taken:
            return table, value
        if value >= UNLABELLED:
            raise LabelsError(
                f"class value {value} is outside 0 … {UNLABELLED - 1}: "
                "map it to another"
            )
    else:
        value = max(taken, default=-1) + 1
    color = color_of(text, {c.color for c in table})
    return (*table, Class(value=value, name=text, color=color)), value


def class_text(raw: Any) -> str:  # noqa: ANN401 - whatever a column holds
    """Return how a class is written: `3` for 3, 3.0, '3' and '3.0'."""
    if isinstance(raw, (float, np.floating)) and float(raw).is_integer():
        return str(int(raw))
    text = str(raw).strip()
    return text.partition(".")[0] if _WHOLE.fullmatch(text) else text


def _is_value(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _number(text: str) -> int:
    return int(text) if _is_value(text) else 0
