"""From declared options to click's: spelling, type, help and section of each."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import wraps
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import click
from click.shell_completion import CompletionItem

from geoseg.core.options import Cli, Options, Section, checked, cli_of, flag_of
from geoseg.core.text import redact

F = TypeVar("F", bound=Callable[..., Any])

_MANY = 12
"""Commands with more options than this have them in sections."""
_BARE = "true"
"""What an option stands for whose value is left out, as in `--smooth`."""


class Option(click.Option):
    """An option of click that knows its section."""

    section = Section.OTHER


class _Value(click.ParamType):  # type: ignore[type-arg]
    """A value that a function reads; it raises ValueError."""

    def __init__(self, parse: Callable[[str], Any], form: str | None = None) -> None:
        self.parse, self.form, self.name = parse, form, "text"

    def convert(
        self,
        value: Any,  # noqa: ANN401 - a text, or what was read of one
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:  # noqa: ANN401 - what is read
        """Return the value; click says what is wrong with it."""
        try:
            return self.parse(value) if isinstance(value, str) else value
        except ValueError as error:
            form = f"write it as {self.form}" if self.form else str(error)
            self.fail(f"{value!r}: {form}", param, ctx)

    def shell_complete(
        self,
        ctx: click.Context,
        param: click.Parameter,
        incomplete: str,
    ) -> list[CompletionItem]:
        """Ask the shell for files where the value may be one."""
        place = _Place().shell_complete(ctx, param, incomplete)
        return place if _is_place(param) else []


class _Place(click.types.StringParamType):
    """A path, URL or name: shells complete what lies on the disk."""

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        """Ask the shell for files and folders."""
        return [CompletionItem(incomplete, type="file")]


_OPENED = {"masks", "raster", "rasters", "source", "thing", "what", "pipeline"}
"""Arguments of which the first is told at once: libraries take seconds to load."""


class Command(click.Command):
    """A command that says at once, on a terminal, what it opens.

    Its help has its options in sections, where they are many.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **settings)
        for parameter in self.params:
            if parameter.type is click.STRING and _is_place(parameter):
                parameter.type = _Place()

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's
        """Run the command."""
        arguments = (p.name for p in self.params if isinstance(p, click.Argument))
        told = [ctx.params[name] for name in arguments if name in _OPENED]
        silent = ctx.params.get("quiet") or ctx.params.get("as_json")
        if told and not silent and sys.stderr.isatty():
            first = told[0] if isinstance(told[0], str) else told[0][0]
            click.echo(f"opening {redact(first)}", err=True)
        return super().invoke(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments; of two values for one option none is dropped unsaid."""
        if ctx.resilient_parsing:  # a shell completes what is not yet whole
            return super().parse_args(ctx, args)
        _, _, order = self.make_parser(ctx).parse_args([*args])
        for option in filter(_is_single, self.params):
            if (count := order.count(option)) > 1:
                names = " or ".join([*option.opts[:1], *option.secondary_opts[:1]])
                ctx.fail(f"{names} is given {count} times, and has one value")
        return super().parse_args(ctx, args)

    def format_options(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the options, those of a section under its name."""
        sections: dict[str, list[tuple[str, str]]] = {s: [] for s in Section}
        many = sum(isinstance(p, click.Option) for p in self.params) > _MANY
        # What has to be given comes first in its section.
        for parameter in sorted(self.get_params(ctx), key=lambda p: not p.required):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                section = getattr(parameter, "section", Section.OTHER)
                sections[section if many else Section.OTHER].append(record)
        for name, records in sections.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


def _is_place(parameter: click.Parameter) -> bool:
    """Whether what is given may be a file or folder."""
    if isinstance(parameter, click.Argument):
        return True
    return bool(_ON_DISK.search(parameter.metavar or ""))


_ON_DISK = re.compile(r"\b(FILE|FOLDER|PATH|RASTERS?|MASKS|MODEL)\b")
"""What an option asks for that lies on a disk, or may."""


def _is_single(option: click.Parameter) -> bool:
    """Whether an option has one value, and is no flag that may be said twice."""
    if not isinstance(option, click.Option) or option.multiple:
        return False
    return bool(option.secondary_opts) or not option.is_flag


class Group(click.Group):
    """A group of commands: whole sentences of help, and a hint for a misspelt one."""

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """List the commands, each with the whole of its first sentence."""
        rows = [
            (name, found.get_short_help_str(limit=200))
            for name in self.list_commands(ctx)
            if (found := self.get_command(ctx, name)) is not None
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; say which is nearest where there is none of that name."""
        known = self.list_commands(ctx)
        if ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        if args and args[0] not in known and not args[0].startswith("-"):
            near = get_close_matches(args[0], known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            ctx.fail(f"there is no command {args[0]!r}: {hint}")
        return super().resolve_command(ctx, args)


def command(
    *examples: str, group: click.Group | None = None, name: str | None = None
) -> Callable[[Callable[..., None]], click.Command]:
    """Make a function a command, whose help ends with examples.

    Args:
        examples: Lines as one would type them.
        group: The command is one of this group.
        name: What it is called; default as the function.
    """
    title = "Examples" if len(examples) > 1 else "Example"
    lines = "\n".join(f"  {line}" for each in examples for line in each.splitlines())
    make = click.command if group is None else group.command
    return make(name, cls=Command, epilog=f"\n\b\n{title}:\n{lines}\n")


def takes(
    model: type[Options], name: str = "options", only: str | None = None
) -> Callable[[F], F]:
    """Give a command the options that are declared, as one object.

    Args:
        model: The options.
        name: The command's argument that takes the object.
        only: The one that this command has use for; others keep their defaults.
    """
    fields = [n for n in model.model_fields if only in (None, n)]

    def decorate(function: F) -> F:
        @wraps(function)
        def call(**given: Any) -> Any:  # noqa: ANN401 - what the command returns
            values = {n: given.pop(n) for n in fields}
            told = {n: v for n, v in values.items() if v is not None and v != ()}
            options = checked(model, told, lambda n: flag_of(model, n))
            return function(**given, **{name: options})

        parameters = getattr(call, "__click_params__", [])
        # Click keeps them from the last to the first: decorators run upwards.
        parameters.extend(_option(model, n) for n in reversed(fields))
        call.__click_params__ = parameters  # type: ignore[attr-defined]
        return call  # type: ignore[return-value]

    return decorate


def _option(model: type[Options], name: str) -> Option:
    field, cli = model.model_fields[name], cli_of(model, name)
    kind = _without_none(field.annotation)
    settings: dict[str, Any] = {
        "help": " ".join((field.description or "").split()) or None,
        "required": field.is_required(),
        "metavar": cli.metavar,
        "multiple": cli.repeats,
        **_reading(kind, cli),
    }
    if field.default and not field.is_required():
        choice = isinstance(settings["type"], click.Choice)
        shown = str(field.default) if choice else field.default
        settings |= {"default": shown, "show_default": True}
    spellings = [flag_of(model, name), *([cli.short] if cli.short else []), name]
    option = Option(spellings, **settings)
    option.section = cli.section
    return option


def _reading(kind: Any, cli: Cli) -> dict[str, Any]:  # noqa: ANN401 - any type
    """Return click's settings by which a type is read from texts."""
    origins = [get_origin(m) or m for m in _members(kind)]
    if kind is bool:
        return {"is_flag": True, "default": None}
    if bool in origins:  # a switch that may be given a number
        one = _Value(lambda text: True if text == _BARE else float(text))
        return {"type": one, "is_flag": False, "flag_value": _BARE}
    if get_origin(kind) is Literal:
        known = {str(v): v for v in get_args(kind)}
        callback = lambda _c, _p, v: known.get(v)  # noqa: E731
        return {"type": click.Choice([*known]), "callback": callback}
    if Mapping in origins:
        read = cli.parse or _reader(get_args(kind)[1])
        one = _Value(lambda text: _pair(text, read), cli.metavar)
        return {"type": one, "multiple": True, "callback": _mapping}
    if cli.repeats:
        one = _Value(cli.parse or str, cli.metavar)
        alone = origins != [Sequence]
        return {"type": one, "callback": lambda _c, _p, v: _one_or_more(v, alone)}
    return {"type": _type_of(kind, cli)}


def _mapping(
    ctx: click.Context, option: click.Parameter, pairs: Sequence[tuple[str, Any]]
) -> dict[str, Any] | None:
    """Return pairs by what stands on their left, where each stands for one thing."""
    for name, value in pairs:
        if any(n == name and v != value for n, v in pairs):
            ctx.fail(f"{option.opts[0]} {name}=… is given with two values")
    return dict(pairs) or None


def _type_of(kind: Any, cli: Cli) -> Any:  # noqa: ANN401 - any type
    """Return click's type of an option that is given once."""
    if cli.parse is not None:
        return _Value(cli.parse, cli.metavar)
    members = _members(kind)
    items = [get_args(m)[0] for m in members if get_origin(m) is Sequence]
    if items:
        read = _reader(items[0])
        return _Value(lambda text: _list(text, read), cli.metavar)
    words = [w for m in members if get_origin(m) is Literal for w in get_args(m)]
    if words and float in members:
        return _Value(lambda t: t if t in words else float(t), cli.metavar)
    return kind if kind in (int, float) else str


def _members(kind: Any) -> tuple[Any, ...]:  # noqa: ANN401 - any type
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _without_none(kind: Any) -> Any:  # noqa: ANN401 - any type
    kept = tuple(m for m in _members(kind) if m is not NoneType)
    return kept[0] if len(kept) == 1 else Union[kept]  # noqa: UP007 - of a tuple


def _reader(kind: Any) -> Callable[[str], Any]:  # noqa: ANN401 - any type
    return kind if kind in (int, float) else str


def _one_or_more(values: tuple[Any, ...], alone: bool) -> Any:  # noqa: ANN401
    """Return what is given once as it is, where it may be; else a list."""
    return values[0] if alone and len(values) == 1 else [*values] or None


def _list(text: str, read: Callable[[str], Any]) -> list[Any]:
    return [read(part.strip()) for part in text.split(",") if part.strip()]


def _pair(text: str, read: Callable[[str], Any]) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    if not key or not value:
        raise ValueError("the name or the value is missing")
    return key, read(value)
