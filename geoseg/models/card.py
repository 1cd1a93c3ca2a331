"""The card: what a model expects and what it answers, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import MaxLen
from pydantic import ConfigDict, Field, FiniteFloat

from geoseg.core import views
from geoseg.core.classes import Class, check_table
from geoseg.errors import ModelError

Task = Literal["semantic", "instance", "panoptic"]
Output = Literal["logits", "probabilities", "labels"]
Activation = Literal["softmax", "sigmoid"]
Numbers = Literal["DN", "reflectance", "s2-l2a-before-0400"]
"""What the pixels were that a model was trained on: the file's own numbers, reflectance
from 0 to 1 by the file's scale and offset, or a product's numbers as they were before a
change: Sentinel-2's digital numbers without the offset of processing baseline 04.00."""

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
    """What it reads, in its own order."""
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
    """How much neighbouring windows share, in pixels; even, at most half a window."""
    multiple: Side | None = None
    """Windows at the raster's far edges may be cut to a multiple of this many pixels;
    None where the model takes full windows only."""
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
        if not self.bands:
            raise ModelError(f"the card of {self.name!r} names no input bands")
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

    def _repr_html_(self) -> str:
        return views.html("card", self)

    @property
    def channels(self) -> int:
        """Number of score channels that reach the blend: one per class."""
        return len(self.classes)
