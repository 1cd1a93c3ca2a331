"""The whole workflow: a raster becomes masks.

open the source ─ load the model's card ─ plan ─ create the store ─ run the blocks
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from geoseg._version import __version__
from geoseg.core.discretion import discreet
from geoseg.core.options import keywords
from geoseg.core.raster_options import NodataRule, Units
from geoseg.core.series_options import DatesFrom, Resampling
from geoseg.core.text import redact
from geoseg.execution.engine import worker_memory
from geoseg.execution.progress import Progress, bar
from geoseg.execution.resources import cores
from geoseg.inference.numerics import Numerics, choose_numerics, keeping_to
from geoseg.inference.objects.scheduler import mask_classes, run_objects, splitting_job
from geoseg.inference.options import PlanOptions, Resolution, SegmentOptions
from geoseg.inference.output_path import checked_out, existing, local_files
from geoseg.inference.planning import Plan, plan_of
from geoseg.inference.scheduler import RunInfo, run_blocks
from geoseg.inference.streams import close_streams, stream_of
from geoseg.inference.unmeasured import check_answers
from geoseg.inference.worker import Job
from geoseg.location import portable, without_folders
from geoseg.maps.complete import is_blank
from geoseg.maps.create import create_masks, settings_of, writing
from geoseg.maps.overviews import remake_overviews
from geoseg.maps.storage import write_errors
from geoseg.maps.store import Masks
from geoseg.models.card import Card, Task
from geoseg.rasters.open import check_unchanged
from geoseg.rasters.source import noted

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client


@keywords(PlanOptions, plan_of)
def make_plan(
    source: Any,  # noqa: ANN401 - whatever open_source takes
    *,
    model: Any,  # noqa: ANN401 - whatever model_recipe takes
    aoi: str | os.PathLike[str] | None = None,
    bands: Sequence[str] | None = None,
    nodata: float | None = None,
    nodata_rule: NodataRule = "auto",
    units: Units = "file",
    trust: Sequence[str] | None = None,
    dates: str | Sequence[Any] | None = None,
    cloud: float | None = None,
    endpoint: str | None = None,
    dates_from: DatesFrom = "items",
    reduce: str | None = None,
    every: str | None = None,
    mask: Sequence[str] | None = None,
    mask_buffer: float = 0.0,
    like: str | os.PathLike[str] | None = None,
    crs: str | None = None,
    resampling: Resampling = "auto",
    skip_missing: bool = False,
    overlap: int | None = None,
    block: int | None = None,
    batch: int | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    engine: Literal["auto", "threads", "torch", "compile", "openvino"] = "auto",
    tta: Literal["d4", "flips"] | None = None,
    scales: Sequence[float] | None = None,
    prompts: str | os.PathLike[str] | None = None,
    scores: bool = False,
    probabilities: bool = False,
    quality: bool = False,
    resolution: Resolution = "model",
    task: Task | None = None,
    instances: str | None = None,
    things: Sequence[str] | None = None,
    memory: float | str | None = None,
    device_memory: float | str | None = None,
    mixed: bool = False,
    workers: int = 1,
    client: Client | None = None,
) -> Plan:
    """Plan a run: what is read, how it is cut, what it needs. Arguments as `segment`.

    Beside those, `workers` is how many processes of this machine the run will have,
    each with memory of its own. Give the `client` instead where others do the work:
    they are asked what GPU, memory and threads they have.

    Raises:
        GeosegError: The raster, the model and the numbers do not go together.
        ClusterError: Workers are of different kinds, and not `mixed`.
    """
    raise NotImplementedError  # `plan_of` is what runs


def _segment(
    source: Any,  # noqa: ANN401 - whatever open_source takes
    options: SegmentOptions,
    client: Client | None,
    progress: Callable[[Progress], None] | bool | None,
) -> xr.Dataset:
    """Segment a raster; see `segment`."""
    plan = plan_of(source, options, client=client)
    masks, _ = run_plan(plan, client=client, progress=progress, **options.of_store)
    return masks.dataset()


@keywords(SegmentOptions, _segment)
def segment(
    source: Any,  # noqa: ANN401 - whatever open_source takes
    *,
    model: Any,  # noqa: ANN401 - whatever model_recipe takes
    out: str | os.PathLike[str],
    aoi: str | os.PathLike[str] | None = None,
    bands: Sequence[str] | None = None,
    nodata: float | None = None,
    nodata_rule: NodataRule = "auto",
    units: Units = "file",
    trust: Sequence[str] | None = None,
    dates: str | Sequence[Any] | None = None,
    cloud: float | None = None,
    endpoint: str | None = None,
    dates_from: DatesFrom = "items",
    reduce: str | None = None,
    every: str | None = None,
    mask: Sequence[str] | None = None,
    mask_buffer: float = 0.0,
    like: str | os.PathLike[str] | None = None,
    crs: str | None = None,
    resampling: Resampling = "auto",
    skip_missing: bool = False,
    overlap: int | None = None,
    block: int | None = None,
    batch: int | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    engine: Literal["auto", "threads", "torch", "compile", "openvino"] = "auto",
    tta: Literal["d4", "flips"] | None = None,
    scales: Sequence[float] | None = None,
    prompts: str | os.PathLike[str] | None = None,
    scores: bool = False,
    probabilities: bool = False,
    quality: bool = False,
    resolution: Resolution = "model",
    task: Task | None = None,
    instances: str | None = None,
    things: Sequence[str] | None = None,
    memory: float | str | None = None,
    device_memory: float | str | None = None,
    client: Client | None = None,
    overwrite: bool = False,
    mixed: bool = False,
    zarr_format: Literal[2, 3] = 2,
    shards: bool = False,
    progress: Callable[[Progress], None] | bool | None = None,
) -> xr.Dataset:
    """Segment a raster of any size into masks.

    The answer does not depend on blocks, workers, or where a run was interrupted; the
    same call again resumes where it stopped.

    Args:
        source: Path or URL that GDAL can open, several of them or a glob (mosaic), a
            folder of single-band files, scenes of many dates (a collection of an
            archive as `stac:sentinel-2-l2a`, or STAC items with `dates`, `reduce` or
            `every`), an `xarray.DataArray` (band, y, x), (y, x), (time, band, y, x) or
            (time, y, x), or `{date: raster, …}`.
        model: Model folder, card, `module:factory`, `threshold:ndwi`, …, or an object
            with a card; see `geoseg models`. A list of them is averaged.
        out: The masks' Zarr store, a folder or URL.
        aoi: Vector file; pixels whose centre is outside are nodata.
        bands: Names of the raster's bands in order, `name=number` for some, or which
            ones (1-based) to use, in the model's order.
        nodata: Pixel value that is nodata, whatever the raster says of it.
        nodata_rule: A pixel is nodata where `any` band is, or where `all` are; `auto`
            is `all` for pictures of bytes with red, green and blue.
        units: `file`: numbers as they are stored; `reflectance`: as the raster says
            that they become reflectance.
        trust: Folders, files and hosts that a VRT, tile index or STAC item may name.
        dates: Of scenes: a year, month or day, or two of them, both ends in, in UTC.
        cloud: Most clouds of a scene, in percent.
        endpoint: Archive that is searched.
        dates_from: Where scenes have their dates: in `items`, or in `names` of files.
        reduce: How dates become one pixel; see `compose`.
        every: Keep steps in time, for models that take time; see `compose`.
        mask: What is masked by the scenes' quality band; see `compose`.
        mask_buffer: Metres around what is masked that are masked too.
        like: Raster whose grid scenes are put on.
        crs: Coordinate reference system of that grid.
        resampling: How scenes come onto other pixels: `auto`, `nearest`, `bilinear`.
        skip_missing: Go on without files of scenes that cannot be had.
        overlap: Pixels that neighbouring windows share; default the card's.
        block: Side of a block in pixels; default by memory. Never changes the answer.
        batch: Windows per forward pass; default by device.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        precision: `auto`, `fp32`, `bf16`, `fp16`.
        engine: What runs a network: `threads` (windows side by side, on a CPU),
            `openvino` (likewise; needs `geoseg[openvino]`), `torch` (batches cut and
            blended on the device), `compile` (likewise, compiled); `auto` compiles on
            GPUs where that pays.
        tta: Look at every window turned and mirrored: `d4` eight times, `flips` four.
        scales: Look at every window resized by these factors too: 0.5, 1, 2.
        prompts: Vector file of points, boxes or polygons, in map coordinates: what a
            model such as SAM is asked for.
        scores: Write the `confidence` array too.
        probabilities: Write the `probabilities` array too.
        quality: Of scenes of many dates, write how often each pixel was seen too:
            `observations`, `clouds` (which share was masked), `first` and `last` date.
        resolution: Pixel size in metres to work at: `model` (resample where the raster
            differs by more than a quarter), `native`, or a number.
        task: `semantic`, `instance` or `panoptic`; default what the model does. A
            semantic model's map becomes objects where they are wanted; networks of
            transformers that answer masks (Mask2Former) do each task themselves.
        instances: How it does: `components`, `watershed:5`, `boundary:NAME`.
        things: Names of the classes whose objects are counted.
        memory: What one process may use, in bytes or as `8GB`; what does not fit is
            refused.
        device_memory: What it may use of its GPU; default most of what is free.
        client: Dask client to run on; None runs in this process.
        overwrite: Begin again where a store is there.
        mixed: Let other kinds of GPUs go on with a run, whose answers round otherwise;
            the store keeps which block is whose.
        zarr_format: 2, or 3.
        shards: Write Zarr 3 with one object per block, which GDAL reads from 3.13 on.
        progress: False is quiet, True and None show a bar on a terminal or notebook; or
            a function that is called after every block.

    Returns:
        The masks, lazy: `classes` (y, x) uint8 or uint16, and what else was asked for.

    Raises:
        GeosegError: Input, arguments or store are not right; nothing was written.
        BlocksFailedError: Some blocks failed; the rest is written.
    """
    raise NotImplementedError  # `_segment` is what runs


@discreet
def run_plan(
    plan: Plan,
    *,
    out: str | os.PathLike[str],
    client: Client | None = None,
    overwrite: bool = False,
    zarr_format: Literal[2, 3] = 2,
    shards: bool = False,
    mixed: bool = False,
    progress: Callable[[Progress], None] | bool | None = None,
) -> tuple[Masks, RunInfo]:
    """Create the store, or resume it, and run the plan.

    Args:
        plan: What `make_plan` returned.
        out: The masks' Zarr store, a folder or URL.
        client: Where to run; None is this process. Plan for as many `workers`.
        overwrite: Begin anew where there is a store already.
        zarr_format: 2, or 3.
        shards: Write Zarr 3 with one object per block.
        mixed: Let other kinds of GPUs go on with a run, whose answers round otherwise.
        progress: False is quiet, True and None show a bar on a terminal or notebook; or
            a function that is called after every block.

    Returns:
        The masks, and what the run did: windows, pixels, seconds.

    Raises:
        GeosegError: The store cannot be written, or was begun otherwise; memory does
            not suffice; blocks failed.
    """
    path = checked_out(os.fspath(out), plan.source)
    plan.memory.check(worker_memory(client), plan.tiling, "workers with more memory")
    if client is None:
        plan.model.load()  # or nothing is written: its GPU may not be here
        check_answers(plan.model)
    begun = datetime.now(UTC)
    with ExitStack() as stack:
        with write_errors(path):
            check = stack.enter_context(writing(path, overwrite=overwrite))
            begun_with = None if overwrite else settings_of(path)
        choice = choose_numerics(
            plan.model,
            plan.tiling.windows,
            engine=plan.engine,
            site=plan.site,
            client=client,
            begun=begun_with,
        )
        notes = (*choice.notes, *_otherwise(plan, choice.numerics))
        for note in notes:
            warnings.warn(note, stacklevel=2)
        plan = replace(
            plan,
            model=keeping_to(plan.model, choice.numerics),
            numerics=choice.numerics,
            source=noted(plan.source, *notes),
        )
        with write_errors(path):
            masks = create_masks(
                path,
                grid=plan.source.grid,
                classes=mask_classes(plan.model.card),
                chunk=plan.tiling.chunk,
                arrays=plan.arrays,
                settings=plan.settings,
                block=plan.tiling.block,
                provenance=_provenance(plan, begun),
                overwrite=overwrite,
                zarr_format=zarr_format,
                shards=shards,
                asked=plan.asked,
            )
        done = _run(plan, masks, client, progress, check, mixed=mixed, code=choice.code)
    if is_blank(masks):
        warnings.warn(
            f"{redact(path)} has no class anywhere: every pixel is nodata. What counts "
            "as nodata is told by `geoseg info RASTER`, and set by --nodata, "
            "--nodata-rule and --aoi",
            stacklevel=2,
        )
    return done


def _otherwise(plan: Plan, numerics: Numerics) -> tuple[str, ...]:
    """Say that other GPUs do the work than it was cut up for."""
    if numerics.card == plan.site.card:
        return ()
    note = (
        f"this was planned for {plan.site.card or 'processors'}, and is done on "
        f"{numerics.card or 'processors'}: blocks may be of a size that is slow there; "
        "make_plan(…, client=client) asks the workers"
    )
    return (note,)


def _run(
    plan: Plan,
    masks: Masks,
    client: Client | None,
    progress: Callable[[Progress], None] | bool | None,
    check: Callable[[], None],
    *,
    mixed: bool,
    code: bytes | None,
) -> tuple[Masks, RunInfo]:
    begun = datetime.now(UTC)
    record = masks.record()
    if record["complete"]:
        remake_overviews(masks)  # a disk may have filled while that was done
        return masks, RunInfo()
    job = Job(
        source=plan.read_source,
        model=plan.model,
        # A store that was begun with other blocks is finished with those: same answer.
        tiling=replace(plan.tiling, block=record["block"]),
        masks=masks,
        numerics=plan.numerics,
        files=(*local_files(plan.source), *existing(masks.path)),
        memory=plan.memory,
        mixed=mixed,
        code=code,
    )
    if client is None and plan.model.load().streams:  # before the first read
        stream_of(masks.run, job.model, job.tiling, job.numerics, job.code)
    with _shown(progress, plan) as show:

        def checked(now: Progress) -> None:
            check()
            show(now)

        run = run_blocks if plan.model.card.task == "semantic" else run_objects
        try:
            with write_errors(masks.path, of_room=True):
                info = run(job, client=client, threads=plan.tasks, show=checked)
                if plan.splitting is not None:
                    second = splitting_job(job, plan.splitting)
                    run_objects(second, client=client, threads=cores(), show=checked)
        finally:
            close_streams()
    check_unchanged(plan.source)
    with write_errors(masks.path):
        masks.finish(_what_was_done(info, begun))
    remake_overviews(masks)
    return masks, info


def _what_was_done(info: RunInfo, begun: datetime) -> dict[str, Any]:
    """Return what provenance says of a run that ends now."""
    now, share = datetime.now(UTC), info.gpu_share
    return {
        **({} if share is None else {"gpu_share": round(share, 3)}),
        "finished": now.isoformat(),
        "seconds": (now - begun).total_seconds(),
        "devices": sorted(info.devices),
        "stages": {
            "reading and blending": round(info.other_seconds, 3),
            "model": round(info.forward_seconds, 3),
            "joining and writing": round(info.finish_seconds, 3),
        },
    }


def _shown(progress: Callable[[Progress], None] | bool | None, plan: Plan) -> Any:  # noqa: ANN401
    if callable(progress):
        return nullcontext(progress)
    if progress is False:
        return nullcontext(lambda _: None)
    return bar(f"{plan.model.card.name} {plan.site.name}".strip())


def _provenance(plan: Plan, begun: datetime) -> Mapping[str, Any]:
    card = plan.model.card
    return {
        "version": __version__,
        "run": uuid4().hex,
        "begun": begun.isoformat(),
        "model": {"name": card.name, "hash": plan.model.hash, **_held_out(card)},
        **({"planned_for": plan.site.facts} if plan.site.facts else {}),
        "source": without_folders(plan.source.name),
        "notes": [without_folders(note) for note in plan.source.notes],
        "settings": portable(plan.settings),
    }


def _held_out(card: Card) -> dict[str, Any]:
    """Return what a model's card says of its accuracy on data that was held out."""
    found = card.facts.get("validation")
    if not isinstance(found, Mapping):
        return {}
    known = ("how", "pixels", "overall_accuracy", "interval", "blocks", "mean_iou")
    return {"validation": {k: found[k] for k in known if k in found}}
