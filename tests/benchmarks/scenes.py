"""Rasters of any size for benchmarks, made of one piece again and again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio

if TYPE_CHECKING:
    from numpy.typing import NDArray

BANDS = ("blue", "green", "red", "nir")


def write_repeated(
    path: Path,
    piece: NDArray[Any],
    side: int,
    compress: str = "none",
    names: Sequence[str] = BANDS,
) -> None:
    """Write a tiled GeoTIFF of `side` px by repeating a square piece (band, y, x)."""
    count, step, _ = piece.shape
    packed = {} if compress == "none" else {"compress": compress, "predictor": 2}
    profile = {
        "driver": "GTiff",
        "count": count,
        "height": side,
        "width": side,
        "dtype": piece.dtype,
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "crs": "EPSG:32633",
        "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6),
        "num_threads": "all_cpus",
        "bigtiff": "if_safer",
        **packed,
    }
    with rasterio.open(path, "w", **profile) as file:
        if count == len(names):
            file.descriptions = names
        for y in range(0, side, step):
            row = np.tile(piece, (1, 1, -(-side // step)))[:, : side - y, :side]
            file.write(row, window=rasterio.windows.Window(0, y, side, row.shape[1]))
