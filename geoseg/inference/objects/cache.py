"""What lies beside the masks while objects are joined: one small object per block.

    parts/   objects of a block's windows            linked/   after comparing them
    rims/    the same, for a neighbour               solved/   what crosses blocks
    facts/   groups that have pixels in a block      ids/      and their ids

All of it can be made again from the raster; it is gone when the run is complete.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.grid import Window
from geoseg.inference.block_cache import pack, unpack
from geoseg.inference.instance import FACT, Linked
from geoseg.inference.objects.stitch import GROUP, LINK, OBJECT, Seen, View
from geoseg.maps.store import FOUND, Masks, positions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.maps.storage import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is kept of a block that is inferred."""

    own: Seen
    """Objects of its windows."""
    valid: NDArray[np.bool_]
    """(y, x) which of its pixels are valid."""
    windows: int
    """How many windows were inferred."""
    forward_seconds: float
    """Time in the model."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where all of it lies for one store."""

    masks: Masks

    @property
    def _storage(self) -> Storage:
        return self.masks.storage

    def has(self, kind: str, row: int, col: int) -> bool:
        """Return whether there is such a thing of a block."""
        return self._storage.exists(_name(kind, row, col))

    def blocks(self, kind: str) -> set[tuple[int, int]]:
        """Return the blocks that have such a thing."""
        return positions(self._storage.names(f"{FOUND}/{kind}"))

    def note(self, what: str) -> None:
        """Note that a step is complete."""
        self._storage.put(f"{FOUND}/{what}", b"")

    def noted(self, what: str) -> bool:
        """Return whether a step is complete."""
        return self._storage.exists(f"{FOUND}/{what}")

    def forget(self, kind: str) -> None:
        """Remove a kind, or a note."""
        self._storage.remove(f"{FOUND}/{kind}")

    def forget_block(self, kind: str, row: int, col: int) -> None:
        """Remove what is known of a block."""
        self._storage.discard(_name(kind, row, col))

    def clear(self) -> None:
        """Remove everything but what says that it is no longer needed."""
        for kind in ("parts", "rims", "linked", "solved", "facts", "ids"):
            self.forget(kind)

    def write_part(self, row: int, col: int, part: Part) -> None:
        """Keep what a block's windows see; that it is there says: it is inferred."""
        arrays = {**_arrays(part.own), "valid": part.valid}
        facts = {"windows": part.windows, "forward_seconds": part.forward_seconds}
        self._put("parts", row, col, arrays, facts)

    def read_part(self, row: int, col: int) -> Part:
        """Return what `write_part` kept."""
        arrays, facts = self._get("parts", row, col)
        return Part(own=_seen(arrays), valid=arrays["valid"], **facts)

    def part_facts(self, row: int, col: int) -> tuple[int, float]:
        """Return windows and seconds of a part."""
        part = self.read_part(row, col)
        return part.windows, part.forward_seconds

    def write_rim(self, row: int, col: int, to: tuple[int, int], rim: Seen) -> None:
        """Keep what a neighbour must know of a block."""
        self._put(f"rims/{to[0]}.{to[1]}", row, col, _arrays(rim), {})

    def read_rim(self, row: int, col: int, of: tuple[int, int]) -> Seen:
        """Return what a block must know of a neighbour."""
        return _seen(self._get(f"rims/{row}.{col}", *of)[0])

    def write_linked(
        self, row: int, col: int, keys: NDArray[np.int64], linked: Linked
    ) -> None:
        """Keep what is known of a block after comparing."""
        arrays: dict[str, NDArray[Any]] = {
            "keys": keys,
            "reach": linked.reach,
            "groups": linked.groups,
            "open": linked.open,
            "links": linked.links,
            "clashes": linked.clashes,
        }
        self._put("linked", row, col, arrays, {})

    def read_linked(self, row: int, col: int) -> tuple[NDArray[np.int64], Linked]:
        """Return the keys of a block's own objects and what is known of them."""
        a = self._get("linked", row, col)[0]
        linked = Linked(
            reach=a["reach"],
            groups=a["groups"].view(GROUP),
            open=a["open"].view(OBJECT),
            links=a["links"].view(LINK),
            clashes=a["clashes"].view(LINK),
        )
        return a["keys"], linked

    def write_solved(self, row: int, col: int, groups: NDArray[np.void]) -> None:
        """Keep what became of a block's open objects."""
        self._put("solved", row, col, {"groups": groups}, {})

    def read_groups(
        self, row: int, col: int
    ) -> tuple[NDArray[np.int64], NDArray[np.void]]:
        """Return the keys of a block's own objects and their groups."""
        keys, linked = self.read_linked(row, col)
        groups = linked.groups.copy()
        if len(linked.open):
            solved = self._get("solved", row, col)[0]["groups"].view(GROUP)
            groups[np.searchsorted(keys, linked.open["key"])] = solved
        return keys, groups

    def write_facts(self, row: int, col: int, facts: NDArray[np.void]) -> None:
        """Keep where a block's groups are."""
        self._put("facts", row, col, {"facts": facts}, {})

    def read_facts(self, row: int, col: int) -> NDArray[np.void]:
        """Return where a block's groups are."""
        return self._get("facts", row, col)[0]["facts"].view(FACT)

    def write_ids(self, row: int, col: int, ids: NDArray[np.uint32]) -> None:
        """Keep the ids of a block's groups."""
        self._put("ids", row, col, {"ids": ids}, {})

    def read_ids(self, row: int, col: int) -> NDArray[np.uint32]:
        """Return the ids of a block's groups."""
        return self._get("ids", row, col)[0]["ids"]

    def mark_shown(self, row: int, col: int) -> None:
        """Note that a block's chunks are written."""
        self._storage.put(_name("shown", row, col), b"")

    def _put(
        self,
        kind: str,
        row: int,
        col: int,
        arrays: dict[str, NDArray[Any]],
        facts: dict[str, Any],
    ) -> None:
        self._storage.put(_name(kind, row, col), pack(arrays, facts))

    def _get(
        self, kind: str, row: int, col: int
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        return unpack(self._storage.get(_name(kind, row, col)))


def _name(kind: str, row: int, col: int) -> str:
    return f"{FOUND}/{kind}/{row}.{col}"


def _arrays(seen: Seen) -> dict[str, NDArray[Any]]:
    views = [
        (v.row, v.col, v.where.y, v.where.x, v.where.height, v.where.width, v.first)
        for v in seen.views
    ]
    few = all(len(v.labels) == 0 or v.labels.max() < 65536 for v in seen.views)
    dtype = np.uint16 if few else np.int32
    labels = np.empty(sum(v.labels.size for v in seen.views), dtype)
    begin = 0
    for v in seen.views:
        labels[begin : begin + v.labels.size] = v.labels.ravel()
        begin += v.labels.size
    return {
        "views": np.array(views, np.int64).reshape(-1, 7),
        "labels": labels,
        "table": seen.table,
    }


def _seen(arrays: dict[str, NDArray[Any]]) -> Seen:
    labels, begin, views = arrays["labels"].astype(np.int32), 0, []
    for row, col, y, x, height, width, first in arrays["views"].tolist():
        end = begin + height * width
        views.append(
            View(
                row=row,
                col=col,
                where=Window(y=y, x=x, height=height, width=width),
                labels=labels[begin:end].reshape(height, width),
                first=first,
            )
        )
        begin = end
    return Seen(views=tuple(views), table=arrays["table"].view(OBJECT))
