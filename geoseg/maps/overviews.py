"""Overviews: a raster of classes at half, a quarter, an eighth … of its resolution.

What is looked at is read from the overview that has about the wanted resolution, so a
look costs the same at any size. Classes are halved by the most frequent valid value,
confidence by the mean. In a masks store they are groups `overview_2`, `overview_4`, …,
each a small masks store of its own, listed as GeoZarr `multiscales`
(https://github.com/zarr-conventions/multiscales, v1). The root's consolidated metadata
leaves them out, since GDAL takes the last array it finds there for the raster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from threading import Lock
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from zlib import crc32

import numpy as np

from geoseg.core.classes import Class, nodata_value
from geoseg.core.grid import Window, squares
from geoseg.errors import MasksError, first_line
from geoseg.execution.engine import unordered
from geoseg.execution.progress import reported
from geoseg.execution.resources import cores
from geoseg.maps.coordinates import wrong_coordinates
from geoseg.maps.group import OVERVIEW, create_group, edited
from geoseg.maps.reader import dtype_of, read_plain
from geoseg.maps.state import found_record, write_record
from geoseg.maps.store import Masks, open_masks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.core.grid import Grid
    from geoseg.maps.reader import ClassReader

REGION = 2048
"""Side of the squares that are halved at once; memory does not grow with the raster."""
CHUNK = 512
COARSEST = 512
"""There are levels until the longer side is no longer than this."""
_MOST_LEVELS = 11  # 2048 = 2^11: a region is at least one pixel of every level
_AT_ONCE = 1 << 24
_SEEN = 2048  # overviews no larger than this are what a whole map is looked at in
_CONVENTION = {
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/multiscales/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/multiscales/blob/v1/README.md",
    "uuid": "d35379db-88df-4056-af3a-620245f8e347",
    "name": "multiscales",
    "description": "Multiscale layout of zarr datasets",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pyramid:
    """A raster of classes with its overviews, to be looked at in any resolution."""

    base: ClassReader
    """Full resolution."""
    levels: tuple[ClassReader, ...] = ()
    """Overviews: half, a quarter, an eighth, …"""

    @property
    def grid(self) -> Grid:
        """Where the pixels of full resolution are."""
        return self.base.grid

    def look(
        self, name: str, window: Window, height: int, width: int
    ) -> NDArray[np.generic]:
        """Return a window of an array, sampled to a shape, at bounded memory.

        Args:
            name: `classes`, `confidence`.
            window: In pixels of full resolution; outside of the raster is nodata.
            height: Rows of the result.
            width: Columns of the result.

        Returns:
            (height, width) uint8, or uint16 past 254 classes: nearest pixels of the
            coarsest level that is no coarser than asked for.
        """
        ratio = min(window.height / height, window.width / width)
        depth = max(0, min(int(np.log2(max(ratio, 1)) + 1e-9), len(self.levels)))
        reader = self.levels[depth - 1] if depth else self.base
        rows = _samples(window.y, window.height, height)
        columns = _samples(window.x, window.width, width)
        inside_y = (rows >= 0) & (rows < self.grid.height)
        inside_x = (columns >= 0) & (columns < self.grid.width)
        dtype = np.uint8 if name == "confidence" else dtype_of(self.classes)
        out = np.full((height, width), np.iinfo(dtype).max, dtype)
        if inside_y.any() and inside_x.any():
            found = _gather(
                reader, name, rows[inside_y] >> depth, columns[inside_x] >> depth
            )
            out[np.ix_(inside_y, inside_x)] = found
        return out

    @property
    def classes(self) -> tuple[Class, ...]:
        """The class table."""
        return self.base.classes

    @property
    def nodata(self) -> int:
        """What `look` returns for nodata, whatever the raster itself has."""
        return nodata_value(self.classes)


def _samples(first: int, length: int, count: int) -> NDArray[np.int64]:
    return first + np.floor((np.arange(count) + 0.5) * length / count).astype(np.int64)


def _gather(
    reader: ClassReader,
    name: str,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
) -> NDArray[Any]:
    """Read the pixels at rows x columns, a part at a time where they lie far apart."""
    window = Window.spanning(
        int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    )
    if window.area <= _AT_ONCE or len(rows) == len(columns) == 1:
        values = read_plain(reader, name, window)
        return values[np.ix_(rows - window.y, columns - window.x)]
    if (window.height >= window.width and len(rows) > 1) or len(columns) == 1:
        halves = np.array_split(rows, 2)
        return np.concatenate([_gather(reader, name, h, columns) for h in halves])
    halves = np.array_split(columns, 2)
    return np.concatenate([_gather(reader, name, rows, h) for h in halves], axis=1)


def open_pyramid(reader: ClassReader) -> Pyramid:
    """Return masks, or any raster of classes, with the overviews that it has."""
    from geoseg.maps.geotiff import ClassRaster

    if isinstance(reader, ClassRaster):
        from geoseg.maps.gdal_overviews import file_overviews

        return Pyramid(base=reader, levels=file_overviews(reader))
    if not isinstance(reader, Masks):
        return Pyramid(base=reader)
    names = level_names(reader)
    return Pyramid(
        base=reader, levels=tuple(open_masks(f"{reader.path}/{n}") for n in names)
    )


def level_names(masks: Masks) -> list[str]:
    """Return the names of a store's overviews, the finest first."""
    layout = masks.attributes().get("multiscales", {}).get("layout", [])
    return [entry["asset"].rpartition("/")[0] for entry in layout[1:]]


