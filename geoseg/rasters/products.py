"""Products as their makers deliver them: what a file's numbers and bands mean.

Sentinel-2 (`.SAFE`, its zip, a granule, `IMG_DATA`, `R10m`), Sentinel-1's measurements,
Landsat Collection 2, HLS, PlanetScope, and folders of single bands as Pix4D, DJI,
Metashape and OpenDroneMap write them.

Sources: Sentinel-2 Products Specification Document (S2-PDGS-TAS-DI-PSD 14.9), the
Landsat 8-9 Collection 2 Level 1 and Level 2 Data Format Control Books (LSDS-1822,
LSDS-1619), the HLS User Guide 2.0, Planet's Combined Imagery Product Specification, the
Sentinel-1 Product Specification (S1-RS-MDA-52-7441).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from geoseg.errors import RasterError
from geoseg.rasters.bands import (
    band_key,
    with_common_names,
)
from geoseg.rasters.named_files import read_bytes
from geoseg.rasters.orders import named_by_order, order_note, order_told
from geoseg.rasters.product_files import Files, file_stem
from geoseg.rasters.source import SourceBand

if TYPE_CHECKING:
    import numpy as np

_SENTINEL2: Final = re.compile(
    r"T\d{2}[A-Z]{3}_(?P<day>\d{8})T\d{6}_(?:B\d[\dA])(?:_[126]0m)?$"
)
# What GDAL's driver of Sentinel-2 calls a part of a product.
_SUBDATASET: Final = re.compile(r"SENTINEL2_L\w+:(?P<file>.*\.xml):", re.IGNORECASE)
# What products were called until 2016, before any had an offset.
_SENTINEL2_OLD: Final = re.compile(
    r"S2A_\w{4}_MSI_L\w{2}_TL_.*_T\d{2}[A-Z]{3}_B\d[\dA]$"
)
# Of the bucket that mirrors the products tile by tile: 33/U/XP/2022/7/1/0/R10m/B04.
_SENTINEL2_BUCKET: Final = re.compile(
    r"/\d{1,2}/[C-X]/[A-Z]{2}/(?P<year>20\d{2})/(?P<month>\d{1,2})/(?P<day>\d{1,2})"
    r"/\d+/(?:R[126]0m/)?B\d[\dA]\.jp2$"
)
# Of CNES's MAJA: surface reflectance, corrected for slopes (FRE) and not (SRE).
_MAJA: Final = re.compile(r"SENTINEL2[A-D]_\d{8}-.*_[FS]RE_B\d[\dA]?$")
_BASELINE: Final = re.compile(r"_N(\d{2})(\d{2})_")
_LANDSAT: Final = re.compile(
    r"L[COTEM]0[4-9]_(?P<level>L[12]\w{2}|CU|AK|HI)_\d{6}_\d{8}_\d{8}_02"
    r"(?:_(?:T1|T2|RT))?_(?P<kind>S[RT])?_?(?P<band>B\d{1,2})(?:_VCID_[12])?$"
)
_LANDSAT_RULE: Final = (
    "reflectance would be number x 2.75e-05 - 0.2; to use that: gdal_edit.py -a_scale "
    "2.75e-05 -a_offset -0.2"
)
_SENTINEL1: Final = re.compile(
    r"^(?:s1[a-d]-)?(?:iw|ew|s[1-6])(?:-grd)?-[vh]{2}(?:-\d{8}t\d{6}-.*)?$",
    re.IGNORECASE,
)
_PLANET: Final = re.compile(
    r"_(?:3B|2B|1B)?_?Analytic(?:MS)?(?:_[48]b)?(?P<sr>_SR)?(?:_8b)?"
    r"|_ssc?\d+(?:d\d+)?_\d{4}_pansharpened",
    re.IGNORECASE,
)
_BASEMAP: Final = re.compile(r"mosaic|quad|basemap|medres|normalized", re.IGNORECASE)
_PLANET_BANDS: Final[Mapping[int, tuple[str, ...]]] = {
    4: ("blue", "green", "red", "nir"),
    5: ("blue", "green", "red", "rededge", "nir"),
    8: ("coastal", "blue", "green05", "green", "yellow", "red", "rededge", "nir"),
}
_LARGEST_METADATA: Final = 50_000_000
# Of Sentinel-2 the tables of offsets count bands so.
_S2_ORDER: Final = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10",
                    "B11", "B12")  # fmt: skip
# Since this day all scenes were made by processing baseline 04.00 and later.
_OFFSET_SINCE: Final = "20220125"


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """What is known of a product's file beyond what the file says."""

    bands: tuple[SourceBand, ...]
    """Its bands, with what their numbers mean."""
    nodata: float | None = None
    """What means nodata where the file has no tag for it."""
    notes: tuple[str, ...] = ()
    """What was heard or could not be known."""
    no_bands: tuple[int, ...] = ()
    """Places of those that are no bands, such as a classification among them."""


