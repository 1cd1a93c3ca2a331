"""What a card warns of: a model that is good for a single raster, and for no other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from geoseg.core.grid import Grid
from geoseg.models.card import Card


def cautions(card: Card, grid: Grid) -> tuple[str, ...]:
    """Return in a line each what is to be known of a model on a raster.

    A card's fact `warning` is a sentence that holds everywhere; its fact `only_for` has
    another, and `shape` and `transform` of the one grid on which it does not hold.

    Args:
        card: The model's.
        grid: The raster's, before anything is resampled or cut.
    """
    always = card.facts.get("warning")
    found = () if always is None else (str(always),)
    told = card.facts.get("only_for")
    if not isinstance(told, Mapping) or _is_grid(told, grid):
        return found
    return (*found, str(told.get("warning", "")))


def _is_grid(told: Mapping[str, Any], grid: Grid) -> bool:
    shape, transform = told.get("shape"), told.get("transform")
    return shape == [grid.height, grid.width] and np.allclose(
        np.asarray(transform, float), grid.transform[:6]
    )
