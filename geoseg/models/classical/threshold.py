"""Thresholds on a band, an index or an expression: fixed, or by Otsu's method.

`threshold:ndwi`, `threshold:nir>1200`, `threshold:(nir-red)/(nir+red):0.3`,
`otsu:nir`, `otsu:ndwi`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from geoseg.core.classes import Class, class_table
from geoseg.errors import ModelError
from geoseg.models.card import Band, Card
from geoseg.models.classical.expression import Expression, compiled_mask, parse
from geoseg.models.classical.histogram import multi_otsu, otsu, raster_histogram
from geoseg.models.identity import Opened, content_hash

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.models.networks.device import Options
    from geoseg.rasters.open import Source

_COMPARISON = re.compile(r"^(?P<left>.*?)(?P<op>>=|<=|>|<)(?P<value>[^<>=]+)$")
# What lies above the threshold of an index, in its usual colour.
_ABOVE: Mapping[str, tuple[str, str]] = {
    "ndvi": ("vegetation", "#009E73"),
    "gndvi": ("vegetation", "#009E73"),
    "ndre": ("vegetation", "#009E73"),
    "ndwi": ("water", "#0072B2"),
    "mndwi": ("water", "#0072B2"),
    "ndbi": ("built", "#D55E00"),
    "ndsi": ("snow", "#56B4E9"),
    "ndmi": ("moist", "#44AA99"),
    "nbr": ("unburnt", "#117733"),
}
_OTHER = "#BBBBBB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """Two classes, parted by a number: 1 where `expression comparison value`, else 0.

    A pixel whose expression is NaN (zero divided by zero) belongs to class 0.
    """

    card: Card
    """Two classes, the second where the comparison holds."""
    expression: Expression
    """What is compared."""
    comparison: str = ">"
    """`>`, `>=`, `<` or `<=`."""
    value: float | None
    """With what; None until it is fitted."""

    batch = 1
    device = "cpu"
    precision = "fp32"

    def predict(self, pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
        """Return (n, y, x) labels 0 and 1."""
        if self.value is None:
            raise ModelError(f"{self.card.name} has not been fitted to the raster yet")
        n, _, height, width = pixels.shape
        out = np.empty((n, height, width), np.uint8)
        for item, labels in zip(pixels, out, strict=True):
            if self.expression.is_band:
                _compare(item[0], self.comparison, self.value, labels)
            else:
                planes = [np.ascontiguousarray(plane).reshape(-1) for plane in item]
                loop = compiled_mask(self.expression, self.comparison)
                loop(*planes, np.float32(self.value), labels.reshape(-1))
        return out

    def parameters(self) -> dict[str, Any]:
        """Return the threshold."""
        return {"value": self.value}

    def with_parameters(self, parameters: Mapping[str, Any]) -> Self:
        """Return the model with that threshold."""
        return replace(self, value=float(parameters["value"]))


class Otsu(Threshold):
    """A threshold that Otsu's method finds from the whole raster's histogram."""

    __slots__ = ()

    def fit(self, source: Source) -> Self:
        """Return the model with the threshold of the whole raster."""
        value = None if self.expression.is_band else self.expression
        return replace(self, value=otsu(raster_histogram(source, value)))


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiOtsu:
    """Several classes, parted by the numbers that Otsu's method finds.

    A pixel whose expression is NaN belongs to class 0.
    """

    card: Card
    """Classes from low to high."""
    expression: Expression
    """What is compared."""
    values: tuple[float, ...] | None = None
    """With what, ascending; None until fitted."""

    batch = 1
    device = "cpu"
    precision = "fp32"

    def fit(self, source: Source) -> Self:
        """Return the model with the thresholds of the whole raster."""
        value = None if self.expression.is_band else self.expression
        histogram = raster_histogram(source, value)
        found = multi_otsu(histogram, len(self.card.classes))
        return replace(self, values=tuple(found))

    def predict(self, pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
        """Return (n, y, x) labels: how many of the thresholds a pixel is above."""
        if self.values is None:
            raise ModelError(f"{self.card.name} has not been fitted to the raster yet")
        expression = self.expression
        planes = (p[0] if expression.is_band else expression(*p) for p in pixels)
        out = np.zeros((len(pixels), *pixels.shape[2:]), np.uint8)
        above = np.empty(pixels.shape[2:], np.uint8)
        for plane, labels in zip(planes, out, strict=True):
            for value in self.values:
                _compare(plane, ">", value, above)
                np.add(labels, above, out=labels)
        return out

    def parameters(self) -> dict[str, Any]:
        """Return the thresholds."""
        return {"values": list(self.values or ())}

    def with_parameters(self, parameters: Mapping[str, Any]) -> Self:
        """Return the model with those thresholds."""
        return replace(self, values=tuple(float(v) for v in parameters["values"]))


def _compare(
    plane: NDArray[np.generic], comparison: str, value: float, out: NDArray[np.uint8]
) -> None:
    """Compare one band with a number in the band's own dtype."""
    function = {
        ">": np.greater,
        ">=": np.greater_equal,
        "<": np.less,
        "<=": np.less_equal,
    }[comparison]
    number: Any = value
    if plane.dtype.kind in "iu":
        # For whole numbers, x > 2.5 is x > 2, and x >= 2.5 is x >= 3.
        number = math.floor(value) if comparison in {">", "<="} else math.ceil(value)
        limits = np.iinfo(plane.dtype.name)
        if not limits.min <= number <= limits.max:
            out[...] = (number < limits.min) == comparison.startswith(">")
            return
    number = plane.dtype.type(number)
    function(plane, number, out=out.view(np.bool_))


