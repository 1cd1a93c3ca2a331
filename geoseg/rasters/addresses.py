"""Addresses of files: whether they lie on another machine, and on which."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote, urlsplit

_REMOTE: Final = re.compile(
    r"(?:[a-z][a-z0-9+.-]*://|/vsi(?:curl|s3|gs|az|adls|oss|swift|hdfs))"
)


def is_remote(path: str) -> bool:
    """Whether GDAL reads this over a network."""
    return bool(_REMOTE.match(path)) and not path.lower().startswith("file://")


def host_of(url: str) -> str:
    """Return the host or bucket of a URL: `s3://bucket`, `host`; empty for a path."""
    parts = urlsplit(url)
    if not parts.scheme or not is_remote(url):
        return ""
    name = unquote(parts.netloc).rpartition("@")[2].lower()
    if parts.scheme.lower() in {"http", "https"}:
        return name
    return f"{parts.scheme.lower()}://{name}"
