"""From a map of classes to its objects: components, watersheds.

A map is split window by window, by a model like any other: its raster is the masks, and
its windows are stitched as those of a network. With windows that overlap by a pixel,
connected components come out exactly; a watershed needs to see a whole object, and what
is larger than the overlap is joined where the windows agree.

Beucher and Lantuéjoul (1979), "Use of watersheds in contour detection"; with distances
as the relief, and one basin per peak of the distance.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from geoseg.core.classes import Class, nodata_value
from geoseg.core.extras import require
from geoseg.core.grid import Grid, Window
from geoseg.errors import GeosegError
from geoseg.models.card import Band, Card
from geoseg.models.contract import Objects
from geoseg.rasters.open import SourceBand

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.maps.store import Masks

SplitKind = Literal["components", "watershed", "boundary"]
_WATERSHED_OVERLAP = 256
_SPECS = (
    "components, components:8 (neighbours), watershed:5 (pixels between seeds), or "
    "boundary:NAME (the class that separates objects)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How a map is split into objects."""

    kind: SplitKind
    """Connected components; watershed on the distance to the class's edge; or
    components of the class, grown into the class that separates them."""
    neighbours: Literal[4, 8] = 4
    """Which pixels are connected."""
    distance: int = 5
    """Least distance between the seeds of a watershed, in pixels."""
    boundary: int | None = None
    """Value of the class that separates objects."""

    @property
    def overlap(self) -> int:
        """What windows must share, in pixels, at least."""
        return 2 if self.kind == "components" else _WATERSHED_OVERLAP


def method(spec: str, classes: Sequence[Class]) -> Method:
    """Return the method that a text such as `watershed:8` stands for.

    Raises:
        GeosegError: It stands for none.
    """
    kind, _, option = spec.partition(":")
    if kind == "components" and option in {"", "4", "8"}:
        return Method(kind="components", neighbours=8 if option == "8" else 4)
    if kind == "watershed" and (not option or (option.isdigit() and int(option) > 0)):
        return Method(kind="watershed", distance=int(option or 5))
    if kind == "boundary":
        return Method(kind="boundary", boundary=class_values([option], classes)[0])
    raise GeosegError(f"{spec!r} is not a way to find objects: use {_SPECS}")


def class_values(names: Sequence[str], classes: Sequence[Class]) -> list[int]:
    """Return the values of classes by their names.

    Raises:
        GeosegError: The table has no such class.
    """
    table = {c.name: c.value for c in classes}
    missing = [n for n in names if n not in table]
    if missing:
        raise GeosegError(
            f"there is no class {missing[0]!r}, only {', '.join(map(repr, table))}"
        )
    return [table[n] for n in names]


def things_of(card: Card, asked: Sequence[str] | None) -> tuple[int, ...]:
    """Return the values of the classes whose objects are counted.

    Args:
        card: The card of a semantic model.
        asked: Names, or None for what the card says; of two classes it is the second.

    Raises:
        GeosegError: Neither the user nor the card says.
    """
    names = asked or card.things
    if names:
        return tuple(class_values(names, card.classes))
    if len(card.classes) == 2:
        return (card.classes[1].value,)
    raise GeosegError(
        f"which of the classes {', '.join(c.name for c in card.classes)} are counted "
        "as objects? say so with --things, such as "
        f"--things {shlex.quote(card.classes[-1].name)}"
    )


@dataclass(frozen=True, slots=True)
class MapSource:
    """Masks as a raster: their classes, and their confidence where it is stored."""

    masks: Masks

    @property
    def name(self) -> str:
        """Where they are."""
        return self.masks.path

    @property
    def grid(self) -> Grid:
        """Where their pixels are."""
        return self.masks.grid

    @property
    def notes(self) -> tuple[str, ...]:
        """Nothing is to be guessed of a map of ours."""
        return ()

    @property
    def _names(self) -> list[str]:
        return [n for n in ("classes", "confidence") if n in self.masks.arrays]

    @property
    def bands(self) -> tuple[SourceBand, ...]:
        """`classes`, and `confidence` where it is stored."""
        return tuple(SourceBand(name=n) for n in self._names)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the classes."""
        return np.dtype(np.uint8 if self.masks.nodata == 255 else np.uint16)

    @property
    def identity(self) -> Mapping[str, Any]:
        """What says that it is the same map."""
        return {"masks": self.masks.path, "run": self.masks.run}

    def read(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read a window: (band, y, x) in the dtype of the classes, (y, x) valid."""
        bands = [self.masks.read(n, window).astype(self.dtype) for n in self._names]
        return np.stack(bands), bands[0] != self.masks.nodata

    def select(self, bands: Sequence[int]) -> MapSource:
        """Return itself: all of its bands are always wanted."""
        assert list(bands) == list(range(len(self._names)))
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Splitting:
    """What becomes of a map when it is complete: the objects of some classes."""

    spec: str
    """The method, as it was asked for."""
    method: Method
    """The method."""
    things: tuple[int, ...]
    """Values of the classes whose objects are counted."""


