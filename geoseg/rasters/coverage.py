"""Which pixels of a mosaic have a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from numpy.typing import NDArray

    from geoseg.core.grid import Grid

    Coverage = tuple[NDArray[np.float64], ...]
    """For each band (file, 4) first and last row and column edge, in pixels."""
    SourceKey = tuple[str, str | None]

# Rectangles of a mosaic that are told apart; of more, gaps count as what GDAL reads.
_MOST_RECTANGLES: Final = 1_000_000


def covered(
    root: Element, inside: Mapping[SourceKey, Coverage | None]
) -> Coverage | None:
    """Return, band by band, which pixels of a VRT have a file; None where all have.

    GDAL reads 0 where none is and calls it valid; a VRT with nodata reads that.

    Args:
        root: The VRT's XML.
        inside: The same of what it names, by name and whether that is relative to it.
    """
    if root.get("subClass"):  # warped: GDAL knows itself
        return None
    try:
        size = float(root.get("rasterYSize", 0)), float(root.get("rasterXSize", 0))
        bands = [_rectangles(band, inside) for band in root.findall("VRTRasterBand")]
    except (TypeError, ValueError):
        return None  # GDAL will say what is wrong with it
    if not bands or all(_is_whole(rectangles, size) for rectangles in bands):
        return None
    return tuple(bands)


def covered_by(
    footprints: NDArray[np.float64], grid: Grid, bands: int
) -> Coverage | None:
    """Return what of a tile index has files, band by band; None where all has.

    Args:
        footprints: (file, 4) left, bottom, right and top, in map coordinates.
        grid: Where its pixels are.
        bands: How many it has.
    """
    if not grid.is_rectilinear:
        return None
    x, y = footprints[:, ::2], footprints[:, 1::2]
    t = ~grid.transform
    columns = np.sort(t.a * x + t.c, axis=1)
    rows = np.sort(t.e * y + t.f, axis=1)
    rectangles = np.concatenate([rows, columns], axis=1)
    whole = _is_whole(rectangles, (float(grid.height), float(grid.width)))
    return None if whole else (rectangles,) * bands


def _rectangles(
    band: Element, inside: Mapping[SourceKey, Coverage | None]
) -> NDArray[np.float64]:
    found: list[NDArray[np.float64]] = []
    everything = np.array([[-np.inf, np.inf, -np.inf, np.inf]])
    for source in band:
        name = source.find("SourceFilename")
        if not source.tag.endswith("Source") or name is None:
            continue
        there, here = _edges(source.find("DstRect")), _edges(source.find("SrcRect"))
        if there is None:
            return everything
        key = (name.text or "").strip(), name.get("relativeToVRT")
        whole = inside.get(key)
        number = int(source.findtext("SourceBand", "1").removeprefix("mask,"))
        if whole is None or here is None or not 0 < number <= len(whole):
            found.append(there[None])
        else:
            found.append(_moved(whole[number - 1], here, there))
        if not np.isfinite(found[-1]).all() or sum(map(len, found)) > _MOST_RECTANGLES:
            return everything
    return np.concatenate(found) if found else np.zeros((0, 4))


def _moved(
    rectangles: NDArray[np.float64], here: NDArray[Any], there: NDArray[Any]
) -> NDArray[np.float64]:
    """Return rectangles of a source's pixels as they lie in the VRT's."""
    out = rectangles.copy()
    for low in (0, 2):
        size = float(here[low + 1] - here[low])
        scale = (there[low + 1] - there[low]) / size if size else np.nan
        edges = (rectangles[:, low : low + 2] - here[low]) * scale + there[low]
        out[:, low : low + 2] = edges.clip(there[low], there[low + 1])
    return out


def _edges(rectangle: Element | None) -> NDArray[np.float64] | None:
    """Return first and last row and column edge."""
    if rectangle is None:
        return None
    x, y, width, height = (
        float(rectangle.get(key, 0)) for key in ("xOff", "yOff", "xSize", "ySize")
    )
    return np.array([y, y + height, x, x + width])


def _is_whole(rectangles: NDArray[np.float64], size: tuple[float, float]) -> bool:
    """Whether one rectangle covers everything, the usual case of a stack."""
    y, bottom, x, right = rectangles.T
    whole = (y <= 0.5) & (x <= 0.5) & (bottom >= size[0] - 0.5)
    return bool((whole & (right >= size[1] - 0.5)).any())