def open_spec(spec: str) -> Opened:
    """Return the model that `threshold:…` or `otsu:…` means."""
    method, _, text = spec.partition(":")
    if method == "otsu":
        model: Threshold | MultiOtsu = _otsu(text, spec)
    else:
        model = _threshold(text, spec)

    def load(_options: Options) -> Threshold | MultiOtsu:
        return model

    return Opened(
        spec=spec, card=model.card, content=content_hash(model.card, spec), load=load
    )


def _otsu(text: str, spec: str) -> Otsu | MultiOtsu:
    left, colon, count = text.rpartition(":")
    expression = parse(left if colon else text)
    card = _card(expression, f"otsu:{text.strip()}", ">")
    if not colon or count.strip() == "2":
        return Otsu(card=card, expression=expression, value=None)
    if not count.strip().isdecimal() or not 3 <= int(count) <= 16:
        raise ModelError(f"{spec!r}: the number of classes is 2 … 16")
    levels = class_table(f"level {i + 1}" for i in range(int(count)))
    return MultiOtsu(card=replace(card, classes=levels), expression=expression)


def _threshold(text: str, spec: str) -> Threshold:
    left, comparison, number = _split(text, spec)
    expression = parse(left)
    if number is None and not expression.is_difference:
        raise ModelError(
            f"{spec!r} does not say where to part {left!r}: write "
            f"threshold:{left.strip()}>NUMBER"
        )
    value = 0.0 if number is None else number
    name = f"threshold:{left.strip()}{comparison}{value:g}"
    return Threshold(
        card=_card(expression, name, comparison),
        expression=expression,
        comparison=comparison,
        value=value,
    )


def _split(text: str, spec: str) -> tuple[str, str, float | None]:
    """Return expression, comparison and number of `expr>2`, `expr:2` or `expr`."""
    match = _COMPARISON.match(text)
    if match:
        left, comparison, number = match["left"], match["op"], match["value"]
    elif ":" in text:
        left, _, number = text.rpartition(":")
        comparison = ">"
    else:
        return text, ">", None
    try:
        value = float(number)
    except ValueError as error:
        raise ModelError(f"{number.strip()!r} in {spec!r} is not a number") from error
    if not math.isfinite(value):
        raise ModelError(f"{number.strip()!r} in {spec!r} is not a finite number")
    return left, comparison, value


def _card(expression: Expression, name: str, comparison: str) -> Card:
    holds = _ABOVE.get(expression.text.lower()) if comparison[0] == ">" else None
    if holds:
        one, color, zero = *holds, "other"
    else:
        one, zero = ("above", "below") if comparison[0] == ">" else ("below", "above")
        color = "#0072B2"
    return Card(
        name=name,
        bands=tuple(Band(name=band) for band in expression.bands),
        classes=(
            Class(value=0, name=zero, color=_OTHER),
            Class(value=1, name=one, color=color),
        ),
        output="labels",
        window=512,
        overlap=0,
        multiple=1,
        description=f"{one} where {name.partition(':')[2]}",
        framework={"family": name.partition(":")[0]},
    )
