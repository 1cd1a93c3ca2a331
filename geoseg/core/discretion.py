"""Functions that tell no secret of what they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from geoseg.errors import GeosegError, refused
from geoseg.location import hide_causes, keep_secrets

F = TypeVar("F", bound=Callable[..., Any])


def discreet(function: F) -> F:
    """Keep the secrets of what a function is asked for out of all that it tells.

    Those of its arguments are learned first; a traceback of a `GeosegError` ends before
    what would print one. What a disk or an object store refuses becomes one.
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as `function` says
        keep_secrets([*args, *kwargs.values()])
        try:
            return function(*args, **kwargs)
        except GeosegError as error:
            hide_causes(error)
            raise
        except Exception as error:
            if (known := refused(error)) is None:
                raise
            known.__cause__ = error
            hide_causes(known)
            raise known from known.__cause__

    return call  # type: ignore[return-value]
