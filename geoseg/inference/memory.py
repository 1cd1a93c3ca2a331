"""How much memory a run needs, from the plan alone: a promise, kept by a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geoseg.core.tiling import Tiling
from geoseg.errors import PlanError
from geoseg.maps.arrays import bytes_per_pixel
from geoseg.rasters.source import pixel_bytes, reading_bytes

if TYPE_CHECKING:
    from geoseg.inference.sites import Site
    from geoseg.models.card import Card
    from geoseg.rasters.open import Source

PROCESS = 0.81e9
"""Python, NumPy, numba and GDAL when they are loaded, and the caches of tiles."""
NETWORKS = 0.65e9
"""Torch, the libraries that networks come from, and what kernels keep of memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Peak bytes of one process, and what they are for."""

    process: float
    """The libraries and their caches."""
    model: float
    """Weights, and what a forward pass needs beside them."""
    per_task: float
    """What one block in work needs."""
    tasks: int
    """Blocks in work at once."""
    on_device: float = 0.0
    """What weights and a batch take of a GPU's memory, which is not counted above."""
    block_on_device: float = 0.0
    """What a block takes of it."""
    device_room: float = float("inf")
    """What may be used of it."""
    shared: bool = False
    """Whether it is the machine's own memory, and counts there too."""

    @property
    def device(self) -> float:
        """Peak bytes of the GPU: blocks go there while there is room, one always."""
        blocks = self.tasks * self.block_on_device
        room = max(self.block_on_device, self.device_room - self.on_device)
        return self.on_device + min(blocks, room)

    @property
    def total(self) -> float:
        """Peak bytes of one process."""
        own = self.process + self.model + self.tasks * self.per_task
        return own + self.device * self.shared

    @property
    def _gpu_told(self) -> str:
        return f"GPU {self.device / 1e9:.2f}, " if self.shared else ""

    def check(self, allowed: float | None, tiling: Tiling, more: str) -> None:
        """Raise where a process may use less than this.

        Args:
            allowed: Bytes that it may use; None: any.
            tiling: How the raster is cut.
            more: How it may use more.

        Raises:
            PlanError: The line says what would fit.
        """
        if allowed is None or self.total <= allowed:
            return
        smaller = f"--block {tiling.chunk}, " if tiling.block > tiling.chunk else ""
        raise PlanError(
            f"this needs {self.total / 1e9:.2f} GB per process, {allowed / 1e9:.2f} GB "
            f"are allowed: libraries {self.process / 1e9:.2f}, model "
            f"{self.model / 1e9:.2f}, {self._gpu_told}"
            f"{self.tasks} blocks of {tiling.block} px "
            f"{self.tasks * self.per_task / 1e9:.2f}; use {smaller}a smaller window, "
            f"or {more} ({self.total / 1e9 + 0.1:.1f}GB)"
        )


def estimate_memory(
    source: Source,
    card: Card,
    site: Site,
    tiling: Tiling,
    arrays: Sequence[str],
    tasks: int,
) -> Memory:
    """Add up the arrays that a worker holds at its peak.

    Args:
        source: Its bands, those of quality after the model's, and dtype count.
        card: The model's.
        site: What does the work, and how much the model takes there.
        tiling: Its block counts.
        arrays: Arrays of the masks.
        tasks: Blocks in work at once in a process.
    """
    block = tiling.block
    reach = block + 2 * tiling.margin
    classes = card.channels
    pixel = len(card.bands) * source.dtype.itemsize
    stored = pixel_bytes(source)
    # Read pixels, and a copy of them where they are reflected at the raster's edge.
    read = reach**2 * (2 * stored + 2) + reading_bytes(source)
    kept = [name for name in arrays if name not in {"classes", "instances"}]
    outputs = block**2 * (2 + bytes_per_pixel(kept, card.classes))
    sums = partial = 0.0
    device: dict[str, Any] = {}
    own = site.working
    blends = card.output != "labels" and card.task != "instance"
    if site.streams:
        partial = 2 * 8 * tiling.margin * block * classes * 4 * blends
        if site.card is not None:
            one = block_bytes(tiling, card, pixel, arrays)
            device = {
                "on_device": own,
                "block_on_device": one,
                "device_room": site.room,
                "shared": site.shares_memory,
            }
            own *= site.without_gpu
    elif card.output != "labels":
        sums = classes * tiling.window * reach * 4
        partial = 2 * 8 * tiling.margin * block * classes * 4
    elif card.multiple == 1 and tiling.overlap == 0:
        read += block**2 * 8  # the value that is compared, and its labels
    objects = splitting = 0.0
    if "instances" in arrays:
        objects, splitting = _objects(tiling), 0.0
        if card.task == "semantic":  # its map is read again, and split by chunks
            splitting = _SPLITTING * (tiling.chunk + 256) ** 2
    return Memory(
        process=PROCESS + NETWORKS * (site.precision != "own"),
        model=max(own, splitting),
        per_task=read + 2 * outputs + sums + partial + objects,
        tasks=tasks,
        **device,
    )


def block_bytes(tiling: Tiling, card: Card, pixel: int, arrays: Sequence[str]) -> int:
    """Return what one block takes of a device's memory until its answer is fetched.

    Args:
        tiling: How the raster is cut.
        card: The model's.
        pixel: Bytes of a pixel, all bands.
        arrays: Arrays of the masks.
    """
    side, margin, channels = tiling.block, tiling.margin, card.channels
    reach = (side + 2 * margin) ** 2
    objects = 0
    if card.task != "semantic":  # labels of each window, in two bytes, and once more
        objects = 4 * ((side // tiling.stride) * tiling.window) ** 2
    if card.task == "instance":
        return reach * pixel + objects
    if card.output == "labels":  # and those of valid pixels, and which they are
        return reach * pixel + side**2 * 5
    labelling = 4 + 8 + 2 + 1 + ("confidence" in arrays) * 17
    labelling += channels * 17 * ("probabilities" in arrays)
    kept = 4 * channels * 2 * 4 * margin * (side + margin)
    blended = 4 * channels * reach + side**2 * labelling + 2 * kept
    return reach * pixel + blended + objects


_SPLITTING = 100
"""Bytes per pixel of a window that a watershed holds."""


def _objects(tiling: Tiling) -> float:
    """Return what joining objects holds: windows' labels, and groups by pixel."""
    cells = -(-tiling.block // tiling.stride)
    return (cells * tiling.window) ** 2 * 12 + tiling.block**2 * 24
