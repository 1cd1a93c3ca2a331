"""Channels as a network takes them: steps in time, and kinds of data.

What moves through geoseg is (n, channel, y, x): the bands of the oldest step, then of
the next, then those that are static. A card says how its network takes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from geoseg.models.card import Card


def is_shaped(card: Card) -> bool:
    """Whether a card's network takes more, or other shapes, than (n, channel, y, x)."""
    return card.layout != "flat" or bool(card.modalities) or bool(card.inputs)


def shaped(pixels: Any, card: Card) -> Any:  # noqa: ANN401 - a tensor or an array
    """Return the pixels of windows as a card's network takes them.

    Args:
        pixels: (n, channel, y, x), channels in the card's order.
        card: Tells layout and modalities.

    Returns:
        The same kind of array, or a mapping of the card's modalities to such.
    """
    if not card.modalities:
        return _laid_out(pixels, card, [*range(len(card.bands))])
    return {
        modality: _laid_out(pixels, card, _channels(card, bands))
        for modality, bands in card.modalities.items()
    }


def _channels(card: Card, bands: Sequence[str]) -> list[int]:
    """Return the channels of some bands, those of the oldest step first."""
    of = [i for i, band in enumerate(card.bands) if band.name in bands]
    return sorted(
        of, key=lambda i: (card.bands[i].time or 0, bands.index(card.bands[i].name))
    )


def _laid_out(pixels: Any, card: Card, channels: list[int]) -> Any:  # noqa: ANN401
    """Return some channels, the same bands at each step, in a card's layout."""
    whole = channels == [*range(pixels.shape[1])]
    part = pixels if whole else pixels[:, channels]
    if card.times is None or card.layout == "flat" or card.bands[channels[0]].static:
        return part
    n, count, *sides = part.shape
    steps = card.times.count
    part = part.reshape((n, steps, count // steps, *sides))
    return part if card.layout == "tcyx" else part.swapaxes(1, 2)
