"""The masks: a Zarr group. Create, read, write, done marks.

Beside the arrays lies `.geoseg/` with the run record, a done mark per block, and parts
of blocks that wait for their neighbours. It is harmless when the run is complete.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import zarr

from geoseg.core import views
from geoseg.core.classes import Class, nodata_value
from geoseg.core.files import absolute
from geoseg.core.grid import Grid, Window
from geoseg.core.text import redact
from geoseg.errors import DamagedStoreError, MasksError, first_line
from geoseg.maps.group import (
    OBJECT_COLUMNS,
    OBJECTS,
    consolidate,
    create_group,
    open_group,
)
from geoseg.maps.lock import held
from geoseg.maps.metadata import classes_from_attributes, grid_from_attributes
from geoseg.maps.storage import Storage, access, reporting
from geoseg.rasters.versions import changes

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

META = ".geoseg"
RECORD = ".geoseg/run.json"
LOCK = ".geoseg/lock"
DONE = ".geoseg/done"
PARTIAL = ".geoseg/parts"
"""Partial blocks, which wait for their neighbours."""
HALO = ".geoseg/rims"
"""What each block adds to a neighbour."""
OBJECT_CACHE = ".geoseg/objects"
"""What is kept while objects are joined."""
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
        """Where marks and parts lie."""
        return Storage(self.path)

    def attributes(self) -> dict[str, Any]:
        """Return the group's attributes as they are now."""
        return dict(open_group(self.path).attrs)

    def read(self, name: str, window: Window) -> NDArray[Any]:
        """Read a window of an array: (y, x), or (class, y, x) for `probabilities`."""
        array = self._array(name)
        return np.asarray(array[(..., *window.slices)])

    def write(self, name: str, window: Window, values: NDArray[Any]) -> None:
        """Write whole chunks of an array, each once and atomically.

        Args:
            name: The array.
            window: Whole chunks: it begins on a chunk, and ends on one or at the edge.
            values: (y, x), or (class, y, x).

        Raises:
            MasksError: The window is not whole chunks; two writers would race.
        """
        for first, after, length in (
            (window.y, window.bottom, self.grid.height),
            (window.x, window.right, self.grid.width),
        ):
            if first % self.chunk or (after % self.chunk and after != length):
                raise MasksError(
                    f"rows or columns {first} … {after} are not whole chunks of "
                    f"{self.chunk} px: another writer of the same chunk would race"
                )
        self._array(name)[(..., *window.slices)] = values

    def patch(self, name: str, window: Window, values: NDArray[Any]) -> None:
        """Write any rectangle of an array; for a single writer, as of overviews."""
        self._array(name)[(..., *window.slices)] = values

    def _array(self, name: str) -> zarr.Array[Any]:
        if name not in self.arrays:
            raise MasksError(
                f"{self.name} has no array {name!r}, only {', '.join(self.arrays)}"
            )
        return _open_array(self.path, name, self.run)

    def mark_done(self, block: tuple[int, int], info: Mapping[str, Any]) -> None:
        """Note that the chunks of a block (row, column) are all written."""
        self.storage.put(_done_mark(block), json.dumps(dict(info)).encode())

    def is_done(self, block: tuple[int, int]) -> bool:
        """Return whether a block is done."""
        return self.storage.exists(_done_mark(block))

    def check_current(self) -> None:
        """Raise where the store was begun again, or deleted, since this was opened.

        A worker whose client died may still be at work when the next run begins; what
        it has must not get into another map.

        Raises:
            MasksError: It was.
        """
        try:
            run = self.record().get("run")
        except FileNotFoundError:
            run = None
        if run != self.run:
            raise MasksError(
                f"{self.name} was deleted or begun again while this run was at work"
            )

    def done(self) -> set[tuple[int, int]]:
        """Return the blocks (row, column) that are done."""
        return self.marked(DONE)

    def marked(self, folder: str) -> set[tuple[int, int]]:
        """Return the blocks (row, column) of which there is an object in a folder."""
        return positions(self.storage.names(folder))

    def done_info(self, block: tuple[int, int]) -> dict[str, Any]:
        """Return what `mark_done` noted of a block."""
        return parsed(self.storage, _done_mark(block))

    def forget(self, blocks: Iterable[tuple[int, int]]) -> None:
        """Forget that blocks are done; the next run makes them anew."""
        record = {**self.record(), "complete": False}
        self.storage.put(RECORD, json.dumps(record, indent=1).encode())
        for block in blocks:
            self.storage.discard(_done_mark(block))

    def coordinate(self, name: str) -> NDArray[np.float64]:
        """Return the pixel centres `x` or `y` as they are stored."""
        return np.asarray(_open_array(self.path, name, self.run)[...])

    def chunk_names(self, name: str, window: Window) -> list[str]:
        """Return the objects that hold the chunks of an array in a window."""
        array = self._array(name)
        chunks = array.chunks
        ranges = [range(n) for n in array.cdata_shape[:-2]] + [
            range(window.y // chunks[-2], -(-window.bottom // chunks[-2])),
            range(window.x // chunks[-1], -(-window.right // chunks[-1])),
        ]
        key = array.metadata.encode_chunk_key
        return [f"{name}/{key(index)}" for index in product(*ranges)]

    def chunk_patterns(self) -> dict[str, Callable[[str], bool]]:
        """Return for each array whether an object below it is one of its chunks."""
        group = open_group(self.path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of our own folder, and of foreign ones
            arrays = dict(group.arrays())
        return {
            name: partial(_is_chunk, array.metadata.encode_chunk_key, array.cdata_shape)
            for name, array in arrays.items()
        }

    def record(self) -> dict[str, Any]:
        """Return the run record."""
        return _record(self.storage)

    def _repr_html_(self) -> str:
        return views.html("map", self)

    @property
    def zarr_format(self) -> int:
        """2, or 3."""
        return 3 if self.storage.exists("zarr.json") else 2

    @property
    def is_complete(self) -> bool:
        """Whether no run has anything left to do here."""
        return not self.storage.exists(RECORD) or bool(self.record()["complete"])

    def dataset(self) -> xr.Dataset:
        """Open the store with xarray, lazily; class values stay integers."""
        import xarray as xr

        data: xr.Dataset = xr.open_zarr(
            self.path,
            storage_options=access(self.path) or None,
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
        """
        group = open_group(self.path).get(OBJECTS)
        if not isinstance(group, zarr.Group):
            raise MasksError(
                f"{self.name} has no table of objects: segment with --task instance or "
                "panoptic"
            )
        arrays = dict(group.arrays())
        return {name: np.asarray(arrays[name][rows]) for name in columns}

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Note that the run is complete: provenance is final, nothing is left over."""
        group = open_group(self.path, mode="r+")
        provenance: Any = group.attrs["geoseg"]
        group.attrs["geoseg"] = {**provenance, **facts}
        consolidate(group.store)
        self.storage.remove(PARTIAL)
        self.storage.remove(HALO)
        self.storage.sweep()
        # Last: a run that is cut off before this one ends it again.
        record = {**self.record(), "complete": True}
        self.storage.put(RECORD, json.dumps(record, indent=1).encode())


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


def checksum(values: NDArray[Any]) -> int:
    """Return the CRC-32 of an array's bytes in C order."""
    return crc32(np.ascontiguousarray(values).data)


def _done_mark(block: tuple[int, int]) -> str:
    return f"{DONE}/{block[0]}.{block[1]}"


def positions(names: Iterable[str]) -> set[tuple[int, int]]:
    """Return the blocks that names such as `3.14` stand for."""
    return {(int(r), int(c)) for r, _, c in (name.partition(".") for name in names)}


_RECORDED = {"settings": dict, "block": int, "run": str, "complete": bool}
"""What a run record holds at least."""


def _record(storage: Storage) -> dict[str, Any]:
    record = parsed(storage, RECORD)
    for key, kind in _RECORDED.items():
        if not isinstance(record.get(key), kind):
            raise damaged(redact(storage.url), f"{RECORD} without {key!r}")
    return record


def parsed(storage: Storage, name: str) -> dict[str, Any]:
    """Return a small JSON object of a store.

    Raises:
        DamagedStoreError: It is empty, cut, or no object.
        FileNotFoundError: There is none.
    """
    data = storage.get(name)
    try:
        value = json.loads(data)
    except ValueError as error:
        raise damaged(redact(storage.url), f"{name} ({len(data)} bytes)") from error
    if not isinstance(value, dict):
        raise damaged(redact(storage.url), f"{name}, which holds no object,")
    return value


@lru_cache(maxsize=64)
def _open_array(path: str, name: str, run: str) -> zarr.Array[Any]:  # noqa: ARG001
    """Open an array once per process; `run` tells apart stores of the same path."""
    array = open_group(path, mode="r+")[name]
    if not isinstance(array, zarr.Array):
        raise MasksError(f"{redact(path)}/{name} is a group, not an array")
    return array


def open_masks(path: str | os.PathLike[str]) -> Masks:
    """Open a masks store that geoseg made.

    Raises:
        MasksError: There is none, or it is somebody else's.
        DamagedStoreError: Its metadata are empty, cut or missing.
    """
    storage = Storage(absolute(os.fspath(path).rstrip("/")))
    name = redact(storage.url)
    try:
        with reporting(storage.url):
            group = open_group(storage.url)
    except (FileNotFoundError, zarr.errors.GroupNotFoundError) as error:
        raise MasksError(f"{name} is not a Zarr group: is the path right?") from error
    attributes = dict(group.attrs)
    if "geoseg" not in attributes:
        raise MasksError(
            f"{name} is a Zarr group, but not one that geoseg segment made"
        )
    try:
        return _described(storage.url, group, attributes)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise damaged(name, f"its metadata ({first_line(error)})") from error


def _described(url: str, group: zarr.Group, attributes: dict[str, Any]) -> Masks:
    """Return the masks that a group's metadata describe."""
    array: Any = group["classes"]
    height, width = array.shape
    names = ("classes", "confidence", "probabilities", "instances")
    return Masks(
        path=url,
        grid=grid_from_attributes(attributes, height, width),
        classes=classes_from_attributes(attributes),
        chunk=int(max(array.chunks)),  # a side is cut where the raster is shorter
        arrays=tuple(n for n in names if n in group),
        run=str(attributes["geoseg"]["run"]),
    )


def damaged(name: str, what: str) -> DamagedStoreError:
    """Return the error of a store whose small files are not as they were written."""
    return DamagedStoreError(
        f"{name}: {what} cannot be used, as after a full disk or a lost power supply: "
        "restore it from a copy, or make the map again with --overwrite"
    )


def create_masks(
    path: str,
    *,
    grid: Grid,
    classes: Sequence[Class],
    chunk: int,
    arrays: Sequence[str],
    settings: Mapping[str, Any],
    block: int,
    provenance: Mapping[str, Any],
    overwrite: bool = False,
    zarr_format: int = 2,
) -> Masks:
    """Create a store, metadata only; or go on with one made by the same settings.

    Args:
        path: Folder or URL of the store.
        grid: Where its pixels are.
        classes: The class table.
        chunk: Side of the chunks in pixels.
        arrays: Which arrays it gets, `classes` first.
        settings: Everything that changes the answer, JSON-able. A store made by other
            settings is refused.
        block: Side of the blocks, by which done marks are named; not a setting, since
            it does not change the answer. A store that is gone on with keeps its own.
        provenance: What else is worth keeping; must hold `run`, a name for this run.
        overwrite: Delete a store that is there.
        zarr_format: 2 opens everywhere; 3 in newer readers.

    Raises:
        MasksError: Something else is there, or a store made by other settings.
    """
    storage = Storage(path.rstrip("/"))
    settings = json.loads(json.dumps(settings))
    _check_ours(storage, overwrite=overwrite)
    if storage.exists(RECORD) and not overwrite:
        found = _record(storage)
        _check_same(storage, found["settings"], settings)
        if found["created"]:
            return open_masks(storage.url)
    record = {
        "settings": settings,
        "block": block,
        "run": provenance["run"],
        "created": False,
        "complete": False,
    }
    storage.put(RECORD, json.dumps(record, indent=1).encode())
    _clear(storage)
    create_group(
        storage.url,
        grid=grid,
        classes=classes,
        chunk=chunk,
        arrays=arrays,
        provenance=provenance,
        zarr_format=zarr_format,
    )
    storage.put(RECORD, json.dumps({**record, "created": True}, indent=1).encode())
    return open_masks(storage.url)


def settings_of(path: str) -> dict[str, Any] | None:
    """Return the settings that a store was begun with, or None where there is none."""
    storage = Storage(path.rstrip("/"))
    return _record(storage)["settings"] if storage.exists(RECORD) else None


@contextmanager
def writing(path: str, *, overwrite: bool = False) -> Iterator[Callable[[], None]]:
    """Be the only one who writes a store; nothing is held where it is complete.

    Args:
        path: The store, which need not exist yet.
        overwrite: Whether a complete one will be written too.

    Yields:
        A function that raises where another run has taken over meanwhile.

    Raises:
        LockedError: Another run is writing it.
        MasksError: Something else is there.
    """
    storage = Storage(path.rstrip("/"))
    _check_ours(storage, overwrite=overwrite)
    if not overwrite and storage.exists(RECORD) and _record(storage)["complete"]:
        yield lambda: None
        return
    with held(storage, LOCK) as lock:
        yield lock.check


def _clear(storage: Storage) -> None:
    """Delete what an earlier run left, done marks first: those must never outlive."""
    for name in (f"{OBJECT_CACHE}/written", DONE, PARTIAL, HALO, OBJECT_CACHE):
        storage.remove(name)
    for name in storage.names(""):
        if name != META:
            storage.remove(name)


def _check_ours(storage: Storage, *, overwrite: bool) -> None:
    """Raise where what is there is not a store of ours: never delete or mix in."""
    # Of a run that was killed at its very beginning, only our own folder is there.
    if storage.exists(RECORD) or not set(storage.names("")) - {META}:
        return
    remedy = "delete it yourself" if overwrite else "choose another --out"
    raise MasksError(
        f"{redact(storage.url)} exists and geoseg did not make it: {remedy}"
    )


def _check_same(
    storage: Storage, old: Mapping[str, Any], new: Mapping[str, Any]
) -> None:
    different = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
    if different:
        shown = "; ".join(_differs(k, old.get(k), new.get(k)) for k in different)
        raise MasksError(
            f"{redact(storage.url)} was begun with other settings ({shown}): use "
            "those, another --out, or --overwrite"
        )


def _differs(key: str, old: object, new: object) -> str:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        what = "the raster was replaced or changed" if key == "source" else key
        return f"{what}: {redact('; '.join(changes(old, new)))}"
    return f"{key}: {_short(old)} there, {_short(new)} now"


def _short(value: object) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 80 else f"{text[:77]}..."
