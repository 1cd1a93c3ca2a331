"""Compiled loops of modules that must not import numba, which takes a second."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps


def compiled_late(loop: Callable[..., None]) -> Callable[..., None]:
    """Have numba compile a loop when it is first called; it runs without the GIL."""

    @cache
    def kernel() -> Callable[..., None]:
        from numba import njit

        return njit(nogil=True, cache=True)(loop)  # type: ignore[no-any-return]

    @wraps(loop)
    def call(*args: object) -> None:
        kernel()(*args)

    return call
