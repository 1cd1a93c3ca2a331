"""Zarrs of any tool on this machine: which paths are some, and what of them is meant.

A path may be that of a store, whatever its name ends with, of a group in it, or of an
array.
"""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from geoseg.core.text import percent, redact
from geoseg.errors import GeosegError, IncompleteError, RasterError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr

_MARKS = ("zarr.json", ".zgroup", ".zarray", ".zmetadata")
_LISTED = 6
_LONGEST: Final = 10_000_000
"""Values of a coordinate: pixels of 4 m around the Earth."""
_MOST_CHUNKS: Final = 10_000
"""Of a coordinate, which is read whole."""


def is_zarr(path: str) -> bool:
    """Whether a folder on this machine is a Zarr, a group of one or an array."""
    place = Path(path)
    named = path.rstrip("/\\").endswith(".zarr")
    return place.is_dir() and (named or any((place / m).is_file() for m in _MARKS))


def only_gdal_reads(path: str) -> bool:
    """Whether a Zarr has arrays of version 3 that only GDAL reads, which wrote them.

    GDAL 3.10 leaves out the codecs, and up to 3.12 the fill value is null at times: not
    as the specification has it, and zarr refuses these, or does not see them.
    """
    nodes = map(_node, sorted(Path(path).glob("*/zarr.json")))
    arrays = [n for n in nodes if n.get("node_type") == "array"]
    return any("codecs" not in n or n.get("fill_value") is None for n in arrays)


def group_and_array(path: str) -> tuple[str, str | None]:
    """Return the group that is to be opened, and the name of the array that is meant.

    The latter is None where the path is that of a group.
    """
    place = Path(path)
    array = _node(place / "zarr.json").get("node_type") == "array"
    if array or (place / ".zarray").is_file():
        return str(place.parent), place.name
    return path, None


def check_made(path: str, dataset: xr.Dataset) -> None:
    """Refuse masks of geoseg that are not complete: what is missing would be nodata.

    Raises:
        IncompleteError: A run has yet to make some of it.
    """
    record = _node(Path(path) / ".geoseg" / "run.json")
    if record.get("complete") is not False:
        return
    side = int(str(record["block"]))
    total = -(-dataset.sizes["y"] // side) * -(-dataset.sizes["x"] // side)
    done = len(list((Path(path) / ".geoseg" / "done").glob("[0-9]*.*")))
    lacks = f"{percent(1 - done / total)} is missing ({total - done} of {total} blocks)"
    if done == total:
        lacks = "its objects are not written"
    raise IncompleteError(
        f"{redact(path)} is not complete: {lacks}: run the command that made it again"
    )


def zarr_dataset(
    path: str,
    error: type[GeosegError] = RasterError,
    **how: Any,  # noqa: ANN401 - of xarray.open_zarr
) -> xr.Dataset:
    """Return a Zarr with its numbers as they are stored; only coordinates are read.

    Args:
        path: What messages call it, and where it is looked for links.
        error: What is raised where it cannot be opened.
        how: What `xarray.open_zarr` is told.

    Raises:
        GeosegError: `error`; also where a link leads out of it, or a coordinate says
            that it is longer than any raster's.
    """
    import xarray as xr

    from geoseg.rasters.unpacking import check_chunks

    check_chunks()
    name = redact(path)
    for link in _links(path):
        if not Path(os.path.realpath(link)).is_relative_to(os.path.realpath(path)):
            raise error(
                f"{name} is not opened: {link} leads out of it; put what it leads to "
                "in its place"
            )
    try:
        with warnings.catch_warnings():  # of folders beside the arrays, as masks have
            warnings.filterwarnings("ignore", ".* is not recognized as a component")
            warnings.filterwarnings("ignore", "Failed to open Zarr store with consol")
            dataset: xr.Dataset = xr.open_zarr(
                **how,
                chunks=None,
                decode_coords="all",
                mask_and_scale=False,
                create_default_indexes=False,  # they read coordinates of any length
            )
        for key, place in dataset.coords.items():
            if place.ndim > 1:
                continue  # of each pixel, which no grid needs
            chunks = -(
                -place.size // (math.prod(place.encoding.get("chunks", ())) or 1)
            )
            if place.size > _LONGEST or chunks > _MOST_CHUNKS:
                raise ValueError(  # noqa: TRY301 - said below
                    f"{key} has {place.size:,} values in {chunks:,} chunks, more than "
                    f"the {_LONGEST:,} in {_MOST_CHUNKS:,} that a coordinate may have"
                )
            place.load()
    except Exception as why:  # of zarr, xarray and codecs
        raise error(f"cannot open {name}: {redact(first_line(why))}") from why
    return dataset


def _links(folder: str) -> Iterator[str]:
    """Yield the symbolic links in a folder on this machine, which are not followed."""
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if os.path.islink(link := os.path.join(place, name)):  # noqa: PTH114, PTH118
                yield link


def meant(dataset: xr.Dataset, path: str, array: str | None) -> xr.Dataset:
    """Return the arrays of a group that are meant, in the order of their names.

    A Zarr keeps no order: a file system lists arrays as it likes. `B2` comes before
    `B10`.

    Args:
        dataset: The group as xarray opens it.
        path: Where it is.
        array: The only one that is meant; None: all.

    Raises:
        RasterError: There are none; groups in it are named.
    """
    if array is not None and array in dataset.data_vars:
        return dataset[[array]]
    if dataset.data_vars:
        names = sorted((str(name) for name in dataset.data_vars), key=_natural)
        return dataset[names]
    place, name = Path(path), redact(path)
    files = (f for mark in ("zarr.json", ".zarray") for f in place.rglob(mark))
    arrays = [f.parent for f in files if _node(f).get("node_type", "array") == "array"]
    groups = sorted({a.parent.relative_to(place).as_posix() for a in arrays} - {"."})
    if not groups:
        raise RasterError(f"{name} is a Zarr without arrays")
    more = ", …" * (len(groups) > _LISTED)
    raise RasterError(
        f"{name} has no arrays itself, but in {', '.join(groups[:_LISTED])}{more}: say "
        f"which, as in {name.rstrip('/')}/{groups[0]}"
    )


def _node(file: Path) -> dict[str, object]:
    """Return what metadata say of a node; nothing where they cannot be read."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _natural(name: str) -> list[tuple[int, str]]:
    """Return what names are ordered by: the numbers in them by their values."""
    parts = re.findall(r"\d+|\D+", name)
    return [(int(p) if p.isdecimal() else -1, p) for p in parts]
