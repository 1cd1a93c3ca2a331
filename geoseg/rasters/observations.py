"""Which STAC items are one observation, and which of two processings stands for both.

What one overpass saw of a place is one observation, however many items it was cut into:
tiles, strips and rows overlap, and are laid together before anything is counted. An
overpass is a datatake where items tell of it (`s2:datatake_id`, or Sentinel-2's own
names), an absolute orbit, a strip, else a platform's solar day: the date in UTC changes
in the middle of overpasses over the Pacific.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from geoseg.core.dates import item_moment, moment_of
from geoseg.core.text import counted
from geoseg.rasters.stac_assets import baseline_of, property_of, words_of

Item = Mapping[str, Any]

_SENTINEL2: Final = re.compile(
    r"(?P<platform>S2[A-D])_MSIL(?P<level>[12][AC])_(?P<take>\d{8}T\d{6})"
    r"(?:_N(?P<baseline>\d{4}))?_R(?P<orbit>\d{3})_T(?P<tile>\d{2}[A-Z]{3})"
    r"(?:_(?P<made>\d{8}T\d{6}))?"
)
_SENTINEL1: Final = re.compile(
    r"(?P<scene>(?P<platform>S1[A-D])_\w{2}_\w{4}_\w{4}_\d{8}T\d{6}_\d{8}T\d{6}"
    r"_(?P<orbit>\d{6})_[0-9A-F]{6})"
)
_LANDSAT: Final = re.compile(
    r"(?P<sat>L[COTEM]0[4-9])_(?P<level>L[12])\w{2}_(?P<scene>\d{6}_\d{8})"
    r"(?:_(?P<made>\d{8}))?_02(?:_(?P<tier>T1|T2|RT))?"
)
_HLS: Final = re.compile(
    r"(?P<scene>HLS\.[SL]30\.T\w{5}\.\d{7}T\d{6})\.v(?P<made>[\d.]+)"
)
_DATATAKE: Final = re.compile(r"G(S2[A-D])_(\d{8}T\d{6})(?:_(\d{6}))?")
_ORBIT: Final = timedelta(minutes=100)
_SENSED: Final = re.compile(r"_S(\d{8}T\d{6})")
_TIERS: Final = {"RT": "0", "T2": "1", "T1": "2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What one overpass saw, as the items that it was cut into."""

    moment: datetime
    """When its first item was sensed, in UTC."""
    items: tuple[Item, ...]
    """In the order in which they count where they overlap."""


def observations(items: Sequence[Item]) -> tuple[list[Observation], tuple[str, ...]]:
    """Return what was seen, oldest first, and what there is to say of it.

    Neither depends on the order of the items. Items without a date are left out.
    """
    dated = [item for item in items if item_moment(item) is not None]
    newest = _newest(dated)
    passes: dict[tuple[str, ...], list[tuple[datetime, Item]]] = {}
    middle, whole = _middle(newest), _joined(newest)
    for item in newest:
        moment = item_moment(item)
        assert moment is not None, "those without were left out"
        called = overpass(item, moment, middle)
        passes.setdefault(whole.get(called, called), []).append((moment, item))
    found = []
    for group in passes.values():
        group.sort(key=lambda pair: (pair[0], _name(pair[1])))
        group.sort(key=lambda pair: age(pair[1]), reverse=True)  # the newest on top
        moment = min(moment for moment, _ in group)
        found.append(Observation(moment=moment, items=tuple(i for _, i in group)))
    found.sort(key=lambda o: (o.moment, [_name(i) for i in o.items]))
    return found, tuple(_told(len(items) - len(dated), len(dated) - len(newest)))


def _told(undated: int, older: int) -> Iterator[str]:
    if undated:
        are = "is" if undated == 1 else "are"
        yield f"{counted(undated, 'item')} without a date {are} left out"
    if older:
        yield (
            f"{counted(older, 'item')} left out, of which there is a newer or further "
            "processing: the newest stands for a scene"
        )


def _newest(items: Sequence[Item]) -> list[Item]:
    """Return the items without those of which there is a newer processing."""
    scenes: dict[tuple[str, ...], list[Item]] = {}
    for item in sorted(items, key=lambda i: (_name(i), age(i), str(i.get("links")))):
        scenes.setdefault(scene(item), []).append(item)
    return [item for same in scenes.values() for item in _standing(same)]


def _standing(same: list[Item]) -> list[Item]:
    """Return which items of one scene stand for it: the newest.

    Items of Sentinel-2 that do not name their strip may be two strips of one tile
    where their baselines are the same: those are laid together, the newest on top.
    """
    newest = max(same, key=age)
    if _strip(newest) or _datatake(newest) is None:
        return [newest]
    by_name = {_name(i): i for i in sorted(same, key=age)}
    return [i for i in by_name.values() if age(i)[:2] == age(newest)[:2]]


def _joined(items: Sequence[Item]) -> Mapping[tuple[str, ...], tuple[str, ...]]:
    """Return of each datatake the first one of its orbit: both are one overpass."""
    takes: dict[tuple[str, str], set[tuple[datetime, str]]] = {}
    for item in items:
        match = _DATATAKE.match(str(property_of(item, ":datatake_id") or ""))
        if match and match[3] and (begun := _begun(match[2])) is not None:
            takes.setdefault((match[1], match[3]), set()).add((begun, match[2]))
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for (platform, _), starts in takes.items():
        first, called = datetime.min.replace(tzinfo=UTC), ""
        for begun, start in sorted(starts):
            if begun - first > _ORBIT:
                first, called = begun, start
            found["datatake", platform, start] = "datatake", platform, called
    return found


