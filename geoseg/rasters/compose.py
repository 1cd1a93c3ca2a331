"""Images of many dates: `geoseg.compose`, to look at, to keep, or for another tool."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from geoseg._version import __version__
from geoseg.core.files import local, target
from geoseg.core.grid import Window
from geoseg.core.options import keywords
from geoseg.core.series_options import QUALITY, DatesFrom, Resampling
from geoseg.core.text import redact
from geoseg.errors import RasterError
from geoseg.execution.progress import steps
from geoseg.location import without_folders
from geoseg.rasters import images
from geoseg.rasters.images import NOTHING, STEP, ImageBand, as_int16
from geoseg.rasters.kept_items import BEFORE
from geoseg.rasters.open_scenes import open_asked
from geoseg.rasters.options import ComposeOptions
from geoseg.rasters.series import unique_layers
from geoseg.rasters.time import Series

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

_CHUNK = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What `compose` has written."""

    path: Path
    cut: int
    """How many values int16 could not hold."""

    @property
    def told(self) -> str:
        """What to say of those."""
        return f"{self.cut:,} values beyond 3.2767 are cut to that: see --dtype"


def series_of(source: Any, options: ComposeOptions) -> Series:  # noqa: ANN401 - as `compose`
    """Return the scenes that are asked for; listed beside `out`, if there is any.

    Raises:
        GeosegError: There are none, they do not go together, or the image cannot be
            written where it is to be.
    """
    out = None if options.out is None else _target(options)
    series = open_asked(
        source,
        options,
        bands=options.bands,
        aoi=options.aoi,
        nodata=options.nodata,
        trust=tuple(options.trust or ()),
        pixel=options.resolution,
        quality=options.quality,
        beside=out,
        overwrite=options.overwrite,
    )
    if out is not None:
        _check_apart(out, source, series, options)
    return series


def write(
    series: Series, options: ComposeOptions, progress: Callable[[int, int], None]
) -> Made:
    """Write a series as `options.out`.

    Raises:
        GeosegError: It cannot be written there.
    """
    out = _target(options)
    if out.suffix.lower() == ".zarr":
        template, fill = _as_dataset(series, options.dtype)
        cut = images.write_zarr(series, out, template, fill, progress)
        return Made(path=out, cut=cut)
    cut = images.write_tif(
        series,
        out,
        [_band(series, i, options.dtype) for i in range(len(series.bands))],
        options.dtype,
        tags_of(series),
        progress,
    )
    return Made(path=out, cut=cut)


def _target(options: ComposeOptions) -> Path:
    """Return where the image is written; say before the work what is in the way."""
    if options.out is None:
        raise RasterError("--out is missing: name a .tif or .zarr to write")
    out = local(options.out, RasterError)
    if out.suffix.lower() != ".zarr":
        endings = (".tif", ".tiff", ".zarr")
        over = options.overwrite
        return target(out, endings, overwrite=over, error=RasterError)
    if not out.parent.is_dir():
        raise RasterError(f"the folder {out.parent} does not exist: create it first")
    if out.exists() and not options.overwrite:
        raise RasterError(f"{out} exists: use --overwrite, or another --out")
    return out


def _check_apart(
    out: Path,
    source: Any,  # noqa: ANN401 - as `compose`
    series: Series,
    options: ComposeOptions,
) -> None:
    """Raise where the image would lie on or in what it is made of."""
    named = source if isinstance(source, list | tuple) else [source]
    told = [s for s in (*named, options.like, options.aoi) if _is_path(s)]
    whole = out.resolve()
    for other in (*told, *(layer.href for layer in unique_layers(series.scenes))):
        if Path(other).resolve() in {whole, *whole.parents} and Path(other).exists():
            raise RasterError(
                f"the output {out} lies on or inside the input "
                f"{redact(os.fspath(other))}: choose another --out"
            )


def _is_path(value: object) -> bool:
    return isinstance(value, str | os.PathLike)


# --- bands and tags ---


def _band(series: Series, at: int, dtype: str) -> ImageBand:
    band = series.bands[at]
    told = band.name in QUALITY and at >= series.depth * len(series.steps)
    tags = {} if band.step is None else {"step": band.step}
    if band.common_name is not None:
        tags["common_name"] = band.common_name
    name = band.name if band.step is None else f"{band.step} {band.name}"
    unit = "reflectance" if band.is_reflectance else None
    if told:
        unit = {"first": "days since 1970-01-01", "last": "days since 1970-01-01"}.get(
            band.name
        )
    scaled = dtype == "int16" and (not told or band.name == "clouds")
    return ImageBand(name=name, unit=unit, scale=STEP if scaled else 1.0, tags=tags)


