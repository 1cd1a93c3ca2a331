"""What the arrays of masks hold: their dtypes, what means nothing there, what they are.

Imports no zarr, so that whoever makes pixels can ask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from geoseg.core.classes import Class, nodata_value
from geoseg.core.series_options import QUALITY
from geoseg.errors import MasksError

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAMES: Final = ("classes", "confidence", "probabilities", "instances", *QUALITY)
"""Of all arrays that masks may have on their grid, in their order."""
SHARE: Final = 254
"""What 1 is in bytes of shares; 255 is nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayKind:
    """What an array holds."""

    dtype: str
    fill: int
    """What means that there is nothing."""
    layers: int = 1
    """How many it has of the grid."""
    attributes: Mapping[str, Any] = field(default_factory=dict)


def kind_of(name: str, classes: Sequence[Class]) -> ArrayKind:
    """Return what an array of masks with these classes holds.

    Raises:
        MasksError: Masks have no such array.
    """
    if name == "classes":
        blank = nodata_value(classes)
        return ArrayKind(dtype="uint8" if blank == 255 else "uint16", fill=blank)
    if name == "instances":
        named = {"long_name": "object id, 0 where there is none"}
        return ArrayKind(dtype="uint32", fill=0, attributes=named)
    if name in {"confidence", "probabilities"}:
        told = {"long_name": f"{name} of the class", "scale_factor": 1 / SHARE}
        layers = len(classes) if name == "probabilities" else 1
        return ArrayKind(dtype="uint8", fill=255, layers=layers, attributes=told)
    if name in _QUALITY:
        return _QUALITY[name]
    raise MasksError(f"masks have no array {name!r}")


def bytes_per_pixel(names: Sequence[str], classes: Sequence[Class]) -> int:
    """Return how many bytes arrays take of a pixel, uncompressed."""
    kinds = [kind_of(name, classes) for name in names]
    return sum(np.dtype(kind.dtype).itemsize * kind.layers for kind in kinds)


def stored(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Return values of one of `QUALITY`, NaN where there are none, as they are kept."""
    kind = _QUALITY[name]
    out = np.full(values.shape, kind.fill, kind.dtype)
    there = np.isfinite(values)
    most = SHARE if name == "clouds" else 1
    out[there] = np.rint(values[there] * most).astype(kind.dtype)
    return out


def _date(which: str) -> ArrayKind:
    told = {
        "long_name": f"date of the {which} observation that counts",
        "units": "days since 1970-01-01",
        "calendar": "proleptic_gregorian",
    }
    return ArrayKind(dtype="int32", fill=-(2**31), attributes=told)


_QUALITY: Final[Mapping[str, ArrayKind]] = {
    "observations": ArrayKind(
        dtype="uint16",
        fill=65535,
        attributes={"long_name": "number of observations that count"},
    ),
    "clouds": ArrayKind(
        dtype="uint8",
        fill=255,
        attributes={
            "long_name": "share of observations that were masked",
            "scale_factor": 1 / SHARE,
        },
    ),
    "first": _date("first"),
    "last": _date("last"),
}
