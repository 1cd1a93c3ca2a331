"""The broad forms of the generated landscape: valleys, rivers, woods, towns, clouds.

They are computed on a lattice, a node every `STEP` pixels. Valleys are where a smooth
field is zero, and there the rivers run. Tributaries are zero lines of a second field,
another one on either bank, so that they end in the river and none crosses it; and
height grows with the distance from both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from landscape.noise import fbm, jit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from landscape.noise import Box, Field

STEP = 4
"""Pixels between nodes of the lattice."""

# What `relief` returns, by index of the first axis.
RIVER, BROOK, BROOK_WIDTH, HEIGHT, WOOD, URBAN, LAKE, MOIST = range(8)
LIGHT, CLOUD, SHADOW = 8, 9, 10
LAYERS = 11


@jit
def relief(box: Box, seed: int) -> Field:
    """Compute the broad forms at lattice nodes.

    Args:
        box: first row and column, number of rows and columns, in nodes (not pixels).
        seed: which landscape.

    Returns:
        (layer, rows, columns) float32; river and brook layers are signed distances to
        the middle of the stream in pixels.
    """
    y0, x0, rows, columns = box
    # One more node below and to the right, for slopes.
    valley = np.empty((rows + 1, columns + 1), np.float64)
    brook = np.empty((rows + 1, columns + 1), np.float64)
    out = np.empty((LAYERS, rows, columns), np.float32)
    for j in range(rows + 1):
        for i in range(columns + 1):
            y, x = float((y0 + j) * STEP), float((x0 + i) * STEP)
            wy = y + 46.0 * fbm(y, x, 230.0, 3, seed + 100)
            wx = x + 46.0 * fbm(y, x, 230.0, 3, seed + 110)
            valley[j, i] = fbm(wy, wx, 1250.0, 2, seed + 120)
            # Either bank has its own brooks: they end in the river, none crosses it.
            bank = 140 if valley[j, i] > 0 else 150
            brook[j, i] = fbm(wy, wx, 400.0, 2, seed + bank)
            if j < rows and i < columns:
                _cover(y, x, valley[j, i], seed, out[:, j, i])
    _streams(valley, brook, out)
    return out


@jit
def _cover(y: float, x: float, valley: float, seed: int, out: Field) -> None:
    height = abs(valley)
    out[WOOD] = 1.6 * fbm(y, x, 400.0, 5, seed + 200) + 1.1 * min(height, 1.5) - 0.6
    out[URBAN] = 1.7 * fbm(y, x, 330.0, 5, seed + 210) - 2.2 * height
    out[LAKE] = fbm(y, x, 560.0, 5, seed + 220) - 0.3 * height
    out[MOIST] = fbm(y, x, 300.0, 3, seed + 230)
    thin = 0.018 + 0.012 * fbm(y, x, 1700.0, 1, seed + 250)
    out[CLOUD] = thin + _cloud(y, x, seed)
    out[SHADOW] = _cloud(y + 76.0, x - 52.0, seed)


@jit
def _cloud(y: float, x: float, seed: int) -> float:
    return min(max(0.30 * (fbm(y, x, 760.0, 5, seed + 240) - 1.25), 0.0), 0.42)


@jit
def _streams(
    valley: NDArray[np.float64], brook: NDArray[np.float64], out: Field
) -> None:
    """Fill in what needs slopes: distances to streams, height and light."""
    for j in range(out.shape[1]):
        for i in range(out.shape[2]):
            v, b = valley[j, i], brook[j, i]
            vy, vx = (valley[j + 1, i] - v) / STEP, (valley[j, i + 1] - v) / STEP
            by, bx = (brook[j + 1, i] - b) / STEP, (brook[j, i + 1] - b) / STEP
            # Where the field is flat the river widens, like one behind a weir.
            out[RIVER, j, i] = _near(v, vy, vx, 0.0008)
            out[BROOK, j, i] = _near(b, by, bx, 0.004)
            out[BROOK_WIDTH, j, i] = 2.3 - 2.6 * abs(v)
            out[HEIGHT, j, i] = abs(v) + 0.25 * abs(b) * min(2.0 * abs(v), 1.0)
    for j in range(out.shape[1]):
        for i in range(out.shape[2]):
            v, b = valley[j, i], brook[j, i]
            up = abs(valley[j + 1, i]) - abs(v) + 0.2 * (abs(brook[j + 1, i]) - abs(b))
            left = (
                abs(valley[j, i + 1]) - abs(v) + 0.2 * (abs(brook[j, i + 1]) - abs(b))
            )
            shade = 15.0 * (up + left)
            out[LIGHT, j, i] = min(max(1.0 + shade, 0.72), 1.28)


@jit
def _near(value: float, dy: float, dx: float, least: float) -> float:
    distance = value / max(np.sqrt(dy * dy + dx * dx), least)
    return float(min(max(distance, -200.0), 200.0))
