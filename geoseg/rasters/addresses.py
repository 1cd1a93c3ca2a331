"""Addresses of files: on which machine they lie, and what GDAL calls them."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from geoseg.core.series_options import COLLECTION
from geoseg.core.text import redact

_REMOTE: Final = re.compile(
    r"(?:/vsi(?:zip|tar|gzip|7z|rar)/\{?)*"  # also in an archive there
    r"(?:[a-z][a-z0-9+.-]*://|/vsi(?:curl|s3|gs|az|adls|oss|swift|hdfs|webhdfs))"
)
_ASKED: Final = re.compile(r"/vsicurl\?[^\s'\"]*url=[^\s'\",)]+")
"""What `gdal_path` makes of an address, signed or not."""
_STORES: Final = {"gcs": "gs", "abfs": "az", "abfss": "az"}
"""What GDAL calls the stores of other libraries' addresses."""


def is_collection(source: object) -> bool:
    """Whether a source is a collection's name, as in `stac:sentinel-2-l2a`."""
    return isinstance(source, str) and source.startswith(COLLECTION)


def is_remote(path: str) -> bool:
    """Whether GDAL reads this over a network."""
    return bool(_REMOTE.match(path)) and not path.lower().startswith("file://")


def host_of(url: str) -> str:
    """Return the host or bucket of a URL: `s3://bucket`, `host`; empty for a path."""
    try:
        parts = urlsplit(url)
    except ValueError:  # such as https://[::1
        return url.lower()
    if not parts.scheme or not is_remote(url):
        return ""
    if parts.scheme.lower() in _STORES:
        return host_of(gdal_path(url))
    name = unquote(parts.netloc).rpartition("@")[2].lower()
    if parts.scheme.lower() in {"http", "https"}:
        return name
    return f"{parts.scheme.lower()}://{name}"


def gdal_path(path: str) -> str:
    """Return what GDAL is asked to open.

    A web address says itself that it is to be retried, and that no directory is to be
    listed for files beside it: settings of the process would reach other threads too.

    >>> gdal_path("abfss://scenes@account.dfs.core.windows.net/a.tif")
    'az://scenes/a.tif'
    """
    scheme, _, rest = path.partition("://")
    if store := _STORES.get(scheme.lower()):  # of an account that settings name
        bucket, slash, name = rest.partition("/")
        return f"{store}://{bucket.partition('@')[0]}{slash}{name}"
    if not path.lower().startswith(("http://", "https://")):
        return path
    options = "max_retry=3&retry_delay=0.5&connecttimeout=5&empty_dir=yes"
    return f"/vsicurl?{options}&url={quote(path, safe='')}"


def squeezed(error: BaseException, path: str = "") -> str:
    """Return an error's own words as a redacted line."""
    shown = redact(path) or "…"
    text = _ASKED.sub(lambda _: shown, str(error) or type(error).__name__)
    for known in (gdal_path(path), path):
        if known:
            text = text.replace(known, redact(path))
    text = " ".join(redact(text).split())
    return text if len(text) <= 300 else f"{text[:299]}…"
