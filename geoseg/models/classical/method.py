"""What the classical methods share: what they learn, how they label, how they open."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from geoseg.errors import ModelError
from geoseg.models.card import ALL_BANDS, Band, Card
from geoseg.models.contract import AnyModel
from geoseg.models.identity import Opened, opened

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.core.classes import Class

MOST = 254
"""Classes in a map of one byte."""


class ClassicalMethod(AnyModel):
    """A method that labels pixels on the CPU; its classes are frozen dataclasses.

    What it learns from the raster are arrays in fields named in `learned`, in pixel
    units, each of them None until it is fitted.
    """

    device = "cpu"
    precision = "fp32"
    learned: ClassVar[tuple[str, ...]] = ()

    def known(self) -> tuple[Any, ...]:
        """Return what was learned, or raise where nothing was yet."""
        values = tuple(getattr(self, name) for name in self.learned)
        if any(value is None for value in values):
            raise ModelError(f"{self.card.name} has not been fitted to the raster yet")
        return values

    def parameters(self) -> dict[str, Any]:
        """Return the bands, and what was learned, in pixel units."""
        arrays = zip(self.learned, self.known(), strict=True)
        bands = [band.name for band in self.card.bands]
        return {"bands": bands} | {n: np.asarray(a).tolist() for n, a in arrays}

    def with_parameters(self, parameters: Mapping[str, Any]) -> Self:
        """Return the model that has learned this."""
        arrays = {n: np.array(parameters[n], np.float64) for n in self.learned}
        return self.taught(parameters["bands"], **arrays)

    def taught(self, bands: Iterable[str], **learned: Any) -> Self:  # noqa: ANN401
        """Return the model of these bands, with what it has learned."""
        return replace(self, card=of_bands(self.card, bands), **learned)  # type: ignore[type-var]


def of_bands(card: Card, names: Iterable[str]) -> Card:
    """Return the card with the bands of a raster."""
    return replace(card, bands=tuple(Band(name=name) for name in names))


def each_window(
    pixels: NDArray[np.generic],
    label: Callable[[NDArray[np.generic], NDArray[np.uint8]], None],
) -> NDArray[np.uint8]:
    """Return labels (n, y, x) of windows (n, band, y, x), which `label` writes."""
    out = np.empty((len(pixels), *pixels.shape[2:]), np.uint8)
    for window, labels in zip(pixels, out, strict=True):
        label(np.ascontiguousarray(window), labels)
    return out


def method_card(
    name: str,
    bands: str | Iterable[str],
    classes: tuple[Class, ...],
    description: str,
    *,
    framework: Mapping[str, Any],
    **more: Any,  # noqa: ANN401 - fields of `Card`
) -> Card:
    """Return the card of a method that labels pixel by pixel.

    Args:
        name: As the user wrote the method.
        bands: Names, or text with commas between them; nothing means all bands.
        classes: The class table.
        description: A sentence.
        framework: `family`, and what else is kept.
        more: Where it differs from one that looks at single pixels.
    """
    names = bands.split(",") if isinstance(bands, str) else bands
    chosen = tuple(Band(name=n.strip()) for n in names if n.strip())
    pixelwise = {"output": "labels", "window": 512, "overlap": 0, "multiple": 1}
    return Card(
        name=name,
        bands=chosen or (ALL_BANDS,),
        classes=classes,
        description=description,
        framework=framework,
        **(pixelwise | more),  # type: ignore[arg-type]
    )


def open_method(spec: str, model: AnyModel, *marks: str) -> Opened:
    """Return a method as what a user named; what it reads is told by `marks`."""
    return opened(spec, model.card, lambda _options: model, *(marks or (spec,)))


def count_in(text: str, spec: str, what: str, fewest: int, most: int, hint: str) -> int:
    """Return a number of a method's text.

    Raises:
        ModelError: It is none, or not in the range; the message says `what` it is.
    """
    if not text.strip().isdecimal() or not fewest <= int(text) <= most:
        raise ModelError(f"{spec!r}: {what} is {fewest} … {most}, as in {hint}")
    return int(text)
