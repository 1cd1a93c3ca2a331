"""How long tasks take, and on what: for the facts of a run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from geoseg.inference.worker import BlockReport, Job


@dataclass(frozen=True, slots=True)
class Timed:
    """A task that tells how long it took and what the model ran on; it is pickled."""

    work: Callable[[Job, int, int], BlockReport]

    @property
    def __name__(self) -> str:
        """The task's own name, by which Dask's dashboard lists it."""
        return self.work.__name__

    def __call__(self, job: Job, row: int, col: int) -> BlockReport:
        """Do the work."""
        begun = perf_counter()
        report = self.work(job, row, col)
        seconds = perf_counter() - begun
        device = device_of(job.model.load()) if report.windows else ""
        return replace(report, seconds=seconds, device=device)


def device_of(model: Any) -> str:  # noqa: ANN401 - a model of any family
    """Return what a model runs on: device, precision, and of a GPU name and memory."""
    device = str(getattr(model, "device", "own"))
    if device == "own":
        return ""
    words = [device, str(getattr(model, "precision", ""))]
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None:
        peak = torch.cuda.max_memory_allocated(device) / 1e9
        # To a tenth of a GB, so that many blocks tell few different things.
        words = [torch.cuda.get_device_name(device), words[1], f"{peak:.1f} GB at most"]
    return ", ".join(w for w in words if w)
