"""Training of trees and support vector machines on pixel features, by scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.accuracy.accuracy import Accuracy, estimate
from geoseg.core.grid import Window
from geoseg.models.classical.features import Features
from geoseg.models.classical.forest import KINDS, Trees
from geoseg.models.classical.pixelwise import Classifier
from geoseg.models.classical.svm import Machine
from geoseg.models.extras import require
from geoseg.training.patches import cut
from geoseg.training.scenes import IGNORED, Scene
from geoseg.training.split import Split

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.models.card import Card

_READ = 256
_SVM_SAMPLES = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class ForestSettings:
    """How a forest is trained."""

    kind: str
    """`forest`, `extra-trees`, `boosting` or `svm`."""
    trees: int
    """How many."""
    leaf: int
    """Samples in a leaf, at least."""
    samples: int
    """Pixels to learn from, at most; every class gets its share."""
    seed: int
    """Of everything random."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Samples:
    """Pixels to learn from."""

    features: NDArray[np.float32]
    """(pixel, feature)."""
    targets: NDArray[np.uint8]
    """(pixel,) place in the class table."""
    fold: NDArray[np.int16]
    """(pixel,) the fold of its block; all 0 without a split."""
    near: NDArray[np.bool_]
    """(pixel, fold) whether it lies in the fold or within the gap around it."""


def collect(
    scenes: Sequence[Scene],
    cells: Sequence[NDArray[np.int64]],
    split: Split | None,
    card: Card,
    features: Features,
    settings: ForestSettings,
    folds: int,
) -> Samples:
    """Return labelled pixels with their features, drawn evenly over the ground.

    Every class may give the same number of pixels; what small classes cannot give, the
    others do.
    """
    total = sum(c.sum(axis=(0, 1)) for c in cells)
    keep = _rates(np.asarray(total), settings.samples)
    parts = []
    for r, scene in enumerate(scenes):
        for window in _labelled_windows(cells[r], scene):
            rng = np.random.default_rng([settings.seed, r, window.y, window.x])
            found = _window(scene, r, window, split, card, features, keep, folds, rng)
            parts.append(found)
    x, y, fold, near = (np.concatenate(p) for p in zip(*parts, strict=True))
    return Samples(features=x, targets=y, fold=fold, near=near)


def _rates(total: NDArray[np.int64], samples: int) -> NDArray[np.float64]:
    """Return which share of each class is kept."""
    left, kept = float(samples), np.zeros(len(total))
    order = [c for c in np.argsort(total, kind="stable") if total[c]]
    for done, c in enumerate(order):
        kept[c] = min(total[c], left / (len(order) - done))
        left -= kept[c]
    return np.asarray(kept / np.maximum(total, 1))


def _labelled_windows(cells: NDArray[np.int64], scene: Scene) -> list[Window]:
    from geoseg.training.split import CELL

    k = _READ // CELL
    found = []
    for y in range(0, cells.shape[0], k):
        for x in range(0, cells.shape[1], k):
            if cells[y : y + k, x : x + k].any():
                block = Window(y=y * CELL, x=x * CELL, height=_READ, width=_READ)
                inside = block.intersection(scene.grid.window)
                assert inside is not None
                found.append(inside)
    return found


def _window(
    scene: Scene,
    raster: int,
    window: Window,
    split: Split | None,
    card: Card,
    features: Features,
    keep: NDArray[np.float64],
    folds: int,
    rng: np.random.Generator,
) -> tuple[NDArray[Any], ...]:
    padded = window.pad(features.reach)
    pixels, targets = cut(scene, padded, card)
    inside = window.relative_to(padded).slices
    here = targets.numpy()[inside]
    y, x = np.nonzero(here != IGNORED)
    drawn = rng.random(len(y)) < keep[here[y, x]]
    y, x = y[drawn], x[drawn]
    values = features.of(pixels.numpy())[(slice(None), *inside)][:, y, x].T
    near = np.zeros((len(y), folds), bool)
    fold = np.zeros(len(y), np.int16)
    if split is not None:
        for f in range(folds):
            near[:, f] = ~split.learned(raster, f, window)[y, x]
            fold[split.held_out(raster, f, window)[y, x]] = f
    return np.ascontiguousarray(values), here[y, x], fold, near


def fit(samples: Samples, settings: ForestSettings, classes: int) -> Classifier:
    """Return a classifier of all samples."""
    return _fit(samples.features, samples.targets, settings, classes)


def cross_validate(
    samples: Samples, settings: ForestSettings, names: Sequence[str]
) -> Accuracy | None:
    """Return the accuracy on every fold, by forests that saw nothing near it.

    Figures are of the drawn pixels of all folds together.
    """
    k = len(names)
    counts = np.zeros((k, k), np.int64)
    unknown = np.zeros(k, np.int64)
    for f in range(samples.near.shape[1]):
        learn = ~samples.near[:, f]
        known = np.isin(samples.targets, samples.targets[learn])
        test = samples.fold == f
        unknown += np.bincount(samples.targets[test & ~known], minlength=k)
        test &= known
        if not test.any():
            continue
        trees = _fit(samples.features[learn], samples.targets[learn], settings, k)
        votes = trees.predict(
            np.ascontiguousarray(samples.features[test].T)[:, :, None]
        )
        np.add.at(counts, (votes[:, :, 0].argmax(0), samples.targets[test]), 1)
    notes = [
        f"{n} pixels of {name!r} cannot be tested: no others of it lie outside their "
        "block and the gap around it"
        for name, n in zip(names, unknown, strict=True)
        if n
    ]
    if not counts.any():
        return None
    return estimate(counts, names=names, estimator="census", notes=notes)


def _fit(
    features: NDArray[np.float32],
    targets: NDArray[np.uint8],
    settings: ForestSettings,
    classes: int,
) -> Classifier:
    require("sklearn", what=f"arch {settings.kind}", extra="train")
    from sklearn import ensemble

    if settings.kind == "svm":
        return _fit_svm(features, targets, settings, classes)
    make = getattr(ensemble, KINDS[settings.kind])
    common = {
        "min_samples_leaf": settings.leaf,
        "random_state": settings.seed,
        "class_weight": "balanced",
    }
    if settings.kind == "boosting":
        boosted = make(max_iter=settings.trees, early_stopping=False, **common)
        return Trees.of_boosting(boosted.fit(features, targets), classes)
    forest = make(settings.trees, n_jobs=-1, **common)
    return Trees.of(forest.fit(features, targets), classes)


def _fit_svm(
    features: NDArray[np.float32],
    targets: NDArray[np.uint8],
    settings: ForestSettings,
    classes: int,
) -> Machine:
    """Fit to at most some thousand pixels: the time grows with their square."""
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    if len(features) > _SVM_SAMPLES:
        drawn = np.random.default_rng(settings.seed).permutation(len(features))
        features, targets = (
            features[drawn[:_SVM_SAMPLES]],
            targets[drawn[:_SVM_SAMPLES]],
        )
    scaler = StandardScaler().fit(features)
    machine = SVC(C=10.0, class_weight="balanced", random_state=settings.seed)
    return Machine.of(machine.fit(scaler.transform(features), targets), classes, scaler)
