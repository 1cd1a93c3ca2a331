"""Whether a map is complete: what is missing is nodata to every reader, without a word.

Everyone who makes something of a map asks here first.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from geoseg.core.text import percent, redact
from geoseg.errors import IncompleteError
from geoseg.maps.state import found_record
from geoseg.maps.store import Masks

if TYPE_CHECKING:
    from geoseg.maps.reader import ClassReader


def block_counts(masks: Masks) -> tuple[int, int]:
    """Return blocks done and blocks in all; (0, 0) where no run left a record."""
    record = found_record(masks.storage)
    if record is None:
        return 0, 0
    side = record["block"]
    total = -(-masks.grid.height // side) * -(-masks.grid.width // side)
    return len(masks.done()), total


def is_blank(masks: Masks) -> bool:
    """Whether all of a complete map is nodata: chunks of nothing are not written."""
    inside = masks.storage.names("classes")
    return all(name.startswith(".") or name == "zarr.json" for name in inside)


def incomplete(reader: ClassReader) -> str | None:
    """Return what a map lacks, for whoever reads what is made of it; None if nothing.

    Maps of other tools are complete: nothing says otherwise. One of ours that says so
    itself may have been copied by half: some of its marks are there, others not.
    """
    if not isinstance(reader, Masks):
        return None
    done, total = block_counts(reader)
    if reader.is_complete and not 0 < done < total:
        return None
    if not total:
        return "not complete: its run record is missing"
    if done == total:
        return "not complete: all blocks are labelled, but its objects are not written"
    return (
        f"not complete: {percent(1 - done / total)} is missing ({total - done} of "
        f"{total} blocks)"
    )


def check_complete(reader: ClassReader, *, partial: bool | None) -> None:
    """Refuse an incomplete map; where that is what is wanted, warn.

    Args:
        reader: A class map of any kind.
        partial: Whether it is wanted; None where that cannot be asked for.

    Raises:
        IncompleteError: It is not complete, and not wanted so.
    """
    lacks = incomplete(reader)
    if lacks is None:
        return
    name = redact(reader.path)
    if partial:
        warnings.warn(f"{name} is {lacks}; so is what is made of it", stacklevel=3)
        return
    # What is lost of a map that was complete is not missed by the command itself.
    lost = isinstance(reader, Masks) and (
        reader.is_complete or not block_counts(reader)[1]
    )
    first = f"give `geoseg verify {name} --repair`, then" if lost else "run"
    other = "" if partial is None else ", or take it as it is with --partial"
    raise IncompleteError(
        f"{name} is {lacks}: {first} the command that made it again{other}"
    )
