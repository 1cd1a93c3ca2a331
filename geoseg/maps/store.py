"""The masks: a Zarr group. Open, read, write, done marks; `create` begins one.

What lies beside the arrays, in `.geoseg/`, is `maps/state`.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import zarr

from geoseg.core import views
from geoseg.core.classes import Class, nodata_value
from geoseg.core.discretion import discreet
from geoseg.core.files import absolute
from geoseg.core.grid import Grid, Window
from geoseg.core.text import redact
from geoseg.errors import DamagedStoreError, MasksError, RasterError, first_line
from geoseg.maps.arrays import NAMES
from geoseg.maps.chunks import chunks_in, decoded, encoded, object_name, object_shape
from geoseg.maps.group import (
    OBJECT_COLUMNS,
    OBJECTS,
    OVERVIEW,
    edited,
    open_group,
    zarr_store,
)
from geoseg.maps.metadata import classes_from_attributes, grid_from_attributes
from geoseg.maps.second_copy import found, is_ours, put_twice, sealed, unsealed
from geoseg.maps.state import (
    DONE,
    OBJECT_CACHE,
    RunStorage,
    begun_again,
    current_run,
    damaged,
    found_record,
    read_record,
    remove_leftovers,
    write_record,
)
from geoseg.maps.storage import Storage, store_errors

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

CHECKSUMS = "chunks_crc32"
"""Key of a done mark: of each array, the CRC-32 of the block's chunks as stored."""
_ROWS = 1 << 20
"""Rows of the table of objects that are looked at at once."""
_KEPT_RAW = ("classes", "instances")  # values, not measurements


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks:
    """A masks store that exists. A value: it can be pickled and sent to workers."""

    path: str
    """Where the store is: a folder or a URL."""
    grid: Grid
    """Where its pixels are."""
    classes: tuple[Class, ...]
    """The class table."""
    chunk: int
    """Side of the Zarr chunks in pixels."""
    arrays: tuple[str, ...]
    """Names of the arrays on the grid, such as `classes`, `confidence`."""
    run: str
    """Which run made it; handles are kept open under this name, per process."""
    merged: tuple[tuple[int, int], ...] = ()
    """Classes that became others: what is written of them is the other (`legend`)."""

    @property
    def nodata(self) -> int:
        """The value of `classes` that means nodata."""
        return nodata_value(self.classes)

    @property
    def name(self) -> str:
        """What messages call it: where it is, without credentials."""
        return redact(self.path)

    @property
    def storage(self) -> Storage:
        """All objects of the store."""
        return Storage(self.path)

    @property
    def state(self) -> RunStorage:
        """The small objects of its run: marks, and what waits for neighbours."""
        return RunStorage(self.storage, self.run)

    def attributes(self) -> dict[str, Any]:
        """Return the group's attributes as they are now."""
        return dict(open_group(self.path).attrs)

    def read(self, name: str, window: Window) -> NDArray[Any]:
        """Read a window of an array: (y, x), or (class, y, x) for `probabilities`."""
        inside = window.intersection(self.grid.window)
        assert inside is not None
        return decoded(self.array(name), inside, self.storage.get_all)

    def write(self, name: str, window: Window, values: NDArray[Any]) -> int:
        """Write whole objects of an array, chunks or shards, once and atomically.

        Args:
            name: The array.
            window: Whole objects: it begins on one, and ends on one or at the edge.
            values: (y, x), or (class, y, x).

        Returns:
            What `checksum` returns of them.

        Raises:
            MasksError: The window is not whole objects; two writers would race.
        """
        array = self.array(name)
        height, width = object_shape(array)[-2:]
        for first, after, length, side in (
            (window.y, window.bottom, self.grid.height, height),
            (window.x, window.right, self.grid.width, width),
        ):
            if first % side or (after % side and after != length):
                raise MasksError(
                    f"rows or columns {first} … {after} are not whole chunks of "
                    f"{side} px: another writer of the same chunk would race"
                )
        if name == "classes" and self.merged:
            values = self._as_merged(values)
        chunks = dict(encoded(array, window, values))
        self.state.write(chunks)
        return _checksum(chunks.items())

    def _as_merged(self, values: NDArray[Any]) -> NDArray[Any]:
        table = np.arange(np.iinfo(values.dtype).max + 1, dtype=values.dtype)
        for old, new in self.merged:
            table[old] = new
        return np.asarray(table[values])

    def checksum(self, name: str, window: Window) -> int:
        """Return the CRC-32 of an array's chunks as they are stored, and their names.

        Args:
            name: The array.
            window: Whole chunks, as `write` has them.
        """
        array = self.array(name)
        names = [object_name(array, index) for index in chunks_in(array, window)]
        return _checksum(zip(names, self.storage.get_all(names), strict=True))

    def patch(self, name: str, window: Window, values: NDArray[Any]) -> None:
        """Write any rectangle of an array; for a single writer, as of overviews."""
        self.array(name)[..., *window.slices] = values

    def array(self, name: str) -> zarr.Array[Any]:
        """Return an array on the grid as Zarr has it."""
        self._check_name(name)
        return _open_array(self.path, name, self.run)

    def _check_name(self, name: str) -> None:
        if name not in self.arrays:
            raise MasksError(
                f"{self.name} has no array {name!r}, only {', '.join(self.arrays)}"
            )

    def mark_done(self, block: tuple[int, int], info: Mapping[str, Any]) -> None:
        """Note that the chunks of a block (row, column) are all written."""
        self.state.put(_done_mark(block), sealed(info))

    def is_done(self, block: tuple[int, int]) -> bool:
        """Return whether a block is done."""
        return self.state.exists(_done_mark(block))

    def check_current(self) -> None:
        """Raise where the store was begun again, or deleted, since this was opened.

        A worker whose client died may still be at work when the next run begins: it
        stops here. What it has in its hands already has no way in (`maps/state`).

        Raises:
            MasksError: It was.
        """
        try:
            same = current_run(self.storage) == self.run
        except FileNotFoundError:
            same = False
        if not same:
            raise begun_again(self.path)

    def done(self) -> set[tuple[int, int]]:
        """Return the blocks (row, column) that are done; an empty mark says nothing."""
        return self.state.keys(DONE, empty=False)

    def marked(self, folder: str) -> set[tuple[int, int]]:
        """Return the blocks (row, column) of which there is an object in a folder."""
        return self.done() if folder == DONE else self.state.keys(folder)

    def done_info(self, block: tuple[int, int]) -> dict[str, Any]:
        """Return what `mark_done` noted of a block.

        Raises:
            FileNotFoundError: The block is not done.
            DamagedStoreError: Its mark is not as it was written.
        """
        name = _done_mark(block)
        data = self.state.get(name)
        info = unsealed(data)
        if info is None:
            raise damaged(self.name, f"{name} ({len(data)} bytes)")
        return info

    def forget(self, blocks: Iterable[tuple[int, int]]) -> None:
        """Forget that blocks are done; the next run makes them again.

        Objects cross blocks, and what they were joined by is gone when a run is
        complete: all of them are found again.
        """
        write_record(self.storage, {**self.record(), "complete": False})
        if "instances" in self.arrays:
            table = (n for n in found(self.storage) if n.startswith(f"{OBJECTS}/"))
            put_twice(self.storage, dict.fromkeys(table))
            for name in (OBJECTS, OBJECT_CACHE):
                self.storage.remove(name)
        for block in blocks:
            self.state.discard(_done_mark(block))

    def all_arrays(self) -> dict[str, zarr.Array[Any] | None]:
        """Return all arrays by their path in the store, those of objects too.

        None stands for those whose metadata cannot be read.
        """
        group = open_group(self.path)
        names = [n for n in self.storage.names("") if not n.startswith((".", OVERVIEW))]
        names += [f"{OBJECTS}/{name}" for name in self.storage.names(OBJECTS)]
        found: dict[str, zarr.Array[Any] | None] = {}
        for name in names:
            try:
                node = group.get(name)
            except (ValueError, KeyError, TypeError):
                found[name] = None
                continue
            if isinstance(node, zarr.Array):
                found[name] = node
        return found

    def record(self) -> dict[str, Any]:
        """Return the run record."""
        return read_record(self.storage)

    def __repr__(self) -> str:
        grid = self.grid
        return (
            f"<Masks {Path(self.name).name}: {grid.width:,} × "
            f"{grid.height:,} px, {len(self.classes)} classes; "
            f"{', '.join(self.arrays)}>"
        )

    def _repr_html_(self) -> str:
        return views.html("map", self)

    @property
    def zarr_format(self) -> int:
        """2, or 3."""
        return 3 if self.storage.exists("zarr.json") else 2

    @property
    def is_complete(self) -> bool:
        """Whether no run has anything left to do here."""
        found = found_record(self.storage)
        if found is not None:
            return bool(found["complete"])
        # Overviews have no record; of a store that lost its own, the rest tells.
        told = self.attributes()["geoseg"]
        return "overview_of" in told or "finished" in told

    def dataset(self) -> xr.Dataset:
        """Open the store with xarray, lazily; class values stay integers."""
        import xarray as xr

        if not self.is_complete:
            text = f"{self.name} is not complete: what is missing reads as nodata"
            warnings.warn(text, stacklevel=2)
        data: xr.Dataset = xr.open_zarr(
            **zarr_store(self.path),
            decode_coords="all",
            mask_and_scale={name: name not in _KEPT_RAW for name in self.arrays},
        )
        data.encoding["source"] = self.path
        return data

    def objects(
        self,
        columns: Iterable[str] = tuple(OBJECT_COLUMNS),
        rows: slice = slice(None),
    ) -> dict[str, NDArray[Any]]:
        """Return the table of objects: columns by name, rows in the order of ids.

        Args:
            columns: Which of `OBJECT_COLUMNS`.
            rows: Which objects; the one with the id 1 comes first.

        Raises:
            MasksError: The store has none.
            DamagedStoreError: It cannot be read.
        """
        if "instances" not in self.arrays:
            raise MasksError(
                f"{self.name} has no table of objects: segment with --task instance or "
                "panoptic"
            )
        try:
            group: Any = open_group(self.path)[OBJECTS]
            return {name: np.asarray(group[name][rows]) for name in columns}
        except Exception as error:  # of zarr, and each codec has its own
            raise DamagedStoreError(
                f"{self.name}: the table of objects is damaged ({first_line(error)}): "
                "geoseg verify --repair, and the command that made it finds them again"
            ) from error

    def finish(self, info: Mapping[str, Any]) -> None:
        """Note that the run is complete: provenance is final, nothing is left over."""
        with edited(self.path) as group:
            provenance: Any = group.attrs["geoseg"]
            group.attrs["geoseg"] = {**provenance, **info}
        table = self.object_checksums()
        remove_leftovers(self.storage)
        # Last: a run that is cut off before this one ends it again.
        record = {**self.record(), "complete": True, "objects": table}
        write_record(self.storage, record)

    def object_checksums(self) -> dict[str, int]:
        """Return the CRC-32 of each column of the table of objects, if there is one."""
        if "instances" not in self.arrays:
            return {}
        group = open_group(self.path).get(OBJECTS)
        if not isinstance(group, zarr.Group):
            return {}
        return {name: _column_checksum(group, name) for name in OBJECT_COLUMNS}


