"""One folder to share: card and weights of any model that has weights."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from geoseg.errors import ModelError
from geoseg.models.families import CLASSICAL, FILES
from geoseg.models.folder import CARD, open_folder, write_folder
from geoseg.models.load import model_recipe
from geoseg.models.networks.onnx_file import data_files

if TYPE_CHECKING:
    from geoseg.models.card import Card

_FAMILIES = {".pt2": "torch.export", ".onnx": "onnx", ".ckpt": "checkpoint"}
_TRANSFORMERS = ("*.json", "*.safetensors", "merges.txt", "LICENSE*", "README.md")


def pack(spec: str, out: Path, *, overwrite: bool = False) -> Path:
    """Write a model folder that holds everything a model needs.

    Args:
        spec: A model folder or card, an exported file with a card beside it, or a
            folder of transformers.
        out: The folder to write.
        overwrite: Replace what is there.

    Returns:
        The folder; `--model` takes it wherever it is copied to.

    Raises:
        ModelError: There is something already, or nothing that could be packed.
    """
    if out.exists() and any(out.iterdir()) and not overwrite:
        raise ModelError(
            f"{out} is there already: choose another folder, or --overwrite"
        )
    path = Path(spec)
    if spec.partition(":")[0] in CLASSICAL or not path.exists():
        raise ModelError(
            f"{spec!r} is no model folder or file: there is nothing to pack"
        )
    card = model_recipe(spec).card
    if path.is_file() and path.suffix in FILES:
        family = _FAMILIES.get(path.suffix, "torchscript")
        return _pack_weights(_of_family(card, family), path, out)
    folder = path if path.is_dir() else path.parent
    if (folder / "config.json").is_file():
        return _pack_transformers(card, folder, out)
    return _pack_weights(card, open_folder(path).weights, out)


def _of_family(card: Card, family: str) -> Card:
    return replace(card, framework={**card.framework, "family": family})


def _pack_weights(card: Card, weights: Path | None, out: Path) -> Path:
    if weights is not None and weights.suffix == ".onnx":
        for file in data_files(weights):  # the file knows them by their names
            copy = out / file.relative_to(weights.resolve().parent)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, copy)
    return write_folder(card, out, weights)


def _pack_transformers(card: Card, folder: Path, out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    for pattern in _TRANSFORMERS:
        for file in folder.glob(pattern):
            if file.name != CARD:
                shutil.copy2(file, out / file.name)
    return write_folder(_of_family(card, "transformers"), out)
