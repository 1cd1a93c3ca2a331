"""Make the scene that `geoseg demo` ships: `python -m landscape.example` in tests/.

A piece of the landscape of one seed that holds all classes, a river, a lake and a town,
with the swath's edge in it. Pixels are rounded to steps a little above their noise, so
that four bands of 1152 x 1280 pixels take less than 1.5 MB.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio

import geoseg.demo
from geoseg.core.grid import Window
from landscape.scene import (
    CLASSES,
    NODATA,
    SEED,
    TRUTH_NODATA,
    Scene,
    describe,
    scene_profile,
    truth_profile,
)

WINDOW = Window(y=1216, x=2432, height=1152, width=1280)
"""Which piece of the landscape."""
_NOISE, _GAIN = 28.0, 0.035
"""Noise of a pixel of reflectance v is `_NOISE + _GAIN * v`, as `observe` has it."""
_STEP = 1.75


def rounded(pixels):
    """Return pixels in steps of 1.75 times their noise, uint16; nodata stays."""
    knee = _NOISE / _GAIN
    steps = np.rint(np.log1p(pixels / knee) / (_GAIN * _STEP))
    values = np.rint(np.expm1(steps * _GAIN * _STEP) * knee)
    return np.where(pixels == NODATA, NODATA, np.maximum(values, 1)).astype(np.uint16)


def example():
    """Return pixels (band, y, x) uint16, truth (y, x) uint8 and the grid."""
    plane = Scene(height=1 << 18, width=1 << 18, seed=SEED)
    pixels, truth = plane.read(WINDOW)
    rows, columns = np.ogrid[: WINDOW.height, : WINDOW.width]
    outside = columns >= WINDOW.width * (0.9 + 0.07 * rows / WINDOW.height)
    pixels[:, outside], truth[outside] = NODATA, TRUTH_NODATA
    return rounded(pixels), truth, plane.grid[WINDOW]


def write(folder):
    """Write `scene.tif` and `truth.tif` into a folder."""
    pixels, truth, grid = example()
    small = {"zlevel": 9, "predictor": 1}
    with (
        rasterio.open(
            folder / "scene.tif", "w", **{**scene_profile(grid, 1), **small}
        ) as image,
        rasterio.open(
            folder / "truth.tif", "w", **{**truth_profile(grid), **small}
        ) as cover,
    ):
        describe(image, cover, SEED)
        image.write(pixels)
        cover.write(truth, 1)
    names = "".join(f"<Category>{c.name}</Category>" for c in CLASSES)
    (folder / "truth.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><CategoryNames>'
        f"{names}</CategoryNames></PAMRasterBand></PAMDataset>\n"
    )


if __name__ == "__main__":
    write(Path(geoseg.demo.__file__).parent)
