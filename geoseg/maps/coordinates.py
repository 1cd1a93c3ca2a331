"""What follows from the rest of a store, and can be made again: coordinates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from geoseg.core.grid import Grid
from geoseg.errors import MasksError
from geoseg.maps.chunks import object_name
from geoseg.maps.group import COORDINATES, centres_of, open_group
from geoseg.maps.store import Masks

_UNREADABLE = (OSError, KeyError, ValueError, RuntimeError, TypeError, MasksError)


def wrong_coordinates(masks: Masks) -> Iterator[str]:
    """Yield names of the coordinates that are not the centres of the grid's pixels."""
    if not masks.grid.is_rectilinear:
        return
    group = open_group(masks.path)
    yield from (n for n in ("x", "y") if not _is_centres(group, n, masks.grid))


def restore_coordinates(masks: Masks, names: Iterable[str]) -> None:
    """Write the centres of the grid's pixels again; their metadata are right."""
    group = open_group(masks.path, mode="r+")
    for name in names:
        array: Any = group[name]
        for n, (start, stop, centres) in enumerate(centres_of(masks.grid, name)):
            masks.storage.discard(object_name(array, (n,)))  # or it would be read
            array[start:stop] = centres


def _is_centres(group: Any, name: str, grid: Grid) -> bool:  # noqa: ANN401 - Zarr's
    """Whether an array holds what it was written with."""
    size = grid.width if name == "x" else grid.height
    try:
        array = group[name]
        if (array.shape, array.chunks) != ((size,), (min(size, COORDINATES),)):
            return False
        return all(
            np.array_equal(array[start:stop], centres)
            for start, stop, centres in centres_of(grid, name)
        )
    except _UNREADABLE:
        return False
