"""A second copy of a store's small objects: its record, and all Zarr metadata.

It checks them, and restores them byte for byte. It is written first: a repair ends a
change that was cut off. It has a checksum, which tells which of the two is damaged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from zlib import crc32

from geoseg.maps.storage import Storage

META = ".geoseg"
RECORD = f"{META}/run.json"
COPY = f"{META}/copy.json"
_V2 = (".zgroup", ".zattrs", ".zmetadata"), (".zarray", ".zattrs")
_V3 = ("zarr.json",), ("zarr.json",)
"""What Zarr keeps of a group, and of an array."""
_GROUPS = ("objects", "overview_")
"""What the names of groups in a store begin with; all others are arrays."""
_SEAL = "crc32"

Documents = dict[str, bytes]
"""Small objects by their names."""


def sealed(value: Mapping[str, Any]) -> bytes:
    """Return a JSON object that ends in a checksum of the rest."""
    crc = crc32(json.dumps(dict(value)).encode())
    return json.dumps({**value, _SEAL: crc}).encode()


def unsealed(data: bytes) -> dict[str, Any] | None:
    """Return what was sealed; None where a single byte is not as it was."""
    try:
        value = json.loads(data)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    rest = {k: v for k, v in value.items() if k != _SEAL}
    return rest if sealed(rest) == data else None


def put_twice(
    storage: Storage,
    changes: Mapping[str, bytes | None],
    others: Mapping[str, bytes] | None = None,
) -> None:
    """Write small objects of a store, and their copy before them.

    Args:
        storage: The store.
        changes: Objects by name; None deletes one. The record is written last.
        others: What the copy may lack besides, where that is known.
    """
    kept = copied(storage)
    if kept is None:
        kept = found(storage) if others is None else {}
    new = {**(others or {}), **kept, **changes}
    storage.put(COPY, _packed({n: d for n, d in new.items() if d is not None}))
    storage.put_all({n: d for n, d in changes.items() if n != RECORD})
    record = changes.get(RECORD)
    if record is not None:
        storage.put(RECORD, record)


def copied(storage: Storage) -> Documents | None:
    """Return the copy of a store's small objects; None where it is lost or damaged."""
    told = unsealed(storage.find(COPY) or b"")
    if told is None:
        return None
    return {n: t.encode("utf-8", "surrogateescape") for n, t in told.items()}


def _packed(documents: Mapping[str, bytes]) -> bytes:
    return sealed(
        {n: documents[n].decode("utf-8", "surrogateescape") for n in sorted(documents)}
    )


def is_ours(storage: Storage) -> bool:
    """Whether a folder holds what only geoseg writes, whatever else is lost."""
    return storage.exists(RECORD) or storage.exists(COPY)


def found(storage: Storage) -> Documents:
    """Return the small objects themselves, of groups inside the store too."""
    root = storage.names("")
    group, array = _V3 if "zarr.json" in root else _V2
    names = [RECORD, *group]
    for name in (n for n in root if not n.startswith(".") and n not in group):
        kinds = group if name.startswith(_GROUPS) else array
        names += [f"{name}/{kind}" for kind in kinds]
        if name.startswith(_GROUPS):
            inside = (n for n in storage.names(name) if not n.startswith("."))
            names += [f"{name}/{n}/{kind}" for n in inside for kind in array]
    every = zip(names, storage.get_all(names), strict=True)
    return {name: data for name, data in every if data is not None}


def metadata_of(objects: Mapping[str, bytes]) -> Documents:
    """Return those of some objects that are Zarr metadata."""
    known = {name for version in (_V2, _V3) for kind in version for name in kind}
    return {n: d for n, d in objects.items() if n.rpartition("/")[2] in known}


def differing(storage: Storage) -> dict[str, str]:
    """Return what is wrong with small objects, by name."""
    told = copied(storage)
    if told is None:
        unreadable = (n for n, data in found(storage).items() if not _is_json(data))
        return {
            COPY: "is missing or damaged",
            **dict.fromkeys(unreadable, "is damaged"),
        }
    problems = {}
    for name, data in zip(told, storage.get_all(list(told)), strict=True):
        if data != told[name]:
            problems[name] = "is missing" if data is None else "differs from its copy"
    return problems


def restore(storage: Storage) -> list[str]:
    """Put small objects back as they were; return the names of those that were not.

    A copy that is damaged is made again of the objects, if none of those is.
    """
    wrong, told = list(differing(storage)), copied(storage)
    if told is not None:
        storage.put_all({name: told[name] for name in wrong})
    elif wrong == [COPY]:
        storage.put(COPY, _packed(found(storage)))
    else:
        return []
    return wrong


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True
