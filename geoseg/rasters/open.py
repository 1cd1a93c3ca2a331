"""Sources: where pixels come from. The entry point to everything that opens rasters."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from geoseg.core.discretion import discreet
from geoseg.core.raster_options import NodataRule, Units
from geoseg.core.series_options import SeriesOptions
from geoseg.core.text import redact
from geoseg.errors import RasterError
from geoseg.rasters.addresses import is_collection
from geoseg.rasters.aoi import clipped
from geoseg.rasters.array import ArraySource, open_array, open_zarr
from geoseg.rasters.bands import choose, match_bands, without_quality
from geoseg.rasters.file import FileHints, RasterFile, open_raster
from geoseg.rasters.gcps import on_control_points
from geoseg.rasters.mosaic import Joined, dated_stack, in_order, mosaic
from geoseg.rasters.nodata import alpha_doubt, suspected, with_nodata
from geoseg.rasters.numbers import (
    alike,
    as_reflectance,
    formula,
    in_numbers,
    numbers_of,
)
from geoseg.rasters.product_files import product_of
from geoseg.rasters.resample import at_resolution, resampled
from geoseg.rasters.several import files_meant, open_several
from geoseg.rasters.source import Derived, Source, SourceBand, noted, steps_of
from geoseg.rasters.stac import items_of, open_items, read_items
from geoseg.rasters.time_steps import WantedBand, iso_day, matched_in_time
from geoseg.rasters.zarrs import is_zarr, only_gdal_reads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from geoseg.core.times import Times

__all__ = [
    "Source",
    "SourceBand",
    "at_resolution",
    "for_model",
    "for_training",
    "match_bands",
    "open_source",
    "redact",
    "resampled",
    "with_nodata",
]


_SERVICE: Final = re.compile(
    r"^(?:WMS|WMTS|WCS|TMS|XYZ|OGCAPI|IIP):|[?&]service=w(?:ms|mts|cs)\b|\{z\}",
    re.IGNORECASE,
)


@discreet
def open_source(
    source: Any,  # noqa: ANN401 - whatever pixels can come from
    *,
    bands: Sequence[str] | None = None,
    aoi: str | os.PathLike[str] | None = None,
    nodata: float | None = None,
    nodata_rule: NodataRule = "auto",
    units: Units = "file",
    trust: Sequence[str] = (),
    series: SeriesOptions | None = None,
    beside: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    pixel: float | None = None,
) -> Source:
    """Return the source of pixels that `source` stands for.

    Args:
        source: A path or URL that GDAL can open (also `/vsis3/…`, `s3://…`, a VRT, a
            GTI tile index); a Zarr that xarray can; a product's folder, archive or
            metadata file; a glob, a folder or a list of paths: a mosaic, or a stack of
            bands where single-band files are named like bands; STAC items as JSON's
            path or URL, as dicts or pystac's; an xarray.DataArray or Dataset, or a list
            of those of a date each; a mapping of dates to any of all these; or a
            Source.
        bands: 1-based numbers of the bands to use, in the model's order; or a name for
            each band; or the names of those to use; or `name=number` for some. A number
            or name also means an alpha band, which otherwise is no band but tells which
            pixels are valid.
        aoi: Vector file with polygons, in any CRS. The grid is cropped to the pixels
            around them, and those whose centre lies outside are invalid.
        nodata: Pixel value that means nodata, whatever the raster itself says of it.
        nodata_rule: `any`: a pixel is nodata where any band that is read is; `all`:
            where all bands of the file are; `auto`: `all` for pictures (bytes, with
            red, green and blue), `any` for all others.
        units: `file`: the numbers as they are stored; `reflectance`: as the file, the
            product or the item says that they become reflectance.
        trust: Folders, files and hosts that may be read where a VRT, a tile index or an
            item names them; below its own folder and on its own host all may.
        series: How scenes of many dates are reduced; also where `source` is a
            collection of an archive (`stac:sentinel-2-l2a`).
        beside: What is made of them, where they are listed.
        overwrite: Whether what lies there of another question gives way.
        pixel: Size in metres of the pixels that scenes of many dates are put on, where
            no grid is given; default the finest band's.

    A pixel is invalid too where any band is NaN, infinite or masked out, where its
    alpha is 0, and where no file of a VRT lies. A raster without CRS is allowed, with a
    UserWarning. What was guessed, heard or left out stands in the source's `notes`.

    Raises:
        RasterError: It cannot be opened, or is nothing that can be segmented.
    """
    if series is not None or is_collection(source):
        from geoseg.rasters.open_scenes import open_asked

        return open_asked(
            source,
            series or SeriesOptions(),
            bands=bands,
            aoi=aoi,
            nodata=nodata,
            trust=trust,
            pixel=pixel,
            beside=beside,
            overwrite=overwrite,
        )
    told = FileHints(nodata=nodata, rule=nodata_rule, wanted=bands, trust=tuple(trust))
    opened = _opened(source, told)
    if bands is not None:
        opened = choose(opened, bands)
    opened = without_quality(opened, bands)
    if units == "reflectance":
        opened = _in_reflectance(opened)
    if aoi is not None:
        opened = clipped(opened, aoi)
    if opened.grid.crs is None:
        warnings.warn(
            f"{opened.name} has no coordinate reference system; what is made of it "
            "will have none either",
            UserWarning,
            stacklevel=2,
        )
    return opened


def _in_reflectance(source: Source) -> Source:
    changed = as_reflectance(source)
    if changed is not source:
        return noted(changed, f"{source.name}: {formula(source.bands)}")
    return noted(
        source,
        f"{source.name} does not say how its numbers become reflectance: --units "
        "reflectance changes nothing",
    )


def _opened(
    source: Any,  # noqa: ANN401 - whatever pixels can come from
    told: FileHints,
) -> Source:
    if isinstance(source, Source):
        return source
    if isinstance(source, str | os.PathLike):
        return _open_path(os.fspath(source), told)
    if type(source).__module__.partition(".")[0] == "xarray":
        return open_array(source, nodata=told.nodata)
    if (dated := _dated(source)) is not None:
        return dated_stack([(step, _opened(one, told)) for step, one in dated])
    items = items_of(source)
    if items is not None:
        return open_items(items, told=told)
    if isinstance(source, list | tuple) and source:
        return _open_paths([os.fspath(path) for path in source], told)
    raise RasterError(
        f"a raster is a path, a URL, a list of paths, STAC items, an xarray.DataArray "
        f"or a Source; got {type(source).__name__}"
    )


def _dated(source: Any) -> list[tuple[str | None, Any]] | None:  # noqa: ANN401
    """Return rasters and their dates; None where they have none.

    Args:
        source: A mapping of dates to rasters; or a list of arrays of xarray, which
            know theirs.
    """
    if isinstance(source, list | tuple) and source:
        arrays = all(type(s).__module__.partition(".")[0] == "xarray" for s in source)
        return [(None, one) for one in source] if arrays else None
    if not isinstance(source, Mapping) or not source or "type" in source:
        return None
    return [(iso_day(step, "a raster of a date"), one) for step, one in source.items()]


def _open_paths(paths: Sequence[str], told: FileHints) -> Source:
    """Return a list of files, products or items as one source."""
    name = f"{len(paths)} rasters from {redact(paths[0])}"
    if any(_is_json(path) or product_of(path) for path in paths):
        return mosaic([_open_path(path, told) for path in paths], name)
    return open_several(paths, name=name, told=told)


def _open_path(path: str, told: FileHints) -> Source:
    if not path:
        raise RasterError("the path of the raster is empty")
    if _is_service(path):
        raise RasterError(
            f"{redact(path)} is a map service: its pictures are made for screens, at "
            "any size and in any colours, and are not segmented; where it holds "
            "measurements, save the area as a file first: gdal_translate -projwin "
            "LEFT TOP RIGHT BOTTOM -tr SIZE SIZE SERVICE area.tif"
        )
    if _is_json(path):
        return open_items(read_items(path, told.trust), told=told)
    if is_zarr(path) and not only_gdal_reads(path):
        return open_zarr(path, nodata=told.nodata)
    files = files_meant(path)
    if files is None:
        opened = open_raster(path, told)
        return on_control_points(opened, opened.control)
    if any(map(product_of, files)):  # such as `*.SAFE`
        return _open_paths(files, told)
    return open_several(files, name=redact(path), told=told)


def _is_service(path: str) -> bool:
    """Whether a path is the address of a WMS, WMTS, WCS or of tiles, or its file."""
    if _SERVICE.search(path):
        return True
    file = Path(path)
    if file.suffix.lower() != ".xml" or not file.is_file():
        return False
    with file.open("rb") as opened:
        return b"<GDAL_WM" in opened.read(256)


def _is_json(path: str) -> bool:
    name = path.split("?", maxsplit=1)[0].lower()
    return name.endswith((".json", ".geojson")) and "_mtl." not in name


class WantedInput(Protocol):
    """What a model wants of a raster; its card says."""

    @property
    def bands(self) -> Sequence[WantedBand]:
        """What it reads, in its order; those of each step one after the other."""

    @property
    def times(self) -> Times | None:
        """Which steps in time it looks at; None: it knows no time."""

    @property
    def numbers(self) -> str:
        """What its pixels were: `DN`, `reflectance`, `s2-l2a-before-0400`."""

    @property
    def nodata(self) -> float | None:
        """What means nodata where the raster does not say."""


def check_unchanged(source: Source) -> None:
    """Raise where files or arrays that a source is made of are others by now.

    For the end of a run: what is read is looked at after each read, but for the later
    ones of very many files, and for arrays.

    Raises:
        SourceChangedError: They are.
    """
    if isinstance(source, Derived):
        check_unchanged(source.source)
    elif isinstance(source, Joined):
        for part in source.parts:
            check_unchanged(part)
    elif isinstance(source, RasterFile):
        source.check_unchanged(later=True)
    elif isinstance(source, ArraySource):
        source.check_unchanged()


def for_model(source: Source, wanted: WantedInput) -> Source:
    """Return the source as a model takes it: its bands, in its numbers.

    What was matched by position, converted, or may be nodata stands in the notes.

    Raises:
        RasterError: A band is missing, or two could be meant.
    """
    told = with_nodata(source, wanted.nodata)
    try:
        chosen = matched_in_time(told, wanted.bands, wanted.times)
    except RasterError as error:
        if (doubt := alpha_doubt(told)) is None:
            raise
        raise RasterError(f"{error}; {doubt}") from error
    return noted(in_numbers(chosen, wanted.numbers), suspected(chosen))


def for_training(sources: Sequence[Source]) -> list[Source]:
    """Return sources that one model learns from, in one kind of numbers.

    What was done for that, and what may be nodata in them, stands in their notes.

    Raises:
        RasterError: One shows more dates than another.
    """
    counts = [len(steps_of(source.bands)) for source in sources]
    if len({*counts}) > 1:
        raise RasterError(
            f"the rasters to learn from show {', '.join(map(str, counts))} steps in "
            "time: choose as many of each, as with --dates and --every"
        )
    ordered, otherwise = in_order(sources)
    changed, told = alike(ordered)
    said = [f"of the rasters to learn from: {t}" for t in (otherwise, told) if t]
    if numbers_of(changed, "file") == "DN":
        changed = [in_numbers(source, "DN") for source in changed]
    return [
        noted(source, *said, suspected(before))  # in its own numbers
        for before, source in zip(ordered, changed, strict=True)
    ]