# --- what numbers mean ---


def known(
    path: str, bands: tuple[SourceBand, ...], dtype: np.dtype[Any]
) -> Product | None:
    """Return what is known of a file by its name and its product's metadata, or None.

    A file under the name of one that was converted since, so that its tags say what
    its numbers mean or they are no whole numbers, is believed.

    Args:
        path: What GDAL opens.
        bands: Its bands as the file has them.
        dtype: Its pixels'.
    """
    found = _by_name(path, bands)
    if found is None and dtype.kind in "iu":
        return _landsat_elsewhere(path, bands)
    if found is None or not any(b.is_scaled for b in found.bands):
        return found
    if dtype.kind == "f":
        why = (
            f"has {dtype} numbers, unlike the product: they are used as they are stored"
        )
    elif any(b.is_scaled for b in bands):
        why = "has tags of its own that say what its numbers mean: they are used"
    else:
        return found
    own = zip(found.bands, bands, strict=True)
    told = tuple(replace(f, scale=b.scale, offset=b.offset) for f, b in own)
    note = f"{file_stem(path)} is named as a product, and {why}"
    nodata = None if dtype.kind == "f" else found.nodata
    return replace(found, bands=told, nodata=nodata, notes=(note,))


def _by_name(path: str, bands: tuple[SourceBand, ...]) -> Product | None:
    if _SUBDATASET.match(path) and any(map(_is_sentinel2, bands)):
        return _sentinel2_part(path, bands)
    found = _of_one_band(path, bands[0]) if len(bands) == 1 else None
    order = order_told(path, len(bands))
    if order and (named := named_by_order(bands, order)):
        return Product(bands=named, notes=(order_note(order),))
    if found is None and (match := _PLANET.search(file_stem(path))):
        return _planet(path, bands, surface=match["sr"] is not None)
    return found


def _of_one_band(path: str, band: SourceBand) -> Product | None:
    stem = file_stem(path)
    if match := _SENTINEL2.search(stem):
        return _sentinel2(path, band, match["day"])
    if match := _SENTINEL2_BUCKET.search(path.replace("\\", "/")):
        day = f"{match['year']}{match['month']:0>2}{match['day']:0>2}"
        return _sentinel2(path, band, day)
    maja = _MAJA.search(stem)
    if maja or _SENTINEL2_OLD.search(stem):
        nodata = -10000 if maja else 0
        note = f"Sentinel-2: {nodata} is nodata; reflectance = number / 10000"
        told = replace(band, scale=1e-4)
        return Product(bands=(told,), nodata=nodata, notes=(note,))
    if match := _LANDSAT.search(stem):
        return _landsat(path, band, match)
    if _SENTINEL1.match(stem):
        note = "Sentinel-1 GRD: 0 is nodata; numbers are amplitudes, not calibrated"
        return Product(bands=(band,), nodata=0, notes=(note,))
    return None


