"""What stored numbers mean: reflectance, or a product's numbers as they were before.

A band says how its stored numbers become physical units: number x scale + offset. That
comes from the file's own tags, from a product's metadata, or from a STAC item. Models
say on their card what they were trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from geoseg.rasters.source import Derived, Source, SourceBand, noted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from geoseg.core.grid import Window
    from geoseg.core.raster_options import Units

Numbers = Literal["DN", "reflectance", "s2-l2a-before-0400"]

BEFORE_0400: Final = "s2-l2a-before-0400"
"""Sentinel-2's digital numbers without the offset of processing baseline 04.00."""
_HEAT: Final = frozenset({"lwir", "lwir11", "lwir12"})
_STEP: Final = 1e-4  # of reflectance: what one digital number of Sentinel-2 is


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted(Derived):
    """A source in other numbers: stored number x factor + shift, band by band.

    Whole numbers are rounded and kept within their dtype: what would be below 0 is 0,
    and stays valid.
    """

    factors: tuple[float, ...]
    shifts: tuple[float, ...]
    bands_then: tuple[SourceBand, ...]
    """The bands, with what is left of scale and offset."""
    dtype_then: np.dtype[Any]

    @property
    def bands(self) -> tuple[SourceBand, ...]:
        """The bands, with what is left of scale and offset."""
        return self.bands_then

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the converted pixels."""
        return self.dtype_then

    @property
    def identity(self) -> Mapping[str, Any]:
        """The source's, and how its numbers were changed."""
        return {
            "converted": self.source.identity,
            "factors": list(self.factors),
            "shifts": list(self.shifts),
            "dtype": self.dtype.name,
        }

    def select(self, bands: Sequence[int]) -> Converted:
        """Return the source with only these bands (0-based), in this order."""
        return replace(
            self,
            source=self.source.select(bands),
            factors=tuple(self.factors[b] for b in bands),
            shifts=tuple(self.shifts[b] for b in bands),
            bands_then=tuple(self.bands_then[b] for b in bands),
        )

    def read(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read a window that lies inside the grid; see `Source.read`."""
        stored, valid = self.source.read(window)
        pixels = np.empty(stored.shape, self.dtype)
        for i, band in enumerate(stored):
            factor, shift = self.factors[i], self.shifts[i]
            values = band if factor == 1 else band * factor
            if self.dtype.kind == "f":
                np.add(values, shift, out=pixels[i], casting="same_kind")
                continue
            values = values + shift
            if self.dtype.kind in "iu":
                limits = np.iinfo(self.dtype.name)
                np.rint(values, values)
                np.clip(values, limits.min, limits.max, values)
            pixels[i] = values
        return pixels, valid


def in_units(source: Source, scale: float, offset: float, dtype: Any) -> Source:  # noqa: ANN401 - a dtype
    """Return the source in numbers that mean number x scale + offset, all bands alike.

    Args:
        source: What it is made of.
        scale: 1 with an offset of 0 for reflectance itself.
        offset: As above.
        dtype: Of the pixels then.
    """
    dtype = np.dtype(dtype)
    there = all((b.scale, b.offset) == (scale, offset) for b in source.bands)
    if there and source.dtype == dtype:
        return source
    return Converted(
        source=source,
        factors=tuple(b.scale / scale for b in source.bands),
        shifts=tuple(round((b.offset - offset) / scale, 9) for b in source.bands),
        bands_then=tuple(replace(b, scale=scale, offset=offset) for b in source.bands),
        dtype_then=dtype,
    )


def as_reflectance(source: Source) -> Source:
    """Return the source in physical units as float32, where its bands say how."""
    if not any(band.is_scaled for band in source.bands):
        return source
    return in_units(source, 1.0, 0.0, np.float32)


def in_numbers(source: Source, numbers: str) -> Source:
    """Return the source in the numbers that a model was trained on.

    Args:
        source: The model's bands.
        numbers: `DN`: as stored; `reflectance`; or `s2-l2a-before-0400`.

    Where the source does not say what its numbers mean they stay as they are, and a
    note says so.
    """
    scaled = any(band.is_scaled for band in source.bands)
    if numbers == "DN":
        return noted(source, *_kept(source)) if scaled else source
    if numbers == BEFORE_0400 and all(b.is_reflectance for b in source.bands):
        return in_units(source, _STEP, 0.0, np.float32)
    if not scaled:
        # Bytes are pictures and floats are in units already: nothing to wonder about.
        doubt = source.dtype.kind in "iu" and source.dtype.itemsize > 1
        return noted(source, _unknown(source) if doubt else None)
    if (partly := _partly_known(source)) is not None:
        return noted(source, partly)
    if numbers == BEFORE_0400:
        kept = source.dtype if source.dtype.kind in "iu" else np.dtype(np.float32)
        changed = in_units(source, _STEP, 0.0, kept)
        how = f"its numbers are brought to reflectance x {1 / _STEP:g}, without offset"
    else:
        changed = as_reflectance(source)
        unpacked = source.dtype.kind == "f"  # may be in units already
        if not unpacked and not any(band.offset for band in source.bands):
            return changed  # as usual: no question is open
        how = f"its numbers are taken as reflectance: {formula(source.bands)}"
    return source if changed is source else noted(changed, f"{source.name}: {how}")


def _partly_known(source: Source) -> str | None:
    """Return what to say where some colours tell what their numbers mean, others not.

    Of such two a ratio means nothing. Elevation and heat are no colours.
    """
    colours = [b for b in source.bands if b.common_name not in {None, *_HEAT}]
    known = [b for b in colours if b.is_scaled or b.is_reflectance]
    if not known or len(known) == len(colours):
        return None
    silent = [b.name for b in colours if b not in known]
    return (
        f"{source.name}: {', '.join(b.name for b in known)} tells how its numbers "
        f"become reflectance, {', '.join(silent)} does not: all are used as they are "
        "stored; gdal_edit.py -a_scale and -a_offset tell it of all"
    )


def _kept(source: Source) -> list[str]:
    told = formula(source.bands)
    text = "numbers are used as they are stored; by the file"
    return [f"{source.name}: {text} {told} (--units reflectance uses that)"]


def _unknown(source: Source) -> str:
    return (
        f"{source.name} does not say how its {source.dtype} numbers become "
        "reflectance: they are used as they are stored"
    )


def formula(bands: Sequence[SourceBand]) -> str:
    """Return how stored numbers become reflectance, as a message shows it.

    >>> formula([SourceBand(name="red", scale=0.0001, offset=-0.1)])
    'reflectance = number x 0.0001 - 0.1'
    """
    first = next(band for band in bands if band.is_scaled)
    sign = "-" if first.offset < 0 else "+"
    shift = f" {sign} {abs(first.offset):g}" if first.offset else ""
    alike = all((b.scale, b.offset) == (first.scale, first.offset) for b in bands)
    which = "" if alike else f" (band {first.name}; others differ)"
    return f"reflectance = number x {first.scale:g}{shift}{which}"


def numbers_of(sources: Sequence[Source], units: Units) -> Numbers:
    """Return what a model that learns from sources is trained on, for its card.

    Where all say that reflectance is a ten-thousandth of their numbers, these are
    Sentinel-2's without offset, and a run brings other numbers to them.
    """
    known = all(band.is_reflectance for s in sources for band in s.bands)
    if known or units == "reflectance":
        return "reflectance"
    rules = {(b.scale, b.offset) for s in sources for b in s.bands}
    return BEFORE_0400 if rules == {(_STEP, 0.0)} else "DN"


def alike(sources: Sequence[Source]) -> tuple[list[Source], str | None]:
    """Return sources in one kind of numbers, and what was done where they were not.

    Sentinel-2's numbers of processing baseline 04.00 and later are 1000 higher: those
    of one mosaic are brought to the numbers without offset. Where scales differ too,
    all become reflectance.
    """
    kinds = {tuple((b.scale, b.offset) for b in s.bands) for s in sources}
    if len(kinds) == 1:
        return list(sources), None
    silent = sum(not any(b.is_scaled for b in s.bands) for s in sources)
    if silent:
        return list(sources), (
            f"{silent} of its {len(sources)} rasters do not say what their numbers "
            "mean, unlike the others: all are used as they are stored"
        )
    scales = {b.scale for s in sources for b in s.bands}
    dtypes = {s.dtype for s in sources}
    if len(scales) == 1 and len(dtypes) == 1:
        scale, dtype = scales.pop(), dtypes.pop()
        changed = [in_units(s, scale, 0.0, dtype) for s in sources]
        told = f"those with an offset are brought to reflectance / {scale:g}"
    else:
        changed = [in_units(s, 1.0, 0.0, np.float32) for s in sources]
        told = "all are taken as reflectance"
    return changed, f"its rasters hold numbers of {len(kinds)} kinds: {told}"
