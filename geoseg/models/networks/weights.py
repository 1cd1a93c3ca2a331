"""Weights: from safetensors into a network, and out of one into a model folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from geoseg.core.files import written
from geoseg.core.text import counted
from geoseg.errors import ModelError, first_line
from geoseg.models.folder import WEIGHTS, write_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch
    from torch import nn

    from geoseg.models.card import Card


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
