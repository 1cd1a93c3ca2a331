"""Programs of torch.export and TorchScript, read without running what may hide in them.

`torch.export.load` trusts a file: sizes are evaluated as Python, weights that it cannot
read otherwise are unpickled, compiled libraries are loaded; and graphs of either kind
may call operators that write files. So a file is looked through first: entries,
operators and sizes are on lists of what networks need. Torch reads a copy in memory
that holds what was looked at and nothing else, with unpickling switched off.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.errors import ModelError, first_line

if TYPE_CHECKING:
    from torch import nn

_SWITCH = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""With it `torch.load` reads tensors and plain values only, whatever it is told."""
_LOCK = threading.Lock()
_COMMON = r"version|byteorder|archive_format|archive_version|\.\w+|\.data/\w+"
_PROGRAM = re.compile(
    rf"([^/]+/)?({_COMMON}|models/[\w.-]+\.json|data/sample_inputs/[\w.-]+\.pt"
    r"|data/(weights|constants)/(?!custom_obj)[\w.-]+|extra(_files)?/[\w./-]*"
    r"|serialized_\w+\.(json|pt))"
)
_SCRIPT = re.compile(
    rf"[^/]+/({_COMMON}|(data|constants|attributes|traced_inputs)(\.pkl|/\d+)"
    r"|code/[\w./-]+\.py|extra/[\w./-]*)"
)
_IGNORED = re.compile(r".*\.py\.debug_pkl|.*/")
"""Entries that nobody needs: they are left out of the copy."""
_MOST_UNPACKED = 1 << 26  # bytes more than a file has: code is compressed, not weights
_ARITHMETIC = frozenset((
    "add", "and_", "eq", "floordiv", "ge", "getitem", "gt", "le", "lshift", "lt", "mod",
    "mul", "ne", "neg", "not_", "or_", "pos", "pow", "rshift", "sub", "truediv", "xor",
))  # fmt: skip
_HIGHER = frozenset({"cond", "wrap_with_autocast", "wrap_with_set_grad_enabled"})
_SPACES = frozenset({"aten", "prim", "prims", "quantized", "torchvision"})
_TEXTS = frozenset((
    "UPLO", "a", "activation", "algorithm", "api_name", "approximate", "assert_msg",
    "b", "chars", "cls", "device_type", "dict", "dim", "dim0", "dim1", "dim2", "dims",
    "driver", "el", "end_dim", "equation", "fillchar", "idx", "ind", "indexing",
    "input", "inputs", "interpolation", "item", "key", "l", "message", "mode", "msg",
    "names", "new", "norm", "old", "ord", "order", "out_dim", "outdim", "p", "pad_mode",
    "padding", "padding_side", "reduce", "rounding_mode", "s", "self", "separator",
    "side", "start_dim", "string", "substr", "t", "to_add", "type", "values",
))  # fmt: skip
"""Arguments of torch's operators that may be text: none of them names a file.

Dims have names in PyTorch before 2.14.
"""
_WORD = re.compile(r"\w+")
_FUNCTIONS = {
    "Add", "And", "CeilDiv", "CeilToInt", "CleanDiv", "Eq", "FloatPow", "FloatTrueDiv",
    "FloorDiv", "FloorToInt", "Ge", "Gt", "Identity", "IntTrueDiv", "Integer", "LShift",
    "Le", "Lt", "Max", "Min", "Mod", "ModularIndexing", "Mul", "Ne", "Not", "Or", "Pow",
    "PowByNatural", "PythonMod", "RShift", "Rational", "RoundDecimal", "RoundToInt",
    "Symbol", "ToFloat", "TruncToFloat", "TruncToInt", "Where",
}  # fmt: skip
"""What sizes may be made of; see `torch.utils._sympy.functions`."""
_GRAMMAR = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator,
    ast.unaryop, ast.boolop, ast.cmpop, ast.Load,
)  # fmt: skip


def load_program(path: Path) -> Any:  # noqa: ANN401 - torch's ExportedProgram
    """Load a `.pt2` file, or raise a ModelError."""
    import torch

    copy = _copied(path, "a program of torch.export", _PROGRAM, _in_graph)
    try:
        with _weights_only():
            return torch.export.load(copy)
    except Exception as error:  # torch raises whatever the damage leads to
        raise ModelError(
            f"{path} cannot be read as a program of torch.export: {first_line(error)}"
        ) from error


