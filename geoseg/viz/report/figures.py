"""Figures of the page as SVG: small, sharp, legible, and with words for who listens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from geoseg.core.text import number, percent
from geoseg.viz.seamcheck import REACH, SeamCheck

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BINS = 50


def histogram(counts: NDArray[np.int64]) -> Markup:
    """Draw how many pixels have which confidence.

    Args:
        counts: (255,) pixels by confidence byte.
    """
    bins = np.minimum(np.arange(255) * _BINS // 254, _BINS - 1)
    shares = np.bincount(bins, counts, minlength=_BINS) / counts.sum()
    top = float(shares.max())
    left, width, height = 54, 390, 120
    step = width / _BINS
    bars = "".join(
        f'<rect x="{left + i * step + 0.5:.1f}" y="{10 + height * (1 - s / top):.1f}" '
        f'width="{step - 1:.1f}" height="{height * s / top:.1f}"/>'
        for i, s in enumerate(shares)
        if s > 0
    )
    marks = "".join(
        f'<text x="{left + width * v:.0f}" y="{height + 30}" text-anchor="middle">'
        f"{v:.0%}</text>"
        for v in (0, 0.25, 0.5, 0.75, 1)
    )
    mean = float(counts @ (np.arange(255) / 254) / counts.sum())
    label = f"Histogram of confidence, mean {percent(mean)}."
    return Markup(  # noqa: S704 - numbers only
        f'<svg viewBox="0 0 {left + width + 24} {height + 54}" role="img" '
        f'aria-label="{label}"><g class="bars">{bars}</g>'
        f'<path class="axis" d="M{left} 10V{height + 10}H{left + width}"/>'
        f'<text x="{left - 6}" y="20" text-anchor="end">{100 * top:.0f} %</text>'
        f'<text x="{left - 6}" y="{height + 10}" text-anchor="end">0</text>{marks}'
        f'<text x="{left + width / 2}" y="{height + 50}" text-anchor="middle">'
        "confidence of the class that won</text></svg>"
    )


def profile(check: SeamCheck) -> Markup:
    """Draw how often the label changes on lines at each distance from a border."""
    rates = np.array(check.profile)
    top = float(rates.max()) or 1.0
    highest = f"{number(100 * top)} %" if rates.any() else ""
    left, width, height = 62, 370, 100
    step = width / len(rates)
    bars = "".join(
        f'<rect class="{"border" if i == REACH else "line"}" '
        f'x="{left + i * step + 1:.1f}" y="{10 + height * (1 - r / top):.1f}" '
        f'width="{step - 2:.1f}" height="{height * r / top:.1f}"/>'
        for i, r in enumerate(rates)
    )
    marks = "".join(
        f'<text x="{left + (i + 0.5) * step:.0f}" y="{height + 28}" '
        f'text-anchor="middle">{name}</text>'
        for i, name in (
            (0, f"{REACH} px before"),
            (REACH, "border"),
            (2 * REACH, f"{REACH} px after"),
        )
    )
    label = (
        f"Label changes near borders of {check.name}: {percent(check.rate)} on them, "
        f"{percent(check.elsewhere)} beside them."
    )
    return Markup(  # noqa: S704 - numbers only, and names of our own
        f'<svg viewBox="0 0 {left + width + 40} {height + 40}" role="img" '
        f'aria-label="{label}">{bars}'
        f'<path class="axis" d="M{left} 10V{height + 10}H{left + width}"/>'
        f'<text x="{left - 6}" y="20" text-anchor="end">{highest}</text>'
        f'<text x="{left - 6}" y="{height + 10}" text-anchor="end">0</text>{marks}'
        "</svg>"
    )
