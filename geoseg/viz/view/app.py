"""What the map's page asks for, as a small web application."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.extras import require
from geoseg.core.grid import Window
from geoseg.errors import GeosegError, first_line
from geoseg.maps.provenance import crs_name, map_name
from geoseg.viz.picture import north
from geoseg.viz.view.guard import Guard
from geoseg.viz.view.places import place, row_column

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from geoseg.viz.regions import RegionsFile
    from geoseg.viz.view.basemap import Basemap
    from geoseg.viz.view.classes_layer import ClassesLayer
    from geoseg.viz.view.image_layer import ImageLayer, Limits
    from geoseg.viz.view.other_map import OtherMap

STATIC = Path(__file__).with_name("static")
# What a request asks for wrongly, or what cannot be read, is no fault of the server's.
_REQUESTS_FAULTS = (GeosegError, ArithmeticError, LookupError, OSError, ValueError)
_COARSEST = 24  # halvings: a tile of 2^32 pixels a side
_FAR = 1 << 40
"""Pixels beyond which nothing is."""
_LONGEST = 80
"""Characters of a place that is asked for."""
_LONGEST_CLASS = 2000
"""Bytes of a class that is named."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'"
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layers:
    """What is shown."""

    title: str
    classes: ClassesLayer
    image: ImageLayer | None
    regions: RegionsFile | None
    other: OtherMap | None = None
    basemap: Basemap | None = None

    @property
    def made(self) -> list[ClassesLayer | ImageLayer]:
        """What is made in the background while one looks."""
        other = self.other.layer if self.other else None
        found = (self.classes, self.image, other)
        return [layer for layer in found if layer is not None]


