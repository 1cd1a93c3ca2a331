"""What lies beside the masks while objects are joined: one small object per block.

    found/   objects of a block's windows            linked/   after comparing them
    halo/    the same, for a neighbour               joined/   what crosses blocks
    groups/  groups that have pixels in a block      ids/      and their ids

All of it can be rebuilt from the raster; it is gone when the run is complete.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.grid import Window
from geoseg.core.packed import pack_arrays, unpack
from geoseg.core.tiling import Block
from geoseg.inference.block_cache import how_inferred
from geoseg.inference.instance import FoundObjects, Linked
from geoseg.inference.objects.stitch import ObjectSet, WindowObjects
from geoseg.maps.state import OBJECT_CACHE
from geoseg.maps.store import Masks

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOUND, HALO, LINKED, JOINED, GROUPS, IDS, WRITTEN = (
    f"{OBJECT_CACHE}/{kind}"
    for kind in ("found", "halo", "linked", "joined", "groups", "ids", "written")
)
"""Folders of the store, in the order in which they fill."""
ALL_JOINED = f"{OBJECT_CACHE}/all-joined"
"""Is there when what crosses blocks is joined."""
ALL_NUMBERED = f"{OBJECT_CACHE}/all-numbered"
"""Is there when all groups have ids."""
PROVISIONAL = f"{OBJECT_CACHE}/provisional"
"""Is there while blocks are joined beside others that failed."""


@dataclass(frozen=True, slots=True)
class ObjectCache:
    """Where all of it lies for one store."""

    masks: Masks

    def has(self, kind: str, block: Block | None = None) -> bool:
        """Return whether a block has such a thing, or a step is marked as complete."""
        return self.masks.state.exists(_name(kind, block))

    def blocks(self, kind: str) -> set[tuple[int, int]]:
        """Return the keys of the blocks that have such a thing."""
        return self.masks.marked(kind)

    def mark(self, kind: str, block: Block | None = None) -> None:
        """Note that a step is complete, of a block or of all."""
        self.masks.state.put(_name(kind, block), b"")

    def forget(self, kind: str, block: Block | None = None) -> None:
        """Remove what a block has of a kind, or the whole kind, or a mark."""
        self.masks.state.discard(_name(kind, block))
        if block is None:
            self.masks.state.remove(kind)

    def clear(self) -> None:
        """Remove everything but what says that it is no longer needed."""
        for kind in (FOUND, HALO, LINKED, JOINED, GROUPS, IDS):
            self.forget(kind)

    def write(self, kind: str, block: Block, values: NDArray[Any]) -> None:
        """Keep an array of a block."""
        self._put(kind, block, {"values": values})

    def read(self, kind: str, block: Block) -> NDArray[Any]:
        """Return what `write` kept."""
        return self._get(kind, block)[0]["values"]

    def write_found(self, block: Block, found: FoundObjects) -> None:
        """Keep what a block's windows see, without the halo.

        That it is there says that the block is inferred, so it comes last.
        """
        arrays = {**_arrays(found.own), "valid": found.valid}
        self._put(FOUND, block, arrays, how_inferred(found))

    def read_found(self, block: Block) -> FoundObjects:
        """Return what `write_found` kept."""
        arrays, info = self._get(FOUND, block)
        return FoundObjects(own=_object_set(arrays), valid=arrays["valid"], **info)

    def write_halo(self, block: Block, to: tuple[int, int], halo: ObjectSet) -> None:
        """Keep what a neighbour (row, column) must know of a block."""
        self._put(f"{HALO}/{to[0]}.{to[1]}", block, _arrays(halo))

    def read_halo(self, block: Block, neighbour: Block) -> ObjectSet:
        """Return what a block must know of a neighbour."""
        return _object_set(self._get(f"{HALO}/{block.name}", neighbour)[0])

    def write_linked(self, block: Block, linked: Linked) -> None:
        """Keep what is known of a block after comparing."""
        arrays = {f.name: getattr(linked, f.name) for f in fields(linked)}
        self._put(LINKED, block, arrays)

    def read_linked(self, block: Block) -> Linked:
        """Return what `write_linked` kept."""
        return Linked(**self._get(LINKED, block)[0])

    def read_groups(self, block: Block) -> tuple[NDArray[np.int64], NDArray[np.void]]:
        """Return the keys of a block's own objects and their groups."""
        linked = self.read_linked(block)
        groups = linked.groups.copy()
        if len(linked.open):
            at = np.searchsorted(linked.keys, linked.open["key"])
            groups[at] = self.read(JOINED, block)
        return linked.keys, groups

    def _put(
        self,
        kind: str,
        block: Block,
        arrays: dict[str, NDArray[Any]],
        info: dict[str, Any] | None = None,
    ) -> None:
        self.masks.state.put(_name(kind, block), pack_arrays(arrays, info or {}))

    def _get(
        self, kind: str, block: Block
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        return unpack(self.masks.state.get(_name(kind, block)))


def _name(kind: str, block: Block | None) -> str:
    return kind if block is None else f"{kind}/{block.name}"


def _arrays(seen: ObjectSet) -> dict[str, NDArray[Any]]:
    places = [(w.row, w.col, *astuple(w.where), w.first) for w in seen.windows]
    few = all(w.labels.max(initial=0) < 65536 for w in seen.windows)
    dtype = np.dtype(np.uint16 if few else np.int32)
    labels = [np.zeros(0, dtype), *(w.labels.ravel() for w in seen.windows)]
    return {
        "windows": np.array(places, np.int64).reshape(-1, 7),
        "labels": np.concatenate(labels, dtype=dtype, casting="unsafe"),
        "table": seen.table,
    }


def _object_set(arrays: dict[str, NDArray[Any]]) -> ObjectSet:
    labels, begin, windows = arrays["labels"].astype(np.int32), 0, []
    for row, col, y, x, height, width, first in arrays["windows"].tolist():
        where = Window(y=y, x=x, height=height, width=width)
        inside = labels[begin : begin + where.area].reshape(height, width)
        begin += where.area
        windows.append(
            WindowObjects(row=row, col=col, where=where, labels=inside, first=first)
        )
    return ObjectSet(windows=tuple(windows), table=arrays["table"])