def build_overviews(
    masks: Masks, *, progress: Callable[[int, int], None] | None = None
) -> Pyramid:
    """Give a masks store overviews, or return those that it has.

    One pass over the store, in pieces; readers see them when they are whole.

    Args:
        masks: A complete store.
        progress: Called with pieces done and pieces in all.

    Raises:
        MasksError: The store is still being written, or cannot be written to.
    """
    pyramid = open_pyramid(masks)
    if pyramid.levels:
        return pyramid
    if not masks.is_complete:
        raise MasksError(
            f"{masks.name} is still being written: make overviews when it is complete"
        )
    try:
        levels = create_levels(masks, masks.path, masks.zarr_format)
        for _ in fill(masks, levels, regions(masks.grid), progress):
            pass
        announce(masks, levels)
    except OSError as error:
        raise MasksError(
            f"overviews cannot be written into {masks.name}: {error.strerror or error}"
        ) from error
    return open_pyramid(masks)


def create_levels(
    reader: ClassReader, path: str, zarr_format: int = 2
) -> tuple[Masks, ...]:
    """Create empty overviews in a folder, of the arrays that can be looked at."""
    run = getattr(reader, "run", path)
    arrays = tuple(n for n in ("classes", "confidence") if n in reader.arrays)
    levels = []
    for depth, grid in enumerate(_grids(reader.grid), start=1):
        folder = f"{path}/{OVERVIEW}{2**depth}"
        create_group(
            folder,
            grid=grid,
            classes=reader.classes,
            chunk=CHUNK,
            arrays=arrays,
            provenance={"run": uuid4().hex, "overview_of": run},
            zarr_format=zarr_format,
        )
        levels.append(open_masks(folder))
    return tuple(levels)


def _grids(grid: Grid) -> Iterator[Grid]:
    for _ in range(_MOST_LEVELS):
        if max(grid.height, grid.width) <= COARSEST:
            return
        grid = grid.resampled(y_factor=2, x_factor=2)
        yield grid