def tags_of(series: Series) -> dict[str, str]:
    """Return what a product says of itself: what it was made of, and how."""
    # A product is the same bytes whether its list was there or not.
    told_now = [note for note in series.notes if not note.endswith(BEFORE)]
    notes = [without_folders(note) for note in told_now]
    scenes, overpasses = series.used
    moments = [o.moment for o in overpasses]
    told = {
        "TIFFTAG_SOFTWARE": f"geoseg {__version__}",
        "GEOSEG_REDUCE": series.rule,
        "GEOSEG_SCENES": str(len(scenes)),
        "GEOSEG_OBSERVATIONS": str(len(overpasses)),
        "GEOSEG_FIRST": min(moments).isoformat(),
        "GEOSEG_LAST": max(moments).isoformat(),
        "GEOSEG_NOTES": json.dumps(notes),
    }
    missing = [n.removeprefix("missing: ") for n in notes if n.startswith("missing: ")]
    return told | ({"GEOSEG_MISSING": json.dumps(missing)} if missing else {})


# --- xarray ---


def as_array(series: Series) -> xr.DataArray:
    """Return a series as a lazy array (band, y, x), or (time, band, y, x) of steps."""
    import dask.array as da
    import xarray as xr

    grid, side = series.grid, min(series.cell, _CHUNK)
    heights = _cut(grid.height, side)
    widths = _cut(grid.width, side)
    count = len(series.bands)

    def block(block_info: Any = None) -> NDArray[np.float32]:  # noqa: ANN401 - dask's
        (_, _), (y, bottom), (x, right) = block_info[None]["array-location"]
        window = Window.spanning(int(y), int(bottom), int(x), int(right))
        return np.asarray(series.read(window)[0], np.float32)

    data = da.map_blocks(
        block,
        chunks=((count,), heights, widths),
        dtype=np.float32,
        meta=np.empty((0, 0, 0), np.float32),
        name=f"geoseg-compose-{series.facts['digest'][:16]}-{id(series)}",
    )
    dims: tuple[str, ...] = ("band", "y", "x")
    names = [band.name for band in series.bands]
    coordinates: dict[str, Any] = {}
    if series.steps[0].label is not None:
        made = series.depth * len(series.steps)
        data = data[:made].reshape(
            (len(series.steps), series.depth, grid.height, grid.width)
        )
        names = names[: series.depth]
        dims = ("time", *dims)
        labels = [np.datetime64(str(step.label), "ns") for step in series.steps]
        coordinates["time"] = ("time", np.array(labels))
    found = xr.DataArray(
        data,
        dims=dims,
        coords={
            **coordinates,
            "band": ("band", names),
            "y": ("y", grid.y_centres()),
            "x": ("x", grid.x_centres()),
        },
        name="composite",
        attrs={k.lower(): v for k, v in tags_of(series).items() if "TIFF" not in k},
    )
    return _placed(found, series)


def _placed(found: xr.DataArray, series: Series) -> xr.DataArray:
    import rioxarray  # noqa: F401 - gives arrays their .rio

    placed: xr.DataArray = found.rio.write_transform(series.grid.transform)
    if series.grid.crs is not None:
        placed = placed.rio.write_crs(series.grid.crs)
    return placed


def _cut(length: int, side: int) -> tuple[int, ...]:
    return tuple(min(side, length - at) for at in range(0, length, side))


def _as_dataset(
    series: Series, dtype: Literal["float32", "int16"]
) -> tuple[xr.Dataset, Callable[[Any, NDArray[np.float32]], tuple[Any, int]]]:
    """Return an empty dataset of all of a series, and what fills a part of it.

    The latter tells, too, how many values int16 could not hold.
    """
    import dask.array as da
    import xarray as xr

    grid, made = series.grid, series.depth * len(series.steps)
    told = [b.name for b in series.bands[made:]]
    whole = as_array(series.select(range(made)))
    shape = whole.shape[:-2]
    sides = tuple(min(_CHUNK, n) for n in (grid.height, grid.width))
    blank = da.zeros(
        whole.shape, chunks=(*([1] * len(shape)), *sides), dtype=np.float32
    )
    dataset = whole.copy(data=blank).to_dataset()
    flat = da.zeros((grid.height, grid.width), chunks=sides, dtype=np.float32)
    for name in told:
        dataset[name] = xr.DataArray(flat, dims=("y", "x"))
    stored: dict[str, Any] = {"dtype": "float32", "_FillValue": np.float32(np.nan)}
    if dtype == "int16":
        stored = {"dtype": "int16", "_FillValue": NOTHING, "scale_factor": STEP}
    plain = {"dtype": "float32", "_FillValue": np.float32(np.nan)}
    for name in ("composite", *told):
        how = stored if name == "composite" else plain
        # As coordinates of each, so that they are found however it is opened.
        dataset[name].encoding = {**how, "coordinates": "spatial_ref"}
        dataset[name].attrs["grid_mapping"] = "spatial_ref"

    bands = [_band(series, i, dtype) for i in range(made)]

    def fill(part: Any, pixels: NDArray[np.float32]) -> tuple[Any, int]:  # noqa: ANN401 - xarray's
        part = part.drop_vars([v for v in part.variables if v not in part.data_vars])
        values: NDArray[Any] = pixels[:made]
        cut = 0
        if dtype == "int16":  # xarray would round in float32, unlike the GeoTIFF
            stored, cut = as_int16(values, bands)
            values = np.where(stored == NOTHING, np.nan, stored * STEP)
        values = values.reshape((*shape, *pixels.shape[1:]))
        part = part.assign(composite=part["composite"].copy(data=values))
        for i, name in enumerate(told):
            part[name] = part[name].copy(data=pixels[made + i])
        return part, cut

    return dataset, fill


