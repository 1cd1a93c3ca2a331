"""What a search has found, kept beside what is made of it.

The list is called after the product: `summer.tif` has `summer.items.json` beside it.
The same question is answered by that list from then on, also where the archive has
changed; another question is searched for anew.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from geoseg.core.text import redact
from geoseg.errors import ChangedError, RasterError
from geoseg.rasters.addresses import host_of, is_remote
from geoseg.rasters.catalogs import MOST_BYTES
from geoseg.rasters.item_lists import QUESTION, write_list
from geoseg.rasters.named_files import read_bytes
from geoseg.rasters.search import Found, places_of
from geoseg.rasters.stac import items_in, items_of, with_addresses

BEFORE: Final = "found before"
"""How the note ends that says of a product that its list answered."""
_WORDS: Final = {
    "what": "other scenes", "area": "another area", "dates": "other dates",
    "cloud": "another limit of clouds", "dates_from": "other dates",
}  # fmt: skip


def list_of(product: str | os.PathLike[str]) -> str:
    """Return where the list of items of a product lies.

    >>> list_of("s3://bucket/masks.zarr/"), list_of("summer.tif")
    ('s3://bucket/masks.items.json', 'summer.items.json')
    """
    path = os.fspath(product).rstrip("/\\")
    return f"{os.path.splitext(path)[0]}.items.json"  # noqa: PTH122 - or a URL


def kept_items(
    product: str | os.PathLike[str],
    question: Mapping[str, Any],
    search: Callable[[], Found],
    *,
    sources: Sequence[object] = (),
    overwrite: bool = False,
    trust: Sequence[str] = (),
) -> Found:
    """Return the items that a product is made of, those of before or those found now.

    What is found is written at once, so that a run that is killed goes on with it.

    Args:
        product: What will be made of them; its folder exists.
        question: What is asked for; see `search.question_of`.
        search: Finds the items.
        sources: What the items come from: a list that is one of them stays as it is.
        overwrite: Whether a product of another question gives way.
        trust: Folders, files and hosts where rasters of items may lie.

    Raises:
        ChangedError: The product was made of other items, and is not to give way.
        RasterError: Something else lies where the list would be.
    """
    path = list_of(product)
    if any(_same(path, source) for source in sources):
        return search()
    before = _read(path)
    if before is not None and before.get(QUESTION) == question:
        return _found_before(before, path, sources, trust)
    if before is not None and not overwrite and _is_there(product):
        other = _differing(before, question)
        raise ChangedError(
            f"{redact(os.fspath(product))} was begun with {other} than is asked for "
            "now",
            "use another --out, or --overwrite",
        )
    found = search()
    write_list(path, found.items, question)
    return found


def _same(path: str, source: object) -> bool:
    """Whether a source is the file of the list itself."""
    if not isinstance(source, str | os.PathLike):
        return False
    name = os.fspath(source)
    if is_remote(name) or is_remote(path):
        return name == path
    return os.path.realpath(name) == os.path.realpath(path)


def _is_there(product: str | os.PathLike[str]) -> bool:
    path = os.fspath(product)
    return not is_remote(path) and Path(path).exists()


def _read(path: str) -> dict[str, Any] | None:
    """Return a list that was kept before; None where there is none.

    Raises:
        RasterError: There is something else, which must not be lost.
    """
    if not is_remote(path) and not Path(path).exists():
        return None
    try:
        found = json.loads(read_bytes(path, most=MOST_BYTES))
    except RasterError:
        if is_remote(path):
            return None  # object stores do not tell absence from other trouble alike
        raise
    except ValueError:
        found = None
    if not isinstance(found, dict) or QUESTION not in found:
        raise RasterError(
            f"{redact(path)} is there and is no list of items that geoseg kept, which "
            "would take its place: choose another --out"
        )
    return found


def _found_before(
    kept: Mapping[str, Any], path: str, sources: Sequence[object], trust: Sequence[str]
) -> Found:
    """Return the items of a list; they may lie where the same search can find them."""
    question = kept[QUESTION]
    told = question.get("what") if isinstance(question, Mapping) else None
    archive = str(told.get("archive", "")) if isinstance(told, Mapping) else ""
    around = [p for s in sources for p in _around(s)]
    places = [p for p in (host_of(archive), *around) if p]
    items = [
        with_addresses(item, _absolute(path), (*places, *trust))
        for item in items_in(kept, path)
    ]
    return Found(
        items=items,
        notes=(f"scenes are those of {redact(path)}, {BEFORE}",),
        question=question,
    )


def _around(source: object) -> Iterator[str]:
    """Yield the host or folder of a source, or where its items' files lie."""
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        if is_remote(name):
            yield host_of(name)
        else:
            fixed = name if not glob.has_magic(name) else re.split(r"[*?\[]", name)[0]
            place = Path(fixed).absolute()
            yield str(place if place.is_dir() else place.parent)
    else:
        for item in items_of(source) or ():
            yield from places_of(item)


def _absolute(path: str) -> str:
    return path if is_remote(path) else str(Path(path).absolute())


def _differing(before: Mapping[str, Any], question: Mapping[str, Any]) -> str:
    then = before[QUESTION] if isinstance(before[QUESTION], Mapping) else {}
    keys = [k for k in _WORDS if then.get(k) != question.get(k)]
    return " and ".join(dict.fromkeys(_WORDS[k] for k in keys)) or "another question"
