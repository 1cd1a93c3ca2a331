"""Classifiers of pixels by their features: trees, boosted trees, support vectors.

A fitted classifier is a handful of arrays in a safetensors file: nothing is unpickled,
and scikit-learn is not needed to use it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from geoseg.errors import ModelError, first_line
from geoseg.models.classical.features import Features
from geoseg.models.contract import AnyModel
from geoseg.models.folder import WEIGHTS, write_folder
from geoseg.models.networks.single_threads import SingleThreads, forward_threads

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from geoseg.models.card import Card
    from geoseg.models.folder import ModelFolder
    from geoseg.models.networks.device import Options

_KERNELS = 1 << 27  # bytes of the distances to some thousand support vectors


class Classifier(Protocol):
    """What tells classes apart by features."""

    @property
    def classes(self) -> int:
        """How many."""
        ...

    @property
    def features(self) -> int:
        """How many features it needs at least."""
        ...

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return scores (class, y, x) of features (feature, y, x)."""
        ...

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Return everything by name."""
        ...


class PixelModel(AnyModel):
    """A card, features and a classifier, as geoseg's models are."""

    device = "cpu"
    precision = "fp32"

    def __init__(
        self, card: Card, classifier: Classifier, options: Options | None = None
    ) -> None:
        """Check that classifier and card go together.

        Raises:
            ModelError: Another number of classes or of features.
        """
        self.card = card
        self._features = Features.from_dict(card.framework.get("features", {}))
        self._classifier = classifier
        self._threads = SingleThreads(forward_threads())
        self.batch = (options.batch if options else None) or self._threads.count
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
    """Return the arrays of a model folder.

    Raises:
        ModelError: Its weights are no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(folder.weights_file)  # type: ignore[no-any-return]
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{folder.weights_file} cannot be read as safetensors: {first_line(error)}"
        ) from error


def save(
    classifier: Classifier,
    features: Features,
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
    save_file(dict(classifier.arrays()), folder / WEIGHTS)
    return write_folder(card, folder, folder / WEIGHTS)
