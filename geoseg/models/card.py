"""The card: what a model expects and what it answers, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import MaxLen
from pydantic import ConfigDict, Field, FiniteFloat

from geoseg.core import views
from geoseg.core.classes import Class, check_table
from geoseg.core.text import counted, did_you_mean
from geoseg.core.times import Times
from geoseg.errors import ModelError

Task = Literal["semantic", "instance", "panoptic"]
Output = Literal["logits", "probabilities", "labels"]
Activation = Literal["softmax", "sigmoid"]
Numbers = Literal["DN", "reflectance", "s2-l2a-before-0400"]
"""What the pixels were that a model was trained on: the file's own numbers, reflectance
from 0 to 1 by the file's scale and offset, or a product's numbers as they were before a
change: Sentinel-2's digital numbers without the offset of processing baseline 04.00."""

Layout = Literal["flat", "tcyx", "ctyx"]
"""How a network takes the steps in time of a window: as channels, those of the oldest
first (n, steps x bands, y, x); (n, steps, bands, y, x); or (n, bands, steps, y, x)."""
Input = Literal["dates", "location", "wavelengths", "resolution"]
"""What a network takes beside pixels, all of it float32: `dates`, (n, steps, 2) the
year and the day of the year, 1 … 366; `location`, (n, 2) latitude and longitude of a
window's centre in degrees; `wavelengths`, (bands,) in micrometres, those of a step;
`resolution`, (1,) metres per pixel."""

_DTYPES = tuple(
    [f"{kind}{bits}" for kind in ("uint", "int") for bits in (8, 16, 32, 64)]
    + ["float16", "float32", "float64", "bool", "complex64", "complex128"]
)

OTHER_COLOR = "#BBBBBB"
"""Of the class of all that is nothing in particular."""

MOST_BANDS, MOST_CLASSES = 10_000, 4096
"""What a card may have of each."""

