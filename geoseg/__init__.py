"""geoseg turns huge satellite and aerial rasters into seamless maps.

>>> import geoseg
>>> masks = geoseg.segment(
...     "scene.tif", model="models/landcover", out="masks.zarr"
... )  # doctest: +SKIP
>>> regions = geoseg.vectorize(masks, out="regions.gpkg")  # doctest: +SKIP

Importing geoseg imports neither torch nor dask nor numba; the names below are found
when they are first used.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from geoseg._version import __version__
from geoseg.errors import GeosegError

if TYPE_CHECKING:
    from geoseg.export import export_cog
    from geoseg.look.explorer import explore
    from geoseg.masks import open_masks
    from geoseg.models.load import load_model
    from geoseg.raster import open_source
    from geoseg.report import write_report
    from geoseg.vector.vectorize import read_regions, vectorize
    from geoseg.workflow import make_plan, segment

_ROOMS = {
    "explore": "geoseg.look.explorer",
    "export_cog": "geoseg.export",
    "load_model": "geoseg.models.load",
    "make_plan": "geoseg.workflow",
    "open_masks": "geoseg.masks",
    "open_source": "geoseg.raster",
    "read_regions": "geoseg.vector.vectorize",
    "segment": "geoseg.workflow",
    "vectorize": "geoseg.vector.vectorize",
    "write_report": "geoseg.report",
}

__all__ = [
    "GeosegError",
    "__version__",
    "explore",
    "export_cog",
    "load_model",
    "make_plan",
    "open_masks",
    "open_source",
    "read_regions",
    "segment",
    "vectorize",
    "write_report",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the room holds
    if name in _ROOMS:
        return getattr(import_module(_ROOMS[name]), name)
    raise AttributeError(f"module 'geoseg' has no attribute {name!r}")


if "xarray" in sys.modules:  # else it is registered when geoseg opens a dataset
    import_module("geoseg.look.accessor")
