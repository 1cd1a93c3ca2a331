"""How long a run will take and what will limit it, measured on a few windows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import TYPE_CHECKING

from geoseg.core.grid import Window
from geoseg.execution.engine import ask_one
from geoseg.execution.resources import cores
from geoseg.inference.planning import Plan
from geoseg.inference.sites import leaving_with_device
from geoseg.inference.workflow import run_plan
from geoseg.rasters.aoi import windowed

if TYPE_CHECKING:
    from distributed import Client

_SIDE = 2
"""Windows along each side of what is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What something took, of a few windows."""

    seconds: float
    """Of the clock."""
    cpu: float
    """Of the processor."""

    @property
    def waits(self) -> bool:
        """Whether most of it was waiting: for a disk, a link or a GPU."""
        return self.cpu < self.seconds / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What a few windows took, and what follows for all of them."""

    windows: int
    """How many were measured."""
    mpx_per_second: float
    """Million pixels per second, of all processes, reading and writing included."""
    seconds: float
    """About how long the run takes."""
    stages: Mapping[str, float]
    """Million pixels per second that each stage does by itself, of all processes."""

    @property
    def limit(self) -> str:
        """The stage that the others will wait for."""
        return min(self.stages, key=self.stages.__getitem__)


def measure_time(
    plan: Plan, processes: int = 1, client: Client | None = None
) -> Timing:
    """Run a plan on a square of its raster, twice, and take the time of the second.

    The first time models are loaded and compiled. Nothing is kept. Reading is measured
    elsewhere in the raster: tiles that were read are kept.

    Args:
        plan: The plan.
        processes: How many will be at work, on this machine.
        client: Whose workers will be instead: the one measures that the plan asked.

    Raises:
        GeosegError: It cannot run.
    """
    if client is None:
        return _measured(plan, processes)
    return ask_one(client, plan, _measured_there, processes, worker=plan.site.asked)


def _measured_there(plan: Plan, processes: int) -> Timing:
    with leaving_with_device():
        return _measured(plan, processes)


def _measured(plan: Plan, processes: int) -> Timing:
    part = _part(plan)
    pixels, whole = part.source.grid.pixels, plan.source.grid.pixels
    fresh = _part(plan, 4).source
    with TemporaryDirectory(prefix="geoseg-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the run itself will say it
        run_plan(part, out=Path(folder) / "first.zarr", progress=False)
        begun = perf_counter()
        _, info = run_plan(part, out=Path(folder) / "second.zarr", progress=False)
        seconds = perf_counter() - begun
    reading = _cost(lambda: fresh.read(fresh.grid.window))
    stages = stage_rates(
        reading=reading,
        fresh=fresh.grid.pixels,
        forward=info.forward_seconds,
        writing=info.finish_seconds,
        pixels=pixels,
        processes=processes,
        plan=plan,
    )
    beside = processes if _on_gpu(plan) else plan.site.machines
    speed = min(pixels * beside / seconds / 1e6, *stages.values())
    return Timing(
        windows=part.tiling.windows,
        mpx_per_second=speed,
        seconds=whole / 1e6 / speed,
        stages=stages,
    )


def stage_rates(
    *,
    reading: Cost,
    fresh: int,
    forward: float,
    writing: float,
    pixels: int,
    processes: int,
    plan: Plan,
) -> dict[str, float]:
    """Return the Mpx/s that each stage does by itself, of all processes.

    Decoding and writing share the cores of a machine, whatever its processes; disks and
    links are waited for by as many tasks as there are; every process has a GPU for
    itself. Machines are taken to be alike.

    Args:
        reading: What it took to read `fresh` pixels, of one thread.
        fresh: How many.
        forward: Seconds that the model took for `pixels` pixels.
        writing: Seconds that joining and writing them took, of one thread.
        pixels: How many.
        processes: How many are at work.
        plan: Says where the model runs, and where the raster lies.
    """
    tasks = plan.tasks * processes
    side_by_side = min(cores() * plan.site.machines, tasks)
    if reading.waits:
        remote = "://" in plan.source.name or plan.source.name.startswith("/vsi")
        rates = {"link" if remote else "disk": fresh * tasks / reading.seconds}
    else:
        rates = {"decoder": fresh * side_by_side / max(reading.cpu, 1e-9)}
    if forward > 0:
        on_gpu = _on_gpu(plan)
        alone = plan.model.card.output != "labels"
        beside = plan.site.machines if alone else side_by_side
        many = processes if on_gpu else beside
        rates["GPU" if on_gpu else "model"] = pixels * many / forward
    if writing > 0:
        rates["writing"] = pixels * side_by_side / writing
    return {name: rate / 1e6 for name, rate in rates.items()}


def _on_gpu(plan: Plan) -> bool:
    return plan.site.card is not None


def _cost(action: Callable[[], object]) -> Cost:
    begun, spent = perf_counter(), process_time()
    action()
    return Cost(seconds=perf_counter() - begun, cpu=process_time() - spent)


def _part(plan: Plan, place: int = 2) -> Plan:
    """Return the plan for a square of some windows of its raster.

    Args:
        plan: The plan.
        place: 2 is the middle, 4 a quarter of the way from the corner.
    """
    grid, tiling = plan.source.grid, plan.tiling
    stride = tiling.window - tiling.overlap
    side = _SIDE * stride
    height, width = min(side, grid.height), min(side, grid.width)
    middle = Window(
        y=(grid.height - height) // place,
        x=(grid.width - width) // place,
        height=height,
        width=width,
    )
    return replace(
        plan,
        source=windowed(plan.source, middle),
        tiling=replace(tiling, height=height, width=width, chunk=stride, block=0),
    )
