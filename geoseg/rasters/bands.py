"""What bands are called, and which of a raster's bands a model means.

A band is called by its description; else, in a single-band file, by the band in the
file's name; else by its colour interpretation; else by its number. The STAC common name
comes from the name itself where it is one (`red`, `nir`), else from the sensor's table,
but only where the sensor is evident: from the path (`S2A_…`, `Sentinel-2`, `HLS.L30`,
`LC08_…`), or from band names that only it has (Sentinel-2 `B8A`, or `B02` with its
zero; Landsat 8 and 9 `SR_B6`).
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from geoseg.core.indices import INDICES
from geoseg.errors import RasterError
from geoseg.rasters.descriptions import bands_told
from geoseg.rasters.sensors import (
    ALIASES,
    COMMON_NAMES,
    common_name,
    sensor_of,
)
from geoseg.rasters.source import (
    Named,
    Renamed,
    Source,
    SourceBand,
    by_step,
    noted,
    steps_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


_IN_FILE_NAME: Final = re.compile(
    r"(?<![A-Za-z0-9])(S[RT]_B\d{1,2}|B6_VCID_[12]|B(?:0?[1-9]|1[0-3]|8A)|VV|VH|HH|HV)"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
# Of Landsat's Collection 1 (`…_sr_band4.tif`) and of DEA (`…_final_band04.tif`).
_SPELT_OUT: Final = re.compile(
    r"(?<![A-Za-z0-9])(?P<sr>sr_)?band[ _]?0*(?=\d)", re.IGNORECASE
)
ALPHA: Final = frozenset({"alpha", "a", "mask", "transparency", "datamask"})
"""What the band that tells which pixels are transparent may be called."""
# What Earth Engine, Sentinel Hub and stacks of whole items put beside the bands: flags,
# classes, probabilities, angles; not pixels for a model that nobody trained on them.
_QUALITY: Final = re.compile(
    r"(?:S[RT]_)?(?:QA\d*|QA_\w+|QC)|BQA|SCL|Fmask|cloud_?mask|AOT|WVP|TCI_[RGB]|visual"
    r"|MSK_\w+|cs(?:_cdf)?|CL[DMP]|SNW|(?:sun|view)\w*(?:Azimuth|Zenith)\w*|angle"
    r"|ST_(?:ATRAN|CDIST|DRAD|EMIS|EMSD|TRAD|URAD)|[SV][AZ]A|dataMask",
    re.IGNORECASE,
)
_LAST_WORDS: Final = re.compile(r"(?:([A-Za-z]+)[ _-])?([A-Za-z]+\d*)$")
# What cameras call their bands at the end of a file's name, in capitals.
_CAMERAS: Final = {"RE": "rededge", "REG": "rededge", "GRE": "green", "NIR": "nir"}
_PART: Final = re.compile(r"(?:netCDF|HDF[45]\w*):.*[:/]", re.IGNORECASE)
_WAVELENGTHS: Final = re.compile(r"B\d{1,2}A?,? central wavelength", re.IGNORECASE)


def band_in_file_name(path: str) -> str | None:
    """Return the band that a file's name tells of (`B08`, `SR_B4`, `VV`, `red`).

    The last of several counts; a colour counts only as the name's last word or two
    (`… red edge.tif`).
    """
    last = re.split(r"[/\\]", path.split("?", maxsplit=1)[0])[-1]
    stem = _variable(path) or last.rsplit(".", 1)[0]
    found = _IN_FILE_NAME.findall(_SPELT_OUT.sub(_short, stem))
    if found:
        return str(found[-1]).upper()
    words = _LAST_WORDS.search(stem)
    if words is None:
        return None
    both, last = f"{words[1]} {words[2]}".lower(), words[2].lower()
    if words[1] and both in ALIASES:
        return ALIASES[both]
    return last if last in COMMON_NAMES else _CAMERAS.get(words[2])


def _short(spelt: re.Match[str]) -> str:
    return "SR_B" if spelt["sr"] else "B"


def _variable(path: str) -> str | None:
    """Return the array in a file of netCDF or HDF that GDAL's name of a part tells."""
    return re.split(r"[:/]", path)[-1] if _PART.match(path) else None


def is_sensors(path: str) -> bool:
    """Whether a file's name tells of a sensor's band, not just of a colour."""
    return (band_in_file_name(path) or "").isupper()


