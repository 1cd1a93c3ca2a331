"""Training of trees and support vector machines on pixel features, by scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.accuracy.accuracy import Accuracy, estimate
from geoseg.accuracy.interval import share_of_blocks
from geoseg.core.extras import require
from geoseg.core.grid import Window, squares
from geoseg.core.text import counted
from geoseg.execution.progress import reported
from geoseg.models.classical.forest import KINDS, Trees
from geoseg.models.classical.pixel_features import PixelFeatures
from geoseg.models.classical.pixelwise import Classifier
from geoseg.models.classical.svm import Machine
from geoseg.training.data import TrainingData
from geoseg.training.holdout import CELL
from geoseg.training.options import TrainOptions
from geoseg.training.patches import read_patch
from geoseg.training.scenes import IGNORED, LabelledRaster

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.models.card import Card

_READ = 256
_SVM_SAMPLES = 5000
Steps = Callable[[int, int], None]
"""Hears after each step how many of how many are done."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Samples:
    """Pixels to learn from."""

    features: NDArray[np.float32]
    """(pixel, feature)."""
    targets: NDArray[np.uint8]
    """(pixel,) place in the class table."""
    fold: NDArray[np.int16]
    """(pixel,) the fold of its block; all 0 without a split."""
    block: NDArray[np.int64]
    """(pixel,) the block of ground it lies in; all 0 without a split."""
    near: NDArray[np.bool_]
    """(pixel, fold) whether it lies in the fold or within the gap around it."""


def collect(
    data: TrainingData,
    card: Card,
    features: PixelFeatures,
    options: TrainOptions,
    progress: Steps | None = None,
) -> Samples:
    """Return labelled pixels with their features, drawn evenly over the ground.

    Every class may give the same number of pixels; what small classes cannot give, the
    others do.
    """
    total = sum(c.sum(axis=(0, 1)) for c in data.cells)
    keep = _rates(np.asarray(total), options.samples)
    found = []
    windows = [
        (number, window)
        for number, scene in enumerate(data.scenes)
        for window in _labelled_windows(data.cells[number], scene)
    ]
    for number, window in reported(windows, len(windows), progress):
        rng = np.random.default_rng([options.seed, number, window.y, window.x])
        y, x, *drawn = _draw(data.scenes[number], window, card, features, keep, rng)
        found.append((*drawn, *_folds(data, number, window, y, x)))
    values, targets, fold, block, near = (
        np.concatenate(p) for p in zip(*found, strict=True)
    )
    return Samples(features=values, targets=targets, fold=fold, block=block, near=near)


def _rates(total: NDArray[np.int64], samples: int) -> NDArray[np.float64]:
    """Return which share of each class is kept."""
    left, kept = float(samples), np.zeros(len(total))
    order = [c for c in np.argsort(total, kind="stable") if total[c]]
    for done, c in enumerate(order):
        kept[c] = min(total[c], left / (len(order) - done))
        left -= kept[c]
    return np.asarray(kept / np.maximum(total, 1))


