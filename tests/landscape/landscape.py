"""The generated landscape: land cover, and how a satellite sees it.

`ground` decides for each pixel what grows or stands there and which reflectance it has,
in blue, green, red and near infrared; `observe` adds what lies between the ground and
the file: the sensor's blur, light, haze, clouds and noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from landscape.noise import enlarge, grain, hash2, jit, unit
from landscape.relief import (
    BROOK,
    BROOK_WIDTH,
    CLOUD,
    HEIGHT,
    LAKE,
    LAYERS,
    LIGHT,
    MOIST,
    RIVER,
    SHADOW,
    STEP,
    URBAN,
    WOOD,
    relief,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from landscape.noise import Box, Field

    Place = tuple[float, float, float, NDArray[np.float64]]

WATER, FOREST, FIELD, MEADOW, TOWN, BARE = range(6)

# Reflectance x 10000 in blue, green, red, nir.
_CLEAR = np.array([520, 560, 380, 170], np.float32)
_SILTY = np.array([720, 980, 820, 360], np.float32)
_CONIFER = np.array([230, 380, 260, 2050], np.float32)
_BROADLEAF = np.array([290, 560, 330, 3500], np.float32)
_LUSH = np.array([360, 760, 480, 3700], np.float32)
_DRY = np.array([620, 990, 1050, 2750], np.float32)
_CROPS = np.array(
    [
        [340, 680, 390, 4350],  # winter wheat
        [480, 900, 640, 3500],  # barley, ripening
        [610, 1500, 1180, 4150],  # rapeseed in flower
        [690, 950, 1080, 2350],  # young maize, soil between the rows
        [840, 1120, 1420, 2150],  # bare soil
        [1010, 1420, 1850, 2900],  # stubble
        [560, 730, 860, 1350],  # moist dark soil
    ],
    np.float32,
)
_ROOFS = np.array(
    [
        [760, 980, 1720, 2300],  # tiles
        [620, 760, 1180, 1800],  # old tiles
        [1150, 1230, 1300, 1480],  # slate and concrete
        [2350, 2450, 2550, 2750],  # metal halls
    ],
    np.float32,
)
_ASPHALT = np.array([820, 890, 960, 1180], np.float32)
_GRAVEL = np.array([1380, 1620, 1850, 2250], np.float32)
_ROCK = np.array([960, 1120, 1290, 1720], np.float32)
_HAZE = np.array([3900, 3600, 3400, 3500], np.float32)


_FARM = 170
"""Mean distance in pixels between the centres of farms (and of town quarters)."""


@jit
def _farms(box: Box, seed: int) -> NDArray[np.float64]:
    """Return farms as (row, column, [y, x, cos, sin, depth, length, id])."""
    j0, i0, rows, columns = box
    out = np.empty((rows, columns, 7), np.float64)
    for j in range(rows):
        for i in range(columns):
            bits = hash2(j0 + j, i0 + i, seed + 300)
            more = hash2(j0 + j, i0 + i, seed + 301)
            angle = 6.2831853 * unit(more)
            out[j, i, 0] = (j0 + j + 0.15 + 0.7 * (bits & 0xFFFF) / 65536) * _FARM
            out[j, i, 1] = (i0 + i + 0.15 + 0.7 * (bits >> 16) / 65536) * _FARM
            out[j, i, 2] = np.cos(angle)
            out[j, i, 3] = np.sin(angle)
            out[j, i, 4] = 9.0 + 17.0 * ((more >> 4) & 0xFF) / 256
            out[j, i, 5] = 24.0 + 44.0 * ((more >> 12) & 0xFF) / 256
            out[j, i, 6] = float(hash2(j0 + j, i0 + i, seed + 302))
    return out


@jit
def _nearest(
    y: float, x: float, farms: NDArray[np.float64], j: int, i: int
) -> tuple[int, int, float]:
    """Return the nearest farm and the pixels to the lane that bounds it."""
    best, second, bj, bi = 1e18, 1e18, j, i
    for jj in range(j - 1, j + 2):
        for ii in range(i - 1, i + 2):
            dy, dx = farms[jj, ii, 0] - y, farms[jj, ii, 1] - x
            d = dy * dy + dx * dx
            if d < best:
                best, second, bj, bi = d, best, jj, ii
            elif d < second:
                second = d
    return bj, bi, 0.5 * (np.sqrt(second) - np.sqrt(best))


@jit
def _mix(out: Field, a: Field, b: Field, t: float, factor: float) -> None:
    t = min(max(t, 0.0), 1.0)
    for band in range(4):
        out[band] = (a[band] + t * (b[band] - a[band])) * factor


@jit
def _parcel(
    u: float, v: float, farm: NDArray[np.float64], seed: int
) -> tuple[int, float]:
    """Return the hash of the parcel at farm coordinates, and pixels to its edge."""
    depth, length = farm[4], farm[5]
    row = int(np.floor(v / depth))
    own = int(farm[6])
    shift = unit(hash2(row, own, seed + 310))
    cell = u / length + shift
    column = int(np.floor(cell))
    across, along = v / depth - row, cell - column
    edge = min(min(across, 1.0 - across) * depth, min(along, 1.0 - along) * length)
    return hash2(row * 4096 + column, own, seed + 311), edge


@jit
def _grow(bits: int, v: float, moist: float, fine: float, out: Field) -> int:
    """Paint a parcel by its hash; return its class."""
    kind = bits & 0xFF
    bright = 0.82 + 0.36 * ((bits >> 8) & 0xFF) / 256
    if kind < 48:  # a hay meadow among the fields
        bright = (0.92 + 0.1 * fine) * (0.5 + 0.5 * bright)
        _mix(out, _DRY, _LUSH, 0.75 + 0.25 * moist, bright)
        return MEADOW
    crop = (bits >> 16) % 7
    spacing = 2.3 + 1.7 * ((bits >> 24) & 0xFF) / 256
    furrow = 1.0 + 0.055 * np.sin(6.2831853 * v / spacing)
    patch = 1.0 + 0.07 * moist + 0.05 * fine
    thin = 0.06 + 0.10 * abs(moist)
    _mix(out, _CROPS[crop], _CROPS[4], thin, bright * furrow * patch)
    return FIELD


@jit
def _build(
    place: tuple[float, float, int], dense: float, fine: float, seed: int, out: Field
) -> int:
    """Paint streets, roofs and gardens; all of it is town."""
    u, v, own = place
    street_v, street_u = v / 11.0, u / 15.0
    fv, fu = v - 11.0 * np.floor(street_v), u - 15.0 * np.floor(street_u)
    if fv < 1.3 or fu < 1.3:
        _mix(out, _ASPHALT, _ASPHALT, 0.0, 1.0 + 0.06 * fine)
        return TOWN
    lot = hash2(int(np.floor(v / 2.75)), int(np.floor(u / 3.0)), own ^ (seed + 320))
    if (lot & 0xFF) / 256 < 0.42 + 0.35 * min(dense, 1.0):
        # Big halls stand together, by street block.
        jj, ii = int(np.floor(street_v)), int(np.floor(street_u))
        block = hash2(jj, ii, own ^ (seed + 321))
        kind = 3 if (block & 0xFF) < 16 else (lot >> 8) % 3
        bright = 0.8 + 0.4 * ((lot >> 16) & 0xFF) / 256
        _mix(out, _ROOFS[kind], _ROOFS[kind], 0.0, bright)
    else:
        _mix(out, _LUSH, _BROADLEAF, 0.3 + 0.4 * fine, 0.72)
    return TOWN


@jit
def _wet(f: Field, coarse: float, fine: float) -> float:
    """Return how deep in the water a pixel is, in pixels; below 0 on land."""
    width = 4.4 + 2.6 * min(max(f[MOIST], -1.0), 1.5)
    river = width - abs(f[RIVER]) + 0.5 * coarse
    brook = f[BROOK_WIDTH] - abs(f[BROOK]) + 0.3 * fine
    lake = 26.0 * (f[LAKE] - 1.72) + 0.7 * coarse
    return float(max(river, lake, brook if f[BROOK_WIDTH] > 0.4 else -99.0))


@jit
def _wild(f: Field, grains: tuple[float, float, float], out: Field) -> int:
    """Paint what nobody planned: water, gravel, rock and wood; -1 where none is."""
    coarse, mid, fine = grains
    wet = _wet(f, coarse, fine)
    if wet > 0:
        silt = 0.45 + 0.35 * f[MOIST] - 0.06 * wet
        _mix(out, _CLEAR, _SILTY, silt, 1.0 + 0.04 * fine)
        return WATER
    if (
        wet > -3.6
        and abs(f[RIVER]) < 14.0
        and 0.55 * f[MOIST] + 0.8 * coarse + 0.25 * mid > 0.72
    ):
        _mix(out, _GRAVEL, _DRY, 0.12 + 0.2 * fine, 0.95 + 0.1 * mid)
        return BARE
    crag = 1.6 * f[HEIGHT] + 0.55 * f[MOIST] + 0.14 * coarse + 0.08 * mid
    if crag > 3.35:
        _mix(out, _ROCK, _GRAVEL, 0.4 + 0.5 * mid, 0.92 + 0.22 * fine)
        return BARE
    riparian = wet > -4.0 and coarse + 0.7 * mid > -0.15
    wood = f[WOOD] + 0.22 * coarse + 0.10 * mid
    if (wood > 0.62 or riparian) and f[URBAN] + 0.2 * coarse < 1.4:
        leaf = 0.5 + 0.9 * f[MOIST] - 0.6 * f[HEIGHT] + 0.35 * mid
        _mix(out, _CONIFER, _BROADLEAF, leaf, 0.96 + 0.24 * fine + 0.1 * mid)
        return FOREST
    return -1


@jit
def _tended(
    place: Place, f: Field, grains: tuple[float, float, float], seed: int, out: Field
) -> int:
    """Paint what people made: towns, fields, meadows and the lanes between."""
    coarse, _, fine = grains
    u, v, lane, farm = place
    dense = f[URBAN] + 0.16 * coarse - 1.3
    if dense > 0:
        return _build((u, v, int(farm[6])), 1.6 * dense, fine, seed, out)
    bits, edge = _parcel(u, v, farm, seed)
    pasture = f[HEIGHT] + 0.3 * f[MOIST] + 0.15 * ((bits >> 3) & 0xFF) / 256 > 1.3
    if pasture or abs(f[RIVER]) < 9.0 + 5.0 * coarse:
        _mix(out, _DRY, _LUSH, 0.45 + 0.4 * f[MOIST] + 0.25 * coarse, 0.96 + 0.1 * fine)
        return MEADOW
    if lane < 0.9:  # a farm lane
        _mix(out, _GRAVEL, _DRY, 0.5, 0.9)
        return FIELD
    kind = _grow(bits, v, f[MOIST] + 0.5 * coarse, fine, out)
    if edge < 0.55:  # a grass balk: mixed pixels, still part of the parcel
        for band in range(4):
            out[band] = 0.55 * out[band] + 0.45 * _LUSH[band]
    return kind


@jit
def _locate(y: float, x: float, j0: int, i0: int, farms: NDArray[np.float64]) -> Place:
    """Return where in its farm a point is, and pixels to the lane around the farm."""
    j, i = int(np.floor(y / _FARM)) - j0, int(np.floor(x / _FARM)) - i0
    j, i, lane = _nearest(y, x, farms, j, i)
    farm = farms[j, i]
    dy, dx = y - farm[0], x - farm[1]
    return dx * farm[2] + dy * farm[3], dy * farm[2] - dx * farm[3], lane, farm


@jit
def _forms(box: Box, seed: int) -> Field:
    """Return the broad forms at all pixels of a tile, (y, x, layer) float32."""
    y0, x0, height, width = box
    j0, i0 = y0 // STEP, x0 // STEP
    rows = (y0 + height - 1) // STEP - j0 + 2
    columns = (x0 + width - 1) // STEP - i0 + 2
    nodes = relief((j0, i0, rows, columns), seed)
    out = np.empty((height, width, LAYERS), np.float32)
    for layer in range(LAYERS):
        out[:, :, layer] = enlarge(nodes[layer], STEP, box, False)
    return out


@jit
def ground(box: Box, seed: int) -> tuple[NDArray[np.uint8], Field, Field]:
    """Return land cover, clean reflectance and air of a tile.

    Args:
        box: first row, first column (global), height and width of the tile.
        seed: which landscape.

    Returns:
        Classes (y, x) uint8; reflectance x 10000 (band, y, x) float32 as the ground
        has it under even light; and light, cloud and shadow (3, y, x) float32.
    """
    y0, x0, height, width = box
    forms = _forms(box, seed)
    coarse = grain(box, 19, seed + 400)
    mid = grain(box, 7, seed + 401)
    fine = grain(box, 2, seed + 402)
    j0, i0 = y0 // _FARM - 2, x0 // _FARM - 2
    farms = _farms((j0, i0, height // _FARM + 6, width // _FARM + 6), seed)
    truth = np.empty((height, width), np.uint8)
    clean = np.empty((4, height, width), np.float32)
    air = np.empty((3, height, width), np.float32)
    pixel = np.empty(4, np.float32)
    for j in range(height):
        for i in range(width):
            f, grains = forms[j, i], (coarse[j, i], mid[j, i], fine[j, i])
            kind = _wild(f, grains, pixel)
            if kind < 0:
                # Nobody ploughs along a ruler.
                y = y0 + j + 2.0 * grains[0] + 0.6 * grains[1]
                x = x0 + i + 2.0 * grains[1]
                place = _locate(y, x, j0, i0, farms)
                kind = _tended(place, f, grains, seed, pixel)
            truth[j, i] = kind
            air[0, j, i] = 1.0 if kind == WATER else f[LIGHT]  # water lies flat
            air[1, j, i] = f[CLOUD]
            air[2, j, i] = f[SHADOW]
            for band in range(4):
                clean[band, j, i] = pixel[band]
    return truth, clean, air


@jit
def observe(
    clean: Field, air: Field, y0: int, x0: int, seed: int
) -> NDArray[np.uint16]:
    """Return what the satellite records: blurred, through haze, lit, and noisy.

    Args:
        clean: (4, height + 2, width + 2), one pixel more on every side.
        air: (3, height + 2, width + 2) light, cloud and shadow.
        y0: global row of the first pixel that is returned.
        x0: global column of it.
        seed: which landscape.

    Returns:
        (4, height, width) uint16, 1 … 10000; never 0, which is nodata.
    """
    height, width = clean.shape[1] - 2, clean.shape[2] - 2
    out = np.empty((4, height, width), np.uint16)
    for band in range(4):
        bits_of = seed + 500 + band
        for j in range(height):
            for i in range(width):
                light = air[0, j + 1, i + 1] * (1.0 - 1.1 * air[2, j + 1, i + 1])
                value = _psf(clean[band], j, i) * light
                cloud = air[1, j + 1, i + 1]
                value += cloud * (_HAZE[band] - value)
                bits = hash2(y0 + j, x0 + i, bits_of)
                noise = ((bits & 0xFFFF) + (bits >> 16)) / 65536.0 - 1.0
                value += noise * (28.0 + 0.035 * value)
                out[band, j, i] = np.uint16(min(max(value + 0.5, 1.0), 10000.0))
    return out


@jit
def _psf(band: Field, j: int, i: int) -> float:
    """Blur by the sensor's point spread, 1-2-1 both ways, around (j + 1, i + 1)."""
    edges = band[j, i + 1] + band[j + 1, i] + band[j + 1, i + 2] + band[j + 2, i + 1]
    corners = band[j, i] + band[j, i + 2] + band[j + 2, i] + band[j + 2, i + 2]
    return float(0.25 * band[j + 1, i + 1] + 0.125 * edges + 0.0625 * corners)