def bands_of(
    path: str,
    descriptions: Sequence[str | None],
    colours: Sequence[str],
    numbers: Sequence[int],
) -> tuple[SourceBand, ...]:
    """Return what the bands of a file are called.

    Args:
        path: The file, for its band and its sensor.
        descriptions: Of each band, None or empty where it has none.
        colours: Colour interpretation of each band, as GDAL calls it, in small letters.
        numbers: The 1-based number of each band in the file.
    """
    single = band_in_file_name(path) if len(numbers) == 1 else None
    told, scene = bands_told(descriptions)
    names = [
        described or single or (colour if colour in COMMON_NAMES else str(number))
        for described, colour, number in zip(told, colours, numbers, strict=True)
    ]
    if names == ["1"] and (variable := _variable(path)):
        names = [variable]
    count = Counter(names)  # such as four bands all described as "levels"
    names = [
        n if count[n] == 1 else str(i) for n, i in zip(names, numbers, strict=True)
    ]
    if any(_WAVELENGTHS.match(d or "") for d in descriptions):
        path = f"SENTINEL2 {path}"
    bands = with_common_names(names, f"{path} {scene}")
    return tuple(replace(b, number=i) for b, i in zip(bands, numbers, strict=True))


def with_common_names(names: Sequence[str], path: str = "") -> tuple[SourceBand, ...]:
    """Return bands of these names with their common names, where they can be known."""
    table = sensor_of(names, path)
    return tuple(SourceBand(name=n, common_name=common_name(n, table)) for n in names)


def number_band(number: int) -> SourceBand:
    """Return a band without any name but its 1-based number."""
    return SourceBand(name=str(number))


def is_unnamed(band: Named) -> bool:
    """Whether a band is known by its number only."""
    return band.name.isdigit() and band.common_name is None


def band_key(name: str) -> str:
    """Return what two spellings of one band share: `B08`, `b8` and `B8`."""
    return re.sub(r"^(.*?b)0+(?=\d)", r"\1", name.strip().casefold())


def listed(bands: Sequence[Named | int]) -> str:
    """Return the bands, or their numbers, as a message shows them."""
    shown = [
        str(b)
        if isinstance(b, int)
        else b.name
        if b.common_name is None or b.common_name == b.name
        else f"{b.name} ({b.common_name})"
        for b in bands[:20]
    ]
    more = f", … {len(bands) - 20} more" if len(bands) > 20 else ""
    return ", ".join(shown) + more


def named(bands: Sequence[SourceBand]) -> str:
    """Return the names of bands as a line shows them, once where there are dates."""
    steps = steps_of(bands)
    names = ", ".join(dict.fromkeys(band.name for band in bands))
    if len(steps) < 2:
        return ", ".join(band.name for band in bands)
    return f"{names} of {len(steps)} dates, {steps[0]} … {steps[-1]}"


def choose(source: Source, wanted: Sequence[str]) -> Source:
    """Return the source with the bands that `--bands` asks for.

    Numbers (`4,3,2`) are an order: the bands of the file by 1-based number, for the
    bands of the model one by one. `NAME=NUMBER` (`green=2,nir=7`) names some. As many
    names as the source has bands name them, in their order, whatever they were called
    before. Fewer names pick the bands of those names. With time they are those of each
    step.

    Raises:
        RasterError: There is no such band, or numbers and names are mixed.
    """
    words = [word.strip() for word in wanted]
    at: list[int] = []
    named: list[SourceBand] = []
    for places in by_step(source.bands).values():
        bands = [source.bands[i] for i in places]
        here = [w for w in words if not _is_elsewhere(w, bands, source.bands)]
        which, called = _chosen(bands, here, source.name) if here else ([], [])
        at += [places[i] for i in which]
        named += called
    chosen = source if at == [*range(len(source.bands))] else source.select(at)
    if all(map(_is_same, chosen.bands, named)):
        return chosen
    return Renamed(source=chosen, names=tuple(named))


def _is_elsewhere(
    word: str, bands: Sequence[SourceBand], everywhere: Sequence[SourceBand]
) -> bool:
    """Whether a word names bands of other steps only (elevation has none)."""
    if len(bands) == len(everywhere):
        return False
    named = [b for b in everywhere if _is_called(b, _by_name(word))]
    return bool(named) and not any(b in bands for b in named)


