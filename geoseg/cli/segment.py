"""`geoseg segment` and `geoseg plan`."""

from __future__ import annotations

import os
from contextlib import nullcontext
from importlib.util import find_spec
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import click

from geoseg.cli.answers import area_lines, areas, step
from geoseg.cli.common import (
    OutputOptions,
    client_of,
    one_or_more,
    print_summary,
    tell,
)
from geoseg.cli.log import say
from geoseg.cli.options import command, takes
from geoseg.core.series_options import SeriesOptions
from geoseg.core.text import counted, number, plain, redact, size, span_of_time
from geoseg.execution.options import ClusterOptions
from geoseg.inference.options import PreviewOptions, SegmentOptions
from geoseg.rasters.addresses import is_collection
from geoseg.rasters.bands import named
from geoseg.rasters.source import pixel_bytes, steps_of
from geoseg.rasters.zones import EACH, PREFIX, only_zone, path_of

AnyOptions = TypeVar("AnyOptions", bound=PreviewOptions)
Summary = dict[str, Any]

if TYPE_CHECKING:
    from distributed import Client

    from geoseg.inference.planning import Plan
    from geoseg.inference.scheduler import RunInfo
    from geoseg.inference.timing import Timing
    from geoseg.maps.store import Masks


@command(
    "geoseg segment scene.tif --model models/landcover --out masks.zarr",
    "geoseg segment 'tiles/*.tif' --model threshold:ndwi --out water.zarr",
    "geoseg segment scene.tif --model mine.py:make --out m.zarr --workers 4 --scores",
)
@click.argument("raster", nargs=-1, required=True)
@takes(SegmentOptions)
@takes(ClusterOptions, "place")
@takes(OutputOptions, "output")
def segment(
    *,
    raster: tuple[str, ...],
    options: SegmentOptions,
    place: ClusterOptions,
    output: OutputOptions,
) -> None:
    """Segment RASTER (files, a glob, a folder, a URL) into a masks store.

    The model sees the raster through windows that overlap, and what it says is blended,
    so that no seams show. Blocks, whole numbers of windows, are what workers take at a
    time. Neither blocks, workers nor interruptions change the answer: the same command
    again goes on where it stopped; a store made by other settings is refused.

    To begin with only RASTER, --model and --out matter. `geoseg plan` says beforehand
    what would run and whether it fits; `geoseg model check MODEL RASTER` whether the
    model can be right for the raster. Then look: geoseg view MASKS.zarr
    """
    with client_of(place) as client:
        if client is not None and not output.silent:
            _tell_dashboard(client)
        runs = [
            _run(raster, one, client, output) for one in _of_each_zone(raster, options)
        ]
    print_summary(*_together(runs), output)


def _of_each_zone(raster: tuple[str, ...], options: AnyOptions) -> list[AnyOptions]:
    """Return the options of each run: several where a map of each zone is wanted."""
    if options.crs != EACH:
        return [options]
    from geoseg.rasters.open_scenes import zones_asked

    zones = zones_asked(
        one_or_more(raster),
        options.of(SeriesOptions),
        aoi=options.aoi,
        trust=tuple(options.trust or ()),
    )
    runs = []
    for zone in zones:
        changed: dict[str, Any] = {"crs": zone}
        if options.out is not None:
            changed["out"] = path_of(os.fspath(options.out), zone)
        runs.append(options.model_copy(update=changed))
    return runs


def _together(runs: list[tuple[Summary, list[str]]]) -> tuple[Summary, list[str]]:
    """Return what is reported of one run, or of one for each zone."""
    if len(runs) == 1:
        return runs[0]
    return {"zones": [s for s, _ in runs]}, [line for _, more in runs for line in more]


def _run(
    raster: tuple[str, ...],
    options: SegmentOptions,
    client: Client | None,
    output: OutputOptions,
) -> tuple[Summary, list[str]]:
    from geoseg.inference.planning import plan_of
    from geoseg.inference.workflow import run_plan

    made = plan_of(one_or_more(raster), options, client=client)
    tell(made.source.notes)
    begun = perf_counter()
    masks, facts = run_plan(
        made,
        client=client,
        progress=False if output.silent else None,
        **options.of_store,
    )
    seconds = perf_counter() - begun
    summary, lines = _summary(made, masks, facts, seconds)
    if not output.silent or output.as_json:
        found = areas(masks)
        summary["areas"] = found
        one = len(raster) == 1 and not is_collection(raster[0])
        raster_there = raster[0] if one else None
        lines += [*area_lines(found), _next(masks, found, raster_there)]
    return summary, lines


def _next(masks: Masks, found: dict[str, Any], raster: str | None) -> str:
    path = redact(masks.path)
    if not found:
        return step("areas", "info", path)
    shown = [] if raster is None else ["--raster", redact(raster)]
    return step("look", "view", path, *shown)


