"""From what a text names to a model that is not loaded yet: its card and its loader."""

from __future__ import annotations

import difflib
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from geoseg.errors import ModelError
from geoseg.models import custom
from geoseg.models.families import CLASSICAL, FILES, FOLDERS, FOREIGN, RASTERS
from geoseg.models.folder import CARD, TRAINING, ModelFolder, open_folder
from geoseg.models.identity import OpenedModel, file_sha256, opened
from geoseg.models.networks.hf_config import weights_files
from geoseg.models.plain import read_json
from geoseg.models.stac import card_file
from geoseg.rasters.zarrs import is_zarr

_OF_CHECKPOINTS = ("smp", "torchvision")  # families whose weights torch.save may hold
_DESCRIBED = ("smp", "checkpoint", "onnx")  # whose files say more than the card


def with_file(text: str, file: Path | None, name: str) -> str:
    """Return a text, with the file of the card that it is about."""
    about = "card" in text or repr(name) in text
    if file is None or str(file) in text or not about:
        return text
    return f"{text} ({file})"


def open_named(spec: str) -> OpenedModel:
    """Find the model that a text names, and read its card."""
    head, colon, _ = spec.partition(":")
    if head in CLASSICAL:
        return import_module(CLASSICAL[head]).open_spec(spec)  # type: ignore[no-any-return]
    if head == "hf" and colon:
        return import_module("geoseg.models.networks.hf").open_spec(spec)  # type: ignore[no-any-return]
    path = Path(spec)
    if path.exists():
        try:
            return _open_path(path.resolve())
        except ModelError as error:
            file = card_file(path.resolve())
            raise ModelError(with_file(str(error), file, path.stem)) from error
    close = [f"{n}:" for n in difflib.get_close_matches(head, CLASSICAL, n=1)]
    if custom.is_factory_spec(spec) and not (close and find_spec(head) is None):
        return _open_factory(spec)
    if path.parent.is_dir():
        beside = [each.name for each in path.parent.iterdir()]
        near = difflib.get_close_matches(path.name, beside, n=1)
        close += [str(path.with_name(name)) for name in near]
    known = f"{', '.join(f'{n}:' for n in CLASSICAL)}, hf:owner/name, module:factory"
    raise ModelError(
        f"there is no model {spec!r}: no such file or folder, and none of "
        f"{known}" + (f"; did you mean {close[0]}?" if close else "")
    )


def _instead(path: Path) -> str:
    """Return what a folder without a card is, or how it gets one."""
    if is_zarr(str(path)):
        return f"it is a Zarr, of an image or of masks: {RASTERS}"
    if (path / "saved_model.pb").is_file():
        own = f"geoseg model import dynamicworld {path}"
        return f"Dynamic World is imported by {own}; other networks: {FOREIGN['.pb']}"
    if path.suffix in FOREIGN:
        return FOREIGN[path.suffix]
    if (path / TRAINING).is_file():
        return "its training did not finish: the same geoseg train command goes on"
    return f"geoseg model new {path} writes one"


def _open_path(path: Path) -> OpenedModel:
    """Open a model folder, a card, or a file of an exported model."""
    ending = path.suffix.lower()
    if path.is_file() and ending in FILES:
        return import_module(FILES[ending]).open_file(path)  # type: ignore[no-any-return]
    if path.is_file() and ending != ".json":
        how = f"; {FOREIGN[ending]}" if ending in FOREIGN else ""
        raise ModelError(
            f"{path} is not a model: that is a folder with a card.json, a card itself, "
            f"or a network's file ({', '.join(FILES)}){how}"
        )
    if path.is_dir() and not (path / CARD).is_file():
        if (path / "config.json").is_file():
            return import_module("geoseg.models.networks.hf").open_folder(path)  # type: ignore[no-any-return]
        raise ModelError(
            f"{path} is not a model folder: it holds neither {CARD} nor a transformers "
            f"config.json; {_instead(path)}"
        )
    folder = open_folder(path)
    family = folder.card.framework.get("family")
    config = folder.path / "config.json"
    if family is None and config.is_file():
        family = "smp" if "_model_class" in read_json(config) else "transformers"
    if not isinstance(family, str) or family not in FOLDERS:
        close = difflib.get_close_matches(str(family), FOLDERS, n=1)
        raise ModelError(
            f"the card {card_file(path)} names the family {family!r} in its framework: "
            + (
                f"did you mean {close[0]!r}?"
                if close
                else f'write "framework": {{"family": F}}, one of {", ".join(FOLDERS)}'
            )
        )
    if family in _OF_CHECKPOINTS and folder.weights is not None:
        plain = folder.weights.suffix.lower() != ".safetensors"
        family = "checkpoint" if plain else family
    module = import_module(FOLDERS[family])
    if family in _DESCRIBED:
        folder = replace(folder, card=module.implied(folder))
    load = partial(module.load_folder, folder)
    return opened(path, folder.card, load, *_weights_hashes(folder))


def _weights_hashes(folder: ModelFolder) -> list[str]:
    """Return the hash of the weights that a card names, else of all there are."""
    if folder.sha256 is not None:
        beside = []
        if folder.weights_file.suffix == ".onnx":
            from geoseg.models.networks.onnx_file import data_hashes

            beside = data_hashes(folder.weights_file)
        return [folder.sha256, *beside]
    files = [*folder.path.glob("config.json"), *weights_files(folder.path)]
    return [file_sha256(file) for file in sorted(files)]


def _open_factory(spec: str) -> OpenedModel:
    module, _, attribute = spec.rpartition(":")
    name = f"{Path(module).name}:{attribute}"
    if module.endswith(".py"):
        spec = f"{Path(module).resolve()}:{attribute}"
    thing = custom.make_object(spec)
    card, _ = custom.split_card(thing, name=name)

    return OpenedModel(
        spec=spec,
        card=card,
        content=custom.identity(thing, name=name),
        load=lambda options: custom.wrap(thing, options, name=name),
    )
