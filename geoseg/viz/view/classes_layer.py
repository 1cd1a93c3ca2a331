"""Classes and confidence as tiles; overviews are made while one looks."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from tempfile import TemporaryDirectory
from threading import Event, Thread, main_thread
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from geoseg.core.classes import Class
from geoseg.core.grid import Window
from geoseg.errors import GeosegError
from geoseg.maps.complete import block_counts
from geoseg.maps.legend import rename
from geoseg.maps.options import ClassesOptions
from geoseg.maps.overviews import (
    COARSEST,
    Pyramid,
    announce,
    create_levels,
    fill,
    open_pyramid,
    preview,
    regions,
)
from geoseg.maps.reader import dtype_of
from geoseg.maps.store import Masks
from geoseg.viz.picture import byte_colors, class_png, encode, object_colours

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from geoseg.core.grid import Grid
    from geoseg.maps.reader import ClassReader

T = TypeVar("T")

TILE = 256
_POLL = 2.0
_WITHOUT = 3
"""So many halvings are read from full resolution, or the coarsest overview."""


def tile_window(z: int, x: int, y: int) -> Window:
    """Return the pixels of a tile; z counts halvings, 0 is full resolution."""
    side = TILE << z
    return Window(y=y * side, x=x * side, height=side, width=side)


@dataclass(slots=True, kw_only=True, eq=False)
class Background:
    """What is made in a thread of its own while a layer is looked at."""

    share: float = 1.0
    """How much of it is made."""
    version: int = 0
    """Grows whenever tiles may have changed."""
    problem: str = ""
    """Why there is none, where making it failed."""
    _ended: Event = field(default_factory=Event)
    _worker: Thread | None = None

    def begin(self) -> None:
        """Begin to make it."""
        self.share = 0.0
        self._worker = Thread(target=self._work, daemon=True, name="overviews")
        self._worker.start()

    def close(self) -> None:
        """Stop making it."""
        self._ended.set()
        if self._worker is not None:
            self._worker.join(timeout=10)

    def make(self) -> None:
        """Make it, until it is done or closed."""
        raise NotImplementedError

    def followed(self, steps: Iterable[T], seconds: float) -> Iterator[T]:
        """Yield steps until closed; now and then tell that tiles may have changed."""
        told = time.monotonic()
        for step in steps:
            if self._ended.is_set():
                return
            yield step
            if time.monotonic() - told > seconds:
                self.version, told = self.version + 1, time.monotonic()
        self.version += 1

    def _work(self) -> None:
        try:
            self.make()
        except (GeosegError, OSError) as error:
            self.problem = str(error)
        except RuntimeError:  # a script ends, and Python takes threads from it
            if main_thread().is_alive():
                raise


@dataclass(slots=True, kw_only=True, eq=False)
class ClassesLayer(Background):
    """A raster of classes that is looked at while its overviews are being made."""

    reader: ClassReader
    pyramid: Pyramid
    ready: bool = True
    """Whether there are overviews, perhaps still being filled."""
    seen: set[int] = field(default_factory=set)
    """Class values in the tiles so far."""

    @property
    def grid(self) -> Grid:
        """Where the pixels are."""
        return self.reader.grid

    @property
    def has_confidence(self) -> bool:
        """Whether there is confidence to be shown."""
        return "confidence" in self.reader.arrays

    def tile(self, z: int, x: int, y: int, hidden: Iterable[int]) -> bytes:
        """Return a tile of classes as PNG, some of them left out."""
        values = self._look("classes", z, x, y)
        self.seen |= set(np.unique(values).tolist()) - {self.pyramid.nodata}
        off = list(hidden)
        if off:
            values = values.copy()
            values[np.isin(values, off)] = self.pyramid.nodata
        return class_png(values, self.pyramid.classes)

    def confidence_tile(self, z: int, x: int, y: int) -> bytes:
        """Return a tile of confidence as PNG, dark where the model was not sure."""
        values = self._look("confidence", z, x, y)
        return encode(byte_colors()[values], "PNG")

    @property
    def has_objects(self) -> bool:
        """Whether there are objects to be shown."""
        return "instances" in self.reader.arrays

    def objects_tile(self, z: int, x: int, y: int) -> bytes:
        """Return a tile with a colour per object as PNG, clear seen from far away."""
        window = tile_window(z, x, y)
        inside = window.intersection(self.grid.window)
        ids = np.zeros((TILE, TILE), np.uint32)
        if inside is not None and z <= _WITHOUT:
            step = 1 << z
            values = self.reader.read("instances", inside)[step // 2 :: step]
            values = values[:, step // 2 :: step]
            ids[: values.shape[0], : values.shape[1]] = values
        return encode(object_colours(ids), "PNG")

    def is_readable(self, depth: int) -> bool:
        """Whether what is halved so often is read in a moment, or will be made."""
        return self.ready or depth <= len(self.pyramid.levels) + _WITHOUT

    def _look(self, name: str, z: int, x: int, y: int) -> NDArray[Any]:
        """Return a tile's values; nothing yet where overviews are to come."""
        window = tile_window(z, x, y)
        if not self.is_readable(z) or window.intersection(self.grid.window) is None:
            dtype = np.uint8 if name == "confidence" else dtype_of(self.reader.classes)
            return np.full((TILE, TILE), np.iinfo(dtype).max, dtype)
        return self.pyramid.look(name, window, TILE, TILE)

    def at(self, row: int, column: int) -> dict[str, Any]:
        """Return what one pixel holds."""
        pixel = Window(y=row, x=column, height=1, width=1)
        value = int(self.pyramid.look("classes", pixel, 1, 1)[0, 0])
        found = self.named(value)
        if self.has_confidence:
            byte = int(self.reader.read("confidence", pixel)[0, 0])
            found["confidence"] = None if byte == 255 else byte / 254
        if self.has_objects:
            found["object"] = int(self.reader.read("instances", pixel)[0, 0])
        return found

    def named(self, value: int) -> dict[str, Any]:
        """Return what a value stands for."""
        found = {c.value: c for c in self.pyramid.classes}.get(value)
        return {
            "class": None if found is None else found.name,
            "color": None if found is None else found.color,
            "value": None if value == self.pyramid.nodata else value,
        }

    @property
    def can_be_named(self) -> bool:
        """Whether names and colours of classes can be changed."""
        return isinstance(self.reader, Masks) and self.reader.is_complete

    def rename(self, value: int, name: str, color: str) -> None:
        """Give a class another name and colour, in the store.

        Raises:
            GeosegError: That is no name or colour, or it cannot be now.
        """
        if not self.can_be_named:
            raise GeosegError("only classes of masks that are complete can be named")
        if self.share < 1:
            raise GeosegError("overviews are being made: name classes in a moment")
        row = Class(value=value, name=name.strip(), color=color)
        names = {str(value): f"{row.name}:{row.color}"}
        self.reader = rename(self.reader.path, ClassesOptions(names=names))
        self.pyramid = replace(self.pyramid, base=self.reader)
        self.version += 1

    def blocks(self) -> tuple[int, int] | None:
        """Return blocks done and in all, of a store that is being written."""
        if not isinstance(self.reader, Masks) or self.reader.is_complete:
            return None
        return block_counts(self.reader)

    def start(self) -> None:
        """Begin to make overviews, if there are none, in the background."""
        self.pyramid = open_pyramid(self.reader)
        if self.blocks() is None and self._is_deep_enough():
            return
        self.ready = False
        self.begin()

    def _is_deep_enough(self) -> bool:
        levels = self.pyramid.levels
        if not levels:
            return max(self.grid.height, self.grid.width) <= COARSEST
        coarsest = levels[-1].grid
        return max(coarsest.height, coarsest.width) <= COARSEST << _WITHOUT

    def make(self) -> None:
        """Make overviews in the store itself, else in a folder that goes with this."""
        levels = self._own_levels()
        if levels is None:
            with TemporaryDirectory(prefix="geoseg-overviews-") as folder:
                self._make_in(create_levels(self.reader, folder))
                self._ended.wait()
        elif self._make_in(levels):
            assert isinstance(self.reader, Masks)
            announce(self.reader, levels)

    def _own_levels(self) -> tuple[Masks, ...] | None:
        """Create overviews in a complete store; None where it cannot be written to."""
        if not isinstance(self.reader, Masks) or not self.reader.is_complete:
            return None
        try:
            return create_levels(self.reader, self.reader.path, self.reader.zarr_format)
        except OSError:
            return None

    def _make_in(self, levels: tuple[Masks, ...]) -> bool:
        """Fill overviews, and keep up with a store being written; False: cut off."""
        self.pyramid = Pyramid(base=self.reader, levels=levels)
        self.ready = True
        self._preview()
        known: set[tuple[int, int]] = set()
        while not self._ended.is_set():
            live = self.blocks() is not None
            touched = None
            if live:
                assert isinstance(self.reader, Masks)
                done = self.reader.done()
                touched, known = self._windows(done - known), done
            self._fill(regions(self.grid, touched))
            if not live:
                return not self._ended.is_set()
            self._ended.wait(_POLL)
        return False

    def _preview(self) -> None:
        """Show something of everything at once; of what is being written, nothing."""
        if self.blocks() is not None:
            return
        made = preview(self.reader, self.pyramid.levels, regions(self.grid))  # type: ignore[arg-type]
        for _ in self.followed(made, seconds=0.3):
            pass

    def _fill(self, squares: list[Window]) -> None:
        made = fill(self.reader, self.pyramid.levels, squares)  # type: ignore[arg-type]
        steps = self.followed(made, seconds=0.5) if squares else ()
        for done, _ in enumerate(steps, start=1):
            self.share = done / len(squares)
        self.share = 1.0

    def _windows(self, blocks: Iterable[tuple[int, int]]) -> list[Window]:
        assert isinstance(self.reader, Masks)
        side, whole = self.reader.record()["block"], self.reader.grid.window
        squares = (
            Window(y=r * side, x=c * side, height=side, width=side) for r, c in blocks
        )
        return [w for w in (s.intersection(whole) for s in squares) if w is not None]
