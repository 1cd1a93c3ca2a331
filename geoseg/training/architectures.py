"""Networks that can be trained, by what `--arch` calls them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from types import ModuleType
from typing import Any

from geoseg.errors import ModelError
from geoseg.models.card import Card
from geoseg.models.families import FOLDERS
from geoseg.models.forest import KINDS

CLASSICAL = (*KINDS, "svm")
"""Classifiers of pixels by their features."""

_PREFIX = "transformers:"


def family_of(card: Card) -> ModuleType:
    """Return the module with `build` and `save_model` for a card's network."""
    return import_module(FOLDERS[str(card.framework["family"])])


def network_card(
    card: Card, framework: Mapping[str, Any], patch: int, arguments: Mapping[str, Any]
) -> Card:
    """Return the card of a network that is trained on patches of this side.

    It takes windows of the very size it was trained on, also at the edges: networks
    that look at the mean of their whole window see another world in a larger one.
    """
    return replace(
        card,
        window=patch,
        overlap=patch // 4,
        multiple=None,
        framework={**framework, **arguments},
    )


def framework_for(arch: str, encoder: str) -> dict[str, Any]:
    """Return how to build the network that `--arch` and `--encoder` mean.

    Raises:
        ModelError: No network is called so; with the names of all that are known.
    """
    from geoseg.models.hf import TRAINABLE
    from geoseg.models.smp import ARCHITECTURES
    from geoseg.models.torchvision_nets import SEMANTIC

    asked = arch.casefold()
    named = {name.casefold(): name for name in ARCHITECTURES}
    if asked in named:
        return {"family": "smp", "arch": named[asked], "encoder": encoder}
    if asked in SEMANTIC:
        return {"family": "torchvision", "arch": asked}
    prefixed = [f"{_PREFIX}{name}" for name in TRAINABLE]
    if asked in prefixed:
        return {"family": "transformers", "arch": asked.removeprefix(_PREFIX)}
    known = ", ".join(
        [*CLASSICAL, *(a.lower() for a in ARCHITECTURES), *SEMANTIC, *prefixed]
    )
    raise ModelError(f"arch {arch!r} cannot be trained; known are {known}")
