"""Support vector machines and linear classifiers on pixel features, kept as arrays.

Fitted by scikit-learn: `SVC` with the kernels `rbf` and `linear`, or anything linear
(`LinearSVC`, `LogisticRegression`, `RidgeClassifier`). Scores are the library's
`decision_function`, one per class; the largest is the class. Cortes and Vapnik (1995),
"Support-vector networks", Machine Learning 20, 273-297.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch

from geoseg.errors import ModelError
from geoseg.models.classical.pixelwise import Classifier, PixelModel, read_arrays

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.models.contract import Model
    from geoseg.models.folder import ModelFolder
    from geoseg.models.networks.device import ModelOptions

_CHUNK = 1024  # pixels whose distances to all support vectors are held at once
_NEVER = -1e3  # score of a class that no pixel was shown of


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Machine(Classifier):
    """Kernels between pixels and support vectors, weighted."""

    dtypes: ClassVar = {
        **dict.fromkeys(("mean", "scale", "support", "weights"), np.float64),
        **dict.fromkeys(("intercept", "gamma"), np.float64),
        "places": np.int64,
    }
    kind: ClassVar = "machine"

    mean: NDArray[np.float64]
    """(feature,) subtracted first."""
    scale: NDArray[np.float64]
    """(feature,) divided by then."""
    support: NDArray[np.float64]
    """(vector, feature) scaled; none where the kernel is the features themselves."""
    weights: NDArray[np.float64]
    """(score, vector), or (score, feature) where there are no vectors."""
    intercept: NDArray[np.float64]
    """(score,) added."""
    gamma: NDArray[np.float64]
    """(1,) `exp(-gamma * distance²)` is the kernel; 0: the scalar product."""
    places: NDArray[np.int64]
    """(known class,) place in the class table, and last of all how long that is.
    Scores are one per known class, or for three and more one per pair of them."""

    @classmethod
    def of(cls, machine: Any, classes: int, scaler: Any = None) -> Self:  # noqa: ANN401 - untyped
        """Return a fitted machine of scikit-learn.

        Args:
            machine: An `SVC`, or a classifier with `coef_`; of places 0 … classes-1.
            classes: Length of the class table.
            scaler: The `StandardScaler` that its features passed first.

        Raises:
            ModelError: Its kernel is neither `rbf` nor `linear`.
        """
        features = int(machine.n_features_in_)
        places = np.append(np.asarray(machine.classes_, np.int64), classes)
        mean = np.zeros(features) if scaler is None else np.asarray(scaler.mean_)
        scale = np.ones(features) if scaler is None else np.asarray(scaler.scale_)
        kernel = getattr(machine, "kernel", "linear")
        weights, support, gamma = machine.__dict__.get("coef_"), [], 0.0
        if weights is None:  # an SVC: coefficients of its support vectors
            if kernel not in {"rbf", "linear"}:
                raise ModelError(f"kernel {kernel!r} is neither rbf nor linear")
            support, weights = machine.support_vectors_, _pair_weights(machine)
            # What gamma="scale" came to stands nowhere else.
            gamma = float(machine._gamma) if kernel == "rbf" else 0.0  # noqa: SLF001
        return cls(
            mean=np.asarray(mean, np.float64),
            scale=np.asarray(scale, np.float64),
            support=np.reshape(support, (-1, features)).astype(np.float64),
            weights=np.atleast_2d(np.asarray(weights, np.float64)),
            intercept=np.atleast_1d(np.asarray(machine.intercept_, np.float64)),
            gamma=np.array([gamma]),
            places=places,
        )

    @property
    def classes(self) -> int:
        """Length of the class table."""
        return int(self.places[-1])

    @property
    def features(self) -> int:
        """How many features it looks at."""
        return len(self.mean)

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return scores (class, y, x) of features (feature, y, x)."""
        count, height, width = features.shape
        pixels = features.reshape(count, -1)[: len(self.mean)].T
        out = np.full((self.classes, len(pixels)), _NEVER, np.float32)
        for first in range(0, len(pixels), _CHUNK):
            part = slice(first, first + _CHUNK)
            x = (pixels[part].astype(np.float64) - self.mean) / self.scale
            kernel, weights = self._kernel(torch.from_numpy(x)), self.weights
            scores = (kernel @ torch.from_numpy(weights.T)).numpy() + self.intercept
            out[self.places[:-1], part] = self._by_class(scores).T
        return out.reshape(-1, height, width)

    def _kernel(self, x: torch.Tensor) -> torch.Tensor:
        if not len(self.support):
            return x
        support = torch.from_numpy(self.support)
        product = x @ support.T
        if self.gamma[0] == 0:
            return product
        lengths = (x * x).sum(1)[:, None] + (support * support).sum(1)
        distances = lengths.sub_(product, alpha=2).clamp_(min=0)
        return distances.mul_(-float(self.gamma[0])).exp_()

    def _by_class(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return one score per known class, as the library's decision function does."""
        known = len(self.places) - 1
        if scores.shape[1] == 1:  # two classes: the second's side is positive
            return np.concatenate([np.zeros_like(scores), scores], 1)
        if not len(self.support):
            return scores
        votes, sums = np.zeros((2, len(scores), known))
        for pair, (i, j) in enumerate(combinations(range(known), 2)):
            first = scores[:, pair] >= 0
            votes[:, i] += first
            votes[:, j] += ~first
            sums[:, i] += scores[:, pair]
            sums[:, j] -= scores[:, pair]
        return np.asarray(votes + sums / (3 * (np.abs(sums) + 1)))

    def wrong(self) -> str | None:
        """Say which arrays are not of the shape that the others imply."""
        known = len(self.places) - 1
        inner = len(self.support) or self.features
        pairs = known * (known - 1) // 2 if len(self.support) else known
        scores = 1 if known == 2 else pairs
        shapes = {
            "scale": (self.features,),
            "support": (len(self.support), self.features),
            "weights": (scores, inner),
            "intercept": (scores,),
            "gamma": (1,),
        }
        wrong = [n for n, shape in shapes.items() if getattr(self, n).shape != shape]
        in_table = (self.places[:-1] >= 0) & (self.places[:-1] < self.places[-1:])
        if wrong or known < 2 or not in_table.all():
            return f"{', '.join(wrong) or 'its classes'} do not fit the rest"
        return None


def _pair_weights(machine: Any) -> NDArray[np.float64]:  # noqa: ANN401 - an SVC
    """Return the weights (pair, vector) of an SVC's pairs of classes."""
    dual = machine.dual_coef_
    ends = np.cumsum(machine.n_support_)
    of = [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    rows = []
    for i, j in combinations(range(len(machine.classes_)), 2):
        row = np.zeros(dual.shape[1])
        row[of[i]], row[of[j]] = dual[j - 1, of[i]], dual[i, of[j]]
        rows.append(row)
    return np.array(rows)


def load_folder(folder: ModelFolder, options: ModelOptions) -> Model:
    """Load the machine of a model folder."""
    return PixelModel(folder.card, Machine.from_arrays(read_arrays(folder)), options)
