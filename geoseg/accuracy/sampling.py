"""Where to look: probability samples of a map, to be labelled and then evaluated.

Every pixel has a pseudo-random number that depends on the seed and its place alone; the
sample is the pixels with the smallest numbers. So it is drawn in one pass over the map,
without replacement, and does not depend on blocks or workers.

Olofsson et al. (2014), "Good practices for estimating area and assessing accuracy of
land change", Remote Sensing of Environment 148, 42-57, for designs and allocation;
Cochran (1977), "Sampling techniques", for Neyman's allocation.

Within a stratum every pixel is equally likely. Where pixels differ in ground area, as
on grids in degrees, sizes of strata and shares of points are by area, and `evaluate`
weighs each point by the area of its pixel; `geoseg.accuracy.accuracy` says how good
that is.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geoseg.accuracy.options import Allocation, SampleDesign, SampleOptions
from geoseg.core.classes import Class
from geoseg.core.files import target
from geoseg.core.geodesy import pixel_areas
from geoseg.core.grid import Window, squares
from geoseg.core.options import keywords
from geoseg.core.text import redact
from geoseg.errors import GeosegError
from geoseg.execution.progress import reported
from geoseg.maps.open import ClassMap, open_classes
from geoseg.maps.reader import ClassReader, block_side, read_plain

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_DEFAULT = 500
"""Points of a sample, by default."""


def draw_sample(
    masks: ClassMap,
    options: SampleOptions,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw a sample of a map; as `sample`, with options as one object."""
    from geoseg.accuracy.sample_form import Points, write_points

    reader = open_classes(masks, partial=options.partial)
    path = target(options.out, (".gpkg",), overwrite=options.overwrite)
    n = _points(options)
    if n is not None and n < 1:
        raise GeosegError(f"a sample of {n} points cannot be drawn: ask for 1 or more")
    accuracies = _accuracies(reader.classes, options.expected)
    windows = squares(reader.grid, block_side(reader, options.block))
    design, seed = options.design, options.seed
    shown = reported(windows, len(windows), progress)
    drawn = _draw(reader, shown, seed, _most(design, n))
    pixels = drawn.pixels
    if not pixels.any():
        raise GeosegError(f"{redact(reader.path)} holds no valid pixel to sample")
    sizes = pixels if drawn.m2 is None else drawn.m2
    error = options.standard_error
    total = n or sample_size(sizes, accuracies, standard_error=error or 0.01)
    if design == "stratified":
        shares = allocate(
            pixels, total, options.allocation, accuracies, minimum=options.minimum,
            areas=drawn.m2,
        )  # fmt: skip
        _warn_of_thin(reader.classes, pixels, shares)
        index, stratum = drawn.per_class(shares)
    elif design == "simple":
        index, stratum = drawn.over_all(total)
    else:
        index, stratum = _systematic(reader, windows, total, int(pixels.sum()), seed)
    order = np.argsort(_keys(index, seed + 1), kind="stable")
    points = Points(
        index=index[order],
        stratum=stratum[order],
        pixels=pixels,
        m2=drawn.m2,
        design=design,
    )
    return write_points(reader, path, points)


