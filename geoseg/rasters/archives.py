"""Archives of imagery that are known by name: where they are, and how they are read.

What is known of them is data, `archives.toml` and the user's own file of that form.
Addresses stay as an archive tells them, in maps, in lists of items and in messages;
where signatures are asked for, an address is signed each time a file is opened.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlsplit

from pydantic import TypeAdapter

from geoseg.core.dates import moment_of
from geoseg.core.extras import require
from geoseg.core.text import did_you_mean, redact
from geoseg.core.toml_settings import Settings, checked_as, read_toml
from geoseg.core.user_cache import user_folder
from geoseg.errors import GeosegError, RasterError, UnavailableError, first_line
from geoseg.location import keep_secret
from geoseg.rasters.addresses import host_of, is_remote

VARIABLE: Final = "GEOSEG_ARCHIVES"
_KNOWN: Final = Path(__file__).with_name("archives.toml")
_SECRET: Final = frozenset(
    {"sig", "signature", "x-amz-signature", "x-goog-signature", "token", "access_token"}
)
"""Parts of a query that are secrets."""
_EARLY: Final = timedelta(minutes=5)
"""How long before its end a signature is renewed: a read may take its time."""
_AGAIN: Final = timedelta(minutes=10)
"""How long a signature is used that does not tell its end."""


class Archive(Settings):
    """Where items are found, and how their files are read."""

    url: str
    """Its STAC API, or a static catalogue."""
    collections: tuple[str, ...] = ()
    """Which are searched here where no archive is named."""
    hosts: tuple[str, ...] = ()
    """Servers and buckets of its files, as `addresses.host_of` calls them."""
    sign: str | None = None
    """`planetary-computer`, `earthdata`, or the URL of a service that signs."""
    gdal: Mapping[str, str] = {}
    """Settings of GDAL for its hosts."""


def own_file() -> Path:
    """Return where the user's own archives stand, whether there are any or not."""
    if VARIABLE in os.environ:
        return Path(os.environ[VARIABLE])
    folder = user_folder("APPDATA", "XDG_CONFIG_HOME", ".config")
    return folder / "geoseg" / "archives.toml"


def archives() -> Mapping[str, Archive]:
    """Return all archives by name, the user's own first.

    Raises:
        GeosegError: The user's file is not what it must be.
    """
    own = own_file()
    changed = None
    with suppress(OSError):
        changed = own.stat().st_mtime_ns
    return _archives(str(own), changed)


@lru_cache(maxsize=8)
def _archives(own: str, changed: int | None) -> Mapping[str, Archive]:
    if changed is None:
        if VARIABLE in os.environ:
            raise GeosegError(f"{own}, which {VARIABLE} names, cannot be read")
        return _shipped()
    mine = _read(own)
    return {**mine, **{k: v for k, v in _shipped().items() if k not in mine}}


@lru_cache(maxsize=1)
def _shipped() -> Mapping[str, Archive]:
    return _read(str(_KNOWN))


def _read(path: str) -> Mapping[str, Archive]:
    kind = dict[str, Archive]
    return checked_as(TypeAdapter(kind), read_toml(path), path, kind)


def archive_for(endpoint: str | None, collection: str) -> tuple[str, Archive]:
    """Return the archive in which a collection is searched, and what it is called.

    Args:
        endpoint: Its name, its URL, or None for the first one that is known to have
            the collection.
        collection: As the archive calls it.

    Raises:
        GeosegError: There is no archive of that name, or none is known to have it.
    """
    known = archives()
    if endpoint is None:
        for name, archive in known.items():
            if collection in archive.collections:
                return name, archive
        every = [c for archive in known.values() for c in archive.collections]
        raise GeosegError(
            f"{redact(collection)} is not a file, and no known archive has a "
            f"collection of that name{did_you_mean(collection, every)}: name its "
            f"archive with --endpoint ({', '.join(known)}, or a URL)"
        )
    if endpoint in known:
        return endpoint, known[endpoint]
    if is_remote(endpoint) or Path(endpoint).exists():
        plain = endpoint.rstrip("/")
        for name, archive in known.items():
            if archive.url.rstrip("/") == plain:
                return name, archive
        return redact(endpoint), Archive(url=endpoint)
    raise GeosegError(
        f"--endpoint {redact(endpoint)} is neither a URL nor a known archive"
        f"{did_you_mean(endpoint, known)}; known archives are {', '.join(known)}, and "
        f"those in {own_file()}"
    )


def trusted_hosts() -> tuple[str, ...]:
    """Return the servers and buckets where archives have their files."""
    return tuple(host for a in archives().values() for host in a.hosts)


