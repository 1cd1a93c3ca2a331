"""Files that another one names: where they lie, and whether they may be read."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import parse_qs, urljoin
from urllib.request import urlopen

from geoseg.core.text import redact
from geoseg.errors import RasterError
from geoseg.rasters.addresses import host_of, is_remote, squeezed

_CURL_OPTIONS: Final = frozenset(
    {"url", "max_retry", "retry_delay", "connecttimeout", "empty_dir", "list_dir"}
)


ARCHIVES: Final = ("/vsizip/", "/vsitar/", "/vsigzip/")


_BUCKETS: Final = {
    "/vsis3/": "s3://", "/vsigs/": "gs://", "/vsiaz/": "az://", "/vsiadls/": "az://",
}  # fmt: skip


# GDAL's names for a part of a file: NETCDF:"file":variable.
_PART_OF_FILE: Final = re.compile(
    r"(?P<driver>NETCDF|HDF5|ZARR|GPKG|GTI|SENTINEL2_L\w+|GRIB|HDF4_\w+):"
    r"(?:\"(?P<quoted>[^\"]+)\"|(?P<plain>(?:[A-Za-z]:[\\/])?[^:]+))(?P<rest>:.*)?",
    re.IGNORECASE,
)


def without_query(path: str) -> str:
    """Return an address without what a URL asks for beside a file."""
    return path.split("?", maxsplit=1)[0] if is_remote(path) else path


def file_of(path: str) -> str:
    """Return the file that a name of GDAL's means: without its part, or its archive.

    >>> file_of('NETCDF:"a.nc":v'), file_of("/vsizip/x/a.zip/b.tif")
    ('a.nc', 'x/a.zip')
    >>> file_of("/vsis3/bucket/a.tif"), file_of("/vsicurl/http://host/a.tif")
    ('s3://bucket/a.tif', 'http://host/a.tif')
    """
    part = _PART_OF_FILE.fullmatch(path)
    if part:
        return file_of(part["quoted"] or part["plain"])
    for archive in ARCHIVES:
        if path.startswith(archive):
            return file_of(_archive(path.removeprefix(archive)))
    for prefix, scheme in _BUCKETS.items():
        if path.startswith(prefix):
            return scheme + path.removeprefix(prefix)
    if path.startswith("/vsicurl?"):
        return parse_qs(path.removeprefix("/vsicurl?")).get("url", [""])[0]
    return path.removeprefix("/vsicurl/").removeprefix("file://")


def _archive(path: str) -> str:
    """Return the archive of `archive/member`, as GDAL writes it."""
    if path.startswith("{"):
        return path[1:].partition("}")[0]
    found = re.match(r".*?\.(?:zip|kmz|tar|tgz|tar\.gz|gz)(?=/|$)", path, re.IGNORECASE)
    return found[0] if found else path


def read_bytes(path: str, most: int) -> bytes:
    """Return what is in a small file that GDAL could open, wherever it lies.

    Raises:
        RasterError: It cannot be read, or is larger than `most` bytes.
    """
    try:
        with open_bytes(path) as file:
            data = file.read(most + 1)
    except Exception as error:  # fsspec's are of many kinds
        raise RasterError(
            f"cannot open {redact(path)}: {squeezed(error, path)}"
        ) from error
    if len(data) > most:
        raise RasterError(f"{redact(path)} is larger than {most:,} bytes")
    return bytes(data)


def open_bytes(path: str) -> Any:  # noqa: ANN401 - a file to read, of three libraries
    """Return a file to read, by GDAL's name of it."""
    target = file_of(path)
    if path.startswith(ARCHIVES) or is_remote(target):
        if target == _for_fsspec(path) and target.lower().startswith("http"):
            return urlopen(target, timeout=20)  # noqa: S310 - http or https
        import fsspec

        return fsspec.open(_for_fsspec(path), "rb")
    return Path(path.removeprefix("file://")).open("rb")


def _for_fsspec(path: str) -> str:
    """Return GDAL's name of a file as fsspec writes it."""
    for archive, scheme in (("/vsizip/", "zip"), ("/vsitar/", "tar")):
        if path.startswith(archive):
            inner = path.removeprefix(archive)
            holder = _archive(inner)
            braces = 2 * inner.startswith("{")
            member = inner[len(holder) + braces :].lstrip("/")
            return f"{scheme}://{member}::{_for_fsspec(holder)}"
    return file_of(path)


