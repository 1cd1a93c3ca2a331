"""Thresholds on a band, an index or an expression: fixed, or by Otsu's method.

`threshold:ndwi`, `threshold:nir>1200`, `threshold:(nir-red)/(nir+red):0.3`,
`otsu:nir`, `otsu:ndwi`.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from geoseg.core.classes import Class, class_table
from geoseg.core.indices import INDICES
from geoseg.core.text import did_you_mean
from geoseg.errors import ModelError
from geoseg.models.card import OTHER_COLOR, Card
from geoseg.models.classical.expression import Expression, compiled_mask, parse
from geoseg.models.classical.histogram import multi_otsu, otsu, raster_histogram
from geoseg.models.classical.method import (
    ClassicalMethod,
    count_in,
    each_window,
    method_card,
    open_method,
)

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from geoseg.models.identity import OpenedModel
    from geoseg.rasters.open import Source

_COMPARE = {
    ">": np.greater, ">=": np.greater_equal, "<": np.less, "<=": np.less_equal,
}  # fmt: skip
_HOLDS: Mapping[str, Any] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold(ClassicalMethod):
    """Classes parted by numbers: how many `expression comparison value` hold.

    A pixel whose expression is NaN (zero divided by zero) belongs to class 0.
    """

    card: Card
    """One class more than there are numbers."""
    expression: Expression
    """What is compared."""
    comparison: str = ">"
    """`>`, `>=`, `<` or `<=`."""
    values: tuple[float, ...] | None = None
    """With what, ascending; None until it is fitted."""

    learned = ("values",)
    takes_tensors = True

    def labels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (n, y, x) labels of windows on a device."""
        (values,) = self.known()
        plane = self.expression.on_tensors(pixels.unbind(1))
        holds = _HOLDS[self.comparison]
        first, *others = (holds(plane, float(np.float32(v))).byte() for v in values)
        for other in others:
            first = first + other
        return first  # type: ignore[no-any-return]

    def predict(self, pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
        """Return (n, y, x) labels."""
        (values,) = self.known()
        return each_window(pixels, partial(self._label, values))

    def _label(
        self,
        values: Sequence[float],
        item: NDArray[np.generic],
        labels: NDArray[np.uint8],
    ) -> None:
        first, *others = values
        if self.expression.is_band:
            _compare(item[0], self.comparison, first, labels)
        else:
            loop = compiled_mask(self.expression, self.comparison)
            loop(*item.reshape(len(item), -1), np.float32(first), labels.reshape(-1))
        if not others:
            return
        plane = item[0] if self.expression.is_band else self.expression(*item)
        holds = np.empty_like(labels)
        for value in others:
            _compare(plane, self.comparison, value, holds)
            np.add(labels, holds, out=labels)

    def parameters(self) -> dict[str, Any]:
        """Return the numbers."""
        return {"values": list(self.values or ())}

    def with_parameters(self, parameters: Mapping[str, Any]) -> Self:
        """Return the model with those numbers."""
        return replace(self, values=tuple(float(v) for v in parameters["values"]))


class Otsu(Threshold):
    """Thresholds that Otsu's method finds from the whole raster's histogram."""

    __slots__ = ()
    fits = True

    def fit(self, source: Source) -> Self:
        """Return the model with the thresholds of the whole raster."""
        value = None if self.expression.is_band else self.expression
        histogram, classes = raster_histogram(source, value), len(self.card.classes)
        found = [otsu(histogram)] if classes == 2 else multi_otsu(histogram, classes)
        return replace(self, values=tuple(found))


def _compare(
    plane: NDArray[np.generic], comparison: str, value: float, out: NDArray[np.uint8]
) -> None:
    """Compare one band with a number in the band's own dtype."""
    function = _COMPARE[comparison]
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


def open_spec(spec: str) -> OpenedModel:
    """Return the model that `threshold:…` or `otsu:…` means."""
    method, _, text = spec.partition(":")
    read = _otsu if method == "otsu" else _threshold
    return open_method(spec, read(text, spec))


def _otsu(text: str, spec: str) -> Otsu:
    left, colon, count = text.rpartition(":")
    expression = parse(left if colon else text)
    card = _card(expression, f"otsu:{text.strip()}", ">")
    if colon and count.strip() != "2":
        levels = count_in(count, spec, "the number of classes", 2, 16, "otsu:nir:4")
        table = class_table(f"level {i + 1}" for i in range(levels))
        card = replace(card, classes=table)
    return Otsu(card=card, expression=expression)


def _threshold(text: str, spec: str) -> Threshold:
    left, comparison, number = _split(text, spec)
    expression = parse(left)
    if number is None and not expression.is_difference:
        raise ModelError(
            f"{spec!r} gives no threshold of {left!r}: write "
            f"threshold:{left.strip()}>NUMBER{did_you_mean(left.strip(), INDICES)}"
        )
    value = 0.0 if number is None else number
    name = f"threshold:{left.strip()}{comparison}{value:g}"
    return Threshold(
        card=_card(expression, name, comparison),
        expression=expression,
        comparison=comparison,
        values=(value,),
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
    table = (
        Class(value=0, name=zero, color=OTHER_COLOR),
        Class(value=1, name=one, color=color),
    )
    method, _, rule = name.partition(":")
    about = f"{one} where {rule}"
    return method_card(
        name,
        expression.bands,
        table,
        about,
        framework={"family": method},
        # A ratio of stored numbers is another one where these have an offset.
        numbers="reflectance" if expression.is_ratio else "DN",
    )
