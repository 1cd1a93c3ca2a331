"""Verify a masks store: every block is what was written, nothing is missing or foreign.

A done mark holds a checksum of each array of its block. Metadata and coordinates are
small and told twice (consolidated, and from the grid), so that they check each other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.tiling import Block, Tiling
from geoseg.errors import DamagedStoreError, MasksError, first_line
from geoseg.execution.engine import unordered
from geoseg.maps.storage import is_temporary
from geoseg.maps.store import META, Masks, checksum, open_masks, writing

if TYPE_CHECKING:
    from distributed import Client

_METADATA = (".zgroup", ".zattrs", ".zarray", ".zmetadata", "zarr.json")
_OVERVIEWS = re.compile(r"overview_\d+/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was found in a masks store."""

    blocks: int
    """How many it has."""
    done: int
    """How many of them are marked done; those were compared with their checksums."""
    damaged: Mapping[tuple[int, int], str]
    """What is wrong with a block, by (row, column)."""
    metadata: tuple[str, ...]
    """What is wrong with metadata and coordinates."""
    foreign: tuple[str, ...]
    """Objects that geoseg did not write."""

    @property
    def whole(self) -> bool:
        """Whether all of it is there and right."""
        return self.done == self.blocks and not self.problems

    @property
    def problems(self) -> list[str]:
        """What is wrong, a line each."""
        blocks = [
            f"block {row},{col}: {what}"
            for (row, col), what in sorted(self.damaged.items())
        ]
        return [*self.metadata, *blocks, *(f"{name}: foreign" for name in self.foreign)]


def verify(
    path: str,
    *,
    client: Client | None = None,
    repair: bool = False,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Verified:
    """Read a whole store and compare it with its checksums.

    Args:
        path: The masks store.
        client: Where to read; None is threads of this process.
        repair: Forget that damaged blocks are done: the command that made the store
            then makes them, and only them, anew.
        progress: Told blocks done and blocks in all.

    Raises:
        MasksError: It is no masks store, or another run is writing it.
    """
    masks = open_masks(path)
    tiling = _tiling(masks)
    done = sorted(masks.done())
    damaged: dict[tuple[int, int], str] = {}
    check = partial(check_block, masks)
    blocks = (tiling.block_at(*key) for key in done)
    for count, (block, problem) in enumerate(
        unordered(check, blocks, client=client), start=1
    ):
        if problem is not None:
            damaged[block.key] = problem
        progress(count, len(done))
    found = Verified(
        blocks=tiling.blocks,
        done=len(done),
        damaged=damaged,
        metadata=tuple(_metadata_problems(masks)),
        foreign=tuple(_foreign(masks)),
    )
    if repair and damaged:
        with writing(masks.path, overwrite=True):
            masks.forget(damaged)
    return found


def _tiling(masks: Masks) -> Tiling:
    record = masks.record()
    return Tiling(
        height=masks.grid.height,
        width=masks.grid.width,
        window=record["settings"]["window"],
        overlap=record["settings"]["overlap"],
        multiple=record["settings"]["multiple"],
        chunk=record["block"],
        block=record["block"],
    )


def check_block(masks: Masks, block: Block) -> str | None:
    """Return what is wrong with a block that is marked done, or None."""
    window = block.window
    try:
        expected = masks.done_info(block.key)["crc32"]
    except (DamagedStoreError, FileNotFoundError, KeyError):
        return "its done mark is damaged"
    problems = []
    for name, crc in expected.items():
        try:
            same = checksum(masks.read(name, window)) == crc
            what = "differs from its checksum"
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            same, what = False, f"cannot be read ({first_line(error)})"
        if same:
            continue
        gone = [
            chunk
            for chunk in masks.chunk_names(name, window)
            if not masks.storage.exists(chunk)
        ]
        problems.append(f"{gone[0]} is missing" if gone else f"{name} {what}")
    return "; ".join(problems) or None


def _metadata_problems(masks: Masks) -> Iterator[str]:
    """Compare what is told twice: consolidated metadata, and centres of pixels."""
    for name, expected in _consolidated(masks).items():
        try:
            found = json.loads(masks.storage.get(name))
        except (FileNotFoundError, ValueError):
            yield f"{name} is missing or damaged"
            continue
        if found != expected:
            yield f"{name} differs from the consolidated metadata"
    if masks.grid.is_rectilinear:
        for name, centres in (
            ("x", masks.grid.x_centres()),
            ("y", masks.grid.y_centres()),
        ):
            try:
                same = np.array_equal(masks.coordinate(name), centres)
            except (OSError, KeyError, ValueError, RuntimeError, MasksError):
                same = False
            if not same:
                yield f"{name} is not the centres of the grid's pixels"


def _consolidated(masks: Masks) -> dict[str, Any]:
    """Return what the consolidated metadata says of each object of metadata."""
    storage = masks.storage
    if storage.exists(".zmetadata"):
        return dict(json.loads(storage.get(".zmetadata"))["metadata"])
    root = json.loads(storage.get("zarr.json"))
    nodes = (root.get("consolidated_metadata") or {}).get("metadata", {})
    return {f"{name}/zarr.json": node for name, node in nodes.items()}


def _foreign(masks: Masks) -> Iterator[str]:
    """Yield objects that are neither metadata, nor a chunk in range, nor ours."""
    chunks = masks.chunk_patterns()
    for name in masks.storage.walk():
        if name.startswith(f"{META}/") or is_temporary(name):
            continue
        folder, _, base = name.rpartition("/")
        if base in _METADATA and (not folder or folder in chunks):
            continue
        if _OVERVIEWS.match(name):
            continue  # made from the arrays, and made anew from them
        array, _, key = name.partition("/")
        if array not in chunks or not chunks[array](key):
            yield name
