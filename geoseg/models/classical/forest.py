"""Decision trees on pixel features, in forests or boosted: by scikit-learn, as arrays.

Breiman (2001), "Random forests", Machine Learning 45, 5-32; Geurts, Ernst, Wehenkel
(2006), "Extremely randomized trees", Machine Learning 63, 3-42; Friedman (2001),
"Greedy function approximation: a gradient boosting machine", Annals of Statistics 29,
1189-1232.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numba
import numpy as np

from geoseg.errors import ModelError
from geoseg.models.classical.pixelwise import Classifier, PixelModel, read_arrays

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.models.contract import Model
    from geoseg.models.folder import ModelFolder
    from geoseg.models.networks.device import ModelOptions

KINDS = {
    "forest": "RandomForestClassifier",
    "extra-trees": "ExtraTreesClassifier",
    "boosting": "HistGradientBoostingClassifier",
}
"""What `--arch` calls them, and scikit-learn's classes."""
_NEVER = -50.0  # logit of a class that no pixel was shown of


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trees(Classifier):
    """Decision trees, one after the other in the same arrays."""

    dtypes: ClassVar = {
        **dict.fromkeys(("roots", "left", "right", "feature"), np.int32),
        **dict.fromkeys(("threshold", "votes"), np.float32),
    }
    kind: ClassVar = "forest"

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
    """(node, class) what a leaf adds: in a forest the share of each class, divided by
    the number of trees; in boosted trees to each class's logit."""

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

    @classmethod
    def of_boosting(cls, boosted: Any, classes: int) -> Self:  # noqa: ANN401 - untyped
        """Return the trees of a scikit-learn boosting fitted to places 0 … classes-1.

        Args:
            boosted: A `HistGradientBoostingClassifier` without categorical features.
            classes: Length of the class table.
        """
        known = boosted.classes_
        # With two classes there is one score: of the second.
        columns = known[1:] if len(known) == 2 else known
        start = np.full(classes, _NEVER, np.float32)
        start[known] = 0
        start[columns] = boosted._baseline_prediction.ravel()  # noqa: SLF001
        parts = [_stump(start)]
        for trees in boosted._predictors:  # noqa: SLF001 - there is no other way
            for tree, column in zip(trees, columns, strict=True):
                parts.append(_boosted_tree(tree.nodes, int(column), classes))
        sizes = [len(p["left"]) for p in parts]
        roots = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)
        for part, root in zip(parts, roots, strict=True):
            for side in ("left", "right"):
                part[side] = np.where(part[side] < 0, -1, part[side] + root)
        joined: dict[str, Any] = {
            name: np.concatenate([p[name] for p in parts]).astype(dtype)
            for name, dtype in cls.dtypes.items()
            if name != "roots"
        }
        return cls(roots=roots, **joined)

    @property
    def classes(self) -> int:
        """How many classes they tell apart."""
        return int(self.votes.shape[1])

    @property
    def features(self) -> int:
        """How many features they need at least."""
        return int(self.feature.max(initial=0)) + 1

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return class scores, (class, y, x), of features (feature, y, x)."""
        count, height, width = features.shape
        pixels = np.ascontiguousarray(features.reshape(count, -1).T)
        out = np.zeros((len(pixels), self.votes.shape[1]), np.float32)
        _vote(
            pixels, self.roots, self.left, self.right, self.feature, self.threshold,
            self.votes, out,
        )  # fmt: skip
        return np.ascontiguousarray(out.T).reshape(-1, height, width)

    def wrong(self) -> str | None:
        """Say where following the nodes would leave the arrays or never end."""
        n = len(self.left)
        each = (self.right, self.feature, self.threshold, self.votes)
        here = np.arange(n)
        inner = self.left >= 0
        sound = (
            {len(array) for array in each} == {n}
            and self.votes.ndim == 2
            and len(self.roots) > 0
            and ((self.roots >= 0) & (self.roots < n)).all()
            and (self.left[inner] > here[inner]).all()
            and (self.right[inner] > here[inner]).all()
            and max(self.left.max(initial=0), self.right.max(initial=0)) < n
            and (self.feature[inner] >= 0).all()
        )
        return None if sound else "its nodes make no trees"


def _stump(scores: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Return a tree of one leaf."""
    no, zero = np.array([-1]), np.array([0])
    row = {"left": no, "right": no, "feature": zero, "threshold": zero}
    return row | {"votes": scores[None]}


def _boosted_tree(
    nodes: NDArray[np.void], column: int, classes: int
) -> dict[str, NDArray[Any]]:
    """Return a tree that adds to one class's score."""
    if nodes["is_categorical"].any():
        raise ModelError("boosted trees with categorical features are not supported")
    leaf = nodes["is_leaf"].astype(bool)
    votes = np.zeros((len(nodes), classes), np.float32)
    votes[leaf, column] = nodes["value"][leaf]
    return {
        "left": np.where(leaf, -1, nodes["left"].astype(np.int64)),
        "right": np.where(leaf, -1, nodes["right"].astype(np.int64)),
        "feature": np.where(leaf, 0, nodes["feature_idx"].astype(np.int64)),
        "threshold": _rounded_down(np.where(leaf, 0, nodes["num_threshold"])),
        "votes": votes,
    }


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


def load_folder(folder: ModelFolder, options: ModelOptions) -> Model:
    """Load the trees of a model folder."""
    return PixelModel(folder.card, Trees.from_arrays(read_arrays(folder)), options)