# What no honest card exceeds; a card is data from somewhere else.
Text = Annotated[str, MaxLen(10_000)]
Side = Annotated[int, Field(ge=1, le=1 << 16)]
_STRICT = ConfigDict(strict=True, extra="forbid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """One input band, and how its pixels are scaled before the network sees them.

    `scaled = (clip(pixel, clip) - offset) / scale`; never looked up from a tile.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: Text
    """The band's own name, such as `B08`."""
    common_name: Text | None = None
    """STAC common name, such as `nir`, by which rasters are matched too."""
    offset: FiniteFloat = 0.0
    """Subtracted, in pixel units."""
    scale: FiniteFloat = 1.0
    """Divided by, in pixel units."""
    clip: tuple[float, float] | None = None
    """Pixels are clipped to this range first, in pixel units."""
    static: bool = False
    """Whether it is read once, with no date, where the card has `times`: elevation."""
    wavelength: Annotated[FiniteFloat, Field(gt=0)] | None = None
    """Of its centre, in micrometres, where the network asks for `wavelengths`; None:
    what its common name is known to have."""
    time: int | None = None
    """Which of the card's steps in time it shows, 0 the oldest. The card sets it."""

    def __post_init__(self) -> None:
        if self.scale == 0:
            raise ModelError(f"band {self.name!r} has scale 0: it would divide by zero")


ALL_BANDS = Band(name="*")
"""Alone on a card it stands for all bands of whatever raster there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Everything about a model that is not its weights."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: Text
    """What the model is called."""
    bands: Annotated[tuple[Band, ...], MaxLen(MOST_BANDS)]
    """What it reads, in its own order. With `times` those of one step are given, and
    the card holds them once for each step, then those that are static."""
    classes: Annotated[tuple[Class, ...], MaxLen(MOST_CLASSES)]
    """What it tells apart, in the order of its score channels."""
    task: Task = "semantic"
    """What its output is: classes, objects, or both."""
    output: Output = "logits"
    """`logits` (geoseg applies `activation`), `probabilities`, or `labels`."""
    activation: Activation = "softmax"
    """How logits become probabilities. A network with one channel scores the second of
    two classes, and its sigmoid is meant either way."""
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """From which probability on a pixel is of the second of two classes; None: 0.5."""
    numbers: Numbers = "DN"
    """What the pixels were that it was trained on; rasters are brought to them."""
    things: tuple[str, ...] | None = None
    """Names of the classes whose objects can be counted; None: all of them, or with
    `panoptic` and `semantic` those that are asked for."""
    window: Side = 512
    """Side of the square the model sees, in pixels."""
    overlap: Annotated[int, Field(ge=0, le=1 << 15)] = 64
    """How much neighbouring windows share, in pixels; even, at most half a window, as
    which a card that only says its `window` has it where that is below 128."""
    multiple: Side | None = None
    """Windows at the raster's far edges may be cut to a multiple of this many pixels;
    None where the model takes full windows only."""
    times: Times | None = None
    """Which steps in time it looks at; None: it looks at one picture."""
    layout: Layout = "flat"
    """How its network takes the steps."""
    modalities: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the bands of each kind of data, such as `S2`, `S1`, `DEM`, where its
    network takes a mapping of their names to tensors, each in the card's layout; what
    is static has no steps. Empty where it takes one tensor."""
    inputs: tuple[Input, ...] = ()
    """What its network takes after the pixels, in this order."""
    resolution: Annotated[FiniteFloat, Field(gt=0)] | None = None
    """Metres per pixel that it was trained on; None where any will do."""
    dtypes: tuple[str, ...] | None = None
    """NumPy dtypes of rasters that it can have been trained on; None for any."""
    value_range: tuple[float, float] | None = None
    """Lowest and highest pixel value that makes sense to it, in pixel units."""
    fill: float | None = None
    """Put under nodata before the model sees it; None: each band's `offset`."""
    nodata: float | None = None
    """Pixel value that means nodata where the raster does not say."""
    description: Text = ""
    """A sentence or two."""
    license: Text | None = None
    """SPDX identifier."""
    framework: Mapping[str, Any] = field(default_factory=dict)
    """How to build it: `family`, `arch` and the family's own arguments."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Anything else worth keeping: training, accuracy, authors."""

    def __post_init__(self) -> None:
        check_table(self.classes)
        _check_numbers(self)
        if not self.bands:
            raise ModelError(f"the card of {self.name!r} names no input bands")
        object.__setattr__(self, "bands", _over_time(self))
        _check_inputs(self)
        if self.window < 1:
            raise ModelError(f"window {self.window} px of {self.name!r} must be >= 1")
        if self.threshold is not None and len(self.classes) != 2:
            raise ModelError(
                f"threshold {self.threshold} of {self.name!r} separates two classes, "
                f"not {len(self.classes)}"
            )
        scored = self.task == "semantic" and self.output != "labels"
        if scored and len(self.classes) == 1:
            raise ModelError(
                f"the only class of {self.name!r} is {self.classes[0].name!r}, which "
                "would be found everywhere: name the class of all else before it, or "
                'write "activation": "sigmoid" where the network has one sigmoid'
            )
        unknown = set(self.things or ()) - {c.name for c in self.classes}
        if unknown:
            raise ModelError(
                f"things {sorted(unknown)} of {self.name!r} are not among its classes"
            )
        if self.overlap < 0 or self.overlap % 2 or 2 * self.overlap > self.window:
            raise ModelError(
                f"overlap {self.overlap} px of {self.name!r} must be even, >= 0 and at "
                f"most half the window ({self.window // 2} px)"
            )

    def __repr__(self) -> str:
        names = [band.name for band in self.step_bands]
        bands = "all bands" if names == ["*"] else counted(len(names), "band")
        classes = ", ".join(c.name for c in self.classes[:8])
        more = ", …" if len(self.classes) > 8 else ""
        return f"<Card of {self.name}: {bands}, {self.window} px; {classes}{more}>"

    def _repr_html_(self) -> str:
        return views.html("card", self)

    @property
    def step_bands(self) -> tuple[Band, ...]:
        """Its bands once, whatever the number of steps, as a card's file has them."""
        return tuple(replace(b, time=None) for b in self.bands if not b.time)

    @property
    def channels(self) -> int:
        """Number of score channels that reach the blend: one per class."""
        return len(self.classes)


def _check_numbers(card: Card) -> None:
    """Raise where a range is turned round, or a dtype is none of NumPy's."""
    ranges = {"value_range": card.value_range}
    ranges |= {f"clip of band {b.name!r}": b.clip for b in card.bands}
    for what, ends in ranges.items():
        if ends is not None and ends[0] > ends[1]:
            raise ModelError(
                f"{what} of {card.name!r} is {ends[0]:g} … {ends[1]:g}: the lower "
                "comes first"
            )
    for name in card.dtypes or ():
        if name not in _DTYPES:
            raise ModelError(
                f"dtype {name!r} of {card.name!r} is none of {', '.join(_DTYPES)}"
                + did_you_mean({"byte": "uint8"}.get(name.lower(), name), _DTYPES)
            )


def _over_time(card: Card) -> tuple[Band, ...]:
    """Return a card's bands, those of each step one after the other, static ones last.

    Raises:
        ModelError: They are of other steps than the card's.
    """
    static = [band for band in card.bands if band.static]
    dated = [band for band in card.bands if not band.static]
    told = {band.time for band in dated}
    if card.times is None:
        if static or told != {None}:
            raise ModelError(
                f"bands of {card.name!r} are static or of a time, but the card has no "
                '"times"'
            )
        return card.bands
    steps = range(card.times.count)
    if told == {*steps}:  # as a card was made of another
        return card.bands
    if told != {None}:
        raise ModelError(f"bands of {card.name!r} are not of {card.times.told}")
    if len(steps) * len(dated) > MOST_BANDS:
        raise ModelError(
            f"{card.name!r} has {len(dated)} bands at {len(steps)} steps: "
            f"{MOST_BANDS} in all are the most"
        )
    return *(replace(band, time=k) for k in steps for band in dated), *static


def _check_inputs(card: Card) -> None:
    """Raise where modalities and layout do not go with the bands."""
    if card.times is None and card.layout != "flat":
        raise ModelError(
            f'layout {card.layout!r} of {card.name!r} needs "times": how many steps'
        )
    if len(set(card.inputs)) < len(card.inputs):
        raise ModelError(f"inputs of {card.name!r} name one twice")
    names = [band.name for band in card.step_bands]
    if not card.modalities:
        if card.layout != "flat" and any(band.static for band in card.bands):
            raise ModelError(
                f"static bands of {card.name!r} have no place in the layout "
                f'{card.layout!r}: give "modalities", one of them theirs'
            )
        return
    listed = [name for bands in card.modalities.values() for name in bands]
    odd = sorted({n for n in {*names, *listed} if listed.count(n) != names.count(n)})
    if odd or len(set(names)) < len(names):
        raise ModelError(
            f"modalities of {card.name!r} hold each of its bands once: look at "
            f"{', '.join(odd or names)}"
        )
    static = {band.name for band in card.bands if band.static}
    for modality, bands in card.modalities.items():
        if 0 < len(static & {*bands}) < len(bands):
            raise ModelError(
                f"some bands of {modality} of {card.name!r} are static, some are not"
            )
