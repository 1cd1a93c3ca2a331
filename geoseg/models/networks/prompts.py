"""Prompts: points, boxes and polygons of a vector file, for networks that answer them.

A point, or several as one feature, lies on the object that is meant. A rectangle is the
box around it; so is any other polygon's, which gives a point inside it too.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from geoseg.errors import ModelError, RasterError
from geoseg.models.contract import Objects, OnlyPlaced
from geoseg.models.networks.detector import DetectorModel
from geoseg.rasters.shapes import in_pixels, read_shapes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.core.grid import Grid, Window
    from geoseg.models.card import Card
    from geoseg.models.networks.detector import Finder
    from geoseg.models.networks.device import ModelOptions
    from geoseg.rasters.open import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What is asked for; x and y in pixels, the first pixel from 0 to 1."""

    points: tuple[tuple[float, float], ...] = ()
    """x and y of points on the object."""
    box: tuple[float, float, float, float] | None = None
    """Left, top, right, bottom."""


class PromptedModel(OnlyPlaced, DetectorModel):
    """A network that finds what prompts ask for, each window those that lie in it."""

    takes_prompts = True
    fits = True

    def __init__(self, module: Finder, card: Card, options: ModelOptions) -> None:
        """Move the network to its device.

        Args:
            module: The network; it answers one mask for each prompt.
            card: Its card.
            options: Device, batch, and the file with the prompts.
        """
        super().__init__(module, card, options, score=-1.0)
        self._file = str(options.prompts)
        self.prompts: list[Prompt] | None = None
        self.boxes = np.zeros((0, 4))

    def fit(self, source: Source) -> Self:
        """Return the model with the prompts in pixels of the raster."""
        return self._with(read_prompts(self._file, source.grid))

    def parameters(self) -> dict[str, Any]:
        """Return the prompts."""
        return {"prompts": [[p.points, p.box] for p in self.prompts or ()]}

    def with_parameters(self, parameters: Mapping[str, Any]) -> Self:
        """Return the model with those prompts."""
        return self._with(
            [
                Prompt(
                    points=tuple((x, y) for x, y in points),
                    box=None if box is None else tuple(box),
                )
                for points, box in parameters["prompts"]
            ]
        )

    def _with(self, prompts: list[Prompt]) -> Self:
        other = copy.copy(self)
        other.prompts = prompts
        other.boxes = np.array([bounds(p) for p in prompts])
        return other

    def predict_at(
        self,
        pixels: NDArray[np.generic],
        windows: Sequence[Window],
        valid: NDArray[np.bool_],  # noqa: ARG002 - nodata is taken out afterwards
    ) -> list[Objects]:
        """Return the objects that are asked for in each window."""
        asked = [self.asked(window) for window in windows]
        busy = [i for i, prompts in enumerate(asked) if prompts]
        found = self._each([(pixels[i], *asked[i]) for i in busy])  # type: ignore[misc]
        nothing = Objects(
            labels=np.zeros(pixels.shape[2:], np.int32),
            classes=np.zeros(0, np.int64),
            scores=np.zeros(0, np.float32),
        )
        answers = dict(zip(busy, found, strict=True))
        return [answers.get(i, nothing) for i in range(len(windows))]

    def asked(self, window: Window) -> tuple[list[Prompt]] | None:
        """Return the prompts of a window, in its own pixels; None where it has none."""
        if self.prompts is None:
            raise ModelError(f"{self.card.name} has not been given its prompts yet")
        left, top, right, bottom = self.boxes.T
        there = np.flatnonzero(
            (left < window.right) & (right >= window.x)
            & (top < window.bottom) & (bottom >= window.y)
        )  # fmt: skip
        cut = [cut_to(self.prompts[i], window) for i in there]
        found = [prompt for prompt in cut if prompt is not None]
        return (found,) if found else None


def bounds(prompt: Prompt) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of a prompt."""
    if prompt.box is not None:
        return prompt.box
    x, y = zip(*prompt.points, strict=True)
    return min(x), min(y), max(x), max(y)


def cut_to(prompt: Prompt, window: Window) -> Prompt | None:
    """Return what a window sees of a prompt, in its own pixels; None for nothing."""
    points = tuple(
        (x - window.x, y - window.y)
        for x, y in prompt.points
        if window.x <= x < window.right and window.y <= y < window.bottom
    )
    if prompt.box is None:
        return Prompt(points=points) if points else None
    left, top, right, bottom = prompt.box
    left, right = (min(max(v - window.x, 0.0), window.width) for v in (left, right))
    top, bottom = (min(max(v - window.y, 0.0), window.height) for v in (top, bottom))
    if right <= left or bottom <= top:
        return None
    return Prompt(points=points, box=(left, top, right, bottom))


def read_prompts(file: str, grid: Grid) -> list[Prompt]:
    """Return the prompts of a vector file in pixels of a grid; those on it only.

    Raises:
        ModelError: There are none, or a feature is none.
    """
    import shapely

    try:
        shapes = read_shapes(file, "the prompts")
        moved = in_pixels(shapes, grid, file)
    except RasterError as error:
        raise ModelError(str(error)) from error
    lines = np.isin(shapely.get_type_id(moved), (1, 2, 5, 7))
    if lines.any():
        kind = moved[np.flatnonzero(lines)[0]].geom_type
        raise ModelError(f"{file} holds a {kind}: prompts are points or polygons")
    raster = shapely.box(0, 0, grid.width, grid.height)
    there = moved[shapely.intersects(moved, raster) & ~shapely.is_empty(moved)]
    if not len(there):
        raise ModelError(
            f"none of the {len(moved)} prompts of {file} lies on the raster"
        )
    return [_prompt(shape) for shape in there]


def _prompt(shape: Any) -> Prompt:  # noqa: ANN401 - a shapely geometry
    import shapely

    if shape.geom_type in {"Point", "MultiPoint"}:
        return Prompt(points=tuple(map(tuple, shapely.get_coordinates(shape).tolist())))
    left, top, right, bottom = shape.bounds
    box = (left, top, right, bottom)
    if shape.area >= (1 - 1e-3) * (right - left) * (bottom - top):
        return Prompt(box=box)
    inside = shape.representative_point()
    return Prompt(points=((inside.x, inside.y),), box=box)