def load_script(path: Path) -> nn.Module:
    """Load a file of TorchScript, or raise a ModelError."""
    import torch

    copy = _copied(path, "TorchScript", _SCRIPT, _in_script)
    try:
        script: nn.Module = torch.jit.load(copy, map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(
            f"{path} cannot be read as TorchScript: {first_line(error)}"
        ) from error
    return script


def is_script(path: Path) -> bool:
    """Whether a file is an archive with code of TorchScript in it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _copied(
    path: Path,
    what: str,
    entries: re.Pattern[str],
    problems: Callable[[str, bytes], Iterator[str]],
) -> io.BytesIO:
    """Return an archive's copy after a look through it, as Python's zipfile reads it.

    Raises:
        ModelError: It is not an archive, or holds what a network does not need and what
            would run.
    """
    copy = io.BytesIO()
    wrong: str | None = None
    try:
        with (
            zipfile.ZipFile(path) as archive,
            zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as clean,
        ):
            size = sum(entry.file_size for entry in archive.infolist())
            if size > path.stat().st_size + _MOST_UNPACKED:
                wrong = f"{size} bytes, unpacked"
            for name in [] if wrong else archive.namelist():
                if _IGNORED.fullmatch(name):
                    continue
                content = archive.read(name)
                known = entries.fullmatch(name) and name not in clean.namelist()
                wrong = next(problems(name, content), None) if known else name
                if wrong is not None:
                    break
                clean.writestr(zipfile.ZipInfo(name), content)
    except (
        zipfile.BadZipFile, OSError, ValueError, RuntimeError, SyntaxError,
        NotImplementedError, MemoryError,
    ) as error:  # fmt: skip
        raise ModelError(
            f"{path} cannot be read as {what}: {first_line(error)}"
        ) from error
    if wrong is not None:
        raise ModelError(
            f"{path} is not only a network: it would run or hold {wrong[:80]!r}; "
            f"export it again as {what}"
        )
    copy.seek(0)
    return copy


def _in_graph(name: str, content: bytes) -> Iterator[str]:
    """Yield what torch would evaluate or call and no network needs."""
    if name.endswith(".json"):
        yield from _problems(json.loads(content))


def _problems(node: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON
    if isinstance(node, list):
        for inner in node:
            yield from _problems(inner)
    if not isinstance(node, dict):
        return
    for key, inner in node.items():
        if key == "expr_str" and not _is_size(inner):
            yield str(inner)
        elif key == "range_constraints" and isinstance(inner, dict):
            yield from (name for name in inner if not _is_size(name))
        elif key == "target" and isinstance(inner, str) and not _is_target(inner):
            yield inner
        yield from _problems(inner)


def _is_target(text: str) -> bool:
    """Whether it is an operator that networks need, or the name of a weight."""
    match text.split("."):
        case ["torch", "ops", "higher_order", name]:
            return name in _HIGHER
        case ["torch", "ops", space, name] | ["torch", "ops", space, name, _]:
            return is_harmless(f"{space}::{name}")
        case ["torch", name]:
            return name.startswith("sym_") and bool(_WORD.fullmatch(name))
        case ["_operator", name]:
            return name in _ARITHMETIC
        case ["math", name]:
            return bool(_WORD.fullmatch(name)) and not name.startswith("_")
    return not text.startswith(("torch", "_operator", "math", "#"))


def _in_script(name: str, content: bytes) -> Iterator[str]:
    """Yield the operators of an entry with code that networks do not need."""
    if name.endswith(".pkl") and b"torch.classes" in content:
        yield "torch.classes"
    if "/code/" not in name:
        return
    # What torch writes is in Python's grammar; it is parsed here, and never run.
    for node in ast.walk(ast.parse(content)):
        if not isinstance(node, ast.Attribute):
            continue
        text = ast.unparse(node)
        match text.split("."):
            case ["torch", operator]:
                if not is_harmless(f"aten::{operator}") and operator not in _TYPES:
                    yield text
            case ["ops", space, operator]:
                if not is_harmless(f"{space}::{operator}"):
                    yield text
            case ["__torch__", "torch", "classes", *_]:
                yield text


_TYPES = frozenset({"dtype", "device", "layout", "memory_format", "Generator"})


@cache
def is_harmless(operator: str) -> bool:
    """Whether an operator computes and does nothing else: `aten::conv2d`.

    Those of torch's own namespaces do, where no argument may be text that names a file.
    """
    import torch

    if operator.partition("::")[0] not in _SPACES or "rpc" in operator:
        return False
    if operator.startswith("torchvision::"):
        import torchvision  # noqa: F401 - registers them

    schemas = torch._C._jit_get_schemas_for_operator(operator)  # noqa: SLF001
    texts = {a.name for s in schemas for a in s.arguments if "str" in str(a.type)}
    return bool(schemas) and texts <= _TEXTS


def _is_size(text: object) -> bool:
    """Whether a text is arithmetic on sizes."""
    if not isinstance(text, str) or len(text) > 10_000:
        return False
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(map(_is_part, ast.walk(tree)))


def _is_part(node: ast.AST) -> bool:
    """Whether one node of the text's syntax belongs into arithmetic on sizes."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
    if isinstance(node, ast.Name):
        return bool(_WORD.fullmatch(node.id)) and "__" not in node.id
    if isinstance(node, ast.Constant):
        plain = isinstance(node.value, bool | int | float)
        return plain or (
            isinstance(node.value, str) and bool(_WORD.fullmatch(node.value))
        )
    if isinstance(node, ast.keyword):
        return node.arg is not None
    return isinstance(node, _GRAMMAR)


@contextmanager
def _weights_only() -> Iterator[None]:
    with _LOCK:
        before = os.environ.get(_SWITCH)
        os.environ[_SWITCH] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[_SWITCH]
            else:
                os.environ[_SWITCH] = before
