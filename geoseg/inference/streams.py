"""The one stream of this process, of the run that it is at."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from geoseg.inference.sites import gpu_name
from geoseg.inference.tasks import Tasks

if TYPE_CHECKING:
    from geoseg.core.tiling import Tiling
    from geoseg.inference.block_steps import BlockStep
    from geoseg.inference.numerics import Numerics
    from geoseg.inference.stream import Stream
    from geoseg.models.load import ModelRecipe

TASKS = Tasks()
"""What this process is at."""
_STREAMS: dict[str, Stream] = {}
_LOCK = threading.Lock()


def stream_of(
    run: str,
    recipe: ModelRecipe,
    tiling: Tiling,
    numerics: Numerics | None,
    code: bytes | None,
) -> Stream:
    """Return the stream of a run, which begins with its first block.

    Args:
        run: Which run; the stream of another is closed.
        recipe: Its model, one that `streams`.
        tiling: How its raster is cut.
        numerics: How all workers compute.
        code: The compiled step, where another process compiled it.
    """
    with _LOCK:
        if run not in _STREAMS:
            _close_all()
            _STREAMS[run] = _begun(recipe, tiling, numerics, code)
        return _STREAMS[run]


def batch_of(run: str) -> int | None:
    """Return how many windows a run's stream passes at once now, after all halvings."""
    stream = _STREAMS.get(run)
    return None if stream is None else stream.batch


def close_streams() -> None:
    """Give back what streams hold of their devices."""
    with _LOCK:
        _close_all()


def _close_all() -> None:
    while _STREAMS:
        _STREAMS.popitem()[1].close()


def _begun(
    recipe: ModelRecipe, tiling: Tiling, numerics: Numerics | None, code: bytes | None
) -> Stream:
    from geoseg.inference.device_steps import compiled_step, keep_code
    from geoseg.inference.stream import Stream
    from geoseg.models.networks.device import free_memory

    model = recipe.load()
    batch = (numerics.batch if numerics else None) or model.batch
    compiled = None
    if numerics is not None and numerics.engine == "compile":
        ours = gpu_name(model) == numerics.card  # else it is for another kind
        if code is not None and ours:
            keep_code(recipe, batch, code)
        compiled = compiled_step(recipe, batch)
    free = free_memory(model.device, recipe.options.device_memory)
    left = free - batch * (model.working_bytes() / max(1, model.batch))
    return Stream(
        model,
        step_of(model),
        batch=batch,
        memory=max(0.0, left),
        tasks=TASKS,
        compiled=compiled,
        shapes=tiling.shapes,
    )


def step_of(model: Any) -> BlockStep:  # noqa: ANN401 - a model of any kind
    """Return what is made of the windows of a model that `streams`."""
    from geoseg.inference.block_steps import BlendStep, LabelStep
    from geoseg.inference.device_steps import Blended

    if model.card.task != "semantic":
        from geoseg.inference.objects.step import ObjectStep

        return ObjectStep(model)
    if model.card.output == "labels":
        return LabelStep(model)
    return BlendStep(model.card, Blended(model), is_fixed=model.records)