def regions(grid: Grid, touched: Iterable[Window] | None = None) -> list[Window]:
    """Return the squares to be halved, row by row; only those with a touched window."""
    every = list(squares(grid, REGION))
    if touched is None:
        return every
    hit = set()
    for w in touched:
        for y in range(w.y // REGION, (w.bottom - 1) // REGION + 1):
            hit |= {(y, x) for x in range(w.x // REGION, (w.right - 1) // REGION + 1)}
    return [s for s in every if (s.y // REGION, s.x // REGION) in hit]


def fill(
    reader: ClassReader,
    levels: Sequence[Masks],
    squares: Sequence[Window],
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Window]:
    """Halve squares of a raster into its overviews; yield each that is done."""
    if levels:
        yield from _each(partial(_fill, reader, levels, Lock()), squares, progress)


def preview(
    reader: ClassReader, levels: Sequence[Masks], squares: Sequence[Window]
) -> Iterator[Window]:
    """Put single pixels of each square into the coarse overviews, for a first look.

    Of classes only. It takes a fraction of the time of `fill`, which overwrites it.
    """
    if levels:
        yield from _each(partial(_preview, reader, levels, Lock()), squares)


def _each(
    work: Callable[[Window], None],
    squares: Sequence[Window],
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Window]:
    """Work on squares, several at a time; yield each that is done."""
    made = unordered(work, squares, in_flight=min(4, cores()))
    for square, _ in reported(made, len(squares), progress):
        yield square


def _preview(
    reader: ClassReader, levels: Sequence[Masks], lock: Lock, square: Window
) -> None:
    values = read_plain(reader, "classes", square)
    for depth, level in enumerate(levels, start=1):
        if level is not levels[-1] and max(level.grid.height, level.grid.width) > _SEEN:
            continue
        step = 1 << depth
        rows, columns = (
            np.minimum(np.arange(step // 2, n + step // 2, step), n - 1)
            for n in values.shape
        )
        found = np.ascontiguousarray(values[np.ix_(rows, columns)])
        height, width = found.shape
        y, x = square.y >> depth, square.x >> depth
        with lock:
            where = Window(y=y, x=x, height=height, width=width)
            level.patch("classes", where, found)


def _fill(
    reader: ClassReader, levels: Sequence[Masks], lock: Lock, square: Window
) -> None:
    from geoseg.maps.halving import halve_classes, halve_mean

    for name in levels[0].arrays:
        values = read_plain(reader, name, square)
        blank = int(np.iinfo(values.dtype).max)
        halve = halve_classes if name == "classes" else halve_mean
        for depth, level in enumerate(levels, start=1):
            values = halve(values, blank)
            height, width = values.shape
            y, x = square.y >> depth, square.x >> depth
            where = Window(y=y, x=x, height=height, width=width)
            # Chunks of coarse levels are shared by squares: one writer at a time.
            with lock:
                level.patch(name, where, values)


def announce(masks: Masks, levels: Sequence[Masks]) -> None:
    """Tell readers of overviews that are whole: `multiscales` of the store's group.

    Each level notes the checksums of its arrays.
    """
    sums = [{name: _checksum(level, name) for name in level.arrays} for level in levels]
    with edited(masks.path) as group:
        for level, crc in zip(levels, sums, strict=True):
            attributes = group[level.path.rpartition("/")[2]].attrs
            told: Any = attributes["geoseg"]
            attributes["geoseg"] = {**told, "crc32": crc}
        conventions: Any = group.attrs.get("zarr_conventions", [])
        group.attrs["multiscales"] = _layout(masks, levels)
        group.attrs["zarr_conventions"] = [*conventions, _CONVENTION]


def _checksum(level: Masks, name: str) -> int:
    """Return the CRC-32 of an overview's array, square by square."""
    crc = 0
    for window in squares(level.grid, CHUNK):
        crc = crc32(np.ascontiguousarray(level.read(name, window)).data, crc)
    return crc


def damaged_overviews(masks: Masks) -> list[tuple[str, str]]:
    """Return names of overviews that are not as they were written, and what is wrong.

    Those that nobody was told of, as of a view that was killed, are not looked at.
    """
    found = []
    for name in level_names(masks):
        try:
            level = open_masks(f"{masks.path}/{name}")
            told = level.attributes()["geoseg"]["crc32"]
            wrong = [n for n in level.arrays if _checksum(level, n) != told[n]]
            places = list(wrong_coordinates(level))
        except (OSError, ValueError, RuntimeError, KeyError, MasksError) as error:
            found.append((name, f"{name} cannot be read ({first_line(error)})"))
            continue
        found += [(name, f"{name}/{n} differs from its checksum") for n in wrong]
        found += [
            (name, f"{name}/{n} is not the centres of its pixels") for n in places
        ]
    return found


def forget_overviews(masks: Masks, *, remake: bool = False) -> None:
    """Delete a store's overviews, as where what they were made of is made again.

    Args:
        masks: The store.
        remake: Note that it had some; `remake_overviews` makes them again.
    """
    names = [n for n in masks.storage.names("") if n.startswith(OVERVIEW)]
    if "multiscales" in masks.attributes():
        if remake:  # first: what is cut off after this is ended by the next run
            write_record(masks.storage, {**masks.record(), "overviews": True})
        with edited(masks.path) as group:
            told: Any = group.attrs["zarr_conventions"]
            group.attrs["zarr_conventions"] = [c for c in told if c != _CONVENTION]
            del group.attrs["multiscales"]
            for name in names:
                del group[name]
    for name in names:
        masks.storage.remove(name)


def remake_overviews(masks: Masks) -> bool:
    """Make overviews again where a repair deleted them; return whether it had."""
    found = found_record(masks.storage)
    if found is None or not found.get("overviews"):
        return False
    forget_overviews(masks)
    build_overviews(masks)
    record = {k: v for k, v in masks.record().items() if k != "overviews"}
    write_record(masks.storage, record)
    return True


def _layout(masks: Masks, levels: Sequence[Masks]) -> dict[str, Any]:
    names = [
        "classes",
        *(f"{OVERVIEW}{2**d}/classes" for d in range(1, len(levels) + 1)),
    ]
    place = [
        {
            "spatial:transform": list(m.grid.transform)[:6],
            "spatial:shape": [m.grid.height, m.grid.width],
        }
        for m in (masks, *levels)
    ]
    first = {"asset": names[0], **place[0]}
    rest = [
        {
            "asset": name,
            "derived_from": source,
            "transform": {"scale": [2.0, 2.0], "translation": [0.0, 0.0]},
            **where,
        }
        for (source, name), where in zip(pairwise(names), place[1:], strict=True)
    ]
    return {"layout": [first, *rest], "resampling_method": "mode"}
