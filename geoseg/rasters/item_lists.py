"""Lists of STAC items in files: an ItemCollection in JSON, or GeoParquet.

In memory addresses are whole. In what is written local ones are relative to the file,
so that a folder can be moved, and none holds a signature.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from geoseg.core.extras import require
from geoseg.core.files import write_text
from geoseg.core.object_stores import access
from geoseg.core.text import redact
from geoseg.errors import RasterError
from geoseg.rasters.addresses import is_remote, squeezed
from geoseg.rasters.archives import without_signature
from geoseg.rasters.catalogs import MOST_BYTES, Item
from geoseg.rasters.named_files import read_bytes

if TYPE_CHECKING:
    from pyarrow import Table

PARQUET: Final = (".parquet", ".geoparquet", ".pq")
QUESTION: Final = "geoseg:question"
"""Where a list tells what was searched for."""


def read_parquet(path: str) -> list[dict[str, Any]]:
    """Return the items of a GeoParquet file, as it tells them.

    Raises:
        RasterError: It cannot be read, or is no table of items.
        MissingExtraError: stac-geoparquet is not installed.
    """
    tables = require(
        "stac_geoparquet.arrow", what="reading items in GeoParquet", extra="stac"
    )
    from pyarrow import ArrowException, parquet

    data = read_bytes(path, most=MOST_BYTES)
    try:
        table = _with_boxes(parquet.read_table(io.BytesIO(data)))
        return [dict(item) for item in tables.stac_table_to_items(table)]
    except (
        ArrowException,
        AssertionError,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        raise RasterError(
            f"{redact(path)} is not a table of STAC items in GeoParquet: "
            f"{squeezed(error, path)}"
        ) from error


def _with_boxes(table: Table) -> Table:
    """Return a table of items whose boxes are structs: geopandas writes lists."""
    from pyarrow import StructArray, compute, types

    place = table.schema.get_field_index("bbox")
    if place < 0 or types.is_struct(table.schema.field(place).type):
        return table
    lists = table.column(place).combine_chunks()
    names: tuple[str, ...] = ("xmin", "ymin", "xmax", "ymax")
    if compute.max(compute.list_value_length(lists)).as_py() == 6:
        names = ("xmin", "ymin", "zmin", "xmax", "ymax", "zmax")
    parts = [compute.list_element(lists, i) for i in range(len(names))]
    return table.set_column(place, "bbox", StructArray.from_arrays(parts, names))


def write_list(
    path: str | os.PathLike[str],
    items: Sequence[Item],
    question: Mapping[str, Any] | None = None,
) -> None:
    """Write items as an ItemCollection, in one step.

    Args:
        path: The file, or the URL of an object.
        items: With whole addresses.
        question: What was searched for.

    Raises:
        GeosegError: It cannot be written.
    """
    name = os.fspath(path)
    folder = "" if is_remote(name) else os.path.realpath(Path(name).parent)
    collection: dict[str, Any] = {
        "type": "FeatureCollection",
        "features": [_portable(item, folder) for item in items],
        "links": [],
    }
    if question is not None:
        collection[QUESTION] = question
    text = json.dumps(collection, indent=1) + "\n"
    if not is_remote(name):
        write_text(name, text)
        return
    import fsspec

    try:
        with fsspec.open(name, "wb", **access(name)) as file:
            file.write(text.encode())
    except Exception as error:  # fsspec's are of many kinds
        raise RasterError(
            f"{redact(name)} cannot be written: {squeezed(error, name)}"
        ) from error


def _portable(item: Item, folder: str) -> dict[str, Any]:
    """Return an item as it is written into a folder."""
    assets = item.get("assets")
    if not isinstance(assets, Mapping):
        return dict(item)
    moved = {
        key: {**asset, "href": _from(folder, asset["href"])}
        for key, asset in assets.items()
        if isinstance(asset, Mapping) and isinstance(asset.get("href"), str)
    }
    return {**item, "assets": {**assets, **moved}}


def _from(folder: str, href: str) -> str:
    """Return an address as it is told from a folder."""
    if is_remote(href) or href.startswith("/vsi"):
        return without_signature(href)
    plain = href.removeprefix("file://")
    if not folder:
        return plain
    try:
        relative = os.path.relpath(os.path.realpath(plain), folder)
    except ValueError:  # another drive
        return href
    return (
        f"./{Path(relative).as_posix()}"
        if not relative.startswith("..")
        else (Path(relative).as_posix())
    )
