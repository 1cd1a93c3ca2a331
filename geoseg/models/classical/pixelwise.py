"""Classifiers of pixels by their features: trees, boosted trees, support vectors.

A fitted classifier is a handful of arrays in a safetensors file: nothing is unpickled,
and scikit-learn is not needed to use it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from geoseg.core.files import written
from geoseg.errors import ModelError
from geoseg.models.classical.pixel_features import PixelFeatures
from geoseg.models.contract import AnyModel
from geoseg.models.folder import WEIGHTS, write_folder
from geoseg.models.networks.single_threads import SingleThreads, forward_threads
from geoseg.models.networks.weights import load_safetensors

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from geoseg.models.card import Card
    from geoseg.models.folder import ModelFolder
    from geoseg.models.networks.device import ModelOptions

_KERNELS = 1 << 27  # bytes of the distances to some thousand support vectors


class Classifier(ABC):
    """What tells classes apart by features: a frozen dataclass of arrays."""

    dtypes: ClassVar[Mapping[str, type[np.generic]]]
    """The arrays by name, and what they are of."""
    kind: ClassVar[str]
    """What messages call it."""

    @property
    @abstractmethod
    def classes(self) -> int:
        """How many."""

    @property
    @abstractmethod
    def features(self) -> int:
        """How many features it needs at least."""

    @abstractmethod
    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return scores (class, y, x) of features (feature, y, x)."""

    @abstractmethod
    def wrong(self) -> str | None:
        """Return what does not go together, of arrays that are not trusted."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything by name."""
        return {name: np.ascontiguousarray(getattr(self, name)) for name in self.dtypes}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Return the classifier that arrays from a file hold; they are not trusted.

        Raises:
            ModelError: Arrays are missing, or do not go together.
        """
        missing = [
            name
            for name, dtype in cls.dtypes.items()
            if name not in arrays or arrays[name].dtype != dtype
        ]
        if missing:
            raise ModelError(
                f"the {cls.kind}'s file lacks {', '.join(missing)}, or their type"
            )
        found = cls(**{name: np.ascontiguousarray(arrays[name]) for name in cls.dtypes})
        wrong = found.wrong()
        if wrong is not None:
            raise ModelError(f"the {cls.kind}'s file is damaged: {wrong}")
        return found


class PixelModel(AnyModel):
    """A card, features and a classifier, as geoseg's models are."""

    device = "cpu"
    precision = "fp32"

    def __init__(
        self, card: Card, classifier: Classifier, options: ModelOptions | None = None
    ) -> None:
        """Check that classifier and card go together.

        Raises:
            ModelError: Another number of classes or of features.
        """
        self.card = card
        self._features = PixelFeatures.from_dict(card.framework.get("features", {}))
        self._classifier = classifier
        self._threads = SingleThreads(forward_threads())
        self.batch = (options.batch if options else None) or self._threads.count
        self.abreast = min(self.batch, self._threads.count)
        family = card.framework.get("family", "classifier")
        expected, found = len(card.classes), classifier.classes
        if expected != found:
            raise ModelError(
                f"the card of {card.name!r} has {expected} classes, the {family} "
                f"{found}"
            )
        count = self._features.count(len(card.bands))
        if classifier.features > count:
            raise ModelError(
                f"the {family} of {card.name!r} looks at feature "
                f"{classifier.features - 1}, but its card makes {count}"
            )

    def working_bytes(self) -> int:
        """Return how much memory the classifier and one batch of windows take."""
        bands, classes = len(self.card.bands), len(self.card.classes)
        count = self._features.count(bands)
        window = self.card.window**2 * (8 * count + 40 * bands + 12 * classes)
        arrays = sum(a.nbytes for a in self._classifier.arrays().values())
        return arrays + self.batch * (window + _KERNELS)

    def predict(self, pixels: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return (n, class, y, x) scores."""

        def one(window: NDArray[np.generic]) -> NDArray[np.float32]:
            return self._classifier.predict(self._features.of(window))

        return np.stack(self._threads.map(one, pixels))


def read_arrays(folder: ModelFolder) -> dict[str, NDArray[Any]]:
    """Return the arrays of a model folder, or raise a ModelError."""
    tensors = load_safetensors(folder.weights_file)
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def save(
    classifier: Classifier,
    features: PixelFeatures,
    card: Card,
    folder: Path,
    *,
    family: str,
    output: Literal["probabilities", "logits"] = "probabilities",
) -> Path:
    """Write a classifier and its card as a model folder that `--model` takes.

    Args:
        classifier: The classifier.
        features: What it looks at.
        card: Its bands are not scaled: features are of the pixels as they are.
        folder: Where.
        family: What kind it is: `forest`, `svm`.
        output: What its scores are.
    """
    from safetensors.numpy import save_file

    framework = {**card.framework, "family": family, "features": features.to_dict()}
    card = replace(card, framework=framework, output=output)
    PixelModel(card, classifier)
    folder.mkdir(parents=True, exist_ok=True)
    with written(folder / WEIGHTS) as part:
        save_file(dict(classifier.arrays()), part)
    return write_folder(card, folder, folder / WEIGHTS)
