"""Verify a masks store: every block is what was written, nothing is missing or foreign.

A done mark holds a checksum of each array of its block; the record one of each column
of the table of objects; each overview its own. Of the record and of metadata there is a
second copy; coordinates follow from the grid.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from geoseg.core.discretion import discreet
from geoseg.core.text import counted, redact
from geoseg.core.tiling import Block, Tiling
from geoseg.errors import DamagedStoreError, MasksError, first_line
from geoseg.execution.engine import unordered
from geoseg.maps.chunks import chunks_in, object_grid, object_name
from geoseg.maps.coordinates import restore_coordinates, wrong_coordinates
from geoseg.maps.group import OBJECTS, OVERVIEW
from geoseg.maps.lock import held
from geoseg.maps.overviews import (
    damaged_overviews,
    forget_overviews,
    remake_overviews,
)
from geoseg.maps.second_copy import (
    COPY,
    META,
    RECORD,
    differing,
    is_ours,
    restore,
)
from geoseg.maps.state import DONE, LOCK
from geoseg.maps.state import damaged as unusable
from geoseg.maps.storage import Storage, is_stray, is_temporary, store_errors
from geoseg.maps.store import CHECKSUMS, Masks, open_masks

if TYPE_CHECKING:
    from distributed import Client

_METADATA = (".zgroup", ".zattrs", ".zarray", ".zmetadata", "zarr.json")
_NAMED = 1000
"""Blocks without a mark that are named; a damaged size may promise any number."""
_UNREADABLE = (OSError, ValueError, RuntimeError, TypeError, KeyError, MasksError)
"""How reading what is damaged fails, in codecs and JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was found in a masks store."""

    blocks: int = 0
    """How many it has."""
    done: int = 0
    """How many of them are marked done; those were compared with their checksums."""
    damaged: Mapping[tuple[int, int], str] = field(default_factory=dict)
    """What is wrong with a block, by (row, column)."""
    metadata: tuple[str, ...] = ()
    """What is wrong with metadata, coordinates, the table of objects, overviews."""
    foreign: tuple[str, ...] = ()
    """Objects that geoseg did not write."""
    repaired: tuple[str, ...] = ()
    """What was repaired, what the next run repairs and what nothing can, a line each;
    without `repair` nothing was."""
    left: bool = False
    """Whether anything is still wrong: all of it, without `repair`."""

    @property
    def whole(self) -> bool:
        """Whether all of it is there and right, now."""
        return 0 < self.done == self.blocks and not self.left

    @property
    def problems(self) -> list[str]:
        """What is wrong, a line each."""
        blocks = [
            f"block {row},{col}: {what}"
            for (row, col), what in sorted(self.damaged.items())
        ]
        return [*self.metadata, *blocks, *(f"{name}: foreign" for name in self.foreign)]


@discreet
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
        repair: Restore metadata and overviews, and forget that damaged blocks are done:
            the command that made the store then makes them again, byte for byte, and
            only them; where there are objects, all objects are found again.
        progress: Told blocks done and blocks in all.

    Raises:
        MasksError: It is no masks store, or another run is writing it.
    """
    storage = Storage(path.rstrip("/"))
    with store_errors(storage.url):
        wrong = differing(storage) if is_ours(storage) else {}
    restored: list[str] = []
    if wrong and repair:
        with held(storage, LOCK):
            restored = restore(storage)
    told = tuple(f"{name} {what}" for name, what in wrong.items())
    if {*wrong} - {COPY, *restored}:
        return _not_to_be_opened(told, repair=repair)
    try:
        masks = open_masks(path)
        tiling = stored_tiling(masks)
    except DamagedStoreError as error:
        return _not_to_be_opened((*told, str(error)), repair=repair)
    found = _compared(masks, tiling, client, progress)
    lines = [f"{name}: restored" for name in restored]
    if repair and (found.is_any or _is_cut_off(masks)):
        with held(storage, LOCK):
            lines += _repair(masks, found)
    return Verified(
        blocks=tiling.blocks,
        done=found.done,
        damaged=found.blocks,
        metadata=(*told, *found.metadata),
        foreign=found.foreign,
        repaired=tuple(lines),
        left=found.is_lasting if repair else bool(wrong) or found.is_any,
    )


