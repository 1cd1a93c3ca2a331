"""What `geoseg train` is asked."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from geoseg.core.classes import Class, color_of
from geoseg.core.label_options import LabelOptions
from geoseg.core.options import Cli, Section
from geoseg.core.raster_options import RasterOptions
from geoseg.core.series_options import SeriesOptions
from geoseg.models.networks.device import Precision

if TYPE_CHECKING:
    from geoseg.models.classical.pixel_features import PixelFeatures

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Learned = Literal["semantic", "instance"]
Balance = Literal["none", "sqrt", "equal"]
LOSS = "ce+dice"
"""The loss of networks that have none of their own."""

_PIXELS = Cli(section=Section.LABELS, metavar="PX")
_HELD_OUT = Cli(section=Section.HELD_OUT, metavar="PX")
_NETWORK = Cli(section=Section.NETWORK)
_LEARNING = Cli(section=Section.LEARNING)
_TREES = Cli(section=Section.TREES)
_WRITTEN = Cli(section=Section.WRITTEN)
_SPEED = Cli(section=Section.SPEED)


def _argument(text: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Read a value as JSON; what is none is a text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _class(text: str) -> tuple[int, str, str | None]:
    """Read `1=building:#D55E00` as value, name and colour."""
    value, _, rest = text.partition("=")
    name, _, color = rest.partition(":")
    if not value.isdigit() or not name:
        raise ValueError("the name or the value is missing")
    return int(value), name, color or None


def _with_colors(classes: Sequence[Any]) -> Sequence[Class]:
    """Return classes of which some are a value, a name and perhaps a colour."""
    given = [c.color if isinstance(c, Class) else c[2] for c in classes]
    taken = {color for color in given if color}
    made: list[Class] = []
    for c in classes:
        if not isinstance(c, Class):
            c = Class(value=c[0], name=c[1], color=c[2] or color_of(c[1], taken))  # noqa: PLW2901
            taken.add(c.color)
        made.append(c)
    return made


def _scales(text: str) -> list[float]:
    """Read `1,2,4`; `none` is none of them."""
    return [float(v) for v in text.split(",") if v.strip() not in {"", "none"}]


class TrainOptions(RasterOptions, SeriesOptions, LabelOptions):
    """From what, how and into which folder a model is trained."""

    labels: Annotated[
        Paths, Cli(section=Section.LABELS, metavar="FILE", repeats=True, location=True)
    ]
    """Points, polygons or class rasters: one, or one for each raster."""
    out: Annotated[
        str | os.PathLike[str],
        Cli(section=Section.WRITTEN, metavar="FOLDER", location=True),
    ]
    """The model folder to write."""
    arch: Annotated[str | None, _NETWORK] = None
    """A forest, extra-trees, boosting or svm; or a network of torchvision, transformers
    or segmentation_models_pytorch: a name that is not known lists them all; maskrcnn
    for objects. Default that of --init, or unet."""
    task: Annotated[Learned | None, _NETWORK] = None
    """Classes, or objects, one for each polygon; default what the network is for."""
    encoder: Annotated[str, _NETWORK] = "resnet18"
    """An encoder of segmentation_models_pytorch, or tu- and the name of one of timm."""
    arguments: Annotated[
        Mapping[str, Any] | None,
        Cli(
            section=Section.NETWORK,
            name="--argument",
            metavar="NAME=VALUE",
            parse=_argument,
        ),
    ] = None
    """For the network's constructor, as in encoder_depth=4; repeatable."""
    init: Annotated[
        str | os.PathLike[str] | None,
        Cli(section=Section.NETWORK, metavar="FOLDER", location=True),
    ] = None
    """A model to start from; its bands and classes may be others."""
    classes: Annotated[
        Sequence[Class],
        BeforeValidator(_with_colors),
        Cli(
            section=Section.LABELS,
            name="--class",
            metavar="VALUE=NAME[:#RRGGBB]",
            repeats=True,
            parse=_class,
        ),
    ] = ()
    """A class with its colour; default what the labels hold; repeatable."""
    boundary: Annotated[float | None, Field(gt=0), _PIXELS] = None
    """Pixels of polygons this near to their outline are a class `boundary`, for segment
    --task instance --instances boundary:boundary."""
    resolution: Annotated[
        float | None, Field(gt=0), Cli(section=Section.MODEL, metavar="METRES")
    ] = None
    """Pixel size to work at; default the first raster's own."""
    validation: Annotated[float, Field(ge=0, lt=1), Cli(section=Section.HELD_OUT)] = 0.2
    """Share of the labelled ground that is held out; 0 for none."""
    block: Annotated[int | None, _HELD_OUT] = None
    """Side of the held-out blocks, a multiple of 32; default by the labels."""
    gap: Annotated[int | None, _HELD_OUT] = None
    """What is left out around them; default a quarter of a block, at most 64; for trees
    as far as their features reach."""
    epochs: Annotated[int, Field(gt=0), _LEARNING] = 40
    """At most."""
    windows: Annotated[int | None, Field(gt=0), _LEARNING] = None
    """Patches in an epoch; default twice what covers the labelled ground."""
    patch: Annotated[
        int,
        Field(ge=32, multiple_of=32),
        Cli(section=Section.LEARNING, metavar="PX"),
    ] = 256
    """Side of a patch, a multiple of 32."""
    batch: Annotated[int, Field(gt=0), _LEARNING] = 8
    """Patches in a step."""
    lr: Annotated[float, Field(gt=0), _LEARNING] = 2e-3
    """Highest learning rate of the one-cycle schedule."""
    weight_decay: Annotated[float, _LEARNING] = 1e-2
    """Weight decay of AdamW."""
    loss: Annotated[str, _LEARNING] = LOSS
    """One of ce, dice, focal, or a sum of them; networks that answer masks have their
    own."""
    balance: Annotated[Balance, _LEARNING] = "sqrt"
    """How patches are spread over classes."""
    brightness: Annotated[float, _LEARNING] = 0.2
    """How much gain and offset of bands vary, in standard deviations."""
    zoom: Annotated[float, Field(ge=1), _LEARNING] = 1.3
    """How much the scale of the ground varies, as a factor."""
    patience: Annotated[int, Field(gt=0), _LEARNING] = 12
    """Epochs without a better mean IoU, or AP50 of objects, after which training
    ends."""
    trees: Annotated[int, Field(gt=0), _TREES] = 100
    """How many."""
    leaf: Annotated[int, Field(gt=0), _TREES] = 3
    """Pixels in a leaf."""
    samples: Annotated[int, Field(gt=0), _TREES] = 100_000
    """Pixels to learn from, at most."""
    scales: Annotated[
        Sequence[float], Cli(section=Section.TREES, metavar="1,2,4", parse=_scales)
    ] = (1.0, 2.0, 4.0)
    """Of the features, in pixels: Gaussian mean, gradient, spread; `none` for bands on
    their own."""
    differences: Annotated[bool, _TREES] = False
    """Normalised differences of all pairs of bands are features too."""
    seed: Annotated[int, _LEARNING] = 0
    """Another seed, other random choices."""
    device: Annotated[str, _SPEED] = "auto"
    """As in segment."""
    precision: Annotated[Precision, _SPEED] = "auto"
    """Of the steps; weights stay fp32."""
    loaders: Annotated[int | None, Cli(section=Section.SPEED, metavar="N")] = None
    """Processes that cut patches; default by device and cores."""
    name: Annotated[str | None, _WRITTEN] = None
    """What the model is called."""
    license: Annotated[str | None, _WRITTEN] = None
    """SPDX identifier, for the card."""
    overwrite: Annotated[bool, _WRITTEN] = False
    """Replace a model that is there."""

    @property
    def of_source(self) -> dict[str, Any]:
        """How a raster, or scenes of many dates, are read."""
        return {**super().of_source, "series": self.series}

    @property
    def features(self) -> PixelFeatures:
        """What a pixel's features are."""
        from geoseg.models.classical.pixel_features import PixelFeatures

        return PixelFeatures(scales=tuple(self.scales), differences=self.differences)