def _archive_of(path: str) -> Archive | None:
    """Return the archive on whose hosts a file lies."""
    if not is_remote(path):
        return None
    host = host_of(f"s3://{path[7:]}" if path.startswith("/vsis3/") else path)
    try:
        known = archives()
    except GeosegError:  # said where archives are asked for, not at every read
        known = _shipped()
    return next((a for a in known.values() if host in a.hosts), None)


def gdal_settings(path: str) -> Mapping[str, str]:
    """Return the settings of GDAL by which a file of an archive is read.

    Raises:
        UnavailableError: The archive asks for a login that fails.
    """
    archive = _archive_of(path)
    if archive is None:
        return {}
    if archive.sign == "earthdata" and host_of(path).partition("://")[1] == "":
        bearer = {"GDAL_HTTP_AUTH": "BEARER", "GDAL_HTTP_BEARER": _earthdata_token()}
        return {**archive.gdal, **bearer}
    return archive.gdal


def signed(path: str) -> str:
    """Return the address of a file as it can be read now; itself where that is so.

    Raises:
        UnavailableError: Its archive does not sign it.
    """
    archive = _archive_of(path)
    if archive is None or archive.sign in {None, "earthdata"}:
        return path
    try:
        if archive.sign == "planetary-computer":  # requests' errors are OSErrors
            computer = require(
                "planetary_computer",
                what="reading the Planetary Computer",
                extra="stac",
            )
            address = str(computer.sign(path))
        else:
            address = _SIGNATURES.address(str(archive.sign), path)
    except (OSError, ValueError, KeyError, TypeError, RasterError) as error:
        raise UnavailableError(
            f"{redact(path)} cannot be signed by {redact(str(archive.sign))}: "
            f"{first_line(error)}; the same command can succeed later"
        ) from error
    keep_secret(address)
    return address


def as_told(path: str) -> str:
    """Return an address as its archive tells it, where that signs it anew."""
    archive = _archive_of(path)
    return path if archive is None or archive.sign is None else without_signature(path)


def without_signature(path: str) -> str:
    """Return the address of a file without what a signature adds to it.

    >>> without_signature("https://host/a.tif?sv=2&se=2030&sig=secret")
    'https://host/a.tif'
    """
    names = {name.lower() for name in parse_qs(urlsplit(path).query)}
    return path.partition("?")[0] if names & _SECRET else path


@dataclass
class _Signatures:
    """Signed addresses, until they expire."""

    def __post_init__(self) -> None:
        self._kept: dict[tuple[str, str], tuple[str, datetime]] = {}
        self._lock = threading.Lock()

    def address(self, service: str, path: str) -> str:
        """Return an address that a service has signed, not long before it expires."""
        key, now = (service, path), datetime.now(UTC)
        with self._lock:
            address, until = self._kept.get(key, ("", now))
        if now < until:
            return address
        answer = _asked(service, path)
        address = str(answer["href"])
        end = answer.get("msft:expiry")
        until = moment_of(str(end)) - _EARLY if end else now + _AGAIN
        if host_of(address) != host_of(path):
            raise ValueError(f"it answered with an address on {host_of(address)}")
        with self._lock:
            self._kept[key] = address, until
        return address


_SIGNATURES: Final = _Signatures()


def _asked(service: str, path: str) -> Mapping[str, Any]:
    """Ask a service for a signed address, again where it is busy."""
    import json

    from geoseg.rasters.http import text_of

    mark = "&" if "?" in service else "?"
    found = json.loads(text_of(f"{service}{mark}href={quote(path, safe='')}"))
    if not isinstance(found, dict):
        raise TypeError("its answer is not a JSON object")
    return found


def _earthdata_token() -> str:
    """Return the token of the user's Earthdata login.

    Raises:
        UnavailableError: Nobody is logged in.
    """
    return _logged_in(datetime.now(UTC).strftime("%Y-%m-%d"))


@lru_cache(maxsize=1)
def _logged_in(day: str) -> str:  # noqa: ARG001 - tokens last for months
    access = require("earthaccess", what="reading HLS of NASA", extra="earthdata")
    login = access.Auth()
    told = any(f"EARTHDATA_{name}" in os.environ for name in ("TOKEN", "USERNAME"))
    try:  # never the way that asks somebody
        login.login(strategy="environment" if told else "netrc")
        token = login.token["access_token"] if login.authenticated else None
    except Exception as error:  # the package's own, requests', of missing files
        raise UnavailableError(_no_login(first_line(error))) from error
    if not token:
        raise UnavailableError(_no_login("nobody is logged in"))
    keep_secret(f"token={token}")
    return str(token)


def _no_login(why: str) -> str:
    return (
        f"NASA's files need an Earthdata login: {why}; set EARTHDATA_TOKEN, or "
        "EARTHDATA_USERNAME and EARTHDATA_PASSWORD, or write ~/.netrc"
    )
