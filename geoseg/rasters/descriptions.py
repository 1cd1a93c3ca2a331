"""Which band a band's description tells of, as tools write it."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Final

from geoseg.rasters.sensors import is_band_name

if TYPE_CHECKING:
    from collections.abc import Sequence

# How GDAL describes the bands of Sentinel-2 (`B4, central wavelength 665 nm`), and
# others theirs (`red (B4)`, `Band 4: red`, `Red-668`).
_FORMS: Final = (
    re.compile(r"(?P<name>B\d{1,2}A?),? central wavelength\b.*", re.IGNORECASE),
    re.compile(r"(?P<name>[\w -]+?) \(B\d{1,2}A?\)", re.IGNORECASE),
    re.compile(r"(?:band|b) ?\d+ ?[:(-] ?(?P<name>[A-Za-z][\w -]*?)\)?", re.IGNORECASE),
    re.compile(
        r"(?P<name>[A-Za-z][A-Za-z _-]*?)[ _-]?\(?[3-9]\d\d ?(?:nm)?\)?", re.IGNORECASE
    ),
)
# How ENVI, ArcGIS, QGIS and others describe a band of which they know no more.
_PLACEHOLDER: Final = re.compile(
    r"(?:band|layer|channel)[ _]?(?P<number>\d+)(?: \(gr[ae]y\))?|gr[ae]y|undefined",
    re.IGNORECASE,
)
_SIZE: Final = re.compile(r"_[126]0m$", re.IGNORECASE)
# What is left of a reduction, of a file's name or of QGIS's calculator: a value of the
# band itself, unlike its spread.
_AFTER: Final = re.compile(
    r"[_@](?:\d+|median|mean|medoid|mosaic|first|last|min|max|p\d+)", re.IGNORECASE
)
_SEPARATORS: Final = "_.:@/- "


def bands_told(descriptions: Sequence[str | None]) -> tuple[list[str], str]:
    """Return which band each description tells of, and what all begin with.

    A band without a description, or with one that only counts, is an empty text. Of
    what all descriptions begin and end with, such as a scene's name and what was made
    of it, only the bands are left.

    >>> bands_told(["Red-668", "B8 (nir)", None])
    (['Red', 'nir', ''], '')
    >>> bands_told(["T32TPS_20200601T101031_B04_10m", "T32TPS_20200601T101031_B11_20m"])
    (['B04', 'B11'], 'T32TPS_20200601T101031_')
    >>> bands_told(["red_median", "nir_median"])
    (['red', 'nir'], '')
    """
    texts = [(text or "").strip() for text in descriptions]
    numbered = [_PLACEHOLDER.fullmatch(text) for text in texts]
    if all(
        not text or (found and found["number"] in {None, str(i)})
        for i, (text, found) in enumerate(zip(texts, numbered, strict=True), 1)
    ):
        return [""] * len(texts), ""
    told = [_told(text) for text in texts]
    count = Counter(told)  # such as the red edges at 705 and 740 nm
    told = [t if count[t] == 1 else text for t, text in zip(told, texts, strict=True)]
    if len(told) < 2 or any(map(is_band_name, told)):
        return told, ""
    return _without_shared(told)


def _told(text: str) -> str:
    """Return the band that a description tells of, or all of it."""
    for pattern in _FORMS:
        match = pattern.fullmatch(text)
        if match and is_band_name(match["name"]):
            return match["name"].strip()
    return text


def _without_shared(texts: list[str]) -> tuple[list[str], str]:
    """Return texts without what all begin and end with, if they are bands then.

    A beginning tells a date, a tile or a sensor, and so has a digit: `diff_B4` is no
    band 4. What is nothing but a beginning is not cut.
    """
    shorter = [_SIZE.sub("", text) for text in texts]
    begins = _beginning(shorter)
    begins = begins[: 1 + max(begins.rfind(c) for c in _SEPARATORS)]
    begins = begins if any(map(str.isdigit, begins)) else ""
    ends = _beginning([text[::-1] for text in shorter])[::-1]
    found = re.search(r"[_@].*$", ends)
    after = found[0] if found and _AFTER.fullmatch(found[0]) else ""
    bands = [text[len(begins) : len(text) - len(after)] for text in shorter]
    known = sum(map(is_band_name, bands))
    if 2 * known >= len(bands) and len({*bands}) == len(bands) and all(bands):
        return bands, begins
    return texts, ""


def _beginning(texts: Sequence[str]) -> str:
    """Return what all texts begin with."""
    for i, letters in enumerate(zip(*texts, strict=False)):
        if len({*letters}) > 1:
            return texts[0][:i]
    return min(texts, key=len)