def splitter_card(
    classes: Sequence[Class], *, confidence: bool, cell: int, method: Method
) -> Card:
    """Return the card of the model that splits a map.

    Args:
        classes: The map's class table.
        confidence: Whether the map has it.
        cell: Side of a cell in pixels.
        method: How it is split; tells what windows share.
    """
    bands = ("classes", "confidence") if confidence else ("classes",)
    overlap = min(method.overlap, cell // 2 * 2)
    return Card(
        name=method.kind,
        bands=tuple(Band(name=n) for n in bands),
        classes=tuple(classes),
        task="instance",
        window=cell + overlap,
        overlap=overlap,
        multiple=1,
        fill=float(nodata_value(classes)),
    )


class Splitter:
    """Finds the objects of windows of a map."""

    batch = 1
    device = "cpu"
    precision = "own"

    def __init__(self, card: Card, method: Method, things: Sequence[int]) -> None:
        self.card, self.method, self.things = card, method, tuple(things)

    def predict(self, pixels: NDArray[np.generic]) -> list[Objects]:
        """Split windows (n, band, y, x): classes, and confidence where there is."""
        return [self._split(cast("NDArray[np.integer[Any]]", w)) for w in pixels]

    def _split(self, window: NDArray[np.integer[Any]]) -> Objects:
        labels = np.zeros(window.shape[1:], np.int32)
        classes: list[int] = []
        for value in self.things:
            found = split(window[0], value, self.method)
            n = int(found.max()) if found.size else 0
            free = (found > 0) & (labels == 0)
            labels[free] = found[free] + len(classes)
            classes += [value] * n
        scores = np.ones(len(classes), np.float64)
        if len(window) > 1:
            flat = labels.ravel()
            sums = np.bincount(flat, window[1].ravel(), len(classes) + 1)
            sizes = np.bincount(flat, minlength=len(classes) + 1)
            scores = (sums[1:] / np.maximum(sizes[1:], 1) / 254).clip(0, 1)
        return Objects(
            labels=labels, classes=np.array(classes, np.int64), scores=scores
        )


def split(
    classes: NDArray[np.integer[Any]], value: int, method: Method
) -> NDArray[np.int32]:
    """Return the objects (y, x) 1 … n of one class of a map (y, x), 0 elsewhere."""
    from scipy import ndimage  # most plans need none of it

    structure = ndimage.generate_binary_structure(2, 2 if method.neighbours == 8 else 1)
    mask = classes == value
    seeds, _ = ndimage.label(mask, structure, output=np.int32)
    if method.kind == "components" or not mask.any():
        return np.asarray(seeds)
    segmentation, feature = _skimage()
    if method.kind == "boundary":
        edge = classes == method.boundary
        relief = ndimage.distance_transform_edt(~mask)
        grown = segmentation.watershed(relief, seeds, mask=mask | edge)
        return np.asarray(grown, np.int32)
    if mask.all():
        return np.ones(mask.shape, np.int32)
    distance = ndimage.distance_transform_edt(mask)
    smooth = ndimage.gaussian_filter(distance, method.distance / 4) * mask
    peaks = feature.peak_local_max(
        smooth, min_distance=method.distance, labels=seeds, exclude_border=False
    )
    markers = np.zeros(mask.shape, np.int32)
    markers[tuple(peaks[np.lexsort(peaks.T[::-1])].T)] = np.arange(1, len(peaks) + 1)
    return np.asarray(segmentation.watershed(-smooth, markers, mask=mask), np.int32)


def _skimage() -> tuple[Any, Any]:
    segmentation, feature = (
        require(f"skimage.{name}", what="a watershed", extra="instances")
        for name in ("segmentation", "feature")
    )
    return segmentation, feature
