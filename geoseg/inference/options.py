"""What `geoseg plan` and `geoseg segment` are asked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from geoseg.core.options import Cli, Section
from geoseg.core.raster_options import RasterOptions
from geoseg.core.series_options import SeriesOptions
from geoseg.core.text import bytes_of
from geoseg.models.card import Task
from geoseg.models.networks.device import EngineName, Precision

Resolution = Literal["model", "native"] | float


class PlanOptions(RasterOptions, SeriesOptions):
    """What decides how a raster becomes masks."""

    model: Annotated[
        Any,
        Cli(section=Section.MODEL, metavar="MODEL", repeats=True, location=True),
    ]
    """See `geoseg models`; given several times, scores are averaged."""
    tta: Annotated[Literal["d4", "flips"] | None, Cli(section=Section.MODEL)] = None
    """Look at every window turned and mirrored: 8 or 4 times."""
    scales: Annotated[
        Sequence[float] | None, Cli(section=Section.MODEL, metavar="0.5,1,2")
    ] = None
    """Look at every window resized by these factors, and average."""
    prompts: Annotated[
        str | os.PathLike[str] | None,
        Cli(section=Section.MODEL, metavar="FILE", location=True),
    ] = None
    """Points, boxes or polygons that SAM and its like are asked for."""
    resolution: Annotated[
        Resolution, Cli(section=Section.MODEL, metavar="model|native|METRES")
    ] = "model"
    """Pixel size to work at."""
    overlap: Annotated[int | None, Cli(section=Section.MODEL, metavar="PX")] = None
    """What neighbouring windows share; default the model's."""
    task: Annotated[Task | None, Cli(section=Section.OBJECTS)] = None
    """Classes, objects, or both; default what the model does."""
    instances: Annotated[str | None, Cli(section=Section.OBJECTS, metavar="METHOD")] = (
        None
    )
    """How classes become objects: components, components:8, watershed:5 (pixels between
    seeds), boundary:NAME (the class between objects)."""
    things: Annotated[
        Sequence[str] | None, Cli(section=Section.OBJECTS, metavar="a,b")
    ] = None
    """Names of the classes whose objects are counted."""
    scores: Annotated[bool, Cli(section=Section.WRITTEN)] = False
    """Write confidence too."""
    probabilities: Annotated[bool, Cli(section=Section.WRITTEN)] = False
    """Write all probabilities too."""
    quality: Annotated[bool, Cli(section=Section.WRITTEN)] = False
    """Write for each pixel, too, how often scenes of many dates saw it, the share of
    clouds, and the first and last date."""
    block: Annotated[int | None, Cli(section=Section.SPEED, metavar="PX")] = None
    """Side of a block; default by memory. Never changes the answer."""
    batch: Annotated[int | None, Cli(section=Section.SPEED, metavar="N")] = None
    """Windows per pass; default by device."""
    device: Annotated[str, Cli(section=Section.SPEED)] = "auto"
    """auto, cpu, cuda, xpu, mps."""
    precision: Annotated[Precision, Cli(section=Section.SPEED)] = "auto"
    """auto: the fastest that the device is built for."""
    engine: Annotated[EngineName, Cli(section=Section.SPEED)] = "auto"
    """What runs a network: threads or openvino on a CPU, torch or compile on a GPU."""
    memory: Annotated[
        float | str | None,
        BeforeValidator(bytes_of),
        Cli(section=Section.SPEED, metavar="SIZE"),
    ] = None
    """What one process may use, such as 8GB; what does not fit is refused."""
    device_memory: Annotated[
        float | str | None,
        BeforeValidator(bytes_of),
        Cli(section=Section.SPEED, metavar="SIZE"),
    ] = None
    """What it may use of its GPU; default most of what is free."""

    mixed: Annotated[bool, Cli(section=Section.SPEED)] = False
    """Let other kinds of GPUs work on the run, whose results round differently."""

    @property
    def of_source(self) -> dict[str, Any]:
        """How a raster, or scenes of many dates, are read."""
        return {**super().of_source, "series": self.series}

    @property
    def memory_bytes(self) -> float | None:
        """What one process may use, in bytes."""
        return None if self.memory is None else float(self.memory)


class MasksOptions(PlanOptions):
    """What decides how a raster becomes a store of masks, wherever that lies."""

    zarr_format: Annotated[Literal[2, 3], Cli(section=Section.WRITTEN)] = 2
    """2 opens everywhere."""
    shards: Annotated[bool, Cli(section=Section.WRITTEN)] = False
    """Write Zarr 3 with one object per block, for object stores and many files."""


class PreviewOptions(MasksOptions):
    """What `geoseg plan` is asked: a command of `segment`, with or without --out."""

    out: Annotated[
        str | os.PathLike[str] | None,
        Cli(section=Section.WRITTEN, metavar="MASKS.zarr", location=True),
    ] = None
    """The store to write; `plan` says what would become of it."""
    overwrite: Annotated[bool, Cli(section=Section.WRITTEN)] = False
    """Begin again where a store is there."""


class SegmentOptions(PreviewOptions):
    """What `geoseg segment` is asked."""

    out: Annotated[
        str | os.PathLike[str],
        Cli(section=Section.WRITTEN, metavar="MASKS.zarr", location=True),
    ]
    """The store to write."""

    @property
    def of_source(self) -> dict[str, Any]:
        """How a raster is read; scenes that are found are listed beside the masks."""
        product = {"beside": self.out, "overwrite": self.overwrite}
        return {**super().of_source, **product}

    @property
    def of_store(self) -> dict[str, Any]:
        """Where masks are written, and how, as keywords of `run_plan`."""
        names = ("out", "overwrite", "zarr_format", "shards", "mixed")
        return {name: getattr(self, name) for name in names}
