"""`geoseg segment` and `geoseg plan`."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import click

from geoseg.cli.common import (
    byte_count,
    cluster_options,
    comma_list,
    number_list,
    one_or_more,
    output_options,
    report,
    resolution,
)
from geoseg.core.text import size

if TYPE_CHECKING:
    from geoseg.inference.workflow import Plan

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.argument("raster", nargs=-1, required=True),
    click.option(
        "--model",
        required=True,
        multiple=True,
        callback=one_or_more,
        metavar="MODEL",
        help="See `geoseg models`; given several times, scores are averaged.",
    ),
    click.option(
        "--tta",
        type=click.Choice(["d4", "flips"]),
        help="Look at every window turned and mirrored: 8 or 4 times.",
    ),
    click.option(
        "--scales",
        callback=number_list,
        metavar="0.5,1,2",
        help="Look at every window resized by these factors, and average.",
    ),
    click.option(
        "--prompts",
        type=click.Path(),
        metavar="FILE",
        help="Points, boxes or polygons that SAM and its like are asked for.",
    ),
    click.option("--aoi", type=click.Path(), help="Polygons; outside is nodata."),
    click.option(
        "--bands",
        callback=comma_list,
        metavar="red,green,…",
        help="Names of the raster's bands in order, or numbers of those to use.",
    ),
    click.option("--nodata", type=float, help="A pixel value that is nodata too."),
    click.option(
        "--overlap",
        type=int,
        metavar="PX",
        help="What neighbouring windows share; default the model's.",
    ),
    click.option(
        "--block",
        type=int,
        metavar="PX",
        help="Side of a block; default by memory. Never changes the answer.",
    ),
    click.option(
        "--batch", type=int, metavar="N", help="Windows per pass; default by device."
    ),
    click.option(
        "--device", default="auto", show_default=True, help="auto, cpu, cuda."
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
        default="auto",
        show_default=True,
        help="auto: the fastest that the device is built for.",
    ),
    click.option("--scores", is_flag=True, help="Write confidence too."),
    click.option("--probabilities", is_flag=True, help="Write all probabilities too."),
    click.option(
        "--resolution",
        default="model",
        show_default=True,
        callback=resolution,
        metavar="model|native|METRES",
        help="Pixel size to work at.",
    ),
    click.option(
        "--task",
        type=click.Choice(["semantic", "instance", "panoptic"]),
        help="Classes, objects, or both; default what the model does.",
    ),
    click.option(
        "--instances",
        metavar="METHOD",
        help="How classes become objects: components, components:8, watershed:5 "
        "(pixels between seeds), boundary:NAME (the class between objects).",
    ),
    click.option(
        "--things",
        callback=comma_list,
        metavar="a,b",
        help="Names of the classes whose objects are counted.",
    ),
    click.option(
        "--memory",
        callback=byte_count,
        metavar="SIZE",
        help="What one process may use, such as 8GB; what does not fit is refused.",
    ),
)


def _plan_options(function: F) -> F:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def _source(raster: tuple[str, ...]) -> str | list[str]:
    return raster[0] if len(raster) == 1 else list(raster)


@click.command(
    epilog="""
\b
Examples:
  geoseg segment scene.tif --model models/landcover --out masks.zarr
  geoseg segment 'tiles/*.tif' --model threshold:ndwi --out water.zarr
  geoseg segment scene.tif --model mine.py:factory --out m.zarr --workers 4 --scores
