"""The class table: which value means what, in which colour. One table, everywhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import count

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

# What usual names mean, and the colours that maps have for it, the first that is free.
# Earlier lines win: forested wetland is wetland.
_MEANINGS = (
    ("wetland marsh swamp bog fen mangrove flooded", "#56B4E9 #646450 #785064"),
    ("water sea ocean lake river pond pool reservoir subtidal estuary",
     "#0072B2 #142864 #0000DC"),
    ("forest forested tree wood woodland canopy crown", "#009E73 #646450"),
    ("building built house roof town city urban developed settlement impervious",
     "#D55E00 #8C2800"),
    ("road street path asphalt pavement parking rail", "#646450 #3C2828"),
    ("grass grassland meadow pasture lawn vegetation rangeland herbaceous", "#B4F0B4"),
    ("shrub shrubland scrub heath bush", "#785064"),
    ("crop cropland field farmland agriculture arable cultivated", "#E69F00"),
    ("sand beach dune desert bare barren soil rock", "#F0E442 #DCB4B4"),
    ("snow ice glacier cloud", "#C8C8DC #DCB4B4"),
    ("shadow burnt burned fire", "#3C2828 #8C2800"),
    ("background other others unlabelled", "#C8C8DC #646450"),
)  # fmt: skip
_MEANT = {
    word: colors.split() for words, colors in _MEANINGS[::-1] for word in words.split()
}

_COLOR = re.compile(r"#[0-9A-Fa-f]{6}")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")  # "WetSand" is two


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


def color_of(name: str, taken: Collection[str] = ()) -> str:
    """Return a default colour for a class by what its name means, if it means anything.

    >>> color_of("Open water"), color_of("trees"), color_of("cluster 1")
    ('#0072B2', '#009E73', '#0072B2')

    Args:
        name: Of the class.
        taken: Colours that others have.
    """
    # Shades end in black, so that among very many classes colours repeat.
    usual = map(default_color, range(len(taken) + 1))
    free = (color for color in usual if color not in taken)
    return usual_color(name, taken) or next(free, default_color(len(taken)))


def usual_color(name: str, taken: Collection[str]) -> str | None:
    """Return the colour that maps have for what a name means, where one is free."""
    words = {word.casefold() for word in _WORD.findall(name)}
    words |= {word.removesuffix("s") for word in words}
    found = [colors for word, colors in _MEANT.items() if word in words]
    colors = found[-1] if found else []
    return next((color for color in colors if color not in taken), None)


def colors_of(names: Sequence[str]) -> list[str]:
    """Return default colours: by what names mean, the others one after the other."""
    found: dict[int, str] = {}
    for i, name in enumerate(names):
        color = usual_color(name, found.values())
        if color is not None:
            found[i] = color
    rest = (
        color for color in map(default_color, count()) if color not in found.values()
    )
    return [found[i] if i in found else next(rest) for i in range(len(names))]


def class_table(names: Iterable[str]) -> tuple[Class, ...]:
    """Return classes 0, 1, 2, … with the given names and default colours."""
    names = [*names]
    return tuple(
        Class(value=i, name=name, color=color)
        for i, (name, color) in enumerate(zip(names, colors_of(names), strict=True))
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
