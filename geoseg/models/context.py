"""What a model is told beside pixels: dates, places, wavelengths, the size of pixels.

The card says what it asks for (`inputs`); the raster answers, once per run. What it
answered travels with the recipe, as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from affine import Affine

from geoseg.errors import ModelError
from geoseg.rasters.source import steps_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyproj import Transformer

    from geoseg.core.grid import Window
    from geoseg.models.card import Band, Card
    from geoseg.rasters.open import Source

# The middles of what is usual, https://github.com/stac-extensions/eo (v2.0.0).
_WAVELENGTHS: Final = {
    "pan": 0.6, "coastal": 0.443, "blue": 0.49, "green": 0.56, "green05": 0.53,
    "yellow": 0.6, "red": 0.665, "rededge": 0.705, "rededge071": 0.705,
    "rededge075": 0.74, "rededge078": 0.783, "nir": 0.842, "nir08": 0.865,
    "nir09": 0.945, "cirrus": 1.375, "swir16": 1.61, "swir22": 2.19, "lwir": 11.0,
    "lwir11": 10.9, "lwir12": 12.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a raster tells a model beside its pixels; what it is not asked is None."""

    dates: tuple[str, ...] | None = None
    """ISO dates of the steps in time, oldest first."""
    crs: str | None = None
    """WKT of the raster's CRS, where places are asked for."""
    transform: tuple[float, ...] | None = None
    """From columns and rows to that CRS, six numbers as affine has them."""
    resolution: float | None = None
    """Metres per pixel."""

    @property
    def json(self) -> str:
        """All of it as a text; equal ones give equal texts."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def of_json(cls, text: str) -> Self:
        """Return what `json` gave."""
        told = json.loads(text)
        for key in ("dates", "transform"):
            told[key] = None if told[key] is None else tuple(told[key])
        return cls(**told)

    def locations(self, windows: Sequence[Window]) -> NDArray[np.float32]:
        """Return latitude and longitude of the centres of windows, (n, 2) degrees."""
        assert self.transform is not None
        assert self.crs is not None
        columns = np.array([w.x + w.width / 2 for w in windows])
        rows = np.array([w.y + w.height / 2 for w in windows])
        x, y = Affine(*self.transform) @ (columns, rows)
        longitude, latitude = _to_degrees(self.crs).transform(x, y)
        return np.stack([latitude, longitude], axis=1).astype(np.float32)


@cache
def _to_degrees(crs: str) -> Transformer:
    from pyproj import Transformer

    return Transformer.from_crs(crs, "EPSG:4326", always_xy=True)


def context_of(card: Card, source: Source) -> Context:
    """Return what a raster tells of what a card asks for.

    Args:
        card: The card.
        source: The card's bands, in the card's order, as the windows are cut from it.

    Raises:
        ModelError: It cannot tell.
    """
    told: dict[str, Any] = {}
    lacks = f"{card.name!r} asks for %s, but {source.name} %s"
    if "dates" in card.inputs:
        told["dates"] = steps_of(source.bands)
        if not told["dates"]:
            how = "has none: give an array with a time, or {date: raster}"
            raise ModelError(lacks % ("dates", how))
    if "location" in card.inputs:
        if source.grid.crs is None:
            how = "has no coordinate reference system: set one, gdal_edit.py -a_srs"
            raise ModelError(lacks % ("the place of its windows", how))
        told |= {"crs": source.grid.crs, "transform": tuple(source.grid.transform)[:6]}
    if "resolution" in card.inputs:
        size = source.grid.pixel_size_m
        if size is None:
            how = "does not say how large its pixels are"
            raise ModelError(lacks % ("metres per pixel", how))
        told["resolution"] = float((size[0] * size[1]) ** 0.5)
    return Context(**told)


def wavelengths(card: Card) -> tuple[float, ...]:
    """Return the wavelengths of a card's bands, those of a step, in micrometres.

    Raises:
        ModelError: That of one is not known.
    """
    return tuple(_wavelength(band, card) for band in card.step_bands)


def _wavelength(band: Band, card: Card) -> float:
    usual = _WAVELENGTHS.get(band.common_name or band.name)
    known = usual if band.wavelength is None else band.wavelength
    if known is not None:
        return known
    raise ModelError(
        f"{card.name!r} asks for wavelengths, but not all are known: give band "
        f'{band.name} a "wavelength" in micrometres, or a common name'
    )


def dates_of(card: Card, context: Context | None) -> NDArray[np.float32]:
    """Return years and days of the year of a card's steps, (steps, 2).

    Without a context those of some day: for trials with blank windows.
    """
    steps = 1 if card.times is None else card.times.count
    told = (context and context.dates) or ("2020-01-01",) * steps
    days = [date.fromisoformat(step[:10]) for step in told]
    return np.array([(d.year, d.timetuple().tm_yday) for d in days], np.float32)


def extras(
    card: Card, context: Context | None, count: int, places: NDArray[np.float32] | None
) -> list[NDArray[np.float32]]:
    """Return what a card asks for beside the pixels of a batch, in the card's order.

    Args:
        card: The card.
        context: What the raster tells; None: something, for blank windows.
        count: Windows in the batch.
        places: (count, 2) latitude and longitude of each; None: something.
    """
    size = (context and context.resolution) or card.resolution or 10.0
    known: dict[str, Any] = {}
    for name in card.inputs:
        match name:
            case "dates":
                known[name] = dates_of(card, context)
            case "wavelengths":
                known[name] = np.array(wavelengths(card), np.float32)
            case "resolution":
                known[name] = np.array([size], np.float32)
            case "location":
                known[name] = np.zeros(2, np.float32)
    return [
        places
        if name == "location" and places is not None
        else np.broadcast_to(value, (count, *value.shape)).copy()
        for name, value in known.items()
    ]
