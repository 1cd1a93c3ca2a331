"""Which versions of its files a raster was opened from, and whether they still are."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from geoseg.core.object_stores import access
from geoseg.errors import GeosegError, SourceChangedError
from geoseg.rasters.addresses import is_remote
from geoseg.rasters.archives import as_told, gdal_settings, signed
from geoseg.rasters.named_files import file_of

# Written by viewers and gdaladdo beside a raster, at any time: no pixel changes.
_NO_CHANGE: Final = (".aux.xml", ".ovr", ".rrd")
_HEADERS: Final = frozenset({"etag", "last-modified", "content-length"})
# Asked again after each read: of more files only the first are, the raster's own among
# them, so that a read does not become a thousand questions; the others at the end.
_ASKED_LOCAL: Final = 2000
_ASKED_REMOTE: Final = 4
_AT_ONCE: Final = 32
# How many remote files are asked for when a raster is opened.
_MOST_REMOTE: Final = 2000

CONTENT: Final = ("size", "mtime_ns", "files", "digest", *sorted(_HEADERS))
"""What tells in a source's identity that its files hold something else."""
# What changes with the content, in words: digests tell a reader nothing.
_CONTENT: Final = {
    "etag": "its content is another",
    "digest": "some of its files are others",
    "files": "some of its files are others",
    "area": "the area of interest is another",
}

Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Versions:
    """Files as they were at one moment: size and time, or what their server says."""

    facts: Mapping[str, Facts] = field(default_factory=dict)
    """By file; empty where its server says nothing."""

    @classmethod
    def of(cls, paths: Iterable[str]) -> Self:
        """Look at files by the names that GDAL has for them."""
        files = dict.fromkeys(as_told(file_of(p)) for p in paths)
        kept = [f for f in files if f and not f.lower().endswith(_NO_CHANGE)]
        remote = [f for f in kept if is_remote(f)][:_MOST_REMOTE]
        facts = {f: local_facts(f) for f in kept if not is_remote(f)}
        if remote:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                facts |= dict(zip(remote, pool.map(remote_facts, remote), strict=True))
        return cls(facts)

    def same(self, *, later: bool = False) -> bool:
        """Whether the files are what they were, as far as can be asked.

        Args:
            later: Ask of those that are too many to be asked of after each read.
        """
        local = [f for f in self.facts if not is_remote(f)]
        remote = [f for f in self.facts if is_remote(f) and self.facts[f]]
        if later:
            local, remote = local[_ASKED_LOCAL:], remote[_ASKED_REMOTE:]
        else:
            local, remote = local[:_ASKED_LOCAL], remote[:_ASKED_REMOTE]
        if any(local_facts(f) != self.facts[f] for f in local):
            return False
        if not remote:
            return True
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return all(pool.map(lambda f: _agree(self.facts[f], f), remote))

    def summary(self) -> dict[str, Any]:
        """Return what a map keeps of them; nothing where nothing is known."""
        known = [f for f in self.facts.values() if f]
        if not known:
            return {}
        if len(known) == 1:
            return dict(known[0])
        told = sorted(json.dumps(f, sort_keys=True) for f in known)
        out: dict[str, Any] = {
            "files": hashlib.sha256("\n".join(told).encode()).hexdigest()
        }
        stats = [f for f in known if "mtime_ns" in f]
        if stats:
            out["size"] = sum(f["size"] for f in stats)
            out["mtime_ns"] = max(f["mtime_ns"] for f in stats)
        return out


def _agree(then: Facts, file: str) -> bool:
    now = remote_facts(file)
    return all(now[key] == then[key] for key in then.keys() & now.keys())


