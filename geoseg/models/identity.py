"""What makes a model the same model: hashes of cards and weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from geoseg.errors import ModelError
from geoseg.models.plain import card_to_dict

if TYPE_CHECKING:
    from geoseg.models.card import Card
    from geoseg.models.contract import Model
    from geoseg.models.networks.device import Options


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A model that has been found and whose card has been read; not yet loaded."""

    spec: str
    """How to find it again, from any folder: paths are absolute."""
    card: Card
    """Its card."""
    content: str
    """SHA-256 of card and weights, or of card and code."""
    load: Callable[[Options], Model]
    """Reads the weights and returns the model."""
    load_as: Callable[[Card, Options], Model] | None = None
    """The same for a card with another task, where the network can do several."""


def content_hash(card: Card, *parts: str) -> str:
    """Return the SHA-256 of a card and whatever else makes a model what it is."""
    facts = [jsonable(card_to_dict(card)), *parts]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error


def jsonable(value: object) -> object:
    """Return the value with tuples as lists and what JSON lacks as text."""
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    return repr(value)