"""
)
@_plan_options
@click.option("--out", required=True, metavar="MASKS.zarr", help="The store to write.")
@click.option("--overwrite", is_flag=True, help="Start anew where a store is there.")
@click.option(
    "--zarr-format",
    type=click.Choice(["2", "3"]),
    default="2",
    show_default=True,
    help="2 opens everywhere.",
)
@cluster_options
@output_options
def segment(
    *,
    raster: tuple[str, ...],
    out: str,
    overwrite: bool,
    zarr_format: str,
    workers: int | None,
    scheduler: str | None,
    cluster: str | None,
    quiet: bool,
    as_json: bool,
    **options: Any,  # noqa: ANN401 - those of make_plan, as declared above
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
    from geoseg.execution.clusters import open_client
    from geoseg.execution.engine import processes
    from geoseg.inference.workflow import make_plan, run_plan

    with open_client(workers=workers, scheduler=scheduler, cluster=cluster) as client:
        plan = make_plan(_source(raster), workers=processes(client), **options)
        if client is not None and not quiet and not as_json and client.dashboard_link:
            click.echo(f"dashboard: {client.dashboard_link}{_pages()}", err=True)
        begun = perf_counter()
        masks, facts = run_plan(
            plan,
            out=out,
            client=client,
            overwrite=overwrite,
            zarr_format=3 if zarr_format == "3" else 2,
            progress=False if quiet or as_json else None,
        )
        seconds = perf_counter() - begun
    summary: dict[str, Any] = {
        "masks": masks.path,
        "blocks": plan.tiling.blocks,
        "windows": facts.windows,
        "pixels": facts.pixels,
        "seconds": round(seconds, 3),
        "mpx_per_second": round(facts.pixels / 1e6 / seconds, 3),
        "forward_seconds": round(facts.forward_seconds, 3),
    }
    if facts.pixels:
        did = (
            f"{facts.windows} windows in {seconds:.1f} s, "
            f"{facts.pixels / 1e6 / seconds:.1f} Mpx/s"
        )
    elif facts.finished:
        did = f"{facts.finished} blocks, inferred before, finished in {seconds:.1f} s"
    else:
        did = "it was complete already"
    if "instances" in masks.arrays:
        summary["objects"] = len(masks.objects(["pixels"])["pixels"])
        did = f"{summary['objects']:,} objects, {did}"
    report(summary, [f"{masks.path}: {did}"], quiet=quiet, as_json=as_json)


def _pages() -> str:
    """Return what is lacking where the dashboard would show nothing."""
    if find_spec("bokeh") is not None:
        return ""
    return " (to see its pages: pip install 'geoseg[dashboard]')"


@click.command(
    epilog="""
\b
Example:
  geoseg plan scene.tif --model models/landcover --memory 8GB
"""
)
@_plan_options
@click.option("--workers", type=click.IntRange(1), default=1, help="Processes.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def plan(
    *,
    raster: tuple[str, ...],
    workers: int,
    as_json: bool,
    **options: Any,  # noqa: ANN401 - those of make_plan, as declared above
) -> None:
    """Say what `segment` would do with RASTER, and run nothing.

    Headers are read, pixels are not: windows and blocks, what will be read and written,
    and the most memory a process takes. Options are those of `segment`.
    """
    from geoseg.inference.workflow import make_plan

    made = make_plan(_source(raster), workers=workers, **options)
    summary = plan_summary(made, workers)
    lines = [f"{name:<22}{value}" for name, value in _readable(made, workers).items()]
    report(summary, lines, quiet=False, as_json=as_json)


def plan_summary(made: Plan, workers: int) -> dict[str, Any]:
    """Return the facts of a plan, JSON-able; sizes in bytes and pixels."""
    tiling, grid, source = made.tiling, made.source.grid, made.source
    pixel = len(source.bands) * source.dtype.itemsize
    reach = (tiling.block + tiling.overlap) / tiling.block
    chunks = -(-grid.height // tiling.chunk) * -(-grid.width // tiling.chunk)
    return {
        "raster": source.name,
        "height": grid.height,
        "width": grid.width,
        "bands": [band.name for band in source.bands],
        "dtype": str(source.dtype),
        "pixel_size_m": grid.pixel_size_m,
        "model": made.model.card.name,
        "classes": [c.name for c in made.model.card.classes],
        "window": tiling.window,
        "overlap": tiling.overlap,
        "windows": tiling.windows,
        "block": tiling.block,
        "blocks": tiling.blocks,
        "chunk": tiling.chunk,
        "bytes_read": int(grid.pixels * pixel * reach**2),
        "bytes_written_at_most": grid.pixels * len(made.arrays),
        "files": chunks * len(made.arrays) + 10,
        "memory_per_process": int(made.memory.total),
        "memory_per_task": int(made.memory.per_task),
        "tasks_per_process": made.tasks,
        "processes": workers,
    }


def _readable(made: Plan, workers: int) -> dict[str, str]:
    s = plan_summary(made, workers)
    ground = s["pixel_size_m"]
    metres = f", {ground[0]:.3g} x {ground[1]:.3g} m" if ground else ""
    return {
        "raster": f"{s['raster']}: {s['height']} x {s['width']} px{metres}",
        "bands": f"{', '.join(s['bands'])} ({s['dtype']})",
        "model": f"{s['model']}: {', '.join(s['classes'])}",
        "windows": f"{s['windows']:,} of {s['window']} px, overlap {s['overlap']} px",
        "blocks": f"{s['blocks']:,} of {s['block']} px, chunks of {s['chunk']} px",
        "read": f"about {size(s['bytes_read'])}, uncompressed",
        "write": f"at most {size(s['bytes_written_at_most'])}, uncompressed, "
        f"in at most {s['files']:,} files",
        "memory": f"at most {size(s['memory_per_process'])} per process "
        f"({s['tasks_per_process']} blocks of {size(s['memory_per_task'])} at once)",
    }
