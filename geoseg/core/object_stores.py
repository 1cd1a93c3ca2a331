"""What fsspec must be told to reach an object store, of images or of masks."""

from __future__ import annotations

import logging
import os
from typing import Any
from urllib.parse import urlsplit

from geoseg.core.extras import require
from geoseg.core.text import redact
from geoseg.errors import GeosegError

_STORES = {
    "s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3"),
    "gs": ("gcsfs", "gcs"), "gcs": ("gcsfs", "gcs"),
    "az": ("adlfs", "azure"), "abfs": ("adlfs", "azure"), "abfss": ("adlfs", "azure"),
}  # fmt: skip
"""By scheme: the package that speaks with such a store, and the extra that has it."""
AZURE = ("az://", "abfs://", "abfss://")
"""What the URLs of Azure's stores begin with."""
_UNSIGNED: dict[str, tuple[str, dict[str, Any]]] = {
    "s3": ("AWS_NO_SIGN_REQUEST", {"anon": True}),
    "gcs": ("GS_NO_SIGN_REQUEST", {"token": "anon"}),
    "azure": ("AZURE_NO_SIGN_REQUEST", {"anon": True}),
}
_AZURE = {
    "account_name": "AZURE_STORAGE_ACCOUNT", "account_key": "AZURE_STORAGE_ACCESS_KEY"
}  # fmt: skip


def access(url: str) -> dict[str, Any]:
    """Return what fsspec must be told to open a URL, beside the usual environment.

    Some variables are GDAL's words, which fsspec's packages do not know: whether to
    read, or write, what is public without credentials, and of Azure which account.

    Raises:
        GeosegError: There are credentials in the URL, where buckets have none.
        MissingExtraError: The package that speaks with the store is not installed.
    """
    scheme = url.partition("://")[0].lower()
    if "://" not in url or scheme not in _STORES:
        return {}
    package, extra = _STORES[scheme]
    if extra != "azure" and "@" in urlsplit(url)[1]:
        raise GeosegError(
            f"{redact(url)}: keys do not belong in a bucket's URL: give them as "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or as the cloud's tool does"
        )
    require(package, what=f"reading and writing {scheme}://", extra=extra)
    # What they raise is told; their log of it would be on stderr, tracebacks and all.
    logging.getLogger(package).addHandler(logging.NullHandler())
    word, unsigned = _UNSIGNED[extra]
    # Else s3fs asks how large each object is before it asks for it; ours are small.
    told: dict[str, Any] = {"max_concurrency": 1} if extra == "s3" else {}
    if os.environ.get(word, "NO").upper() in {"YES", "TRUE"}:
        return told | unsigned
    named = _AZURE if extra == "azure" else {}
    return told | {n: os.environ[w] for n, w in named.items() if w in os.environ}