def _summary(
    made: Plan, masks: Masks, facts: RunInfo, seconds: float
) -> tuple[dict[str, Any], list[str]]:
    """Return what was done, as JSON and as lines."""
    speed = facts.pixels / 1e6 / seconds
    summary: dict[str, Any] = {
        "masks": masks.path,
        "blocks": made.tiling.blocks,
        "windows": facts.windows,
        "pixels": facts.pixels,
        "seconds": round(seconds, 3),
        "mpx_per_second": round(speed, 3),
        "forward_seconds": round(facts.forward_seconds, 3),
    }
    did = "it was complete already"
    if facts.pixels:
        windows = counted(facts.windows, "window")
        did = f"{windows} in {seconds:.1f} s, {number(speed)} Mpx/s"
        summary["devices"] = sorted(facts.devices)
        if any(device.endswith("openvino") for device in facts.devices):
            did += ", by OpenVINO"
        if (share := facts.gpu_share) is not None:
            summary["device_share"] = round(share, 3)
            did += f", GPU at work {share:.0%} of the time"
    elif facts.finished:
        blocks = counted(facts.finished, "block")
        did = f"{blocks}, inferred before, finished in {seconds:.1f} s"
    if "instances" in masks.arrays:
        summary["objects"] = len(masks.objects(["pixels"])["pixels"])
        did = f"{counted(summary['objects'], 'object')}, {did}"
    return summary, [f"{masks.path}: {did}"]


def _tell_dashboard(client: Client) -> None:
    """Say where the dashboard is, and what is lacking where it would show nothing."""
    if client.dashboard_link:
        lacks = " (to see its pages: pip install 'geoseg[dashboard]')"
        pages = lacks if find_spec("bokeh") is None else ""
        say("info", f"dashboard: {client.dashboard_link}{pages}")


@command(
    "geoseg plan scene.tif --model models/landcover --memory 8GB",
    "geoseg plan scene.tif --model models/landcover --out masks.zarr --time",
    "geoseg plan scene.tif --model models/landcover --scheduler tcp://host:8786",
    "geoseg plan scene.tif --model models/landcover --device cuda --device-memory 80GB",
)
@click.argument("raster", nargs=-1, required=True)
@takes(PreviewOptions)
@click.option(
    "--time",
    "timed",
    is_flag=True,
    help="Run a few windows of its middle, and say how long all of them would take.",
)
@takes(ClusterOptions, "place")
@takes(OutputOptions, "output")
def plan(
    *,
    raster: tuple[str, ...],
    timed: bool,
    options: PreviewOptions,
    place: ClusterOptions,
    output: OutputOptions,
) -> None:
    """Show what `segment` would do with RASTER, without running it.

    Headers are read, pixels are not: windows and blocks, what will be read and written,
    and the most memory a process takes. Options are those of `segment`; with --out it
    says whether that store would be begun, resumed or refused. With --time a few
    windows are run, and their map is thrown away.

    Workers of --scheduler or --cluster are asked what GPU, memory and threads they
    have, and the plan is for them; with --time one of them runs the windows. --workers
    are of this machine, and not started.
    --device cuda with --device-memory plans for a GPU that is not here.
    """
    from geoseg.execution.engine import processes

    elsewhere = place.scheduler is not None or place.cluster is not None
    with client_of(place) if elsewhere else nullcontext() as client:
        each = _of_each_zone(raster, options)
        workers = place.workers or processes(client)
        plans = [_planned(raster, one, workers, client, timed=timed) for one in each]
    summary, lines = _together(plans)
    how_long = "" if timed else "--time says how long it takes; "
    out = "" if options.out is not None else ", with --out,"
    following = f"{how_long}`segment` in place of `plan`{out} runs it"
    print_summary(summary, [*lines, f"{'next':<22}{following}"], output)


def _planned(
    raster: tuple[str, ...],
    options: PreviewOptions,
    workers: int,
    client: Client | None,
    *,
    timed: bool,
) -> tuple[Summary, list[str]]:
    from geoseg.inference.planning import plan_of

    made = plan_of(one_or_more(raster), options, workers, client=client)
    summary = plan_summary(made, workers)
    lines = plan_lines(made, summary)
    if options.crs is not None and only_zone(options.crs) is not None:
        summary, lines = (
            {"zone": options.crs, **summary},
            [f"{'zone':<22}{options.crs.removeprefix(PREFIX)}", *lines],
        )
    if options.out is not None:
        from geoseg.inference.preview import store_preview

        state = store_preview(made, options.out, overwrite=options.overwrite)
        summary |= {"masks": os.fspath(options.out), "store": state}
        lines.append(f"{'masks':<22}{os.fspath(options.out)}: {state}")
    if timed:
        from geoseg.inference.timing import measure_time

        timing = measure_time(made, workers, client)
        summary |= {"time": {**plain(timing), "limit": timing.limit}}
        lines += _timing_lines(timing, workers)
    return summary, lines


