"""The model folder: `card.json` and the weights beside it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from geoseg.errors import ModelError
from geoseg.models.identity import file_sha256
from geoseg.models.stac import WeightsFile, read_item, write_card

if TYPE_CHECKING:
    from geoseg.models.card import Card

CARD = "card.json"
WEIGHTS = "weights.safetensors"
TRAINING = "training/settings.json"
"""What was asked of a training, in the folder of the model that it makes."""
_ENDINGS = frozenset({".safetensors", ".pth", ".pt", ".ckpt", ".pt2", ".onnx"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """A model folder whose card has been read and whose weights have been checked."""

    path: Path
    """The folder."""
    card: Card
    """What `card.json` says."""
    weights: Path | None
    """The file with the weights, inside the folder; None where there is none."""
    sha256: str | None
    """SHA-256 of that file."""

    @property
    def weights_file(self) -> Path:
        """The file with the weights, or raise."""
        if self.weights is None:
            raise ModelError(
                f"the card of {self.card.name!r} names no weights, and there is no "
                f'{WEIGHTS} in {self.path}: write "weights": "FILE" into it'
            )
        return self.weights


def open_folder(path: Path) -> ModelFolder:
    """Read a model folder, or the folder of a card.

    Raises:
        ModelError: The card cannot be read, its weights are missing, lie outside the
            folder, or are not those that the card was written for.
    """
    card_file = path / CARD if path.is_dir() else path
    card, asset = read_item(card_file)
    folder = card_file.parent.resolve()
    asset = asset or _only_weights(folder)
    if asset is None:
        return ModelFolder(path=folder, card=card, weights=None, sha256=None)
    weights = inside(folder, asset.href)
    found = file_sha256(weights)
    if asset.sha256 is not None and asset.sha256 != found:
        raise ModelError(
            f"{weights} is not the file that {card_file.name} was written for: SHA-256 "
            f"{found[:12]}..., expected {asset.sha256[:12]}..."
        )
    return ModelFolder(path=folder, card=card, weights=weights, sha256=found)


def _only_weights(folder: Path) -> WeightsFile | None:
    """Return the usual weights of a folder whose card names none, or its only ones."""
    if (folder / WEIGHTS).is_file():
        return WeightsFile(href=WEIGHTS, sha256=None)
    files = [file.name for file in folder.iterdir() if file.suffix in _ENDINGS]
    if len(files) != 1 or (folder / "config.json").is_file():  # a library's own folder
        return None
    return WeightsFile(href=files[0], sha256=None)


def inside(folder: Path, href: str) -> Path:
    """Return the file that a card's relative reference names, inside its folder only.

    A card is data from somewhere else: it must not make geoseg read other files.
    """
    relative = PurePosixPath(unquote(href))
    parts = urlsplit(href)
    if (
        parts.scheme
        or parts.netloc
        or relative.is_absolute()
        or ".." in relative.parts
        or "\\" in href
        or "\0" in href
    ):
        raise ModelError(f"the card refers to {href!r}, outside its folder {folder}")
    path = folder.joinpath(*relative.parts)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ModelError(f"{path} is a link out of the model folder {folder}")
    if not path.is_file():
        raise ModelError(f"the model folder {folder} lacks the file {href!r}")
    return path


def write_folder(card: Card, folder: Path, weights: Path | None = None) -> Path:
    """Write a model folder to share.

    Args:
        card: The model's card.
        folder: Where; made if it is not there. An existing card is replaced.
        weights: The file with the weights; copied in unless it lies there already.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if weights is not None and weights.resolve().parent != folder.resolve():
        weights = Path(shutil.copy2(weights, folder / weights.name))
    write_card(card, folder / CARD, weights=weights)
    if weights is not None:
        # safetensors writes for the owner alone; who may read the card may read these.
        weights.chmod((folder / CARD).stat().st_mode)
    return folder
