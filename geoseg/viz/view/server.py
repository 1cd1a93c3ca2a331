"""Serve the map to this machine's browser, in a thread."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_urlsafe
from threading import Thread
from typing import TYPE_CHECKING, Any, Self

from geoseg.core.discretion import discreet
from geoseg.core.extras import require
from geoseg.errors import GeosegError
from geoseg.maps.open import open_classes
from geoseg.maps.overviews import Pyramid
from geoseg.maps.provenance import map_name
from geoseg.viz.picture import image_of
from geoseg.viz.regions import open_regions
from geoseg.viz.view.app import Layers, make_app
from geoseg.viz.view.basemap import open_basemap
from geoseg.viz.view.classes_layer import ClassesLayer
from geoseg.viz.view.image_layer import ImageLayer
from geoseg.viz.view.other_map import other_map

if TYPE_CHECKING:
    import xarray as xr

    from geoseg.maps.reader import ClassReader
    from geoseg.maps.store import Masks

_PATIENCE = 15.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MapServer:
    """A map that is being served; close it, or use it in a `with`."""

    url: str
    """Where it is, on this machine; whoever knows it can look."""
    layers: Layers
    thread: Thread
    server: Any
    """uvicorn's."""

    def close(self) -> None:
        """Stop serving."""
        self.server.should_exit = True
        self.thread.join(timeout=10)
        for layer in self.layers.made:
            layer.close()

    def wait(self) -> None:
        """Wait until it is closed, or Ctrl-C ends it."""
        with suppress(KeyboardInterrupt):
            while self.thread.is_alive():
                self.thread.join(timeout=0.5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@discreet
def view(
    masks: str | Path | Masks | xr.Dataset | xr.DataArray,
    *,
    raster: Any = None,  # noqa: ANN401 - whatever open_source takes
    regions: str | os.PathLike[str] | None = None,
    beside: Any = None,  # noqa: ANN401 - what `masks` may be
    basemap: str | None = None,
    port: int = 0,
    partial: bool = False,
) -> MapServer:
    """Serve a map on localhost and return at once.

    Only what is seen is read. Overviews that the masks lack are made while one looks,
    and kept in the store where it can be written to.

    Args:
        masks: Masks, their path or dataset; or another tool's class raster.
        raster: The image beside them; default what the masks were made of, if it is
            still there. False for none.
        regions: Polygons to draw.
        beside: Another class map, on any grid, that can be shown side by side.
        basemap: Address of a background map: a template of tiles in Web Mercator, such
            as `https://…/{z}/{x}/{y}.png`, or a WMS with its `layers=`. Nobody is asked
            for one by default.
        port: On which port; 0 for any free one.
        partial: Take masks that are not complete as they are, with a warning.

    Raises:
        GeosegError: Something cannot be opened, or the port is taken.
        MissingExtraError: uvicorn or starlette is not installed.
    """
    uvicorn = require("uvicorn", what="the map", extra="view")
    reader = open_classes(masks, partial=partial)
    layers = _layers(reader, raster, regions)
    if beside is not None:
        other = other_map(open_classes(beside, partial=partial), reader.grid)
        layers = replace(layers, other=other)
    if basemap is not None:
        layers = replace(layers, basemap=open_basemap(basemap, reader.grid))
    token = token_urlsafe(16)
    app = make_app(layers, token)
    listener = _listen(port)
    config = uvicorn.Config(app, log_level="warning", lifespan="off", access_log=False)
    server = uvicorn.Server(config)
    thread = Thread(
        target=lambda: server.run(sockets=[listener]), daemon=True, name="geoseg-view"
    )
    thread.start()
    for layer in layers.made:
        layer.start()
    begun = time.monotonic()
    while not server.started:
        if time.monotonic() - begun > _PATIENCE or not thread.is_alive():
            raise GeosegError("the map could not be served: the server did not start")
        time.sleep(0.01)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/{token}/"
    return MapServer(url=url, layers=layers, thread=thread, server=server)


def _listen(port: int) -> socket.socket:
    """Take a port of this machine, which other machines cannot reach."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise GeosegError(
            f"port {port} cannot be used: {error.strerror}; choose another --port"
        ) from error
    return listener


def _layers(reader: ClassReader, raster: Any, regions: Any) -> Layers:  # noqa: ANN401
    grid = reader.grid
    image = image_of(reader, raster)
    return Layers(
        title=map_name(reader),
        classes=ClassesLayer(reader=reader, pyramid=Pyramid(base=reader)),
        image=None if image is None else ImageLayer(image=image, grid=grid),
        regions=None if regions is None else open_regions(regions, grid),
    )
