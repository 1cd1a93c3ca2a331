"""Several looks at a window averaged: turned, mirrored, resized, by several models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from geoseg.errors import ModelError
from geoseg.models.contract import AnyModel
from geoseg.models.scales import seen_at, there_at

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from geoseg.core.grid import Window
    from geoseg.models.card import Card
    from geoseg.models.context import Context
    from geoseg.models.contract import Model

Ask = Callable[[Any, Any], Any]
"""Gives a model what it sees of a batch of windows, and returns its scores."""

TTA = ("d4", "flips")
"""Ways of looking: all eight turns and mirrors of a square, or the four mirrors."""
_SMALLEST, _LARGEST = 0.25, 4.0  # scales


def probabilities(scores: torch.Tensor | NDArray[Any], card: Card) -> torch.Tensor:
    """Return scores (n, class, y, x) as probabilities in fp32, on their device."""
    x = torch.as_tensor(scores).float()
    if card.output == "probabilities":
        return x.clamp(0, 1)
    return x.softmax(1) if card.activation == "softmax" else x.sigmoid()


def augmented_card(card: Card, tta: str | None, scales: Sequence[float] = ()) -> Card:
    """Return the card of a model that looks several times.

    Raises:
        ModelError: The way is not known, or the model answers no scores.
    """
    if tta is not None and tta not in TTA:
        raise ModelError(f"tta {tta!r} is not one of {', '.join(TTA)}")
    wrong = [s for s in scales if not _SMALLEST <= s <= _LARGEST]
    if wrong or len(set(scales)) < len(scales):
        raise ModelError(
            f"scales {', '.join(f'{s:g}' for s in scales)} must be different numbers "
            f"from {_SMALLEST} to {_LARGEST}, such as 0.5,1,2"
        )
    what = "looking at several scales" if tta is None else "test-time augmentation"
    _check_scores(card, what)
    ways: dict[str, Any] = {} if tta is None else {"tta": tta}
    ways |= {"scales": list(scales)} if scales else {}
    return replace(card, output="probabilities", facts={**card.facts, **ways})


def _check_scores(card: Card, what: str) -> None:
    if card.task != "semantic" or card.output == "labels":
        answer = card.task if card.task != "semantic" else card.output
        raise ModelError(
            f"{what} averages scores of classes, but {card.name!r} answers {answer}"
        )


class Combined(AnyModel):
    """What augmented and averaged models share.

    Attributes:
        card: Answers probabilities.
    """

    def __init__(self, card: Card, models: Sequence[Model]) -> None:
        self.card = card
        self.device = models[0].device
        self.precision = "+".join(dict.fromkeys(m.precision for m in models))
        self.engine = models[0].engine
        self.streams = all(m.streams and m.device == self.device for m in models)
        self.placed = any(m.placed for m in models)
        self.records = all(m.records for m in models)
        self._models = models

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of any model's answers."""
        return tuple(dict.fromkeys(n for model in self._models for n in model.notes))

    @property
    def batch(self) -> int:  # type: ignore[override]
        """Windows in work at once."""
        return min(model.batch for model in self._models)

    def with_context(self, context: Context) -> Self:
        """Return the same, of models that know what the raster tells."""
        self._models = [model.with_context(context) for model in self._models]
        return self

    def predict(self, pixels: NDArray[np.generic]) -> torch.Tensor:
        """Return (n, class, y, x) mean probabilities."""
        return self._mean(pixels, lambda model, seen: model.predict(seen))

    def predict_at(
        self,
        pixels: NDArray[np.generic],
        windows: Sequence[Window],
        valid: NDArray[np.bool_],
    ) -> torch.Tensor:
        """Likewise, of models that are told where windows lie."""
        return self._mean(
            pixels, lambda model, seen: model.predict_at(seen, windows, valid)
        )

    def _mean(self, pixels: NDArray[np.generic], ask: Ask) -> torch.Tensor:
        raise NotImplementedError

    def kernels(self) -> AbstractContextManager[None]:
        """Return the models' context."""
        return self._models[0].kernels()

    @property
    def modules(self) -> tuple[torch.nn.Module, ...]:
        """The networks of all models."""
        return tuple(module for model in self._models for module in model.modules)

    def working_bytes(self) -> int:
        """Return how much memory the models take, and two averages."""
        card = self.card
        own = 2 * 4 * self.batch * card.channels * card.window**2
        return own + sum(model.working_bytes() for model in self._models)