def allowed(
    named: str, by: str, trust: Sequence[str] = (), *, beside: bool = True
) -> str:
    """Return the path of a file that a raster, index or item names.

    Args:
        named: As it is written there.
        by: The file that names it.
        trust: Folders, files and hosts that may be read beside.
        beside: Whether a relative path is relative to the folder of `by`.

    Raises:
        RasterError: It lies neither below the folder of `by`, nor on its host, nor
            where `trust` says; or it is written in a way that can mean anything.
    """
    if named.lstrip().startswith("<") or "\n" in named:
        raise RasterError(
            f"{redact(by)} holds another raster as XML instead of a file's name: "
            "it is not opened"
        )
    if named.startswith("/vsicurl?"):
        extra = set(parse_qs(named.removeprefix("/vsicurl?"), keep_blank_values=True))
        if not extra <= _CURL_OPTIONS:
            raise not_trusted(named, by, "it sets options of the transfer")
    elif named.startswith("/vsi") and not named.startswith(
        (*ARCHIVES, *_BUCKETS, "/vsicurl/")
    ):
        raise not_trusted(named, by, "it is a virtual file")
    target = file_of(named)
    if is_remote(target):
        return allowed_remote(named, target, by, trust)
    home = file_of(by)
    if by != home or is_remote(home):  # in an archive or a bucket, or on a server
        return _sibling(by, named)
    if _PART_OF_FILE.fullmatch(target) or re.match(r"[A-Za-z][\w+.-]+:", target):
        raise not_trusted(named, by, "it is not a plain path")
    folder = Path(home).parent
    place = folder / target if beside else Path(target)
    if not any(is_below(place, root) for root in (folder, *map(Path, trust))):
        raise not_trusted(named, by, "it is not below that file's folder")
    return named.removeprefix("file://").replace(target, str(place))


def absolute_href(href: str, by: str) -> str:
    """Return an address that a file of a server or bucket names, as its whole.

    Relative ones stay where the file is a local one: `allowed` knows its folder.

    >>> absolute_href("../b/x.tif", "https://host/a/c/item.json")
    'https://host/a/b/x.tif'
    >>> absolute_href("./x.tif", "s3://bucket/a/item.json")
    's3://bucket/a/x.tif'
    """
    home = host_of(by)
    if not home or is_remote(href) or href.startswith("/vsi"):
        return href
    scheme, _, rest = by.partition("://")
    if scheme.lower() in {"http", "https"}:
        return urljoin(by, href)
    bucket, _, key = rest.partition("/")
    joined = posixpath.normpath(posixpath.join("/", posixpath.dirname(key), href))
    return f"{scheme}://{bucket}{joined}"


def allowed_remote(named: str, target: str, by: str, trust: Sequence[str]) -> str:
    """Return `named` where its host is that of `by`, or trusted; else raise."""
    host = host_of(target)
    if host == host_of(file_of(by)) or host in {host_of(t) or t for t in trust}:
        return named
    raise not_trusted(named, by, f"it is on {host}", host)


def _sibling(by: str, named: str) -> str:
    """Return a file beside another one in a bucket or an archive."""
    place = PurePosixPath(named)
    if place.is_absolute() or ".." in place.parts or ":" in named:
        raise not_trusted(named, by, "it is not below that file's folder")
    return f"{without_query(by).rpartition('/')[0]}/{named}"


def is_below(place: Path, root: Path) -> bool:
    """Whether a file lies in a folder or is it, symbolic links followed."""
    try:
        return Path(os.path.realpath(place)).is_relative_to(os.path.realpath(root))
    except (OSError, ValueError):
        return False


def not_trusted(named: str, by: str, why: str, what: str = "") -> RasterError:
    """Return the error of a file that may not be read, and how it would be."""
    shown = redact(named)
    shown = shown if len(shown) <= 120 else f"{shown[:119]}…"
    return RasterError(
        f"{redact(by)} names {shown}, which is not opened: {why}; if you know it, add "
        f"--trust {what or redact(file_of(named))}"
    )
