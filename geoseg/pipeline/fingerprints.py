"""What a stage is made of and what it made: digests that tell when either changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from geoseg.core.options import Options, cli_of
from geoseg.maps.storage import is_stray

_WHOLE = 1 << 28
"""Bytes up to which a file is known by its content; larger ones by size and time."""
_CHUNK = 1 << 20


def inputs_of(options: Options) -> dict[str, Any]:
    """Return what the files are that a stage's options name, by option."""
    model = type(options)
    return {
        name: [fingerprint(path) for path in _paths(getattr(options, name))]
        for name in model.model_fields
        if cli_of(model, name).location
    }


def _paths(value: Any) -> list[str]:  # noqa: ANN401 - any option's value
    if isinstance(value, str | os.PathLike):
        return [os.fspath(value)]
    return [path for each in value for path in _paths(each)] if value else []


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


def _digest(texts: Iterator[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode())
    return digest.hexdigest()
