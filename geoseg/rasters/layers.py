"""One band of one scene, put on the grid of a series when it is first read."""

from __future__ import annotations

import importlib
import os
import time
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from geoseg.core.grid import Grid, Window, aligned
from geoseg.core.text import counted, redact
from geoseg.errors import RasterError, SceneMissingError
from geoseg.rasters.addresses import is_remote
from geoseg.rasters.file import FileHints, RasterFile, open_raster
from geoseg.rasters.file_versions import Versions
from geoseg.rasters.gcps import on_control_points
from geoseg.rasters.gdal import Handles
from geoseg.rasters.mosaic import turned
from geoseg.rasters.nearest import Nearest, whole_factors
from geoseg.rasters.numbers import in_units
from geoseg.rasters.source import Source, SourceBand
from geoseg.rasters.warp import footprint, onto

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from numpy.typing import NDArray

    from geoseg.core.series_options import Resampling
    from geoseg.rasters.quality_bands import QualityKind

Numbers = Literal["item", "baseline", "file"]
_PAUSE: Final = 1.0
"""Seconds after which a file that could not be opened is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A band of a scene, or its quality band: what is needed to open it."""

    scene: str
    """The item's name, for messages."""
    key: str
    """The asset's key in the item."""
    href: str = field(repr=False)
    """What is opened; may hold credentials."""
    numbers: tuple[int, ...] = (1,)
    """Which of the file's bands, 1-based, where it has so many."""
    applied: bool = False
    """Whether the item says that an offset was taken off already, whoever tells one."""
    told_by: Numbers = "file"
    """Who says what numbers mean: the item; its processing baseline, where the file
    does not; or the file, if anyone."""
    scale: float = 1.0
    offset: float = 0.0
    nodata: tuple[float | None, ...] = (None,)
    """As the item tells, of all bands or of each of the file's; what the file tells
    counts more."""
    kind: QualityKind | None = None
    """Of a quality band."""
    classes: bool = False
    """Whether its numbers are classes, of which there is nothing between two."""
    elsewhere: tuple[str, ...] = field(default=(), repr=False)
    """Other addresses of the same file, for messages; may hold credentials."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How the layers of a series are read."""

    grid: Grid | None = None
    """What they are put on."""
    resampling: Resampling = "auto"
    nodata: float | None = None
    """Means nodata in all bands, whatever items and files say."""
    trust: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A layer on the pixels of the grid that it may have."""

    source: Source
    place: Window
    """Which of the grid's pixels those of the source are; may reach outside."""

    def read(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]] | None:
        """Return pixels (band, y, x) and which are valid; None where there are none."""
        shared = self.place.intersection(window)
        if shared is None:
            return None
        values, valid = self.source.read(shared.relative_to(self.place))
        if shared == window:
            return values, valid
        shape = window.height, window.width
        whole = np.zeros((len(values), *shape), values.dtype)
        there = np.zeros(shape, np.bool_)
        at = shared.relative_to(window).slices
        whole[:, *at], there[at] = values, valid
        return whole, there


def open_layer(layer: Layer, reading: Reading, handles: Handles) -> Source:
    """Open a band on its own grid: reflectance as float32, or classes as stored.

    Raises:
        SceneMissingError: Its file cannot be opened, twice.
        RasterError: It is nothing that can be read.
    """
    file = layer_file(layer, reading, handles)
    numbers = [n for n in layer.numbers if n in file.numbers]
    if not numbers and layer.kind is None:
        raise RasterError(
            f"{layer.scene}: its {layer.key} has {counted(len(file.numbers), 'band')}, "
            f"not band {layer.numbers[0]}, of which the item tells"
        )
    numbers = numbers or list(file.numbers[:1])
    file = file.select([file.numbers.index(n) for n in numbers])
    if is_remote(layer.href):  # whose server is not asked again at each read
        file = replace(file, versions=Versions())
    if layer.kind is not None:
        return on_control_points(file, file.control)
    file = file.with_nodata(*layer.nodata)
    own = file.bands[0]
    scale, offset = own.scale, 0.0 if layer.applied else own.offset
    # A baseline tells of whole numbers only: reflectance needs no more of it.
    silent = not own.is_scaled and file.dtype.kind in "iu"
    if layer.told_by == "item" or (layer.told_by == "baseline" and silent):
        scale, offset = layer.scale, layer.offset
    band = SourceBand(name=own.name, scale=scale, offset=offset)
    file = replace(file, bands=(band,))
    return in_units(on_control_points(file, file.control), 1.0, 0.0, np.float32)


