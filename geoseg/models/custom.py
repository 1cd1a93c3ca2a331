"""The user's own code: `module:factory`, `file.py:factory`, or a Python object.

A ten-line file is a model. Its code runs as the user's own: geoseg only calls it.

    import numpy as np

    def model():
        card = {"bands": ["green", "nir"], "classes": ["dry", "water"],
                "output": "labels", "overlap": 0}
        return card, lambda pixels: (pixels[:, 0] > pixels[:, 1]).astype(np.uint8)
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import fields, is_dataclass
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

import numpy as np

from geoseg.errors import GeosegError, ModelError, first_line
from geoseg.models.card import Card
from geoseg.models.context import Context, extras
from geoseg.models.contract import AnyModel
from geoseg.models.layout import shaped
from geoseg.models.networks.device import ModelOptions
from geoseg.models.objects import check_objects
from geoseg.models.plain import card_from_dict, card_to_dict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    import torch
    from numpy.typing import NDArray

    from geoseg.core.grid import Window
    from geoseg.rasters.open import Source

_SPEC = re.compile(
    r"(?P<module>(?:[A-Za-z]:(?=[\\/]))?[^:]+):(?P<attribute>[A-Za-z_][\w.]*)"
)
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class _SourceOnly(SourceFileLoader):
    """Reads code from its source, never from what Python compiled of it before.

    Python takes compiled code for current where the file has the same size and was
    changed in the same second.
    """

    def path_stats(self, path: str) -> NoReturn:
        """Say that compiled code cannot be compared; see `importlib.abc`."""
        raise OSError(f"{path} is read from its source")


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """Say in a line what somebody's code was doing when it failed."""
    try:
        yield
    except GeosegError:
        raise
    except Exception as error:
        raise ModelError(
            f"{what}: {type(error).__name__}: {first_line(error)}"
        ) from error


class ObjectModel(AnyModel):
    """A card and the user's own function, or object, on a batch of windows.

    What the object says of itself (`batch`, `predict_at`, `fit`, …, see `AnyModel`)
    is taken from it.

    Attributes:
        card: What it expects and answers.
        target: The user's own.
    """

    def __init__(self, card: Card, target: object, options: ModelOptions) -> None:
        own: Any = target
        self.card, self.target, self._options = card, own, options
        self.batch = options.batch or int(getattr(own, "batch", 1))
        self.device = str(getattr(own, "device", "own"))
        self.precision = str(getattr(own, "precision", "own"))
        self.placed = hasattr(own, "predict_at") and getattr(own, "placed", True)
        self.placed = self.placed or "location" in card.inputs
        self._context: Context | None = None
        fits = all(map(partial(hasattr, own), ("fit", "parameters", "with_parameters")))
        self.fits = fits and getattr(own, "fits", True)

    def predict(self, pixels: NDArray[np.generic]) -> Any:  # noqa: ANN401
        """Call the user's function and check the shape of what it answers."""
        if self.card.inputs and self._context is None:
            raise ModelError(
                f"{self.card.name!r} asks for {', '.join(self.card.inputs)} beside the "
                "pixels: give them with with_context"
            )
        return self._asked(pixels, None)

    def _asked(
        self, pixels: NDArray[np.generic], places: NDArray[np.float32] | None
    ) -> Any:  # noqa: ANN401
        more = extras(self.card, self._context, len(pixels), places)
        return self._answer(getattr(self.target, "predict", self.target), pixels, *more)

    def with_context(self, context: Context) -> Self:
        """Return the model, which knows what the raster tells from now on."""
        self._context = context
        return self

    def predict_at(
        self,
        pixels: NDArray[np.generic],
        windows: Sequence[Window],
        valid: NDArray[np.bool_],
    ) -> Any:  # noqa: ANN401
        """Likewise, where it asks what lies where."""
        if self.placed and hasattr(self.target, "predict_at"):
            return self._answer(self.target.predict_at, pixels, windows, valid)
        if not self.placed or self._context is None:
            return self.predict(pixels)
        return self._asked(pixels, self._context.locations(windows))

    def working_bytes(self) -> int:
        """Return what the object says, else a generous guess."""
        if hasattr(self.target, "working_bytes"):
            return int(self.target.working_bytes())
        return super().working_bytes()

    def fit(self, source: Source) -> Self:
        """Return the model fitted to the raster."""
        return self._fitted(self.target.fit(source))

    def parameters(self) -> dict[str, Any]:
        """Return what the object learned."""
        return dict(self.target.parameters())

    def with_parameters(self, parameters: Mapping[str, Any]) -> Self:
        """Return the model that knows this."""
        return self._fitted(self.target.with_parameters(parameters))

    def _fitted(self, target: Any) -> Self:  # noqa: ANN401 - the user's
        return type(self)(getattr(target, "card", self.card), target, self._options)

    def _answer(
        self,
        function: Callable[..., Any],
        pixels: NDArray[np.generic],
        *where: object,
    ) -> Any:  # noqa: ANN401
        what = f"model {self.card.name!r} failed on windows of shape {pixels.shape}"
        with _failing(what):
            answer = function(shaped(pixels, self.card), *where)
        if self.card.task != "semantic":
            return check_objects(answer, self.card, pixels.shape)
        return self._checked(answer, pixels.shape)

    def _checked(
        self, raw: object, shape: tuple[int, ...]
    ) -> torch.Tensor | NDArray[Any]:
        answer: Any = raw if hasattr(raw, "shape") else np.asarray(raw)
        found = tuple(answer.shape)
        n, _, height, width = shape
        if self.card.output == "labels":
            expected: tuple[int, ...] = (n, height, width)
        else:
            expected = (n, self.card.channels, height, width)
        if found != expected:
            raise ModelError(
                f"model {self.card.name!r} answers an array of shape {found}, its card "
                f"promises {expected}"
            )
        return answer  # type: ignore[no-any-return]


