"""What `auto` means on a CPU: OpenVINO, where it is there, agrees, and is the quicker.

It is measured once per network and machine and remembered in the user's cache, by the
process that plans: whoever does the work is told. Where nothing can be remembered torch
runs the network, so that one raster has one map.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from time import process_time
from typing import TYPE_CHECKING, Any

from geoseg._version import __version__
from geoseg.core import user_cache
from geoseg.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from geoseg.models.load import ModelRecipe

_FEW = 16
"""Windows of which a run is never worth measuring for."""
_LONG = 20.0
"""CPU seconds of a run in its network that are worth another start: that takes 2-4."""
_WORTH = 0.95
"""Of torch's time: an engine that takes more is not another one."""
_ROUNDS = 3
_KIND = "engines"
"""Of what the user's cache keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """What passes of one window take."""

    seconds: float
    """CPU time by torch."""
    share: float | None = None
    """Of that, by OpenVINO; None: not measured, infinite: it cannot, or disagrees."""


def quickest(recipe: ModelRecipe, windows: int) -> ModelRecipe:
    """Return the recipe with the engine that `auto` means for a run on a CPU.

    What is remembered is known without loading the model.

    Args:
        recipe: The model, with what the user asks for.
        windows: How many the run has, whatever its blocks and workers.
    """
    card, asked = recipe.card, recipe.options.engine == "auto" and windows >= _FEW
    plain = card.task == "semantic" and card.output != "labels" and not card.inputs
    if not (asked and plain and all(map(find_spec, ("torch", "openvino")))):
        return recipe
    folder = user_cache.folder(_KIND)
    if folder is None:
        return recipe
    key = _key(recipe)
    if not (_is_on_cpu(recipe) if (folder / key).is_file() else _is_choice(recipe)):
        return recipe
    other = recipe.with_options(replace(recipe.options, engine="openvino"))
    from filelock import FileLock

    with FileLock(folder / f"{key}.lock"):  # one measures, others wait
        passes = _remembered(key) or _remember(key, Passes(seconds=_timed(recipe)))
        if passes.seconds * windows < _LONG:
            return recipe
        if passes.share is None:
            share = _share(recipe, other)
            passes = _remember(key, replace(passes, share=share))
    worth = passes.share is not None and passes.share <= _WORTH
    (recipe if worth else other).unload()
    return other if worth else recipe


def _is_on_cpu(recipe: ModelRecipe) -> bool:
    """Whether a network runs on the CPU; there may be a GPU since it was measured."""
    from geoseg.models.networks.device import choose_device

    return choose_device(recipe.options.device).type == "cpu"


def _is_choice(recipe: ModelRecipe) -> bool:
    """Whether torch would run windows side by side, and OpenVINO might."""
    model = recipe.load()
    return model.records and model.engine == "threads" and not model.placed


def _key(recipe: ModelRecipe) -> str:
    """Return the name under which times are kept: of network, machine and libraries."""
    from geoseg.models.networks.device import cpu_facts

    card, options = recipe.card, recipe.options
    libraries = [__version__, version("torch"), version("openvino"), *cpu_facts()]
    facts = [recipe.identity, options.precision, card.window, len(card.bands)]
    return hashlib.sha256(json.dumps([*facts, *libraries]).encode()).hexdigest()[:40]


def _remembered(key: str) -> Passes | None:
    try:
        return Passes(**json.loads(user_cache.remembered(_KIND, key) or ""))
    except (ValueError, TypeError):
        return None


def _remember(key: str, passes: Passes) -> Passes:
    user_cache.remember(_KIND, key, json.dumps(asdict(passes)))
    return passes


def _timed(recipe: ModelRecipe) -> float:
    """Return the CPU seconds of a second pass of one window."""
    run = _pass(recipe)
    run()
    return _seconds(run)


def _share(torch_s: ModelRecipe, other: ModelRecipe) -> float:
    """Return the part of torch's time that OpenVINO takes, each at its best."""
    try:
        runs = [_pass(torch_s), _pass(other)]
        if not _agree(torch_s, runs[0](), runs[1]()):
            return float("inf")
    except ModelError:
        return float("inf")  # whoever asks for it hears why
    rounds = [[_seconds(run) for run in runs] for _ in range(_ROUNDS)]
    ours, theirs = (min(each) for each in zip(*rounds, strict=True))
    return float(round(theirs / ours, 3))


def _agree(recipe: ModelRecipe, ours: Any, theirs: Any) -> bool:  # noqa: ANN401
    """Whether OpenVINO's scores are off those in fp32 as rounding explains."""
    from geoseg.inference.device_steps import is_rounding

    options = replace(recipe.options, precision="fp32", engine="threads")
    exact = recipe.with_options(options)
    right = _pass(exact)()
    if exact.load() is not recipe.load():
        exact.unload()
    return is_rounding(theirs, ours, right)[0]


def _pass(recipe: ModelRecipe) -> Callable[[], Any]:
    """Return what passes one window of noise."""
    from geoseg.inference.device_steps import noise_batch

    model = recipe.load()
    pixels = noise_batch(model, 1)[0].numpy()
    return lambda: model.predict(pixels)


def _seconds(run: Callable[[], Any]) -> float:
    begun = process_time()
    run()
    return process_time() - begun
