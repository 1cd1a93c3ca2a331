"""The whole workflow: a raster becomes masks.

open the source ─ load the model's card ─ plan ─ create the store ─ run the blocks
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from geoseg._version import __version__
from geoseg.core import views
from geoseg.core.options import keywords
from geoseg.core.tiling import Tiling, auto_block
from geoseg.errors import (
    GeosegError,
    MasksError,
    PlanError,
    StorageFullError,
    is_full,
)
from geoseg.execution.engine import processes
from geoseg.execution.progress import Progress
from geoseg.execution.resources import cores
from geoseg.inference.memory import Memory, estimate
from geoseg.inference.objects.scheduler import run_objects, splitting_job, table_of
from geoseg.inference.objects.split import Splitting, method, things_of
from geoseg.inference.options import PlanOptions, Resolution, SegmentOptions
from geoseg.inference.scheduler import RunInfo, run_blocks
from geoseg.inference.worker import Job
from geoseg.maps.store import Masks, create_masks, writing
from geoseg.models.card import Card, Task
from geoseg.models.check import check_fit
from geoseg.models.load import ModelRecipe, model_recipe
from geoseg.rasters.open import Source, match_bands, open_source, with_nodata

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client

_NEAR = 1.25
"""Pixels this much larger or smaller than the model's are taken as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What would run; made without inferring a single window."""

    source: Source
    """The model's bands, in the model's order, on the grid of the masks."""
    model: ModelRecipe
    """The model, fitted to the raster where it is of that kind."""
    tiling: Tiling
    """Cells, windows, blocks."""
    arrays: tuple[str, ...]
    """Arrays of the masks."""
    memory: Memory
    """What a worker will need at most."""
    tasks: int
    """Blocks in work at once, per process."""
    task: Task = "semantic"
    """What is wanted: classes, objects, or both."""
    splitting: Splitting | None = None
    """How a semantic model's map becomes objects."""

    def _repr_html_(self) -> str:
        return views.html("plan", self)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that changes the answer; a store keeps to it."""
        grid = self.source.grid
        objects: dict[str, Any] = {}
        if self.task != "semantic":
            objects["task"] = self.task
        if self.splitting is not None:
            objects["instances"] = self.splitting.spec
            objects["things"] = list(self.splitting.things)
        return {
            **objects,
            "source": dict(self.source.identity),
            "bands": [band.name for band in self.source.bands],
            "grid": [list(grid.transform)[:6], grid.height, grid.width],
            "model": self.model.hash,
            "model_name": self.model.card.name,
            "window": self.tiling.window,
            "overlap": self.tiling.overlap,
            "multiple": self.tiling.multiple,
            "arrays": list(self.arrays),
        }


def plan_of(source: Any, options: PlanOptions, workers: int) -> Plan:  # noqa: ANN401
    """Plan a run; as `make_plan`, with options as one object."""
    opened = open_source(
        source, bands=options.bands, aoi=options.aoi, nodata=options.nodata
    )
    recipe = model_recipe(
        options.model,
        device=options.device,
        precision=options.precision,
        batch=options.batch,
        tta=options.tta,
        scales=options.scales,
        prompts=options.prompts,
        task=None if options.instances else options.task,
        things=options.things,
    )
    recipe = recipe.bound(opened)
    if recipe.card.nodata is not None:
        opened = with_nodata(opened, recipe.card.nodata)
    opened = opened.select(match_bands(opened, recipe.card.bands))
    check_fit(recipe.card, opened)
    opened = _at_resolution(opened, recipe.card.resolution, options.resolution)
    return _cut(opened, recipe.fit(opened), options, workers)


def _cut(
    source: Source, recipe: ModelRecipe, options: PlanOptions, workers: int
) -> Plan:
    """Plan how a raster is cut, and what that needs."""
    card = recipe.card
    task, splitting = _objects(card, options.task, options.instances, options.things)
    arrays = _arrays(
        card, task, scores=options.scores, probabilities=options.probabilities
    )
    tiling = Tiling(
        height=source.grid.height,
        width=source.grid.width,
        window=card.window,
        overlap=card.overlap if options.overlap is None else options.overlap,
        multiple=card.multiple,
    )
    tasks = cores() if card.output == "labels" else 2
    tiling = _with_block(tiling, source, recipe, arrays, tasks, workers, options)
    needed = estimate(source, recipe, tiling, arrays, tasks)
    allowed = options.memory_bytes
    if allowed is not None and needed.total > allowed:
        raise PlanError(needed.refusal(allowed, tiling))
    return Plan(
        source=source,
        model=recipe,
        tiling=tiling,
        arrays=arrays,
        memory=needed,
        tasks=tasks,
        task=task,
        splitting=splitting,
    )


@keywords(PlanOptions, plan_of)
def make_plan(
    source: Any,  # noqa: ANN401 - whatever open_source takes
    *,
    model: Any,  # noqa: ANN401 - whatever model_recipe takes
    aoi: str | os.PathLike[str] | None = None,
    bands: Sequence[str] | None = None,
    nodata: float | None = None,
    overlap: int | None = None,
    block: int | None = None,
    batch: int | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    tta: Literal["d4", "flips"] | None = None,
    scales: Sequence[float] | None = None,
    prompts: str | os.PathLike[str] | None = None,
    scores: bool = False,
    probabilities: bool = False,
    resolution: Resolution = "model",
    task: Task | None = None,
    instances: str | None = None,
    things: Sequence[str] | None = None,
    memory: float | str | None = None,
    workers: int = 1,
) -> Plan:
    """Plan a run: what is read, how it is cut, what it needs. Arguments as `segment`.

    Raises:
        GeosegError: The raster, the model and the numbers do not go together.
    """
    raise NotImplementedError  # `plan_of` is what runs


def _objects(
    card: Card, task: Task | None, instances: str | None, things: Sequence[str] | None
) -> tuple[Task, Splitting | None]:
    """Return what is wanted, and how a map becomes objects where the model has none."""
    wanted = task or card.task
    if wanted == card.task or (card.task == "panoptic" and wanted == "instance"):
        if instances or (things and tuple(things) != card.things):
            raise GeosegError(
                "--instances and --things are for a model of classes whose objects are "
                f"wanted; here the task is {wanted} and {card.name!r} does it itself: "
                "leave them out, or add --task instance"
            )
        return wanted, None
    if card.task != "semantic":
        raise GeosegError(
            f"{card.name!r} is for the task {card.task}, not {wanted}: use --task "
            f"{card.task} or another model"
        )
    spec = instances or "components"
    how = method(spec, card.classes)
    return wanted, Splitting(spec=spec, method=how, things=things_of(card, things))


def _with_block(
    tiling: Tiling,
    source: Source,
    recipe: ModelRecipe,
    arrays: Sequence[str],
    tasks: int,
    workers: int,
    options: PlanOptions,
) -> Tiling:
    if options.block is not None:
        return replace(tiling, block=options.block)
    smallest = estimate(source, recipe, tiling, arrays, tasks)
    room = (options.memory_bytes or 2.5e9) - smallest.process - smallest.model
    side = auto_block(
        tiling,
        bytes_per_pixel=smallest.per_task / tiling.block**2,
        budget=max(room / tasks, 0),
        workers=workers * tasks,
    )
    return replace(tiling, block=side)


def _arrays(
    card: Card, task: Task, *, scores: bool, probabilities: bool
) -> tuple[str, ...]:
    if card.task != "semantic" and probabilities:
        raise GeosegError(
            f"a model for the task {card.task} has no probabilities of all classes: "
            "leave out --probabilities; --scores keeps how sure it is of each object"
        )
    labels = card.output == "labels" and card.task == "semantic"
    if labels and (scores or probabilities):
        raise GeosegError(
            "this model answers labels, not scores: leave out --scores and "
            "--probabilities, or use a model with scores"
        )
    arrays = ["classes"]
    arrays += ["confidence"] if scores else []
    arrays += ["probabilities"] if probabilities else []
    arrays += ["instances"] if task != "semantic" else []
    return tuple(arrays)


def _at_resolution(source: Source, model: float | None, wanted: Resolution) -> Source:
    """Return the source with pixels of the wanted size; itself where they are near."""
    metres = model if wanted == "model" else wanted
    if wanted == "native" or metres is None:
        return source
    metres = float(metres)
    if metres <= 0:
        raise GeosegError(f"resolution {metres} m must be more than 0")
    size = source.grid.pixel_size_m
    if size is None:
        warnings.warn(
            f"{source.name} does not say how large its pixels are in metres; it is "
            f"taken to be {metres} m as the model wants",
            stacklevel=3,
        )
        return source
    factors = metres / size[0], metres / size[1]
    near = _NEAR if wanted == "model" else 1.0 + 1e-9
    if all(1 / near <= f <= near for f in factors):
        return source
    from geoseg.rasters.open import resampled

    grid = source.grid.resampled(y_factor=factors[0], x_factor=factors[1])
    return resampled(source, grid)


def _segment(
    source: Any,  # noqa: ANN401 - whatever open_source takes
    options: SegmentOptions,
    client: Client | None,
    progress: Callable[[Progress], None] | bool | None,
) -> xr.Dataset:
    """Segment a raster; see `segment`."""
    plan = plan_of(source, options, processes(client))
    masks, _ = run_plan(
        plan,
        out=options.out,
        client=client,
        overwrite=options.overwrite,
        zarr_format=options.zarr_format,
        progress=progress,
    )
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
    overlap: int | None = None,
    block: int | None = None,
    batch: int | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    tta: Literal["d4", "flips"] | None = None,
    scales: Sequence[float] | None = None,
    prompts: str | os.PathLike[str] | None = None,
    scores: bool = False,
    probabilities: bool = False,
    resolution: Resolution = "model",
    task: Task | None = None,
    instances: str | None = None,
    things: Sequence[str] | None = None,
    memory: float | str | None = None,
    client: Client | None = None,
    overwrite: bool = False,
    zarr_format: Literal[2, 3] = 2,
    progress: Callable[[Progress], None] | bool | None = None,
) -> xr.Dataset:
    """Segment a raster of any size into masks.

    The answer does not depend on blocks, workers, or where a run was interrupted; the
    same call again goes on where it stopped.

    Args:
        source: Path or URL that GDAL can open, several of them or a glob (mosaic), a
            folder of single-band files, an `xarray.DataArray` (band, y, x) or (y, x).
        model: Model folder, card, `module:factory`, `threshold:ndwi`, …, or an object
            with a card; see `geoseg models`. A list of them is averaged.
        out: The masks' Zarr store, a folder or URL.
        aoi: Vector file; pixels whose centre is outside are nodata.
        bands: Names of the raster's bands in order, or which ones (1-based) to use.
        nodata: Pixel value that is nodata too.
        overlap: Pixels that neighbouring windows share; default the card's.
        block: Side of a block in pixels; default by memory. Never changes the answer.
        batch: Windows per forward pass; default by device.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        precision: `auto`, `fp32`, `bf16`, `fp16`.
        tta: Look at every window turned and mirrored: `d4` eight times, `flips` four.
        scales: Look at every window resized by these factors too: 0.5, 1, 2.
        prompts: Vector file of points, boxes or polygons, in map coordinates: what a
            model such as SAM is asked for.
        scores: Write the `confidence` array too.
        probabilities: Write the `probabilities` array too.
        resolution: Pixel size in metres to work at: `model` (resample where the raster
            differs by more than a quarter), `native`, or a number.
        task: `semantic`, `instance` or `panoptic`; default what the model does. A
            semantic model's map becomes objects where they are wanted; networks of
            transformers that answer masks (Mask2Former) do each task themselves.
        instances: How it does: `components`, `watershed:5`, `boundary:NAME`.
        things: Names of the classes whose objects are counted.
        memory: What one process may use, in bytes or as `8GB`; what does not fit is
            refused.
        client: Dask client to run on; None runs in this process.
        overwrite: Start anew where a store is there.
        zarr_format: 2, or 3.
        progress: False is quiet, True and None show a bar on a terminal or notebook; or
            a function that is told after every block.

    Returns:
        The masks, lazy: `classes` (y, x) uint8 or uint16, and what else was asked for.

    Raises:
        GeosegError: Input, arguments or store are not right; nothing was written.
        BlocksFailedError: Some blocks failed; the rest is written.
    """
    raise NotImplementedError  # `_segment` is what runs


def run_plan(
    plan: Plan,
    *,
    out: str | os.PathLike[str],
    client: Client | None = None,
    overwrite: bool = False,
    zarr_format: Literal[2, 3] = 2,
    progress: Callable[[Progress], None] | bool | None = None,
) -> tuple[Masks, RunInfo]:
    """Create the store, or go on with it, and run the plan; see `segment`."""
    path = _checked_out(os.fspath(out), plan.source)
    begun = datetime.now(UTC)
    with ExitStack() as stack:
        with _writable(path):
            check = stack.enter_context(writing(path, overwrite=overwrite))
            masks = create_masks(
                path,
                grid=plan.source.grid,
                classes=table_of(plan.model.card),
                chunk=plan.tiling.chunk,
                arrays=plan.arrays,
                settings=plan.settings,
                block=plan.tiling.block,
                provenance=_provenance(plan, begun),
                overwrite=overwrite,
                zarr_format=zarr_format,
            )
        return _run(plan, masks, client, progress, check)


@contextmanager
def _writable(path: str) -> Iterator[None]:
    """Say on one line why a store cannot be written."""
    try:
        yield
    except OSError as error:
        kind = StorageFullError if is_full(error) else MasksError
        raise kind(f"{path} cannot be written: {error.strerror or error}") from error


def _run(
    plan: Plan,
    masks: Masks,
    client: Client | None,
    progress: Callable[[Progress], None] | bool | None,
    check: Callable[[], None],
) -> tuple[Masks, RunInfo]:
    begun = datetime.now(UTC)
    record = masks.record()
    # A store that was begun with other blocks is finished with those: same answer.
    tiling = replace(plan.tiling, block=record["block"])
    job = Job(source=plan.source, model=plan.model, tiling=tiling, masks=masks)
    if record["complete"]:
        return masks, RunInfo()
    with _shown(progress, plan) as show:

        def tell(now: Progress) -> None:
            check()
            show(now)

        run = run_blocks if plan.model.card.task == "semantic" else run_objects
        facts = run(job, client=client, threads=plan.tasks, show=tell)
        if plan.splitting is not None:
            second = splitting_job(job, plan.splitting)
            run_objects(second, client=client, threads=cores(), show=tell)
    seconds = (datetime.now(UTC) - begun).total_seconds()
    with _writable(masks.path):
        masks.finish(
            {
                "finished": datetime.now(UTC).isoformat(),
                "seconds": seconds,
                "devices": sorted(facts.devices),
                "stages": {
                    "reading and blending": round(facts.other_seconds, 3),
                    "model": round(facts.forward_seconds, 3),
                    "joining and writing": round(facts.finish_seconds, 3),
                },
            }
        )
    return masks, facts


def _shown(progress: Callable[[Progress], None] | bool | None, plan: Plan) -> Any:  # noqa: ANN401
    from contextlib import nullcontext

    if callable(progress):
        return nullcontext(progress)
    if progress is False:
        return nullcontext(lambda _: None)
    from geoseg.execution.progress import bar

    model = plan.model.load()
    where = (getattr(model, "device", None), getattr(model, "precision", None))
    known = [w for w in where if w and w != "own"]  # somebody's code sees to it itself
    return bar(" ".join([plan.model.card.name, *known]))


def _provenance(plan: Plan, begun: datetime) -> Mapping[str, Any]:
    card = plan.model.card
    return {
        "version": __version__,
        "run": uuid4().hex,
        "begun": begun.isoformat(),
        "model": {"name": card.name, "hash": plan.model.hash},
        "source": plan.source.name,
        "settings": plan.settings,
    }


def _checked_out(out: str, source: Source) -> str:
    """Return the store's path, or raise where it would lie in or on the input."""
    if "://" in out:
        return out.rstrip("/")
    target = Path(out).resolve()
    for place in _places(source.identity, source.name):
        path = Path(place)
        if path.exists() and (
            path.resolve() == target or path.resolve() in target.parents
        ):
            raise MasksError(
                f"the output {out} lies on or inside the input {place}: choose "
                "another --out"
            )
    if target.is_file():
        raise MasksError(
            f"{out} is a file; the masks are a folder: choose another --out"
        )
    return str(target)


def _places(identity: Mapping[str, Any], name: str) -> list[str]:
    """Return the local files or the folder that a source's identity tells of."""
    places = [str(identity["path"])] if "path" in identity else []
    places += [name] if "files" in identity else []
    for inner in identity.values():  # of what is clipped, resampled, warped
        places += _places(inner, name) if isinstance(inner, Mapping) else []
    return [p for p in places if "://" not in p and not p.startswith("/vsi")]
