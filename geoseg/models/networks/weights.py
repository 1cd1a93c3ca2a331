"""Weights: from safetensors into a network, and out of one into a model folder."""

from __future__ import annotations

import argparse
import pathlib
import zipfile
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from geoseg.core.files import written
from geoseg.core.text import counted
from geoseg.errors import ModelError, first_line
from geoseg.models.folder import WEIGHTS, write_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch
    from torch import nn

    from geoseg.models.card import Card


_PLAIN: list[Any] = [
    argparse.Namespace, pathlib.PurePosixPath, pathlib.PosixPath, np.dtype,
    np.float64(0).__reduce__()[0], *map(type, map(np.dtype, "?bhilqBHILQefd")),
]  # fmt: skip
"""Values that training keeps beside weights: settings, and NumPy's numbers."""
_YOLO = "; masks of YOLO networks need a function around it, PATH.py:FUNCTION"


class Left:
    """Stands for an object of a class that is neither imported nor made."""

    def __new__(cls, *_: object) -> Self:
        """Take what the object was to be made of, and forget it."""
        return object.__new__(cls)

    def __init__(self, *_: object) -> None:
        """Do nothing."""

    def __setstate__(self, _: object) -> None:
        """Forget what the object held."""


def load_pickled(path: Path, *, leaving: bool = False) -> Any:  # noqa: ANN401
    """Read what `torch.save` wrote, tensors and plain values, and unpickle no code.

    Args:
        path: The file.
        leaving: Put `Left` where objects of other classes are, as trainers keep them
            beside weights, instead of refusing the file.

    Raises:
        ModelError: The file is damaged, or is itself such an object.
    """
    import torch

    others = _others(path)
    stands = [(Left, name) for name in others if leaving]
    try:
        mapped = zipfile.is_zipfile(path)  # before PyTorch 1.6 they were none
        with torch.serialization.safe_globals([*_PLAIN, *stands]):
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise ModelError(
            f"{path} cannot be read as a checkpoint: {first_line(error)}"
        ) from error
    except Exception as error:  # whatever the unpickler refuses
        raise ModelError(_refused(path, others)) from error
    within = [found, *(found.values() if isinstance(found, dict) else ())]
    tables = [each.values() for each in within if isinstance(each, dict)]
    if others and not any(torch.is_tensor(v) for table in tables for v in table):
        raise ModelError(_refused(path, others))  # a whole network, or of one
    return found


def check_tensors(file: Path) -> None:
    """Raise where a file that torch.save wrote is no table of tensors."""
    import torch

    found = load_pickled(file)
    if not isinstance(found, dict) or not all(map(torch.is_tensor, found.values())):
        raise ModelError(
            f"{file} holds no table of named tensors: save the model into its folder "
            "again with save_pretrained"
        )


def _refused(path: Path, others: Sequence[str]) -> str:
    named = f" ({', '.join(others[:3])})" if others else ""
    yolo = _YOLO if any("ultralytics" in name for name in others) else ""
    return (
        f"{path} holds more than tensors and plain values{named}, which geoseg does "
        "not unpickle: where it was trained, save its weights alone, "
        "torch.save(network.state_dict(), PATH), or export it to .onnx or .pt2" + yolo
    )


def _others(path: Path) -> list[str]:
    """Return the classes and functions in a file that is not unpickled, if known."""
    import torch

    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # damaged, or of an older layout  # noqa: BLE001
        return []
    allowed = {f"{c.__module__}.{c.__qualname__}" for c in _PLAIN}
    return sorted(name for name in named if name not in allowed)


def load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Read weights, or raise one line on a file that is damaged or something else."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)  # type: ignore[no-any-return]
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} cannot be read as safetensors: {first_line(error)}"
        ) from error


def fill_weights(
    module: nn.Module, weights: dict[str, torch.Tensor], card: Card
) -> None:
    """Put weights into a network, all of them, or say which do not match."""
    own = module.state_dict()
    _check_classes(own, weights, card)
    problems = [
        *_named("are missing", own.keys() - weights.keys()),
        *_named("are not the network's", weights.keys() - own.keys()),
        *[
            f"{key} is {tuple(weights[key].shape)} instead of {tuple(value.shape)}"
            for key, value in own.items()
            if key in weights and weights[key].shape != value.shape
        ][:3],
    ]
    if problems:
        raise ModelError(
            f"the weights do not fit {card.name!r} "
            f"({card.framework.get('arch', card.framework.get('family', 'network'))}): "
            + "; ".join(problems)
            + '; is it the network that "framework" of its card names?'
        )
    module.load_state_dict(weights, strict=True)


def _named(what: str, keys: set[str]) -> list[str]:
    if not keys:
        return []
    shown = ", ".join(sorted(keys)[:3]) + (", ..." if len(keys) > 3 else "")
    return [f"{len(keys)} tensors {what} ({shown})"]


def _check_classes(
    own: dict[str, torch.Tensor], weights: dict[str, torch.Tensor], card: Card
) -> None:
    """Name the usual mistakes by their meaning: class count, band count."""
    wrong: Callable[[str], bool] = lambda key: (  # noqa: E731
        key in weights and weights[key].shape != own[key].shape
    )
    different = [key for key in own if wrong(key)]
    if not different or weights.keys() != own.keys():
        return
    first, last = different[0], different[-1]
    expected, found = own[last].shape, weights[last].shape
    if len(expected) and len(found) and expected[0] != found[0]:
        classes = len(card.classes)
        if expected[0] == classes:
            raise ModelError(
                f"the card of {card.name!r} has {classes} classes, the weights "
                f'{found[0]} ({last}): write {found[0]} names into "classes"'
            )
    expected, found = own[first].shape, weights[first].shape
    if len(expected) == 4 and len(found) == 4 and expected[1] == len(card.bands):
        raise ModelError(
            f"the card of {card.name!r} has {counted(len(card.bands), 'band')}, "
            f'the weights {found[1]} ({first}): write {found[1]} names into "bands"'
        )


def save_network(
    module: nn.Module, card: Card, folder: Path, build: Callable[[Card], nn.Module]
) -> Path:
    """Write a network and its card as a model folder that `--model` takes.

    Args:
        module: The network.
        card: Its card.
        folder: Where.
        build: Makes the network from the card again, to see that the two fit.
    """
    from safetensors.torch import save_file

    # Copies, since safetensors refuses tensors that share their memory.
    weights = {k: v.detach().cpu().clone() for k, v in module.state_dict().items()}
    weights = {k: v.contiguous() for k, v in weights.items()}
    fill_weights(build(card), weights, card)
    folder.mkdir(parents=True, exist_ok=True)
    with written(folder / WEIGHTS) as part:
        save_file(weights, part)
    return write_folder(card, folder, folder / WEIGHTS)
