"""Options, declared once: one settings object per command says all about them.

A field's name, type, default and docstring are what the command line, a pipeline's TOML
and the keywords of the Python function have in common; `Cli` adds what only the command
line asks for. Modules of options import nothing heavy, so that `--help` is quick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from inspect import signature
from typing import Any, TypeVar

from pydantic import ConfigDict, ValidationError

from geoseg.core.discretion import discreet
from geoseg.core.text import redact
from geoseg.core.toml_settings import Settings
from geoseg.errors import GeosegError
from geoseg.location import keep_secrets

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T", bound="Options")

_LONG = 80
"""Characters of a wrong value that are shown."""


class Section(StrEnum):
    """Where an option stands in a command's help; in this order."""

    MODEL = "Model and raster"
    TIME = "Scenes and time"
    LABELS = "Labels"
    ESTIMATES = "Estimates"
    HELD_OUT = "Held out"
    OBJECTS = "Objects"
    LINES = "Lines and polygons"
    NETWORK = "Network"
    LEARNING = "Learning"
    TREES = "Pixel features and trees"
    WRITTEN = "What is written"
    SPEED = "Speed and memory"
    OTHER = "Options"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cli:
    """What the command line says of an option beyond name, type, default and help."""

    section: Section = Section.OTHER
    metavar: str | None = None
    """What its value is called in the help."""
    name: str | None = None
    """Its spelling, such as `--map`; default the field's name."""
    short: str | None = None
    """Its one letter, such as `-q`."""
    repeats: bool = False
    """Whether several values are given one by one, and not as `a,b`."""
    parse: Callable[[str], Any] | None = None
    """How one value is read, where the type does not say it; raises ValueError."""
    location: bool = False
    """Whether it names a path or URL. Relative ones in a file are relative to it."""


class Options(Settings):
    """The options of one command; frozen, and none is unknown."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        arbitrary_types_allowed=True,
        defer_build=True,
    )

    def of(self, model: type[T], **others: Any) -> T:  # noqa: ANN401 - values
        """Return the options of another model that it shares with this, and others."""
        shared = type(self).model_fields.keys() & model.model_fields.keys()
        return model(**{name: getattr(self, name) for name in shared} | others)


def cli_of(model: type[Options], name: str) -> Cli:
    """Return what the command line says of an option."""
    metadata = model.model_fields[name].metadata
    return next((m for m in metadata if isinstance(m, Cli)), Cli())


def flag_of(model: type[Options], name: str) -> str:
    """Return how the command line spells an option, such as `--min-area`."""
    return cli_of(model, name).name or f"--{name.replace('_', '-')}"


def checked(
    model: type[T], values: Mapping[str, Any], spelled: Callable[[str], str] = str
) -> T:
    """Return options, or raise on one line what is wrong with them.

    Args:
        model: Which options.
        values: By the names of the fields.
        spelled: How the user spells an option, by its field's name.

    Raises:
        GeosegError: A value is missing, not known or not what it must be.
    """
    for name, value in values.items():
        if name in model.model_fields and cli_of(model, name).location:
            keep_secrets(value)
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        # A union is wrong in as many ways as it has members: once is enough.
        by_name = {
            str(e["loc"][0]) if e["loc"] else "": e for e in error.errors()[::-1]
        }
        said = [_said(spelled(name), e) for name, e in reversed(by_name.items())]
        # Not from it: pydantic repeats values, and what hides in them.
        raise GeosegError("; ".join(said)) from None


def _said(name: str, error: Any) -> str:  # noqa: ANN401 - pydantic's
    message = error["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if error["type"] == "missing":
        return f"{name} is missing"
    if error["type"] == "value_error":
        return f"{name}: {message}"
    value = redact(repr(error["input"]))[:_LONG]
    if error["type"] == "sequence_str":
        message = f"a list is needed, [{value}]"
    return f"{name} {value}: {message}"


def keywords(model: type[Options], run: Callable[..., Any]) -> Callable[[F], F]:
    """Make a typed signature the face of a function that takes one settings object.

    Editors, `help()` and type checkers see the keywords; what runs is `run`, which gets
    those that are options as one object `options`, and the others as they are.

    Args:
        model: The options.
        run: What runs.
    """

    def decorate(face: F) -> F:
        shape = signature(face)

        @wraps(face)
        def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as `face` says
            bound = shape.bind(*args, **kwargs)
            bound.apply_defaults()
            given = bound.arguments
            own = {name: given.pop(name) for name in [*given] if name in fields}
            return run(**given, options=checked(model, own))

        fields = model.model_fields
        return discreet(call)  # type: ignore[return-value]

    return decorate
