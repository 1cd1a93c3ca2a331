"""What every model offers, whatever family it is of."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self, runtime_checkable

from geoseg.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from geoseg.core.grid import Window
    from geoseg.models.card import Card
    from geoseg.models.context import Context
    from geoseg.rasters.open import Source


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Objects:
    """What an instance or panoptic model sees in one window.

    `geoseg.models.objects.from_masks` makes one from masks that overlap each other.
    """

    labels: NDArray[np.integer[Any]]
    """(y, x) the object of each pixel, 1 … k; 0 where there is none. An object that the
    window cuts is given as far as it is seen; it may have several parts."""
    classes: NDArray[np.integer[Any]]
    """(k,) the class value of each object."""
    scores: NDArray[np.floating[Any]]
    """(k,) how sure the model is of each object, 0 … 1."""
    semantic: torch.Tensor | NDArray[np.floating[Any]] | None = None
    """(class, y, x) scores of all classes, as `card.output` says, on any device; only
    panoptic models have them."""


@runtime_checkable
class AnyModel(Protocol):
    """What is asked of every model; a class that derives from it gets the defaults.

    A model is loaded once per process and used by one thread at a time, or by as many
    as are `abreast`. It is never sent between processes: what travels is the recipe
    that loads it (`ModelRecipe`).
    A user's own object needs `card` and `predict` only; `load_model` adds the rest.
    """

    card: Card
    """What it expects and answers."""
    batch: int = 1
    """Windows per call that suit it; it may shrink when memory runs out."""
    abreast: int = 1
    """How many threads may ask at once, each about one window; 1: it wants batches."""
    device: str = "own"
    """Where it computes: `cpu`, `cuda:0`; `own` where it decides itself."""
    precision: str = "own"
    """`fp32`, `bf16`, `fp16`, or `own`."""
    engine: str = "own"
    """`threads`, `torch`, `compile`, `openvino`, or `own`."""
    streams: bool = False
    """Whether windows that lie on its device can be given to `scores`, so that cutting,
    blending and labelling happen there."""
    records: bool = True
    """Whether torch can record or compile what `scores` does."""
    placed: bool = False
    """Whether the answer depends on where a window lies, or on which of its pixels are
    valid (seeds, prompts): then `predict_at` is asked instead of `predict`."""
    fits: bool = False
    """Whether it looks at the whole raster once, before the run (k-means, Otsu)."""
    takes_prompts: bool = False
    """Whether it answers what the points, boxes and polygons of a file ask for."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} with {self.card!r}>"

    def predict(self, pixels: NDArray[np.generic]) -> Any:  # noqa: ANN401 - see below
        """Segment a batch of windows; see `Model` and `InstanceModel`."""
        ...

    def predict_at(
        self,
        pixels: NDArray[np.generic],
        windows: Sequence[Window],  # noqa: ARG002 - of those that are `placed`
        valid: NDArray[np.bool_],  # noqa: ARG002
    ) -> Any:  # noqa: ANN401
        """Segment a batch of windows, told where they are.

        Args:
            pixels: (n, band, y, x), as for `predict`.
            windows: Where each of them lies in the raster, and perhaps beyond it.
            valid: (n, y, x) which pixels are valid.

        Returns:
            What `predict` returns.
        """
        return self.predict(pixels)

    def scores(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return scores of windows on the device, where the model `streams`.

        Tensors in, tensors out: nothing waits for the device, and it can be compiled.

        Args:
            pixels: (n, band, y, x) float32 on the device, as for `predict`.

        Returns:
            (n, class, y, x) floating scores, on the device.
        """
        raise ModelError(f"{self.card.name} takes arrays only, not {pixels.device}")

    def kernels(self) -> AbstractContextManager[None]:
        """Return a context in which kernels answer alike from run to run."""
        return nullcontext()

    @property
    def modules(self) -> tuple[torch.nn.Module, ...]:
        """The networks that `scores` passes windows through."""
        return ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of its answers, once `working_bytes` was asked for."""
        return ()

    def working_bytes(self) -> int:
        """Return how much memory the model and one batch of windows take.

        By default a generous guess of what a network would.
        """
        card = self.card
        if card.output == "labels":
            return 0
        return self.batch * card.window**2 * 4 * (64 + 4 * card.channels)

    def fit(self, source: Source) -> Self:  # noqa: ARG002
        """Return the model fitted to the raster.

        Same raster, same result, whatever the blocks and workers: statistics are taken
        over the whole raster, or over a seeded sample of it.
        """
        return self

    def with_context(self, context: Context) -> Self:  # noqa: ARG002
        """Return the model that knows what the raster tells beside its pixels.

        It is told what its card's `inputs` ask for, before its first window.
        """
        return self

    def parameters(self) -> dict[str, Any]:
        """Return what was learned, as JSON-able values; it travels with the recipe."""
        return {}

    def with_parameters(self, parameters: Mapping[str, Any]) -> Self:  # noqa: ARG002
        """Return the model that `parameters()` of a fitted one describes."""
        return self


@runtime_checkable
class Model(AnyModel, Protocol):
    """A card and a predict function on a batch of windows: classes of pixels."""

    def predict(
        self, pixels: NDArray[np.generic]
    ) -> torch.Tensor | NDArray[np.generic]:
        """Segment a batch of windows.

        Args:
            pixels: (n, band, y, x), bands in the card's order, in the raster's own
                dtype and units, with the card's fill already under nodata.

        Returns:
            Where `card.output` is `labels`: (n, y, x) integers, values of the class
            table. Else (n, class, y, x) floating scores, on any device. The answer for
            a window must not depend on its place in the batch or on the others in it.
        """
        ...


@runtime_checkable
class InstanceModel(AnyModel, Protocol):
    """A model whose card's task is `instance` or `panoptic`; else as `Model`."""

    def predict(self, pixels: NDArray[np.generic]) -> Sequence[Objects]:
        """Find the objects of a batch of windows.

        Args:
            pixels: (n, band, y, x), as for `Model`.

        Returns:
            The objects of each window, n of them. Each window is cut to what it may
            claim and stitched with its neighbours afterwards.
        """
        ...


class OnlyPlaced:
    """Of a model whose answer is another one in another place."""

    __slots__ = ()
    card: Card
    placed = True

    def predict(self, pixels: NDArray[np.generic]) -> NoReturn:
        """Raise: what a window shows does not say where it lies."""
        raise ModelError(
            f"{self.card.name} needs to know where windows of {pixels.shape} lie: "
            "predict_at"
        )
