"""Spectral indices that have names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

INDICES: Final[Mapping[str, str]] = {
    "ndvi": "(nir - red) / (nir + red)",  # Rouse et al. (1974)
    "ndwi": "(green - nir) / (green + nir)",  # McFeeters (1996)
    "mndwi": "(green - swir16) / (green + swir16)",  # Xu (2006)
    "ndbi": "(swir16 - nir) / (swir16 + nir)",  # Zha et al. (2003)
    "ndmi": "(nir - swir16) / (nir + swir16)",  # Gao (1996)
    "ndsi": "(green - swir16) / (green + swir16)",  # Hall et al. (1995)
    "nbr": "(nir - swir22) / (nir + swir22)",  # Key & Benson (2006)
    "gndvi": "(nir - green) / (nir + green)",  # Gitelson et al. (1996)
    "ndre": "(nir - rededge) / (nir + rededge)",  # Barnes et al. (2000)
}
"""Spectral indices by name, over STAC common names; all normalised differences."""
