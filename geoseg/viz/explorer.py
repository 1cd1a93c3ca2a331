"""`geoseg.explore`: the live map inside a notebook.

The same map as `geoseg view`: tiles are drawn as they are looked at, so a million
polygons and a mask of 10^9 pixels stay responsive, where libraries that send data to
the browser do not. (The module is not called `explore`: it would hide the function.)
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from weakref import finalize

from geoseg.core.discretion import discreet
from geoseg.errors import GeosegError

if TYPE_CHECKING:
    from geoseg.viz.view import MapServer


_FRAME = "border:1px solid #9aa5a1;border-radius:6px"


@dataclass(frozen=True, kw_only=True, eq=False)
class Explorer:
    """A map that notebooks show; it is served until it is closed or forgotten."""

    server: MapServer
    height: int
    """How tall it is shown, in pixels of the screen."""

    def __post_init__(self) -> None:
        finalize(self, self.server.close)

    @property
    def url(self) -> str:
        """Where the notebook's browser finds it."""
        return browser_url(self.server.url, os.environ)

    def close(self) -> None:
        """Stop serving it."""
        self.server.close()

    def __repr__(self) -> str:
        return f"<Explorer of {self.server.layers.title}: {self.url}>"

    def _repr_html_(self) -> str:
        """Return the map in a frame, and what is seen where nobody serves it any more.

        A notebook that was saved as HTML shows the map's picture and legend. VS Code
        lets no notebook have an `object`, and an `iframe` has nothing to fall back on.
        """
        from geoseg.viz.html import map_html

        title = escape(f"Map of {self.server.layers.title}")
        told = f'width="100%" height="{self.height}" title="{title}" style="{_FRAME}"'
        if "VSCODE_PID" in os.environ:
            return f'<iframe src="{escape(self.url)}" {told}></iframe>'
        still = map_html(self.server.layers.classes.reader)
        data = f'type="text/html" data="{escape(self.url)}"'
        return f"<object {data} {told}>{still}</object>"


def browser_url(url: str, environment: Any) -> str:  # noqa: ANN401 - os.environ
    """Return where a browser finds a port of this machine.

    That is the port itself; on a JupyterHub, whose users' browsers are elsewhere, the
    hub's way to it (which the package jupyter-server-proxy opens).
    """
    prefix = environment.get("JUPYTERHUB_SERVICE_PREFIX")
    if not prefix:
        return url
    here = urlsplit(url)
    return f"{prefix.rstrip('/')}/proxy/{here.port}{here.path}"


@discreet
def explore(
    raster: Any = None,  # noqa: ANN401 - whatever open_source takes
    masks: Any = None,  # noqa: ANN401 - masks, a path, a dataset, a class raster
    regions: str | os.PathLike[str] | None = None,
    *,
    beside: Any = None,  # noqa: ANN401 - another of these
    basemap: str | None = None,
    height: int = 560,
) -> Explorer:
    """Return an interactive map: image, classes, confidence and polygons as layers.

    With opacity, swipe, a legend that filters classes, and attributes on a click. Only
    what is seen is read.

    Args:
        raster: The image; default what the masks were made of.
        masks: Masks, their path or dataset; or another tool's class raster.
        regions: File of polygons to draw.
        beside: Another class map, to be shown side by side.
        basemap: Address of a background map, of tiles or a WMS; see `geoseg view`.
        height: How tall it is shown, in pixels of the screen.

    Raises:
        GeosegError: Something cannot be opened.
        MissingExtraError: The extra `view` is not installed.
    """
    if masks is None:
        raise GeosegError(
            "explore needs masks: explore(masks='masks.zarr'), or "
            "explore(raster, masks, regions)"
        )
    from geoseg.viz.view import view

    server = view(masks, raster=raster, regions=regions, beside=beside, basemap=basemap)
    return Explorer(server=server, height=height)
