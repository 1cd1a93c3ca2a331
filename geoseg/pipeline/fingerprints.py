"""What a stage is made of and what it made: digests that tell when either changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from glob import has_magic, iglob
from pathlib import Path
from typing import Any

from geoseg.core.options import Options, cli_of
from geoseg.errors import GeosegError
from geoseg.maps.storage import is_stray
from geoseg.rasters.addresses import is_remote
from geoseg.rasters.file_versions import Versions
from geoseg.rasters.references import contents, is_index, is_vrt

_WHOLE = 1 << 28
"""Bytes up to which a file is known by its content; larger ones by size and time."""
_CHUNK = 1 << 20
_PARTS = {
    ".shp": (".dbf", ".prj", ".cpg"),
    ".mif": (".mid",),
    ".tab": (".dat", ".map"),
    ".tif": (".tfw",),
    ".jpg": (".jgw",),
    ".png": (".pgw",),
}
"""Endings of the files that hold a part of what one of the first ending says."""
_APPENDED = ("-wal", ".msk")
"""The same, after the whole name: what SQLite has not filed yet, and masks."""


def inputs_of(options: Options) -> dict[str, Any]:
    """Return what the files are that a stage's options name, by option."""
    model, trust = type(options), getattr(options, "trust", None) or ()
    return {
        name: [_of_input(path, trust) for path in _paths(getattr(options, name))]
        for name in model.model_fields
        if cli_of(model, name).location
    }


def _paths(value: Any) -> list[str]:  # noqa: ANN401 - any option's value
    if isinstance(value, str | os.PathLike):
        return [os.fspath(value)]
    return [path for each in value for path in _paths(each)] if value else []


def _of_input(path: str, trust: Sequence[str]) -> str | None:
    """Return a digest of all that lies behind a name; None where that is not known."""
    place = Path(path)
    if place.is_dir():
        return fingerprint(path)
    if has_magic(path) and not is_remote(path) and not place.exists():
        found = sorted(iglob(path))  # noqa: PTH207 - absolute, or from where one is
        return _digest(f"{p}\0{_of_input(p, trust)}\n" for p in found)
    own = fingerprint(path)
    if own is None or is_vrt(path) or is_index(path):
        versions = _versions(path, trust)
        return own if not versions else _digest((f"{own}\0", versions))
    beside = [*map(_of_file, _beside(place))]
    return _digest([own, *beside]) if beside else own


def _versions(path: str, trust: Sequence[str]) -> str:
    """Return which versions of its files a raster or URL has; of most names, none."""
    try:
        files: Iterable[str] = contents(path, trust).files
    except GeosegError:  # no raster, or none that may be opened: the stage itself says
        files = [path]
    found = Versions.of(files).summary()
    return json.dumps(found, sort_keys=True) if found else ""


def _beside(file: Path) -> list[Path]:
    """Return the files that hold a part of what a file says, of those that are there.

    One without a byte says nothing: SQLite leaves such where a file is only read.
    """
    endings = _PARTS.get(file.suffix.lower(), ())
    names = [file.with_suffix(e) for end in endings for e in (end, end.upper())]
    names += [Path(f"{file}{end}") for end in _APPENDED]
    there = {p.resolve(): p for p in names if p.is_file() and p.stat().st_size}
    return [*there.values()]


def fingerprint(path: str) -> str | None:
    """Return a digest of a local file or folder; None for what is neither."""
    place = Path(path)
    if place.is_file():
        return _of_file(place)
    if place.is_dir():
        return _digest(f"{name}\0{size}\0{time}\n" for name, size, time in _walk(place))
    return None


def _of_file(path: Path) -> str:
    status = path.stat()
    if status.st_size > _WHOLE:
        return f"{status.st_size}-{status.st_mtime_ns}"
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _walk(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Yield the files of a folder, in order, but for hidden ones and strays."""
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        if entry.is_dir(follow_symlinks=False):
            if not entry.name.startswith("."):
                for name, size, time in _walk(Path(entry.path)):
                    yield f"{entry.name}/{name}", size, time
        elif not is_stray(entry.name):
            status = entry.stat()
            yield entry.name, status.st_size, status.st_mtime_ns


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode())
    return digest.hexdigest()