@keywords(SampleOptions, draw_sample)
def sample(
    masks: ClassMap,
    out: str | os.PathLike[str],
    *,
    design: SampleDesign = "stratified",
    n: int | None = None,
    allocation: Allocation = "proportional",
    minimum: int = 0,
    expected: Mapping[str, float] | None = None,
    standard_error: float | None = None,
    seed: int = 0,
    block: int = 2048,
    overwrite: bool = False,
    partial: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw a probability sample of a map's pixels, ready to be labelled in QGIS.

    The GeoPackage's points lie on pixel centres, in random order, with an empty column
    `class` to fill by a list of the map's classes. Design, stratum and the stratum's
    size travel along, hidden from the form, so that `evaluate` picks the estimator.

    Args:
        masks: masks of geoseg (folder, URL or open store), a class raster, a Zarr of
            another tool, or a dataset or array of classes.
        out: the GeoPackage to write.
        design: `stratified`, at random in each class of the map; `simple`, at random
            over the whole map; `systematic`, on a square grid with a random start.
        n: how many points; default 500, or as many as `standard_error` takes. A
            systematic sample comes close to it.
        allocation: how a stratified sample is shared: by area; the same for each class;
            or, Neyman, by area and by how uncertain a class is, from `expected`.
        minimum: at least so many points in each class (stratified).
        expected: user's accuracy that is expected of each class, by name.
        standard_error: of overall accuracy: as many points as it takes by `expected`,
            instead of `n`.
        seed: another seed, another sample; the same seed, the same sample.
        block: side of a block in pixels; changes speed and memory, not the sample.
        overwrite: replace a file that is there.
        partial: take masks that are not complete as they are, with a warning.
        progress: called with blocks done and blocks in all.

    Returns:
        The file written.

    Raises:
        GeosegError: numbers that do not go together, or a file that is there.
    """
    raise NotImplementedError  # `draw_sample` is what runs


def _points(options: SampleOptions) -> int | None:
    """Return how many points are asked for; None for as many as it takes."""
    if options.standard_error is None:
        return _DEFAULT if options.n is None else options.n
    if options.n is not None:
        raise GeosegError("give --n or --standard-error, not both")
    return None


def _warn_of_thin(
    classes: Sequence[Class], pixels: NDArray[np.int64], shares: NDArray[np.int64]
) -> None:
    """Say before a day of labelling which classes get too few points to tell of."""
    thin = [
        f"{c.name} ({k})"
        for c, size, k in zip(classes, pixels, shares, strict=True)
        if k < min(2, size)
    ]
    if thin:
        warnings.warn(
            f"classes with fewer than 2 points ({', '.join(thin)}) will have no "
            "interval of their own, and those with none are left out of every figure: "
            "ask for more with --minimum, or for more points",
            stacklevel=3,
        )


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
    areas: ArrayLike | None = None,
) -> NDArray[np.int64]:
    """Share n points among classes; they add up to n where that many pixels exist.

    Args:
        sizes: (class,) pixels; classes without any get no points.
        n: points in all.
        allocation: `proportional`, `equal` or `neyman`.
        expected: (class,) user's accuracy, for `neyman`.
        minimum: at least so many in each class; what that takes is taken from the
            others by their share.
        areas: (class,) area, where pixels differ in it; None: pixels stand for it.

    Raises:
        GeosegError: the minimum does not fit into n.
    """
    pixels = np.asarray(sizes, float)
    size = pixels if areas is None else np.asarray(areas, float)
    if allocation == "equal":
        weights = (pixels > 0).astype(float)
    elif allocation == "proportional":
        weights = size
    elif expected is None:
        raise GeosegError("Neyman's allocation needs the expected user's accuracies")
    else:
        users = np.asarray(expected, float)
        weights = size * np.sqrt(users * (1 - users))
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
    if design == "systematic":
        return 0
    return 250_000 if n is None else n


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Drawn:
    """The candidates of each class: the pixels with the smallest numbers."""

    pixels: NDArray[np.int64]
    """(class,) pixels."""
    m2: NDArray[np.float64] | None
    """(class,) true area; None where the map has no place on the Earth."""
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


def _draw(
    reader: ClassReader, windows: Iterable[Window], seed: int, most: int
) -> _Drawn:
    """Count pixels and area of each class, and keep candidates, in one pass."""
    areas = pixel_areas(reader.grid)
    pixels, units = np.zeros((2, len(reader.classes)), np.int64)
    none = np.zeros(0, np.uint64), np.zeros(0, np.int64)
    best = [none for _ in reader.classes]
    table = [c.value for c in reader.classes]
    other = max(table, default=0) + 1
    for window in windows:
        values = read_plain(reader, "classes", window)
        if areas is not None:
            known = np.minimum(values, other)
            units += areas.by_value(known, window, other + 1)[table]
        for s, value in enumerate(table):
            y, x = np.nonzero(values == value)
            pixels[s] += len(y)
            if most and len(y):
                index = (y + window.y) * reader.grid.width + (x + window.x)
                best[s] = _smallest(best[s], index, seed, most)
    m2 = None if areas is None else areas.m2(units)
    return _Drawn(pixels=pixels, m2=m2, candidates=tuple(best))


def _smallest(
    best: tuple[NDArray[np.uint64], NDArray[np.int64]],
    index: NDArray[np.int64],
    seed: int,
    most: int,
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the smallest numbers so far, and those of more pixels, by number."""
    keys = _keys(index, seed)
    if len(best[0]) == most:
        low = keys <= best[0][-1]
        keys, index = keys[low], index[low]
    keys = np.concatenate([best[0], keys])
    index = np.concatenate([best[1], index])
    first = np.lexsort((index, keys))[:most]
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
    reader: ClassReader, windows: Iterable[Window], n: int, valid: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return pixels on a square grid with a random start, where the map is valid."""
    grid = reader.grid
    step = max(1.0, float(np.sqrt(valid / n)))
    start = np.random.default_rng(seed).random(2) * step
    rows = np.arange(start[0], grid.height, step).astype(np.int64)
    columns = np.arange(start[1], grid.width, step).astype(np.int64)
    values = [c.value for c in reader.classes]
    found = []
    for window in windows:
        y = rows[(rows >= window.y) & (rows < window.bottom)]
        x = columns[(columns >= window.x) & (columns < window.right)]
        if not len(y) or not len(x):
            continue
        here = read_plain(reader, "classes", window)[np.ix_(y - window.y, x - window.x)]
        i, j = np.nonzero(np.isin(here, values))
        found.append(y[i] * grid.width + x[j])
    index = np.sort(np.concatenate([np.zeros(0, np.int64), *found]))
    if not len(index):
        raise GeosegError(
            f"a systematic sample of {n} points misses every valid pixel: ask for more"
        )
    return index, np.full(len(index), -1)
