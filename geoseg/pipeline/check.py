"""Whether a pipeline can work, before it runs: `geoseg run --check`."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from geoseg.core.text import redact, size
from geoseg.errors import GeosegError
from geoseg.execution.clusters import check_cluster, gpu_names
from geoseg.execution.resources import cores, main_memory
from geoseg.inference.planning import plan_of
from geoseg.pipeline.product_paths import newest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from geoseg.execution.cluster_settings import ClusterSpec
    from geoseg.inference.planning import Plan
    from geoseg.pipeline.settings import Pipeline

_COMPRESSED = 20
"""Labels are seldom compressed to less than this part of their bytes."""


def check_pipeline(pipeline: Pipeline) -> tuple[Plan, int]:
    """Open a pipeline's raster and model, and look for memory and disk.

    Args:
        pipeline: What would run. Nothing is written.

    Returns:
        The plan of its segmentation, and for how many processes it is.

    Raises:
        GeosegError: It cannot work: the raster, the model or its bands are wrong, or
            there is neither memory nor disk for it.
    """
    processes = _processes(pipeline.cluster)
    plan = _loaded(pipeline, processes)
    _check_place(pipeline, plan, processes, plan.bytes_written)
    return plan, processes


def check_scenes(pipelines: Mapping[str, Pipeline]) -> dict[str, str]:
    """Look at many scenes as `check_pipeline` at one, and for room for all of them.

    Args:
        pipelines: By the names of the scenes, on one cluster.

    Returns:
        What is wrong with a scene, by its name; of those that are fine nothing.

    Raises:
        GeosegError: There is neither memory nor disk for them, or no cluster.
    """
    wrong, written, largest = dict[str, str](), 0, None
    for name, one in pipelines.items():
        processes = _processes(one.cluster)
        try:
            plan = _loaded(one, processes)
        except GeosegError as error:
            wrong[name] = str(error)
            continue
        written += plan.bytes_written
        if largest is None or plan.memory.total > largest[1].memory.total:
            largest = one, plan, processes
    if largest is not None:
        _check_place(*largest, written)
    return wrong


def _loaded(pipeline: Pipeline, processes: int) -> Plan:
    segment = pipeline.segment
    if pipeline.cluster is not None and not gpu_names():  # its workers may have some
        segment = segment.model_copy(update={"device": "cpu"})
    return plan_of(segment.raster, segment, processes)


def _check_place(pipeline: Pipeline, plan: Plan, processes: int, written: int) -> None:
    """Look whether there is a cluster, memory for a plan, and disk for the bytes."""
    place, _ = newest(pipeline)
    if pipeline.cluster is not None:
        check_cluster(pipeline.cluster)
    if pipeline.cluster is None or pipeline.cluster.kind in {"local", "gpus"}:
        _check_memory(plan, processes)
    if "://" not in place.masks:
        _check_disk(place.masks, written)


def _processes(cluster: ClusterSpec | None) -> int:
    if cluster is None:
        return 1
    if cluster.kind == "local" and cluster.workers is None:
        return max(1, cores() // 4)
    if cluster.kind == "gpus":
        return max(1, len(cluster.gpus or gpu_names()))
    return getattr(cluster, "workers", None) or 1


def _check_memory(plan: Plan, processes: int) -> None:
    needed, total = plan.memory.total * processes, main_memory()
    free = min(total, psutil.virtual_memory().available)
    each = f" ({processes} processes)" if processes > 1 else ""
    if needed > total:
        raise GeosegError(
            f"this needs up to {size(needed)} of memory{each}, and the machine has "
            f"{size(total)}: use fewer workers, or segment.block = "
            f"{plan.tiling.chunk}"
        )
    if needed > free:
        warnings.warn(
            f"this needs up to {size(needed)} of memory{each}; "
            f"{size(free)} are free now",
            stacklevel=2,
        )


def _check_disk(masks: str, most: int) -> None:
    folder = next(p for p in Path(masks).resolve().parents if p.is_dir())
    free = shutil.disk_usage(folder).free
    if free < most / _COMPRESSED:
        raise GeosegError(
            f"{redact(str(folder))} has {size(free)} free, and the masks take up to "
            f"{size(most)}, labels usually a tenth of it: make room, or write elsewhere"
        )
    if free < most:
        warnings.warn(
            f"{redact(str(folder))} has {size(free)} free; the masks take up to "
            f"{size(most)}, labels usually a tenth of it",
            stacklevel=2,
        )
