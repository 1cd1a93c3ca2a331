"""Networks that can be trained, by what `--arch` calls them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from types import ModuleType
from typing import Any

from geoseg.core.text import did_you_mean
from geoseg.errors import ModelError
from geoseg.models.card import Card, Task
from geoseg.models.classical.forest import KINDS
from geoseg.models.families import FOLDERS

CLASSICAL = (*KINDS, "svm")
"""Classifiers of pixels by their features."""

_PREFIX = "transformers:"


def family_of(card: Card) -> ModuleType:
    """Return the module with `build` and `save_model` for a card's network."""
    return import_module(FOLDERS[str(card.framework["family"])])


def network_card(
    card: Card,
    framework: Mapping[str, Any],
    patch: int,
    arguments: Mapping[str, Any],
    task: Task,
) -> Card:
    """Return the card of a network that is trained on patches of this side.

    It takes windows of the very size it was trained on, also at the edges: networks
    that look at the mean of their whole window see another world in a larger one.
    """
    from geoseg.models.networks.hf import QUERIES

    return replace(
        card,
        task=task,
        output="probabilities" if framework["arch"] in QUERIES else "logits",
        window=patch,
        overlap=patch // 4,
        multiple=None,
        framework={**framework, **arguments},
    )


def has_own_loss(card: Card) -> bool:
    """Whether a card's network brings a loss: detectors, and those with queries."""
    from geoseg.models.networks.hf import QUERIES

    return card.task == "instance" or card.framework.get("arch") in QUERIES


def task_of(framework: Mapping[str, Any], asked: Task | None) -> Task:
    """Return the task that a network is trained for: the one asked for, or its first.

    Raises:
        ModelError: It cannot be trained for the one asked for.
    """
    from geoseg.models.networks.hf import QUERIES
    from geoseg.models.networks.torchvision_nets import INSTANCE

    arch = framework.get("arch", "this classifier")
    can: tuple[Task, ...] = ("semantic",)
    if arch in INSTANCE:
        can = ("instance",)
    elif arch in QUERIES:
        can = ("semantic", "instance")
    if asked is None or asked in can:
        return asked or can[0]
    remedy = "use --task " + " or ".join(can)
    if asked == "instance":
        remedy = (
            "use --arch maskrcnn or transformers:mask2former; or train with "
            "--boundary, and segment with --task instance --instances boundary:boundary"
        )
    raise ModelError(f"{arch} cannot be trained for the task {asked}: {remedy}")


def framework_for(arch: str, encoder: str) -> dict[str, Any]:
    """Return how to build the network that `--arch` and `--encoder` mean.

    Raises:
        ModelError: No network is called so; with the names of all that are known.
    """
    from geoseg.models.networks.hf import TRAINABLE
    from geoseg.models.networks.smp import ARCHITECTURES
    from geoseg.models.networks.torchvision_nets import INSTANCE, SEMANTIC

    asked = arch.casefold()
    named = {name.casefold(): name for name in ARCHITECTURES}
    if asked in named:
        return {"family": "smp", "arch": named[asked], "encoder": encoder}
    asked = {"maskrcnn": INSTANCE[0]}.get(asked, asked)
    if asked in (*SEMANTIC, *INSTANCE):
        return {"family": "torchvision", "arch": asked}
    prefixed = [f"{_PREFIX}{name}" for name in TRAINABLE]
    if asked in prefixed:
        return {"family": "transformers", "arch": asked.removeprefix(_PREFIX)}
    known = ", ".join(
        [
            *CLASSICAL,
            *(a.lower() for a in ARCHITECTURES),
            *SEMANTIC,
            *INSTANCE,
            *prefixed,
        ]
    )
    hint = did_you_mean(arch, known.split(", "))
    raise ModelError(f"arch {arch!r} cannot be trained{hint}; known: {known}")
