"""The plan of a run: what is read, how it is cut, what it needs, before anything runs.

open the source ─ load the model's card ─ fit one to the other ─ cut into blocks
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from geoseg.core import views
from geoseg.core.series_options import QUALITY
from geoseg.core.text import counted, size
from geoseg.core.tiling import LARGEST_BLOCK, Tiling, auto_block
from geoseg.errors import GeosegError
from geoseg.execution.engine import processes, worker_memory
from geoseg.execution.resources import cores, feeding_threads
from geoseg.inference.memory import Memory, estimate_memory
from geoseg.inference.numerics import Numerics
from geoseg.inference.objects.split import Splitting, method, things_of
from geoseg.inference.options import PlanOptions, Resolution
from geoseg.inference.order import share_at_work
from geoseg.inference.quickest import quickest
from geoseg.inference.recorded_options import asked
from geoseg.inference.sites import Site, crew_of, imagined_site, site_here
from geoseg.inference.windows import tiling_of
from geoseg.maps.arrays import bytes_per_pixel, kind_of
from geoseg.models.card import Card, Task
from geoseg.models.caution import cautions
from geoseg.models.check import check_answer, check_fit
from geoseg.models.load import ModelRecipe, model_recipe
from geoseg.models.networks.device import EngineName, has_cuda
from geoseg.rasters.open import Source, SourceBand, for_model, open_source
from geoseg.rasters.quality import with_quality
from geoseg.rasters.source import noted, steps_of
from geoseg.rasters.time import Series

if TYPE_CHECKING:
    from distributed import Client

_ROOM = 3e9
"""Bytes that a process uses at most unless the user says otherwise."""
_ROOM_BESIDE_A_GPU = 16e9
"""Likewise beside a GPU, which is fed by many threads and with large blocks."""
_LARGEST_STREAMED = 4096
"""Side of the largest blocks that a device is given, in pixels."""
_STREAMED = 8
"""Blocks that a device is given at least, so that it is fed while others are read."""
_AT_ONCE = 3
"""Blocks that a device has room for at once."""
_MANY = 100
"""Blocks for each worker of which the last ones are not worth a thought."""
_AS_GOOD = 0.02
"""Of a run's time that workers are at work: less is no reason for smaller blocks."""
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
    site: Site
    """What will do the work."""
    task: Task = "semantic"
    """What is wanted: classes, objects, or both."""
    splitting: Splitting | None = None
    """How a semantic model's map becomes objects."""
    reading: Mapping[str, Any] = field(default_factory=dict)
    """How the raster is read, as far as the user says otherwise than it does."""
    engine: EngineName = "auto"
    """What runs a network, as the user asks; the model's is what became of `auto`."""
    numerics: Numerics | None = None
    """How it computes; None until a run has chosen."""
    asked: Mapping[str, Any] = field(default_factory=dict)
    """What the user asked for, beyond defaults, JSON-able; nothing that changes it."""

    def __repr__(self) -> str:
        cut, memory = self.tiling, size(self.memory.total)
        return (
            f"<Plan of {self.model.card.name} on {self.source.name}: "
            f"{counted(cut.windows, 'window')} in {counted(cut.blocks, 'block')}, at "
            f"most {memory} per process>"
        )

    def _repr_html_(self) -> str:
        return views.html("plan", self)

    @property
    def bytes_written(self) -> int:
        """How many bytes the masks take at most, before they are compressed."""
        pixel = bytes_per_pixel(self.arrays, self.model.card.classes)
        return self.source.grid.pixels * pixel

    @property
    def layers(self) -> int:
        """How many arrays (y, x) that is."""
        classes = self.model.card.classes
        return sum(kind_of(name, classes).layers for name in self.arrays)

    @property
    def read_source(self) -> Source:
        """What is read: the source, with bands of its quality where those are kept."""
        told = QUALITY[0] in self.arrays
        return with_quality(self.source) if told else self.source

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that changes the answer; a store keeps to it."""
        grid, objects = self.source.grid, dict[str, Any]()
        # The precision stands beside it, so that a message names what differs.
        unpinned = replace(
            self.model, options=replace(self.model.options, precision="auto")
        )
        if self.task != "semantic":
            objects["task"] = self.task
        if self.splitting is not None:
            objects["instances"] = self.splitting.spec
            objects["things"] = list(self.splitting.things)
        return {
            **objects,
            "source": dict(self.source.identity),
            **self.reading,
            "bands": [band.name for band in self.source.bands],
            **_steps(self.source.bands),
            "grid": [list(grid.transform)[:6], grid.height, grid.width],
            **(self.numerics.settings() if self.numerics is not None else {}),
            "model": unpinned.hash,
            "model_name": self.model.card.name,
            "window": self.tiling.window,
            "overlap": self.tiling.overlap,
            "multiple": self.tiling.multiple,
            "arrays": list(self.arrays),
        }


def _steps(bands: Sequence[SourceBand]) -> dict[str, list[str | None]]:
    return {"steps": [b.step for b in bands]} if steps_of(bands) else {}


def plan_of(
    source: Any,  # noqa: ANN401 - whatever open_source takes
    options: PlanOptions,
    workers: int = 1,
    *,
    client: Client | None = None,
    chunk: int = 0,
) -> Plan:
    """Plan a run.

    Args:
        source: What `open_source` takes.
        options: What the user asks for.
        workers: How many processes of this machine will be at work.
        client: Whose workers will be instead, and are asked what they are.
        chunk: About the side of the store's chunks in pixels; 0: the usual one.

    Raises:
        GeosegError: The raster, the model and the numbers do not go together.
        ClusterError: The workers are of different kinds, or there are none.
    """
    workers = workers if client is None else processes(client)
    imagined = client is None and _is_imagined(options)
    # GPUs that are none of this process are asked, or imagined, later.
    elsewhere = imagined or client is not None
    recipe = recipe_of(options, "cpu" if elsewhere else options.device)
    metres = _metres(recipe.card.resolution, options.resolution)
    opened = open_source(source, pixel=metres, **options.of_source)
    # Scenes of many dates are put on these pixels at once, or on those of --like.
    exact = options.like is not None and options.resolution == "model"
    placed = isinstance(opened, Series) and (options.like is None or exact)
    recipe = recipe.bound(opened)
    opened = noted(opened, *cautions(recipe.card, opened.grid))
    opened = for_model(opened, recipe.card)
    check_fit(recipe.card, opened)
    if metres is not None and not placed:
        opened = _at_resolution(opened, metres, options.resolution)
    cut = tiling_of(opened.grid, recipe.card, overlap=options.overlap, chunk=chunk)
    recipe, crew = recipe.given(opened), None
    if client is not None:
        crew = crew_of(recipe, options.device, client, mixed=options.mixed)
    if not imagined and (crew is None or crew.card is None):
        recipe = quickest(recipe, cut.windows)
    recipe = recipe.fit(opened)
    whole = recipe
    if elsewhere:
        whole = recipe.with_options(replace(recipe.options, device=options.device))
    with recipe.telling():
        if imagined:
            site = imagined_site(recipe, float(options.device_memory or 0))
        elif crew is None or client is None:
            site = site_here(recipe, workers)
        else:
            site = crew.site(whole, recipe, client)
        usual, limit = _room(site), worker_memory(client)
        room = options.memory_bytes or min(usual, limit or usual)
        plan = _cut(opened, recipe, options, workers, site, room, chunk)
    return replace(
        plan,
        model=whole,
        engine=options.engine,
        reading=_reading(options),
        asked=asked(source, options),
    )


def _is_imagined(options: PlanOptions) -> bool:
    """Whether a GPU is planned for that is not here, but has been told of."""
    asked = options.device.startswith("cuda") and options.device_memory is not None
    return asked and not has_cuda()


def _room(site: Site) -> float:
    """Return the bytes that a process uses at most unless the user says otherwise.

    Processes of one machine share half of its memory.
    """
    most = _ROOM / 2 * max(2, site.threads or 0)
    if site.streams:
        most = _ROOM_BESIDE_A_GPU
    return min(most, max(_ROOM, site.memory / 2))


def _reading(options: PlanOptions) -> dict[str, Any]:
    """Return how the raster is to be read, for a store's settings.

    What changes which pixels are valid changes the answer, and no pixel.
    """
    usual = {"nodata": None, "nodata_rule": "auto"}
    asked = {name: getattr(options, name) for name in usual}
    return {name: value for name, value in asked.items() if value != usual[name]}


def recipe_of(options: PlanOptions, device: str) -> ModelRecipe:
    """Return the model that is asked for on a device, not yet fitted to a raster."""
    memory = options.device_memory
    return model_recipe(
        options.model,
        device=device,
        precision=options.precision,
        batch=options.batch,
        engine=options.engine,
        device_memory=None if memory is None else float(memory),
        tta=options.tta,
        scales=options.scales,
        prompts=options.prompts,
        task=None if options.instances else options.task,
        things=options.things,
    )


def _cut(
    source: Source,
    recipe: ModelRecipe,
    options: PlanOptions,
    workers: int,
    site: Site,
    room: float,
    chunk: int,
) -> Plan:
    """Plan how a raster is cut, and what that needs."""
    card = recipe.card
    task, splitting = _objects(card, options.task, options.instances, options.things)
    arrays = _arrays(
        card, task, scores=options.scores, probabilities=options.probabilities
    )
    read = source
    if options.quality:
        arrays, read = (*arrays, *QUALITY), with_quality(source)
    tiling = tiling_of(source.grid, card, overlap=options.overlap, chunk=chunk)
    tasks = site.threads or 2
    if site.threads is None and site.streams:
        tasks = feeding_threads(cores(), workers)
    elif site.threads is None and card.output == "labels":
        tasks = cores()
    if options.block is not None:
        tiling = replace(tiling, block=options.block)
    else:
        smallest = estimate_memory(read, card, site, tiling, arrays, tasks)
        tiling = with_block(tiling, smallest, workers, room, streams=site.streams)
    needed = estimate_memory(read, card, site, tiling, arrays, tasks)
    needed.check(options.memory_bytes, tiling, "a larger --memory")
    check_answer(recipe, source)
    return Plan(
        source=noted(source, *site.notes),
        model=recipe,
        tiling=tiling,
        arrays=arrays,
        memory=needed,
        tasks=tasks,
        site=site,
        task=task,
        splitting=splitting,
    )


def _objects(
    card: Card, task: Task | None, instances: str | None, things: Sequence[str] | None
) -> tuple[Task, Splitting | None]:
    """Return what is wanted, and how a map becomes objects where the model has none."""
    wanted = task or card.task
    if wanted == card.task or (card.task == "panoptic" and wanted == "instance"):
        if instances or (things and tuple(things) != card.things):
            raise GeosegError(
                "--instances and --things make objects of a model's classes; here the "
                f"task is {wanted} and {card.name!r} does it itself: "
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


def with_block(
    tiling: Tiling, smallest: Memory, workers: int, room: float, *, streams: bool
) -> Tiling:
    """Return the tiling with blocks as large as a process has room for.

    A GPU takes one block after the other, each with a fixed cost: so a process that has
    one gets few blocks and large ones, of which it holds a few at once: one at work,
    others coming and going. Of a CPU every task gets some.

    Args:
        tiling: With blocks of one chunk.
        smallest: What those need.
        workers: How many processes will be at work.
        room: Bytes that a process may use.
        streams: Whether a device is given blocks.
    """
    left, of_one = room - smallest.process - smallest.model, smallest.per_task
    if smallest.shared:
        left -= smallest.on_device
        of_one += smallest.block_on_device
    times = left / smallest.tasks / of_one  # as large as the smallest block
    if smallest.block_on_device:
        there = smallest.device_room - smallest.on_device
        times = min(times, there / _AT_ONCE / smallest.block_on_device)
    side = auto_block(
        tiling,
        bytes_per_pixel=1,
        budget=max(times, 0) * tiling.block**2,
        least=workers * (_STREAMED if streams else 3 * smallest.tasks),
        largest=_LARGEST_STREAMED if streams else LARGEST_BLOCK,
    )
    return shared_out(replace(tiling, block=side), workers)


def shared_out(tiling: Tiling, workers: int) -> Tiling:
    """Return the tiling with blocks of about its size that share out among workers.

    The last of few blocks keep one worker while others have none left. So blocks of
    half the side or more are tried; the largest is taken of those that are as good.

    Args:
        tiling: With the largest blocks that there is room for.
        workers: How many processes will be at work.
    """
    if workers == 1 or tiling.blocks > _MANY * workers:
        return tiling
    sides = range(tiling.block, tiling.block // 2 - 1, -tiling.chunk)
    cuts = [replace(tiling, block=side) for side in sides]
    shares = [share_at_work(cut, workers) for cut in cuts]
    best = max(shares)
    return next(c for c, s in zip(cuts, shares, strict=True) if s > best - _AS_GOOD)


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


def _metres(model: float | None, wanted: Resolution) -> float | None:
    """Return how large pixels are to be; None: as they are."""
    if wanted == "native":
        return None
    metres = model if wanted == "model" else float(wanted)
    if metres is not None and metres <= 0:
        raise GeosegError(f"resolution {metres} m must be more than 0")
    return metres


def _at_resolution(source: Source, metres: float, wanted: Resolution) -> Source:
    """Return the source with pixels of the wanted size; itself where they are near."""
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
    told = (
        f"{source.name}: pixels of {_sides(size)} m are made {metres:.3g} m, which the "
        "model was trained on; --resolution native leaves them"
    )
    return resampled(noted(source, told if wanted == "model" else None), grid)


def _sides(size: tuple[float, float]) -> str:
    """Return height and width in a few digits, once where they are alike."""
    return " x ".join(dict.fromkeys(f"{side:.3g}" for side in size))
