"""What makes a model the same model: hashes of cards and weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.errors import ModelError
from geoseg.models.plain import card_to_dict

if TYPE_CHECKING:
    from geoseg.models.card import Card
    from geoseg.models.contract import Model
    from geoseg.models.networks.device import ModelOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedModel:
    """A model that has been found and whose card has been read; not yet loaded."""

    spec: str
    """How to find it again, from any folder: paths are absolute."""
    card: Card
    """Its card."""
    content: str
    """SHA-256 of card and weights, or of card and code."""
    load: Callable[[ModelOptions], Model]
    """Reads the weights and returns the model."""
    load_as: Callable[[Card, ModelOptions], Model] | None = None
    """The same for a card with another task, where the network can do several."""


def opened(
    spec: object, card: Card, load: Callable[[ModelOptions], Any], *parts: str
) -> OpenedModel:
    """Return a model that has been found.

    Args:
        spec: How to find it again.
        card: Its card.
        load: Reads the weights.
        parts: What makes it what it is, beside its card: hashes of files.
    """
    content = content_hash(card, *parts)
    return OpenedModel(spec=str(spec), card=card, content=content, load=load)


def content_hash(card: Card, *parts: str) -> str:
    """Return the SHA-256 of a card and whatever else makes a model what it is."""
    facts = json.dumps([card_to_dict(card), *parts], sort_keys=True, default=repr)
    return hashlib.sha256(facts.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
