"""Which band of which sensor is red: STAC's common names by the sensors' own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# https://github.com/stac-extensions/eo (v2.0.0), "Common Band Names".
COMMON_NAMES: Final = frozenset({
    "pan", "coastal", "blue", "green", "green05", "yellow", "red", "rededge",
    "rededge071", "rededge075", "rededge078", "nir", "nir08", "nir09", "cirrus",
    "swir16", "swir22", "lwir", "lwir11", "lwir12",
})  # fmt: skip
"""STAC's."""
ALIASES: Final = {
    "near infrared": "nir", "near-infrared": "nir", "nearinfrared": "nir",
    "near_infrared": "nir", "infrared": "nir", "swir1": "swir16", "swir2": "swir22",
    "panchromatic": "pan", "red edge": "rededge", "red-edge": "rededge",
    "red_edge": "rededge", "coastal aerosol": "coastal", "coastal blue": "coastal",
    "coastal_blue": "coastal", "green i": "green05", "green_i": "green05",
    "near ir": "nir", "rededge1": "rededge071", "rededge2": "rededge075",
    "rededge3": "rededge078", "ms r": "red", "ms g": "green",
    "band_c": "coastal", "band_b": "blue", "band_g": "green", "band_y": "yellow",
    "band_r": "red", "band_re": "rededge", "band_n": "nir", "band_ir": "nir",
    "band_n2": "nir09", "band_p": "pan",  # of Maxar
}  # fmt: skip
_SENTINEL2: Final = {
    "B1": "coastal", "B2": "blue", "B3": "green", "B4": "red", "B5": "rededge071",
    "B6": "rededge075", "B7": "rededge078", "B8": "nir", "B8A": "nir08", "B9": "nir09",
    "B10": "cirrus", "B11": "swir16", "B12": "swir22",
}  # fmt: skip
_LANDSAT8: Final = {
    "B1": "coastal", "B2": "blue", "B3": "green", "B4": "red", "B5": "nir08",
    "B6": "swir16", "B7": "swir22", "B8": "pan", "B9": "cirrus", "B10": "lwir11",
    "B11": "lwir12",
}  # fmt: skip
_LANDSAT457: Final = {
    "B1": "blue", "B2": "green", "B3": "red", "B4": "nir08", "B5": "swir16",
    "B6": "lwir", "B7": "swir22", "B8": "pan",
}  # fmt: skip
# The scanner of Landsat 1 to 5: the bands of 1 to 3 are numbered on from the cameras'.
_LANDSAT123: Final = {"B4": "green", "B5": "red", "B6": "nir08", "B7": "nir09"}
_LANDSAT_MSS: Final = {"B1": "green", "B2": "red", "B3": "nir08", "B4": "nir09"}
_MODIS: Final = {
    "B1": "red", "B2": "nir", "B3": "blue", "B4": "green", "B6": "swir16",
    "B7": "swir22",
}  # fmt: skip
# NAIP in Earth Engine, and others: only where all three colours are called so.
_LETTERS: Final = {"R": "red", "G": "green", "B": "blue", "N": "nir", "I": "nir"}
# Digital Earth Australia numbers infrared bands sensor by sensor.
_DEA_SENTINEL2: Final = {
    **_SENTINEL2, "COASTAL_AEROSOL": "coastal", "RED_EDGE_1": "rededge071",
    "RED_EDGE_2": "rededge075", "RED_EDGE_3": "rededge078", "NIR_1": "nir",
    "NIR_2": "nir08", "SWIR_2": "swir16", "SWIR_3": "swir22",
}  # fmt: skip
_DEA_LANDSAT: Final = {
    "COASTAL_AEROSOL": "coastal", "NIR": "nir08", "SWIR_1": "swir16",
    "SWIR_2": "swir22", "PANCHROMATIC": "pan",
}  # fmt: skip
# By what is in the path; the first that matches is the sensor.
_SENSORS: Final = (
    (re.compile(r"(?<![A-Z0-9])GA_S2[A-D]M"), _DEA_SENTINEL2),
    (re.compile(r"(?<![A-Z0-9])GA_LS[89]"), _LANDSAT8 | _DEA_LANDSAT),
    (re.compile(r"(?<![A-Z0-9])GA_LS[57]"), _LANDSAT457 | _DEA_LANDSAT),
    (re.compile(r"HLS\.?L30"), _LANDSAT8),
    (re.compile(r"HLS\.?S30"), _SENTINEL2),
    (re.compile(r"(?<![A-Z0-9])M[OY]D09|SUR_REFL_B0"), _MODIS),
    (
        re.compile(
            r"(?<![A-Z0-9])L(?:[COT]0?|S)[89](?=[_0-9])|LANDSAT[ _-]?[89]"
            r"|(?<![A-Z0-9])L[89](?=_)"
        ),
        _LANDSAT8,
    ),
    (re.compile(r"(?<![A-Z0-9])LM0?[123](?=[_0-9])"), _LANDSAT123),
    (re.compile(r"(?<![A-Z0-9])LM0?[45](?=[_0-9])"), _LANDSAT_MSS),
    (
        re.compile(
            r"(?<![A-Z0-9])L[ET]0?[457](?=[_0-9])|LANDSAT[ _-]?[457]"
            r"|(?<![A-Z0-9])L[57](?=_)"
        ),
        _LANDSAT457,
    ),
    (
        re.compile(
            r"(?<![A-Z0-9])S2[A-D]?(?=[_\W])|SENTINEL[ _-]?2"
            r"|(?<![A-Z0-9])T\d{2}[A-Z]{3}_\d{8}"
        ),
        _SENTINEL2,
    ),
)
# Names that only one sensor's bands have.
_ONLY: Final = (
    (re.compile(r"sur_refl_b0\d", re.IGNORECASE), _MODIS),
    (re.compile(r"B8A|B0[1-9]", re.IGNORECASE), _SENTINEL2),
    (re.compile(r"SR_B6|ST_B10", re.IGNORECASE), _LANDSAT8),
    (re.compile(r"ST_B6", re.IGNORECASE), _LANDSAT457),
)
_POLARISATIONS: Final = frozenset({"VV", "VH", "HH", "HV"})
_DEA: Final = re.compile(r"nbart?_(\w+)")
BAND: Final = re.compile(r"(?:S[RT]_|sur_refl_)?B(0?[1-9]|1[0-3]|8A)", re.IGNORECASE)


