"""Forests of decision trees on pixel features: by scikit-learn, kept as arrays.

A fitted forest is a handful of arrays in a safetensors file: nothing is unpickled, and
scikit-learn is not needed to use it. Breiman (2001), "Random forests", Machine Learning
45, 5-32; Geurts, Ernst, Wehenkel (2006), "Extremely randomized trees", Machine Learning
63, 3-42.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numba
import numpy as np

from geoseg.errors import ModelError, first_line
from geoseg.models.features import Features
from geoseg.models.folder import WEIGHTS, write_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.models.card import Card
    from geoseg.models.contract import Model
    from geoseg.models.device import Options
    from geoseg.models.folder import ModelFolder

KINDS = {"forest": "RandomForestClassifier", "extra-trees": "ExtraTreesClassifier"}
"""What `--arch` calls them, and scikit-learn's classes."""

_DTYPES = {
    "roots": np.int32,
    "left": np.int32,
    "right": np.int32,
    "feature": np.int32,
    "threshold": np.float32,
    "votes": np.float32,
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trees:
    """Decision trees, one after the other in the same arrays."""

    roots: NDArray[np.int32]
    """(tree,) first node of each tree."""
    left: NDArray[np.int32]
    """(node,) where to go if the feature is at most the threshold; -1 in a leaf."""
    right: NDArray[np.int32]
    """(node,) where to go if it is above."""
    feature: NDArray[np.int32]
    """(node,) which feature is looked at."""
    threshold: NDArray[np.float32]
    """(node,) what it is compared with."""
    votes: NDArray[np.float32]
    """(node, class) share of each class in a leaf, divided by the number of trees."""

    @classmethod
    def of(cls, forest: Any, classes: int) -> Self:  # noqa: ANN401 - it has no types
        """Return the trees of a scikit-learn forest fitted to places 0 … classes-1."""
        trees = [estimator.tree_ for estimator in forest.estimators_]
        sizes = np.array([t.node_count for t in trees])
        roots = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        shares = [t.value[:, 0, :] / t.value[:, 0, :].sum(1)[:, None] for t in trees]
        votes = np.zeros((int(sizes.sum()), classes), np.float32)
        votes[:, forest.classes_] = np.concatenate(shares) / len(trees)

        def moved(children: list[NDArray[np.int64]]) -> NDArray[np.int32]:
            pairs = zip(children, roots, strict=True)
            parts = [np.where(c < 0, -1, c + root) for c, root in pairs]
            return np.concatenate(parts).astype(np.int32)

        return cls(
            roots=roots.astype(np.int32),
            left=moved([t.children_left for t in trees]),
            right=moved([t.children_right for t in trees]),
            feature=np.concatenate([t.feature for t in trees]).astype(np.int32),
            threshold=_rounded_down(np.concatenate([t.threshold for t in trees])),
            votes=votes,
        )

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return class probabilities, (class, y, x), of features (feature, y, x)."""
        count, height, width = features.shape
        pixels = np.ascontiguousarray(features.reshape(count, -1).T)
        out = np.zeros((len(pixels), self.votes.shape[1]), np.float32)
        _vote(
            pixels, self.roots, self.left, self.right, self.feature, self.threshold,
            self.votes, out,
        )  # fmt: skip
        return np.ascontiguousarray(out.T).reshape(-1, height, width)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything by name."""
        return {name: getattr(self, name) for name in _DTYPES}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Return the trees that arrays from a file hold; they are not trusted.

        Raises:
            ModelError: Arrays are missing, or nodes lead out of their tree.
        """
        wrong = [
            name
            for name, dtype in _DTYPES.items()
            if name not in arrays or arrays[name].dtype != dtype
        ]
        if wrong:
            raise ModelError(
                f"the forest's file lacks {', '.join(wrong)}, or their type"
            )
        trees = cls(**{name: np.ascontiguousarray(arrays[name]) for name in _DTYPES})
        trees._check()
        return trees

    def _check(self) -> None:
        """Raise where following the nodes would leave the arrays or never end."""
        n = len(self.left)
        one_each = {
            len(self.right),
            len(self.feature),
            len(self.threshold),
            len(self.votes),
        }
        here = np.arange(n)
        inner = self.left >= 0
        sound = (
            one_each == {n}
            and self.votes.ndim == 2
            and len(self.roots) > 0
            and ((self.roots >= 0) & (self.roots < n)).all()
            and (self.left[inner] > here[inner]).all()
            and (self.right[inner] > here[inner]).all()
            and max(self.left.max(initial=0), self.right.max(initial=0)) < n
            and (self.feature[inner] >= 0).all()
        )
        if not sound:
            raise ModelError("the forest's file is damaged: its nodes lead astray")


def _rounded_down(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return float32 numbers that float32 features compare with in the same way."""
    near = values.astype(np.float32)
    return np.where(near > values, np.nextafter(near, np.float32(-np.inf)), near)


@numba.njit(cache=True, nogil=True)
def _vote(
    pixels: NDArray[np.float32],
    roots: NDArray[np.int32],
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    feature: NDArray[np.int32],
    threshold: NDArray[np.float32],
    votes: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    # Some pixels at a time, tree by tree: both the pixels and the tree stay in cache.
    for first in range(0, pixels.shape[0], 1024):
        after = min(first + 1024, pixels.shape[0])
        for root in roots:
            for i in range(first, after):
                node = root
                while left[node] >= 0:
                    if pixels[i, feature[node]] <= threshold[node]:
                        node = left[node]
                    else:
                        node = right[node]
                for k in range(votes.shape[1]):
                    out[i, k] += votes[node, k]


class ForestModel:
    """A card, features and trees, as geoseg's models are."""

    device = "cpu"
    precision = "fp32"

    def __init__(
        self, card: Card, trees: Trees, options: Options | None = None
    ) -> None:
        """Check that trees and card go together.

        Raises:
            ModelError: Another number of classes or of features.
        """
        self.card = card
        self._features = Features.from_dict(card.framework.get("features", {}))
        self._trees = trees
        self._workers = os.cpu_count() or 1
        self.batch = (options.batch if options else None) or self._workers
        expected, found = len(card.classes), trees.votes.shape[1]
        if expected != found:
            raise ModelError(
                f"the card of {card.name!r} has {expected} classes, the forest {found}"
            )
        count = self._features.count(len(card.bands))
        if trees.feature.max(initial=0) >= count:
            raise ModelError(
                f"the forest of {card.name!r} looks at feature "
                f"{trees.feature.max()}, but its card makes {count}"
            )

    def predict(self, pixels: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return (n, class, y, x) probabilities."""

        def one(window: NDArray[np.generic]) -> NDArray[np.float32]:
            return self._trees.predict(self._features.of(window))

        if len(pixels) == 1:
            return one(pixels[0])[None]
        with ThreadPoolExecutor(self._workers) as pool:
            return np.stack(list(pool.map(one, pixels)))


def load_folder(folder: ModelFolder, options: Options) -> Model:
    """Load the forest of a model folder."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(folder.weights_file)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{folder.weights_file} cannot be read as safetensors: {first_line(error)}"
        ) from error
    return ForestModel(folder.card, Trees.from_arrays(arrays), options)


def save_forest(trees: Trees, features: Features, card: Card, folder: Path) -> Path:
    """Write a forest and its card as a model folder that `--model` takes."""
    from safetensors.numpy import save_file

    framework = {**card.framework, "family": "forest", "features": features.to_dict()}
    card = replace(card, framework=framework, output="probabilities")
    ForestModel(card, trees)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(trees.arrays(), folder / WEIGHTS)
    return write_folder(card, folder, folder / WEIGHTS)
