"""Optional packages, imported where they are needed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from geoseg.errors import MissingExtraError

if TYPE_CHECKING:
    from types import ModuleType


def require(package: str, *, what: str, extra: str) -> ModuleType:
    """Import an optional package, or raise the error that names its extra."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package.partition(".")[0]:
            raise
        raise MissingExtraError(what, package.partition(".")[0], extra) from error
