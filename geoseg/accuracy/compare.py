"""Compare two class maps on any two grids: what one says where the other says what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.accuracy.evaluation import empty_table
from geoseg.core.classes import Class, nodata_value
from geoseg.core.discretion import discreet
from geoseg.core.files import write_text
from geoseg.core.geodesy import PixelAreas, pixel_areas
from geoseg.core.grid import Window, squares
from geoseg.core.lookup import look_up, nearest_pixels
from geoseg.core.text import percent, redact
from geoseg.errors import GeosegError
from geoseg.execution.progress import reported
from geoseg.maps.complete import incomplete
from geoseg.maps.open import ClassMap, open_classes
from geoseg.maps.reader import ClassReader, block_side, read_plain

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from rich.table import Table

_MOST_PAIRS = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """What two maps say of the same ground; areas are true, in m²."""

    one: str
    """The first map, on whose pixels both are compared."""
    other: str
    """The second map."""
    rows: tuple[Class, ...]
    """Classes of the first map."""
    columns: tuple[Class, ...]
    """Classes of the second map."""
    pixels: NDArray[np.int64]
    """(row, column) pixels of the first map; those without a class in either are out.
    """
    areas_m2: NDArray[np.float64]
    """(row, column) their true area; NaN where the first map has no place on Earth."""
    only_one: int
    """Pixels that have a class in the first map only."""
    only_other: int
    """Pixels that have a class in the second map only."""
    notes: tuple[str, ...] = ()
    """What to know when reading the figures."""

    def __repr__(self) -> str:
        one, other = (Path(redact(at)).name for at in (self.one, self.other))
        return f"<Comparison of {one} with {other}: {percent(self.agreement)} agree>"

    @property
    def agreement(self) -> float:
        """Share of the area in which both say the same name, whatever its case.

        Of pixels where areas are unknown; NaN where nothing was compared.
        """
        weights = self.areas_m2 if np.isfinite(self.areas_m2).all() else self.pixels
        names = [[c.name.casefold() for c in cs] for cs in (self.rows, self.columns)]
        same = np.equal.outer(*(np.array(n, object) for n in names)).astype(bool)
        total = float(weights.sum())
        return float(weights[same].sum()) / total if total else float("nan")

    def to_dataframe(self, *, areas: bool = False) -> pd.DataFrame:
        """Return the matrix by class names: pixels, or true areas in m²."""
        import pandas as pd

        table = pd.DataFrame(
            self.areas_m2 if areas else self.pixels,
            index=pd.Index([c.name for c in self.rows], name="this"),
            columns=pd.Index([c.name for c in self.columns], name="other"),
        )
        table.attrs["agreement"] = self.agreement
        return table

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON has it."""
        known = bool(np.isfinite(self.areas_m2).all())
        return {
            "map": self.one,
            "other": self.other,
            "rows": [c.name for c in self.rows],
            "columns": [c.name for c in self.columns],
            "pixels": self.pixels.tolist(),
            "areas_m2": self.areas_m2.tolist() if known else None,
            "agreement": self.agreement if self.pixels.any() else None,
            "pixels_only_in_map": self.only_one,
            "pixels_only_in_other": self.only_other,
            "notes": list(self.notes),
        }

    def to_csv(self, path: str | Path) -> Path:
        """Write a row for each pair of classes that meet: names, pixels, area."""
        import pandas as pd

        i, j = np.nonzero(self.pixels)
        ours, theirs = ([c.name for c in cs] for cs in (self.rows, self.columns))
        table = {
            "map": np.array(ours, object)[i],
            "other": np.array(theirs, object)[j],
            "pixels": self.pixels[i, j],
            "area_m2": self.areas_m2[i, j],
        }
        return write_text(path, pd.DataFrame(table).to_csv(index=False))

    def table(self) -> Table:
        """Return the matrix for a terminal (rich): km², or pixels without areas."""
        known = bool(np.isfinite(self.areas_m2).all())
        values = self.areas_m2 * 1e-6 if known else self.pixels.astype(np.float64)
        unit = "km²" if known else "pixels"
        title = f"rows: {self.one}, columns: {self.other}; {unit}"
        table = empty_table(title, "", (c.name for c in self.columns))
        for c, row in zip(self.rows, values.tolist(), strict=True):
            digits = 3 if known else 0
            table.add_row(c.name, *(f"{v:,.{digits}f}" for v in row))
        return table


