"""What the classical methods share: what they learn, how they label, how they open."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from geoseg.errors import ModelError
from geoseg.models.card import ALL_BANDS, Band, Card
from geoseg.models.contract import AnyModel
from geoseg.models.identity import OpenedModel, opened
from geoseg.models.networks.device import ModelOptions, choose_engine, measured_device

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from geoseg.core.classes import Class
    from geoseg.rasters.open import Source

_BATCH = 64  # windows on a device, of which some planes of fp32 are held
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
    takes_tensors: ClassVar[bool] = False
    """Whether it can label on a device, by `labels`."""

    def labels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (n, y, x) integers of windows (n, band, y, x) float32 on a device.

        The arithmetic is that of `predict` in fp32, in the same order.
        """
        raise NotImplementedError

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


def on_device(method: ClassicalMethod, options: ModelOptions) -> AnyModel:
    """Return a method as it is asked for: itself, or on a device.

    It takes as long as reading takes, wherever it runs: so it stays on the processor
    unless the user says otherwise, which leaves the cores to the decoder.

    Raises:
        ModelError: There is no such device.
    """
    if options.engine == "openvino":
        raise ModelError(
            f"--engine openvino runs networks; {method.card.name!r} is not one: leave "
            "--engine out"
        )
    stays = options.device in {"auto", "cpu"} and options.engine in {"auto", "threads"}
    if stays or not method.takes_tensors:
        return method
    device = measured_device(options.device, f"{method.card.name!r}")
    choose_engine(device, options.engine)
    return OnDevice(method, str(device), options.batch or _BATCH)


class OnDevice(AnyModel):
    """A method whose windows are cut and labelled on a device."""

    engine = "torch"
    precision = "fp32"
    streams = True

    def __init__(self, method: ClassicalMethod, device: str, batch: int) -> None:
        self._method, self.device, self.batch = method, device, batch
        self.fits = method.fits

    @property
    def card(self) -> Card:  # type: ignore[override]
        """The method's card."""
        return self._method.card

    def predict(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return (n, y, x) labels, from the processor."""
        return self._method.predict(pixels)  # type: ignore[no-any-return]

    def scores(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (n, y, x) labels of windows on the device."""
        return self._method.labels(pixels)

    def working_bytes(self) -> int:
        """Return how much memory a batch takes: its pixels, and some planes."""
        planes = 2 * len(self.card.bands) + 8
        return self.batch * self.card.window**2 * 4 * planes

    def fit(self, source: Source) -> Self:
        """Return the fitted method, on the same device."""
        return type(self)(self._method.fit(source), self.device, self.batch)

    def parameters(self) -> dict[str, Any]:
        """Return what the method has learned."""
        return self._method.parameters()

    def with_parameters(self, parameters: Mapping[str, Any]) -> Self:
        """Return the method that has learned this, on the same device."""
        method = self._method.with_parameters(parameters)
        return type(self)(method, self.device, self.batch)


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


def open_method(spec: str, model: AnyModel, *marks: str) -> OpenedModel:
    """Return a method as what a user named; what it reads is told by `marks`."""

    def load(options: ModelOptions) -> AnyModel:
        return (
            on_device(model, options) if isinstance(model, ClassicalMethod) else model
        )

    return opened(spec, model.card, load, *(marks or (spec,)))


def count_in(text: str, spec: str, what: str, fewest: int, most: int, hint: str) -> int:
    """Return a number of a method's text.

    Raises:
        ModelError: It is none, or not in the range; the message says `what` it is.
    """
    if not text.strip().isdecimal() or not fewest <= int(text) <= most:
        raise ModelError(f"{spec!r}: {what} must be {fewest} … {most}, as in {hint}")
    return int(text)