def _is_same(band: SourceBand, other: SourceBand) -> bool:
    return band == other and band.by_number == other.by_number


def _chosen(
    bands: Sequence[SourceBand], words: list[str], where: str
) -> tuple[list[int], Sequence[SourceBand]]:
    """Return which bands `--bands` asks for, of one step, and as what."""
    everything = list(range(len(bands)))
    if all(word.isdigit() for word in words):
        at = _numbered(bands, [int(word) for word in words], where)
        return at, [replace(bands[i], by_number=True) for i in at]
    if any("=" in word for word in words):
        return everything, _partly_named(bands, words, where)
    if len(words) == len(bands) + 1:  # alpha is no band, but may be named
        words = [w for w in words if w.lower() not in ALPHA] or words
    if len(words) == len(bands):
        if all(map(_is_called, bands, map(_by_name, words))):
            return everything, bands  # they are called so already
        return everything, as_before(bands, with_common_names(words))
    found = [_find(bands, SourceBand(name=w), where) for w in words]
    missing = [w for w, f in zip(words, found, strict=True) if f is None]
    if missing:
        raise RasterError(
            f"{where} has no band {', '.join(missing)}{_near(missing[0], bands)}: it "
            f"has {len(bands)} bands ({listed(bands)}); give one name for each of "
            "them, or numbers of those to use"
        )
    at = [f for f in found if f is not None]
    return at, [bands[i] for i in at]


def without_quality(source: Source, wanted: Sequence[str] | None) -> Source:
    """Return the source without the bands that tell of the others, which it says.

    Args:
        source: Of several bands; one of which there is no other stays.
        wanted: What `--bands` asks for. Bands chosen by it stay as they were chosen,
            and so does one to which it gives a name.
    """
    words = [word.partition("=") for word in wanted or ()]
    if words and not any(equals for _, equals, _ in words):
        return source
    given = {name.strip() for name, _, _ in words}
    left = [
        b.name
        for b in source.bands
        if _QUALITY.fullmatch(b.name) and b.name not in given
    ]
    kept = [i for i, b in enumerate(source.bands) if b.name not in left]
    if not left or not kept:
        return source
    names = ", ".join(dict.fromkeys(left))
    told = f"{source.name}: left out, as they are no bands to learn from: {names}"
    return noted(source.select(kept), f"{told} (--bands chooses)")


def as_before(
    before: Sequence[SourceBand], named: Sequence[SourceBand]
) -> tuple[SourceBand, ...]:
    """Return bands with other names; what their numbers mean stays."""
    return tuple(
        replace(b, name=n.name, common_name=n.common_name)
        for b, n in zip(before, named, strict=True)
    )


def _partly_named(
    before: Sequence[SourceBand], words: Sequence[str], where: str
) -> Sequence[SourceBand]:
    """Return bands with the names that `name=number` tells of."""
    bands, told = list(before), set[int]()
    for word in words:
        name, equals, number = (part.strip() for part in word.partition("="))
        if not (equals and name and number.isdigit()):
            raise RasterError(
                f"--bands {','.join(words)} mixes names and numbers: {word!r} should "
                "be NAME=NUMBER, such as nir=4"
            )
        at = _numbered(before, [int(number)], where)[0]
        bands[at] = as_before([bands[at]], with_common_names([name]))[0]
        told.add(at)
    given = {word.partition("=")[0].strip() for word in words}
    for i, band in enumerate(bands):  # what was called so before is called so no more
        if i not in told and {band.name, band.common_name} & given:
            bands[i] = as_before([band], [number_band(band.number or i + 1)])[0]
    return bands


def _near(name: str, bands: Sequence[SourceBand]) -> str:
    """Return a question where a band, or an index, is called almost so."""
    known = [w for b in bands for w in (b.name, b.common_name) if w]
    close = difflib.get_close_matches(name, known, n=1)
    close += difflib.get_close_matches(name.lower(), INDICES, n=1, cutoff=0.7)
    return f" (did you mean {close[0]}?)" if close else ""


