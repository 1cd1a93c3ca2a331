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
import warnings
from importlib import import_module
from typing import TYPE_CHECKING

from geoseg import errors
from geoseg._version import __version__
from geoseg.core import numba_cache, scene_masks, views
from geoseg.errors import GeosegError

numba_cache.ensure()

if TYPE_CHECKING:
    # What type checkers and editors see; `_MODULES` says the same while running.
    from geoseg.accuracy.accuracy import Accuracy as Accuracy
    from geoseg.accuracy.accuracy import estimate as estimate
    from geoseg.accuracy.compare import Comparison as Comparison
    from geoseg.accuracy.compare import compare as compare
    from geoseg.accuracy.evaluate import evaluate as evaluate
    from geoseg.accuracy.evaluation import Evaluation as Evaluation
    from geoseg.accuracy.sampling import sample as sample
    from geoseg.core.classes import Class as Class
    from geoseg.demo.example import example as example
    from geoseg.inference.planning import Plan as Plan
    from geoseg.inference.workflow import make_plan as make_plan
    from geoseg.inference.workflow import run_plan as run_plan
    from geoseg.inference.workflow import segment as segment
    from geoseg.maps.cog import export as export
    from geoseg.maps.legend import name_classes as name_classes
    from geoseg.maps.store import Masks as Masks
    from geoseg.maps.store import open_masks as open_masks
    from geoseg.maps.verify import verify as verify
    from geoseg.models.card import Band as Band
    from geoseg.models.card import Card as Card
    from geoseg.models.contract import Objects as Objects
    from geoseg.models.load import load_model as load_model
    from geoseg.models.pack import build_network as build_network
    from geoseg.models.pack import save_model as save_model
    from geoseg.pipeline.entry import run as run
    from geoseg.rasters.compose import compose as compose
    from geoseg.rasters.open import open_source as open_source
    from geoseg.rasters.search_table import Scenes as Scenes
    from geoseg.rasters.search_table import search as search
    from geoseg.training.train import train as train
    from geoseg.vector.vectorize import read_regions as read_regions
    from geoseg.vector.vectorize import vectorize as vectorize
    from geoseg.viz.explorer import explore as explore
    from geoseg.viz.figures import draw_evaluation as draw_evaluation
    from geoseg.viz.report import report as report
    from geoseg.viz.seams import check_seams as check_seams
    from geoseg.viz.view import view as view

_MODULES = {
    "Accuracy": "geoseg.accuracy.accuracy",
    "Band": "geoseg.models.card",
    "Card": "geoseg.models.card",
    "Class": "geoseg.core.classes",
    "Comparison": "geoseg.accuracy.compare",
    "Evaluation": "geoseg.accuracy.evaluation",
    "Masks": "geoseg.maps.store",
    "Objects": "geoseg.models.contract",
    "Plan": "geoseg.inference.planning",
    "Scenes": "geoseg.rasters.search_table",
    "build_network": "geoseg.models.pack",
    "check_seams": "geoseg.viz.seams",
    "compare": "geoseg.accuracy.compare",
    "compose": "geoseg.rasters.compose",
    "draw_evaluation": "geoseg.viz.figures",
    "estimate": "geoseg.accuracy.accuracy",
    "evaluate": "geoseg.accuracy.evaluate",
    "example": "geoseg.demo.example",
    "explore": "geoseg.viz.explorer",
    "export": "geoseg.maps.cog",
    "load_model": "geoseg.models.load",
    "make_plan": "geoseg.inference.workflow",
    "name_classes": "geoseg.maps.legend",
    "open_masks": "geoseg.maps.store",
    "open_source": "geoseg.rasters.open",
    "read_regions": "geoseg.vector.vectorize",
    "report": "geoseg.viz.report",
    "run": "geoseg.pipeline.entry",
    "run_plan": "geoseg.inference.workflow",
    "save_model": "geoseg.models.pack",
    "sample": "geoseg.accuracy.sampling",
    "search": "geoseg.rasters.search_table",
    "segment": "geoseg.inference.workflow",
    "train": "geoseg.training.train",
    "vectorize": "geoseg.vector.vectorize",
    "verify": "geoseg.maps.verify",
    "view": "geoseg.viz.view",
}
"""Public name → the module that holds it, imported when the name is first used."""

_DEPRECATED = {"export_cog": "export", "write_report": "report"}
"""Old public name → its new one; gone in the next version."""

__all__ = ["GeosegError", "__version__", "errors"]
__all__ += list(_MODULES)


def __dir__() -> list[str]:
    """Return the public names, for `dir()` and for completion in notebooks."""
    return sorted(__all__)


if not TYPE_CHECKING:  # or every misspelt name would have the type Any

    def __getattr__(name: str) -> object:
        """Find a public name in its module; an old one with a warning."""
        if name in _DEPRECATED:
            new = _DEPRECATED[name]
            message = f"geoseg.{name} is called geoseg.{new} now"
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            name = new
        if name not in _MODULES:
            raise AttributeError(f"module 'geoseg' has no attribute {name!r}")
        import_module("geoseg.accessor")  # so that datasets have `.geoseg`
        return getattr(import_module(_MODULES[name]), name)


scene_masks.register_maskers(
    lambda name: import_module("geoseg.inference.scene_masks").mask_of(name)
)
views.register_view(
    lambda kind, value: str(import_module("geoseg.viz.html").html_of(kind, value))
)

if "xarray" in sys.modules:  # else it is registered when a name above is looked up
    import_module("geoseg.accessor")