def _labelled_windows(cells: NDArray[np.int64], scene: LabelledRaster) -> list[Window]:
    """Return the squares in which anything is labelled."""

    def is_labelled(window: Window) -> bool:
        y, bottom, x, right = (
            -(-n // CELL) for n in (window.y, window.bottom, window.x, window.right)
        )
        return bool(cells[y:bottom, x:right].any())

    return [w for w in squares(scene.grid, _READ) if is_labelled(w)]


def _draw(
    scene: LabelledRaster,
    window: Window,
    card: Card,
    features: PixelFeatures,
    keep: NDArray[np.float64],
    rng: np.random.Generator,
) -> tuple[NDArray[Any], ...]:
    """Draw some of the labelled pixels of a window, a share of each class.

    Returns:
        Their rows, columns, features (pixel, feature), and places in the class table.
    """
    padded = window.pad(features.reach)
    pixels, targets = read_patch(scene, padded, card)
    inside = window.relative_to(padded).slices
    here = targets.numpy()[inside]
    y, x = np.nonzero(here != IGNORED)
    drawn = rng.random(len(y)) < keep[here[y, x]]
    y, x = y[drawn], x[drawn]
    values = features.of(pixels.numpy())[:, *inside][:, y, x].T
    return y, x, np.ascontiguousarray(values), here[y, x]


def _folds(
    data: TrainingData,
    number: int,
    window: Window,
    y: NDArray[np.int64],
    x: NDArray[np.int64],
) -> tuple[NDArray[np.int16], NDArray[np.int64], NDArray[np.bool_]]:
    """Return fold and block of each pixel, and to which folds it is too near."""
    near = np.zeros((len(y), data.folds), bool)
    fold, block = np.zeros(len(y), np.int16), np.zeros(len(y), np.int64)
    if data.split is not None:
        before = sum(f.size for f in data.split.folds[:number])
        row, column = (
            (window.y + y) // data.split.side,
            (window.x + x) // data.split.side,
        )
        block = before + row * data.split.folds[number].shape[1] + column
        for f in range(data.folds):
            near[:, f] = ~data.split.learned(number, f, window)[y, x]
            fold[data.split.held_out(number, f, window)[y, x]] = f
    return fold, block, near


def fit(samples: Samples, options: TrainOptions, classes: int) -> Classifier:
    """Return a classifier of all samples."""
    return _fit(samples.features, samples.targets, options, classes)


def cross_validate(
    samples: Samples,
    options: TrainOptions,
    names: Sequence[str],
    progress: Steps | None = None,
) -> Accuracy | None:
    """Return the accuracy on every fold, by forests that saw nothing near it.

    Figures are of the drawn pixels of all folds together; the interval of the overall
    accuracy is told by their blocks.
    """
    k = len(names)
    counts = np.zeros((k, k), np.int64)
    unknown = np.zeros(k, np.int64)
    right = np.full(len(samples.targets), np.nan)
    folds = samples.near.shape[1]
    for f in reported(range(folds), folds, progress):
        learn = ~samples.near[:, f]
        known = np.isin(samples.targets, samples.targets[learn])
        test = samples.fold == f
        unknown += np.bincount(samples.targets[test & ~known], minlength=k)
        test &= known
        if not test.any():
            continue
        trees = _fit(samples.features[learn], samples.targets[learn], options, k)
        votes = trees.predict(
            np.ascontiguousarray(samples.features[test].T)[:, :, None]
        )
        answers = votes[:, :, 0].argmax(0)
        np.add.at(counts, (answers, samples.targets[test]), 1)
        right[test] = answers == samples.targets[test]
    notes = [
        f"{counted(int(n), 'pixel')} of {name!r} cannot be tested: no others lie "
        "outside their block and the gap around it"
        for name, n in zip(names, unknown, strict=True)
        if n
    ]
    if not counts.any():
        return None
    tested = ~np.isnan(right)
    _, block = np.unique(samples.block[tested], return_inverse=True)
    by_block = np.stack([np.bincount(block, right[tested]), np.bincount(block)])
    by_block = np.concatenate([np.ones_like(by_block[:1]), by_block])
    found = estimate(counts, names=names, estimator="census", notes=notes)
    return replace(found, overall=share_of_blocks(by_block @ by_block.T))


def _fit(
    features: NDArray[np.float32],
    targets: NDArray[np.uint8],
    options: TrainOptions,
    classes: int,
) -> Classifier:
    require("sklearn", what=f"arch {options.arch}", extra="train")
    from sklearn import ensemble

    if options.arch == "svm":
        return _fit_svm(features, targets, options, classes)
    make = getattr(ensemble, KINDS[str(options.arch)])
    common = {
        "min_samples_leaf": options.leaf,
        "random_state": options.seed,
        "class_weight": "balanced",
    }
    if options.arch == "boosting":
        boosted = make(max_iter=options.trees, early_stopping=False, **common)
        return Trees.of_boosting(boosted.fit(features, targets), classes)
    forest = make(options.trees, n_jobs=-1, **common)
    return Trees.of(forest.fit(features, targets), classes)


def _fit_svm(
    features: NDArray[np.float32],
    targets: NDArray[np.uint8],
    options: TrainOptions,
    classes: int,
) -> Machine:
    """Fit to at most some thousand pixels: the time grows with their square."""
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    if len(features) > _SVM_SAMPLES:
        drawn = np.random.default_rng(options.seed).permutation(len(features))
        features, targets = (
            features[drawn[:_SVM_SAMPLES]],
            targets[drawn[:_SVM_SAMPLES]],
        )
    scaler = StandardScaler().fit(features)
    machine = SVC(C=10.0, class_weight="balanced", random_state=options.seed)
    return Machine.of(machine.fit(scaler.transform(features), targets), classes, scaler)