def _not_to_be_opened(problems: tuple[str, ...], *, repair: bool) -> Verified:
    """Return what was found where blocks cannot be looked at before it is repaired."""
    cannot = (
        "nothing can be restored: of what is damaged there is no other copy; restore "
        "it from one of your own, or make the map again with --overwrite"
    )
    return Verified(metadata=problems, repaired=(cannot,) if repair else (), left=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wrong:
    """What is not as it was written, by what it takes to repair it."""

    done: int
    """How many blocks are marked done."""
    blocks: Mapping[tuple[int, int], str]
    """What is wrong with a block, by (row, column)."""
    coordinates: tuple[str, ...]
    """Names of those that are not the centres of the grid's pixels."""
    table: tuple[str, ...]
    """What is wrong with the table of objects."""
    overviews: tuple[str, ...]
    """What is wrong with overviews."""
    foreign: tuple[str, ...]
    """Objects that geoseg did not write."""

    @property
    def metadata(self) -> tuple[str, ...]:
        """What is wrong beside blocks, a line each."""
        wrong = (
            f"{n} is not the centres of the grid's pixels" for n in self.coordinates
        )
        return (*wrong, *self.table, *self.overviews)

    @property
    def is_lasting(self) -> bool:
        """Whether anything is still wrong after a repair."""
        return bool(self.blocks or self.table or self.foreign)

    @property
    def is_any(self) -> bool:
        """Whether anything is wrong."""
        return self.is_lasting or bool(self.coordinates or self.overviews)


def _compared(
    masks: Masks,
    tiling: Tiling,
    client: Client | None,
    progress: Callable[[int, int], None],
) -> _Wrong:
    """Compare all that has checksums, and coordinates with the grid."""
    return _Wrong(
        blocks=_damaged_blocks(masks, tiling, client, progress),
        done=len(masks.state.keys(DONE)),
        coordinates=tuple(wrong_coordinates(masks)),
        table=tuple(_table_problems(masks)),
        overviews=tuple(what for _, what in damaged_overviews(masks)),
        foreign=tuple(_foreign(masks)),
    )


def _damaged_blocks(
    masks: Masks,
    tiling: Tiling,
    client: Client | None,
    progress: Callable[[int, int], None],
) -> dict[tuple[int, int], str]:
    """Return what is wrong with blocks that are done, or should be."""
    marked = sorted(masks.state.keys(DONE))
    damaged: dict[tuple[int, int], str] = {}
    if masks.is_complete:
        known, (rows, columns) = set(marked), (tiling.block_rows, tiling.block_cols)
        every = ((row, column) for row in range(rows) for column in range(columns))
        gone = islice((key for key in every if key not in known), _NAMED)
        damaged |= dict.fromkeys(gone, "its done mark is missing")
    blocks = [tiling.block_at(*key) for key in marked]
    check = partial(check_block, masks)
    for count, (block, problem) in enumerate(
        unordered(check, blocks, client=client), start=1
    ):
        if problem is not None:
            damaged[block.key] = problem
        progress(count, len(marked))
    return damaged


def stored_tiling(masks: Masks) -> Tiling:
    """Return how a store is cut into blocks."""
    try:
        record = masks.record()
    except FileNotFoundError as error:
        raise unusable(masks.name, f"{RECORD} (missing)") from error
    settings: dict[str, Any] = record["settings"]
    try:
        return Tiling(
            height=masks.grid.height,
            width=masks.grid.width,
            window=settings["window"],
            overlap=settings["overlap"],
            multiple=settings["multiple"],
            chunk=record["block"],
            block=record["block"],
        )
    except KeyError as error:
        raise MasksError(
            f"{masks.name} was not made by geoseg segment: its record has no "
            f"{error.args[0]!r}"
        ) from error


def check_block(masks: Masks, block: Block) -> str | None:
    """Return what is wrong with a block that is marked done, or None."""
    try:
        expected = masks.done_info(block.key)[CHECKSUMS]
    except (DamagedStoreError, FileNotFoundError, KeyError):
        return "its done mark is damaged"
    problems = []
    if masks.is_complete:
        problems = [f"{n} has no checksum" for n in masks.arrays if n not in expected]
    for name, crc in expected.items():
        try:
            same = masks.checksum(name, block.window) == crc
            what = "differs from its checksum"
        except _UNREADABLE as error:
            same, what = False, f"cannot be read ({first_line(error)})"
        if same:
            continue
        gone = _missing(masks, name, block)
        problems.append(f"{gone[0]} is missing" if gone else f"{name} {what}")
    return "; ".join(problems) or None


def _missing(masks: Masks, name: str, block: Block) -> list[str]:
    """Return which chunks of a block are not there, as empty ones never are."""
    array = masks.array(name)
    chunks = [object_name(array, index) for index in chunks_in(array, block.window)]
    return [chunk for chunk in chunks if not masks.storage.exists(chunk)]


def _table_problems(masks: Masks) -> Iterator[str]:
    """Compare the table of objects with the checksums of its columns."""
    expected = masks.record().get("objects")
    if not masks.is_complete or expected is None:
        return
    try:
        found = masks.object_checksums()
    except _UNREADABLE as error:
        yield f"the table of objects cannot be read ({first_line(error)})"
        return
    for name in sorted({*expected, *found}):
        if found.get(name) != expected.get(name):
            yield f"{OBJECTS}/{name} differs from its checksum"


def _is_cut_off(masks: Masks) -> bool:
    """Whether there is something left of a repair that was killed."""
    waiting = masks.is_complete and bool(masks.record().get("overviews"))
    return waiting or any(map(is_temporary, masks.storage.walk()))


def _repair(masks: Masks, found: _Wrong) -> list[str]:
    """Repair what can be; return what was done, and what cannot be, a line each."""
    restore_coordinates(masks, found.coordinates)
    lines = [f"{name}: restored" for name in found.coordinates]
    if found.blocks or found.table:
        # Overviews first: cut off between the two, they would show the hole for ever.
        forget_overviews(masks, remake=True)
        masks.forget(found.blocks)
        what = counted(len(found.blocks), "block") if found.blocks else "the objects"
        lines.append(f"the same segment command makes {what} again")
        if "instances" in masks.arrays and found.blocks:
            lines.append("and joins all objects again, as these cross blocks")
    elif masks.is_complete:
        if found.overviews:
            forget_overviews(masks, remake=True)
        if remake_overviews(masks):
            lines.append("overviews: rebuilt")
    masks.storage.sweep()
    lines += [f"{name}: not written by geoseg, left as it is" for name in found.foreign]
    return lines


def _foreign(masks: Masks) -> Iterator[str]:
    """Yield objects that are neither metadata, nor a chunk in range, nor ours."""
    chunks = _patterns(masks)
    for name in masks.storage.walk():
        if name.startswith((f"{META}/", OVERVIEW)):
            continue  # overviews have checksums of their own
        if is_temporary(name) or is_stray(name):
            continue
        folder, _, base = name.rpartition("/")
        if base in _METADATA and (not folder or folder in chunks or folder == OBJECTS):
            continue
        array = next((a for a in chunks if name.startswith(f"{a}/")), None)
        if array is None or not chunks[array](name.removeprefix(f"{array}/")):
            yield name


def _patterns(masks: Masks) -> dict[str, Callable[[str], bool]]:
    """Return for each array whether an object below it is one of its chunks."""
    return {
        name: (lambda _: True)  # its metadata are a finding already
        if array is None
        else partial(_is_chunk, array.metadata.encode_chunk_key, object_grid(array))
        for name, array in masks.all_arrays().items()
    }


def _is_chunk(
    encode: Callable[[tuple[int, ...]], str], shape: tuple[int, ...], key: str
) -> bool:
    index = tuple(int(n) for n in re.findall(r"\d+", key))
    if not shape:
        return key == encode(())
    inside = len(index) == len(shape) and all(
        i < n for i, n in zip(index, shape, strict=True)
    )
    return inside and key == encode(index)


def lines_of(path: str, found: Verified) -> list[str]:
    """Return what was found in words, a line each."""
    problems = len(found.problems)
    total = counted(problems, "problem") if problems else "all as written"
    blocks = f"{found.done} of {found.blocks} blocks are done, {total}"
    if not found.blocks:
        blocks = f"{total}; blocks are compared when that is repaired (--repair)"
    return [*found.problems, *found.repaired, f"{redact(path)}: {blocks}"]
