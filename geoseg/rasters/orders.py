"""Which bands a file of several has, by what its name or a file beside it says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Final

from geoseg.errors import RasterError
from geoseg.rasters.bands import with_common_names
from geoseg.rasters.named_files import read_bytes
from geoseg.rasters.product_files import file_stem
from geoseg.rasters.source import SourceBand

# What aerial pictures are called whose colours are near infrared, red and green.
_INFRARED: Final = re.compile(
    r"(?<![A-Za-z])(?:CIR|IRC|IRRG)(?![A-Za-z])", re.IGNORECASE
)
# The order of four, as surveys write it: dop20rgbi_32_280_5652_1_nw_2021.tif.
_LETTERS: Final = re.compile(
    r"(?<![A-Za-z])(?:RGB_?(?:N|I|NIR|IR)|BGR_?(?:N|I|NIR)|(?:N|NIR|IR)RGB)(?![A-Za-z])",
    re.IGNORECASE,
)
# NAIP's quarter quads: m_3807505_se_18_060_20210917.tif.
_NAIP: Final = re.compile(r"^m_\d{7}_[ns][ew]_\d{1,2}_")
_COLOURS: Final = {"R": "red", "G": "green", "B": "blue"}
# Maxar's and Digital Globe's: 21JUN15100010-M2AS_R1C1-012345678010_01_P001.TIF.
_MAXAR: Final = re.compile(
    r"^\d{2}[A-Z]{3}\d{8}-[MS]\d[A-Z]{2}(?P<tile>_R\d+C\d+)?-\d{12}_\d\d_P\d{3}$"
)
_GROUP: Final = re.compile(r"BEGIN_GROUP\s*=\s*(BAND_[A-Z]\d?[A-Z]?)\s")
_LARGEST: Final = 1_000_000


def order_told(path: str, count: int) -> tuple[tuple[str, ...], str] | None:
    """Return what the bands of a file are, and what says so; None where nothing does.

    Args:
        path: What GDAL opens.
        count: How many bands it has, with what GDAL takes for transparency.

    >>> order_told("dop20rgbi_32_280_5652_1_nw_2021.tif", 4)
    (('red', 'green', 'blue', 'nir'), "the file's name")
    """
    stem = file_stem(path)
    if count == 3 and _INFRARED.search(stem):
        return ("nir", "red", "green"), "the name of a picture in colour infrared"
    if count == 4 and _NAIP.match(stem):
        return ("red", "green", "blue", "nir"), "a name of NAIP"
    if count == 4 and (letters := _LETTERS.search(stem)):
        return _spelt(letters[0].upper()), "the file's name"
    if match := _MAXAR.match(stem):
        return _by_imd(path, match["tile"] or "", count)
    return None


def _spelt(letters: str) -> tuple[str, ...]:
    short = re.sub("NIR|IR|I", "N", letters.replace("_", ""))
    return tuple(_COLOURS.get(letter, "nir") for letter in short)


def _by_imd(path: str, tile: str, count: int) -> tuple[tuple[str, ...], str] | None:
    """Return the bands by the groups of the .IMD file beside a file or its tiles."""
    imd = PurePath(path.replace(tile, "")).with_suffix(".IMD")
    try:
        text = read_bytes(str(imd), most=_LARGEST).decode("utf-8", "replace")
    except RasterError:
        return None
    groups = tuple(_GROUP.findall(text))
    return (groups, "the .IMD file beside") if len(groups) == count else None


def named_by_order(
    bands: Sequence[SourceBand], told: tuple[tuple[str, ...], str]
) -> tuple[SourceBand, ...] | None:
    """Return bands under the names of an order; None where they have names of theirs.

    Colours are none: GDAL calls the first three of four red, green and blue.
    """
    plain = all(b.name.isdigit() or b.name in _COLOURS.values() for b in bands)
    if not plain or len(bands) != len(told[0]):
        return None
    called = with_common_names(told[0])
    return tuple(
        replace(b, name=c.name, common_name=c.common_name)
        for b, c in zip(bands, called, strict=True)
    )


def order_note(told: tuple[tuple[str, ...], str]) -> str:
    """Return that bands were taken in an order, in a line."""
    return f"bands are taken for {', '.join(told[0])} by {told[1]}"