def _numbered(
    bands: Sequence[SourceBand], wanted: Sequence[int], where: str
) -> list[int]:
    """Return the places of bands by their 1-based numbers in the file.

    Bands of several files (a stack) are counted in the source's order.
    """
    told = [band.number for band in bands]
    one_file = None not in told and len(set(told)) == len(told)
    numbers = told if one_file else list(range(1, len(told) + 1))
    missing = [number for number in wanted if number not in numbers]
    if missing:
        known = listed([n for n in numbers if n is not None])
        raise RasterError(f"{where} has no band {missing[0]}: its bands are {known}")
    return [numbers.index(number) for number in wanted]


def match_bands(source: Source, wanted: Sequence[Named]) -> tuple[int, ...]:
    """Return which bands of the source are the ones a model wants (0-based).

    By name, else by common name, either in any case (`B8` is `B08`). By position where
    as many bands were chosen by their numbers as the model wants, and where as many
    there are and those of the source or of the model have no names at all.

    Raises:
        RasterError: A band is missing, or two could be meant.
    """
    if by_position(source, wanted):
        return tuple(range(len(wanted)))
    found = [
        _find(
            source.bands,
            SourceBand(name=w.name, common_name=w.common_name),
            source.name,
        )
        for w in wanted
    ]
    missing = [w for w, f in zip(wanted, found, strict=True) if f is None]
    if missing:
        raise RasterError(
            f"{source.name} lacks the band{'s' * (len(missing) > 1)} "
            f"{listed(missing)}{_near(missing[0].name, source.bands)}: it has "
            f"{len(source.bands)} ({listed(source.bands)}), the model wants "
            f"{len(wanted)} ({listed(wanted)}); say with --bands what its bands are"
        )
    return tuple(f for f in found if f is not None)


def by_position(source: Source, wanted: Sequence[Named]) -> bool:
    """Whether bands are matched by their places, not by their names."""
    if len(wanted) != len(source.bands):
        return False
    if all(band.by_number for band in source.bands):
        return True
    nameless = all(map(is_unnamed, wanted))
    named = {band.name for band in source.bands}
    if nameless and not all(w.name in named for w in wanted):
        return True
    return all(map(is_unnamed, source.bands))


def matched(source: Source, wanted: Sequence[Named]) -> Source:
    """Return the source with the bands that a model wants, in its order.

    Matched by position although there are names, it says so in a note.

    Raises:
        RasterError: A band is missing, or two could be meant.
    """
    chosen = source.select(match_bands(source, wanted))
    nameless = all(map(is_unnamed, wanted))
    asked = nameless or all(band.by_number for band in source.bands)
    known = not (asked and all(map(is_unnamed, source.bands)))
    if not (by_position(source, wanted) and known):
        return chosen
    if all(_is_called(b, w) for b, w in zip(chosen.bands, wanted, strict=True)):
        return chosen
    pairs = [
        f"{w.name} <- band {b.number or i + 1}{_called(b)}"
        for i, (w, b) in enumerate(zip(wanted, chosen.bands, strict=True))
    ]
    return noted(chosen, f"{source.name}: bands by position: {', '.join(pairs)}")


def _by_name(word: str) -> SourceBand:
    return SourceBand(name=word)


def _called(band: SourceBand) -> str:
    return "" if is_unnamed(band) else f" ({listed([band])})"


def _is_called(band: SourceBand, wanted: Named) -> bool:
    mine = {band_key(n) for n in (band.name, band.common_name) if n}
    return bool(mine & {band_key(n) for n in (wanted.name, wanted.common_name) if n})


def _find(bands: Sequence[SourceBand], wanted: SourceBand, where: str) -> int | None:
    """Return the one band that is meant; a name counts before a common name."""
    names = [band_key(b.name) for b in bands]
    common = [band_key(b.common_name) if b.common_name else None for b in bands]
    tries: list[tuple[str | None, Sequence[str | None]]] = [
        (wanted.name, names),
        (wanted.common_name, common),
        (wanted.name, common),
        (wanted.common_name, names),
    ]
    if "nir" in {wanted.name, wanted.common_name}:
        tries.append(("nir08", common))  # Landsat's only near infrared
    for word, called in tries:
        hits = [
            i for i, c in enumerate(called) if word is not None and c == band_key(word)
        ]
        if len(hits) == 1:
            return hits[0]
        if hits:
            meant = ", ".join(f"{i + 1} ({bands[i].name})" for i in hits)
            raise RasterError(
                f"{where}: {word!r} may be any of its bands {meant}; say which with "
                "--bands and their numbers"
            )
    return None
