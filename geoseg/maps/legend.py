"""Names and colours of a map's classes, after it was made; classes that become one.

Names and colours are metadata. Merging writes the pixels of `classes` anew, chunk by
chunk and with their checksums; the store notes which values became which, so that what
a repair makes again is merged too. Cut off in the middle, the same call goes on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from geoseg.core.classes import Class, check_table, nodata_value, usual_color
from geoseg.core.options import keywords
from geoseg.core.text import did_you_mean
from geoseg.core.toml_settings import read_toml
from geoseg.errors import MasksError
from geoseg.maps.complete import check_complete
from geoseg.maps.group import edited
from geoseg.maps.lock import held
from geoseg.maps.metadata import class_attributes
from geoseg.maps.options import ClassesOptions
from geoseg.maps.overviews import forget_overviews, level_names, remake_overviews
from geoseg.maps.state import LOCK, hold, remove_leftovers
from geoseg.maps.store import CHECKSUMS, Masks, open_masks
from geoseg.maps.verify import stored_tiling

_ROW = re.compile(r"(?P<name>.*?):?(?P<color>#[0-9A-Fa-f]{6})?")
Table = tuple[Class, ...]


def rename(masks: str | os.PathLike[str], options: ClassesOptions) -> Masks:
    """Change the class table of masks; see `name_classes`."""
    store = open_masks(masks)
    check_complete(store, partial=None)
    asked = options.merge or {}
    # Of a call that was cut off the values are noted, and still in the table.
    values = {c.value for c in store.classes}
    unfinished = {old: new for old, new in store.merged if old in values}
    merge = {**unfinished, **_merges(store, asked)}
    merged = {str(value_of(store, k.split(",")[0])): name for k, name in asked.items()}
    rows = {**_of_file(options.legend), **(options.names or {}), **merged}
    if merge:
        _check_mergeable(store)
    table = renamed(store, rows, merge)
    if nodata_value(table) != store.nodata:
        raise MasksError(
            f"merging leaves {len(table)} classes, whose nodata is "
            f"{nodata_value(table)}, and the pixels of {store.name} have {store.nodata}"
        )
    with held(store.storage, LOCK):
        hold(store.storage, store.run)
        if merge:
            store = _merged(store, merge)
        _write_table(store, table)
        remove_leftovers(store.storage)  # of a call that was killed too
    return open_masks(masks)


@keywords(ClassesOptions, rename)
def name_classes(
    masks: str | os.PathLike[str],
    *,
    names: Mapping[str, str] | None = None,
    merge: Mapping[str, str] | None = None,
    legend: str | os.PathLike[str] | None = None,
) -> Masks:
    """Name the classes of masks, give them colours, make one of several.

    Polygons, exports, reports and maps that are made from then on follow.

    Args:
        masks: Path or URL of a masks store that is complete.
        names: By value or name, what a class is called from now on, and in which
            colour: `{"1": "water:#0072B2"}`; either may be left out. A name that means
            something brings the colour that maps have for it; else the colour stays.
        merge: Values or names that become one class: `{"3,4": "bare"}`. The lowest
            value stays.
        legend: TOML file with such names, a line each: `1 = "water:#0072B2"`.

    Returns:
        The masks, as they are now.

    Raises:
        MasksError: There are no such classes, or those of objects were to be merged.
        GeosegError: A colour or a name is not one, or two classes have the same.
    """
    raise NotImplementedError  # `rename` is what runs


def _of_file(path: str | os.PathLike[str] | None) -> dict[str, str]:
    """Return what a legend file says of each class."""
    if path is None:
        return {}
    rows = read_toml(path)
    wrong = next((key for key, row in rows.items() if not isinstance(row, str)), None)
    if wrong is not None:
        raise MasksError(
            f'{path}: write {wrong!r} as a line of text, such as {wrong} = "water:'
            '#0072B2"'
        )
    return rows


def renamed(masks: Masks, rows: Mapping[str, str], merge: Mapping[int, int]) -> Table:
    """Return a map's class table with other names and colours, and without what merges.

    Args:
        masks: The map.
        rows: `name`, `name:#RRGGBB` or `#RRGGBB` by value or name.
        merge: Values, and which they become.

    Raises:
        MasksError: There is no such class.
    """
    table = {c.value: c for c in masks.classes if c.value not in merge}
    for key, text in rows.items():
        value = value_of(masks, key)
        found = _ROW.fullmatch(text.strip())
        assert found is not None, "every text matches"
        name, color = found["name"].strip(), found["color"]
        if ":#" in name:
            raise MasksError(
                f"{key}={text}: {name.rpartition(':')[2]!r} is no colour: write six "
                "digits, such as #0072B2"
            )
        old = table[merge.get(value, value)]
        if not color and name:
            taken = {c.color for c in table.values() if c is not old}
            color = usual_color(name, taken)
        table[old.value] = replace(
            old, name=name or old.name, color=(color or old.color).upper()
        )
    return check_table(list(table.values()))


def value_of(masks: Masks, key: str) -> int:
    """Return the value of a class that is named by value, name, or name as made.

    Raises:
        MasksError: There is none.
    """
    merged = dict(masks.merged)
    made = _as_made(masks)
    for table in (masks.classes, made):
        for c in table:
            if key.strip() in {str(c.value), c.name}:
                return merged.get(c.value, c.value)
    known = [*(c.name for c in masks.classes), *(str(c.value) for c in masks.classes)]
    raise MasksError(
        f"{masks.name} has no class {key.strip()!r}{did_you_mean(key.strip(), known)}; "
        f"it has {', '.join(f'{c.value} {c.name}' for c in masks.classes)}"
    )


def _as_made(masks: Masks) -> Table:
    rows = masks.attributes()["geoseg"].get("classes_made", [])
    return tuple(Class(**row) for row in rows)


def _merges(masks: Masks, wanted: Mapping[str, str]) -> dict[int, int]:
    """Return which value becomes which; what was merged before is left out."""
    found: dict[int, int] = {}
    for keys in wanted:
        first, *others = sorted({value_of(masks, key) for key in keys.split(",")})
        found |= dict.fromkeys(others, first)
    return found


def _check_mergeable(masks: Masks) -> None:
    for name, why in (
        ("instances", "its objects are counted by class"),
        ("probabilities", "its probabilities are those of single classes"),
    ):
        if name in masks.arrays:
            raise MasksError(
                f"classes of {masks.name} cannot be merged: {why}; give them names "
                "and colours that go together instead"
            )


def _merged(masks: Masks, merge: Mapping[int, int]) -> Masks:
    """Write the pixels of all blocks anew; one that is written twice is the same."""
    known = {**{old: merge.get(new, new) for old, new in masks.merged}, **merge}
    forget_overviews(masks, remake=True)
    rows = [asdict(c) for c in masks.classes]
    merged = {str(old): new for old, new in known.items()}
    with edited(masks.path) as group:
        told: Any = group.attrs["geoseg"]
        group.attrs["geoseg"] = {"classes_made": rows, **told, "merged": merged}
    masks = open_masks(masks.path)
    tiling = stored_tiling(masks)
    for key in sorted(masks.done()):
        window = tiling.block_at(*key).window
        values = masks.read("classes", window)
        crc = masks.write("classes", window, values)
        info = masks.done_info(key)
        sums = {**info[CHECKSUMS], "classes": crc}
        masks.mark_done(key, {**info, CHECKSUMS: sums})
    remake_overviews(masks)
    return masks


def _write_table(masks: Masks, table: Sequence[Class]) -> None:
    """Write a class table where readers look for it."""
    rows, old = ([asdict(c) for c in each] for each in (table, masks.classes))
    with edited(masks.path) as root:
        noted: Any = root.attrs["geoseg"]  # by a call that was cut off, perhaps
        made = noted.get("classes_made", old)
        levels: list[Any] = [root[name] for name in level_names(masks)]
        for group in (root, *levels):
            group["classes"].attrs.update(class_attributes(table))
            told = {"classes_made": made, **group.attrs["geoseg"]}
            group.attrs.update({"classes": rows, "geoseg": told})
