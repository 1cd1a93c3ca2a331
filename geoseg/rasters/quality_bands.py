"""What the quality bands of satellite products say of pixels: clouds, shadows, nodata.

Sources: Sentinel-2's scene classification (S2-PDGS-TAS-DI-PSD 14.9), the Landsat 8-9
Collection 2 Level 2 Data Format Control Book (LSDS-1619, `QA_PIXEL`), the HLS User
Guide 2.0 (`Fmask`), Planet's UDM2 specification, Digital Earth Australia's products of
Landsat and Sentinel-2 (`oa_fmask`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from geoseg.core.series_options import MASKED
from geoseg.rasters.stac_assets import Asset, size_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


QualityKind = Literal["SCL", "QA_PIXEL", "Fmask", "UDM2", "oa_fmask"]

_CALLED: Final[Sequence[tuple[QualityKind, re.Pattern[str]]]] = (
    ("SCL", re.compile(r"(?:^|[_-])scl(?:$|[_-])", re.IGNORECASE)),
    ("QA_PIXEL", re.compile(r"(?:^|_)qa_pixel(?:$|[_.-])", re.IGNORECASE)),
    ("Fmask", re.compile(r"^fmask$", re.IGNORECASE)),
    ("oa_fmask", re.compile(r"^oa_fmask$", re.IGNORECASE)),
    ("UDM2", re.compile(r"(?:^|_)udm2(?:$|_)", re.IGNORECASE)),
    ("UDM2", re.compile(r"(?:^|_)udm(?:$|_)", re.IGNORECASE)),
)
_SCL: Final[Mapping[str, tuple[int, ...]]] = {
    "dark": (2,), "shadows": (3,), "water": (6,), "unclassified": (7,),
    "clouds": (8, 9), "cirrus": (10,), "snow": (11,),
}  # fmt: skip
_SCL_NOTHING: Final = (0, 1)  # nodata; saturated or defective
_OA_FMASK: Final[Mapping[str, tuple[int, ...]]] = {
    "clouds": (2,), "shadows": (3,), "snow": (4,), "water": (5,)
}  # fmt: skip
# What each value of a band of classes means, and which mean that nothing was seen.
_CLASSES: Final = {"SCL": (_SCL, _SCL_NOTHING), "oa_fmask": (_OA_FMASK, (0,))}
_BITS: Final[Mapping[str, Mapping[str, int]]] = {
    "QA_PIXEL": {
        "adjacent": 1, "cirrus": 2, "clouds": 3, "shadows": 4, "snow": 5, "water": 7
    },
    "Fmask": {
        "cirrus": 0, "clouds": 1, "adjacent": 2, "shadows": 3, "snow": 4, "water": 5
    },
}  # fmt: skip
_FILL_BIT: Final = 1  # of QA_PIXEL
_FMASK_FILL: Final = 255
# 0-based; of the two kinds of haze the light one is usable.
_UDM2: Final = {"snow": 1, "shadows": 2, "haze": 4, "clouds": 5}
_UDM2_UNUSABLE: Final = 7


def quality_asset(assets: Sequence[Asset]) -> tuple[Asset, QualityKind] | None:
    """Return the asset of an item that tells of its pixels' quality, None without.

    Of several that tell the same it is the finest.
    """
    for kind, pattern in _CALLED:
        found = [a for a in assets if any(map(pattern.search, _names(a)))]
        if found:
            return min(found, key=size_of), kind
    return None


def _names(asset: Asset) -> Iterator[str]:
    yield asset.key
    yield from (band.name for band in asset.bands)


def bands_read(kind: QualityKind) -> tuple[int, ...]:
    """Return which bands of the asset tell, 1-based; the first where it has fewer."""
    return tuple(range(1, 9)) if kind == "UDM2" else (1,)


def told_by(kind: QualityKind) -> set[str]:
    """Return what of `series_options.MASKS` a quality band tells of."""
    if kind in _CLASSES:
        return {*_CLASSES[kind][0]}
    return {*_UDM2} if kind == "UDM2" else {*_BITS[kind]}


def hidden_pixels(
    kind: QualityKind, values: NDArray[Any], names: Sequence[str] | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return where a quality band says that nothing was seen, and what is masked.

    Args:
        kind: Of the quality band.
        values: (band, y, x) as they are stored.
        names: What is masked, of `series_options.MASKS`; None: what usually is.

    Returns:
        Two (y, x) bool: nodata and defects; and what is masked by name.
    """
    wanted = MASKED if names is None else names
    if kind in _CLASSES:
        table, nothing = _CLASSES[kind]
        classes = [c for name in wanted for c in table.get(name, ())]
        return _is_any(values[0], nothing), _is_any(values[0], classes)
    if kind == "UDM2":
        return _udm2(values, wanted)
    # Of a band with other integers than its specification's no bit can be asked.
    flags = values[0].astype(np.int64)
    bits = _BITS[kind]
    mask = sum(1 << bits[name] for name in wanted if name in bits)
    fill = flags == _FMASK_FILL if kind == "Fmask" else flags & _FILL_BIT != 0
    return fill, (flags & mask != 0) & ~fill


def _is_any(values: NDArray[Any], classes: Sequence[int]) -> NDArray[np.bool_]:
    """Return where values are one of some classes; bytes by a table."""
    if values.dtype != np.uint8:
        return np.isin(values, classes)
    table = np.zeros(256, np.bool_)
    table[list(classes)] = True
    found: NDArray[np.bool_] = table[values]
    return found


def _unusable(flags: NDArray[Any], wanted: Sequence[str]) -> NDArray[np.bool_]:
    """Return what is missing or suspect in a band, and under clouds where wanted."""
    found: NDArray[np.bool_] = flags & (0xFE if "clouds" in wanted else 0xFC) != 0
    return found


def _udm2(
    values: NDArray[Any], wanted: Sequence[str]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    if len(values) < 8:  # the older mask: bit 0 is fill, others tell why it is unusable
        return values[0] & 1 != 0, _unusable(values[0], wanted)
    hidden = np.zeros(values.shape[1:], np.bool_)
    for name in wanted:
        if name in _UDM2:
            hidden |= values[_UDM2[name]] != 0
    fill = values[_UDM2_UNUSABLE] & 1 != 0
    return fill, (hidden | _unusable(values[_UDM2_UNUSABLE], wanted)) & ~fill
