"""What the Zarr group of masks looks like: metadata, arrays, coordinates, objects.

With `maps/store` and `maps/chunks`, all that imports zarr.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import zarr
from numcodecs import Zstd
from zarr.codecs import ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import FsspecStore, MemoryStore

from geoseg.core.classes import Class
from geoseg.core.grid import Grid
from geoseg.core.object_stores import AZURE, access
from geoseg.maps.arrays import kind_of
from geoseg.maps.metadata import (
    array_attributes,
    class_attributes,
    coordinate_attributes,
    grid_mapping_attributes,
    group_attributes,
)
from geoseg.maps.second_copy import RECORD, Documents, found, metadata_of, put_twice
from geoseg.maps.state import parsed
from geoseg.maps.storage import Storage
from geoseg.rasters.unpacking import check_chunks

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from zarr.core.buffer import Buffer

OBJECTS = "objects"
OVERVIEW = "overview_"
"""What the names of groups with overviews begin with."""
OBJECT_COLUMNS = {
    "instance_id": ("uint32", "id in the array instances"),
    "class_id": ("uint16", "class value"),
    "score": ("float32", "how sure the model is, 0 to 1"),
    "pixels": ("int64", "number of pixels"),
    "top": ("int32", "first row"),
    "left": ("int32", "first column"),
    "bottom": ("int32", "row after the last"),
    "right": ("int32", "column after the last"),
    "pieces": ("int32", "how many pieces, of one window each, it is joined from"),
}
"""Columns of the table of objects, `objects/…` in the store: dtype and meaning."""
_ROWS = 1 << 16
COORDINATES = 1_000_000
"""Centres of pixels in a chunk of `x` or `y`; no more are made at once."""


def open_group(path: str, mode: str = "r") -> zarr.Group:
    """Open a group by its own metadata, which may be newer than the consolidated."""
    check_chunks()
    return zarr.open_group(
        **zarr_store(path),
        mode=mode,  # type: ignore[arg-type]
        use_consolidated=False,
    )


def zarr_store(url: str) -> dict[str, Any]:
    """Return what zarr and xarray are told to open a URL: the store, and how."""
    options = access(url)
    if not url.startswith(AZURE):
        return {"store": url, "storage_options": options or None}
    # Its file systems for zarr's own loop end a process with a traceback (adlfs 2026.8
    # closes them in a loop that they do not have); others can be called from threads.
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

    system, path = fsspec.core.url_to_fs(url, **options)
    wrapped = AsyncFileSystemWrapper(system, asynchronous=True)
    return {"store": FsspecStore(wrapped, path=path)}


@contextmanager
def edited(path: str) -> Iterator[zarr.Group]:
    """Give the metadata of a store, to be changed in memory.

    They are written when that went well: first their copy, then each object whole. The
    metadata of all arrays stand in one place too, for readers far away.

    Raises:
        DamagedStoreError: Some are not as they were written.
    """
    storage = Storage(path)
    before = found(storage)
    for name, data in before.items():
        parsed(data, path, name)
    record = {RECORD: before.pop(RECORD)} if RECORD in before else {}
    make = default_buffer_prototype().buffer.from_bytes
    objects: dict[str, Buffer] = {name: make(data) for name, data in before.items()}
    store = MemoryStore(objects)
    group = zarr.open_group(store, mode="r+", use_consolidated=False)
    yield group
    told = "multiscales" in group.attrs  # else those that are there are half made
    for name in (n for n, _ in group.groups() if told and n.startswith(OVERVIEW)):
        _consolidate(objects, store, name)
    _consolidate(objects, store)
    after = {name: data.to_bytes() for name, data in objects.items()}
    changed = {n: data for n, data in after.items() if data != before.get(n)}
    gone = dict.fromkeys({*before} - {*after})
    whole = {n: d for n, d in after.items() if told or not n.startswith(OVERVIEW)}
    put_twice(storage, {**changed, **gone}, {**whole, **record})


def _consolidate(
    objects: dict[str, Buffer], store: MemoryStore, path: str | None = None
) -> None:
    """Write the metadata of all arrays of a group in one place.

    Overviews are left out: GDAL takes the last array that it finds there for the
    raster.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Zarr 3, whose consolidation is unofficial
        whole = zarr.consolidate_metadata(store, path=path)
    if not any(name.startswith(OVERVIEW) for name in whole.group_keys()):
        return
    name = "zarr.json" if whole.metadata.zarr_format == 3 else ".zmetadata"
    document = json.loads(objects[name].to_bytes())
    told = document.get("consolidated_metadata", document)["metadata"]
    kept = {key: one for key, one in told.items() if not key.startswith(OVERVIEW)}
    told.clear()
    told.update(kept)
    data = json.dumps(document, indent=2).encode()
    objects[name] = type(objects[name]).from_bytes(data)


