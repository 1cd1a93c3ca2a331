"""What changes the last bits of scores: chosen once per run, before the first window.

`auto` means another precision on another machine. So one process that will do the work
says what it chooses; that travels with the job and stands in the store, and whoever
resumes the run takes it from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from socket import gethostname
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from geoseg.execution.engine import ask_one
from geoseg.inference.sites import Site, gpu_name, leaving_with_device
from geoseg.inference.unmeasured import check_answers
from geoseg.models.load import ModelRecipe
from geoseg.models.networks.device import EngineName, Precision, is_out_of_memory
from geoseg.models.networks.gpus import is_measured

if TYPE_CHECKING:
    from distributed import Client

_SAVED = 0.4
"""Of a run's time in the network, by compiling it; seen of U-Nets on a GPU."""
_COMPILING, _TRACING = 25.0, 5.0
"""Seconds that it takes to compile, and to load what was compiled before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Numerics:
    """How a run computes."""

    precision: str
    """`fp32`, `bf16`, `fp16`, or what the model says of itself, such as `own`."""
    batch: int | None
    """Windows per step, where that changes bits; None: it changes none."""
    engine: Literal["torch", "compile", "openvino"] | None = None
    """What runs batches on a device, or windows on a CPU; None: torch runs windows side
    by side, or the model its own way."""
    card: str | None = None
    """What the GPU is called; None on a processor."""

    def settings(self) -> dict[str, Any]:
        """Return it as a store keeps it."""
        facts = asdict(self)
        optional = ("engine", "card")
        return {k: v for k, v in facts.items() if v is not None or k not in optional}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What one process chose for all."""

    numerics: Numerics
    notes: tuple[str, ...] = ()
    """What did not work, a line each."""
    code: bytes | None = None
    """The compiled step, for processes elsewhere."""


def choose_here(recipe: ModelRecipe, windows: int, *, travels: bool = False) -> Choice:
    """Return what this process chooses, by its devices.

    Args:
        recipe: The model.
        windows: How many the run has; a long run is worth compiling for.
        travels: Whether compiled code is wanted elsewhere.
    """
    model = recipe.load()
    check_answers(recipe)
    card = gpu_name(model)
    # A CPU takes the windows of a batch one by one, side by side.
    batch = model.batch if card or model.streams else None
    numerics = Numerics(precision=model.precision, batch=batch, card=card)
    if not model.streams:
        return _on_a_cpu(recipe, numerics)
    assert batch is not None
    numerics = replace(numerics, engine="torch")
    scores = model.card.task == "semantic" and model.card.output != "labels"
    if not (scores and model.records):
        note = (
            "--engine compile is for networks of PyTorch that answer scores: this one "
            "runs as it is"
        )
        notes = (note,) if recipe.options.engine == "compile" else ()
        return Choice(numerics=numerics, notes=notes)
    if not is_measured(model.device) or not _pays(recipe, batch, windows):
        return Choice(numerics=numerics)
    from geoseg.inference.device_steps import code_of, compiled_step
    from geoseg.models.engines.compiled import CompileError

    try:
        compiled_step(recipe, batch)
    except CompileError as error:
        note = f"{error}: PyTorch runs it as it is, which takes longer"
        return Choice(numerics=numerics, notes=(note,))
    code = code_of(recipe, batch) if travels else None
    return Choice(numerics=replace(numerics, engine="compile"), code=code)


def _on_a_cpu(recipe: ModelRecipe, numerics: Numerics) -> Choice:
    """Return the choice with OpenVINO where that is asked for."""
    if recipe.options.engine != "openvino":
        return Choice(numerics=numerics)
    if recipe.load().engine == "openvino":
        return Choice(numerics=replace(numerics, engine="openvino"))
    note = "--engine openvino is for networks of torch: this model runs its own way"
    return Choice(numerics=numerics, notes=(note,))


def _pays(recipe: ModelRecipe, batch: int, windows: int) -> bool:
    """Whether compiled code is asked for, or saves more time than it takes."""
    if recipe.options.engine != "auto":
        return recipe.options.engine == "compile"
    if recipe.tta or recipe.scales or isinstance(recipe.spec, tuple):
        return False  # its step would be as many networks in a row
    from geoseg.inference.device_steps import eager_seconds, is_compiled

    costs = _TRACING if is_compiled(recipe, batch) else _COMPILING
    try:
        seconds = windows / batch * eager_seconds(recipe, batch)
    except RuntimeError as error:
        if is_out_of_memory(error):
            return False  # the run halves the batch
        raise
    return seconds * _SAVED > costs


def choose_numerics(
    recipe: ModelRecipe,
    windows: int,
    *,
    engine: EngineName,
    site: Site,
    client: Client | None = None,
    begun: Mapping[str, Any] | None = None,
) -> Choice:
    """Return how a run computes.

    Args:
        recipe: The model, with what the user asks for.
        windows: How many the run has.
        engine: What the user asks for; the recipe's is what `auto` means here.
        site: What was planned for.
        client: Of whose workers one says what it chooses; None: this process.
        begun: Settings of a store that is resumed, whose numerics it keeps to, save
            where the user asks for others (which the store then refuses, in words).
    """
    asked = recipe.options
    if begun is not None and "precision" in begun:
        precision, batch = begun["precision"], begun.get("batch")
        kept = begun.get("engine")
        if asked.precision != "auto" and precision in get_args(Precision):
            precision = asked.precision
        if engine != "auto" and (kept or engine == "openvino"):
            kept = engine if engine != "threads" else None
        numerics = Numerics(
            precision=precision,
            batch=batch and (asked.batch or batch),
            engine=kept,
            card=begun.get("card"),
        )
        return Choice(numerics=numerics)
    if client is None or site.precision not in get_args(Precision):
        return choose_here(recipe, windows)
    planned = site.precision if asked.engine != engine else None
    batch = site.batch if site.card is not None else asked.batch
    recipe = recipe.with_options(replace(asked, engine=engine, batch=batch))
    return ask_one(client, recipe, _chosen, windows, planned, worker=site.asked)


def _chosen(recipe: ModelRecipe, windows: int, planned: str | None) -> Choice:
    """Return what a worker chooses.

    Args:
        recipe: The model, as the user asks for it.
        windows: How many the run has.
        planned: The precision in which OpenVINO was found the quicker engine of a CPU
            by the process that planned; None: it was not. Workers measure nothing.
    """
    with leaving_with_device():
        choice = choose_here(recipe, windows, travels=True)
    chosen = choice.numerics
    if planned != chosen.precision or chosen.engine or chosen.card:
        return choice
    if find_spec("openvino") is None:
        note = f"{gethostname()} has no OpenVINO: PyTorch runs the network, slower"
        return replace(choice, notes=(note,))
    recipe.unload()
    return replace(choice, numerics=replace(chosen, engine="openvino"))


def keeping_to(recipe: ModelRecipe, numerics: Numerics) -> ModelRecipe:
    """Return the recipe of the model that computes so wherever it is loaded."""
    options = recipe.options
    if numerics.precision in get_args(Precision):
        options = replace(options, precision=cast("Precision", numerics.precision))
    if numerics.batch is not None:
        options = replace(options, batch=numerics.batch)
    engine: EngineName | None = numerics.engine
    if engine is None and options.engine == "openvino":  # which `auto` means here only
        engine = "threads"
    if engine is not None:
        options = replace(options, engine=engine)
    return recipe.with_options(options)
