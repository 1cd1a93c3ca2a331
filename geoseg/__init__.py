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
from geoseg.core import views
from geoseg.errors import GeosegError

if TYPE_CHECKING:
    from geoseg.demo.example import example
    from geoseg.inference.workflow import make_plan, segment
    from geoseg.maps.cog import export_cog
    from geoseg.maps.store import open_masks
    from geoseg.models.load import load_model
    from geoseg.rasters.open import open_source
    from geoseg.vector.vectorize import read_regions, vectorize
    from geoseg.viz.explorer import explore
    from geoseg.viz.report import write_report

_ROOMS = {
    "example": "geoseg.demo.example",
    "explore": "geoseg.viz.explorer",
    "export_cog": "geoseg.maps.cog",
    "load_model": "geoseg.models.load",
    "make_plan": "geoseg.inference.workflow",
    "open_masks": "geoseg.maps.store",
    "open_source": "geoseg.rasters.open",
    "read_regions": "geoseg.vector.vectorize",
    "segment": "geoseg.inference.workflow",
    "vectorize": "geoseg.vector.vectorize",
    "write_report": "geoseg.viz.report",
}

__all__ = [
    "GeosegError",
    "__version__",
    "example",
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
        import_module("geoseg.accessor")  # so that datasets have `.geoseg`
        return getattr(import_module(_ROOMS[name]), name)
    raise AttributeError(f"module 'geoseg' has no attribute {name!r}")


views.fill(lambda kind, value: str(import_module("geoseg.viz.html").view(kind, value)))

if "xarray" in sys.modules:  # else it is registered when a name above is looked up
    import_module("geoseg.accessor")