def make_app(layers: Layers, token: str) -> Guard:
    """Return the application.

    Args:
        layers: What is shown.
        token: The secret in the path of the map's address.

    Raises:
        MissingExtraError: starlette is not installed.
    """
    require("starlette", what="the map", extra="view")
    from starlette.applications import Starlette
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    answers = _Answers(layers)
    routes = [
        Route("/", answers.page),
        Route("/map.json", answers.map),
        Route("/state.json", answers.state),
        Route("/at.json", answers.at),
        Route("/place.json", answers.place),
        Route("/goto.json", answers.goto),
        Route("/regions.json", answers.regions),
        Route("/limits.json", answers.limits),
        Route("/class.json", answers.rename, methods=["POST"]),
        Route("/tiles/{layer}/{z}/{x}/{y}.png", answers.tile),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    refusals = dict.fromkeys(_REQUESTS_FAULTS, _refused)
    return Guard(Starlette(routes=routes, exception_handlers=refusals), token)


def _refused(_: Request, error: Exception) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse({"error": first_line(error)}, status_code=422)


@dataclass(frozen=True, slots=True, eq=False)
class _Answers:
    """One answer per path. They read, so they run in threads."""

    layers: Layers

    def page(self, _: Request) -> Response:
        from starlette.responses import HTMLResponse

        text = (STATIC / "index.html").read_text(encoding="utf-8")
        headers = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}
        return HTMLResponse(text, headers=headers)

    def map(self, _: Request) -> Response:
        from starlette.responses import JSONResponse

        layers, grid = self.layers, self.layers.classes.grid
        other = layers.other and layers.other.layer.reader
        return JSONResponse(
            {
                "title": layers.title,
                "height": grid.height,
                "width": grid.width,
                "metres": grid.pixel_size_m,
                "north": north(grid),
                "transform": list(grid.transform)[:6],
                "crs": crs_name(grid),
                "classes": [asdict(c) for c in layers.classes.reader.classes],
                "confidence": layers.classes.has_confidence,
                "named": layers.classes.can_be_named,
                "objects": layers.classes.has_objects,
                "image": layers.image and _bands(layers.image),
                "regions": layers.regions is not None,
                "other": other and map_name(other),
                "other_classes": [asdict(c) for c in other.classes] if other else [],
                "basemap": layers.basemap and layers.basemap.credit,
            }
        )

    def state(self, _: Request) -> Response:
        from starlette.responses import JSONResponse

        layers, classes = self.layers, self.layers.classes
        other = layers.other.layer if layers.other else None
        made = {"classes": classes, "image": layers.image, "other": other}
        problems = [layer.problem for layer in (*layers.made, layers.basemap) if layer]
        return JSONResponse(
            {
                **{
                    name: layer and {"share": layer.share, "version": layer.version}
                    for name, layer in made.items()
                },
                "seen": sorted(classes.seen),
                "blocks": classes.blocks(),
                "problem": next(filter(None, problems), ""),
            },
            headers={"Cache-Control": "no-store"},
        )

    def tile(self, request: Request) -> Response:
        """Answer with a tile; `z` counts halvings: 0 is full resolution."""
        from starlette.responses import Response

        p = request.path_params
        z = _whole(p["z"])
        beyond = p["layer"] == "basemap"  # it goes on above the map
        x, y = (_whole(p[name], signed=beyond) for name in ("x", "y"))
        png = None
        if z is not None and x is not None and y is not None and z <= _COARSEST:
            png = self._png(p["layer"], z, x, y, request)
        if png is None:
            return Response(status_code=404)
        return Response(
            png, media_type="image/png", headers={"Cache-Control": "max-age=3600"}
        )

    def _png(
        self, layer: str, z: int, x: int, y: int, request: Request
    ) -> bytes | None:
        layers, made = self.layers, None
        if layer == "classes":
            hidden = map(_whole, request.query_params.get("hide", "").split(","))
            made = layers.classes.tile(z, x, y, [v for v in hidden if v is not None])
        elif layer == "confidence" and layers.classes.has_confidence:
            made = layers.classes.confidence_tile(z, x, y)
        elif layer == "objects" and layers.classes.has_objects:
            made = layers.classes.objects_tile(z, x, y)
        elif layer == "image" and layers.image is not None:
            made = layers.image.tile(z, x, y, _asked_bands(request), _limits(request))
        elif layer == "other" and layers.other is not None:
            made = layers.other.tile(z, x, y)
        elif layer == "basemap" and layers.basemap is not None:
            made = layers.basemap.tile(z, x, y)
        return made

    def limits(self, request: Request) -> Response:
        """Answer what is to be black and white, of the image or of what is seen."""
        from starlette.responses import JSONResponse, Response

        if self.layers.image is None:
            return Response(status_code=404)
        (cut,) = _numbers(request, "cut")
        if not 0 <= cut < 50:
            raise GeosegError(f"{cut:g} percent cannot be cut off at either end")
        seen = None
        if "left" in request.query_params:
            box = _numbers(request, "top", "bottom", "left", "right")
            top, bottom, left, right = (int(np.clip(v, -_FAR, _FAR)) for v in box)
            bottom, right = max(bottom, top + 1), max(right, left + 1)
            seen = Window.spanning(top, bottom, left, right)
        low, high = self.layers.image.limits(_asked_bands(request), cut, seen)
        return JSONResponse({"low": low, "high": high})

    async def rename(self, request: Request) -> Response:
        """Give a class another name and colour."""
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse

        row = await _body(request)
        if not isinstance(row, dict) or not isinstance(row.get("value"), int):
            raise GeosegError("expected a class: value, name and color")
        name, color = (str(row.get(key, "")) for key in ("name", "color"))
        classes = self.layers.classes
        await run_in_threadpool(classes.rename, row["value"], name, color)
        return JSONResponse([asdict(c) for c in classes.reader.classes])

    def at(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        row, column = _numbers(request, "row", "column")
        classes, regions = self.layers.classes, self.layers.regions
        grid = classes.grid
        if not (0 <= row < grid.height and 0 <= column < grid.width):
            return JSONResponse({"inside": False})
        found = {
            "inside": True,
            "row": int(row),
            "column": int(column),
            "place": place(grid, row, column),
            "region": regions.at(row, column) if regions is not None else None,
            **classes.at(int(row), int(column)),
        }
        if self.layers.other is not None:
            found["other"] = self.layers.other.at(int(row), int(column))
        return JSONResponse(found)

    def place(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        row, column = _numbers(request, "row", "column")
        return JSONResponse(place(self.layers.classes.grid, row, column))

    def goto(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        text = request.query_params.get("place", "")[:_LONGEST]
        row, column = row_column(self.layers.classes.grid, text)
        return JSONResponse({"row": row, "column": column})

    def regions(self, request: Request) -> Response:
        from starlette.responses import JSONResponse, Response

        if self.layers.regions is None:
            return Response(status_code=404)
        box = _numbers(request, "left", "top", "right", "bottom", "pixel")
        return JSONResponse(self.layers.regions.seen(*box))


def _whole(text: str, *, signed: bool = False) -> int | None:
    """Return a number of at most ten digits; None where it is not one."""
    digits = text.removeprefix("-") if signed else text
    fits = digits.isascii() and digits.isdecimal() and len(digits) <= 10
    return int(text) if fits else None


def _bands(layer: ImageLayer) -> dict[str, Any]:
    """Return which bands an image has, and how it is shown at first."""
    image = layer.image
    rows = [{"name": b.name, "common": b.common_name} for b in image.whole.bands]
    return {
        "bands": rows,
        "shown": image.bands,
        "low": image.low,
        "high": image.high,
    }


def _asked_bands(request: Request) -> tuple[int, ...] | None:
    """Return the bands that are asked for, from 0; None where none are named."""
    text = request.query_params.get("bands", "")
    found = [_whole(part) for part in text.split(",")] if text else []
    if len(found) > 3 or any(number is None for number in found):
        raise GeosegError("bands are one number or three, counted from 1")
    return tuple(number - 1 for number in found if number is not None) or None


def _limits(request: Request) -> Limits | None:
    """Return what is to be black and white by band; None where it is not said."""
    low, high = (
        tuple(map(float, request.query_params.get(name, "").split(",")))
        if request.query_params.get(name)
        else ()
        for name in ("low", "high")
    )
    return (low, high) if low and high else None


async def _body(request: Request) -> Any:  # noqa: ANN401 - what JSON holds
    """Return what was sent, if it is as short as a class is."""
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > _LONGEST_CLASS:
            raise GeosegError(f"more than {_LONGEST_CLASS} bytes are no class")
    return json.loads(data)


def _numbers(request: Request, *names: str) -> list[float]:
    try:
        values = [float(request.query_params[name]) for name in names]
    except (KeyError, ValueError) as error:
        raise GeosegError(f"expected numbers: {', '.join(names)}") from error
    if not all(math.isfinite(v) for v in values):
        raise GeosegError(f"expected finite numbers: {', '.join(names)}")
    return values
