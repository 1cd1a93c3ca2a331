"""What a store tells twice, so that one checks the other, and restores it.

The metadata of each array stand beside it and in the consolidated metadata; centres of
pixels follow from the grid.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr

from geoseg.core.grid import Grid
from geoseg.errors import MasksError
from geoseg.maps.group import COORDINATES, centres_of, create_coordinates, open_group
from geoseg.maps.storage import Storage
from geoseg.maps.store import Masks, open_masks

_UNREADABLE = (OSError, KeyError, ValueError, RuntimeError, TypeError, MasksError)


def differing(masks: Masks) -> Iterator[str]:
    """Yield what is wrong with metadata and coordinates, a line each."""
    try:
        told = _consolidated(masks.storage)
    except _UNREADABLE:
        yield "the consolidated metadata are missing or damaged"
        told = {}
    for name, expected in told.items():
        found = _json(masks.storage, name)
        if found is None:
            yield f"{name} is missing or damaged"
        elif found != expected:
            yield f"{name} differs from the consolidated metadata"
    for name in _wrong_coordinates(masks):
        yield f"{name} is not the centres of the grid's pixels"


def restore(path: str) -> list[str]:
    """Restore metadata from the consolidated ones, and coordinates from the grid.

    Returns:
        Names of what was restored; nothing where it is told nowhere else.
    """
    storage = Storage(path.rstrip("/"))
    try:
        told = _consolidated(storage)
    except _UNREADABLE:
        told = {}
    indent = zarr.config.get("json_indent")
    names = [n for n, told_twice in told.items() if _json(storage, n) != told_twice]
    for name in names:
        storage.put(name, json.dumps(told[name], indent=indent).encode())
    try:
        masks = open_masks(path)
    except MasksError:
        return names
    wrong = list(_wrong_coordinates(masks))
    if wrong:
        create_coordinates(open_group(masks.path, mode="r+"), masks.grid)
    return [*names, *wrong]


def _json(storage: Storage, name: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    try:
        return _own(json.loads(storage.get(name)))
    except (FileNotFoundError, ValueError):
        return None


def _consolidated(storage: Storage) -> dict[str, Any]:
    """Return what the consolidated metadata say of each object of metadata."""
    if storage.exists(".zmetadata"):
        told = json.loads(storage.get(".zmetadata"))["metadata"]
    else:
        root = json.loads(storage.get("zarr.json"))
        nodes = (root.get("consolidated_metadata") or {}).get("metadata", {})
        told = {f"{name}/zarr.json": node for name, node in nodes.items()}
    return {name: _own(node) for name, node in told.items()}


def _own(node: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Return what a node says of itself: of groups inside, Zarr adds what they hold."""
    if not isinstance(node, dict):
        return node
    return {k: v for k, v in node.items() if k != "consolidated_metadata"}


def _wrong_coordinates(masks: Masks) -> Iterator[str]:
    if not masks.grid.is_rectilinear:
        return
    group = open_group(masks.path)
    yield from (n for n in ("x", "y") if not _is_centres(group, n, masks.grid))


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