@discreet
def compare(
    one: ClassMap,
    other: ClassMap,
    *,
    block: int = 2048,
    partial: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Count what one map says where another says what, with true areas.

    The maps may be in any CRS and on any grid: the second is looked up at the pixel
    centres of the first, as are references of `evaluate`. Compare the finer with the
    coarser one if every pixel of both is to count.

    Args:
        one: a class map of any kind; its pixels are compared.
        other: another.
        block: side of a block in pixels; changes speed and memory, not the figures.
        partial: take masks that are not complete as they are, with a warning.
        progress: called with blocks done and blocks in all.

    Raises:
        GeosegError: one of them cannot be read, or they do not overlap.
    """
    ours, theirs = (open_classes(m, partial=partial) for m in (one, other))
    grid = ours.grid
    if nearest_pixels(grid, grid.window, theirs.grid, only_span=True).span is None:
        raise GeosegError(
            f"{redact(ours.path)} and {redact(theirs.path)} do not overlap: they span "
            f"{grid.bounds} and {theirs.grid.bounds}, each in its CRS"
        )
    areas = pixel_areas(grid)
    shape = len(ours.classes) + 1, len(theirs.classes) + 1
    if shape[0] * shape[1] > _MOST_PAIRS:
        raise GeosegError(
            f"{len(ours.classes):,} by {len(theirs.classes):,} classes are too many "
            f"pairs to compare: at most {_MOST_PAIRS:,} can be"
        )
    counts, units = np.zeros((2, shape[0] * shape[1]), np.int64)
    windows = squares(grid, block_side(ours, block))
    for window in reported(windows, len(windows), progress):
        pairs = _pairs(ours, theirs, window)
        counts += np.bincount(pairs.ravel(), minlength=counts.size)
        units += _areas(areas, pairs, window, units.size)
    pixels = counts.reshape(shape)
    known = units.reshape(shape)[:-1, :-1]
    return Comparison(
        one=redact(ours.path),
        other=redact(theirs.path),
        rows=tuple(ours.classes),
        columns=tuple(theirs.classes),
        pixels=pixels[:-1, :-1],
        areas_m2=np.full(known.shape, np.nan) if areas is None else areas.m2(known),
        only_one=int(pixels[:-1, -1].sum()),
        only_other=int(pixels[-1, :-1].sum()),
        notes=tuple(
            f"{redact(reader.path)} is {lacks}"
            for reader in (ours, theirs)
            if (lacks := incomplete(reader))
        ),
    )


def _pairs(ours: ClassReader, theirs: ClassReader, window: Window) -> NDArray[np.int64]:
    """Return a number for each pixel's pair of places in the class tables, (y, x)."""
    there = look_up(
        partial(read_plain, theirs, "classes"), theirs.grid, ours.grid, window,
        nothing=nodata_value(theirs.classes), dtype=np.uint16,
    )  # fmt: skip
    here = _places(ours.classes)[read_plain(ours, "classes", window)]
    pairs = here * (len(theirs.classes) + 1) + _places(theirs.classes)[there]
    return np.asarray(pairs, np.int64)


def _places(classes: Sequence[Class]) -> NDArray[np.int64]:
    """Return the place in the table by class value; the one after it for all others."""
    table = np.full(65536, len(classes), np.int64)
    table[[c.value for c in classes]] = np.arange(len(classes))
    return table


def _areas(
    areas: PixelAreas | None, pairs: NDArray[np.int64], window: Window, size: int
) -> NDArray[np.int64]:
    if areas is None:
        return np.zeros(size, np.int64)
    return areas.by_value(pairs, window, size)
