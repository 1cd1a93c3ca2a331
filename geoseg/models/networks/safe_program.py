"""Programs of torch.export, read without running what may hide in their files.

`torch.export.load` trusts a file: sizes are evaluated as Python, weights that it cannot
read otherwise are unpickled, compiled libraries are loaded. So the file is looked
through first, and torch reads with unpickling switched off.
"""

from __future__ import annotations

import ast
import json
import os
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

_SWITCH = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""With it `torch.load` reads tensors and plain values only, whatever it is told."""
_LOCK = threading.Lock()
_OPERATOR = re.compile(
    r"torch\.ops\.\w+\.\w+(\.\w+)?|torch\.sym_\w+|_operator\.\w+|math\.\w+"
)
_WORD = re.compile(r"\w+")
_FUNCTIONS = {
    "CeilDiv", "CeilToInt", "CleanDiv", "Eq", "FloatPow", "FloatTrueDiv", "FloorDiv",
    "FloorToInt", "Ge", "Gt", "Identity", "IntTrueDiv", "Integer", "LShift", "Le", "Lt",
    "Max", "Min", "Mod", "ModularIndexing", "Ne", "Pow", "PowByNatural", "PythonMod",
    "RShift", "Rational", "RoundDecimal", "RoundToInt", "Symbol", "ToFloat",
    "TruncToFloat", "TruncToInt", "Where",
}  # fmt: skip
"""What sizes may be made of; see `torch.utils._sympy.functions`."""
_GRAMMAR = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator,
    ast.unaryop, ast.boolop, ast.cmpop, ast.Load,
)  # fmt: skip


def load_program(path: Path) -> nn.Module:
    """Load a `.pt2` file; raises ModelError, or what torch raises at damage."""
    import torch

    check_program(path)
    with _weights_only():
        return torch.export.load(path).module()


def check_program(path: Path) -> None:
    """Look through a file before torch reads it.

    Raises:
        ModelError: It is no archive, or holds what a network does not need and what
            would run.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            graphs = [
                json.loads(archive.read(name))
                for name in names
                if name.endswith(".json")
            ]
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{path} cannot be read as a program of torch.export: {error}"
        ) from error
    libraries = [n for n in names if "/aotinductor/" in n or n.endswith((".so", ".py"))]
    wrong = libraries[:1] or [p for graph in graphs for p in _problems(graph)][:1]
    if wrong:
        raise ModelError(
            f"{path} is not only a network: it would run {wrong[0][:80]!r}; export it "
            "anew with torch.export.save"
        )


def _problems(node: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON
    """Yield what torch would evaluate or call and no network needs."""
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
    """Whether it is an operator of torch's, or the name of a weight."""
    return bool(_OPERATOR.fullmatch(text)) or not text.startswith(
        ("torch", "_operator", "math", "#")
    )


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
