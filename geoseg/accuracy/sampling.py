"""Where to look: probability samples of a map, to be labelled and then evaluated.

Every pixel has a pseudo-random number that depends on the seed and its place alone; the
sample is the pixels with the smallest numbers. So it is drawn in one pass over the map,
without replacement, and does not depend on blocks or workers.

Olofsson et al. (2014), "Good practices for estimating area and assessing accuracy of
land change", Remote Sensing of Environment 148, 42-57, for designs and allocation;
Cochran (1977), "Sampling techniques", for Neyman's allocation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from geoseg.core.classes import Class
from geoseg.core.grid import Window, squares
from geoseg.errors import GeosegError
from geoseg.maps.store import Masks, open_masks

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

SampleDesign = Literal["stratified", "systematic", "simple"]
Allocation = Literal["proportional", "equal", "neyman"]

_BLOCK = 2048


def sample(
    masks: str | Path | Masks,
    out: str | Path,
    *,
    design: SampleDesign = "stratified",
    n: int | None = 500,
    allocation: Allocation = "proportional",
    minimum: int = 0,
    expected: Mapping[str, float] | None = None,
    standard_error: float = 0.01,
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw a probability sample of a map's pixels, ready to be labelled in QGIS.

    The GeoPackage's points lie on pixel centres, in random order, with an empty column
    `class` to fill by a list of the map's classes. Design, stratum and the stratum's
    size travel along, hidden from the form, so that `evaluate` picks the estimator.

    Args:
        masks: the masks' folder or URL, or an open store.
        out: the GeoPackage to write.
        design: `stratified`, at random in each class of the map; `simple`, at random
            over the whole map; `systematic`, on a square grid with a random start.
        n: how many points; None computes it from `expected` and `standard_error`. A
            systematic sample comes close to it.
        allocation: how a stratified sample is shared: by area; the same for each class;
            or, Neyman, by area and by how uncertain a class is, from `expected`.
        minimum: at least so many points in each class (stratified).
        expected: user's accuracy that is expected of each class, by name.
        standard_error: of overall accuracy, to compute `n` for.
        seed: another seed, another sample; the same seed, the same sample.
        overwrite: replace a file that is there.
        progress: called with blocks done and blocks in all.

    Returns:
        The file written.

    Raises:
        GeosegError: numbers that do not go together, or a file that is there.
    """
    from geoseg.accuracy.sample_form import write_points

    store = masks if isinstance(masks, Masks) else open_masks(str(masks))
    path = Path(out)
    if path.suffix.lower() != ".gpkg" or not path.parent.is_dir():
        raise GeosegError(
            f"{path} must end in .gpkg and lie in a folder that is there: the form "
            "to label it travels inside a GeoPackage"
        )
    if path.exists() and not overwrite:
        raise GeosegError(f"{path} exists: choose another name, or overwrite it")
    if n is not None and n < 1:
        raise GeosegError(f"a sample of {n} points cannot be drawn: ask for 1 or more")
    accuracies = _accuracies(store.classes, expected)
    drawn = _Draw(store, seed, _most(design, n), progress).run()
    sizes = drawn.sizes
    if not sizes.any():
        raise GeosegError(f"{store.path} holds no valid pixel to sample")
    total = n or sample_size(sizes, accuracies, standard_error=standard_error)
    if design == "stratified":
        shares = allocate(sizes, total, allocation, accuracies, minimum=minimum)
        index, stratum = drawn.per_class(shares)
    elif design == "simple":
        index, stratum = drawn.over_all(total)
    else:
        index, stratum = _systematic(store, total, int(sizes.sum()), seed)
    order = np.argsort(_keys(index, seed + 1), kind="stable")
    return write_points(store, path, index[order], stratum[order], sizes, design=design)


