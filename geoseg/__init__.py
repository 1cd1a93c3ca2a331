"""geoseg turns huge satellite and aerial rasters into seamless maps."""

from geoseg._version import __version__

__all__ = ["__version__"]
