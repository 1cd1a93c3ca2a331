"""A scene of the generated landscape, as a value, and as GeoTIFF files."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine

from geoseg.core.classes import Class
from geoseg.core.files import replacing
from geoseg.core.grid import Grid, Window, squares
from geoseg.errors import RasterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BANDS = ("blue", "green", "red", "nir")

CLASSES = tuple(
    Class(value=value, name=name, color=color)
    for value, (name, color) in enumerate(
        [
            ("water", "#0072B2"),
            ("forest", "#006B4E"),
            ("field", "#F0C84B"),
            ("meadow", "#9BD38A"),
            ("town", "#C8467A"),
            ("bare", "#B8AEA6"),
        ]
    )
)

SEED = 2024
"""The landscape of the demo; training saw others."""

NODATA = 0
TRUTH_NODATA = 255

_TILE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What one pass of an invented satellite saw of the landscape named by a seed.

    Blue, green, red and near infrared at 10 m, reflectance x 10000 as uint16, 0 where
    the swath ends. A pixel follows from its place and the seed alone, so any window can
    be had at any time, and all windows fit together.
    """

    height: int
    """Number of rows."""
    width: int
    """Number of columns."""
    seed: int
    """Which landscape."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise RasterError(
                f"a scene of {self.height} x {self.width} pixels has no pixel: "
                "both sides must be at least 1"
            )
        if not 0 <= self.seed < 2**31:
            raise RasterError(f"seed {self.seed} is outside 0 … {2**31 - 1}")

    @property
    def grid(self) -> Grid:
        """Where it is: UTM zone 33 N, 10 m pixels."""
        from pyproj import CRS

        return Grid(
            crs=CRS.from_epsg(32633).to_wkt(),
            transform=Affine(10.0, 0.0, 480_000.0, 0.0, -10.0, 5_460_000.0),
            height=self.height,
            width=self.width,
        )

    def read(self, window: Window) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
        """Return pixels and truth of a window inside the scene.

        Returns:
            (band, y, x) uint16 in the order of `BANDS`, 0 outside the swath; and
            (y, x) uint8 class values, 255 outside the swath.
        """
        from landscape.landscape import ground, observe

        around = window.pad(1)
        box = (around.y, around.x, around.height, around.width)
        # Spread out: fields of the landscape use the seeds next to this one.
        seed = self.seed * 0x9E3779B1 & 0x3FFFFFFF
        truth, clean, air = ground(box, seed)
        pixels = observe(clean, air, window.y, window.x, seed)
        truth = truth[1:-1, 1:-1].copy()
        outside = ~self._seen(window)
        pixels[:, outside] = NODATA
        truth[outside] = TRUTH_NODATA
        return pixels, truth

    def _seen(self, window: Window) -> NDArray[np.bool_]:
        """Return which pixels lie in the swath, whose edge slants across the east."""
        rows = np.arange(window.y, window.bottom)[:, None]
        columns = np.arange(window.x, window.right)[None, :]
        edge = self.width * (0.89 + 0.08 * rows / self.height)
        return np.asarray(columns < edge)

    def tiles(self, side: int = _TILE) -> Iterator[Window]:
        """Yield squares that cover the scene, row by row, cut at its edges."""
        yield from squares(self.grid, side)


def write_scene(
    path: str | os.PathLike[str],
    truth_path: str | os.PathLike[str],
    height: int,
    width: int,
    seed: int,
    *,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scene:
    """Write a scene and its truth as tiled, compressed GeoTIFFs.

    Tile by tile: memory does not grow with the scene. Both files appear under their
    names only when they are whole.

    Args:
        path: scene; 4 bands uint16 with descriptions, nodata 0.
        truth_path: land cover; uint8 with colour table, nodata 255.
        height: rows.
        width: columns.
        seed: which landscape.
        threads: how many tiles are computed at once; None for one per CPU.
        progress: called with tiles done and tiles in all.

    Returns:
        The scene.

    Raises:
        RasterError: where the size is not positive or a file cannot be written.
    """
    import rasterio
    from rasterio.errors import RasterioError
    from rasterio.windows import Window as RioWindow

    scene = Scene(height=height, width=width, seed=seed)
    tiles = list(scene.tiles())
    workers = threads or os.cpu_count() or 1
    try:
        with ExitStack() as stack:
            stack.enter_context(rasterio.Env(GDAL_CACHEMAX=128 * 1024**2))
            image = stack.enter_context(
                _create(path, scene_profile(scene.grid, workers))
            )
            cover = stack.enter_context(_create(truth_path, truth_profile(scene.grid)))
            describe(image, cover, scene.seed)
            computed = _computed(scene, tiles, workers)
            for done, (tile, pixels, truth) in enumerate(computed, start=1):
                where = RioWindow(tile.x, tile.y, tile.width, tile.height)
                image.write(pixels, window=where)
                cover.write(truth, 1, window=where)
                if progress is not None:
                    progress(done, len(tiles))
    except (RasterioError, OSError) as error:
        raise RasterError(f"the scene cannot be written to {path}: {error}") from error
    return scene


def _computed(
    scene: Scene, tiles: list[Window], workers: int
) -> Iterator[tuple[Window, NDArray[np.uint16], NDArray[np.uint8]]]:
    """Yield tiles in order, a few computed ahead in threads."""
    ahead: deque[tuple[Window, Future[tuple[Any, Any]]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for tile in tiles:
                ahead.append((tile, pool.submit(scene.read, tile)))
                if len(ahead) > workers:
                    first, future = ahead.popleft()
                    yield first, *future.result()
            while ahead:
                first, future = ahead.popleft()
                yield first, *future.result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _create(path: str | os.PathLike[str], profile: dict[str, Any]) -> Iterator[Any]:
    """Open a GeoTIFF for writing that gets its name when all went well."""
    import rasterio

    with replacing(path) as part, rasterio.open(part, "w", **profile) as dataset:
        yield dataset


def _profile(grid: Grid) -> dict[str, Any]:
    return {
        "driver": "GTiff",
        "height": grid.height,
        "width": grid.width,
        "crs": grid.crs,
        "transform": grid.transform,
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "compress": "deflate",
        "zlevel": 1,
        "bigtiff": "if_safer",
    }


def scene_profile(grid: Grid, threads: int) -> dict[str, Any]:
    """Return how a scene is written, for rasterio."""
    return _profile(grid) | {
        "count": len(BANDS),
        "dtype": "uint16",
        "nodata": NODATA,
        "predictor": 2,
        "interleave": "band",
        "num_threads": threads,
    }


def truth_profile(grid: Grid) -> dict[str, Any]:
    """Return how land cover is written, for rasterio."""
    return _profile(grid) | {"count": 1, "dtype": "uint8", "nodata": TRUTH_NODATA}


def describe(image: Any, cover: Any, seed: int) -> None:
    """Name bands and classes in the files."""
    from rasterio.enums import ColorInterp as Color

    image.descriptions = BANDS
    image.scales = (1e-4,) * len(BANDS)
    image.colorinterp = (Color.blue, Color.green, Color.red, Color.undefined)
    image.update_tags(SEED=seed, UNITS="reflectance x 10000")
    cover.set_band_description(1, "land cover")
    cover.write_colormap(1, {c.value: (*c.rgb, 255) for c in CLASSES})
    cover.update_tags(**{f"CLASS_{c.value}": c.name for c in CLASSES})
