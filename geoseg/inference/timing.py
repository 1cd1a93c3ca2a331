"""How long a run will take: measured on a few windows of it, before it begins."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from geoseg.core.grid import Window
from geoseg.inference.planning import Plan
from geoseg.inference.workflow import run_plan
from geoseg.rasters.aoi import windowed

_SIDE = 2
"""Windows along each side of what is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What a few windows took, and what follows for all of them."""

    windows: int
    """How many were measured."""
    mpx_per_second: float
    """Million pixels per second, of one process, reading and writing included."""
    seconds: float
    """About how long the run takes in one process."""


def measure(plan: Plan) -> Timing:
    """Run a plan on a square of its raster, twice, and take the time of the second.

    The first time models are loaded and compiled. Nothing is kept.

    Raises:
        GeosegError: It cannot run.
    """
    part = _part(plan)
    with TemporaryDirectory(prefix="geoseg-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the run itself will say it
        run_plan(part, out=Path(folder) / "first.zarr", progress=False)
        begun = perf_counter()
        run_plan(part, out=Path(folder) / "second.zarr", progress=False)
        seconds = perf_counter() - begun
    speed = part.source.grid.pixels / seconds
    return Timing(
        windows=part.tiling.windows,
        mpx_per_second=speed / 1e6,
        seconds=plan.source.grid.pixels / speed,
    )


def _part(plan: Plan) -> Plan:
    """Return the plan for a square of some windows in the middle of its raster."""
    grid, tiling = plan.source.grid, plan.tiling
    stride = tiling.window - tiling.overlap
    side = _SIDE * stride
    height, width = min(side, grid.height), min(side, grid.width)
    middle = Window(
        y=(grid.height - height) // 2,
        x=(grid.width - width) // 2,
        height=height,
        width=width,
    )
    return replace(
        plan,
        source=windowed(plan.source, middle),
        tiling=replace(tiling, height=height, width=width, chunk=stride, block=0),
    )