def is_factory_spec(spec: str) -> bool:
    """Say whether a text names a factory: `package.module:name` or `file.py:name`."""
    match = _SPEC.fullmatch(spec)
    if match is None:
        return False
    module = match["module"]
    return module.endswith(".py") or _DOTTED.fullmatch(module) is not None


def make_object(spec: str) -> object:
    """Import the module that `spec` names, call the factory, return what it made."""
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise ModelError(f"{spec!r} is not of the form module:factory")
    module = _import(match["module"])
    factory: Any = module
    for part in match["attribute"].split("."):
        if not hasattr(factory, part):
            raise ModelError(
                f"{match['module']} has no {match['attribute']!r}, but it has "
                + (", ".join(n for n in vars(module) if n[0] != "_") or "nothing")
            )
        factory = getattr(factory, part)
    if not callable(factory) or _is_made(factory):
        return factory
    with _failing(f"the factory {spec} failed"):
        return factory()


def _is_made(thing: object) -> bool:
    """Say whether something is the model itself, not a factory of it."""
    return not inspect.isclass(thing) and hasattr(thing, "card")


def _import(name: str) -> ModuleType:
    if name.endswith(".py"):
        return _import_file(Path(name))
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    with _failing(f"the module {name} cannot be imported"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and f"{name}.".startswith(f"{error.name}."):
                raise ModelError(
                    f"no module {name!r} here ({here}) or among the installed packages"
                ) from error
            raise ModelError(f"the module {name} needs {error.name!r}") from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ModelError(f"there is no file {path}")
    name = f"geoseg_custom_{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    loader = _SourceOnly(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    if spec is None or spec.loader is None:
        raise ModelError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look while it is run
    try:
        with _failing(f"{path} cannot be imported"):
            spec.loader.exec_module(module)
    except GeosegError:
        del sys.modules[name]
        raise
    return module


def split_card(thing: object, *, name: str) -> tuple[Card, Any]:
    """Return the card and what predicts, from a model that a user made.

    Args:
        thing: A tuple (card, callable or network), or an object, network or callable
            with `.card`. A card is a `Card` or a plain dictionary.
        name: What it is called where its card does not say.
    """
    if isinstance(thing, tuple) and len(thing) == 2:
        card, target = thing
    else:
        card, target = getattr(thing, "card", None), thing
    if isinstance(card, Mapping):
        card = card_from_dict(card, name=name)
    if not isinstance(card, Card):
        raise ModelError(
            f"{name} made a {type(thing).__name__} without a card: give it a .card, or "
            "return (card, model); a card may be {'bands': [...], 'classes': [...]}"
        )
    if not callable(target) and not hasattr(target, "predict"):
        raise ModelError(f"{name} made a {type(target).__name__}, which cannot predict")
    return card, target


def wrap(thing: object, options: ModelOptions, *, name: str) -> Any:  # noqa: ANN401 - of any kind
    """Return a model from what a user made; networks are copied, never changed."""
    card, target = split_card(thing, name=name)
    if _is_network(target):  # also where it has a predict of its own, as smp's do
        from geoseg.models.networks.torch_adapter import TorchModel

        return TorchModel(deepcopy(target), card, options)
    if isinstance(target, AnyModel):  # one of ours, or whole as they are
        return target
    return ObjectModel(card, target, options)


def _is_network(thing: object) -> bool:
    torch = sys.modules.get("torch")  # whoever made a network has imported it
    return torch is not None and isinstance(thing, torch.nn.Module)


def identity(thing: object, *, name: str) -> str:
    """Return a hash of what a user's model is: card, code, weights, parameters.

    The code is the source text of its class or function with the plain values that it
    closes over; parameters are the fields of a dataclass, or the attributes named like
    the arguments of `__init__`. An object may also say it itself: `.hash`, a text.
    """
    card, target = split_card(thing, name=name)
    digest = hashlib.sha256(
        json.dumps(card_to_dict(card), sort_keys=True, default=repr).encode()
    )
    own = getattr(target, "hash", None)
    if isinstance(own, str):
        digest.update(own.encode())
        return digest.hexdigest()
    digest.update(_source(target).encode())
    if _is_network(target):
        for key, tensor in target.state_dict().items():
            digest.update(key.encode())
            digest.update(_bytes(tensor))
    for key, value in sorted(_parameters(target).items()):
        digest.update(f"{key}=".encode())
        digest.update(
            value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
        )
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> bytes:
    import torch

    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes()


def _source(target: object) -> str:
    subject = target if inspect.isroutine(target) else type(target)
    try:
        return f"{subject.__qualname__}\n{inspect.getsource(subject)}"
    except (OSError, TypeError):
        code = getattr(subject, "__code__", None)
        return f"{subject.__qualname__}\n{code.co_code.hex() if code else ''}"


_PLAIN = (bool, int, float, complex, str, bytes, tuple, list, type(None), np.ndarray)


def _parameters(target: object) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if inspect.isfunction(target):
        found = dict(inspect.getclosurevars(target).nonlocals)
        found |= {f"default {i}": v for i, v in enumerate(target.__defaults__ or ())}
    elif is_dataclass(target):
        found = {f.name: getattr(target, f.name) for f in fields(target)}
    else:
        try:
            named: Any = inspect.signature(type(target).__init__).parameters
        except (TypeError, ValueError):
            named = {}
        found = {n: getattr(target, n) for n in named if hasattr(target, n)}
    return {k: v for k, v in found.items() if isinstance(v, _PLAIN)}