def numbers_are_told(layer: Layer, reading: Reading, handles: Handles) -> bool:
    """Whether a band's file says what its numbers mean, or they are in units already.

    Raises:
        SceneMissingError: It cannot be opened, twice.
    """
    file = layer_file(layer, reading, handles)
    scaled = any(
        band.is_scaled
        for band, number in zip(file.bands, file.numbers, strict=True)
        if number in layer.numbers
    )
    return scaled or file.dtype.kind == "f" or file.dtype.itemsize == 1


def layer_file(layer: Layer, reading: Reading, handles: Handles) -> RasterFile:
    """Open the file of a layer, all of its bands, as it is stored.

    Raises:
        SceneMissingError: It cannot be opened, twice.
        RasterError: It is nothing that can be read.
    """
    told = FileHints(
        nodata=None if layer.kind else reading.nodata,
        rule="all" if layer.kind else "any",  # 0 in one of many flags is no nodata
        trust=reading.trust,
        count=max(layer.numbers),
        product=layer.told_by == "file" and layer.kind is None,
    )

    def opened() -> RasterFile:
        return open_raster(layer.href, told, handles=handles, probe=False)

    try:
        return opened()
    except RasterError as error:
        if not str(error).startswith("cannot "):
            raise
    time.sleep(_PAUSE)
    try:
        return opened()
    except RasterError as error:
        raise gone(layer, error) from error


def gone(layer: Layer, error: RasterError) -> SceneMissingError:
    """Return the error that says which scene's file cannot be had."""
    others = ", ".join(map(redact, layer.elsewhere))
    also = f"; its item also names {others}, which is not tried" if others else ""
    return SceneMissingError(
        f"{layer.scene}: its {layer.key} cannot be read ({redact(str(error))}){also}; "
        "give the same command again, or --skip-missing to continue without"
    )


def place_layer(layer: Layer, reading: Reading, handles: Handles) -> Placed:
    """Open a band and put it on the grid.

    Raises:
        RasterError: As `open_layer`; or it cannot be brought onto the grid.
    """
    grid = reading.grid
    assert grid is not None, "only headers are read without"
    source = turned(open_layer(layer, reading, handles), grid)
    exact = aligned(source.grid, grid)
    if exact is not None:
        return Placed(source=source, place=exact)
    try:
        place = footprint(source.grid, grid)
    except RasterError:  # a part of it is out of reach
        place = grid.window
    if (source.grid.crs is None) != (grid.crs is None):
        raise RasterError(
            f"{layer.scene}: only one of the scene and the grid has a CRS: set the "
            "other's with gdal_edit.py -a_srs"
        )
    whole = whole_factors(source.grid, grid)
    classes = layer.kind is not None or layer.classes
    as_is = classes or reading.resampling == "nearest"
    if as_is or (reading.resampling == "auto" and whole):
        return Placed(source=Nearest(source=source, target=grid[place]), place=place)
    return Placed(source=onto(source, grid[place]), place=place)


def most_handles() -> int:
    """Return how many files a thread may keep open, by what the system allows."""
    try:
        system: Any = importlib.import_module("resource")
    except ImportError:  # Windows
        return 64
    allowed = int(system.getrlimit(system.RLIMIT_NOFILE)[0])
    threads = (os.cpu_count() or 1) + 4
    return max(16, min(512, allowed // 2 // threads))


class Opened:
    """What a process has opened of a series; the part that never travels."""

    def __init__(self, limit: int = 64) -> None:
        self._limit = limit
        self.handles = Handles(limit=limit)
        self._lock = Lock()
        self._made: dict[Hashable, Any] = {}
        self._locks: dict[Hashable, Lock] = {}

    def __reduce__(self) -> tuple[type[Opened], tuple[int]]:
        return Opened, (self._limit,)

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:  # noqa: ANN401 - as made
        """Return what is made once for a key; what fails is tried again."""
        with self._lock:
            if key in self._made:
                return self._made[key]
            lock = self._locks.setdefault(key, Lock())
        with lock:
            if key not in self._made:
                self._made[key] = make()
            return self._made[key]


def read_layer(
    placed: Placed, layer: Layer, window: Window
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return a layer's pixels (band, y, x) and which are valid, on the grid.

    Raises:
        SceneMissingError: They cannot be read.
    """
    try:
        found = placed.read(window)
    except RasterError as error:
        if str(error).startswith("cannot "):
            raise gone(layer, error) from error
        raise
    if found is not None:
        return found
    shape = (len(placed.source.bands), window.height, window.width)
    nothing = np.broadcast_to(np.False_, shape[1:])
    return np.broadcast_to(np.zeros((), placed.source.dtype), shape), nothing