def create_group(
    path: str,
    *,
    grid: Grid,
    classes: Sequence[Class],
    chunk: int,
    arrays: Sequence[str],
    provenance: Mapping[str, Any],
    zarr_format: int = 2,
    shard: int | None = None,
) -> Documents:
    """Create the Zarr group alone, without a run that could be resumed.

    It is made in memory: Zarr writes the metadata of a group anew with every array, and
    an object store wants every object once.

    Args:
        path: Folder or URL.
        grid: Where its pixels are.
        classes: The class table.
        chunk: Side of the chunks in pixels.
        arrays: Which arrays it gets.
        provenance: What `geoseg` among its attributes tells.
        zarr_format: 2, or 3.
        shard: Side of what lies in one object: chunks; None: each in its own. Format 3.

    Returns:
        Its metadata, by their names in the store.
    """
    objects: dict[str, Buffer] = {}
    store = MemoryStore(objects)
    group = zarr.open_group(store, mode="a", zarr_format=zarr_format)  # type: ignore[arg-type]
    group.attrs.update({**group_attributes(grid, classes), "geoseg": dict(provenance)})
    for name in arrays:
        _create_array(group, name, grid, classes, chunk, shard)
    create_coordinates(group, grid)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        zarr.consolidate_metadata(store)
    written = {name: data.to_bytes() for name, data in objects.items()}
    Storage(path).put_all(written)
    return metadata_of(written)


def _create_array(
    group: zarr.Group,
    name: str,
    grid: Grid,
    classes: Sequence[Class],
    chunk: int,
    shard: int | None,
) -> None:
    kind = kind_of(name, classes)
    attributes = {**array_attributes(grid), **kind.attributes}
    shape, chunks, dims = (grid.height, grid.width), (chunk, chunk), ("y", "x")
    if name == "classes":
        attributes |= class_attributes(classes)
    if name == "probabilities":
        shape, chunks = (kind.layers, *shape), (1, *chunks)  # type: ignore[assignment]
        dims = ("class", *dims)  # type: ignore[assignment]
    along = None if shard is None else shard // chunk
    _array(group, name, shape, chunks, kind.dtype, dims, kind.fill, attributes, along)


def _array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: str,
    dims: tuple[str, ...],
    fill: float | None,
    attributes: Mapping[str, Any],
    along: int | None = None,
) -> zarr.Array[Any]:
    v2 = group.metadata.zarr_format == 2
    attributes = dict(attributes)
    if v2:
        attributes["_ARRAY_DIMENSIONS"] = list(dims)
    if fill is not None:
        attributes["_FillValue"] = fill
    chunks = tuple(min(c, s or c) for c, s in zip(chunks, shape, strict=True))
    shards = None
    if along is not None:
        several = [1] * (len(shape) - 2) + [along] * 2
        shards = tuple(c * n for c, n in zip(chunks, several, strict=True))
    return group.create_array(
        name,
        shape=shape,
        chunks=chunks,
        shards=shards,
        dtype=dtype,
        compressors=Zstd(level=1) if v2 else ZstdCodec(level=1),
        fill_value=fill,
        attributes=attributes,
        dimension_names=None if v2 else dims,
        overwrite=True,
    )


def create_coordinates(group: zarr.Group, grid: Grid) -> None:
    """Write `spatial_ref`, and pixel centres where rows and columns run with axes."""
    _array(group, "spatial_ref", (), (), "int64", (), 0, grid_mapping_attributes(grid))
    if not grid.is_rectilinear:
        return  # centres are not a function of one axis; the GeoTransform tells
    for name, size in (("y", grid.height), ("x", grid.width)):
        array = _array(
            group,
            name,
            (size,),
            (COORDINATES,),
            "float64",
            (name,),
            None,
            coordinate_attributes(grid, name),
        )
        for start, stop, centres in centres_of(grid, name):
            array[start:stop] = centres


def centres_of(grid: Grid, name: str) -> Iterator[tuple[int, int, NDArray[np.float64]]]:
    """Yield where a piece of `x` or `y` begins and ends, and its pixels' centres.

    A raster of a few bytes may say that it is two thousand million pixels wide.
    """
    size = grid.width if name == "x" else grid.height
    of = grid.x_centres if name == "x" else grid.y_centres
    for start in range(0, size, COORDINATES):
        stop = min(start + COORDINATES, size)
        yield start, stop, of(start, stop)


def create_objects(path: str) -> Callable[[Mapping[str, Any]], None]:
    """Begin the table of objects of a store anew.

    Args:
        path: Folder or URL of the store.

    Returns:
        A function that appends rows: columns by name, named in `OBJECT_COLUMNS`.
    """
    group = open_group(path, mode="r+").require_group(OBJECTS)
    columns = {
        name: _array(
            group,
            name,
            (0,),
            (_ROWS,),
            dtype,
            ("object",),
            None,
            {"long_name": meaning},
        )
        for name, (dtype, meaning) in OBJECT_COLUMNS.items()
    }

    def append(rows: Mapping[str, Any]) -> None:
        for name, column in columns.items():
            column.append(np.asarray(rows[name], column.dtype))

    return append
