"""What every class map offers to those who read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from geoseg.core.classes import nodata_value
from geoseg.core.grid import Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.core.classes import Class
    from geoseg.core.grid import Grid


@runtime_checkable
class ClassReader(Protocol):
    """What can be vectorized: masks, a class raster. A recipe, not a handle."""

    @property
    def path(self) -> str:
        """Where it came from, for messages; `in memory` where from no file."""

    @property
    def grid(self) -> Grid:
        """Where its pixels are."""

    @property
    def classes(self) -> tuple[Class, ...]:
        """Its class table."""

    @property
    def nodata(self) -> int | None:
        """The value that is no class, or None where every pixel has one."""

    @property
    def chunk(self) -> int:
        """Side of the squares it is stored in, in pixels."""

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of its arrays; `classes`, perhaps `confidence`."""

    def attributes(self) -> dict[str, Any]:
        """Return what is noted of it; nothing where geoseg did not make it."""

    def read(self, name: str, window: Window) -> NDArray[np.generic]:
        """Return the pixels of an array in a window inside the grid."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DerivedReader:
    """A class map made of another; what a kind does not change is the other's."""

    base: ClassReader
    """What it is made of."""

    @property
    def path(self) -> str:
        """Where that came from."""
        return self.base.path

    @property
    def grid(self) -> Grid:
        """Where its pixels are."""
        return self.base.grid

    @property
    def classes(self) -> tuple[Class, ...]:
        """Its class table."""
        return self.base.classes

    @property
    def nodata(self) -> int | None:
        """The value that is no class, if any."""
        return self.base.nodata

    @property
    def chunk(self) -> int:
        """Side of the squares it is stored in, in pixels."""
        return self.base.chunk

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of its arrays."""
        return self.base.arrays

    def attributes(self) -> dict[str, Any]:
        """Return what is noted of what it is made of."""
        return self.base.attributes()

    def read(self, name: str, window: Window) -> NDArray[Any]:
        """Return the pixels of an array in a window inside the grid."""
        return self.base.read(name, window)


def dtype_of(classes: Sequence[Class]) -> type[np.unsignedinteger[Any]]:
    """Return the dtype that holds the classes and their nodata."""
    return np.uint8 if nodata_value(classes) == 255 else np.uint16


def block_side(reader: ClassReader, block: int = 2048) -> int:
    """Return the side of squares to read: whole chunks, so none is decoded twice."""
    return max(1, block // reader.chunk) * reader.chunk


def read_plain(reader: ClassReader, name: str, window: Window) -> NDArray[Any]:
    """Read a window as masks of geoseg have it: unsigned, nodata 255 or 65535."""
    values = reader.read(name, window)
    if name == "confidence":
        return values
    blank = nodata_value(reader.classes)
    plain = values.astype(dtype_of(reader.classes), copy=False)
    if reader.nodata is not None and reader.nodata != blank:
        plain = np.where(values == reader.nodata, plain.dtype.type(blank), plain)
    return plain