def _timing_lines(timing: Timing, workers: int) -> list[str]:
    first, *others = sorted(timing.stages.items(), key=lambda stage: stage[1])
    beside = "".join(f", {name} {number(rate)}" for name, rate in others)
    time = (
        f"about {span_of_time(timing.seconds)} in "
        f"{'one process' if workers == 1 else f'{workers} processes'} "
        f"({number(timing.mpx_per_second)} Mpx/s, measured on "
        f"{counted(timing.windows, 'window')} of its middle)"
    )
    limit = f"the {first[0]}: {number(first[1])} Mpx/s{beside}"
    return [f"{'time':<22}{time}", f"{'limit':<22}{limit}"]


def plan_lines(made: Plan, summary: Summary) -> list[str]:
    """Return a plan, with its `plan_summary`, as people read it."""
    lines = [f"{name:<22}{value}" for name, value in _readable(made, summary).items()]
    return lines + [f"{'note':<22}{note}" for note in made.source.notes]


def plan_summary(made: Plan, workers: int) -> dict[str, Any]:
    """Return the facts of a plan, JSON-able; sizes in bytes and pixels."""
    from geoseg.inference.order import tiles_decoded

    tiling, grid, source = made.tiling, made.source.grid, made.source
    site = made.site
    pixel = pixel_bytes(source)
    reach = (tiling.block + tiling.overlap) / tiling.block
    chunks = -(-grid.height // tiling.chunk) * -(-grid.width // tiling.chunk)
    return {
        "raster": source.name,
        "height": grid.height,
        "width": grid.width,
        "bands": [band.name for band in source.bands],
        **({"steps": list(steps)} if (steps := steps_of(source.bands)) else {}),
        "dtype": str(source.dtype),
        "notes": list(source.notes),
        "pixel_size_m": grid.pixel_size_m,
        "model": made.model.card.name,
        "device": site.device,
        "precision": site.precision,
        "engine": site.engine,
        **site.facts,
        "classes": [c.name for c in made.model.card.classes],
        "window": tiling.window,
        "overlap": tiling.overlap,
        "windows": tiling.windows,
        "block": tiling.block,
        "blocks": tiling.blocks,
        "chunk": tiling.chunk,
        "bytes_read": int(grid.pixels * pixel * reach**2),
        "tiles_decoded": tiles_decoded(made.read_source, tiling, workers),
        "bytes_written_at_most": made.bytes_written,
        "files": chunks * made.layers + 10,
        "memory_per_process": int(made.memory.total),
        "memory_per_task": int(made.memory.per_task),
        "tasks_per_process": made.tasks,
        "device_memory": int(made.memory.device),
        "processes": workers,
    }


def _readable(made: Plan, s: Summary) -> dict[str, str]:
    pixel = s["pixel_size_m"]
    metres = f", {pixel[1]:.3g} x {pixel[0]:.3g} m" if pixel else ""
    site, engine = made.site, dict[str, str]()
    if site.device == "cpu":  # a GPU's is chosen as the run begins
        engine = {"engine": f"{site.engine}, {site.precision}"}
    if site.workers:
        engine = {"workers": site.told, **engine}
    if site.card is not None:
        engine |= {} if site.workers else {"GPU": site.told}
        engine["batches"] = f"{counted(site.batch, 'window')}, {site.precision}"
    often = s["tiles_decoded"]
    decoded = f"; each tile is decoded {often:.2f} times" if often else ""
    device = {}
    if s["device_memory"]:
        device = {"device memory": f"about {size(s['device_memory'])} of the GPU's"}
    return {
        "raster": f"{s['raster']}: {s['width']} x {s['height']} px{metres}",
        "bands": f"{named(made.source.bands)} ({s['dtype']})",
        "model": f"{s['model']}: {', '.join(s['classes'])}",
        **engine,
        "windows": f"{s['windows']:,} of {s['window']} px, overlap {s['overlap']} px",
        "blocks": f"{s['blocks']:,} of {s['block']} px, chunks of {s['chunk']} px",
        "read": f"about {size(s['bytes_read'])}, uncompressed{decoded}",
        "write": f"at most {size(s['bytes_written_at_most'])}, uncompressed, "
        f"in at most {s['files']:,} files",
        "memory": f"at most {size(s['memory_per_process'])} per process "
        f"({s['tasks_per_process']} blocks of {size(s['memory_per_task'])} at once)",
        **device,
    }
