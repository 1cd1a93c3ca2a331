"""What the map's page asks for, as a small web application."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from geoseg.core.extras import require
from geoseg.errors import GeosegError, first_line
from geoseg.maps.provenance import crs_name
from geoseg.viz.view.guard import Guard
from geoseg.viz.view.places import place, row_column

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from geoseg.viz.regions import RegionsFile
    from geoseg.viz.view.classes_layer import ClassesLayer
    from geoseg.viz.view.image_layer import ImageLayer

STATIC = Path(__file__).with_name("static")
# What a request asks for wrongly, or what cannot be read, is no fault of the server's.
_REQUESTS_FAULTS = (GeosegError, ArithmeticError, LookupError, OSError, ValueError)
_COARSEST = 24  # halvings: a tile of 2^32 pixels a side
_LONGEST = 80
"""Characters of a place that is asked for."""
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
        size = grid.pixel_size_m
        return JSONResponse(
            {
                "title": layers.title,
                "height": grid.height,
                "width": grid.width,
                "metres": size,
                "transform": list(grid.transform)[:6],
                "crs": crs_name(grid),
                "classes": [asdict(c) for c in layers.classes.reader.classes],
                "confidence": layers.classes.has_confidence,
                "image": layers.image is not None,
                "regions": layers.regions is not None,
            }
        )

    def state(self, _: Request) -> Response:
        from starlette.responses import JSONResponse

        classes, image = self.layers.classes, self.layers.image
        return JSONResponse(
            {
                "classes": {"share": classes.share, "version": classes.version},
                "image": image and {"share": image.share, "version": image.version},
                "seen": sorted(classes.seen),
                "blocks": classes.blocks(),
                "problem": classes.problem or (image.problem if image else ""),
            },
            headers={"Cache-Control": "no-store"},
        )

    def tile(self, request: Request) -> Response:
        """Answer with a tile; `z` counts halvings: 0 is full resolution."""
        from starlette.responses import Response

        p, layers = request.path_params, self.layers
        z, x, y = (_whole(p[name]) for name in ("z", "x", "y"))
        if z is None or x is None or y is None or z > _COARSEST:
            return Response(status_code=404)
        if p["layer"] == "classes":
            hidden = map(_whole, request.query_params.get("hide", "").split(","))
            png = layers.classes.tile(z, x, y, [v for v in hidden if v is not None])
        elif p["layer"] == "confidence" and layers.classes.has_confidence:
            png = layers.classes.confidence_tile(z, x, y)
        elif p["layer"] == "image" and layers.image is not None:
            png = layers.image.tile(z, x, y)
        else:
            return Response(status_code=404)
        return Response(
            png, media_type="image/png", headers={"Cache-Control": "max-age=3600"}
        )

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


def _whole(text: str) -> int | None:
    """Return a number of at most ten digits; None where it is not one."""
    fits = text.isascii() and text.isdecimal() and len(text) <= 10
    return int(text) if fits else None


def _numbers(request: Request, *names: str) -> list[float]:
    try:
        values = [float(request.query_params[name]) for name in names]
    except (KeyError, ValueError) as error:
        raise GeosegError(f"expected numbers: {', '.join(names)}") from error
    if not all(math.isfinite(v) for v in values):
        raise GeosegError(f"expected finite numbers: {', '.join(names)}")
    return values