def _column_checksum(group: zarr.Group, name: str) -> int:
    column: Any = group[name]
    crc = 0
    for first in range(0, column.shape[0], _ROWS):
        rows = np.ascontiguousarray(column[first : first + _ROWS])
        crc = crc32(rows.data, crc)
    return crc


def _checksum(objects: Iterable[tuple[str, bytes | None]]) -> int:
    """Return the CRC-32 of the names and contents of what is there of some objects."""
    crc = 0
    for name, data in objects:
        if data is not None:
            crc = crc32(data, crc32(name.encode(), crc))
    return crc


def _done_mark(block: tuple[int, int]) -> str:
    return f"{DONE}/{block[0]}.{block[1]}"


@lru_cache(maxsize=64)
def _open_array(path: str, name: str, run: str) -> zarr.Array[Any]:  # noqa: ARG001
    """Open an array once per process; `run` tells apart stores of the same path."""
    return zarr.open_array(**zarr_store(path), path=name, mode="r+")


@discreet
def open_masks(path: str | os.PathLike[str]) -> Masks:
    """Open a masks store that geoseg made.

    Args:
        path: Its folder, or a URL.

    Raises:
        MasksError: There is none, or it is somebody else's.
        DamagedStoreError: Its metadata are empty, cut or missing.
    """
    storage = Storage(absolute(os.fspath(path).rstrip("/")))
    name = redact(storage.url)
    try:
        with store_errors(storage.url):
            group = open_group(storage.url)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise damaged(name, f"its metadata ({first_line(error)})") from error
    except (FileNotFoundError, zarr.errors.GroupNotFoundError) as error:
        if is_ours(storage):
            raise damaged(name, "its metadata (missing)") from error
        why = "does not exist"
        if storage.exists():
            why = "is not a Zarr group, which masks are that geoseg segment writes"
        raise MasksError(f"{name} {why}: is the path right?") from error
    attributes = dict(group.attrs)
    if "geoseg" not in attributes:
        if is_ours(storage):
            raise damaged(name, "its metadata (without 'geoseg')")
        raise MasksError(
            f"{name} is a Zarr group, but not one that geoseg segment made"
        )
    try:
        return _described(storage.url, group, attributes)
    except (
        LookupError,
        ValueError,
        TypeError,
        ArithmeticError,  # such as a fill value that the dtype cannot hold
        AttributeError,
        RasterError,
    ) as error:
        raise damaged(name, f"its metadata ({first_line(error)})") from error


def _described(url: str, group: zarr.Group, attributes: dict[str, Any]) -> Masks:
    """Return the masks that a group's metadata describe."""
    array: Any = group["classes"]
    # A folder tells what it holds in one answer; a web server may not.
    web = url.startswith(("http://", "https://"))
    listed = set(NAMES if web else Storage(url).names("")) - {"classes"}
    height, width = array.shape
    if array.dtype.kind != "u" or not 0 < math.prod(array.chunks) <= 1 << 28:
        raise ValueError(f"chunks of {array.chunks} {array.dtype}")
    return Masks(
        path=url,
        grid=grid_from_attributes(attributes, height, width),
        classes=classes_from_attributes(attributes),
        chunk=int(max(array.chunks)),  # a side is cut where the raster is shorter
        arrays=("classes", *(n for n in NAMES if n in listed and n in group)),
        run=str(attributes["geoseg"]["run"]),
        merged=tuple(
            (int(old), int(new))
            for old, new in attributes["geoseg"].get("merged", {}).items()
        ),
    )
