"""Do seams show? Label changes on the borders of blocks and windows, and near them.

On land, the label changes as often between two columns that a border happens to run
between as between any two. Where a map was put together with seams, it changes more
often there. So changes are counted for every line between two rows or two columns, and
the lines on borders are compared with those a few pixels away, on the same land.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

REACH = 12
"""How many lines on either side a border is compared with."""
_NOTABLE = 0.05
_FACTOR = 4.0


@dataclass(frozen=True, slots=True, eq=False)
class LineCounts:
    """Pairs of neighbouring pixels across each line between rows or columns."""

    changes: NDArray[np.int64]
    """(lines,) pairs of two classes; line i is between i and i + 1."""
    pairs: NDArray[np.int64]
    """(lines,) pairs in which both are valid."""

    @staticmethod
    def empty(lines: int) -> LineCounts:
        """Return counts of nothing yet."""
        return LineCounts(np.zeros(lines, np.int64), np.zeros(lines, np.int64))

    def add(self, first: int, other: LineCounts) -> None:
        """Add counts whose first line is line `first` of these."""
        lines = slice(first, first + len(other.changes))
        self.changes[lines] += other.changes
        self.pairs[lines] += other.pairs


def count_changes(labels: NDArray[Any], nodata: int) -> tuple[LineCounts, LineCounts]:
    """Count label changes between neighbouring rows, and between columns.

    Args:
        labels: (y, x) class values.
        nodata: The value that is no class.

    Returns:
        Of the y - 1 lines between rows, and of the x - 1 lines between columns.
    """
    rows = _across(labels[:-1], labels[1:], nodata, axis=1)
    columns = _across(labels[:, :-1], labels[:, 1:], nodata, axis=0)
    return rows, columns


def _across(
    one: NDArray[Any], other: NDArray[Any], nodata: int, axis: int
) -> LineCounts:
    valid = (one != nodata) & (other != nodata)
    changed = valid & (one != other)
    return LineCounts(
        np.count_nonzero(changed, axis=axis).astype(np.int64),
        np.count_nonzero(valid, axis=axis).astype(np.int64),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamCheck:
    """How often the label changes on borders, and on lines near them."""

    name: str
    """What the borders are of, such as `windows`."""
    period: int
    """Pixels from one border to the next."""
    borders: int
    """How many there are, of rows and columns together."""
    profile: tuple[float, ...]
    """Rate of changes on lines -REACH … REACH pixels from a border; NaN: no pairs."""

    @property
    def rate(self) -> float:
        """Changes per pair of pixels, on borders."""
        return self.profile[REACH]

    @property
    def elsewhere(self) -> float:
        """The median rate on the lines beside them."""
        return float(np.median(self._beside))

    @property
    def excess(self) -> float:
        """How much more often it changes on borders; 0.1 is a tenth more."""
        if not self.elsewhere > 0:
            return np.inf if self.rate > 0 else 0.0
        return self.rate / self.elsewhere - 1

    @property
    def stands_out(self) -> bool:
        """Whether borders show: more than 5 % and four times the usual spread above.

        The spread is that of the lines beside them, by its median deviation (scaled to
        the standard deviation of a normal distribution).
        """
        spread = 1.4826 * float(np.median(np.abs(self._beside - self.elsewhere)))
        above = self.rate - self.elsewhere
        return bool(self.excess > _NOTABLE and above > _FACTOR * spread)

    @property
    def _beside(self) -> NDArray[np.float64]:
        lines = np.array(self.profile)
        return np.delete(lines, (REACH - 1, REACH, REACH + 1))


def compare_borders(
    name: str, counts: Iterable[LineCounts], period: int
) -> SeamCheck | None:
    """Compare borders, which lie every `period` pixels from the first, with elsewhere.

    Args:
        name: What the borders are of.
        counts: Of lines between rows, and of lines between columns.
        period: Pixels from one border to the next.

    Returns:
        The check, or None where there is no border far enough inside the raster, or
        borders are too close to one another to have lines beside them.
    """
    if period <= 2 * REACH:
        return None
    offsets = np.arange(-REACH, REACH + 1)
    changes, pairs = np.zeros(len(offsets)), np.zeros(len(offsets))
    borders = 0
    for count in counts:
        lines = np.arange(period - 1, len(count.changes) - REACH, period)
        around = lines[:, None] + offsets[None, :]
        changes += count.changes[around].sum(axis=0)
        pairs += count.pairs[around].sum(axis=0)
        borders += len(lines)
    if not borders or not pairs.all():
        return None
    profile = tuple((changes / pairs).tolist())
    return SeamCheck(name=name, period=period, borders=borders, profile=profile)