def local_facts(file: str) -> Facts:
    """Return size and time of a file; nothing where there is none."""
    try:
        stat = Path(file).stat()
    except OSError:
        return {}
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def changes(then: Facts, now: Facts) -> list[str]:
    """Return in words what differs between what two moments know of a raster.

    Args:
        then: A source's identity, as a map keeps it.
        now: The same, of what lies there now.
    """
    out: list[str] = []
    for key in sorted({*then, *now}):
        old, new = then.get(key), now.get(key)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            out += changes(old, new)
        else:
            out.append(_changed(key, old, new))
    return list(dict.fromkeys(out))


def _changed(key: str, old: Any, new: Any) -> str:  # noqa: ANN401 - as JSON has it
    if key in _CONTENT:
        return _CONTENT[key]
    if key == "mtime_ns" and isinstance(old, int) and isinstance(new, int):
        days = [datetime.fromtimestamp(n / 1e9, UTC) for n in (old, new)]
        shown = [f"{day:%Y-%m-%d %H:%M:%S} UTC" for day in days]
        return f"last changed {shown[0]} then, {shown[1]} now"
    if key in {"size", "content-length"}:
        return f"{old} bytes then, {new} now"
    if key == "shape" and isinstance(old, list) and isinstance(new, list):
        sizes = [" x ".join(map(str, n)) for n in (old, new)]
        return f"{sizes[0]} bands, rows, columns then, {sizes[1]} now"
    if key == "dtype":
        return f"{old} pixels then, {new} now"
    texts = [v if len(v) <= 60 else f"{v[:57]}..." for v in (str(old), str(new))]
    return f"{key}: {texts[0]} then, {texts[1]} now"


def changed(name: str) -> SourceChangedError:
    """Return what to raise where a raster is not the one that a run began with."""
    return SourceChangedError(
        f"{name} was replaced or changed after the run began: its map "
        "would be of two rasters; begin anew with --overwrite"
    )


def place_of(name: str) -> str:
    """Return a local file's place, the same from any folder; else the name."""
    try:
        return str(Path(name).resolve(strict=True))
    except OSError:
        return name


def remote_facts(url: str) -> Facts:
    """Return the server's own word on which version of a file this is.

    Nothing where it does not answer, or what would ask it is not installed.
    """
    if url.lower().startswith(("http://", "https://")):
        return _of_web_server(url)
    return _of_bucket(url)


def _of_web_server(url: str) -> Facts:
    from http.client import HTTPException
    from urllib.request import Request, urlopen

    try:
        asked = Request(signed(url), method="HEAD")  # noqa: S310 - http or https
        with urlopen(asked, timeout=10) as answer:  # noqa: S310
            headers = answer.headers
    except (HTTPException, OSError, ValueError, GeosegError):
        return {}  # servers may refuse HEAD; GDAL has read the header already
    return {key: headers[key] for key in sorted(_HEADERS) if headers[key]}


def _of_bucket(url: str) -> Facts:
    """Ask a bucket through fsspec: s3fs, gcsfs or adlfs, where it is installed."""
    try:
        info = _filesystem(url).info(url, refresh=True)
    except Exception:  # noqa: BLE001 - of many kinds; GDAL has read the header already
        return {}
    keys = ("ETag", "etag", "LastModified", "last_modified", "updated", "size")
    return {key.lower(): str(info[key]) for key in keys if info.get(key) is not None}


def _filesystem(url: str) -> Any:  # noqa: ANN401 - an fsspec file system
    import fsspec

    scheme = url.partition("://")[0]
    options = access(f"{scheme}://")
    settings = gdal_settings(url)
    own = settings.get("AWS_S3_ENDPOINT")
    endpoint = own or os.environ.get("AWS_S3_ENDPOINT")
    if scheme == "s3" and endpoint and (own or not os.environ.get("AWS_ENDPOINT_URL")):
        plain = {**os.environ, **settings}.get(
            "AWS_HTTPS", "YES"
        ).upper() == "NO"  # GDAL's settings
        options["endpoint_url"] = f"http{'s' * (not plain)}://{endpoint}"
    return fsspec.filesystem(scheme, **options)