def _begun(text: str) -> datetime | None:
    """Return when a datatake began; None where that is no time."""
    try:
        return moment_of(text)
    except ValueError:
        return None


def _middle(items: Sequence[Item]) -> float:
    """Return the longitude around which items lie, wherever the degrees begin."""
    boxes = [box for item in items if (box := box_of(item)) is not None]
    turns = [math.radians(middle_longitude(box)) for box in boxes]
    east, north = (math.fsum(f(t) for t in turns) for f in (math.cos, math.sin))
    return math.degrees(math.atan2(north, east))


def overpass(item: Item, moment: datetime, middle: float = 0.0) -> tuple[str, ...]:
    """Return what items of one overpass have in common.

    Args:
        item: One of them.
        moment: When it was sensed.
        middle: The longitude around which all items lie: across the antimeridian from
            it no other day begins.
    """
    if (take := _datatake(item)) is not None:
        return "datatake", *take
    told = _properties(item)
    if match := _SENTINEL1.search(words_of(item)):
        return "orbit", match["platform"], match["orbit"]
    platform = _platform(told)
    if told.get("pl:strip_id"):
        return "strip", platform, str(told["pl:strip_id"])
    orbit = told.get("sat:absolute_orbit")
    state = str(told.get("sat:orbit_state", ""))
    if orbit is not None and platform:
        return "orbit", platform, str(orbit), state
    track = str(told.get("landsat:wrs_path") or told.get("sat:relative_orbit") or "")
    collection = "" if platform else str(item.get("collection") or "")
    return "day", platform, collection, state, track, solar_day(item, moment, middle)


def _datatake(item: Item) -> tuple[str, ...] | None:
    """Return a platform and when its datatake began; None where nothing tells.

    Processings of one datatake end in their baseline.
    """
    if told := property_of(item, ":datatake_id"):
        match = _DATATAKE.match(str(told))
        return match.groups()[:2] if match else (str(told),)
    named = _SENTINEL2.search(words_of(item))
    return None if named is None else (named["platform"], named["take"])


def solar_day(item: Item, moment: datetime, middle: float = 0.0) -> str:
    """Return the date at an item's place by the sun, as it is counted at a longitude.

    Of tiles on both sides of the antimeridian it is the same one.
    """
    box = box_of(item)
    east = (0.0 if box is None else middle_longitude(box)) - middle
    degrees = middle + (east + 180) % 360 - 180
    return (moment + timedelta(hours=degrees / 15)).date().isoformat()


def middle_longitude(box: Sequence[float]) -> float:
    """Return the longitude of a box's middle, also across the antimeridian."""
    west, east = box[0], box[2]
    return (west + east + (360 if east < west else 0)) / 2


def scene(item: Item) -> tuple[str, ...]:
    """Return what processings of one scene have in common, and no two scenes do."""
    name, take = words_of(item), _datatake(item)
    collection, strip = str(item.get("collection") or ""), _strip(item)
    tile = property_of(item, ":mgrs_tile") or property_of(item, "grid:code") or ""
    place = str(tile).removeprefix("MGRS-")
    if match := _SENTINEL2.search(name):
        return "Sentinel-2", match["platform"], match["take"], match["tile"], strip
    if place and take is not None and len(take) > 1:  # as its name tells elsewhere
        return "Sentinel-2", *take, place, strip
    if place and (strip or take):
        return "Sentinel-2", collection, place, *([strip] if strip else take or ())
    if match := _HLS.search(name):  # whichever archive has it
        return "HLS", match["scene"]
    for pattern in (_SENTINEL1, _LANDSAT):
        if match := pattern.search(name):
            return collection, match.groupdict().get("sat", ""), match["scene"]
    return collection, _name(item)


def _strip(item: Item) -> str:
    """Return when the strip that a tile of Sentinel-2 was cut of began, if known."""
    found = _SENSED.search(str(property_of(item, ":datastrip_id") or ""))
    return found[1] if found else ""


def age(item: Item) -> tuple[str, float, str, str, str]:
    """Return what orders processings of one scene, the newest last.

    Reflectance of the surface counts more than that at the top of the atmosphere.
    """
    told, name = _properties(item), words_of(item)
    made = property_of(item, ":generation_time") or told.get("processing:datetime")
    level = tier = ""
    for pattern in (_SENTINEL2, _LANDSAT, _HLS):
        if match := pattern.search(name):
            made = made or match["made"]
            tier = _TIERS.get(match.groupdict().get("tier") or "", "")
            level = match.groupdict().get("level") or ""
            break
    listed = str(told.get("updated") or told.get("created") or "")
    return level, baseline_of(item) or 0.0, _digits(made), tier, _digits(listed)


def box_of(item: Item) -> tuple[float, float, float, float] | None:
    """Return an item's west, south, east, north; None where it has none."""
    box = item.get("bbox")
    if not isinstance(box, Sequence) or len(box) not in {4, 6}:
        return None
    try:
        numbers = [float(n) for n in box]
    except (TypeError, ValueError):
        return None
    half = len(numbers) // 2
    return numbers[0], numbers[1], numbers[half], numbers[half + 1]


def _digits(moment: object) -> str:
    """Return a moment as its digits, as names of products write it."""
    return re.sub(r"\D", "", str(moment or ""))[:20]


def _platform(told: Mapping[str, Any]) -> str:
    """Return a platform's name; `Sentinel-2A` and `sentinel-2a` are one."""
    platform = told.get("platform") or told.get("constellation") or ""
    return str(platform).casefold().replace("_", "-")


def _properties(item: Item) -> Mapping[str, Any]:
    told = item.get("properties")
    return told if isinstance(told, Mapping) else {}


def _name(item: Item) -> str:
    return str(item.get("id", ""))