def sample_size(
    sizes: ArrayLike, expected: ArrayLike, *, standard_error: float = 0.01
) -> int:
    """Return how many points give overall accuracy a standard error.

    Equation 13 of Olofsson et al. (2014), for a stratified sample of a large map.

    Args:
        sizes: (class,) mapped pixels or area.
        expected: (class,) user's accuracy that is expected.
        standard_error: of overall accuracy.
    """
    weights = np.asarray(sizes, float) / np.sum(sizes)
    users = np.asarray(expected, float)
    if not 0 < standard_error < 1:
        raise GeosegError(f"standard error {standard_error} is not between 0 and 1")
    spread = float(weights @ np.sqrt(users * (1 - users)))
    return max(2, int(np.ceil((spread / standard_error) ** 2 - 1e-9)))


def allocate(
    sizes: ArrayLike,
    n: int,
    allocation: Allocation,
    expected: ArrayLike | None = None,
    *,
    minimum: int = 0,
) -> NDArray[np.int64]:
    """Share n points among classes; they add up to n where that many pixels exist.

    Args:
        sizes: (class,) pixels; classes without any get no points.
        n: points in all.
        allocation: `proportional`, `equal` or `neyman`.
        expected: (class,) user's accuracy, for `neyman`.
        minimum: at least so many in each class; what that takes is taken from the
            others by their share.

    Raises:
        GeosegError: the minimum does not fit into n.
    """
    pixels = np.asarray(sizes, float)
    if allocation == "equal":
        weights = (pixels > 0).astype(float)
    elif allocation == "proportional":
        weights = pixels
    elif expected is None:
        raise GeosegError("Neyman's allocation needs the expected user's accuracies")
    else:
        users = np.asarray(expected, float)
        weights = pixels * np.sqrt(users * (1 - users))
    least = np.minimum(minimum, pixels)
    if least.sum() > n:
        raise GeosegError(
            f"a minimum of {minimum} in each of {int((pixels > 0).sum())} classes "
            f"needs {int(least.sum())} points, more than the {n} asked for"
        )
    return _whole(_shares(weights, n, least, pixels), n, pixels)


