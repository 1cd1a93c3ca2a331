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
    from geoseg.execution.cluster_settings import ClusterSpec
    from geoseg.inference.planning import Plan
    from geoseg.pipeline.settings import Pipeline

_COMPRESSED = 20
"""Labels are seldom compressed to less than this part of their bytes."""


def check_pipeline(pipeline: Pipeline, *, alone: bool = True) -> tuple[Plan, int]:
    """Open a pipeline's raster and model, and look for memory and disk.

    Args:
        pipeline: What would run. Nothing is written.
        alone: Whether memory, disk and cluster are looked at too.

    Returns:
        The plan of its segmentation, and for how many processes it is.

    Raises:
        GeosegError: It cannot work: the raster, the model or its bands are wrong, or
            there is neither memory nor disk for it.
    """
    place, _ = newest(pipeline)
    processes = _processes(pipeline.cluster)
    plan = plan_of(pipeline.segment.raster, pipeline.segment, processes)
    plan.model.load()
    if alone:
        if pipeline.cluster is not None:
            check_cluster(pipeline.cluster)
        if pipeline.cluster is None or pipeline.cluster.kind in {"local", "gpus"}:
            _check_memory(plan, processes)
        if "://" not in place.masks:
            _check_disk(plan, place.masks)
    return plan, processes


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


def _check_disk(plan: Plan, masks: str) -> None:
    folder = next(p for p in Path(masks).resolve().parents if p.is_dir())
    free = shutil.disk_usage(folder).free
    most = plan.bytes_written
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