def _sentinel2(path: str, band: SourceBand, day: str) -> Product:
    """DN 0 is nodata; from baseline 04.00 on numbers are 1000 higher."""
    offset = _sentinel2_offset(path, band.name)
    baseline = _BASELINE.search(path)
    if offset is not None:
        why = "its metadata"
    elif baseline or day >= _OFFSET_SINCE:
        later = baseline is None or int(baseline[1]) >= 4
        offset = -1000 if later else 0
        why = f"processing baseline {baseline[1]}.{baseline[2]}" if baseline else day
    else:
        note = (
            f"Sentinel-2 of {day} without its metadata: whether its numbers are 1000 "
            "higher (reprocessed, baseline 04.00 and later) is not known; they are "
            "used as they are"
        )
        return Product(bands=(band,), nodata=0, notes=(note,))
    told = replace(band, scale=1e-4, offset=offset / 1e4)
    rule = f"(number {offset:+d}) / 10000" if offset else "number / 10000"
    note = f"Sentinel-2: 0 is nodata; reflectance = {rule} by {why}"
    return Product(bands=(told,), nodata=0, notes=(note,))


def _is_sentinel2(band: SourceBand) -> bool:
    return band_key(band.name).upper() in _S2_ORDER


def _sentinel2_part(path: str, bands: tuple[SourceBand, ...]) -> Product:
    """All bands of one pixel size, as GDAL's own driver puts them together."""
    pixels = [band for band in bands if _is_sentinel2(band)]
    told = {b.name: _sentinel2(path, b, _OFFSET_SINCE) for b in pixels}
    notes = [note for known in told.values() for note in known.notes]
    left = {i: b.name.split(",")[0] for i, b in enumerate(bands) if b.name not in told}
    if left:
        notes.append(Files(paths=(), left_out=(*left.values(),)).notes[0])
    return Product(
        bands=tuple(told[b.name].bands[0] if b.name in told else b for b in bands),
        nodata=0,
        notes=tuple(dict.fromkeys(notes)),
        no_bands=tuple(left),
    )


def _sentinel2_offset(path: str, band: str) -> int | None:
    """Return what a product's metadata adds to a band's numbers, None without any.

    Without the element there is no offset: that is how products were before.
    """
    part = _SUBDATASET.match(path)
    root = re.match(r".*?\.SAFE(?=/|\\|$)", path)
    names = ("MTD_MSIL2A.xml", "MTD_MSIL1C.xml")
    files = (
        [part["file"]] if part else [f"{root[0]}/{n}" for n in names] if root else []
    )
    for file in files:
        text = _metadata(file)
        if text is None:
            continue
        offsets = dict(
            re.findall(
                r"<(?:BOA|RADIO)_ADD_OFFSET band_id=\"(\d+)\">\s*(-?\d+)\s*<", text
            )
        )
        key = band_key(band).upper()
        at = str(_S2_ORDER.index(key)) if key in _S2_ORDER else ""
        return int(offsets.get(at, 0))
    return None


@lru_cache(maxsize=64)
def _metadata(path: str) -> str | None:
    """Return the text of a metadata file, or None where there is none."""
    try:
        return read_bytes(path, most=_LARGEST_METADATA).decode("utf-8", "replace")
    except RasterError:
        return None