def _shares(
    weights: NDArray[np.float64],
    n: int,
    least: NDArray[np.float64],
    most: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Share n by weight within bounds: fix what is out of bounds, share the rest."""
    shares = np.zeros(len(weights))
    free = most > 0
    while free.any():
        rest = n - shares[~free].sum()
        total = weights[free].sum()
        part = weights / total if total > 0 else free / free.sum()
        shares[free] = (rest * part)[free]
        low, high = free & (shares < least), free & (shares > most)
        # Fix one side at a time, the one that is further out, or both can overshoot.
        short = (least - shares)[low].sum()
        over = (shares - most)[high].sum()
        if not low.any() and not high.any():
            break
        fixed = low if short >= over else high
        shares[fixed] = (least if short >= over else most)[fixed]
        free &= ~fixed
    return shares


def _whole(
    shares: NDArray[np.float64], n: int, most: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Round by the largest remainder, so that the sum stays."""
    whole = np.floor(shares + 1e-9)
    left = int(min(n, most.sum()) - whole.sum())
    order = np.argsort(-(shares - whole), kind="stable")
    for i in order[most[order] > whole[order]][:left]:
        whole[i] += 1
    return whole.astype(np.int64)


def _accuracies(
    classes: Sequence[Class], expected: Mapping[str, float] | None
) -> NDArray[np.float64]:
    """Return the expected user's accuracy by class; 0.8 where nothing is expected."""
    given = {name.casefold(): value for name, value in (expected or {}).items()}
    unknown = given.keys() - {c.name.casefold() for c in classes}
    if unknown:
        raise GeosegError(
            f"the map has no class {', '.join(sorted(unknown))}; it has "
            f"{', '.join(c.name for c in classes)}"
        )
    wrong = {name: u for name, u in given.items() if not 0 <= u <= 1}
    if wrong:
        raise GeosegError(f"expected accuracies {wrong} are not between 0 and 1")
    return np.array([given.get(c.name.casefold(), 0.8) for c in classes])


def _most(design: SampleDesign, n: int | None) -> int:
    """Return how many candidates to keep in each class."""
    if design not in ("stratified", "systematic", "simple"):
        raise GeosegError(
            f"design {design!r} is none of stratified, systematic, simple"
        )
    if design == "systematic":
        return 0
    return 250_000 if n is None else n


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Drawn:
    """The candidates of each class: the pixels with the smallest numbers."""

    sizes: NDArray[np.int64]
    """(class,) pixels."""
    candidates: tuple[tuple[NDArray[np.uint64], NDArray[np.int64]], ...]
    """By class: numbers and pixel indices, by number."""

    def per_class(
        self, shares: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return pixel indices and strata of so many pixels of each class."""
        found = [i[:k] for (_, i), k in zip(self.candidates, shares, strict=True)]
        strata = [np.full(len(f), s) for s, f in enumerate(found)]
        return np.concatenate(found), np.concatenate(strata).astype(np.int64)

    def over_all(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return pixel indices of n pixels of any class; the stratum is -1."""
        keys = np.concatenate([k for k, _ in self.candidates])
        index = np.concatenate([i for _, i in self.candidates])
        first = np.lexsort((index, keys))[:n]
        return index[first], np.full(len(first), -1)


class _Draw:
    """One pass over the map."""

    def __init__(
        self,
        masks: Masks,
        seed: int,
        most: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._masks, self._seed, self._most = masks, seed, most
        self._progress = progress

    def run(self) -> _Drawn:
        masks = self._masks
        side = max(1, _BLOCK // masks.chunk) * masks.chunk
        windows = list(squares(masks.grid, side))
        sizes = np.zeros(len(masks.classes), np.int64)
        none = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        best = [none for _ in masks.classes]
        for done, window in enumerate(windows, start=1):
            values = masks.read("classes", window)
            for s, c in enumerate(masks.classes):
                y, x = np.nonzero(values == c.value)
                sizes[s] += len(y)
                if self._most and len(y):
                    best[s] = self._smallest(best[s], window, y, x)
            if self._progress is not None:
                self._progress(done, len(windows))
        return _Drawn(sizes=sizes, candidates=tuple(best))

    def _smallest(
        self,
        best: tuple[NDArray[np.uint64], NDArray[np.int64]],
        window: Window,
        y: NDArray[np.intp],
        x: NDArray[np.intp],
    ) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        index = (y + window.y) * self._masks.grid.width + (x + window.x)
        keys = _keys(index, self._seed)
        if len(best[0]) == self._most:
            low = keys <= best[0][-1]
            keys, index = keys[low], index[low]
        keys = np.concatenate([best[0], keys])
        index = np.concatenate([best[1], index])
        first = np.lexsort((index, keys))[: self._most]
        return keys[first], index[first]


def _keys(index: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """Return a pseudo-random number for each pixel.

    SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
    generators", OOPSLA), jumped to the pixel's place in the sequence.
    """
    start = np.random.default_rng(seed).integers(0, 2**63, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = start + (index.astype(np.uint64) + np.uint64(1)) * np.uint64(
            0x9E3779B97F4A7C15
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def _systematic(
    masks: Masks, n: int, valid: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return pixels on a square grid with a random start, where the map is valid."""
    grid = masks.grid
    step = max(1.0, float(np.sqrt(valid / n)))
    start = np.random.default_rng(seed).random(2) * step
    rows = np.arange(start[0], grid.height, step).astype(np.int64)
    columns = np.arange(start[1], grid.width, step).astype(np.int64)
    values = [c.value for c in masks.classes]
    found = []
    side = max(1, _BLOCK // masks.chunk) * masks.chunk
    for window in squares(grid, side):
        y = rows[(rows >= window.y) & (rows < window.bottom)]
        x = columns[(columns >= window.x) & (columns < window.right)]
        if not len(y) or not len(x):
            continue
        here = masks.read("classes", window)[np.ix_(y - window.y, x - window.x)]
        i, j = np.nonzero(np.isin(here, values))
        found.append(y[i] * grid.width + x[j])
    index = np.sort(np.concatenate([np.zeros(0, np.int64), *found]))
    if not len(index):
        raise GeosegError(
            f"a systematic sample of {n} points misses every valid pixel: ask for more"
        )
    return index, np.full(len(index), -1)
