"""Asking servers of catalogues: again where they are busy, errors on one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from geoseg.core.extras import require
from geoseg.core.text import redact
from geoseg.errors import RasterError, UnavailableError
from geoseg.rasters.addresses import squeezed

if TYPE_CHECKING:
    from pystac_client.stac_api_io import StacApiIO

_BUSY: Final = (429, 500, 502, 503, 504)
_TIMES: Final = 5
_PAUSE: Final = 0.5
"""Seconds before the second try again; each further one waits twice as long."""
_LONGEST: Final = 60.0
"""Seconds that are waited because a server says so."""
_CAUSES: Final = re.compile(
    r"Failed to resolve|(?<=\] )[A-Z][\w ]+|[\w ]*timed out|certificate verify failed"
)
_PATIENCE: Final = (10.0, 60.0)
"""Seconds to connect, and for an answer to begin."""


@lru_cache(maxsize=1)
def api_io() -> StacApiIO:
    """Return what asks servers; requests that only read are made again when they fail.

    Raises:
        MissingExtraError: pystac-client is not installed.
    """
    require("pystac_client", what="searching a STAC catalogue", extra="stac")
    from pystac_client.stac_api_io import StacApiIO
    from urllib3 import BaseHTTPResponse, Retry

    class Patient(Retry):
        """Retries that wait as a server says, but not for hours."""

        def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
            told = super().get_retry_after(response)
            return None if told is None else min(told, _LONGEST)

    retries = Patient(
        total=_TIMES,
        backoff_factor=_PAUSE,
        status_forcelist=_BUSY,
        allowed_methods=None,  # searches that are posted change nothing either
        raise_on_status=False,
    )
    return StacApiIO(max_retries=retries, timeout=_PATIENCE)


def text_of(url: str) -> str:
    """Return what a server answers.

    Raises:
        UnavailableError: It does not answer, or is busy for long.
        RasterError: It refuses.
        MissingExtraError: pystac-client is not installed.
    """
    with asking(url):
        return api_io().request(url)


@contextmanager
def asking(url: str) -> Iterator[None]:
    """Turn what goes wrong while a server is asked into an error of one line."""
    from pystac_client.exceptions import APIError

    try:
        yield
    except APIError as error:
        status = getattr(error, "status_code", None)
        name = redact(url)
        if status is None or status in _BUSY:
            told = f"HTTP {status}" if status else _cause(squeezed(error, url))
            raise UnavailableError(
                f"{name} does not answer ({told}), also when asked {_TIMES + 1} times; "
                "the same command can succeed later"
            ) from error
        raise RasterError(
            f"{name} refuses: HTTP {status}, {squeezed(error, url)}"
        ) from error


def _cause(text: str) -> str:
    """Return the cause that the words of urllib3 end with.

    >>> _cause("Max retries exceeded (Caused by X('[Errno 111] Connection refused'))")
    'Connection refused'
    """
    found = _CAUSES.findall(text)
    return found[-1].strip() if found else text
