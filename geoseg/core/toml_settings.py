"""Settings files: TOML, checked as a whole before anything runs.

A key that is not known is an error that suggests the right one.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from geoseg.errors import GeosegError

T = TypeVar("T")
_DOTTED = re.compile(r"(?:[\w\"'-]{1,99}\s*\.\s*){33}")
_UNIONS = (Union, UnionType)


class Settings(BaseModel):
    """A table of a settings file; knows its keys and refuses others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a TOML file; GeosegError says on one line why it cannot be read."""
    name = os.fspath(path)
    try:
        text = Path(name).read_text(encoding="utf-8")
        if _DOTTED.search(text):  # of thousands tomllib makes gigabytes
            raise ValueError("a key has more than 32 parts")  # noqa: TRY301 - said below
        return tomllib.loads(text)
    except OSError as error:
        raise GeosegError(f"{name} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also of numbers with many digits
        raise GeosegError(f"{name} is not TOML: {error}") from error


def checked_as(
    adapter: TypeAdapter[T],
    values: Mapping[str, Any],
    name: str,
    annotation: Any,  # noqa: ANN401 - the type that the adapter is of
) -> T:
    """Return values as what they must be; one line tells what they are not.

    Args:
        adapter: Pydantic's, of `annotation`.
        values: What a file holds.
        name: Of the file, for the message.
        annotation: A table, or a union of tables told apart by `kind`.

    Raises:
        GeosegError: They are not.
    """
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        tables = list(tables_in(annotation))
        problems = "; ".join(_explained(e, tables) for e in error.errors())
        raise GeosegError(f"{name}: {problems}") from error


def override(
    values: dict[str, Any],
    text: str,
    annotation: Any = None,  # noqa: ANN401 - any type
) -> None:
    """Set one value in place.

    Args:
        values: What a file holds.
        text: `key=value` or `table.key=value`. The value is TOML; what is not TOML is
            taken as text, or as a list, `a,b`, where the key takes lists only.
        annotation: The table that the file must be.

    Raises:
        GeosegError: It is not that.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise GeosegError(f"--set {text!r} is not key=value")
    *tables, last = key.strip().split(".")
    field = _field(list(tables_in(annotation)), [*tables, last])
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise GeosegError(f"--set {text!r}: {table} is not a table")
    found = _value(value)
    if isinstance(found, str) and field is not None and _takes_lists_only(field):
        found = [part.strip() for part in found.split(",")]
    values[last] = found


def _field(tables: list[type[BaseModel]], where: Sequence[str]) -> Any:  # noqa: ANN401
    """Return the type of a key; None where it is not known."""
    for part in where:
        fields = [t.model_fields[part] for t in tables if part in t.model_fields]
        if not fields:
            return None
        tables = list(tables_in(fields[0].annotation))
    return fields[0].annotation


def _takes_lists_only(annotation: Any) -> bool:  # noqa: ANN401 - any type
    members = (
        get_args(annotation) if get_origin(annotation) in _UNIONS else [annotation]
    )
    kinds = {get_origin(m) or m for m in members} - {NoneType}
    return bool(kinds) and kinds <= {list, Sequence}


def _value(text: str) -> Any:  # noqa: ANN401 - any TOML value
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _explained(error: Any, tables: list[type[BaseModel]]) -> str:  # noqa: ANN401
    where = [str(part) for part in error["loc"]]
    known = list(_keys(tables, where[:-1]))
    tags = {str(tag) for table in _all(tables) for tag in _tags(table)}
    shown = ".".join(
        p for i, p in enumerate(where) if i == len(where) - 1 or p not in tags
    )
    if error["type"] == "union_tag_invalid":
        return _other_kind(shown, error["ctx"])
    if error["type"] == "missing":
        return f"{shown} is missing"
    if error["type"] != "extra_forbidden":
        return f"{shown or 'the file'}: {_lower(error['msg'])}"
    near = difflib.get_close_matches(where[-1], known, n=1, cutoff=0.5)
    meant = f"did you mean {near[0]}?" if near else f"known keys are {', '.join(known)}"
    return f"{shown} is not known: {meant}"


def _other_kind(where: str, context: Mapping[str, Any]) -> str:
    """Return what to say of a table whose `kind` there is not."""
    kinds = [kind.strip(" '") for kind in context["expected_tags"].split(",")]
    near = difflib.get_close_matches(context["tag"], kinds, n=1, cutoff=0.5)
    meant = f"did you mean {near[0]}?" if near else f"it can be {', '.join(kinds)}"
    place = f"{where}.kind" if where else "kind"
    return f"{place} = {context['tag']!r} is not known: {meant}"


def _lower(text: str) -> str:
    text = text.removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def tables_in(annotation: Any) -> Iterator[type[BaseModel]]:  # noqa: ANN401 - any type
    """Yield the tables that a type may be, through unions, options and lists."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from tables_in(inner)


def _all(tables: Sequence[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    """Yield tables and those inside them."""
    for table in tables:
        yield table
        for field in table.model_fields.values():
            yield from _all(list(tables_in(field.annotation)))


def _keys(tables: list[type[BaseModel]], where: Sequence[str]) -> Iterator[str]:
    """Yield the keys of the table at a place."""
    for part in where:
        inner = [
            model
            for table in tables
            if part in table.model_fields
            for model in tables_in(table.model_fields[part].annotation)
        ]
        tables = inner or [t for t in tables if part in _tags(t)] or tables
    for table in tables:
        yield from table.model_fields


def _tags(table: type[BaseModel]) -> tuple[Any, ...]:
    """Return the values of the `kind` by which a table is told from others."""
    field = table.model_fields.get("kind")
    return get_args(field.annotation) if field is not None else ()
