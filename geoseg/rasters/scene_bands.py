"""Which asset of each item is the band that is meant: B05 is not B05 across sensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from geoseg.core.text import did_you_mean
from geoseg.errors import RasterError
from geoseg.rasters.bands import band_key, with_common_names
from geoseg.rasters.layers import Layer, Numbers
from geoseg.rasters.quality_bands import bands_read, quality_asset
from geoseg.rasters.sensors import COMMON_NAMES
from geoseg.rasters.source import SourceBand
from geoseg.rasters.stac_assets import Asset, rasters_of, size_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A band that an item has."""

    asset: Asset
    number: int
    """Of the band in the asset's file, 1-based."""
    band: SourceBand
    """As the item tells."""
    guessed: str | None
    """The common name that its own name means for its sensor."""

    @property
    def names(self) -> tuple[str | None, ...]:
        """What it may be called, the surest first."""
        told = self.band.common_name
        return told, self.guessed, self.band.name, self.asset.key


def entries_of(item: Mapping[str, Any]) -> list[Entry]:
    """Return the bands of an item, those that show the same once, at their finest.

    Raises:
        RasterError: It does not follow the specification.
    """
    try:
        found = [e for asset in rasters_of(item) for e in _in_asset(item, asset)]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RasterError(
            f"{item_name(item)} does not follow the specification: {error!r}"
        ) from error
    best: dict[str, Entry] = {}
    for entry in found:
        key = band_key(entry.band.name)
        best[key] = min(best.get(key, entry), entry, key=lambda e: size_of(e.asset))
    return list(best.values())


def item_name(item: Mapping[str, Any]) -> str:
    """Return what an item is called in messages."""
    return f"STAC item {item.get('id', '?')}"


def _in_asset(item: Mapping[str, Any], asset: Asset) -> Iterator[Entry]:
    sensor = f"{item.get('collection', '')} {item.get('id', '')}"
    bands = asset.bands or (_unnamed(asset),)
    guesses = with_common_names([b.name for b in bands], sensor)
    for i, (band, guess) in enumerate(zip(bands, guesses, strict=True), 1):
        yield Entry(asset=asset, number=i, band=band, guessed=guess.common_name)


def _unnamed(asset: Asset) -> SourceBand:
    """Return the band of an asset that names none, by the asset's key."""
    scale, offset = asset.rules[0] if asset.rules else (1.0, 0.0)
    return SourceBand(name=asset.key, scale=scale, offset=offset)


def band_of(entries: Sequence[Entry], word: str, scene: str) -> Entry | None:
    """Return the band of an item that a word means, None where it has none.

    A common name counts before a name, whatever the sensor calls it.

    Raises:
        RasterError: Several bands could be meant.
    """
    key = band_key(word)
    hits: list[Entry] = []
    for place in range(4):
        here = [
            e
            for e in entries
            if e.names[place] and band_key(str(e.names[place])) == key
        ]
        if len(here) == 1:
            return here[0]
        hits = hits or here
    if hits:
        meant = ", ".join(e.band.name for e in hits)
        raise RasterError(f"{scene}: {word!r} may be any of its bands {meant}")
    if key == "nir":  # Landsat's only near infrared
        return band_of(entries, "nir08", scene)
    return None


def bands_there(scenes: Sequence[Sequence[Entry]]) -> list[str]:
    """Return a name for each band that any of the items has, in their order."""
    found: dict[str, None] = {}
    for entries in scenes:
        for place in (0, 1):
            count = Counter(e.names[place] for e in entries)
            if all(count[e.names[place]] == 1 for e in entries if e.names[place]):
                break
        for entry in entries:
            common = entry.names[place]
            called = common if common and count[common] == 1 else entry.band.name
            found.setdefault(called)
    return list(found)


def bands_asked(
    scenes: Sequence[Sequence[Entry]], words: Sequence[str] | None, name: str
) -> tuple[SourceBand, ...]:
    """Return the bands that are asked for; all that there are where none is.

    Raises:
        RasterError: No item has one, or any; or a name means other bands of other
            sensors.
    """
    known = bands_there(scenes)
    if not known:
        raise RasterError(
            f"{name}: among the assets of its items are no rasters but pictures to "
            "look at, quality bands and the like"
        )
    if words is None:
        words = known
    unnamed = {word for word in known if word.isdigit()}  # as files may have them
    if any("=" in w or (w.isdigit() and w not in unnamed) for w in words):
        raise RasterError(
            f"--bands {','.join(words)}: bands of scenes are asked for by their names: "
            f"{', '.join(known)}"
        )
    return tuple(_asked(scenes, word.strip(), known, name) for word in words)


def _asked(
    scenes: Sequence[Sequence[Entry]], word: str, known: Sequence[str], name: str
) -> SourceBand:
    found = [e for entries in scenes if (e := band_of(entries, word, name)) is not None]
    if not found:
        raise RasterError(
            f"{name}: no item has a band {word}{did_you_mean(word, known)}: they have "
            f"{', '.join(known)}"
        )
    if word.lower() in COMMON_NAMES:
        return SourceBand(name=word, common_name=word.lower())
    common = {c for e in found if (c := e.guessed or e.band.common_name)}
    if len(common) > 1:
        raise RasterError(
            f"{name}: {word} is {' in some items and '.join(sorted(common))} in "
            "others, of another sensor: ask for it by its common name"
        )
    return SourceBand(name=word, common_name=next(iter(common), None))


def layers_of(
    item: Mapping[str, Any], bands: Sequence[SourceBand], entries: Sequence[Entry]
) -> tuple[Layer | None, ...]:
    """Return an item's layer for each band, None for those that it lacks."""
    return tuple(_layer(item, band, entries) for band in bands)


def _layer(
    item: Mapping[str, Any], band: SourceBand, entries: Sequence[Entry]
) -> Layer | None:
    scene = item_name(item)
    found = band_of(entries, band.common_name or band.name, scene)
    if found is None and band.common_name is not None:
        found = band_of(entries, band.name, scene)
    if found is None:
        return None
    asset = found.asset
    told: Numbers = "item" if asset.scaled or found.band.is_scaled else "file"
    if told == "item" and asset.by_baseline:
        told = "baseline"
    return Layer(
        scene=scene,
        key=asset.key,
        href=asset.href,
        numbers=(found.number,),
        told_by=told,
        scale=found.band.scale,
        offset=found.band.offset,
        nodata=asset.nodata,
        applied=asset.applied,
        classes=asset.classes,
        elsewhere=asset.elsewhere,
    )


def quality_layer(item: Mapping[str, Any]) -> Layer | None:
    """Return the layer of an item's quality band, None where it has none."""
    found = quality_asset(list(rasters_of(item, pixels=False)))
    if found is None:
        return None
    asset, kind = found
    return Layer(
        scene=item_name(item),
        key=asset.key,
        href=asset.href,
        numbers=bands_read(kind),
        kind=kind,
        elsewhere=asset.elsewhere,
    )
