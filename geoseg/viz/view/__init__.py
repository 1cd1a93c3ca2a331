"""A local web map of masks, image and polygons; only what is seen is read."""

from geoseg.viz.view.server import MapServer, view

__all__ = ["MapServer", "view"]
