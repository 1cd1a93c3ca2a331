"""Random fields over an endless plane: every value follows from its place and a seed.

Nothing here remembers anything: a tile computed alone equals the same tile cut out of
a larger one, to the last bit, which is what lets a scene of any size be written tile
by tile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Field = NDArray[np.float32]
    Box = tuple[int, int, int, int]

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """Compile a function for threads, with arithmetic that never reorders."""
    compiled: F = njit(nogil=True, cache=True, error_model="numpy")(function)
    return compiled


@jit
def hash2(y: int, x: int, seed: int) -> int:
    """Mix two integers and a seed into 32 bits (Wellons' `lowbias32` finaliser)."""
    h = np.uint32(
        np.uint32(y) * np.uint32(0x9E3779B1)
        ^ np.uint32(x) * np.uint32(0x85EBCA77)
        ^ np.uint32(seed) * np.uint32(0xC2B2AE3D)
    )
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D))
    h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B))
    return int(h ^ (h >> np.uint32(16)))


@jit
def unit(bits: int) -> np.float32:
    """Return 0 … 1 from the upper 24 of 32 bits."""
    return np.float32(bits >> np.uint32(8)) * np.float32(1 / 16777216)


@jit
def _bspline(t: float) -> tuple[float, float, float, float]:
    s = 1.0 - t
    return (
        s * s * s / 6.0,
        (3.0 * t * t * t - 6.0 * t * t + 4.0) / 6.0,
        (3.0 * s * s * s - 6.0 * s * s + 4.0) / 6.0,
        t * t * t / 6.0,
    )


@jit
def smooth(y: float, x: float, seed: int) -> float:
    """Return noise with features of about one unit, mean 0, deviation about 1.

    Random lattice values under a cubic B-spline: twice differentiable, so that its
    level lines are smooth curves (rivers, coasts).
    """
    iy, ix = int(np.floor(y)), int(np.floor(x))
    wy, wx = _bspline(y - iy), _bspline(x - ix)
    total = 0.0
    for j in range(4):
        row = 0.0
        for i in range(4):
            row += wx[i] * (float(unit(hash2(iy + j, ix + i, seed))) - 0.5)
        total += wy[j] * row
    return total * 7.2


@jit
def fbm(y: float, x: float, period: float, octaves: int, seed: int) -> float:
    """Return fractal noise: octaves of `smooth`, each half as high and half as wide."""
    total, norm, gain, frequency = 0.0, 0.0, 1.0, 1.0 / period
    for octave in range(octaves):
        # An offset per octave, so that the lattices do not share their nodes.
        shift = 0.37 * octave
        at_y, at_x = y * frequency + shift, x * frequency + shift
        total += gain * smooth(at_y, at_x, seed + octave)
        norm += gain * gain
        gain *= 0.5
        frequency *= 2.0
    return float(total / np.sqrt(norm))


@jit
def enlarge(lattice: Field, step: int, box: Box, ease: bool) -> Field:
    """Interpolate a lattice, one node every `step` pixels, to all pixels of a tile.

    Args:
        lattice: (rows, columns) values; its first node is the one at or before (y0, x0)
            of the nodes at multiples of `step`.
        step: pixels between nodes.
        box: first row, first column (global), height and width of the tile.
        ease: bend the weights so that nodes do not show as creases (for noise).

    Returns:
        (height, width) float32.
    """
    y0, x0, height, width = box
    out = np.empty((height, width), np.float32)
    column = np.empty(width, np.int64)
    weight = np.empty(width, np.float32)
    first = x0 // step
    for x in range(width):
        column[x] = (x0 + x) // step - first
        weight[x] = _ease(np.float32((x0 + x) % step) / np.float32(step), ease)
    row = np.empty(lattice.shape[1], np.float32)
    for y in range(height):
        j = (y0 + y) // step - y0 // step
        t = _ease(np.float32((y0 + y) % step) / np.float32(step), ease)
        for i in range(row.size):
            row[i] = lattice[j, i] + t * (lattice[j + 1, i] - lattice[j, i])
        for x in range(width):
            i = column[x]
            out[y, x] = row[i] + weight[x] * (row[i + 1] - row[i])
    return out


@jit
def _ease(t: np.float32, ease: bool) -> np.float32:
    if ease:
        return t * t * (np.float32(3.0) - np.float32(2.0) * t)
    return t


@jit
def grain(box: Box, step: int, seed: int) -> Field:
    """Return fine noise with features of `step` pixels, (height, width), -1 … 1."""
    y0, x0, height, width = box
    rows = (y0 + height - 1) // step - y0 // step + 2
    columns = (x0 + width - 1) // step - x0 // step + 2
    lattice = np.empty((rows, columns), np.float32)
    for j in range(rows):
        for i in range(columns):
            bits = hash2(y0 // step + j, x0 // step + i, seed)
            lattice[j, i] = np.float32(2.0) * unit(bits) - np.float32(1.0)
    return enlarge(lattice, step, box, True)