# --- the public function ---


def _compose(
    source: Any,  # noqa: ANN401 - as `compose`
    options: ComposeOptions,
    progress: Callable[[int, int], None] | bool | None,
) -> xr.DataArray:
    """Make an image of many dates; see `compose`."""
    series = series_of(source, options)
    for note in series.notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    if options.out is not None:
        with _shown(progress) as show:
            made = write(series, options, show)
        if made.cut:
            warnings.warn(made.told, UserWarning, stacklevel=2)
    return as_array(series)


@contextmanager
def _shown(
    progress: Callable[[int, int], None] | bool | None,
) -> Iterator[Callable[[int, int], None]]:
    if callable(progress):
        yield progress
        return
    with steps("composing", quiet=progress is False) as show:
        yield show


@keywords(ComposeOptions, _compose)
def compose(
    source: Any,  # noqa: ANN401 - whatever tells scenes
    *,
    dates: str | Sequence[Any] | None = None,
    cloud: float | None = None,
    aoi: str | os.PathLike[str] | None = None,
    bands: Sequence[str] | None = None,
    reduce: str | None = None,
    every: str | None = None,
    mask: Sequence[str] | None = None,
    mask_buffer: float = 0.0,
    like: str | os.PathLike[str] | None = None,
    crs: str | None = None,
    resolution: float | None = None,
    resampling: Resampling = "auto",
    nodata: float | None = None,
    quality: bool = False,
    skip_missing: bool = False,
    endpoint: str | None = None,
    dates_from: DatesFrom = "items",
    trust: Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    dtype: Literal["float32", "int16"] = "float32",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | bool | None = None,
) -> xr.DataArray:
    """Make one image, or one per step in time, of scenes of many dates.

    Args:
        source: A collection of an archive (`sentinel-2-l2a`), a file or GeoParquet of
            STAC items, the URL of an API or static catalogue, items themselves, or
            scenes with dates in their names.
        dates: A year, month or day, or two of them, both ends in, in UTC: `2025`,
            `2025-05/2025-09`, or a pair.
        cloud: Most clouds of a scene, in percent; scenes that do not tell are taken.
        aoi: Vector file; outside of its polygons is nodata.
        bands: Names of bands, common ones (`red`) or the sensor's (`B04`); default all.
        reduce: How dates become one pixel: `median` (default), `medoid`, `mean`,
            `first`, `best` (of the least clouds), `best:ndvi`, `percentile:25`.
        every: Keep steps in time, each reduced on its own: `date`, `day`, `week`,
            `month`, `year`, `10 days`; a step without a scene is nodata.
        mask: What is masked by the scenes' quality band, or `["none"]`; default
            clouds, shadows, cirrus, and what is beside them.
        mask_buffer: Metres around what is masked that are masked too.
        like: Raster whose grid is used.
        crs: Coordinate reference system; default the area's UTM zone, without an area
            the scenes' own.
        resolution: Pixel size in metres; default the finest band's.
        resampling: How scenes come onto other pixels: `auto`, `nearest`, `bilinear`.
        nodata: A pixel value that is nodata, whatever items and files say.
        quality: Tell of each pixel how often it was seen, the share of clouds, and the
            first and last date.
        skip_missing: Go on without files that cannot be had.
        endpoint: Archive that is searched.
        dates_from: Where scenes have their dates: in `items`, or in `names` of files.
        trust: What VRTs among the files may name beside their own folder and host.
        out: The image to write: a cloud-optimised GeoTIFF (`.tif`), or `.zarr`.
        dtype: What is written: `float32`, or `int16` (reflectance x 10 000).
        overwrite: Replace what is there.
        progress: False is quiet, True and None show a bar on a terminal or notebook; or
            a function that is told how many of how many blocks are done.

    Returns:
        float32 reflectance, NaN where nothing was seen; lazy: (band, y, x), or
        (time, band, y, x) where steps are kept. Computed in parts of bounded memory.

    Raises:
        GeosegError: Scenes, arguments or output are not right.
        SceneMissingError: A file of a scene cannot be had.
    """
    raise NotImplementedError  # `_compose` is what runs
