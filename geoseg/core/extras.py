"""Optional packages, imported where they are needed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from geoseg.errors import MissingExtraError

if TYPE_CHECKING:
    from types import ModuleType


_CALLED = {
    "dask_jobqueue": "dask-jobqueue", "dask_kubernetes": "dask-kubernetes",
    "skimage": "scikit-image", "sklearn": "scikit-learn",
}  # fmt: skip
"""What packages are called where they are installed from, if not like their module."""


def require(module: str, *, what: str, extra: str) -> ModuleType:
    """Import a module of an optional package, or raise the error that names its extra.

    Raises:
        MissingExtraError: The package is not installed.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise MissingExtraError(what, _CALLED.get(package, package), extra) from error
