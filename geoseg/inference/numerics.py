"""What changes the last bits of scores: chosen once per run, before the first window.

`auto` means another precision on another machine. So one process that will do the work
says what it chooses; that travels with the job and stands in the store, and whoever
resumes the run takes it from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast, get_args

from geoseg.execution.engine import engine
from geoseg.models.load import ModelRecipe
from geoseg.models.networks.device import Precision

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True, slots=True, kw_only=True)
class Numerics:
    """How a run computes."""

    precision: str
    """`fp32`, `bf16`, `fp16`, or what the model says of itself, such as `own`."""
    batch: int | None
    """Windows per forward pass, on a GPU; None where it changes no bit."""

    def settings(self) -> dict[str, Any]:
        """Return it as a store keeps it."""
        return asdict(self)


def numerics_here(recipe: ModelRecipe) -> Numerics:
    """Return what this process chooses, by its devices."""
    model = recipe.load()
    # A CPU takes the windows of a batch one by one, side by side.
    batch = model.batch if model.device.startswith("cuda") else None
    return Numerics(precision=model.precision, batch=batch)


def choose_numerics(
    recipe: ModelRecipe,
    *,
    client: Client | None = None,
    begun: Mapping[str, Any] | None = None,
) -> Numerics:
    """Return how a run computes.

    Args:
        recipe: The model, with what the user asks for.
        client: Whose first free worker says what it chooses; None: this process.
        begun: Settings of a store that is resumed, whose numerics it keeps to, save
            where the user asks for others (which the store then refuses, in words).
    """
    asked = recipe.options
    if begun is not None and "precision" in begun:
        precision, batch = begun["precision"], begun.get("batch")
        if asked.precision != "auto" and precision in get_args(Precision):
            precision = asked.precision
        return Numerics(precision=precision, batch=batch and (asked.batch or batch))
    here = numerics_here(recipe)
    if client is None or here.precision not in get_args(Precision):
        return here
    with engine(recipe, client=client) as tasks:
        tasks.submit("numerics", numerics_here)
        outcome = tasks.wait()[0]
    if outcome.error is not None:
        raise outcome.error
    return cast("Numerics", outcome.result)


def keeping_to(recipe: ModelRecipe, numerics: Numerics) -> ModelRecipe:
    """Return the recipe of the model that computes so wherever it is loaded."""
    options = recipe.options
    if numerics.precision in get_args(Precision):
        options = replace(options, precision=cast("Precision", numerics.precision))
    if numerics.batch is not None:
        options = replace(options, batch=numerics.batch)
    return recipe.with_options(options)
