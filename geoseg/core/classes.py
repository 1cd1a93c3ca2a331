"""The class table: which value means what, in which colour. One table, everywhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from geoseg.errors import GeosegError

# Seven colours of Okabe & Ito (2008), "Color Universal Design"; then, one after the
# other, those that are farthest from all before them and from white, in CIEDE2000, by
# the eyes that see them worst: usual ones and, after Machado et al. (2009), those
# without red, green or blue cones. No two are nearer than 10; a test holds that.
_PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442",
    "#3C2828", "#142864", "#8C2800", "#785064", "#B4F0B4", "#0000DC", "#646450",
    "#C8C8DC", "#DCB4B4",
)  # fmt: skip

_COLOR = re.compile(r"#[0-9A-Fa-f]{6}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Class:
    """One row of the class table."""

    value: int
    """The value in the `classes` array, 0 … 65534."""
    name: str
    """What a legend calls it."""
    color: str
    """`#RRGGBB`."""

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 65534:
            raise GeosegError(
                f"class value {self.value} ({self.name!r}) is outside 0 … 65534"
            )
        if not _COLOR.fullmatch(self.color):
            raise GeosegError(
                f"colour {self.color!r} of class {self.name!r} is not #RRGGBB"
            )

    @property
    def rgb(self) -> tuple[int, int, int]:
        """The colour as three numbers 0 … 255."""
        return (
            int(self.color[1:3], 16),
            int(self.color[3:5], 16),
            int(self.color[5:7], 16),
        )


def default_color(index: int) -> str:
    """Return a colour for the class at `index` (0-based), safe for the colour-blind.

    Past 16 classes the colours repeat in ever darker shades.
    """
    color = _PALETTE[index % len(_PALETTE)]
    shade = 0.75 ** (index // len(_PALETTE))
    r, g, b = (int(int(color[i : i + 2], 16) * shade) for i in (1, 3, 5))
    return f"#{r:02X}{g:02X}{b:02X}"


def class_table(names: Iterable[str]) -> tuple[Class, ...]:
    """Return classes 0, 1, 2, … with the given names and default colours."""
    return tuple(
        Class(value=i, name=name, color=default_color(i))
        for i, name in enumerate(names)
    )


def nodata_value(classes: Sequence[Class]) -> int:
    """Return the value that no class may have: 255, or 65535 past 254 classes."""
    highest = max((c.value for c in classes), default=0)
    return 255 if highest < 255 else 65535


def check_table(classes: Sequence[Class]) -> tuple[Class, ...]:
    """Return the table, or raise where values or names repeat or there is none."""
    if not classes:
        raise GeosegError("the class table is empty: name at least one class")
    doubled = sorted(v for v, n in Counter(c.value for c in classes).items() if n > 1)
    if doubled:
        raise GeosegError(f"class values {doubled} appear more than once in the table")
    twice = sorted(
        name for name, n in Counter(c.name for c in classes).items() if n > 1
    )
    if twice:
        raise GeosegError(f"class names {twice} appear more than once in the table")
    return tuple(classes)
