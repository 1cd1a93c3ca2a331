"""A masks store that is begun: created, or resumed where its settings are the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from geoseg._version import ANSWERS
from geoseg.core.text import redact
from geoseg.errors import ChangedError, MasksError
from geoseg.location import portable
from geoseg.maps.differences import differences, replaced, same_raster
from geoseg.maps.group import create_group
from geoseg.maps.lock import held
from geoseg.maps.provenance import crs_name
from geoseg.maps.second_copy import META, RECORD, is_ours
from geoseg.maps.state import (
    LOCK,
    begin_record,
    clear_state,
    damaged,
    found_record,
    hold,
    write_record,
)
from geoseg.maps.storage import Storage
from geoseg.maps.store import Masks, open_masks

if TYPE_CHECKING:
    from geoseg.core.classes import Class
    from geoseg.core.grid import Grid


def create_masks(
    path: str,
    *,
    grid: Grid,
    classes: Sequence[Class],
    chunk: int,
    arrays: Sequence[str],
    settings: Mapping[str, Any],
    block: int,
    provenance: Mapping[str, Any],
    overwrite: bool = False,
    zarr_format: int = 2,
    shards: bool = False,
    asked: Mapping[str, Any] | None = None,
) -> Masks:
    """Create a store, metadata only; or resume one made by the same settings.

    Args:
        path: Folder or URL of the store.
        grid: Where its pixels are.
        classes: The class table.
        chunk: Side of the chunks in pixels.
        arrays: Which arrays it gets, `classes` first.
        settings: Everything that changes the answer, JSON-able. A store made by other
            settings is refused.
        block: Side of the blocks, by which done marks are named; not a setting, since
            it does not change the answer. A store that is resumed keeps its own.
        provenance: What else is worth keeping; must hold `run`, a name for this run.
        overwrite: Delete a store that is there.
        zarr_format: 2 opens everywhere; 3 in newer readers.
        shards: Format 3, and one object per block and array.
        asked: What the user asked for, JSON-able: for whoever wants to repeat it.

    Raises:
        MasksError: Something else is there, or a store made by other settings.
    """
    storage = Storage(path.rstrip("/"))
    folder = str(storage.path("")) if storage.is_local else None
    found = resumable(path, settings=settings, grid=grid, overwrite=overwrite)
    if found is not None and found.get("created"):
        hold(storage, found["run"])
        return open_masks(storage.url)
    record = {
        "answers": ANSWERS,
        "settings": _as_kept(settings, storage),
        "block": block,
        "run": provenance["run"],
        "created": False,
        "complete": False,
        "asked": portable(dict(asked or {}), folder),
    }
    begin_record(storage, record)
    clear_state(storage)
    hold(storage, provenance["run"])
    metadata = create_group(
        storage.url,
        grid=grid,
        classes=classes,
        chunk=chunk,
        arrays=arrays,
        provenance=provenance,
        zarr_format=3 if shards else zarr_format,
        shard=block if shards else None,
    )
    write_record(storage, {**record, "created": True}, metadata)
    return open_masks(storage.url)


def resumable(
    path: str, *, settings: Mapping[str, Any], grid: Grid, overwrite: bool = False
) -> dict[str, Any] | None:
    """Return the record of the store that a run would resume; None where it begins one.

    Nothing is written. Arguments as `create_masks`.

    Raises:
        MasksError: Something else is there, or a store made by other settings.
    """
    storage = Storage(path.rstrip("/"))
    found = _begun(storage, overwrite=overwrite)
    if found is not None:
        _check_same(storage, found, _as_kept(settings, storage), grid)
    return found


def _as_kept(settings: Mapping[str, Any], storage: Storage) -> dict[str, Any]:
    """Return settings as the record of a store has them."""
    folder = str(storage.path("")) if storage.is_local else None
    kept: dict[str, Any] = portable(json.loads(json.dumps(settings)), folder)
    return kept


def settings_of(path: str) -> dict[str, Any] | None:
    """Return the settings that a store was begun with, or None where there is none."""
    found = found_record(Storage(path.rstrip("/")))
    return None if found is None else found["settings"]


@contextmanager
def writing(path: str, *, overwrite: bool = False) -> Iterator[Callable[[], None]]:
    """Be the only one who writes a store; nothing is held where it is complete.

    Args:
        path: The store, which need not exist yet.
        overwrite: Whether a complete one will be written too.

    Yields:
        A function that raises where another run has taken over meanwhile.

    Raises:
        LockedError: Another run is writing it.
        MasksError: Something else is there.
    """
    storage = Storage(path.rstrip("/"))
    found = _begun(storage, overwrite=overwrite)
    if found is not None and found["complete"]:
        yield lambda: None
        return
    with held(storage, LOCK) as lock:
        yield lock.check


def _begun(storage: Storage, *, overwrite: bool) -> dict[str, Any] | None:
    """Return the record of a store that is there to go on with; else None.

    Raises:
        MasksError: What is there is not a store of ours: never delete or mix in.
    """
    found = None if overwrite else found_record(storage)
    if found is not None:
        return found
    # Of a run that was killed at its very beginning, only our own folder is there.
    if not set(storage.names("")) - {META}:
        return None
    if is_ours(storage):
        if overwrite:
            return None
        raise damaged(redact(storage.url), f"{RECORD} (missing)")
    remedy = "delete it yourself" if overwrite else "choose another --out"
    raise MasksError(
        f"{redact(storage.url)} exists and geoseg did not make it: {remedy}"
    )


def _check_same(
    storage: Storage, record: Mapping[str, Any], new: Mapping[str, Any], grid: Grid
) -> None:
    """Raise where a run would not answer what the rest of the store was answered."""
    # Where a raster lies is not compared: size, time or tag tell whether it changed.
    name, old, new = redact(storage.url), portable(record["settings"]), portable(new)
    different = any(old.get(k) != new.get(k) for k in {*old, *new})
    if different:
        words = differences(old, new)
        there = open_masks(storage.url).grid if record.get("created") else grid
        if there.crs != grid.crs:
            words.append(f"{crs_name(there)} there, {crs_name(grid)} now")
        begun, those = "with other settings", "use those, another --out, or --overwrite"
        if replaced(old.get("source"), new.get("source")):  # no setting undoes that
            begun = "from another raster than is there now"
            those = "another --out keeps that map, --overwrite begins it again"
        raise ChangedError(
            f"{name} was begun {begun} ({'; '.join(words)})",
            those,
            of_raster=not same_raster(old, new),
        )
    if record.get("answers") != ANSWERS:
        raise MasksError(
            f"{name} was begun by a version of geoseg that gives other results (kind "
            f"{record.get('answers', 'unknown')} there, {ANSWERS} now): finish it with "
            "that version, or use another --out or --overwrite"
        )