def sensor_of(names: Sequence[str], path: str) -> Mapping[str, str]:
    """Return the common names by band of the sensor that is evident, else none."""
    letters = {name.strip().upper() for name in names}
    if {"R", "G", "B"} <= letters <= {*_LETTERS, "NIR"}:
        return _LETTERS
    upper = path.upper()
    for pattern, table in _SENSORS:
        if pattern.search(upper):
            return table
    return next((t for only, t in _ONLY if any(map(only.fullmatch, names))), {})


def common_name(name: str, table: Mapping[str, str]) -> str | None:
    """Return the common name that a band's name is, or that a sensor's table has."""
    word = name.strip().lower()
    if word in COMMON_NAMES:
        return word
    if word in ALIASES:
        return ALIASES[word]
    if table is _LETTERS:
        return table.get(word.upper())
    if (measured := _DEA.fullmatch(word)) is not None:
        return table.get(measured[1].upper()) or common_name(measured[1], {})
    band = BAND.fullmatch(name.strip())
    return table.get("B" + band[1].lstrip("0").upper()) if band else None


def is_band_name(name: str) -> bool:
    """Whether a word is what a band is called: `B08`, `nir`, `swir1`, `VV`."""
    word = name.strip()
    known = word.lower() in COMMON_NAMES or word.lower() in ALIASES
    return known or bool(BAND.fullmatch(word)) or word.upper() in _POLARISATIONS
