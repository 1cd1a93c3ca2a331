"""Arithmetic on bands, from text: parsed, checked, compiled, never evaluated as Python.

Everything is computed in float32, so unsigned integers do not wrap. A division by zero
gives an infinity, or NaN where zero is divided by zero; a NaN is never above anything.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.indices import INDICES
from geoseg.core.text import did_you_mean
from geoseg.errors import ModelError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

_BINARY: Mapping[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Pow: "**",
}
_UNARY: Mapping[type[ast.unaryop], str] = {ast.USub: "-", ast.UAdd: "+"}
_FUNCTIONS: Mapping[str, tuple[str, int, int]] = {  # name, fewest, most arguments
    "abs": ("abs", 1, 1),
    "sqrt": ("np.sqrt", 1, 1),
    "log": ("np.log", 1, 1),
    "min": ("min", 2, 8),
    "max": ("max", 2, 8),
}
_LONGEST = 2000  # characters
_DEEPEST = 60  # levels


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """Arithmetic on bands; a value."""

    text: str
    """As the user wrote it, an index by its name."""
    bands: tuple[str, ...]
    """The bands it reads, in the order of their first appearance."""
    code: str
    """The same with bands as `x0`, `x1`, …, in float32: safe Python."""
    is_difference: bool
    """Whether it is a normalised difference, which lies in -1 … 1 and parts at 0."""
    is_ratio: bool = False
    """Whether it divides by a band."""

    @property
    def is_band(self) -> bool:
        """Whether it is one band and nothing else."""
        return self.code == "x0"

    def __call__(self, *planes: NDArray[np.generic]) -> NDArray[np.float32]:
        """Compute it on one array per band, of any one shape."""
        out = np.empty(planes[0].shape, np.float32)
        flat = [np.ascontiguousarray(p).reshape(-1) for p in planes]
        _compiled_value(self.code, len(self.bands))(*flat, out.reshape(-1))
        return out

    def on_tensors(self, planes: Sequence[torch.Tensor]) -> torch.Tensor:
        """Compute it on one float32 tensor per band, of any one shape, where they lie.

        Numbers are tensors without dimensions, so that all is computed in float32.
        """
        import torch

        def smaller(first: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
            for other in others:  # as Python's `min`, also of NaN
                first = torch.where(other < first, other, first)
            return first

        def larger(first: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
            for other in others:
                first = torch.where(other > first, other, first)
            return first

        def number(value: float) -> torch.Tensor:
            return torch.tensor(value, dtype=torch.float32)

        numpy = SimpleNamespace(float32=number, sqrt=torch.sqrt, log=torch.log)
        scope = {"np": numpy, "abs": torch.abs, "min": smaller, "max": larger}
        bands = {f"x{i}": plane for i, plane in enumerate(planes)}
        # Of checked parts only, see `_code`.
        return eval(self.code, {"__builtins__": {}}, scope | bands)  # type: ignore[no-any-return]  # noqa: S307


def parse(text: str) -> Expression:
    """Return the expression that a text means.

    Args:
        text: A band's name or number, an index's name (`ndvi`), or arithmetic with
            `+ - * / **`, parentheses, numbers, `abs`, `sqrt`, `log`, `min`, `max` and
            bands by name; names with blanks in quotes.

    Raises:
        ModelError: Something else is in it; it is shown.
    """
    text = text.strip()
    if not text:
        raise ModelError(
            "what is compared is missing: a band, an index or arithmetic on bands "
            "comes after the colon, as in otsu:ndvi or threshold:ndvi:0.4"
        )
    tree = _tree(INDICES.get(text.lower(), text), text)
    if isinstance(tree, ast.Constant) and type(tree.value) is int:
        tree = ast.Constant(str(tree.value))  # `otsu:1`: the band called 1
    names: list[str] = []
    code = _code(tree, names, text, 0)
    if not names:
        raise ModelError(f"the expression {text!r} names no band")
    return Expression(
        text=text,
        bands=tuple(names),
        code=code,
        is_difference=_is_difference(tree),
        is_ratio=any(map(_divides_by_band, ast.walk(tree))),
    )


def _tree(source: str, text: str) -> ast.expr:
    if len(source) > _LONGEST:
        raise ModelError(f"an expression of {len(source)} characters is too long")
    try:
        return ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ModelError(
            f"{text[:60]!r} is neither a band, an index ({', '.join(INDICES)}) nor "
            "arithmetic on bands such as (nir-red)/(nir+red)"
            f"{did_you_mean(text, INDICES)}"
        ) from error


def _code(node: ast.expr, names: list[str], text: str, depth: int) -> str:
    """Return the code of a node, all of whose parts are known to be harmless."""
    if depth > _DEEPEST:
        raise ModelError(f"the expression {text[:60]!r}... is nested too deeply")

    def part(inner: ast.expr) -> str:
        return _code(inner, names, text, depth + 1)

    match node:
        case ast.Name(id=name) | ast.Constant(value=str(name)):
            if name not in names:
                names.append(name)
            return f"x{names.index(name)}"
        case ast.Constant(value=int() | float() as number) if _fits(number):
            return f"np.float32({float(number)!r})"
        case ast.BinOp(op=op) if type(op) in _BINARY:
            return f"({part(node.left)} {_BINARY[type(op)]} {part(node.right)})"
        case ast.UnaryOp(op=sign) if type(sign) in _UNARY:
            return f"({_UNARY[type(sign)]}{part(node.operand)})"
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if (
            name in _FUNCTIONS and _takes(name, len(args))
        ):
            return f"{_FUNCTIONS[name][0]}({', '.join(part(a) for a in args)})"
    raise ModelError(
        f"{ast.unparse(node)!r} in the expression {text!r} is not allowed: use "
        f"bands, numbers, + - * / **, {', '.join(_FUNCTIONS)}"
    )


def _fits(number: float) -> bool:
    largest = float(np.finfo(np.float32).max)
    return type(number) is not bool and abs(number) < largest


def _takes(function: str, count: int) -> bool:
    _, fewest, most = _FUNCTIONS[function]
    return fewest <= count <= most


def _divides_by_band(node: ast.AST) -> bool:
    divides = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
    below = ast.walk(node.right) if divides else ()  # type: ignore[attr-defined]
    return any(
        isinstance(part, ast.Name)
        or (isinstance(part, ast.Constant) and isinstance(part.value, str))
        for part in below
    )


def _is_difference(tree: ast.expr) -> bool:
    """Say whether a tree is (a - b) / (a + b)."""
    match tree:
        case ast.BinOp(
            left=ast.BinOp(left=a, op=ast.Sub(), right=b),
            op=ast.Div(),
            right=ast.BinOp(left=c, op=ast.Add(), right=d),
        ):
            top, bottom = (ast.dump(a), ast.dump(b)), (ast.dump(c), ast.dump(d))
            return top in (bottom, bottom[::-1])
    return False


def compiled_mask(expression: Expression, comparison: str) -> Callable[..., None]:
    """Return a loop that compares an expression with a number.

    Args:
        expression: On n bands.
        comparison: `>`, `>=`, `<` or `<=`.

    Returns:
        A function of n flat arrays, a float32 threshold, and a flat uint8 array that
        gets 1 where the comparison holds, else 0.
    """
    return _compiled_mask(expression.code, len(expression.bands), comparison)


@cache
def _compiled_mask(code: str, count: int, comparison: str) -> Callable[..., None]:
    return _compile(f"np.uint8(({code}) {comparison} threshold)", count, ", threshold")


@cache
def _compiled_value(code: str, count: int) -> Callable[..., None]:
    return _compile(code, count, "")


def _compile(result: str, count: int, more: str) -> Callable[..., None]:
    """Return a compiled loop; `result` comes from `_code`, which admits no names."""
    import numba

    planes = ", ".join(f"a{i}" for i in range(count))
    loads = "".join(f"        x{i} = np.float32(a{i}[i])\n" for i in range(count))
    source = (
        f"def loop({planes}{more}, out):\n"
        f"    for i in range(out.size):\n{loads}"
        f"        out[i] = {result}\n"
    )
    scope: dict[str, Any] = {"np": np}
    exec(source, scope)  # noqa: S102 - made of checked parts only
    return numba.njit(nogil=True, error_model="numpy")(scope["loop"])  # type: ignore[no-any-return]