class Augmented(Combined):
    """A model that looks at every window turned, mirrored and resized, and averages."""

    def __init__(
        self, model: Model, tta: str | None, scales: Sequence[float] = ()
    ) -> None:
        super().__init__(augmented_card(model.card, tta, scales), [model])
        turns = {None: (0,), "d4": range(4), "flips": (0, 2)}[tta]
        mirrors = (False,) if tta is None else (False, True)
        self._ways = [
            (scale, turn, mirrored)
            for scale in scales or (1.0,)
            for turn in turns
            for mirrored in mirrors
        ]
        self._most = max(scales, default=1.0)

    def working_bytes(self) -> int:
        """Return how much memory the model takes at the largest scale."""
        factor = max(1.0, self._most if self.card.multiple else 1.0) ** 2
        return int(factor * super().working_bytes())

    def _mean(self, pixels: NDArray[np.generic], ask: Ask) -> torch.Tensor:
        return _mean(self._look(pixels, ask, *way) for way in self._ways)

    def _look(
        self,
        pixels: NDArray[np.generic],
        ask: Ask,
        scale: float,
        turn: int,
        mirrored: bool,
    ) -> torch.Tensor:
        """Return probabilities of the window seen one way, put back upright."""
        model = self._models[0]

        def predict(seen: NDArray[Any]) -> torch.Tensor:
            seen = np.ascontiguousarray(seen)
            return probabilities(ask(model, seen), model.card)

        seen = np.rot90(pixels, turn, axes=(2, 3))
        seen = seen[..., ::-1] if mirrored else seen
        found = seen_at(predict, seen, scale, model.card)
        return (found.flip(-1) if mirrored else found).rot90(-turn, (2, 3))

    def scores(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (n, class, y, x) mean probabilities, on the device."""
        return _mean(self._look_there(pixels, *way) for way in self._ways)

    def _look_there(
        self, pixels: torch.Tensor, scale: float, turn: int, mirrored: bool
    ) -> torch.Tensor:
        """Do as `_look` with windows on the device."""
        model = self._models[0]

        def predict(seen: torch.Tensor) -> torch.Tensor:
            return probabilities(model.scores(seen), model.card)

        seen = pixels.rot90(turn, (2, 3))
        seen = seen.flip(-1) if mirrored else seen
        found = there_at(predict, seen, scale, model.card)
        return (found.flip(-1) if mirrored else found).rot90(-turn, (2, 3))


class Ensemble(Combined):
    """Several models that look at the same window; their probabilities are averaged."""

    def __init__(self, models: Sequence[Model]) -> None:
        card = ensemble_card([model.card for model in models])
        super().__init__(card, models)
        names = [(band.name, band.time) for band in card.bands]
        self._bands = [
            [names.index((b.name, b.time)) for b in m.card.bands] for m in models
        ]
        self._order = [
            [[c.name for c in m.card.classes].index(c.name) for c in card.classes]
            for m in models
        ]

    def _mean(self, pixels: NDArray[np.generic], ask: Ask) -> torch.Tensor:
        return _mean(
            probabilities(
                ask(model, np.ascontiguousarray(pixels[:, bands])), model.card
            )[:, order]
            for model, bands, order in zip(
                self._models, self._bands, self._order, strict=True
            )
        )

    def scores(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (n, class, y, x) mean probabilities, on the device."""
        return _mean(
            probabilities(model.scores(pixels[:, bands]), model.card)[:, order]
            for model, bands, order in zip(
                self._models, self._bands, self._order, strict=True
            )
        )


def _mean(parts: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the mean, holding two parts at most."""
    rest = iter(parts)
    total, count = next(rest).clone(), 1
    for part in rest:
        total.add_(part.to(total.device))
        count += 1
    return total.div_(count)


def ensemble_card(cards: Sequence[Card]) -> Card:
    """Return the card of several models: all their bands, their common classes.

    Windows are the first model's; the others must take them.

    Raises:
        ModelError: The models tell different classes apart, answer no scores, or take
            other windows.
    """
    first = cards[0]
    names = sorted(c.name for c in first.classes)
    for card in cards:
        _check_scores(card, "an ensemble")
        if sorted(c.name for c in card.classes) != names:
            raise ModelError(
                f"{first.name!r} and {card.name!r} have different classes: "
                f"{', '.join(names)}; {', '.join(c.name for c in card.classes)}"
            )
        if not _takes(card, first.window):
            raise ModelError(
                f"{card.name!r} takes windows of {card.window} px only, {first.name!r} "
                f"has {first.window} px: name it first, or change a card"
            )
        if card.times != first.times:
            raise ModelError(
                f"{first.name!r} and {card.name!r} take different steps in time, and "
                "models of an ensemble must take the same"
            )
    bands = {(b.time, b.name): b for card in cards for b in card.bands}
    fills = {card.fill for card in cards}
    return replace(
        first,
        name=" + ".join(card.name for card in cards),
        bands=tuple(
            sorted(bands.values(), key=lambda b: math.inf if b.time is None else b.time)
        ),
        layout="flat",  # each of them takes them as its own card says
        modalities={},
        inputs=(),
        output="probabilities",
        overlap=max(min(card.overlap, first.window // 2) for card in cards),
        multiple=_common_multiple([card.multiple for card in cards]),
        fill=first.fill if len(fills) == 1 else None,
    )


def _takes(card: Card, window: int) -> bool:
    if card.window == window:
        return True
    return card.multiple is not None and window % card.multiple == 0


def _common_multiple(multiples: Sequence[int | None]) -> int | None:
    whole = [m for m in multiples if m is not None]
    return int(np.lcm.reduce(whole)) if len(whole) == len(multiples) else None
