"""Support vector machines and linear classifiers on pixel features, kept as arrays.

Fitted by scikit-learn: `SVC` with the kernels `rbf` and `linear`, or anything linear
(`LinearSVC`, `LogisticRegression`, `RidgeClassifier`). Scores are the library's
`decision_function`, one per class; the largest is the class. Cortes and Vapnik (1995),
"Support-vector networks", Machine Learning 20, 273-297.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from geoseg.errors import ModelError
from geoseg.models.classical.pixelwise import PixelModel, read_arrays, save

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from geoseg.models.card import Card
    from geoseg.models.classical.features import Features
    from geoseg.models.contract import Model
    from geoseg.models.folder import ModelFolder
    from geoseg.models.networks.device import Options

_ARRAYS = ("mean", "scale", "support", "weights", "intercept", "gamma", "places")
_CHUNK = 1024  # pixels whose distances to all support vectors are held at once
_NEVER = -1e3  # score of a class that no pixel was shown of


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Machine:
    """Kernels between pixels and support vectors, weighted."""

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
        if hasattr(machine, "support_vectors_"):
            if kernel not in {"rbf", "linear"}:
                raise ModelError(f"kernel {kernel!r} is neither rbf nor linear")
            support, weights = machine.support_vectors_, _pair_weights(machine)
            # What gamma="scale" came to stands nowhere else.
            gamma = float(machine._gamma) if kernel == "rbf" else 0.0  # noqa: SLF001
            intercept = machine.intercept_
        else:
            support, gamma = np.zeros((0, features)), 0.0
            weights, intercept = machine.coef_, machine.intercept_
        return cls(
            mean=np.asarray(mean, np.float64),
            scale=np.asarray(scale, np.float64),
            support=np.asarray(support, np.float64),
            weights=np.atleast_2d(np.asarray(weights, np.float64)),
            intercept=np.atleast_1d(np.asarray(intercept, np.float64)),
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

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything by name."""
        return {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Return the machine that arrays from a file hold; they are not trusted.

        Raises:
            ModelError: Arrays are missing, or do not go together.
        """
        missing = [name for name in _ARRAYS if name not in arrays]
        if missing:
            raise ModelError(f"the machine's file lacks {', '.join(missing)}")
        machine = cls(**{name: arrays[name] for name in _ARRAYS})
        known = len(machine.places) - 1
        inner = len(machine.support) or machine.features
        pairs = known * (known - 1) // 2 if len(machine.support) else known
        scores = 1 if known == 2 else pairs
        shapes = {
            "scale": (machine.features,),
            "support": (len(machine.support), machine.features),
            "weights": (scores, inner),
            "intercept": (scores,),
            "gamma": (1,),
        }
        wrong = [n for n, shape in shapes.items() if arrays[n].shape != shape]
        in_table = (machine.places[:-1] >= 0) & (machine.places[:-1] < machine.classes)
        if wrong or known < 2 or not in_table.all():
            raise ModelError(
                f"the machine's file is damaged: {', '.join(wrong) or 'its classes'} "
                "do not go with the rest"
            )
        return machine


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


def load_folder(folder: ModelFolder, options: Options) -> Model:
    """Load the machine of a model folder."""
    return PixelModel(folder.card, Machine.from_arrays(read_arrays(folder)), options)


def save_svm(machine: Machine, features: Features, card: Card, folder: Path) -> Path:
    """Write a machine and its card as a model folder that `--model` takes."""
    return save(machine, features, card, folder, family="svm", output="logits")
