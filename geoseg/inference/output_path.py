"""Where masks may be written: in a folder or bucket, not on what they are made of."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from geoseg.core.text import redact
from geoseg.errors import MasksError
from geoseg.rasters.source import Source

_FILES = {
    ".tif", ".tiff", ".vrt", ".png", ".jpg", ".jpeg", ".nc", ".gpkg", ".shp",
    ".geojson", ".json", ".parquet", ".fgb", ".html", ".zip",
}  # fmt: skip
"""Endings of files, which masks are not."""


def _check_ending(out: str) -> None:
    ending = Path(out).suffix.lower()
    if ending in _FILES:
        raise MasksError(
            f"{redact(out)} is named like a file ({ending}); masks are a folder: write "
            f"--out {redact(out[: -len(ending)])}.zarr, and make files of it with "
            "geoseg export or geoseg vectorize"
        )


def checked_out(out: str, source: Source) -> str:
    """Return the store's path, or raise where it would lie in or on the input."""
    if out.startswith(("http://", "https://")):
        raise MasksError(
            f"{redact(out)} cannot be written to: masks lie in a folder or an object "
            "store, such as masks.zarr or s3://bucket/masks.zarr"
        )
    if "://" in out:
        _check_ending(out)
        return out.rstrip("/")
    target = Path(out).resolve()
    for file in local_files(source):
        place = Path(file).resolve()
        if place == target or place in target.parents:
            raise MasksError(
                f"the output {out} lies on or inside the input {file}: choose "
                "another --out"
            )
    _check_ending(out)
    if target.is_file():
        raise MasksError(
            f"{out} is a file; the masks are a folder: choose another --out"
        )
    return str(target)


def local_files(source: Source) -> list[str]:
    """Return the local files or the folder that a source is read from."""

    def named(identity: Mapping[str, Any]) -> Iterator[str]:
        if "path" in identity:
            yield str(identity["path"])
        if "files" in identity:
            yield source.name
        for inner in identity.values():  # of what is clipped, resampled, warped
            if isinstance(inner, Mapping):
                yield from named(inner)

    return [file for name in named(source.identity) for file in existing(name)]


def existing(name: str) -> list[str]:
    """Return the name of a file or folder that is there, in a list."""
    there = "://" not in name and os.path.exists(name)  # noqa: PTH110 - never raises
    return [name] if there else []
