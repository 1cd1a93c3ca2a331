"""A stage of a run: what is done with each block, and how long it took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING

from geoseg.core.tiling import Block
from geoseg.execution.resources import keep_freed_memory
from geoseg.inference.block_cache import remove_partials
from geoseg.inference.sites import leaving_with_device
from geoseg.inference.streams import TASKS
from geoseg.inference.worker import BlockReport, Job, check_worker, finish, infer
from geoseg.maps.state import DONE, PARTIAL
from geoseg.models.networks.gpus import GPUS, name_of, peak_bytes

if TYPE_CHECKING:
    from geoseg.models.contract import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What is done with each block; picklable, and itself what a worker calls."""

    run: Callable[..., BlockReport]
    """Called with the job and a block; where it needs neighbours also with the keyword
    `provisional`, which asks for what can be done beside a neighbour that failed."""
    marks: str
    """Folder of the store in which a block that is through leaves an object."""
    needs_neighbours: bool = False
    """Whether all neighbours must have been through the stage before."""

    @property
    def __name__(self) -> str:
        """Its name, by which Dask's dashboard lists tasks."""
        return self.run.__name__

    def __call__(
        self,
        job: Job,
        block: Block,
        spent: Sequence[tuple[int, int]] = (),
        last: bool = False,
        *,
        provisional: bool = False,
    ) -> BlockReport:
        """Do the work; the report says how long it took and what the model ran on.

        Args:
            job: What to do.
            block: With which block.
            spent: Blocks that need nothing any more, nor do their neighbours: what is
                kept of them goes by the way.
            last: No other block will begin after this one.
            provisional: A neighbour failed.
        """
        with leaving_with_device():
            _check_once(job)
            if spent:
                with suppress(OSError):  # else it goes when the run is complete
                    remove_partials(job.masks, spent)
            begun = perf_counter()
            how = {"provisional": True} if provisional else {}
            with TASKS.one_more(brings=not self.needs_neighbours, more=not last):
                report = self.run(job, block, **how)
        seconds = perf_counter() - begun
        device = device_of(job.model.load()) if report.windows else ""
        return replace(report, seconds=seconds, device=device)

    def provisionally(self, job: Job, block: Block) -> BlockReport:
        """Do what can be done beside a neighbour that failed."""
        return self(job, block, provisional=True)


_CHECKED: set[tuple[str, bool]] = set()
"""Runs for which this process was found fit, and whether cards might differ."""


def _check_once(job: Job) -> None:
    if (key := (job.masks.run, job.mixed)) not in _CHECKED:
        check_worker(job)
        keep_freed_memory()
        _CHECKED.add(key)


LABELS = (
    Stage(run=infer, marks=PARTIAL),
    Stage(run=finish, marks=DONE, needs_neighbours=True),
)
"""Semantic segmentation."""


def device_of(model: Model) -> str:
    """Return what a model runs on: device, precision, and of a GPU name and memory."""
    if model.device == "own":
        return ""
    precision = [] if model.precision == "own" else [model.precision]
    words = [model.device, *precision]
    words += ["openvino"] if model.engine == "openvino" else []
    if model.device.partition(":")[0] in GPUS:
        # To a tenth of a GB, so that many blocks tell few different things.
        peak = peak_bytes(model.device) / 1e9
        words = [str(name_of(model.device)), *precision, f"{peak:.1f} GB at most"]
    return ", ".join(words)