def _landsat(path: str, band: SourceBand, match: re.Match[str]) -> Product:
    """Level 2 has fixed factors; of level 1 they stand in the MTL file.

    Without that file the product is not as delivered, and its numbers may not be: they
    are used as they are, which is said.
    """
    stem = re.sub(r"(?:_S[RT])?_B\d{1,2}(?:_VCID_[12])?\.\w+$", "", path)
    ends = ("_MTL.txt", "_MTL.xml", "_MTL.json", ".xml")  # the last of ARD's tiles
    told = next(filter(None, (_metadata(stem + end) for end in ends)), None)
    kind = match["kind"]
    if kind == "ST":  # a temperature: no index is made of it
        scaled = replace(band, scale=0.00341802, offset=149.0)
    elif kind == "SR":
        scaled = replace(band, scale=2.75e-5, offset=-0.2)
    else:
        scaled = _landsat_level1(told or "", band, match["band"].removeprefix("B"))
    if not told:
        note = (
            f"Landsat {match['level']} without its MTL file: 0 is nodata; numbers are "
            "used as they are stored"
        )
        more = f"; {_LANDSAT_RULE}" * (kind == "SR")
        return Product(bands=(band,), nodata=0, notes=(note + more,))
    rule = f"number x {scaled.scale:g} {scaled.offset:+g}"
    note = f"Landsat {match['level']}: 0 is nodata; reflectance = {rule}"
    shown = scaled.is_scaled and kind != "ST"
    return Product(bands=(scaled,), nodata=0, notes=(note,) * shown)


def _landsat_elsewhere(path: str, bands: tuple[SourceBand, ...]) -> Product | None:
    """Say what the numbers of Landsat's bands may mean in a file of another name."""
    named = all(re.fullmatch(r"SR_B\d", b.name) and not b.is_scaled for b in bands)
    if not named or "sr_band" in path.lower():  # of Collection 1
        return None
    note = f"bands named as those of Landsat Collection 2 level 2: {_LANDSAT_RULE}"
    return Product(bands=bands, notes=(note,))


def _landsat_level1(text: str, band: SourceBand, number: str) -> SourceBand:
    """Top-of-atmosphere reflectance, for the sun's height."""
    values = dict(
        re.findall(r"(\w+) = (-?[\d.Ee+-]+)\s*\n", text)
        or re.findall(r"<(\w+)>\s*(-?[\d.Ee+-]+)\s*</", text)
        or re.findall(r'"(\w+)": *"?(-?[\d.Ee+-]+)"?', text)
    )
    try:
        gain = float(values[f"REFLECTANCE_MULT_BAND_{number}"])
        shift = float(values[f"REFLECTANCE_ADD_BAND_{number}"])
        sun = math.sin(math.radians(float(values["SUN_ELEVATION"])))
    except (KeyError, ValueError):
        return band
    return replace(band, scale=gain / sun, offset=shift / sun) if sun > 0 else band


def _planet(
    path: str, bands: tuple[SourceBand, ...], *, surface: bool
) -> Product | None:
    mask: tuple[SourceBand, ...] = ()
    if len(bands) in {5, 9} and _BASEMAP.search(file_stem(path)):
        bands, mask = bands[:-1], bands[-1:]
    names = _PLANET_BANDS.get(len(bands))
    if names is None:
        return None
    if all(b.name.isdigit() or b.common_name for b in bands):
        called = with_common_names(names)
        bands = tuple(
            replace(b, name=c.name, common_name=c.common_name)
            for b, c in zip(bands, called, strict=True)
        )
    if surface:
        scales = [1e-4] * len(bands)
    else:
        text = _metadata(re.sub(r"(_clip)?\.\w+$", r"_metadata\1.xml", path)) or ""
        found = re.findall(r"reflectanceCoefficient>\s*([\d.Ee+-]+)\s*<", text)
        scales = [float(f) for f in found] if len(found) == len(bands) else []
    if scales:
        bands = tuple(replace(b, scale=s) for b, s in zip(bands, scales, strict=True))
    rule = f"number x {scales[0]:g} (blue)" if scales and not surface else None
    rule = "number / 10000" if surface else rule
    note = "PlanetScope: 0 is nodata" + (f"; reflectance = {rule}" if rule else "")
    return Product(
        bands=(*bands, *mask),
        nodata=0,
        notes=(note, *["its last band, a mask, is left out"][: len(mask)]),
        no_bands=(len(bands),) if mask else (),
    )
